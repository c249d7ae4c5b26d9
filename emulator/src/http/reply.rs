//! Successful answers.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::error::HttpError;
use crate::hub::internal;

/// The media type of every JSON answer.
pub(crate) const JSON_UTF8: &str = "application/json; charset=utf-8";

/// A JSON answer with status 200.
pub(crate) struct JsonReply {
    body: Vec<u8>,
    headers: Vec<(HeaderName, HeaderValue)>,
    status: StatusCode,
}

impl JsonReply {
    /// Serializes `value`.
    ///
    /// # Errors
    /// 500 when the value cannot be written as JSON.
    pub(crate) fn of(value: &impl Serialize) -> Result<Self, HttpError> {
        Ok(Self::raw(serde_json::to_vec(value).map_err(internal)?))
    }

    /// Takes a body that is JSON already.
    pub(crate) fn raw(body: Vec<u8>) -> Self {
        Self {
            body,
            headers: Vec::new(),
            status: StatusCode::OK,
        }
    }

    /// Adds a header; a value that cannot stand in one is left out.
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((HeaderName::from_static(name), value));
        }
        self
    }

    /// Adds the ETag header, quoted.
    pub(crate) fn etag(self, etag: &str) -> Self {
        self.header("etag", &format!("\"{etag}\""))
    }

    /// Answers with another status than 200.
    pub(crate) fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }
}

impl IntoResponse for JsonReply {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON_UTF8));
        headers.extend(self.headers);
        response
    }
}
