//! A device's twin on two links: requests that it sends, answers and changes of
//! desired properties that it receives.
//!
//! A request is told apart by the message annotations `operation` and
//! `resource`; its correlation id comes back with the answer, in the type that
//! it had.

use std::fmt::Write as _;

use amqp_wire::Value;
use amqp_wire::message::{Message, Properties};
use bytes::Bytes;
use hub_core::error::{ErrorCode, ServiceError};
use hub_core::limits;
use hub_core::twin::DesiredChange;
use uuid::Uuid;

use crate::amqp::properties;

const OPERATION: &str = "operation";
const RESOURCE: &str = "resource";
const STATUS: &str = "status";
const VERSION: &str = "version";

const REPORTED: &str = "/properties/reported";
const DESIRED: &str = "/properties/desired";
const NOTIFICATIONS: &str = "/notifications/twin/properties/desired";

/// What a device asks of its twin.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// The whole of it.
    Read,
    /// To merge reported properties, if they still have a version.
    PatchReported {
        /// The version that they must have.
        version: Option<u64>,
        /// The patch, not checked.
        patch: Bytes,
    },
    /// To hear of changes of desired properties.
    Subscribe,
    /// Not to hear of them any more.
    Unsubscribe,
}

/// The id of a request: the correlation id of its message with its type, as
/// one text that the hub hands back with the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rid(Box<str>);

