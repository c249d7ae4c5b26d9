//! The telemetry that devices have sent: counted, and the latest kept in a
//! bounded log for tests and tools to look at.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use hub_core::error::ServiceError;
use hub_core::ids::Target;
use hub_core::property_bag::MessageProperties;
use hub_core::time::Timestamp;

use super::HubState;
use super::tier::metered_parts;

/// One device-to-cloud message.
#[derive(Debug, Clone)]
pub struct TelemetryMessage {
    /// Position in everything that the hub has received since it started or
    /// was reset, from 1.
    pub sequence: u64,
    /// The device or module that sent it.
    pub source: Target,
    /// When the hub accepted it.
    pub enqueued: Timestamp,
    /// System and application properties.
    pub properties: MessageProperties,
    /// The message's body.
    pub body: Bytes,
}

/// The log. Oldest messages go first when a bound is reached.
pub(crate) struct TelemetryLog {
    bounds: LogBounds,
    kept: Mutex<Kept>,
}

/// How much telemetry is kept.
#[derive(Debug, Clone, Copy)]
pub struct LogBounds {
    /// Number of messages.
    pub messages: usize,
    /// Bytes of bodies and properties over all messages.
    pub bytes: usize,
}

impl Default for LogBounds {
    fn default() -> Self {
        Self {
            messages: 10_000,
            bytes: 16 * 1024 * 1024,
        }
    }
}

#[derive(Default)]
struct Kept {
    messages: VecDeque<TelemetryMessage>,
    bytes: usize,
    total: u64,
}

impl TelemetryLog {
    pub(crate) fn new(bounds: LogBounds) -> Self {
        Self {
            bounds,
            kept: Mutex::default(),
        }
    }

    pub(crate) fn push(
        &self,
        source: Target,
        enqueued: Timestamp,
        properties: MessageProperties,
        body: Bytes,
    ) {
        let mut kept = self.lock();
        kept.total += 1;
        let message = TelemetryMessage {
            sequence: kept.total,
            source,
            enqueued,
            properties,
            body,
        };
        kept.bytes += size(&message);
        kept.messages.push_back(message);
        while kept.messages.len() > self.bounds.messages || kept.bytes > self.bounds.bytes {
            let Some(oldest) = kept.messages.pop_front() else {
                break;
            };
            kept.bytes -= size(&oldest);
        }
    }

    /// Messages accepted so far, kept or not.
    pub(crate) fn total(&self) -> u64 {
        self.lock().total
    }

    /// The kept messages after position `sequence`, oldest first.
    pub(crate) fn after(&self, sequence: u64) -> Vec<TelemetryMessage> {
        self.lock()
            .messages
            .iter()
            .filter(|m| m.sequence > sequence)
            .cloned()
            .collect()
    }

    pub(crate) fn clear(&self) {
        *self.lock() = Kept::default();
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HubState {
    /// Accepts messages of a device or module that is not connected for them:
    /// over HTTP, each request stands for itself. Its connection state stays
    /// as it is.
    ///
    /// # Errors
    /// `DeviceNotFound`, `ModuleNotFound`, `IotHubQuotaExceeded`; nothing is
    /// kept then.
    pub(crate) fn accept_telemetry(
        &self,
        source: &Target,
        messages: Vec<(MessageProperties, Bytes)>,
    ) -> Result<(), ServiceError> {
        let now = self.clock.now();
        {
            let cell = self.registry.cell(&source.device)?;
            let mut state = cell.lock();
            let endpoint = state.endpoint(source.module.as_ref())?;
            self.take_quota(now, metered_parts(&messages))?;
            endpoint.connection.last_activity = now;
        }
        for (properties, body) in messages {
            self.keep_telemetry(source, now, properties, body);
        }
        Ok(())
    }

    /// Counts and keeps a message that was accepted.
    pub(super) fn keep_telemetry(
        &self,
        source: &Target,
        now: Timestamp,
        properties: MessageProperties,
        body: Bytes,
    ) {
        self.counters.telemetry_messages.add(1);
        self.counters.telemetry_bytes.add(body.len() as u64);
        self.telemetry.push(source.clone(), now, properties, body);
    }
}

/// Bytes as the service counts them.
fn size(message: &TelemetryMessage) -> usize {
    message.body.len() + message.properties.size()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hub_core::ids::DeviceId;

    fn push(log: &TelemetryLog, body: &'static [u8]) {
        let source = Target::device(DeviceId::parse("d").unwrap());
        log.push(
            source,
            Timestamp::NEVER,
            MessageProperties::default(),
            Bytes::from_static(body),
        );
    }

    #[test]
    fn the_oldest_messages_go_first_at_either_bound() {
        let log = TelemetryLog::new(LogBounds {
            messages: 2,
            bytes: 10,
        });
        for body in [b"1", b"2", b"3"] {
            push(&log, body);
        }
        let sequences = |log: &TelemetryLog| log.after(0).iter().map(|m| m.sequence).collect::<Vec<_>>();
        assert_eq!(sequences(&log), [2, 3]);
        push(&log, b"0123456789");
        assert_eq!(sequences(&log), [4]);
        push(&log, b"0123456789x");
        assert!(sequences(&log).is_empty());
        assert_eq!(log.total(), 5);
        push(&log, b"x");
        assert_eq!(sequences(&log), [6]);
    }
}
