//! The event tap: what happens in the hub, for any MQTT client, on a port of its
//! own on the loopback address.
//!
//! Whoever subscribes to `hub/#` sees each entry of the journal
//! ([`hub::events::journal`](crate::hub::events::journal)) under
//! `hub/{device}/{kind}` ([`topics`]) as one JSON object, the same that
//! `/_emulator/events` shows. The tap is for reading: there are no credentials,
//! and a client that publishes is disconnected.
//!
//! ```text
//! journal ──► pump ──► rumqttd's router ──► client.rs (one per connection)
//! hub/events  watches only while somebody    filters, a place per reader
//!             has subscribed
//! ```
//!
//! It stands beside the way of devices and must not reach it. It has a thread and
//! a runtime of its own, its source is lossy, and nobody waits for it. What a
//! reader is too slow for is lost: the journal keeps so much, the router
//! [`SEGMENT_BYTES`] times [`SEGMENTS`] for each filter. Ids in the objects grow
//! by one, so a reader can tell.
//!
//! The broker is not trusted (all measured with rumqttd 0.20): a topic that begins
//! with a character beyond ASCII ends its router, topics, filters and client ids
//! take memory that is never given back, and a router cannot be stopped. So
//! clients talk to [`client`], which lets nothing but subscriptions through, a
//! bounded number of filters ([`limits::EVENT_TAP_FILTERS`]), under client ids of
//! our own; topics are ASCII and their number is bounded
//! ([`limits::EVENT_TAP_DEVICES`]). A router that has died all the same is
//! replaced, behind the same listener; one that is stuck too, a few times
//! ([`MOST_LEFT_BEHIND`]). When the hub stops, its thread sleeps until
//! the process ends.

mod client;
mod link;
mod pump;
mod topics;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, thread};

use hub_core::limits;
use rumqttd::local::LinkError;
use rumqttd::{Broker, Config, RouterConfig};
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::link::{Link, PATIENCE};
use crate::hub::events::journal::Journal;

/// What the router keeps for each filter, for readers that fall behind.
const SEGMENT_BYTES: usize = 256 * 1024;
const SEGMENTS: usize = 4;
/// Messages that the router hands to a client at once; it holds 200 at most.
const OUTGOING_PACKETS: u64 = 100;

/// Connections at once, those before their CONNECT included.
const MOST_CONNECTIONS: usize = 2 * limits::EVENT_TAP_CLIENTS;

/// Pauses before a router that has died is replaced: the first, doubled up to
/// the last; the first again for one that has lived for `STEADY`.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(10);
const STEADY: Duration = Duration::from_secs(60);

/// Routers that leave threads behind, because they are stuck or have died while
/// one waited for them, before the tap gives up.
const MOST_LEFT_BEHIND: usize = 5;

/// How long a hub that stops waits for the tap's thread.
const FAREWELL: Duration = Duration::from_secs(1);

/// A running tap.
#[derive(Debug)]
pub(crate) struct EventTap {
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    /// Its sender goes with the thread.
    ended: oneshot::Receiver<()>,
}

impl EventTap {
    /// Serves clients on `listener` until `stop`, on a thread of its own.
    ///
    /// # Errors
    /// Those of the operating system. Nothing is left running then.
    pub(crate) fn start(
        listener: TcpListener,
        journal: Arc<Journal>,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        Self::start_with(listener, journal, stop, |_| {})
    }

    /// The same, and tells of each router that begins.
    fn start_with(
        listener: TcpListener,
        journal: Arc<Journal>,
        stop: CancellationToken,
        begins: impl FnMut(&Arc<Tap>) + Send + 'static,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        // It leaves the runtime of the hub for the tap's.
        let listener = listener.into_std()?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (ending, ended) = oneshot::channel();
        thread::Builder::new().name("event-tap".into()).spawn(move || {
            runtime.block_on(supervise(listener, journal, stop, begins));
            drop(runtime);
            drop(ending);
        })?;
        Ok(Self { address, ended })
    }

    /// Waits until the tap is gone, but not for long.
    pub(crate) async fn ended(self) {
        let _ = timeout(FAREWELL, self.ended).await;
    }
}

/// How serving came to an end.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the hub stops")]
    Stopped,
    #[error("its router has ended")]
    RouterGone,
    #[error("its router does not take what it is given")]
    RouterStuck,
}

/// All that an error of a link means; the library's own is large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the router is gone")]
struct RouterGone;

impl From<LinkError> for RouterGone {
    fn from(_: LinkError) -> Self {
        Self
    }
}

