//! From the journal into the router, while somebody listens.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rumqttd::Notification;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::link::{LOOK, Link, PATIENCE};
use super::topics::Topics;
use super::{End, Tap};
use crate::hub::events::journal::{Filter, Gap, Journal, Seen};

/// The pump's name at the router; clients have others.
const NAME: &str = "events";
/// Messages that may wait for the router.
const WAITING: usize = 500;
/// Time between attempts to watch the journal.
const RETRY: Duration = Duration::from_secs(1);
/// Messages after which clients get their turn.
const TURN: usize = 32;

/// Publishes what happens. Ends only when the router has.
pub(super) async fn run(tap: &Tap, journal: &Arc<Journal>) -> End {
    let Ok(mut link) = tap.link(NAME).await else {
        return End::RouterGone;
    };
    let mut topics = Topics::default();
    loop {
        match listen(tap, journal, &mut link, &mut topics).await {
            Ok(()) => {
                tap.watching.send_replace(false);
            }
            Err(end) => return end,
        }
    }
}

/// One time from the first subscriber to the last.
async fn listen(tap: &Tap, journal: &Arc<Journal>, link: &mut Link, topics: &mut Topics) -> Result<(), End> {
    let mut audience = tap.audience.subscribe();
    tokio::select! {
        // The sender lives as long as `tap`.
        _ = audience.wait_for(|listeners| *listeners > 0) => {}
        gone = router_gone(link) => return Err(gone),
    }
    let mut watcher = match journal.watch(None, Filter::default()) {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::warn!(%error, "the event tap shows nothing and tries again every second");
            sleep(RETRY).await;
            return Ok(());
        }
    };
    tap.watching.send_replace(true);
    let mut turn = 0;
    let mut empty = pin!(audience.wait_for(|listeners| *listeners == 0));
    loop {
        let seen = tokio::select! {
            seen = watcher.next() => seen,
            _ = &mut empty => return Ok(()),
            gone = router_gone(link) => return Err(gone),
        };
        let (topic, payload) = match seen {
            Some(Seen::Entry(id, entry)) => (
                topics.name(entry.target(), entry.kind.name()),
                entry.json(id).to_string(),
            ),
            Some(Seen::Gap(Gap { missed, last })) => (
                topics.name(None, "gap"),
                json!({ "id": last, "kind": "gap", "missed": missed }).to_string(),
            ),
            None => {
                // The hub stops, and with it soon the tap.
                drop(watcher);
                return Err(router_gone(link).await);
            }
        };
        publish(link, topic, payload).await?;
        turn += 1;
        if turn % TURN == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// Hands a message to the router; waits while too many wait for it already.
async fn publish(link: &mut Link, topic: String, payload: String) -> Result<(), End> {
    // When the router's channel is full the message waits nevertheless, uncalled
    // for. That the router has died is heard on the link.
    let mut is_called = link.tx.try_publish(topic, payload).is_ok();
    let deadline = Instant::now() + PATIENCE;
    while !is_called || link.tx.buffer().len() > WAITING {
        if Instant::now() > deadline {
            return Err(End::RouterStuck);
        }
        tokio::select! {
            () = sleep(LOOK) => {}
            gone = router_gone(link) => return Err(gone),
        }
        is_called = is_called || link.call();
    }
    Ok(())
}

/// Completes when the router has died: nothing is sent to the pump, so the end
/// of its link is all there is to hear.
async fn router_gone(link: &mut Link) -> End {
    loop {
        match link.next().await {
            Ok(Some(Notification::Disconnect(..))) | Err(_) => return End::RouterGone,
            Ok(_) => {}
        }
    }
}
