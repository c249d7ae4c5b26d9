//! When the running jobs may begin their next operations.
//!
//! The rule is [`Pace`]'s; here it is shared between the jobs, which take their
//! turns in the order in which they ask, and waits on the engine's clock.

use std::num::NonZeroU32;
use std::time::Duration;

use hub_core::job::Pace;
use tokio::sync::Mutex;

use crate::Clock;

/// Operations that a job is given in one turn, so that others have theirs
/// when a jump of the clock leaves much to be done.
const TURN: usize = 256;

/// The pace of all jobs of an engine.
#[derive(Debug)]
pub(super) struct Pacing {
    /// Held by the job whose turn it is, while it waits as well.
    pace: Option<Mutex<Pace>>,
}

impl Pacing {
    /// `rate` operations a second, or as many as there are.
    pub(super) fn new(rate: Option<NonZeroU32>) -> Self {
        Self {
            pace: rate.map(|rate| Mutex::new(Pace::new(rate))),
        }
    }

    /// Waits until at least one of `wanted` operations may begin, which have
    /// been waiting since `since`; gives how many. None may begin after `end`:
    /// then this waits for ever. Both are in the clock's
    /// [elapsed](Clock::elapsed) time. Dropping the future loses nothing.
    pub(super) async fn take(&self, clock: &Clock, wanted: usize, since: Duration, end: Duration) -> usize {
        let Some(pace) = &self.pace else {
            if clock.elapsed() < end {
                return wanted;
            }
            return std::future::pending().await;
        };
        let mut pace = pace.lock().await;
        loop {
            let given = pace.take(wanted.min(TURN), since, clock.elapsed(), end);
            if given > 0 {
                return given;
            }
            if pace.next() > end {
                // Others have their turn meanwhile.
                drop(pace);
                return std::future::pending().await;
            }
            clock.elapses(pace.next()).await;
        }
    }
}
