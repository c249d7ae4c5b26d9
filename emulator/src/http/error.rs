//! Errors in the service's own envelopes.
//!
//! Most errors are classic: `{"Message":"ErrorCode:<Name>;<text>",
//! "ExceptionMessage":"Tracking ID:…"}`. Those about reaching a device carry
//! their details as a JSON text inside `Message`. SDKs compare the code in the
//! body with the `iothub-errorcode` header, so both are always sent. Digital
//! twins answer with the details alone.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hub_core::error::{ErrorCode, ServiceError};
use job_service::Clock;
use serde_json::json;

use super::reply::JSON_UTF8;
use crate::tracking;

/// A failed request.
#[derive(Debug)]
pub(crate) struct HttpError {
    error: ServiceError,
    envelope: Envelope,
}

#[derive(Debug, Clone, Copy)]
enum Envelope {
    Classic,
    Detailed,
    Bare,
}

impl HttpError {
    /// The error with its details as a JSON text inside `Message`, whatever its code.
    pub(crate) fn detailed(error: ServiceError) -> Self {
        Self {
            error,
            envelope: Envelope::Detailed,
        }
    }

    /// The error as its details alone, without an envelope.
    pub(crate) fn bare(error: ServiceError) -> Self {
        Self {
            error,
            envelope: Envelope::Bare,
        }
    }
}

impl From<ServiceError> for HttpError {
    fn from(error: ServiceError) -> Self {
        let envelope = match error.code {
            ErrorCode::DeviceNotOnline
            | ErrorCode::GatewayTimeout
            | ErrorCode::ModuleNotFound
            | ErrorCode::ConnectionForcefullyClosedOnNewConnection
            | ErrorCode::DeviceMaximumInflightMethodExceeded => Envelope::Detailed,
            _ => Envelope::Classic,
        };
        Self { error, envelope }
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let ServiceError { code, message, info } = self.error;
        // Error times are those of the log, so the system's.
        let now = Clock::system_now();
        let tracking = tracking::id(now);
        let details = || {
            json!({
                "errorCode": code.number(),
                "trackingId": tracking,
                "message": message,
                "info": info.unwrap_or_else(|| json!({})),
                "timestampUtc": now,
            })
        };
        let body = match self.envelope {
            Envelope::Classic => json!({
                "Message": format!("ErrorCode:{};{message}", code.name()),
                "ExceptionMessage": format!("Tracking ID:{tracking}"),
            }),
            Envelope::Detailed => json!({ "Message": details().to_string(), "ExceptionMessage": "" }),
            Envelope::Bare => details(),
        };
        let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            axum::http::header::CONTENT_TYPE,
            HeaderValue::from_static(JSON_UTF8),
        );
        headers.insert(
            HeaderName::from_static("iothub-errorcode"),
            HeaderValue::from_static(code.name()),
        );
        response
    }
}
