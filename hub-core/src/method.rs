//! Direct methods: what a caller asks, what a device answers, and the table of
//! calls that wait for an answer.
//!
//! The sequence of a call is decided here and carried out by the hub: wait for
//! the device to be online (at most the connect timeout), publish the request
//! under a fresh request id, wait for the response (at most the response
//! timeout). Source of ranges and sizes: the direct methods guide.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::error::{ErrorCode, ServiceError};
use crate::json::JsonText;
use crate::limits;

/// A checked request to invoke a method; cheap to clone for a whole fleet.
#[derive(Debug, Clone, PartialEq)]
pub struct MethodCall {
    /// The method's name, 1 to 100 characters, case-sensitive.
    pub name: Arc<str>,
    /// The request body for the device, at most 128 KB; `null` when the caller gave none.
    pub payload: JsonText,
    /// How long to wait for the response, 5 to 300 s.
    pub response_timeout: Duration,
    /// How long to wait for an offline device to connect, 0 to 300 s.
    pub connect_timeout: Duration,
}

impl MethodCall {
    /// Reads the body of a call: `methodName`, `payload`,
    /// `responseTimeoutInSeconds` and `connectTimeoutInSeconds`. Unknown
    /// members are ignored, as the service does.
    ///
    /// # Errors
    /// `ArgumentNull` without a name; `ArgumentInvalid` for a name that could
    /// not stand in a topic or a timeout out of range; `MessageTooLarge` for
    /// the payload.
    pub fn from_json(body: &Value) -> Result<Self, ServiceError> {
        let Some(body) = body.as_object() else {
            return Err(ServiceError::invalid("the method request must be a JSON object"));
        };
        let name = match body.get("methodName") {
            None | Some(Value::Null) => {
                return Err(ServiceError::new(
                    ErrorCode::ArgumentNull,
                    "methodName is required",
                ));
            }
            Some(Value::String(name)) => check_name(name)?,
            Some(_) => return Err(ServiceError::invalid("methodName must be a string")),
        };
        let payload = body.get("payload").map_or(JsonText::NULL, JsonText::from_value);
        if payload.size() > limits::METHOD_PAYLOAD_BYTES {
            return Err(ServiceError::new(
                ErrorCode::MessageTooLarge,
                format!(
                    "'payload' size should be less than {} bytes",
                    limits::METHOD_PAYLOAD_BYTES
                ),
            ));
        }
        let response_timeout = timeout(
            body.get("responseTimeoutInSeconds"),
            "responseTimeoutInSeconds",
            limits::METHOD_RESPONSE_SECONDS,
        )?;
        let connect_timeout = timeout(
            body.get("connectTimeoutInSeconds"),
            "connectTimeoutInSeconds",
            limits::METHOD_CONNECT_SECONDS,
        )?;
        Ok(Self {
            name: name.into(),
            payload,
            response_timeout: response_timeout.unwrap_or(limits::METHOD_RESPONSE_DEFAULT),
            connect_timeout: connect_timeout.unwrap_or(Duration::ZERO),
        })
    }

    /// The call as a request body, the inverse of [`MethodCall::from_json`].
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "methodName": &*self.name,
            "payload": self.payload.to_value(),
            "responseTimeoutInSeconds": self.response_timeout.as_secs(),
            "connectTimeoutInSeconds": self.connect_timeout.as_secs(),
        })
    }
}

fn check_name(name: &str) -> Result<&str, ServiceError> {
    if name.is_empty() {
        return Err(ServiceError::invalid("methodName must not be empty"));
    }
    if name.chars().count() > limits::METHOD_NAME_CHARS {
        return Err(ServiceError::invalid(format!(
            "methodName must not be longer than {} characters",
            limits::METHOD_NAME_CHARS
        )));
    }
    if let Some(c) = name.chars().find(|c| "/?#+".contains(*c) || c.is_control()) {
        return Err(ServiceError::invalid(format!(
            "methodName must not contain {c:?}"
        )));
    }
    Ok(name)
}

