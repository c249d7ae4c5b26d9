//! `$management`: what Event Hubs clients ask about the stream before they read.
//!
//! A request is a message with application properties: `operation` is `READ`,
//! `type` says of what. The answer has the request's message id as correlation
//! id, `status-code` and `status-description` as application properties, and a
//! map as its body. Source: what the clients send and look for.

use amqp_wire::Value;
use amqp_wire::message::{Body, Message, Properties};
use amqp_wire::value::Array;
use bytestring::ByteString;
use hub_core::events::PartitionInfo;

use super::partition::{last_enqueued, last_offset, last_sequence};
use crate::hub::events::EventStream;

const HUB: &str = "com.microsoft:eventhub";
const PARTITION: &str = "com.microsoft:partition";

/// Why a request is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refusal {
    status: i32,
    condition: &'static str,
    description: String,
}

/// The answer to a request, for those who may read the stream named `entity`.
pub(in crate::amqp) fn answer(events: &EventStream, entity: &str, request: &Message) -> Message {
    let (status, description, condition, body) = match read(events, entity, request) {
        Ok(body) => (200, "OK".to_owned(), None, Body::Value(body)),
        Err(refusal) => (
            refusal.status,
            refusal.description,
            Some(refusal.condition),
            // Clients read the body before they look at the status.
            Body::Value(Value::Map(Vec::new())),
        ),
    };
    reply(request, status, description, condition, body)
}

/// The answer to a request of somebody who may not read.
pub(in crate::amqp) fn unauthorized(request: &Message, description: &str) -> Message {
    let condition = Some("amqp:unauthorized-access");
    reply(request, 401, description.to_owned(), condition, Body::Value(Value::Map(Vec::new())))
}

fn reply(request: &Message, status: i32, description: String, condition: Option<&'static str>, body: Body) -> Message {
    let mut application_properties = vec![
        // An int: some clients take nothing else.
        (Value::from("status-code"), Value::Int(status)),
        (Value::from("status-description"), Value::string(description)),
    ];
    if let Some(condition) = condition {
        application_properties.push((
            Value::from("error-condition"),
            Value::Symbol(ByteString::from_static(condition)),
        ));
    }
    let message_id = request.properties.as_ref().map(|properties| properties.message_id.clone());
    Message {
        properties: Some(Box::new(Properties {
            correlation_id: message_id.unwrap_or_default(),
            ..Properties::default()
        })),
        application_properties,
        body,
        ..Message::default()
    }
}

fn read(events: &EventStream, entity: &str, request: &Message) -> Result<Value, Refusal> {
    let text = |name| request.application_property(name).and_then(Value::as_str);
    if text("operation") != Some("READ") {
        return Err(bad_request("the operation is not READ".into()));
    }
    // A request without a name means the stream that the link is about.
    if let Some(name) = text("name")
        && !name.eq_ignore_ascii_case(entity)
    {
        let name: String = name.chars().take(120).collect();
        return Err(Refusal {
            status: 404,
            condition: "amqp:not-found",
            description: format!("the messaging entity {name:?} could not be found"),
        });
    }
    match text("type") {
        Some(HUB) => Ok(hub(events, entity)),
        Some(PARTITION) => partition(events, entity, request.application_property("partition")),
        _ => Err(bad_request(format!("the type is neither {HUB} nor {PARTITION}"))),
    }
}

fn bad_request(description: String) -> Refusal {
    Refusal {
        status: 400,
        condition: "com.microsoft:argument-error",
        description,
    }
}

fn hub(events: &EventStream, entity: &str) -> Value {
    let count = events.partitions().len();
    let created = Value::Timestamp(events.created().unix_milliseconds());
    map([
        ("name", Value::string(entity)),
        ("type", Value::from(HUB)),
        ("created_at", created),
        ("partition_count", Value::Int(i32::try_from(count).unwrap_or(i32::MAX))),
        (
            "partition_ids",
            Value::Array(Array::of_strings((0..count).map(|number| number.to_string()))),
        ),
    ])
}

fn partition(events: &EventStream, entity: &str, number: Option<&Value>) -> Result<Value, Refusal> {
    let all = events.partitions();
    // Clients send it as a text; a number is as good.
    let number = match number {
        Some(Value::String(text) | Value::Symbol(text)) => text.parse().ok(),
        Some(other) => other.as_i64().and_then(|number| usize::try_from(number).ok()),
        None => return Err(bad_request("there is no partition in the request".into())),
    };
    let found: Option<(usize, &PartitionInfo)> = number.and_then(|number| Some((number, all.get(number)?)));
    let Some((number, info)) = found else {
        return Err(Refusal {
            status: 404,
            condition: "amqp:not-found",
            description: format!("there is no such partition; the hub has {}, from 0", all.len()),
        });
    };
    let begin = i64::try_from(info.begin_sequence).unwrap_or(i64::MAX);
    Ok(map([
        ("name", Value::string(entity)),
        ("type", Value::from(PARTITION)),
        ("partition", Value::string(number.to_string())),
        ("begin_sequence_number", Value::Long(begin)),
        ("last_enqueued_sequence_number", last_sequence(info)),
        ("last_enqueued_offset", last_offset(info)),
        ("last_enqueued_time_utc", last_enqueued(info)),
        ("is_partition_empty", Value::Bool(info.is_empty())),
    ]))
}

fn map<const N: usize>(entries: [(&'static str, Value); N]) -> Value {
    Value::Map(entries.map(|(name, value)| (Value::from(name), value)).into())
}

#[cfg(test)]
mod tests;
