//! A device's lock, and what happens when a change under it is over.
//!
//! Every change of a device's state goes through a [`DeviceGuard`], so that this
//! is the one place that keeps what queries rely on in step with it, whatever
//! the change was.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cell::DeviceState;
use super::index::Indexes;
use super::lag::Lag;

/// What queries see beside the devices themselves.
#[derive(Default)]
pub(crate) struct Views {
    pub(crate) indexes: Arc<Indexes>,
    /// The past of the devices, when queries lag behind.
    pub(crate) lag: Option<Lag>,
}

/// A device behind its lock.
pub(crate) struct DeviceCell {
    state: Mutex<DeviceState>,
    views: Arc<Views>,
}

impl DeviceCell {
    pub(crate) fn new(state: DeviceState, views: Arc<Views>) -> Self {
        Self {
            state: Mutex::new(state),
            views,
        }
    }

    /// Locks the device. The guard must not live across an await.
    pub(crate) fn lock(&self) -> DeviceGuard<'_> {
        DeviceGuard {
            // State changes are atomic in hub-core, so a panic elsewhere while the
            // lock was held has not left the device half changed.
            state: self.state.lock().unwrap_or_else(PoisonError::into_inner),
            views: &self.views,
            changed: false,
        }
    }

    /// Enters the device into the indexes as it is.
    pub(super) fn file(&self) {
        self.lock().changed = true;
    }
}

/// A locked device.
pub(crate) struct DeviceGuard<'a> {
    state: MutexGuard<'a, DeviceState>,
    views: &'a Views,
    /// Whether somebody could have changed the state.
    changed: bool,
}

impl DeviceGuard<'_> {
    /// The state, for changes of what no index can be over: calls, counts, when
    /// the device was last seen, whom its telemetry is from. A packet of a device
    /// changes nothing else mostly, and is spared being filed anew for it.
    pub(crate) fn unindexed(&mut self) -> &mut DeviceState {
        match &self.views.lag {
            None => &mut self.state,
            // Queries that lag behind see some of it.
            Some(_) => self,
        }
    }
}

impl Deref for DeviceGuard<'_> {
    type Target = DeviceState;

    fn deref(&self) -> &DeviceState {
        &self.state
    }
}

impl DerefMut for DeviceGuard<'_> {
    fn deref_mut(&mut self) -> &mut DeviceState {
        if !self.changed {
            self.changed = true;
            if let Some(lag) = &self.views.lag {
                lag.keep(&mut self.state);
            }
        }
        &mut self.state
    }
}

/// Files the changed device before its lock is released.
impl Drop for DeviceGuard<'_> {
    fn drop(&mut self) {
        if self.changed && self.views.indexes.exist() {
            self.views.indexes.file(&mut self.state);
        }
    }
}
