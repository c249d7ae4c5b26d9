//! An event as readers get it: an AMQP message.
//!
//! Where each property goes and of which type it is, is what the Event Hubs
//! clients look for: annotations have symbols as names, an offset is a string,
//! times are timestamps. Which properties an event has is for
//! `hub_core::events`.

use amqp_wire::Value;
use amqp_wire::message::{Body, Entries, Message, Properties};
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use hub_core::events::{Annotation, Event, PartitionInfo};
use hub_core::property_bag::SystemProperty;
use hub_core::time::Timestamp;

/// Writes events as messages, one behind the other into one allocation.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    buffer: BytesMut,
    metrics: Entries,
}

impl Encoder {
    /// An encoder for messages of about `bytes` altogether, each of which tells
    /// what its partition's last event is if `last` does.
    pub(super) fn new(bytes: usize, last: Option<(&PartitionInfo, Timestamp)>) -> Self {
        Self {
            buffer: BytesMut::with_capacity(bytes),
            metrics: last.map_or_else(Entries::new, |(info, now)| metrics(info, now)),
        }
    }

    /// One event's message.
    pub(super) fn encode(&mut self, event: &Event) -> Bytes {
        let mut message = message(event);
        message.delivery_annotations.clone_from(&self.metrics);
        message.encode(&mut self.buffer);
        self.buffer.split().freeze()
    }
}

fn message(event: &Event) -> Message {
    let text = |property| event.property(property).map(ByteString::from);
    let id = |property| text(property).map_or(Value::Null, Value::String);
    let properties = Properties {
        message_id: id(SystemProperty::MessageId),
        correlation_id: id(SystemProperty::CorrelationId),
        user_id: event
            .property(SystemProperty::UserId)
            .map(|user| Bytes::copy_from_slice(user.as_bytes())),
        to: text(SystemProperty::To),
        content_type: text(SystemProperty::ContentType),
        content_encoding: text(SystemProperty::ContentEncoding),
        absolute_expiry_time: event
            .property(SystemProperty::Expiry)
            .and_then(|expiry| Timestamp::parse(expiry).ok())
            .map(Timestamp::unix_milliseconds),
        ..Properties::default()
    };
    Message {
        message_annotations: event
            .annotations()
            .into_iter()
            .map(|(name, value)| (name_of(name), annotation(value)))
            .collect(),
        properties: (properties != Properties::default()).then(|| Box::new(properties)),
        application_properties: event
            .application_properties()
            .map(|(name, value)| (Value::string(name), Value::string(value)))
            .collect(),
        // Without a body too: readers expect a section.
        body: Body::Data(event.body.clone()),
        ..Message::default()
    }
}

fn name_of(annotation: &'static str) -> Value {
    Value::Symbol(ByteString::from_static(annotation))
}

fn annotation(value: Annotation<'_>) -> Value {
    match value {
        Annotation::Text(text) => Value::string(text),
        Annotation::Made(text) => Value::string(text),
        Annotation::Long(number) => Value::Long(i64::try_from(number).unwrap_or(i64::MAX)),
        Annotation::Time(time) => Value::Timestamp(time.unix_milliseconds()),
    }
}

/// What a reader that asks for it learns of its partition with every event, as
/// delivery annotations.
fn metrics(info: &PartitionInfo, now: Timestamp) -> Entries {
    [
        ("last_enqueued_sequence_number", last_sequence(info)),
        ("last_enqueued_offset", last_offset(info)),
        ("last_enqueued_time_utc", last_enqueued(info)),
        (
            "runtime_info_retrieval_time_utc",
            Value::Timestamp(now.unix_milliseconds()),
        ),
    ]
    .map(|(name, value)| (name_of(name), value))
    .into()
}

/// Sequence number of a partition's last event, -1 before the first.
pub(in crate::amqp::nodes) fn last_sequence(info: &PartitionInfo) -> Value {
    let sequence = info
        .last_sequence
        .map(|sequence| i64::try_from(sequence).unwrap_or(i64::MAX));
    Value::Long(sequence.unwrap_or(-1))
}

/// Its offset, a text.
pub(in crate::amqp::nodes) fn last_offset(info: &PartitionInfo) -> Value {
    info.last_offset
        .map_or_else(|| Value::from("-1"), |offset| Value::string(offset.to_string()))
}

/// When it arrived; before the first, the beginning of time as the service has it.
pub(in crate::amqp::nodes) fn last_enqueued(info: &PartitionInfo) -> Value {
    let time = info.last_enqueued.unwrap_or(Timestamp::NEVER);
    Value::Timestamp(time.unix_milliseconds())
}

#[cfg(test)]
mod tests;
