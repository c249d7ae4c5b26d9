//! The service's error vocabulary.
//!
//! Every failed operation of the hub ends in a [`ServiceError`]: one of the
//! service's numbered codes plus a text. How an error travels (HTTP envelope,
//! MQTT status, AMQP condition) is the business of the protocol that carries
//! it.

use serde_json::Value;

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// A numbered error of the service. The first three digits are the
        /// HTTP status. Source: Azure's table of IoT Hub error codes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
        }

        impl ErrorCode {
            /// The six-digit number, as in `404103`.
            #[must_use]
            pub fn number(self) -> u32 {
                match self { $(Self::$name => $number,)* }
            }

            /// The name, as in `DeviceNotOnline`; the value of the `iothub-errorcode` header.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// The code of that name, exactly spelled; `None` for one that is
            /// not in this table, such as a newer code of the real service.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $(stringify!($name) => Some(Self::$name),)* _ => None }
            }
        }
    };
}

error_codes! {
    /// The request cannot be understood at all.
    GenericBadRequest = 400_000,
    /// The api-version is missing or malformed.
    InvalidProtocolVersion = 400_001,
    /// The operation does not apply here.
    InvalidOperation = 400_003,
    /// A value breaks a rule.
    ArgumentInvalid = 400_004,
    /// A required value is missing.
    ArgumentNull = 400_005,
    /// The body is not in the expected format.
    IotHubFormatError = 400_006,
    /// A container of an import or export job cannot be used.
    BlobContainerValidationError = 400_008,
    /// One device occurs twice in a bulk request.
    DeviceDefinedMultipleTimes = 400_011,
    /// The correlation id names no file upload of the device.
    InvalidFileUploadCorrelationId = 400_015,
    /// The file upload's time is over.
    ExpiredFileUploadCorrelationId = 400_016,
    /// A file upload's notification is not in its form.
    InvalidFileUploadCompletionStatus = 400_019,
    /// The file that a device says it uploaded is not there.
    InvalidStorageEndpointOrBlob = 400_020,
    /// The device connected again while the call was under way.
    ConnectionForcefullyClosedOnNewConnection = 400_027,
    /// A device scope that no Edge device has.
    InvalidDeviceScope = 400_028,
    /// A key that identities do not have.
    InvalidPolicyKey = 400_035,
    /// A configuration's target condition cannot be evaluated.
    InvalidConfigurationTargetCondition = 400_401,
    /// A configuration's content breaks a rule.
    InvalidConfigurationContent = 400_402,
    /// A custom metric of a configuration cannot be run.
    InvalidConfigurationCustomMetricsQuery = 400_404,
    /// A digital twin patch is not a JSON patch that the service supports.
    InvalidDigitalTwinJsonPatch = 400_505,
    /// A value in a digital twin patch breaks a rule.
    InvalidDigitalTwinPayload = 400_506,
    /// A path in a digital twin patch leads to no component or property.
    InvalidDigitalTwinPatchPath = 400_508,
    /// The caller may not do this: bad, expired or insufficient credentials.
    IotHubUnauthorizedAccess = 401_002,
    /// The token has expired.
    IotHubUnauthorized = 401_003,
    /// The hub holds as many identities as it may.
    IotHubQuotaExceeded = 403_002,
    /// As many cloud-to-device messages wait for the device as may.
    DeviceMaximumQueueDepthExceeded = 403_004,
    /// A message's expiry is over, or too far ahead.
    InvalidMessageExpiryTime = 403_009,
    /// An import or export job is active.
    JobQuotaExceeded = 403_003,
    /// The device has as many file uploads in flight as it may.
    DeviceMaximumActiveFileUploadLimitExceeded = 403_006,
    /// The tier does not have this operation.
    OperationNotAvailableInCurrentTier = 403_010,
    /// Too many method calls in flight to one device.
    DeviceMaximumInflightMethodExceeded = 403_800,
    /// No such resource.
    GenericNotFound = 404_000,
    /// The device is unknown or disabled.
    DeviceNotFound = 404_001,
    /// The job is unknown.
    JobNotFound = 404_002,
    /// The module is unknown.
    ModuleNotFound = 404_010,
    /// The device is not connected, or does not listen for methods.
    DeviceNotOnline = 404_103,
    /// The configuration is unknown.
    ConfigurationNotFound = 404_301,
    /// The path does not know this HTTP method.
    GenericMethodNotAllowed = 405_000,
    /// The device id is taken.
    DeviceAlreadyExists = 409_001,
    /// The job id is taken.
    JobAlreadyExists = 409_104,
    /// The module id is taken on this device.
    ModuleAlreadyExistsOnDevice = 409_301,
    /// The configuration's id is taken.
    ConfigurationAlreadyExists = 409_401,
    /// The ETag does not match.
    PreconditionFailed = 412_001,
    /// The message is not held under this token, or not any more.
    DeviceMessageLockLost = 412_002,
    /// The job is in a state that does not allow this.
    JobRunPreconditionFailed = 412_003,
    /// The body exceeds the limit.
    GenericRequestEntityTooLarge = 413_000,
    /// The message exceeds the limit.
    MessageTooLarge = 413_001,
    /// More than 100 devices in a bulk request.
    TooManyDevices = 413_002,
    /// More than 50 modules on a device.
    TooManyModulesOnDevice = 413_003,
    /// The hub holds as many configurations as it may.
    ConfigurationCountLimitExceeded = 413_101,
    /// Generic throttling.
    ThrottlingException = 429_001,
    /// As many jobs are active as may be.
    ThrottlingMaxActiveJobCountExceeded = 429_004,
    /// The hub itself failed.
    ServerError = 500_001,
    /// The job was cancelled.
    JobCancelled = 500_002,
    /// The device answered with something that is not JSON.
    GenericBadGateway = 502_000,
    /// The hub is shutting down.
    ServiceUnavailable = 503_001,
    /// The job's execution window ended first. The emulator's own name, used
    /// only in per-device job records; the number is that of a gateway timeout.
    JobTimedOut = 504_000,
    /// The device did not answer in time.
    GatewayTimeout = 504_101,
}

