//! What happens to a device, for whoever watches: counters of a fleet, the
//! console of a single device, a test.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::behaviour::MethodAnswer;

/// Something that happened on a device's connection.
///
/// Borrows from the packet, so that an event nobody keeps costs nothing.
#[derive(Debug)]
pub enum Event<'a> {
    /// The hub accepted the connection and all subscriptions.
    Connected {
        /// From the CONNECT packet to the last SUBACK.
        took: Duration,
    },
    /// The hub calls a direct method.
    Method {
        /// Its name.
        name: &'a str,
        /// Its payload as received, usually JSON.
        payload: &'a [u8],
        /// What the device is going to answer; `None` when it stays silent.
        answer: Option<&'a MethodAnswer>,
    },
    /// A method's answer was handed to the connection.
    MethodAnswered,
    /// The device read its twin.
    TwinRead {
        /// From the request to the response.
        took: Duration,
        /// The desired properties with `$version`.
        desired: &'a Map<String, Value>,
    },
    /// The hub tells of changed desired properties.
    DesiredChanged {
        /// The desired properties' new version.
        version: u64,
        /// The change as a merge patch, with `$version`.
        patch: &'a Map<String, Value>,
    },
    /// The device sends an update of its reported properties.
    ReportSent {
        /// The merge patch, JSON text.
        patch: &'a [u8],
    },
    /// The hub accepted an update of reported properties.
    ReportAccepted {
        /// From the request to the response.
        took: Duration,
    },
    /// The device sends telemetry.
    TelemetrySent {
        /// The body.
        body: &'a [u8],
    },
    /// The hub has stored a telemetry message.
    TelemetryAcknowledged {
        /// From sending to the PUBACK.
        took: Duration,
    },
    /// A cloud-to-device message arrived.
    Message {
        /// The property bag, encoded.
        bag: &'a str,
        /// The body.
        body: &'a [u8],
    },
    /// Something went wrong that does not end the connection.
    Failure(Failure),
    /// The connection could not be opened, or ended although nobody wished it.
    Disconnected {
        /// Why.
        cause: &'a str,
        /// How long the device waits before it tries again.
        retry_in: Duration,
    },
}

/// A failure that does not end the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The hub answered a twin request with a failure.
    #[error("twin request refused with status {status}")]
    TwinRefused {
        /// The status, like HTTP's.
        status: u16,
    },
    /// The hub did not answer a twin request in time.
    #[error("twin request without response")]
    TwinUnanswered,
    /// The hub did not acknowledge telemetry in time.
    #[error("telemetry without acknowledgement")]
    TelemetryUnacknowledged,
    /// Telemetry or a report was due while too many earlier ones were
    /// unacknowledged.
    #[error("skipped: too many requests without response")]
    Skipped,
    /// The hub published to a topic that is none of its own.
    #[error("unknown topic from the hub")]
    Topic,
    /// The hub sent a twin or a change of it that is not JSON as documented.
    #[error("malformed twin from the hub")]
    Twin,
}
