//! `/messages/servicebound/feedback`: what became of messages to devices.
//!
//! As with a device's messages, the ETag of a batch names it until it is
//! completed or abandoned.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use hub_core::c2d::LockToken;

use super::App;
use super::auth::ServiceCaller;
use super::error::HttpError;
use super::reply::JsonReply;
use super::request::LastName;

/// The media type of a batch (guide on cloud-to-device messages).
const FEEDBACK: HeaderValue = HeaderValue::from_static("application/vnd.microsoft.iothub.feedback.json");

/// Answers with the oldest batch, or 204 when there is none.
pub(super) async fn receive(_: ServiceCaller, State(app): State<App>) -> Result<Response, HttpError> {
    let Some(batch) = app.hub.take_feedback() else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let mut reply = JsonReply::of(&&*batch.records)?
        .etag(&batch.token.to_string())
        .header("iothub-enqueuedtime", &batch.enqueued.to_string())
        .into_response();
    reply.headers_mut().insert(header::CONTENT_TYPE, FEEDBACK);
    Ok(reply)
}

/// Ends a batch.
pub(super) async fn complete(
    _: ServiceCaller,
    State(app): State<App>,
    LastName(token): LastName,
) -> Result<StatusCode, HttpError> {
    app.hub.complete_feedback(LockToken::parse(&token)?)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a batch back, to be delivered again.
pub(super) async fn abandon(
    _: ServiceCaller,
    State(app): State<App>,
    LastName(token): LastName,
) -> Result<StatusCode, HttpError> {
    app.hub.abandon_feedback(LockToken::parse(&token)?)?;
    Ok(StatusCode::NO_CONTENT)
}
