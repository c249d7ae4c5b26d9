//! `/digitaltwins/…`: twins by the conventions of IoT Plug and Play, and
//! commands, which are direct methods. Their errors have no envelope.

use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hub_core::digital_twin::DigitalTwinPatch;
use hub_core::method::MethodCall;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::App;
use super::auth::ServiceCaller;
use super::error::HttpError;
use super::reply::JsonReply;
use super::request::{CommandPath, JsonBody, OptionalJsonBody, Precondition, TargetPath, query_parameter};

/// What is written in hexadecimal in a path: all but the unreserved characters.
const ENCODED: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

pub(super) async fn read(
    _: ServiceCaller,
    State(app): State<App>,
    TargetPath(target): TargetPath,
) -> Result<JsonReply, HttpError> {
    let twin = app.hub.digital_twin(&target).map_err(HttpError::bare)?;
    Ok(JsonReply::raw(twin.body).etag(&twin.etag))
}

/// Answers 202 without a body: the device has yet to take the change.
pub(super) async fn update(
    _: ServiceCaller,
    State(app): State<App>,
    TargetPath(target): TargetPath,
    Precondition(if_match): Precondition,
    JsonBody(body): JsonBody,
) -> Result<Response, HttpError> {
    // An unknown device is reported before a bad body.
    app.hub.check_exists(&target).map_err(HttpError::bare)?;
    let patch = DigitalTwinPatch::from_json(&body).map_err(HttpError::bare)?;
    let etag = app
        .hub
        .update_digital_twin(&target, &patch, &if_match)
        .map_err(HttpError::bare)?;
    let id = utf8_percent_encode(target.device.as_str(), &ENCODED);
    let location = format!("https://{}/digitaltwins/{id}", app.hub.settings.host_name);
    let headers = [
        (header::ETAG, format!("\"{etag}\"")),
        (header::LOCATION, location),
    ];
    Ok((StatusCode::ACCEPTED, headers).into_response())
}

/// Answers 200 with the device's payload; its status goes into a header.
pub(super) async fn invoke(
    _: ServiceCaller,
    State(app): State<App>,
    CommandPath { target, method }: CommandPath,
    RawQuery(query): RawQuery,
    OptionalJsonBody(payload): OptionalJsonBody,
) -> Result<JsonReply, HttpError> {
    app.hub.check_exists(&target).map_err(HttpError::bare)?;
    let seconds = |name| match query_parameter(query.as_deref(), name) {
        None => Value::Null,
        Some(text) => text.parse::<u64>().map_or(json!(text), Value::from),
    };
    let call = MethodCall::from_json(&json!({
        "methodName": method,
        "payload": payload,
        "connectTimeoutInSeconds": seconds("connectTimeoutInSeconds"),
        "responseTimeoutInSeconds": seconds("responseTimeoutInSeconds"),
    }))
    .map_err(HttpError::bare)?;
    let response = app
        .hub
        .invoke_method(&target, &call)
        .await
        .map_err(HttpError::bare)?;
    Ok(JsonReply::raw(response.payload.as_bytes().to_vec())
        .header("x-ms-command-statuscode", &response.status.to_string()))
}
