//! What queries see when they lag behind, as they do in the cloud: every device
//! as it was some time ago.
//!
//! A device keeps the states that it has left behind, each until nobody can see
//! it any more, and a deleted device stays among the ghosts for as long. States
//! that follow each other within a sixteenth of the lag become one, so a device
//! keeps at most seventeen, and queries lag by between fifteen sixteenths of the
//! time and all of it. Without a lag nothing is kept.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hub_core::ids::DeviceId;
use hub_core::time::Timestamp;
use job_service::Clock;

use super::cell::DeviceState;

/// Deleted devices that are still seen.
const MOST_GHOSTS: usize = 10_000;

/// States of one device are kept this often within the lag.
const STEPS: u32 = 16;

/// By how much queries lag behind, and the deleted devices that they still see.
pub(crate) struct Lag {
    time: Duration,
    clock: Clock,
    ghosts: Mutex<BTreeMap<DeviceId, Past>>,
}

/// The states that a device has left behind, oldest first.
#[derive(Default, Clone)]
pub(crate) struct Past(Vec<Former>);

#[derive(Clone)]
struct Former {
    /// When the device left this state.
    until: Timestamp,
    /// `None` before the device was there.
    state: Option<Arc<DeviceState>>,
}

impl Lag {
    pub(crate) fn new(time: Duration, clock: Clock) -> Self {
        Self {
            time,
            clock,
            ghosts: Mutex::default(),
        }
    }

    /// Keeps the state of a device that is about to change.
    pub(super) fn keep(&self, state: &mut DeviceState) {
        let now = self.clock.now();
        let is_recent = |former: &Former| former.until.saturating_add(self.time / STEPS) > now;
        if state.deleted || state.past.0.last().is_some_and(is_recent) {
            return;
        }
        let seen = now_before(now, self.time);
        state.past.0.retain(|former| former.until > seen);
        let former = Some(Arc::new(state.snapshot()));
        state.past.0.push(Former {
            until: now,
            state: former,
        });
    }

    /// Notes that a device has not been there until this moment.
    pub(super) fn create(&self, state: &mut DeviceState) {
        state.past = Past(vec![Former {
            until: self.clock.now(),
            state: None,
        }]);
    }

    /// Keeps a device that is about to be deleted among the ghosts. The oldest
    /// ghost of an id stays until it has faded; when there are too many ghosts
    /// the device is gone at once.
    pub(super) fn bury(&self, state: &DeviceState) {
        let now = self.clock.now();
        let seen = now_before(now, self.time);
        let mut ghosts = self.ghosts();
        ghosts.retain(|_, past| past.0.last().is_some_and(|former| former.until > seen));
        if ghosts.len() >= MOST_GHOSTS {
            return;
        }
        ghosts.entry(state.identity.id.clone()).or_insert_with(|| {
            let mut past = state.past.clone();
            past.0.push(Former {
                until: now,
                state: Some(Arc::new(state.snapshot())),
            });
            past
        });
    }

    /// The state of a device that is seen: a former one, or `None` for its
    /// present one. An empty state is that of a device that is not seen.
    pub(super) fn seen(&self, state: &DeviceState) -> Option<Option<Arc<DeviceState>>> {
        state.past.at(now_before(self.clock.now(), self.time))
    }

    /// What is seen of a device that has been deleted, even if there is another
    /// one with its id by now.
    pub(super) fn ghost(&self, id: &DeviceId) -> Option<Option<Arc<DeviceState>>> {
        let seen = now_before(self.clock.now(), self.time);
        self.ghosts().get(id)?.at(seen)
    }

    /// Ids of deleted devices, starting at `from`.
    pub(super) fn ghosts_from(&self, from: Bound<&DeviceId>, count: usize) -> Vec<DeviceId> {
        let ghosts = self.ghosts();
        let ids = ghosts.range::<DeviceId, _>((from, Bound::Unbounded));
        ids.take(count).map(|(id, _)| id.clone()).collect()
    }

    /// Forgets all ghosts.
    pub(crate) fn clear(&self) {
        self.ghosts().clear();
    }

    fn ghosts(&self) -> MutexGuard<'_, BTreeMap<DeviceId, Past>> {
        self.ghosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Past {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The state in force at a time; `None` when it is the present one.
    fn at(&self, time: Timestamp) -> Option<Option<Arc<DeviceState>>> {
        let former = self.0.iter().find(|former| former.until > time)?;
        Some(former.state.clone())
    }
}

fn now_before(now: Timestamp, time: Duration) -> Timestamp {
    let ticks = i64::try_from(time.as_nanos() / 100).unwrap_or(i64::MAX);
    Timestamp::from_unix_ticks(now.unix_ticks().saturating_sub(ticks))
}