impl ErrorCode {
    /// The HTTP status that goes with the code: its first three digits.
    #[must_use]
    pub fn status(self) -> u16 {
        // Codes have six digits, so the quotient has three.
        (self.number() / 1000) as u16
    }
}

/// A failed operation, in the service's own terms.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{}: {message}", .code.name())]
pub struct ServiceError {
    /// Which of the service's errors this is.
    pub code: ErrorCode,
    /// Text for people; for some codes a form that clients match on.
    pub message: String,
    /// Further facts of the detailed form, such as `{"timeout":"00:01:00"}`.
    pub info: Option<Value>,
}

impl ServiceError {
    /// An error with its text.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            info: None,
        }
    }

    /// `ArgumentInvalid` with its text, the most frequent refusal.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::ArgumentInvalid, message)
    }

    /// The stale-ETag refusal, in the words that clients know.
    #[must_use]
    pub fn stale_etag() -> Self {
        Self::new(
            ErrorCode::PreconditionFailed,
            "PreconditionFailed, ETag may be invalid.",
        )
    }

    /// An unknown device; the text is the id itself, as the service has it.
    #[must_use]
    pub fn device_not_found(id: &str) -> Self {
        Self::new(ErrorCode::DeviceNotFound, id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_the_head_of_the_number() {
        assert_eq!(ErrorCode::DeviceNotOnline.number(), 404_103);
        assert_eq!(ErrorCode::DeviceNotOnline.status(), 404);
        assert_eq!(ErrorCode::DeviceNotOnline.name(), "DeviceNotOnline");
        assert_eq!(ErrorCode::GatewayTimeout.status(), 504);
        assert_eq!(
            ErrorCode::from_name("DeviceNotOnline"),
            Some(ErrorCode::DeviceNotOnline)
        );
        assert_eq!(ErrorCode::from_name("devicenotonline"), None);
    }
}