/// Serves, and begins anew when that fails.
async fn supervise(
    listener: StdListener,
    journal: Arc<Journal>,
    stop: CancellationToken,
    mut begins: impl FnMut(&Arc<Tap>),
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => Arc::new(listener),
        Err(error) => return tracing::warn!(%error, "the event tap cannot listen"),
    };
    let mut pause = FIRST_PAUSE;
    let mut left_behind = 0;
    loop {
        let started = Instant::now();
        let tap = Arc::new(Tap::new());
        begins(&tap);
        // A task, so that a panic ends it and nothing else.
        let linking = tap.linking.clone();
        let served = tokio::spawn(serve(tap, listener.clone(), journal.clone(), stop.clone()));
        let (why, is_stuck) = match served.await {
            Ok(End::Stopped) => return,
            Ok(end) => (end.to_string(), matches!(end, End::RouterStuck)),
            Err(error) => (error.to_string(), false),
        };
        if is_stuck || linking.try_lock().is_err() {
            left_behind += 1;
        }
        if left_behind >= MOST_LEFT_BEHIND {
            return tracing::error!("the event tap has failed too often and gives up: {why}");
        }
        if started.elapsed() > STEADY {
            pause = FIRST_PAUSE;
        }
        tracing::warn!(
            "the event tap has failed and begins anew in {} ms: {why}",
            pause.as_millis()
        );
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
        pause = LAST_PAUSE.min(2 * pause);
    }
}

async fn serve(
    tap: Arc<Tap>,
    listener: Arc<TcpListener>,
    journal: Arc<Journal>,
    stop: CancellationToken,
) -> End {
    let mut pump = std::pin::pin!(pump::run(&tap, &journal));
    // They end with it.
    let mut clients = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return End::Stopped,
            end = &mut pump => return end,
            () = tap.stuck.cancelled() => return End::RouterStuck,
            Some(_) = clients.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            // Others are about to be refused, or have not said what they want.
            Ok(_) if clients.len() >= MOST_CONNECTIONS => {}
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                clients.spawn(client::serve(stream, tap.clone()));
            }
            Err(error) => {
                tracing::debug!(%error, "the event tap could not accept a connection");
                // Too many open files, most likely: not to be asked at once again.
                sleep(FIRST_PAUSE).await;
            }
        }
    }
}

/// One router and what is shared around it.
struct Tap {
    broker: Arc<Broker>,
    /// Locked while a thread waits for the router's answer to a link.
    linking: Arc<tokio::sync::Mutex<()>>,
    /// Cancelled when that took too long.
    stuck: CancellationToken,
    /// Clients that have subscribed to something.
    audience: watch::Sender<usize>,
    /// Whether the journal is watched.
    watching: watch::Sender<bool>,
    /// Filters that the router has ever been given; it keeps a log for each.
    filters: Mutex<HashSet<Box<str>>>,
    /// Places of clients that are not taken.
    places: Mutex<Vec<usize>>,
}

impl Tap {
    fn new() -> Self {
        let router = RouterConfig {
            // One for the pump.
            max_connections: limits::EVENT_TAP_CLIENTS + 1,
            max_outgoing_packet_count: OUTGOING_PACKETS,
            max_segment_size: SEGMENT_BYTES,
            max_segment_count: SEGMENTS,
            ..RouterConfig::default()
        };
        let config = Config {
            router,
            ..Config::default()
        };
        Self {
            broker: Arc::new(Broker::new(config)),
            linking: Arc::default(),
            stuck: CancellationToken::new(),
            audience: watch::Sender::new(0),
            watching: watch::Sender::new(false),
            filters: Mutex::default(),
            places: Mutex::new((0..limits::EVENT_TAP_CLIENTS).rev().collect()),
        }
    }

    /// A connection to the router. Its answer takes microseconds, but the library
    /// waits without an end and blocks, for ever if the router dies meanwhile.
    /// Hence a thread, one at a time: a router can keep one at most.
    async fn link(&self, name: &str) -> Result<Link, RouterGone> {
        let (broker, name) = (self.broker.clone(), name.to_owned());
        let linked = async {
            let turn = self.linking.clone().lock_owned().await;
            let (done, linked) = oneshot::channel();
            let thread = thread::Builder::new().name("event-tap-link".into());
            let spawned = thread.spawn(move || {
                let link = broker.link(&name);
                drop(turn);
                let _ = done.send(link);
            });
            spawned.map_err(|_| RouterGone)?;
            let (tx, rx) = linked.await.map_err(|_| RouterGone)??;
            Ok(Link::new(tx, rx))
        };
        timeout(PATIENCE, linked).await.unwrap_or_else(|_| {
            self.stuck.cancel();
            Err(RouterGone)
        })
    }

    /// Whether the router may be given this filter.
    fn admits(&self, filter: &str) -> bool {
        let mut filters = lock(&self.filters);
        filters.contains(filter) || filters.len() < limits::EVENT_TAP_FILTERS && filters.insert(filter.into())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