impl Rid {
    /// The id of a request.
    ///
    /// # Errors
    /// `ArgumentNull` if it has none, `ArgumentInvalid` for one that is too long.
    pub(super) fn of(message: &Message) -> Result<Self, ServiceError> {
        let id = message.properties.as_ref().map(|section| &section.correlation_id);
        let text = match id {
            None | Some(Value::Null) => {
                return Err(ServiceError::new(
                    ErrorCode::ArgumentNull,
                    "a twin request needs a correlation-id",
                ));
            }
            Some(Value::String(text)) => format!("s{text}"),
            Some(Value::Uuid(bytes)) => format!("u{}", Uuid::from_bytes(*bytes)),
            Some(Value::Ulong(number)) => format!("n{number}"),
            Some(Value::Binary(bytes)) if bytes.len() <= limits::MESSAGE_ID_CHARS => {
                bytes.iter().fold(String::from("b"), |mut text, byte| {
                    let _ = write!(text, "{byte:02x}");
                    text
                })
            }
            Some(_) => return Err(ServiceError::invalid("the correlation-id cannot be used")),
        };
        if matches!(id, Some(Value::String(_))) && text.chars().count() > limits::MESSAGE_ID_CHARS + 1 {
            return Err(ServiceError::invalid(format!(
                "a correlation-id has at most {} characters",
                limits::MESSAGE_ID_CHARS
            )));
        }
        Ok(Self(text.into()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The correlation id that [`Rid`] was made of.
fn correlation_id(rid: &str) -> Value {
    let (kind, text) = rid.split_at_checked(1).unwrap_or_default();
    match kind {
        "u" => Uuid::parse_str(text).map_or(Value::Null, |uuid| Value::Uuid(uuid.into_bytes())),
        "n" => text.parse().map_or(Value::Null, Value::Ulong),
        "b" => {
            let byte = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
            let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(byte).collect();
            bytes.map_or(Value::Null, |bytes| Value::Binary(bytes.into()))
        }
        _ => Value::string(text),
    }
}

/// Reads a request.
///
/// # Errors
/// `ArgumentNull` without an operation; `InvalidOperation` for one that there
/// is not, or not for this resource; `ArgumentInvalid` for a version that is no
/// number or a body that is not data.
pub(super) fn request(message: &Message) -> Result<Request, ServiceError> {
    let text = |name| message.message_annotation(name).and_then(Value::as_str);
    let operation = text(OPERATION)
        .ok_or_else(|| ServiceError::new(ErrorCode::ArgumentNull, "a twin request needs an operation"))?;
    let resource = text(RESOURCE).unwrap_or_default();
    let is = |known: &str| resource.trim_end_matches('/').eq_ignore_ascii_case(known);
    match operation {
        "GET" if is("") => Ok(Request::Read),
        "PATCH" if is(REPORTED) => Ok(Request::PatchReported {
            version: version(message)?,
            patch: properties::body(message)?,
        }),
        "PUT" if is(NOTIFICATIONS) => Ok(Request::Subscribe),
        "DELETE" if is(NOTIFICATIONS) => Ok(Request::Unsubscribe),
        _ => Err(ServiceError::new(
            ErrorCode::InvalidOperation,
            "there is no such operation on this part of a twin",
        )),
    }
}

fn version(message: &Message) -> Result<Option<u64>, ServiceError> {
    match message.message_annotation(VERSION) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let number = match value.as_str() {
                Some(text) => text.parse().ok(),
                None => value.as_i64().and_then(|number| u64::try_from(number).ok()),
            };
            let error = || ServiceError::invalid("the version must be a number");
            number.map(Some).ok_or_else(error)
        }
    }
}

/// The message that answers the request `rid`.
pub(super) fn answer(rid: &str, status: u16, version: Option<u64>, body: Bytes) -> Message {
    // Also for an empty body: clients read the section without looking for it.
    let mut message = Message::with_data(body);
    message.properties = Some(Box::new(Properties {
        correlation_id: correlation_id(rid),
        ..Properties::default()
    }));
    message.message_annotations = vec![(Value::symbol(STATUS), i32::from(status).into())];
    message
        .message_annotations
        .extend(version.map(version_annotation));
    message
}

/// The message that tells of new desired properties; it answers nothing.
pub(super) fn desired_changed(change: DesiredChange) -> Message {
    let mut message = Message::with_data(change.payload);
    message.message_annotations = vec![
        (Value::symbol(OPERATION), "PATCH".into()),
        (Value::symbol(RESOURCE), DESIRED.into()),
        version_annotation(change.version),
    ];
    message
}

fn version_annotation(version: u64) -> (Value, Value) {
    let version = i64::try_from(version).unwrap_or(i64::MAX);
    (Value::symbol(VERSION), version.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use amqp_wire::message::Body;

    fn asked(operation: &'static str, resource: Option<&'static str>) -> Message {
        let mut message = Message::with_data(" ");
        message.message_annotations = vec![(Value::symbol("operation"), operation.into())];
        if let Some(resource) = resource {
            message
                .message_annotations
                .push((Value::symbol("resource"), resource.into()));
        }
        message
    }

    fn with_id(id: Value) -> Message {
        let properties = Properties {
            correlation_id: id,
            ..Properties::default()
        };
        Message {
            properties: Some(Box::new(properties)),
            ..Message::default()
        }
    }

    #[test]
    fn the_four_requests_are_told_apart() {
        assert_eq!(request(&asked("GET", None)), Ok(Request::Read));
        assert_eq!(request(&asked("GET", Some("/"))), Ok(Request::Read));
        let notifications = Some("/notifications/twin/properties/desired");
        assert_eq!(request(&asked("PUT", notifications)), Ok(Request::Subscribe));
        assert_eq!(request(&asked("DELETE", notifications)), Ok(Request::Unsubscribe));
        for (version, expected) in [
            (None, None),
            (Some(Value::Long(3)), Some(3)),
            (Some("4".into()), Some(4)),
        ] {
            let mut message = asked("PATCH", Some("/properties/reported"));
            message.body = Body::Data("{\"a\":1}".into());
            if let Some(version) = version {
                message.message_annotations.push(("version".into(), version));
            }
            let patch = Bytes::from("{\"a\":1}");
            let version = expected;
            assert_eq!(request(&message), Ok(Request::PatchReported { version, patch }));
        }
    }

    #[test]
    fn each_bad_request_has_its_own_code() {
        let code = |message: &Message| request(message).unwrap_err().code;
        assert_eq!(code(&Message::default()), ErrorCode::ArgumentNull);
        for (operation, resource) in [
            ("POST", None),
            ("get", None),
            ("GET", Some("/properties/reported")),
            ("PATCH", Some("/properties/desired")),
            ("PATCH", None),
            ("PUT", Some("/properties/reported")),
        ] {
            assert_eq!(
                code(&asked(operation, resource)),
                ErrorCode::InvalidOperation,
                "{operation} {resource:?}"
            );
        }
        for version in [Value::from("x"), Value::Long(-1), Value::Bool(true)] {
            let mut message = asked("PATCH", Some("/properties/reported"));
            message.message_annotations.push(("version".into(), version));
            assert_eq!(code(&message), ErrorCode::ArgumentInvalid);
        }
    }

    #[test]
    fn correlation_ids_come_back_as_they_were() {
        for id in [
            Value::from("a-b"),
            Value::from(""),
            Value::Uuid([9; 16]),
            Value::Ulong(u64::MAX),
            Value::Binary(Bytes::from_static(b"\x00\xff")),
        ] {
            let message = with_id(id.clone());
            let rid = Rid::of(&message).unwrap();
            let answer = answer(rid.as_str(), 204, Some(7), Bytes::new());
            assert_eq!(answer.properties.unwrap().correlation_id, id);
        }
    }

    #[test]
    fn an_answer_needs_an_id_of_bounded_length() {
        let code = |id: Value| Rid::of(&with_id(id)).map_err(|error| error.code);
        assert_eq!(
            Rid::of(&Message::default()).unwrap_err().code,
            ErrorCode::ArgumentNull
        );
        assert_eq!(code(Value::Null), Err(ErrorCode::ArgumentNull));
        assert!(code(Value::string("x".repeat(128))).is_ok());
        assert_eq!(
            code(Value::string("x".repeat(129))),
            Err(ErrorCode::ArgumentInvalid)
        );
        assert_eq!(
            code(Value::Binary(vec![0; 129].into())),
            Err(ErrorCode::ArgumentInvalid)
        );
    }

    #[test]
    fn answers_and_changes_have_what_clients_read() {
        let answer = answer("s1", 200, Some(5), "{}".into());
        assert_eq!(answer.message_annotation("status"), Some(&Value::Int(200)));
        assert_eq!(answer.message_annotation("version"), Some(&Value::Long(5)));
        assert_eq!(answer.body, Body::Data("{}".into()));
        let change = desired_changed(DesiredChange {
            version: 3,
            payload: "{\"$version\":3}".into(),
        });
        assert_eq!(change.properties, None);
        assert_eq!(change.message_annotation("version"), Some(&Value::Long(3)));
        assert_eq!(
            change.message_annotation("resource"),
            Some(&"/properties/desired".into())
        );
    }
}
