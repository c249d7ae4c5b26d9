//! Topics that the hub publishes to.

use std::fmt;

use super::{Address, Parameters, TopicError, decimal};

/// A topic that the hub publishes to on the connection of a device or module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubTopic<'a> {
    /// Calls a direct method: `$iothub/methods/POST/{name}/?$rid={rid}`.
    MethodRequest {
        /// The method's name, as the caller wrote it.
        name: &'a str,
        /// The hub's id for the call, to be echoed byte for byte.
        rid: &'a str,
    },
    /// Answers a twin request:
    /// `$iothub/twin/res/{status}/?$rid={rid}[&$version={version}]`.
    TwinResponse {
        /// An HTTP status: 200 for a read, 204 for an update, 4xx and 5xx for failures.
        status: u16,
        /// The device's id of the request.
        rid: &'a str,
        /// The reported properties' new version, after an update.
        version: Option<u64>,
    },
    /// Tells of changed desired properties:
    /// `$iothub/twin/PATCH/properties/desired/?$version={version}`.
    DesiredChanged {
        /// The desired properties' new version.
        version: u64,
    },
    /// A cloud-to-device message:
    /// `devices/{d}[/modules/{m}]/messages/devicebound/{bag}`.
    CloudToDevice {
        /// The receiver.
        address: Address<'a>,
        /// The property bag, encoded. Some clients cannot take an empty one.
        bag: &'a str,
    },
}

impl<'a> HubTopic<'a> {
    /// Reads a topic that the hub published to, for clients.
    ///
    /// # Errors
    /// When it is none, or one of its parameters is missing or malformed.
    pub fn parse(text: &'a str) -> Result<Self, TopicError> {
        if let Some(rest) = text.strip_prefix("$iothub/methods/POST/") {
            let (name, rest) = rest.split_once('/').ok_or(TopicError::Unknown)?;
            if name.is_empty() {
                return Err(TopicError::Unknown);
            }
            let rid = Parameters::of(rest)?.request_id()?;
            return Ok(Self::MethodRequest { name, rid });
        }
        if let Some(rest) = text.strip_prefix("$iothub/twin/res/") {
            let (status, rest) = rest.split_once('/').ok_or(TopicError::Unknown)?;
            let parameters = Parameters::of(rest)?;
            return Ok(Self::TwinResponse {
                status: decimal(status).ok_or(TopicError::Status)?,
                rid: parameters.request_id()?,
                version: parameters.version()?,
            });
        }
        if let Some(rest) = text.strip_prefix("$iothub/twin/PATCH/properties/desired/") {
            let version = Parameters::of(rest)?.version()?.ok_or(TopicError::Version)?;
            return Ok(Self::DesiredChanged { version });
        }
        let (address, rest) = Address::split(text).ok_or(TopicError::Unknown)?;
        let bag = rest
            .strip_prefix("messages/devicebound/")
            .ok_or(TopicError::Unknown)?;
        Ok(Self::CloudToDevice { address, bag })
    }
}

impl fmt::Display for HubTopic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MethodRequest { name, rid } => write!(f, "$iothub/methods/POST/{name}/?$rid={rid}"),
            Self::TwinResponse { status, rid, version } => {
                // Clients want `$rid` first and `$version` second.
                write!(f, "$iothub/twin/res/{status}/?$rid={rid}")?;
                match version {
                    None => Ok(()),
                    Some(version) => write!(f, "&$version={version}"),
                }
            }
            Self::DesiredChanged { version } => {
                write!(f, "$iothub/twin/PATCH/properties/desired/?$version={version}")
            }
            Self::CloudToDevice { address, bag } => write!(f, "{address}/messages/devicebound/{bag}"),
        }
    }
}
