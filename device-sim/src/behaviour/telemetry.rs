//! What a device sends on its own.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use hub_core::ids::Target;
use hub_core::property_bag::{MessageProperties, SystemProperty};
use serde_json::{Value, json};

/// Stands for the sequence number in a body's strings.
const SEQUENCE: &str = "${sequence}";
/// Stands for the device's id in a body's strings.
const DEVICE: &str = "${device}";

/// A message that every device sends at a regular interval.
#[derive(Debug, Clone, PartialEq)]
pub struct Telemetry {
    interval: Duration,
    body: Vec<Part>,
    bag: String,
}

/// A piece of the body, cut up once so that making a body is concatenation.
#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(Box<str>),
    Device,
    Sequence,
}

impl Telemetry {
    /// Shortest interval; anything shorter is raised to it.
    pub const MIN_INTERVAL: Duration = Duration::from_millis(1);

    /// Sends `body` every `interval`, marked as JSON in UTF-8, with the given
    /// application properties.
    ///
    /// In the body's strings `${device}` stands for the device's id and
    /// `${sequence}` for the message's number, counted from 1; a string that
    /// is nothing but `${sequence}` becomes the number itself.
    #[must_use]
    pub fn new(interval: Duration, body: &Value, properties: BTreeMap<String, String>) -> Self {
        let text = body
            .to_string()
            .replace(&format!("\"{SEQUENCE}\""), SEQUENCE);
        let properties = MessageProperties {
            system: BTreeMap::from([
                (SystemProperty::ContentType, "application/json".to_owned()),
                (SystemProperty::ContentEncoding, "utf-8".to_owned()),
            ]),
            application: properties,
        };
        Self {
            interval: interval.max(Self::MIN_INTERVAL),
            body: split(&text),
            bag: properties.encode(),
        }
    }

    /// Sends the device's id and the message's number every `interval`.
    #[must_use]
    pub fn every(interval: Duration) -> Self {
        let body = json!({ "deviceId": DEVICE, "messageId": SEQUENCE });
        Self::new(interval, &body, BTreeMap::new())
    }

    /// Time between two messages of a device.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// The property bag, encoded, as it stands at the end of the topic.
    #[must_use]
    pub fn bag(&self) -> &str {
        &self.bag
    }

    /// The body of one message.
    #[must_use]
    pub(super) fn body(&self, target: &Target, sequence: u64) -> Bytes {
        use std::fmt::Write as _;

        let mut text = String::with_capacity(128);
        for part in &self.body {
            match part {
                Part::Text(literal) => text.push_str(literal),
                // Writing to a `String` cannot fail. Ids contain nothing that
                // would have to be escaped in JSON.
                Part::Device => drop(write!(text, "{target}")),
                Part::Sequence => drop(write!(text, "{sequence}")),
            }
        }
        Bytes::from(text)
    }
}

fn split(mut text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    while let Some(at) = text.find("${") {
        let (before, rest) = text.split_at(at);
        if !before.is_empty() {
            parts.push(Part::Text(before.into()));
        }
        let (part, length) = if rest.starts_with(DEVICE) {
            (Part::Device, DEVICE.len())
        } else if rest.starts_with(SEQUENCE) {
            (Part::Sequence, SEQUENCE.len())
        } else {
            (Part::Text("${".into()), 2)
        };
        parts.push(part);
        text = &rest[length..];
    }
    if !text.is_empty() {
        parts.push(Part::Text(text.into()));
    }
    parts
}
