//! A connection to the router, for a client.
//!
//! What is for the router is put into a buffer, and an event in its channel calls
//! for all that is in the buffer. A wake is an event of its own, and a wake that
//! finds its connection disconnected ends the router. So a link has at most one
//! call under way, and none when it wakes: then nothing that comes later, a
//! disconnection above all, is taken before the wake. Nothing here blocks.

use std::time::Duration;

use rumqttd::Notification;
use rumqttd::local::{LinkRx, LinkTx};
use rumqttd::protocol::{Disconnect, DisconnectReasonCode, Packet};
use tokio::time::{Instant, sleep};

use super::RouterGone;

/// How long the router may take for anything.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Time between two looks at what waits for it.
pub(super) const LOOK: Duration = Duration::from_millis(1);

/// A connection to the router, which forgets it when this is dropped.
pub(super) struct Link {
    pub(super) tx: LinkTx,
    pub(super) rx: LinkRx,
    /// Whether something waits that the router has not been called for, because
    /// its channel was full.
    is_uncalled: bool,
}

impl Link {
    pub(super) fn new(tx: LinkTx, rx: LinkRx) -> Self {
        let is_uncalled = false;
        Self { tx, rx, is_uncalled }
    }

    /// Subscribes to a filter that is valid.
    ///
    /// # Errors
    /// When the router is dead or stuck; so with the others.
    pub(super) async fn subscribe(&mut self, filter: &str) -> Result<(), RouterGone> {
        self.taken().await?;
        self.is_uncalled = self.tx.try_subscribe(filter).is_err();
        Ok(())
    }

    pub(super) async fn unsubscribe(&mut self, filter: &str) -> Result<(), RouterGone> {
        self.taken().await?;
        self.is_uncalled = self.tx.try_unsubscribe(filter).is_err();
        Ok(())
    }

    /// Lets the router go on that has stopped because too much was waiting here.
    pub(super) async fn wake(&mut self) -> Result<(), RouterGone> {
        self.taken().await?;
        Ok(self.rx.wake().await?)
    }

    /// What comes from the router. Nothing is lost when the caller stops waiting.
    pub(super) async fn next(&mut self) -> Result<Option<Notification>, RouterGone> {
        Ok(self.rx.next().await?)
    }

    /// Waits until the router has taken everything, so that no call is under way.
    pub(super) async fn taken(&mut self) -> Result<(), RouterGone> {
        let deadline = Instant::now() + PATIENCE;
        while !self.tx.buffer().is_empty() {
            if Instant::now() > deadline {
                return Err(RouterGone);
            }
            if self.is_uncalled {
                self.is_uncalled = !self.call();
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// Calls for what waits, with an unsubscription of nothing; whether there was
    /// room for it in the router's channel.
    pub(super) fn call(&mut self) -> bool {
        self.tx.try_unsubscribe("-").is_ok()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let reason_code = DisconnectReasonCode::NormalDisconnection;
        let is_called = {
            let mut buffer = self.tx.buffer();
            buffer.push_back(Packet::Disconnect(Disconnect { reason_code }, None));
            buffer.len() > 1 && !self.is_uncalled
        };
        if !is_called {
            // Without room it is disconnected when its name is used again.
            self.call();
        }
    }
}
