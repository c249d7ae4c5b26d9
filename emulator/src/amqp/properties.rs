//! Message properties in the sections of an AMQP message.
//!
//! What has a field in the `properties` section travels there, everything else
//! as an application property; a few names are also taken from the message
//! annotations, where some clients put them. Senders of telemetry and of
//! cloud-to-device messages and those who receive them have the same names.
//! Which properties count in a direction is not decided here. Sources: the AMQP
//! guide, the guide on message formats and the SDKs' AMQP transports.

use amqp_wire::Value;
use amqp_wire::message::{Body, Message, Properties};
use bytes::Bytes;
use hub_core::error::ServiceError;
use hub_core::property_bag::{MessageProperties, SystemProperty};
use hub_core::time::Timestamp;
use uuid::Uuid;

/// Properties that are application properties or message annotations, by name.
const NAMED: [(&str, SystemProperty); 5] = [
    ("iothub-creation-time-utc", SystemProperty::CreationTime),
    ("iothub-message-schema", SystemProperty::Schema),
    ("iothub-interface-id", SystemProperty::InterfaceId),
    ("dt-subject", SystemProperty::Subject),
    ("iothub-outputname", SystemProperty::Output),
];

/// The properties of a message, without what the hub says of messages itself.
///
/// Values of simple types become texts, null an empty one; a field or an
/// annotation that is null is not there. A field of the `properties` section
/// counts before an application property of the same meaning, and that before
/// an annotation.
///
/// # Errors
/// `ArgumentInvalid` for a value that no text can stand for, or a property
/// whose name is no text.
pub(crate) fn from_message(message: &Message) -> Result<MessageProperties, ServiceError> {
    let mut properties = MessageProperties::default();
    for (name, value) in &message.message_annotations {
        if let Some((name, property)) = name.as_str().and_then(named)
            && let Some(text) = text(name, value)?
        {
            properties.system.insert(property, text);
        }
    }
    for (name, value) in &message.application_properties {
        let name = name
            .as_str()
            .ok_or_else(|| ServiceError::invalid("the name of an application property is not a string"))?;
        let text = text(name, value)?.unwrap_or_default();
        // A name that a bag gives a meaning has it here as well.
        let system = named(name).map(|(_, property)| property);
        match system.or_else(|| SystemProperty::from_key(name)) {
            Some(property) => drop(properties.system.insert(property, text)),
            None => drop(properties.application.insert(name.to_owned(), text)),
        }
    }
    if let Some(section) = &message.properties {
        read_section(section, &mut properties)?;
    }
    Ok(properties)
}

fn named(name: &str) -> Option<(&'static str, SystemProperty)> {
    NAMED.into_iter().find(|(known, _)| *known == name)
}

fn read_section(section: &Properties, properties: &mut MessageProperties) -> Result<(), ServiceError> {
    let owned = |text: &Option<bytestring::ByteString>| text.as_deref().map(str::to_owned);
    let time = |milliseconds: Option<i64>| milliseconds.map(|ms| timestamp(ms).to_string());
    let user_id = section.user_id.clone().map_or(Value::Null, Value::Binary);
    let fields = [
        (
            SystemProperty::MessageId,
            text("message-id", &section.message_id)?,
        ),
        (
            SystemProperty::CorrelationId,
            text("correlation-id", &section.correlation_id)?,
        ),
        (SystemProperty::UserId, text("user-id", &user_id)?),
        (SystemProperty::To, owned(&section.to)),
        (SystemProperty::Expiry, time(section.absolute_expiry_time)),
        (SystemProperty::ContentType, owned(&section.content_type)),
        (SystemProperty::ContentEncoding, owned(&section.content_encoding)),
        (SystemProperty::CreationTime, time(section.creation_time)),
    ];
    for (property, text) in fields {
        if let Some(text) = text {
            properties.system.insert(property, text);
        }
    }
    Ok(())
}