fn timeout(
    value: Option<&Value>,
    name: &str,
    range: std::ops::RangeInclusive<u64>,
) -> Result<Option<Duration>, ServiceError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(seconds) if range.contains(&seconds) => Ok(Some(Duration::from_secs(seconds))),
            _ => Err(ServiceError::invalid(format!(
                "{name} must be within [{}; {}].",
                range.start(),
                range.end()
            ))),
        },
    }
}

/// A device's answer to a method call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MethodResponse {
    /// The device's own status; any 32-bit integer, by convention like HTTP's.
    pub status: i32,
    /// The device's own body, `null` when it sent none.
    pub payload: JsonText,
}

impl MethodResponse {
    /// Checks what a device published as its response body.
    ///
    /// # Errors
    /// `MessageTooLarge` above 128 KB, `GenericBadGateway` when it is not JSON.
    /// The service documents neither case; both choices are the emulator's own.
    pub fn from_device(status: i32, body: &[u8]) -> Result<Self, ServiceError> {
        if body.len() > limits::METHOD_PAYLOAD_BYTES {
            return Err(ServiceError::new(
                ErrorCode::MessageTooLarge,
                format!(
                    "the device answered with more than {} bytes",
                    limits::METHOD_PAYLOAD_BYTES
                ),
            ));
        }
        let payload = if body.is_empty() {
            JsonText::NULL
        } else {
            // Copied: the body is a slice of the connection's read buffer.
            JsonText::parse(bytes::Bytes::copy_from_slice(body)).map_err(|e| {
                ServiceError::new(
                    ErrorCode::GenericBadGateway,
                    format!("the device's answer is {e}"),
                )
            })?
        };
        Ok(Self { status, payload })
    }
}

/// The id under which a request was sent to a device, unique per connection.
pub type RequestId = u32;

/// The calls of one connection that wait for the device's answer.
///
/// `W` is whatever the shell uses to wake the waiting caller.
#[derive(Debug)]
pub struct PendingCalls<W> {
    last_id: RequestId,
    waiting: BTreeMap<RequestId, W>,
}

impl<W> Default for PendingCalls<W> {
    fn default() -> Self {
        Self {
            last_id: 0,
            waiting: BTreeMap::new(),
        }
    }
}

impl<W> PendingCalls<W> {
    /// Enters a call and gives it the connection's next request id, starting
    /// at 1 as the service does.
    ///
    /// # Errors
    /// `DeviceMaximumInflightMethodExceeded` when `cap` calls are waiting already.
    pub fn begin(&mut self, waiter: W, cap: usize) -> Result<RequestId, ServiceError> {
        if self.waiting.len() >= cap {
            return Err(ServiceError::new(
                ErrorCode::DeviceMaximumInflightMethodExceeded,
                format!("the device has {cap} direct methods in flight already"),
            ));
        }
        self.last_id = self.last_id.wrapping_add(1);
        self.waiting.insert(self.last_id, waiter);
        Ok(self.last_id)
    }

    /// Takes out the call that a response names. `None` for an id that was
    /// never given or whose caller has stopped waiting: such a response is
    /// dropped silently.
    pub fn finish(&mut self, id: RequestId) -> Option<W> {
        self.waiting.remove(&id)
    }

    /// Takes out every call, for a connection that ended.
    pub fn drain(&mut self) -> impl Iterator<Item = W> + use<W> {
        std::mem::take(&mut self.waiting).into_values()
    }

    /// Number of calls that wait for an answer.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether no call waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// The device is not connected or does not listen for methods, and stayed so
/// for the connect timeout (404103, in the wording that clients know).
#[must_use]
pub fn not_online(connect_timeout: Duration) -> ServiceError {
    let s = connect_timeout.as_secs();
    ServiceError {
        code: ErrorCode::DeviceNotOnline,
        message: "Timed out waiting for device to connect.".into(),
        info: Some(json!({ "timeout": format!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60) })),
    }
}

