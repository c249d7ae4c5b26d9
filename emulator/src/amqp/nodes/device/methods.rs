//! Direct methods on the two links of a device: requests that it receives and
//! answers that it sends.

use amqp_wire::Value;
use amqp_wire::message::{Message, Properties};
use bytes::Bytes;
use hub_core::error::{ErrorCode, ServiceError};
use hub_core::json::JsonText;
use hub_core::method::RequestId;
use uuid::Uuid;

use crate::amqp::properties;

/// The request's property for the name of the method.
const NAME: &str = "IoThub-methodname";
/// The answer's property for the device's own status.
const STATUS: &str = "IoThub-status";

/// The correlation ids of one connection's calls: UUIDs, as clients expect,
/// that end in the id of the call and begin with what no other connection has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Correlation([u8; 12]);

impl Correlation {
    pub(super) fn new() -> Self {
        let [head @ .., _, _, _, _] = Uuid::new_v4().into_bytes();
        Self(head)
    }

    fn id(self, call: RequestId) -> Uuid {
        let mut bytes = [0; 16];
        bytes[..12].copy_from_slice(&self.0);
        bytes[12..].copy_from_slice(&call.to_be_bytes());
        Uuid::from_bytes(bytes)
    }

    /// The call that an answer names, whatever type the device gives the id;
    /// `None` for a call of another connection, or of none.
    fn call(self, id: &Value) -> Option<RequestId> {
        let bytes = match id {
            Value::Uuid(bytes) => *bytes,
            id => Uuid::parse_str(id.as_str()?).ok()?.into_bytes(),
        };
        let (head, call) = bytes.split_at(12);
        (head == self.0).then(|| call.try_into().ok().map(RequestId::from_be_bytes))?
    }
}

/// The message that asks a device to carry out a method.
pub(super) fn request(correlation: Correlation, call: RequestId, name: &str, payload: &JsonText) -> Message {
    let mut message = Message::with_data(payload.as_bytes().clone());
    message.properties = Some(Box::new(Properties {
        correlation_id: Value::string(correlation.id(call).to_string()),
        ..Properties::default()
    }));
    message.application_properties = vec![(NAME.into(), Value::string(name))];
    message
}

/// A device's answer to a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The call; `None` if nobody waits for this.
    pub(super) call: Option<RequestId>,
    /// The device's own status.
    pub(super) status: i32,
    /// Its payload, not checked.
    pub(super) body: Bytes,
}

/// Reads a device's answer.
///
/// # Errors
/// `ArgumentNull` without a correlation id or a status; `ArgumentInvalid` for a
/// status that is no 32-bit integer, or a body that is not data.
pub(super) fn answer(correlation: Correlation, message: &Message) -> Result<Answer, ServiceError> {
    let id = match &message.properties {
        Some(properties) if !properties.correlation_id.is_null() => &properties.correlation_id,
        _ => return Err(missing("correlation-id")),
    };
    let status = message
        .application_property(STATUS)
        .ok_or_else(|| missing(STATUS))?;
    let status = match status {
        Value::String(text) => text.parse().ok(),
        number => number.as_i64().and_then(|number| i32::try_from(number).ok()),
    };
    Ok(Answer {
        call: correlation.call(id),
        status: status.ok_or_else(|| ServiceError::invalid(format!("{STATUS} must be an integer")))?,
        body: properties::body(message)?,
    })
}

fn missing(what: &str) -> ServiceError {
    ServiceError::new(
        ErrorCode::ArgumentNull,
        format!("the answer to a method needs {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use amqp_wire::message::Body;

    const CORRELATION: Correlation = Correlation(*b"\x01\x02\x03\x04\x05\x06\x47\x08\x89\x0a\x0b\x0c");

    fn reply(id: Value, status: Option<Value>) -> Message {
        let mut message = Message::with_data("{}");
        message.properties = Some(Box::new(Properties {
            correlation_id: id,
            ..Properties::default()
        }));
        message.application_properties = status.map(|status| (STATUS.into(), status)).into_iter().collect();
        message
    }

    #[test]
    fn a_request_has_what_clients_read() {
        let payload = JsonText::parse("{\"a\":1}".into()).unwrap();
        let message = request(CORRELATION, 258, "lock", &payload);
        let id = Value::from("01020304-0506-4708-890a-0b0c00000102");
        assert_eq!(message.properties.as_ref().unwrap().correlation_id, id);
        assert_eq!(
            message.application_property("IoThub-methodname"),
            Some(&"lock".into())
        );
        assert_eq!(message.body, Body::Data("{\"a\":1}".into()));
        let answered = answer(CORRELATION, &reply(id, Some(200_i32.into()))).unwrap();
        assert_eq!(
            answered,
            Answer {
                call: Some(258),
                status: 200,
                body: "{}".into()
            }
        );
    }

    #[test]
    fn ids_come_back_in_either_type_and_those_of_others_name_nothing() {
        let call = |id: Value| answer(CORRELATION, &reply(id, Some(1_i64.into()))).unwrap().call;
        let bytes = CORRELATION.id(7).into_bytes();
        assert_eq!(call(Value::Uuid(bytes)), Some(7));
        assert_eq!(
            call(Value::string(CORRELATION.id(7).to_string().to_uppercase())),
            Some(7)
        );
        assert_eq!(call(Value::Uuid([0; 16])), None);
        assert_eq!(call("7".into()), None);
        assert_eq!(call(Value::Ulong(7)), None);
    }

    #[test]
    fn fresh_ids_are_uuids_of_version_4() {
        let id = Correlation::new().id(RequestId::MAX);
        assert_eq!(id.get_version_num(), 4);
    }

    #[test]
    fn each_bad_answer_is_refused() {
        let code = |message: &Message| answer(CORRELATION, message).unwrap_err().code;
        assert_eq!(code(&Message::default()), ErrorCode::ArgumentNull);
        assert_eq!(
            code(&reply(Value::Null, Some(1_i32.into()))),
            ErrorCode::ArgumentNull
        );
        assert_eq!(code(&reply("x".into(), None)), ErrorCode::ArgumentNull);
        for bad in [
            Value::from("x"),
            Value::Long(1 << 40),
            Value::Null,
            Value::double(1.0),
        ] {
            assert_eq!(code(&reply("x".into(), Some(bad))), ErrorCode::ArgumentInvalid);
        }
        let mut listed = reply("x".into(), Some(1_i32.into()));
        listed.body = Body::Sequence(vec![vec![]]);
        assert_eq!(code(&listed), ErrorCode::ArgumentInvalid);
    }
}