/// The text for a value of a simple type; `None` for null.
fn text(name: &str, value: &Value) -> Result<Option<String>, ServiceError> {
    let text = match value {
        Value::Null => None,
        Value::String(text) | Value::Symbol(text) => Some(text.to_string()),
        Value::Char(c) => Some(c.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Ulong(number) => Some(number.to_string()),
        Value::Timestamp(milliseconds) => Some(timestamp(*milliseconds).to_string()),
        Value::Uuid(bytes) => Some(Uuid::from_bytes(*bytes).to_string()),
        Value::Binary(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Some(text.to_owned()),
            Err(_) => return Err(unsuitable(name)),
        },
        other => match (other.as_i64(), other.as_f64()) {
            (Some(number), _) => Some(number.to_string()),
            (_, Some(number)) => Some(number.to_string()),
            _ => return Err(unsuitable(name)),
        },
    };
    Ok(text)
}

fn unsuitable(name: &str) -> ServiceError {
    let name: String = name.chars().take(120).collect();
    ServiceError::invalid(format!("the property {name} has a value that is not text"))
}

/// The body of a message; a value that is a text or bytes counts like data.
///
/// # Errors
/// `ArgumentInvalid` for any other body.
pub(crate) fn body(message: &Message) -> Result<Bytes, ServiceError> {
    match &message.body {
        Body::Value(Value::Null) => Ok(Bytes::new()),
        Body::Value(Value::Binary(bytes)) => Ok(bytes.clone()),
        Body::Value(Value::String(text)) => Ok(text.clone().into_bytes()),
        body => body
            .data()
            .ok_or_else(|| ServiceError::invalid("the body of a message must be data")),
    }
}

/// Puts `properties` into a message that has none yet. An expiry that cannot
/// be read as a time is left out.
pub(crate) fn to_message(properties: &MessageProperties, message: &mut Message) {
    let mut section = Properties::default();
    for (property, text) in &properties.system {
        let string = || Some(text.as_str().into());
        match property {
            SystemProperty::MessageId => section.message_id = Value::string(text.as_str()),
            SystemProperty::CorrelationId => section.correlation_id = Value::string(text.as_str()),
            SystemProperty::UserId => section.user_id = Some(Bytes::copy_from_slice(text.as_bytes())),
            SystemProperty::To => section.to = string(),
            SystemProperty::ContentType => section.content_type = string(),
            SystemProperty::ContentEncoding => section.content_encoding = string(),
            SystemProperty::Expiry => {
                section.absolute_expiry_time = Timestamp::parse(text).ok().map(milliseconds);
            }
            other => {
                let named = NAMED.iter().find(|(_, property)| property == other);
                let name = named.map_or(other.key(), |(name, _)| name);
                push(message, name, text);
            }
        }
    }
    for (name, text) in &properties.application {
        push(message, name, text);
    }
    message.properties = Some(Box::new(section));
}

fn push(message: &mut Message, name: &str, text: &str) {
    let entry = (Value::string(name), Value::string(text));
    message.application_properties.push(entry);
}

/// A time in milliseconds since 1970, as AMQP has it, rounded towards the past.
pub(crate) fn milliseconds(time: Timestamp) -> i64 {
    time.unix_milliseconds()
}

/// The inverse of [`milliseconds`], within the years 1 to 9999.
pub(crate) fn timestamp(milliseconds: i64) -> Timestamp {
    Timestamp::from_unix_milliseconds(milliseconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hub_core::error::ErrorCode;
    use proptest::prelude::*;

    fn pairs(properties: &MessageProperties) -> Vec<(&str, &str)> {
        let system = properties.system.iter().map(|(p, v)| (p.key(), v.as_str()));
        let application = properties
            .application
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()));
        system.chain(application).collect()
    }

    fn application(entries: Vec<(&'static str, Value)>) -> Message {
        Message {
            application_properties: entries
                .into_iter()
                .map(|(name, value)| (name.into(), value))
                .collect(),
            ..Message::default()
        }
    }

    #[test]
    fn every_place_of_a_property_is_read() {
        let mut message = application(vec![
            ("color", "red".into()),
            ("iothub-ack", "full".into()),
            ("$.mid", "loses against the section".into()),
            ("iothub-message-schema", "s".into()),
            ("iothub-outputname", "out".into()),
            ("iothub-interface-id", "wins".into()),
        ]);
        message.message_annotations = vec![
            (Value::symbol("dt-subject"), "thermostat".into()),
            (Value::symbol("iothub-interface-id"), "loses".into()),
            (Value::symbol("x-opt-anything"), Value::List(vec![])),
            (1_u32.into(), "no name".into()),
        ];
        message.properties = Some(Box::new(Properties {
            message_id: Value::Uuid([0xab; 16]),
            user_id: Some(Bytes::from_static(b"me")),
            to: Some("/devices/d/messages/events".into()),
            subject: Some("is no property of a hub's messages".into()),
            correlation_id: Value::Ulong(u64::MAX),
            content_type: Some("application/json".into()),
            content_encoding: Some("utf-8".into()),
            absolute_expiry_time: Some(1_767_225_600_500),
            creation_time: Some(1_767_225_600_000),
            ..Properties::default()
        }));
        assert_eq!(
            pairs(&from_message(&message).unwrap()),
            [
                ("$.mid", "abababab-abab-abab-abab-abababababab"),
                ("$.cid", "18446744073709551615"),
                ("$.uid", "me"),
                ("$.to", "/devices/d/messages/events"),
                ("$.exp", "2026-01-01T00:00:00.5000000Z"),
                ("$.ct", "application/json"),
                ("$.ce", "utf-8"),
                ("$.ctime", "2026-01-01T00:00:00Z"),
                ("$.schema", "s"),
                ("$.ifid", "wins"),
                ("$.sub", "thermostat"),
                ("$.on", "out"),
                ("iothub-ack", "full"),
                ("color", "red"),
            ]
        );
    }

    #[test]
    fn simple_values_become_texts_and_others_are_refused() {
        let message = application(vec![
            ("a", true.into()),
            ("b", (-5_i32).into()),
            ("c", Value::double(0.5)),
            ("d", Value::Timestamp(0)),
            ("e", Value::Char('ä')),
            ("f", Value::Binary(Bytes::from_static(b"x"))),
            ("g", Value::Null),
            ("h", Value::symbol("s")),
        ]);
        assert_eq!(
            pairs(&from_message(&message).unwrap()),
            [
                ("a", "true"),
                ("b", "-5"),
                ("c", "0.5"),
                ("d", "1970-01-01T00:00:00Z"),
                ("e", "ä"),
                ("f", "x"),
                ("g", ""),
                ("h", "s")
            ]
        );
        for bad in [
            Value::List(vec![]),
            Value::Map(vec![]),
            Value::Binary(Bytes::from_static(b"\xff")),
            Value::Decimal32([0; 4]),
            Value::described(1_u64.into(), "x".into()),
        ] {
            let error = from_message(&application(vec![("bad", bad)])).unwrap_err();
            assert_eq!(error.code, ErrorCode::ArgumentInvalid);
            assert_eq!(error.message, "the property bad has a value that is not text");
        }
        let nameless = Message {
            application_properties: vec![(1_u32.into(), "x".into())],
            ..Message::default()
        };
        assert_eq!(
            from_message(&nameless).unwrap_err().code,
            ErrorCode::ArgumentInvalid
        );
    }

    #[test]
    fn bodies_are_data_or_something_like_it() {
        let body = |body| {
            super::body(&Message {
                body,
                ..Message::default()
            })
        };
        assert_eq!(body(Body::Empty).unwrap(), "");
        assert_eq!(body(Body::Value(Value::Null)).unwrap(), "");
        assert_eq!(body(Body::Value("x".into())).unwrap(), "x");
        assert_eq!(
            body(Body::DataSections(vec!["a".into(), "b".into()])).unwrap(),
            "ab"
        );
        for bad in [Body::Value(1_i32.into()), Body::Sequence(vec![vec![]])] {
            assert_eq!(body(bad).unwrap_err().code, ErrorCode::ArgumentInvalid);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            system in proptest::collection::btree_map(proptest::sample::select(SystemProperty::ALL), ".{0,12}", 0..8),
            application in proptest::collection::btree_map("[a-z]{1,8}", ".{0,12}", 0..8),
            time in 0..4_102_444_800_000_i64,
        ) {
            let mut properties = MessageProperties { system, application };
            properties
                .system
                .entry(SystemProperty::Expiry)
                .and_modify(|text| *text = timestamp(time).to_string());
            let mut message = Message::default();
            to_message(&properties, &mut message);
            let bytes = message.to_bytes();
            prop_assert_eq!(from_message(&Message::decode(&bytes).unwrap()).unwrap(), properties);
        }
    }
}
