//! How an event is written as JSON, wherever the hub shows or stores one: the
//! admin endpoints, the live view, and whatever passes messages on as text.
//!
//! The members are those of a message as the service delivers it: annotations,
//! properties, application properties and the body, which is text where it is
//! UTF-8 (`body`) and base64 otherwise (`bodyBase64`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hub_core::events::{Annotation, Event, application_properties_of};
use hub_core::property_bag::{MessageProperties, SystemProperty};
use serde_json::{Map, Value, json};

/// An event of the stream, with its sequence number in its partition.
pub(crate) fn event_json(event: &Event) -> Value {
    let mut json = message_json(event.annotations(), &event.properties, &event.body);
    json.insert("sequenceNumber".to_owned(), event.sequence.into());
    Value::Object(json)
}

/// A message: what the hub says of it, its properties and its body.
pub(crate) fn message_json(
    annotations: Vec<(&'static str, Annotation<'_>)>,
    properties: &MessageProperties,
    body: &[u8],
) -> Map<String, Value> {
    let annotations: Map<String, Value> = annotations
        .into_iter()
        .map(|(name, value)| {
            let value = match value {
                Annotation::Text(text) => text.into(),
                Annotation::Made(text) => text.into(),
                Annotation::Long(number) => number.into(),
                Annotation::Time(time) => json!(time),
            };
            (name.to_owned(), value)
        })
        .collect();
    let system: Map<String, Value> = [
        ("message-id", SystemProperty::MessageId),
        ("correlation-id", SystemProperty::CorrelationId),
        ("user-id", SystemProperty::UserId),
        ("content-type", SystemProperty::ContentType),
        ("content-encoding", SystemProperty::ContentEncoding),
    ]
    .into_iter()
    .filter_map(|(name, property)| Some((name.to_owned(), properties.system.get(&property)?.as_str().into())))
    .collect();
    let application: Map<String, Value> = application_properties_of(properties)
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let (name, body) = match std::str::from_utf8(body) {
        Ok(text) => ("body", text.into()),
        Err(_) => ("bodyBase64", STANDARD.encode(body).into()),
    };
    [
        ("annotations", annotations.into()),
        ("properties", system.into()),
        ("applicationProperties", application.into()),
        (name, body),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}
