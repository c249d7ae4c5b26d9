//! When the running jobs may begin their next operations.
//!
//! The rule is [`Pace`]'s; here it is shared between the jobs, which take their
//! turns in the order in which they ask, and waits on the engine's clock.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hub_core::job::Pace;

use crate::Clock;

/// Operations that a job is given in one turn, so that others have theirs when
/// there is much to be done: jobs, and the devices that are to answer.
const TURN: usize = 256;

/// The pace of all jobs of an engine.
#[derive(Debug)]
pub(super) struct Pacing {
    /// Held by the job whose turn it is, while it waits as well.
    pace: Option<tokio::sync::Mutex<Pace>>,
    /// Since when each job waits that does; none without a pace.
    waiting: Mutex<BTreeSet<Place>>,
}

/// A job that waits, by the time since when and its number.
type Place = (Duration, u64);

/// A job's place among those that wait: slots that pass while it has one are
/// kept for all of them. Dropping it gives the place up.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    pacing: &'a Pacing,
    place: Place,
}

/// Operations that ask for slots.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asking {
    place: Place,
    /// How many there are.
    pub(super) wanted: usize,
    /// When the job's window ends.
    pub(super) end: Duration,
    /// Whether an operation that begins after the end is worth nothing, because
    /// its outcome would come too late.
    pub(super) in_time: bool,
}

impl Waiting<'_> {
    /// `wanted` operations of a job whose window ends at `end`.
    pub(super) fn asking(&self, wanted: usize, end: Duration, in_time: bool) -> Asking {
        Asking {
            place: self.place,
            wanted,
            end,
            in_time,
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pacing.leave(self.place);
    }
}

impl Pacing {
    /// `rate` operations a second, or as many as there are.
    pub(super) fn new(rate: Option<NonZeroU32>) -> Self {
        Self {
            pace: rate.map(|rate| tokio::sync::Mutex::new(Pace::new(rate))),
            waiting: Mutex::default(),
        }
    }

    /// Takes a place for the job of that number, which waits from now on.
    pub(super) fn wait(&self, clock: &Clock, job: u64) -> Waiting<'_> {
        let place = (clock.elapsed(), job);
        if self.pace.is_some() {
            self.waiting().insert(place);
        }
        Waiting { pacing: self, place }
    }

    /// Waits until at least one of the operations may begin; gives how many. A
    /// slot after the end of the window is none: then this waits for ever. Times
    /// are [elapsed](Clock::elapsed) ones. Dropping the future loses nothing.
    pub(super) async fn take(&self, clock: &Clock, asking: Asking) -> usize {
        let Asking {
            place, wanted, end, ..
        } = asking;
        let Some(pace) = &self.pace else {
            if clock.elapsed() < end {
                return wanted.min(TURN);
            }
            return std::future::pending().await;
        };
        let mut schedule = pace.lock().await;
        loop {
            let now = clock.elapsed();
            let is_late = asking.in_time && now >= end;
            if !is_late {
                let since = self.waiting().first().map_or(place.0, |(since, _)| *since);
                if since < place.0 && schedule.next() < place.0 {
                    // That slot came before this job: it is for those that have
                    // waited for it.
                    drop(schedule);
                    tokio::task::yield_now().await;
                    schedule = pace.lock().await;
                    continue;
                }
                let given = schedule.take(wanted.min(TURN), since.min(place.0), now, end);
                if given > 0 {
                    return given;
                }
            }
            if is_late || schedule.next() > end {
                // Others have their turn meanwhile.
                drop(schedule);
                self.leave(place);
                return std::future::pending().await;
            }
            clock.elapses(schedule.next()).await;
        }
    }

    fn leave(&self, place: Place) {
        self.waiting().remove(&place);
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeSet<Place>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
