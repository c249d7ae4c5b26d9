//! The fixed topics between a device and the hub, in both directions.
//!
//! [`DeviceTopic`] is what a device or module publishes, [`HubTopic`] what the
//! hub publishes to it, [`Filter`] what it may subscribe to. Each is parsed
//! from and written to the topic's text; parsing borrows, so a message costs
//! no allocation before it is accepted. The property bag at the end of a
//! message topic stays text here, [`crate::property_bag`] reads it.
//!
//! Ids stand in topics as they are, never percent-encoded. What follows from a
//! topic, and what happens to the connection after an error, is decided
//! elsewhere. Source: the developer guide's page on MQTT.

mod device;
mod filter;
mod hub;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::ids::Target;

pub use device::DeviceTopic;
pub use filter::{Filter, FilterSet, Qos};
pub use hub::HubTopic;

/// Why a text is not a topic or filter that may be used here. The service
/// closes the connection in every case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// The hub has no such topic.
    #[error("the hub does not know this topic")]
    Unknown,
    /// The topic names another device or module than the connection's.
    #[error("the topic belongs to another device or module")]
    ForeignIdentity,
    /// The request id, `$rid`, is missing or empty.
    #[error("the topic has no $rid")]
    RequestId,
    /// `$version` is missing where it has to be, or is not a decimal number.
    #[error("the topic's $version is not a number")]
    Version,
    /// The status is not a decimal number of its type.
    #[error("the topic's status is not a number")]
    Status,
}

/// A device or module as a topic names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address<'a> {
    /// Id of the device.
    pub device: &'a str,
    /// Id of the module, when one is meant.
    pub module: Option<&'a str>,
}

impl<'a> Address<'a> {
    /// Takes `devices/{d}/` or `devices/{d}/modules/{m}/` off a topic's front.
    fn split(topic: &'a str) -> Option<(Self, &'a str)> {
        let (device, rest) = topic.strip_prefix("devices/")?.split_once('/')?;
        match rest.strip_prefix("modules/") {
            None => Some((Self { device, module: None }, rest)),
            Some(rest) => {
                let (module, rest) = rest.split_once('/')?;
                let module = Some(module);
                Some((Self { device, module }, rest))
            }
        }
    }

    fn check(self, expected: &Target) -> Result<Self, TopicError> {
        if self == Address::from(expected) {
            Ok(self)
        } else {
            Err(TopicError::ForeignIdentity)
        }
    }
}

impl<'a> From<&'a Target> for Address<'a> {
    fn from(target: &'a Target) -> Self {
        Self {
            device: target.device.as_str(),
            module: target.module.as_ref().map(|module| module.as_str()),
        }
    }
}

/// `devices/{d}` or `devices/{d}/modules/{m}`.
impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "devices/{}", self.device)?;
        match self.module {
            None => Ok(()),
            Some(module) => write!(f, "/modules/{module}"),
        }
    }
}

/// The parameters after a topic's `?`: pairs between `&`, in any order, of
/// which the first of a name counts. Nothing is decoded.
#[derive(Clone, Copy)]
struct Parameters<'a>(&'a str);

impl<'a> Parameters<'a> {
    /// Of what remains of a topic: nothing or `?…`.
    fn of(rest: &'a str) -> Result<Self, TopicError> {
        match rest.strip_prefix('?') {
            Some(parameters) => Ok(Self(parameters)),
            None if rest.is_empty() => Ok(Self("")),
            None => Err(TopicError::Unknown),
        }
    }

    fn get(self, name: &str) -> Option<&'a str> {
        let mut pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find_map(|(key, value)| (key == name).then_some(value))
    }

    fn request_id(self) -> Result<&'a str, TopicError> {
        match self.get("$rid") {
            None | Some("") => Err(TopicError::RequestId),
            Some(rid) => Ok(rid),
        }
    }

    fn version(self) -> Result<Option<u64>, TopicError> {
        self.get("$version")
            .map(|text| decimal(text).ok_or(TopicError::Version))
            .transpose()
    }
}

/// An integer in digits with perhaps a minus sign; the standard parser alone
/// would take a plus sign, too.
fn decimal<T: std::str::FromStr>(text: &str) -> Option<T> {
    if text.starts_with('+') {
        return None;
    }
    text.parse().ok()
}
