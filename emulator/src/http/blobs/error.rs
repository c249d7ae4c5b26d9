//! Errors in the storage service's own form.

use std::io;

use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use hub_core::blob::BlobNameError;
use hub_core::sas::blob::BlobSasError;

use super::xml::{self, BlockListError};
use crate::blobs::{BlockError, StoreError};
use crate::hub::internal;

/// A failed request of a blob or container.
#[derive(Debug)]
pub(super) struct BlobError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl BlobError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    /// An operation of the storage service that is not here.
    pub(super) fn not_supported(parts: &Parts) -> Self {
        match parts.method {
            Method::GET | Method::HEAD | Method::PUT | Method::DELETE | Method::POST => Self::new(
                StatusCode::NOT_IMPLEMENTED,
                "NotImplemented",
                "this storage knows put (block blobs), put block, put block list, get, delete and list",
            ),
            _ => Self::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "UnsupportedHttpVerb",
                "the resource does not support this method",
            ),
        }
    }

    pub(super) fn too_large() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestBodyTooLarge",
            BlockError::TooLarge.to_string(),
        )
    }

    pub(super) fn incomplete() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "IncompleteBody",
            "the request body did not arrive completely",
        )
    }

    pub(super) fn invalid_xml(error: BlockListError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "InvalidXmlDocument", error.to_string())
    }
}

impl From<BlobNameError> for BlobError {
    fn from(error: BlobNameError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "InvalidResourceName", error.to_string())
    }
}

impl From<BlobSasError> for BlobError {
    fn from(error: BlobSasError) -> Self {
        let code = match error {
            BlobSasError::Permission => "AuthorizationPermissionMismatch",
            _ => "AuthenticationFailed",
        };
        Self::new(StatusCode::FORBIDDEN, code, error.to_string())
    }
}

impl From<StoreError> for BlobError {
    fn from(error: StoreError) -> Self {
        let (status, code) = match &error {
            StoreError::NoBlob => (StatusCode::NOT_FOUND, "BlobNotFound"),
            StoreError::NameTooLong => (StatusCode::BAD_REQUEST, "InvalidResourceName"),
            StoreError::BlobExists => (StatusCode::CONFLICT, "BlobAlreadyExists"),
            StoreError::ConditionNotMet => (StatusCode::PRECONDITION_FAILED, "ConditionNotMet"),
            StoreError::NameTaken => (StatusCode::CONFLICT, "InvalidBlobOrBlock"),
            StoreError::TooManyContainers => (StatusCode::CONFLICT, "ContainerLimitExceeded"),
            StoreError::Io(error) => return Self::from(io::Error::new(error.kind(), error.to_string())),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<BlockError> for BlobError {
    fn from(error: BlockError) -> Self {
        let (status, code) = match error {
            BlockError::UnknownBlock => (StatusCode::BAD_REQUEST, "InvalidBlockList"),
            BlockError::TooMany => (StatusCode::CONFLICT, "BlockCountExceedsLimit"),
            BlockError::TooLarge => return Self::too_large(),
            BlockError::Store(error) => return error.into(),
        };
        Self::new(status, code, error.to_string())
    }
}

/// What the file system says is for the hub's log.
impl From<io::Error> for BlobError {
    fn from(error: io::Error) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalError",
            internal(error).message,
        )
    }
}

impl IntoResponse for BlobError {
    fn into_response(self) -> Response {
        let mut response = xml::reply(xml::error(self.code, &self.message));
        *response.status_mut() = self.status;
        response.headers_mut().insert(
            HeaderName::from_static("x-ms-error-code"),
            HeaderValue::from_static(self.code),
        );
        response
    }
}
