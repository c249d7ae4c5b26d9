//! Connection state events: a device is there from its first message on a
//! connection, or from when it asks for messages, until the connection ends.
//!
//! A client that only uses its twin or answers methods is never reported (the
//! guide on non-telemetry events). The service looks once a minute; here every
//! change is reported at once.

use std::fmt;
use std::sync::Arc;

use hub_core::events::ConnectionChange;
use hub_core::ids::Target;

use super::EventStream;

/// That a device was reported to be there; dropping it reports that it is gone.
/// It is part of the connection's state in the device's cell, so both reports
/// are made under the device's lock.
pub(crate) struct Presence {
    events: Arc<EventStream>,
    target: Target,
}

impl Presence {
    pub(crate) fn report(events: &Arc<EventStream>, target: &Target) -> Self {
        events.notify_connection(target, ConnectionChange::Connected);
        Self {
            events: events.clone(),
            target: target.clone(),
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.events
            .notify_connection(&self.target, ConnectionChange::Disconnected);
    }
}

impl fmt::Debug for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Presence").field(&self.target).finish()
    }
}
