//! The hub's last word to AMQP peers.
//!
//! A connection that just ends looks to a client like a broken network. When the
//! hub stops, every connection is closed with its reason instead, and the hub
//! waits for its peers' answers, though not for long.

use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::writing::FAREWELL_DEADLINE;

/// What tells the connections of a hub that it stops.
#[derive(Debug, Default)]
pub(crate) struct Farewell {
    stopping: CancellationToken,
    connections: TaskTracker,
}

impl Farewell {
    /// A connection is there for as long as it holds this.
    pub(super) fn enter(&self) -> TaskTrackerToken {
        self.connections.token()
    }

    /// Waits until the hub stops.
    pub(super) fn stopping(&self) -> WaitForCancellationFuture<'_> {
        self.stopping.cancelled()
    }

    /// Has every connection closed, and waits until none is left or
    /// [`FAREWELL_DEADLINE`] has passed.
    pub(crate) async fn say(&self) {
        self.stopping.cancel();
        self.connections.close();
        let _ = timeout(FAREWELL_DEADLINE, self.connections.wait()).await;
    }
}
