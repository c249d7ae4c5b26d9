//! Topics that a device or module publishes to.

use std::fmt;

use super::{Address, Parameters, TopicError, decimal};
use crate::ids::Target;

/// A topic that a device or module publishes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceTopic<'a> {
    /// A device-to-cloud message:
    /// `devices/{d}[/modules/{m}]/messages/events/{bag}`.
    Telemetry {
        /// The sender.
        address: Address<'a>,
        /// The property bag, encoded, perhaps empty.
        bag: &'a str,
    },
    /// Asks for the own twin: `$iothub/twin/GET/?$rid={rid}`.
    TwinGet {
        /// The device's own request id, to be echoed byte for byte.
        rid: &'a str,
    },
    /// Updates the own reported properties:
    /// `$iothub/twin/PATCH/properties/reported/?$rid={rid}[&$version={version}]`.
    TwinPatchReported {
        /// The device's own request id, to be echoed byte for byte.
        rid: &'a str,
        /// The version of the reported properties that the patch is meant for.
        version: Option<u64>,
    },
    /// Answers a direct method: `$iothub/methods/res/{status}/?$rid={rid}`.
    MethodResponse {
        /// The device's own status; any 32-bit integer.
        status: i32,
        /// The request id that the hub gave the call.
        rid: &'a str,
    },
}

impl<'a> DeviceTopic<'a> {
    /// Reads a topic that `sender` publishes to.
    ///
    /// Telemetry may lack the slash after `events` and may end in one that
    /// does not belong to the bag.
    ///
    /// # Errors
    /// When the hub has no such topic, it belongs to another identity, or one
    /// of its parameters is missing or malformed.
    pub fn parse(text: &'a str, sender: &Target) -> Result<Self, TopicError> {
        if let Some(rest) = text.strip_prefix("$iothub/") {
            return Self::parse_request(rest);
        }
        let (address, rest) = Address::split(text).ok_or(TopicError::Unknown)?;
        let rest = rest.strip_prefix("messages/events").ok_or(TopicError::Unknown)?;
        let bag = match rest.strip_prefix('/') {
            Some(bag) => bag.strip_suffix('/').unwrap_or(bag),
            None if rest.is_empty() => "",
            None => return Err(TopicError::Unknown),
        };
        let address = address.check(sender)?;
        Ok(Self::Telemetry { address, bag })
    }

    fn parse_request(text: &'a str) -> Result<Self, TopicError> {
        if let Some(rest) = text.strip_prefix("methods/res/") {
            let (status, rest) = rest.split_once('/').ok_or(TopicError::Unknown)?;
            return Ok(Self::MethodResponse {
                rid: Parameters::of(rest)?.request_id()?,
                status: decimal(status).ok_or(TopicError::Status)?,
            });
        }
        if let Some(rest) = text.strip_prefix("twin/PATCH/properties/reported/") {
            let parameters = Parameters::of(rest)?;
            return Ok(Self::TwinPatchReported {
                rid: parameters.request_id()?,
                version: parameters.version()?,
            });
        }
        let rest = text.strip_prefix("twin/GET/").ok_or(TopicError::Unknown)?;
        Ok(Self::TwinGet {
            rid: Parameters::of(rest)?.request_id()?,
        })
    }
}

impl fmt::Display for DeviceTopic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Telemetry { address, bag } => write!(f, "{address}/messages/events/{bag}"),
            Self::TwinGet { rid } => write!(f, "$iothub/twin/GET/?$rid={rid}"),
            Self::TwinPatchReported { rid, version } => {
                write!(f, "$iothub/twin/PATCH/properties/reported/?$rid={rid}")?;
                match version {
                    None => Ok(()),
                    Some(version) => write!(f, "&$version={version}"),
                }
            }
            Self::MethodResponse { status, rid } => {
                write!(f, "$iothub/methods/res/{status}/?$rid={rid}")
            }
        }
    }
}
