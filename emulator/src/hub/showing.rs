//! What those who watch the journal see beyond events: method calls, the way of
//! messages to devices, and every connection. Nothing is made unless somebody
//! watches; what is shown is counted in any case.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use hub_core::c2d::{Message, Outcome};
use hub_core::error::ServiceError;
use hub_core::events::{ConnectionChange, Origin};
use hub_core::ids::{DeviceId, Target};
use hub_core::method::{MethodCall, MethodResponse};
use hub_core::property_bag::Bag;
use hub_core::time::Timestamp;
use serde_json::{Map, Value, json};

use super::HubState;
use super::cell::DeviceState;
use super::events::journal::{Happening, Kind};

/// Devices and their counts by the names of kinds.
pub(crate) type Tallies = Vec<(DeviceId, Map<String, Value>)>;

/// What became of a message to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MessageStep {
    Queued,
    Delivered,
    Abandoned,
    Ended(Outcome),
}

impl MessageStep {
    fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Delivered => "delivered",
            Self::Abandoned => "abandoned",
            Self::Ended(Outcome::Success) => "completed",
            Self::Ended(Outcome::Rejected) => "rejected",
            Self::Ended(Outcome::Expired) => "expired",
            Self::Ended(Outcome::DeliveryCountExceeded) => "deliveryCountExceeded",
            Self::Ended(Outcome::Purged) => "purged",
        }
    }
}

/// How a method call came to an end.
#[derive(Debug, Clone, Copy)]
pub(super) enum MethodEnd<'a> {
    Answered(&'a MethodResponse),
    Failed(&'a ServiceError),
    /// The caller has gone before.
    Canceled,
}

impl<'a> MethodEnd<'a> {
    pub(super) fn of(outcome: &'a Result<MethodResponse, ServiceError>) -> Self {
        match outcome {
            Ok(response) => Self::Answered(response),
            Err(error) => Self::Failed(error),
        }
    }
}

impl HubState {
    /// Counts events of a device that is locked.
    pub(super) fn count(&self, state: &mut DeviceState, kind: Kind, count: usize) {
        state.tally.add(kind, count);
        self.events.totals.add(kind, count);
    }

    /// Counts that a connection begins or ends and shows it to those who watch,
    /// under the device's lock: in the order of what happens.
    pub(super) fn show_connection(&self, state: &mut DeviceState, target: &Target, change: ConnectionChange) {
        self.count(state, Kind::Connection, 1);
        self.events.show_connection(target, change);
    }

    /// How many events there were of each device that did something, by kind: of
    /// up to `count` devices behind `after` in the order of their ids, and the
    /// last of them if there may be more. With `device` of that one, or with a
    /// `*` at its end of those whose ids begin so.
    ///
    /// # Errors
    /// `DeviceNotFound` for an unknown device.
    pub(crate) async fn tallies(
        &self,
        device: Option<&DeviceId>,
        after: Option<&DeviceId>,
        count: usize,
    ) -> Result<(Tallies, Option<DeviceId>), ServiceError> {
        let id = device.map_or("*", DeviceId::as_str);
        let prefix = id.strip_suffix('*');
        if let (Some(device), None) = (device, prefix) {
            let counts = self.registry.cell(device)?.lock().tally.json();
            return Ok((vec![(device.clone(), counts.unwrap_or_default())], None));
        }
        let prefix = prefix.unwrap_or_default();
        // Ids with the prefix are neighbours: from it on, up to the first without.
        let first = DeviceId::parse(prefix).ok();
        let mut tallies = Tallies::new();
        let mut after = after.cloned();
        loop {
            let from = match (&after, &first) {
                (Some(after), Some(first)) if after < first => Bound::Included(first),
                (Some(after), _) => Bound::Excluded(after),
                (None, Some(first)) => Bound::Included(first),
                (None, None) => Bound::Unbounded,
            };
            let (cells, last) = self.registry.cells_from(from, 256);
            if last.is_none() {
                return Ok((tallies, None));
            }
            after = last;
            for cell in cells {
                let state = cell.lock();
                let id = &state.identity.id;
                if !id.as_str().starts_with(prefix) {
                    return Ok((tallies, None));
                }
                if let Some(counts) = state.tally.json() {
                    let id = id.clone();
                    tallies.push((id.clone(), counts));
                    if tallies.len() == count {
                        return Ok((tallies, Some(id)));
                    }
                }
            }
            // There may be a million of them.
            tokio::task::yield_now().await;
        }
    }

    /// Shows a step of a message to a device. Its body is part of the first
    /// step only; the message's sequence number tells which one it is.
    pub(super) fn show_message(&self, target: &Target, message: &Message, step: MessageStep, at: Timestamp) {
        if !self.events.journal.is_active() {
            return;
        }
        let mut bag = Bag::from(&message.properties);
        bag.push("sequenceNumber", &message.sequence.to_string());
        let body: &[u8] = match step {
            MessageStep::Queued => &message.body,
            _ => b"",
        };
        self.show(Kind::C2d, step.name(), target, &bag, body, at);
    }

    /// Shows a method call that has come to an end after `duration`.
    pub(super) fn show_method(
        &self,
        target: &Target,
        call: &MethodCall,
        end: MethodEnd<'_>,
        duration: Duration,
    ) {
        if !self.events.journal.is_active() {
            return;
        }
        let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let mut body = json!({ "methodName": call.name, "durationMs": milliseconds });
        let operation = match end {
            MethodEnd::Answered(response) => {
                body["status"] = response.status.into();
                "answered"
            }
            MethodEnd::Canceled => "canceled",
            MethodEnd::Failed(error) => {
                body["errorCode"] = error.code.number().into();
                body["error"] = error.code.name().into();
                body["message"] = error.message.as_str().into();
                "failed"
            }
        };
        let answer = match end {
            MethodEnd::Answered(response) => Some(&response.payload),
            MethodEnd::Failed(_) | MethodEnd::Canceled => None,
        };
        for (name, payload) in [("payload", Some(&call.payload)), ("response", answer)] {
            let value = payload.and_then(|text| serde_json::from_slice::<Value>(text.as_bytes()).ok());
            if let Some(value) = value {
                body[name] = value;
            }
        }
        let body = body.to_string();
        let now = self.clock.now();
        self.show(
            Kind::Method,
            operation,
            target,
            &Bag::default(),
            body.as_bytes(),
            now,
        );
    }

    fn show(
        &self,
        kind: Kind,
        operation: &'static str,
        target: &Target,
        bag: &Bag<'_>,
        body: &[u8],
        at: Timestamp,
    ) {
        let origin = Arc::new(Origin {
            target: target.clone(),
            sender: None,
        });
        self.events.journal.record(&Happening {
            kind,
            operation,
            origin: Some(&origin),
            bag,
            body,
            routes: None,
            at,
        });
    }
}
