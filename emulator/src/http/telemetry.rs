//! `…/messages/events`: device-to-cloud messages over HTTP, one or a batch.

use axum::body::Body;
use axum::extract::{FromRequest, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hub_core::error::{ErrorCode, ServiceError};
use hub_core::json::check_depth;
use hub_core::limits;
use hub_core::property_bag::{MessageProperties, SystemProperty};
use serde_json::{Map, Value};

use super::App;
use super::auth::DeviceCaller;
use super::error::HttpError;
use super::message_headers::{properties_from_headers, set_property};
use super::request;

/// The media type of a batch (the SDKs' HTTP transports).
const BATCH: &str = "application/vnd.microsoft.iothub.json";

/// Bytes of a body that are read. A batch's base64 and names make it longer
/// than what it carries, which is what counts; and a client that is refused
/// before it has sent everything sees a broken connection instead of the
/// answer. The emulator's own.
const BODY_BYTES: usize = 4 * limits::D2C_MESSAGE_BYTES;

/// The body of a device's message: bytes whatever the content type.
pub(super) struct MessageBody {
    is_batch: bool,
    bytes: Bytes,
}

impl FromRequest<App> for MessageBody {
    type Rejection = HttpError;

    async fn from_request(request: Request<Body>, _: &App) -> Result<Self, HttpError> {
        let is_batch = is_batch(request.headers());
        let bytes = request::read(request.into_body(), BODY_BYTES, too_large).await?;
        Ok(Self { is_batch, bytes })
    }
}

fn is_batch(headers: &HeaderMap) -> bool {
    let media_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next());
    media_type.is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case(BATCH))
}

fn too_large() -> ServiceError {
    ServiceError::new(
        ErrorCode::MessageTooLarge,
        format!(
            "the message or batch exceeds the limit of {} bytes",
            limits::D2C_MESSAGE_BYTES
        ),
    )
}

/// A batch is accepted as a whole or not at all.
pub(super) async fn send(
    DeviceCaller(source, auth): DeviceCaller,
    State(app): State<App>,
    headers: HeaderMap,
    body: MessageBody,
) -> Result<StatusCode, HttpError> {
    let messages = if body.is_batch {
        batch(&body.bytes)?
    } else {
        let mut properties = properties_from_headers(&headers)?;
        // Where the request goes, which clients say in a header as well.
        properties.system.remove(&SystemProperty::To);
        properties.system.remove(&SystemProperty::Operation);
        vec![(properties, body.bytes)]
    };
    let size: usize = messages
        .iter()
        .map(|(properties, body)| body.len() + properties.size())
        .sum();
    if size > limits::D2C_MESSAGE_BYTES {
        return Err(too_large().into());
    }
    app.hub.accept_telemetry(&source, auth, &messages)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Reads `[{"body":"…","base64Encoded":true,"properties":{…}}]`.
fn batch(bytes: &[u8]) -> Result<Vec<(MessageProperties, Bytes)>, ServiceError> {
    check_depth(bytes).map_err(|e| ServiceError::invalid(e.to_string()))?;
    let items: Vec<Map<String, Value>> = serde_json::from_slice(bytes)
        .map_err(|e| ServiceError::invalid(format!("the batch is not a JSON array of messages: {e}")))?;
    items
        .iter()
        .enumerate()
        .map(|(index, item)| {
            message(item).map_err(|reason| {
                ServiceError::invalid(format!("message {} of the batch: {reason}", index + 1))
            })
        })
        .collect()
}

fn message(item: &Map<String, Value>) -> Result<(MessageProperties, Bytes), String> {
    let is_base64 = match item.get("base64Encoded") {
        None | Some(Value::Null) => true,
        Some(Value::Bool(is_base64)) => *is_base64,
        Some(_) => return Err("base64Encoded must be a boolean".into()),
    };
    let body = match item.get("body") {
        None | Some(Value::Null) => Bytes::new(),
        Some(Value::String(text)) if is_base64 => STANDARD
            .decode(text)
            .map_err(|_| "the body is not base64")?
            .into(),
        Some(Value::String(text)) => text.clone().into(),
        Some(_) => return Err("the body must be a string".into()),
    };
    let mut properties = MessageProperties::default();
    match item.get("properties") {
        None | Some(Value::Null) => {}
        Some(Value::Object(members)) => {
            for (name, value) in members {
                let Value::String(value) = value else {
                    return Err(format!("the property {name} must be a string"));
                };
                set_property(&mut properties, name, value.as_bytes()).map_err(|e| e.message)?;
            }
        }
        Some(_) => return Err("properties must be an object".into()),
    }
    Ok((properties, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_base64_unless_an_item_says_otherwise() {
        let text =
            br#"[{"body":"aGk="},{"body":"aGk=","base64Encoded":false},{"body":null,"properties":null},{}]"#;
        let bodies: Vec<Bytes> = batch(text).unwrap().into_iter().map(|(_, body)| body).collect();
        assert_eq!(bodies, ["hi", "aGk=", "", ""]);
        assert_eq!(batch(b"[]").unwrap().len(), 0);
    }

    #[test]
    fn a_bad_item_is_named() {
        for (text, expected) in [
            (
                r#"[{},{"body":"%"}]"#,
                "message 2 of the batch: the body is not base64",
            ),
            (
                r#"[{"body":1}]"#,
                "message 1 of the batch: the body must be a string",
            ),
            (
                r#"[{"base64Encoded":"no"}]"#,
                "message 1 of the batch: base64Encoded must be a boolean",
            ),
            (
                r#"[{"properties":[]}]"#,
                "message 1 of the batch: properties must be an object",
            ),
            (
                r#"[{"properties":{"iothub-app-a":1}}]"#,
                "message 1 of the batch: the property iothub-app-a must be a string",
            ),
        ] {
            assert_eq!(batch(text.as_bytes()).unwrap_err().message, expected);
        }
        for text in ["", "{}", "[1]", "[", "null", "[[]]"] {
            let error = batch(text.as_bytes()).unwrap_err();
            assert_eq!(error.code, ErrorCode::ArgumentInvalid, "{text}");
        }
    }
}
