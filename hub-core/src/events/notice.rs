//! Events of the hub itself: twins that change, identities that come and go,
//! devices that connect and disconnect.
//!
//! Source: the guide on non-telemetry event schemas. Whether an event is wanted
//! at all is for the caller to know; nothing is made before.

use serde_json::Value;

use super::Source;
use crate::ids::Target;
use crate::job::{RecordState, RecordView};
use crate::property_bag::{MessageProperties, SystemProperty};
use crate::time::Timestamp;
use crate::twin::{Twin, TwinChange, event_document, json_bytes};

/// What all events of the hub have in common.
#[derive(Debug, Clone, Copy)]
pub struct Notice<'a> {
    /// The hub's name, the first label of its host name.
    pub hub_name: &'a str,
    /// Whom it is about.
    pub target: &'a Target,
    /// When it happened.
    pub at: Timestamp,
    /// An id of the event's own.
    pub correlation_id: &'a str,
}

/// An event of the hub, to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// What it is about.
    pub source: Source,
    /// Its properties.
    pub properties: MessageProperties,
    /// Its body, JSON.
    pub body: Vec<u8>,
}

/// What became of an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifecycle {
    /// It was created.
    Created,
    /// It was deleted.
    Deleted,
}

/// What became of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionChange {
    /// The device is there.
    Connected,
    /// The device is gone.
    Disconnected,
}

/// Numbers of connection state events: 64 hexadecimal digits that grow as text,
/// from one hub to the next too, as far as clocks do.
#[derive(Debug, Default)]
pub struct ConnectionSequence {
    ticks: u64,
    count: u64,
}

impl ConnectionSequence {
    /// The next number.
    pub fn next(&mut self, now: Timestamp) -> String {
        self.ticks = self.ticks.max(now.ticks_since_year_one());
        self.count += 1;
        format!("{:016X}{:016X}{:016X}{:016X}", 0, self.ticks, 0, self.count)
    }
}

impl Notice<'_> {
    /// An identity was created or deleted; `twin` as it is at its beginning or end.
    #[must_use]
    pub fn lifecycle(&self, change: Lifecycle, twin: &Twin) -> Notification {
        let operation = match change {
            Lifecycle::Created => "createDeviceIdentity",
            Lifecycle::Deleted => "deleteDeviceIdentity",
        };
        self.notification(
            Source::DeviceLifecycle,
            "deviceLifecycleNotification",
            operation,
            event_document(self.target, twin),
        )
    }

    /// A device came or went.
    #[must_use]
    pub fn connection(&self, change: ConnectionChange, sequence: &str) -> Notification {
        let operation = match change {
            ConnectionChange::Connected => "deviceConnected",
            ConnectionChange::Disconnected => "deviceDisconnected",
        };
        self.notification(
            Source::DeviceConnectionState,
            "deviceConnectionStateNotification",
            operation,
            // Digits need no escapes.
            format!(r#"{{"sequenceNumber":"{sequence}"}}"#).into_bytes(),
        )
    }

    /// A write was merged into the twin.
    #[must_use]
    pub fn twin_updated(&self, change: TwinChange, twin: &Twin) -> Notification {
        let body = change.body(twin, self.at);
        self.twin_change("updateTwin", body)
    }

    /// Tags and desired properties were replaced.
    #[must_use]
    pub fn twin_replaced(&self, twin: &Twin) -> Notification {
        self.twin_change("replaceTwin", event_document(self.target, twin))
    }

    fn twin_change(&self, operation: &str, body: Vec<u8>) -> Notification {
        self.notification(Source::TwinChange, "twinChangeNotification", operation, body)
    }

    /// A digital twin changed; `operations` are the JSON patch that says how. The
    /// guide names such events without their form, which is the emulator's own.
    #[must_use]
    pub fn digital_twin(&self, operations: &[Value]) -> Notification {
        self.notification(
            Source::DigitalTwinChange,
            "digitalTwinChangeNotification",
            "updateDigitalTwin",
            json_bytes(&operations),
        )
    }

    /// A job's operation on the device has begun or ended. The guide lists such
    /// events without saying what they are made of: here the body is the
    /// device's row of `devices.jobs` and the operation its new status.
    #[must_use]
    pub fn device_job(&self, record: &RecordView<'_>) -> Notification {
        let operation = match record.record.state {
            RecordState::Pending => "deviceJobPending",
            RecordState::Running => "deviceJobStarted",
            RecordState::Completed(_) => "deviceJobCompleted",
            RecordState::Failed(_) => "deviceJobFailed",
            RecordState::Canceled => "deviceJobCanceled",
        };
        let mut notification = self.notification(
            Source::DeviceJobLifecycle,
            "deviceJobLifecycleNotification",
            operation,
            json_bytes(record),
        );
        let job = ("jobId".to_owned(), record.request.id.as_str().to_owned());
        notification.properties.application.extend([job]);
        notification
    }

    fn notification(&self, source: Source, schema: &str, operation: &str, body: Vec<u8>) -> Notification {
        let system = [
            (SystemProperty::CorrelationId, self.correlation_id),
            (SystemProperty::UserId, self.hub_name),
            (SystemProperty::ContentType, "application/json"),
            (SystemProperty::ContentEncoding, "utf-8"),
        ];
        let at = self.at.to_string();
        let module = self.target.module.as_ref();
        let application = [
            ("hubName", Some(self.hub_name)),
            ("deviceId", Some(self.target.device.as_str())),
            ("moduleId", module.map(|module| module.as_str())),
            ("opType", Some(operation)),
            ("operationTimestamp", Some(at.as_str())),
            ("iothub-message-schema", Some(schema)),
        ];
        Notification {
            source,
            properties: MessageProperties {
                system: system.map(|(name, value)| (name, value.to_owned())).into(),
                application: application
                    .into_iter()
                    .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
                    .collect(),
            },
            body,
        }
    }
}

#[cfg(test)]
mod tests;
