//! `/devices/…/messages/devicebound` and `/devices/…/commands`: messages to
//! devices, from both of their ends.
//!
//! The service takes new messages over AMQP only; sending by POST is what IoT
//! Explorer does. A device that receives over HTTP polls, and names what it
//! holds by the ETag of the answer.

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use hub_core::c2d::{Delivery, Draft, Settlement};
use serde_json::json;

use super::App;
use super::auth::{DeviceCaller, ServiceCaller};
use super::error::HttpError;
use super::message_headers::{headers_from_properties, properties_from_headers};
use super::reply::JsonReply;
use super::request::{RawBody, TargetPath, TokenPath, query_parameter};

/// Sends a message to the device or module in the path.
pub(super) async fn send(
    _: ServiceCaller,
    State(app): State<App>,
    TargetPath(target): TargetPath,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Result<StatusCode, HttpError> {
    let properties = properties_from_headers(&headers)?;
    // Copied: the body may be a slice of the connection's read buffer.
    let draft = Draft::new(properties, Bytes::copy_from_slice(&body))?;
    app.hub.send_to_device(&target, draft)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Answers the calling device with its next message, or 204 when none waits.
pub(super) async fn receive(
    DeviceCaller(target, _): DeviceCaller,
    State(app): State<App>,
) -> Result<Response, HttpError> {
    Ok(match app.hub.take_message(&target)? {
        Some(delivery) => (headers_of(&delivery), delivery.message.body.clone()).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

fn headers_of(delivery: &Delivery) -> HeaderMap {
    let message = &delivery.message;
    let mut headers = headers_from_properties(&message.properties);
    let mut add = |name: &'static str, text: String| {
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(name, value);
        }
    };
    add(header::ETAG.as_str(), format!("\"{}\"", delivery.token));
    add("iothub-sequencenumber", message.sequence.to_string());
    add("iothub-enqueuedtime", message.enqueued.to_string());
    add("iothub-expiry", message.expiry.to_string());
    add("iothub-deliverycount", delivery.delivery_count.to_string());
    add("iothub-ack", message.ack.as_str().into());
    headers
}

/// Completes a message, or rejects it when the query says `reject`.
pub(super) async fn settle(
    DeviceCaller(target, _): DeviceCaller,
    State(app): State<App>,
    TokenPath(token): TokenPath,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, HttpError> {
    let settlement = match query_parameter(query.as_deref(), "reject") {
        Some(_) => Settlement::Reject,
        None => Settlement::Complete,
    };
    app.hub.settle_message(&target, token, settlement)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a message back, to be delivered again.
pub(super) async fn abandon(
    DeviceCaller(target, _): DeviceCaller,
    State(app): State<App>,
    TokenPath(token): TokenPath,
) -> Result<StatusCode, HttpError> {
    app.hub.settle_message(&target, token, Settlement::Abandon)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Empties the queue of the device or module in the path.
pub(super) async fn purge(
    _: ServiceCaller,
    State(app): State<App>,
    TargetPath(target): TargetPath,
) -> Result<JsonReply, HttpError> {
    let purged = app.hub.purge_messages(&target)?;
    JsonReply::of(&json!({
        "deviceId": target.device,
        "moduleId": target.module,
        "totalMessagesPurged": purged,
    }))
}
