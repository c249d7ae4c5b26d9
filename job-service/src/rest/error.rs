//! What can go wrong between a client and a hub, and the service's own errors
//! read back from its replies.

use std::error::Error;

use hub_core::connection_string::ConnectionStringError;
use hub_core::error::{ErrorCode, ServiceError};
use serde_json::Value;

use super::client::Reply;

/// A call that did not succeed, or a client that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The connection string is malformed.
    #[error("the connection string cannot be read")]
    ConnectionString(#[source] ConnectionStringError),
    /// The connection string is a device's.
    #[error("this is a device's connection string; a service's has a SharedAccessKeyName")]
    NotForServices,
    /// The endpoint is not `http://host:port` or `https://host:port`.
    #[error("{endpoint:?} is not an http:// or https:// address")]
    Endpoint {
        /// What was given instead.
        endpoint: String,
    },
    /// The text that should hold certificates holds none, or broken ones.
    #[error("the CA file does not contain certificates in PEM form")]
    CaFile,
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The hub could not be reached, or the connection failed.
    #[error("the hub cannot be reached")]
    Transport(#[source] reqwest::Error),
    /// The hub refused, with one of its numbered errors.
    #[error(transparent)]
    Service(ServiceError),
    /// The hub refused in a way that is not in the table of errors.
    #[error("the hub answered with status {status}: {text}")]
    Unexpected {
        /// HTTP status.
        status: u16,
        /// The beginning of the body.
        text: String,
    },
    /// The hub's reply is larger than anything it should send.
    #[error("the reply has more than {limit} bytes")]
    TooLarge {
        /// Greatest size that is read.
        limit: usize,
    },
    /// The hub's reply has not the form that it should have.
    #[error("the reply to {call} has an unexpected form")]
    Form {
        /// What was asked for.
        call: &'static str,
    },
}

impl ClientError {
    /// The error of a reply whose status is not a success.
    pub(super) fn of(reply: &Reply) -> Self {
        let message = reply.body.get("Message").and_then(Value::as_str);
        let (name_in_text, text) = match message {
            Some(message) => split(message),
            None => (None, String::new()),
        };
        let code = reply
            .header("iothub-errorcode")
            .and_then(ErrorCode::from_name)
            .or_else(|| name_in_text.and_then(ErrorCode::from_name));
        match code {
            Some(code) => Self::Service(ServiceError::new(code, text)),
            None => Self::Unexpected {
                status: reply.status,
                text: reply.body.to_string().chars().take(500).collect(),
            },
        }
    }

    /// Whether the hub only wants to be asked more slowly.
    pub(super) fn is_throttling(&self) -> bool {
        match self {
            Self::Service(error) => error.code == ErrorCode::ThrottlingException,
            Self::Unexpected { status, .. } => *status == 429,
            _ => false,
        }
    }

    /// Whether the same call may succeed a little later: the hub was not
    /// reached, is too busy, or has trouble of its own.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Transport(_) => true,
            Self::Service(error) => self.is_throttling() || error.code.status() >= 500,
            Self::Unexpected { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }

    /// The same in the terms of a fleet, for the records of a job.
    #[must_use]
    pub fn into_service_error(self) -> ServiceError {
        let code = match &self {
            Self::Service(error) => return error.clone(),
            Self::Transport(error) if error.is_timeout() => ErrorCode::GatewayTimeout,
            Self::Transport(_) => ErrorCode::ServiceUnavailable,
            Self::Unexpected { status: 401, .. } => ErrorCode::IotHubUnauthorizedAccess,
            Self::Unexpected { status: 404, .. } => ErrorCode::GenericNotFound,
            Self::Unexpected { status: 429, .. } => ErrorCode::ThrottlingException,
            _ => ErrorCode::ServerError,
        };
        ServiceError::new(code, chain(&self))
    }
}

/// The error and its sources, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// Takes a `Message` apart: `ErrorCode:<name>;<text>`, or a JSON text of its
/// own with a member `message`.
fn split(message: &str) -> (Option<&str>, String) {
    if let Some(classic) = message.strip_prefix("ErrorCode:") {
        let (name, text) = classic.split_once(';').unwrap_or((classic, ""));
        return (Some(name), text.to_owned());
    }
    let detailed: Option<Value> = serde_json::from_str(message).ok();
    let text = detailed.as_ref().and_then(|object| object["message"].as_str());
    (None, text.unwrap_or(message).to_owned())
}
