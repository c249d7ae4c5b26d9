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
use hub_core::twin::Twin;

use super::Events;

/// That a device was reported to be there, until [`Presence::end`] reports that
/// it is gone. It is part of the connection's state in the device's cell, so both
/// reports are made under the device's lock; the twin is the device's.
pub(crate) struct Presence {
    events: Arc<Events>,
    target: Target,
}

impl Presence {
    pub(crate) fn report(events: &Arc<Events>, target: &Target, twin: &Twin) -> Self {
        events.notify_connection(target, twin, ConnectionChange::Connected);
        Self {
            events: events.clone(),
            target: target.clone(),
        }
    }

    pub(crate) fn end(self, twin: &Twin) {
        self.events
            .notify_connection(&self.target, twin, ConnectionChange::Disconnected);
    }
}

impl fmt::Debug for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Presence").field(&self.target).finish()
    }
}
