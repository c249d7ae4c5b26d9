//! `/twins/…/methods`: direct methods.

use axum::extract::State;
use bytes::Bytes;
use hub_core::method::{MethodCall, MethodResponse};

use super::App;
use super::auth::ServiceCaller;
use super::error::HttpError;
use super::reply::JsonReply;
use super::request::{JsonBody, TargetPath};

/// Answers 200 with whatever the device said, even if its own status is an error.
pub(super) async fn invoke(
    _: ServiceCaller,
    State(app): State<App>,
    TargetPath(target): TargetPath,
    JsonBody(body): JsonBody,
) -> Result<JsonReply, HttpError> {
    // An unknown device is reported before a bad body.
    // The Node SDK knows an unknown device by the classic envelope only.
    app.hub.check_exists(&target)?;
    let call = MethodCall::from_json(&body).map_err(HttpError::detailed)?;
    let response = app
        .hub
        .invoke_method(&target, &call)
        .await
        .map_err(HttpError::detailed)?;
    Ok(JsonReply::raw(body_of(&response)))
}

/// The device's payload goes into the answer as it came, without being parsed.
fn body_of(response: &MethodResponse) -> Vec<u8> {
    let payload: &Bytes = response.payload.as_bytes();
    let mut body = Vec::with_capacity(payload.len() + 40);
    body.extend_from_slice(format!("{{\"status\":{},\"payload\":", response.status).as_bytes());
    body.extend_from_slice(payload);
    body.push(b'}');
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use hub_core::json::JsonText;

    #[test]
    fn the_payload_key_stays_when_there_is_no_payload() {
        let response = MethodResponse {
            status: -1,
            payload: JsonText::NULL,
        };
        assert_eq!(body_of(&response), b"{\"status\":-1,\"payload\":null}");
    }
}
