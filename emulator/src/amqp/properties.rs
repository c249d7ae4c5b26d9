//! Properties of a message: AMQP's sections, and the hub's one form.

use amqp_wire::Value;
use amqp_wire::message::Message;
use hub_core::error::ServiceError;
use hub_core::property_bag::{MessageProperties, SystemProperty};
use hub_core::time::Timestamp;
use uuid::Uuid;

/// What a message that arrived says of itself. Copies, so that nothing holds
/// on to what was read.
///
/// # Errors
/// `ArgumentInvalid` for a value that has no text.
pub(crate) fn from_message(message: &Message) -> Result<MessageProperties, ServiceError> {
    let mut properties = MessageProperties::default();
    if let Some(section) = message.properties.as_deref() {
        let user_id = match section.user_id.as_deref() {
            None => None,
            Some(bytes) => Some(
                std::str::from_utf8(bytes)
                    .map_err(|_| ServiceError::invalid("the user-id is not UTF-8"))?
                    .to_owned(),
            ),
        };
        let owned = |text: &Option<bytestring::ByteString>| text.as_deref().map(str::to_owned);
        let values = [
            (SystemProperty::MessageId, text(&section.message_id)?),
            (SystemProperty::CorrelationId, text(&section.correlation_id)?),
            (SystemProperty::UserId, user_id),
            (SystemProperty::To, owned(&section.to)),
            (SystemProperty::ContentType, owned(&section.content_type)),
            (SystemProperty::ContentEncoding, owned(&section.content_encoding)),
            (SystemProperty::Expiry, section.absolute_expiry_time.map(time)),
            (SystemProperty::CreationTime, section.creation_time.map(time)),
        ];
        let given = values
            .into_iter()
            .filter_map(|(property, value)| Some((property, value?)));
        properties.system.extend(given);
    }
    for (name, value) in &message.application_properties {
        let name = name
            .as_str()
            .ok_or_else(|| ServiceError::invalid("the name of an application property is not a text"))?;
        let value = text(value)?.unwrap_or_default();
        match SystemProperty::from_key(name) {
            Some(property) => drop(properties.system.insert(property, value)),
            None => drop(properties.application.insert(name.to_owned(), value)),
        }
    }
    Ok(properties)
}

/// A time in milliseconds since 1970, as the hub writes it.
fn time(milliseconds: i64) -> String {
    Timestamp::from_unix_milliseconds(milliseconds).to_string()
}

/// Milliseconds since 1970, as AMQP has times.
pub(crate) fn milliseconds(time: Timestamp) -> i64 {
    time.unix_milliseconds()
}

/// A simple value as a text; `None` for null.
///
/// # Errors
/// `ArgumentInvalid` for anything that is not simple.
pub(crate) fn text(value: &Value) -> Result<Option<String>, ServiceError> {
    Ok(Some(match value {
        Value::Null => return Ok(None),
        Value::String(text) | Value::Symbol(text) => text.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Char(value) => value.to_string(),
        Value::Uuid(bytes) => Uuid::from_bytes(*bytes).to_string(),
        Value::Timestamp(milliseconds) => time(*milliseconds),
        Value::Ulong(number) => number.to_string(),
        Value::Binary(bytes) => std::str::from_utf8(bytes)
            .map_err(|_| ServiceError::invalid("a binary property is not UTF-8"))?
            .to_owned(),
        other => match (other.as_i64(), other.as_f64()) {
            (Some(number), _) => number.to_string(),
            (None, Some(number)) => number.to_string(),
            (None, None) => return Err(ServiceError::invalid("a property is neither a text nor a number")),
        },
    }))
}