/// The device did not answer within the response timeout (504101).
#[must_use]
pub fn no_response() -> ServiceError {
    ServiceError {
        code: ErrorCode::GatewayTimeout,
        message: "Timed out waiting for the response from device.".into(),
        info: Some(json!({})),
    }
}

/// The device's connection ended while the call was under way (404103).
#[must_use]
pub fn connection_lost() -> ServiceError {
    ServiceError {
        code: ErrorCode::DeviceNotOnline,
        message: "The device disconnected before it answered.".into(),
        info: Some(json!({})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_call_is_read_and_written_back() {
        let body = json!({"methodName":"lockDoor","payload":{"lockTime":"10m"},
                          "responseTimeoutInSeconds":60,"connectTimeoutInSeconds":5,"timeout":1});
        let call = MethodCall::from_json(&body).unwrap();
        assert_eq!(&*call.name, "lockDoor");
        assert_eq!(call.response_timeout, Duration::from_secs(60));
        assert_eq!(call.connect_timeout, Duration::from_secs(5));
        assert_eq!(MethodCall::from_json(&call.to_json()).unwrap(), call);
    }

    #[test]
    fn defaults_apply_to_what_is_absent() {
        let call = MethodCall::from_json(&json!({"methodName":"m"})).unwrap();
        assert_eq!(call.payload, JsonText::NULL);
        assert_eq!(call.response_timeout, Duration::from_secs(30));
        assert_eq!(call.connect_timeout, Duration::ZERO);
    }

    #[test]
    fn each_bad_request_is_refused_with_its_own_code() {
        let code = |body: Value| MethodCall::from_json(&body).unwrap_err().code;
        assert_eq!(code(json!({})), ErrorCode::ArgumentNull);
        assert_eq!(code(json!([])), ErrorCode::ArgumentInvalid);
        assert_eq!(code(json!({"methodName":""})), ErrorCode::ArgumentInvalid);
        assert_eq!(code(json!({"methodName":"a/b"})), ErrorCode::ArgumentInvalid);
        assert_eq!(
            code(json!({"methodName":"x".repeat(101)})),
            ErrorCode::ArgumentInvalid
        );
        let too_big = json!({"methodName":"m","payload":"x".repeat(limits::METHOD_PAYLOAD_BYTES)});
        assert_eq!(code(too_big), ErrorCode::MessageTooLarge);
        for (name, value) in [
            ("responseTimeoutInSeconds", 4),
            ("responseTimeoutInSeconds", 301),
            ("connectTimeoutInSeconds", 301),
        ] {
            let error = MethodCall::from_json(&json!({"methodName":"m", name: value})).unwrap_err();
            assert_eq!(error.code, ErrorCode::ArgumentInvalid);
            assert!(
                error.message.starts_with(&format!("{name} must be within [")),
                "{}",
                error.message
            );
        }
    }

    #[test]
    fn a_device_may_answer_with_nothing_but_not_with_garbage() {
        assert_eq!(
            MethodResponse::from_device(-1, b"").unwrap().payload,
            JsonText::NULL
        );
        let code = |body: &[u8]| MethodResponse::from_device(200, body).unwrap_err().code;
        assert_eq!(code(b"hello"), ErrorCode::GenericBadGateway);
        assert_eq!(
            code(&vec![b' '; limits::METHOD_PAYLOAD_BYTES + 1]),
            ErrorCode::MessageTooLarge
        );
    }

    #[test]
    fn request_ids_start_at_one_and_each_is_answered_once() {
        let mut pending = PendingCalls::default();
        assert_eq!(pending.begin("a", 2).unwrap(), 1);
        assert_eq!(pending.begin("b", 2).unwrap(), 2);
        let full = pending.begin("c", 2).unwrap_err();
        assert_eq!(full.code, ErrorCode::DeviceMaximumInflightMethodExceeded);
        assert_eq!(pending.finish(1), Some("a"));
        assert_eq!(pending.finish(1), None);
        assert_eq!(pending.begin("d", 2).unwrap(), 3);
        assert_eq!(pending.drain().collect::<Vec<_>>(), ["b", "d"]);
        assert!(pending.is_empty());
    }
}
