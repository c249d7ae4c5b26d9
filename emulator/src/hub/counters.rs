//! What the hub counts, for the admin endpoint and for tests.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// A number that only grows until it is reset.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The hub's counters.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        /// The counters at one moment, since the hub started or was reset.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
        #[serde(rename_all = "camelCase")]
        #[non_exhaustive]
        pub struct CounterValues {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            pub(crate) fn values(&self) -> CounterValues {
                CounterValues { $($name: self.$name.get(),)* }
            }

            pub(crate) fn reset(&self) {
                $(self.$name.reset();)*
            }
        }
    };
}

counters! {
    /// Device connections accepted (CONNACK 0).
    connects_accepted,
    /// Device connections refused by a CONNACK other than 0.
    connects_refused,
    /// Connections that replaced a live one of the same identity.
    takeovers,
    /// Device connections that the hub closed for breaking the protocol.
    protocol_violations,
    /// MQTT packets received.
    packets_received,
    /// Device-to-cloud messages accepted.
    telemetry_messages,
    /// Bytes of their bodies.
    telemetry_bytes,
    /// Direct method calls begun, by callers and by jobs.
    methods_invoked,
    /// Answers of devices to direct methods.
    method_responses,
    /// Twin writes of the service side, jobs included.
    twin_writes,
    /// Reported-property updates of devices.
    reported_updates,
    /// Twin reads of devices.
    device_twin_reads,
    /// Cloud-to-device messages put into queues.
    c2d_sent,
    /// Cloud-to-device messages handed to devices; a message that is handed
    /// out again counts again.
    c2d_delivered,
    /// Cloud-to-device messages that devices completed.
    c2d_completed,
    /// Cloud-to-device messages that devices rejected.
    c2d_rejected,
    /// Deliveries that devices abandoned.
    c2d_abandoned,
    /// Cloud-to-device messages that expired.
    c2d_expired,
    /// Events of the hub itself (twins, identities, connections) that a route took.
    events_emitted,
    /// Messages and events that no route took, nor the fallback route.
    events_orphaned,
    /// Events handed to readers of the event streams; directories and webhooks
    /// are readers as well.
    events_read,
    /// HTTP requests received.
    http_requests,
    /// HTTP requests answered with a status of 400 or above.
    http_errors,
}
