//! Errors of the service as AMQP conditions.

use amqp_wire::performative::{Error, condition};
use hub_core::error::{ErrorCode, ServiceError};

use crate::hub::access::Denied;

pub(crate) const NOT_FOUND: &str = "amqp:not-found";
pub(crate) const UNAUTHORIZED: &str = "amqp:unauthorized-access";
pub(crate) const DETACH_FORCED: &str = "amqp:link:detach-forced";
pub(crate) const NOT_IMPLEMENTED: &str = "amqp:not-implemented";
pub(crate) const INTERNAL: &str = "amqp:internal-error";
pub(crate) const ARGUMENT: &str = "com.microsoft:argument-error";
pub(crate) const LOCK_LOST: &str = "com.microsoft:message-lock-lost";
pub(crate) const PRECONDITION: &str = "com.microsoft:precondition-failed";
pub(crate) const THROTTLED: &str = "com.microsoft:device-container-throttled";
pub(crate) const TIMEOUT: &str = "com.microsoft:timeout";

/// The condition that clients know an error by. Source: the error adapters of
/// the official SDKs.
pub(crate) fn of(error: &ServiceError) -> Error {
    let name = match error.code {
        ErrorCode::DeviceMessageLockLost => LOCK_LOST,
        ErrorCode::DeviceMaximumQueueDepthExceeded | ErrorCode::IotHubQuotaExceeded => {
            condition::RESOURCE_LIMIT_EXCEEDED
        }
        ErrorCode::MessageTooLarge | ErrorCode::GenericRequestEntityTooLarge => {
            condition::MESSAGE_SIZE_EXCEEDED
        }
        code => match code.number() / 1000 {
            400 => ARGUMENT,
            401 => UNAUTHORIZED,
            403 | 405 => condition::NOT_ALLOWED,
            404 => NOT_FOUND,
            412 => PRECONDITION,
            413 => condition::RESOURCE_LIMIT_EXCEEDED,
            429 => THROTTLED,
            504 => TIMEOUT,
            _ => INTERNAL,
        },
    };
    Error::new(name, error.message.clone())
}

/// Always the same text, as over HTTP.
pub(crate) fn unauthorized(denied: &Denied) -> Error {
    tracing::debug!(%denied, "link refused");
    Error::new(UNAUTHORIZED, "Unauthorized")
}

pub(crate) fn not_found() -> Error {
    Error::new(NOT_FOUND, "there is nothing at this address")
}

/// For a link whose ends have the wrong roles.
pub(crate) fn wrong_role() -> Error {
    Error::new(
        condition::NOT_ALLOWED,
        "messages do not go this way at this address",
    )
}
