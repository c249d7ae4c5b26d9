//! Cloud-to-device messages: what a back end sends, how it waits for its
//! device, and what the back end learns of its fate.
//!
//! A [`Draft`] is a checked message on its way in. [`Queue`] is the state
//! machine of one device's or module's messages, [`FeedbackQueue`] that of the
//! hub's answers to senders. No protocol occurs here: a device that takes a
//! message holds a lock, named by a [`LockToken`], and gives it back by a
//! [`Settlement`]; PUBACK, a DELETE request and an AMQP disposition are all
//! that. Source: the guide on cloud-to-device messages.

mod feedback;
mod hold;
mod queue;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{ErrorCode, ServiceError};
use crate::ids::Target;
use crate::limits;
use crate::property_bag::{MessageProperties, SystemProperty};
use crate::time::Timestamp;
use crate::topic::Address;

pub use feedback::{FeedbackBatch, FeedbackQueue, FeedbackRecord};
pub use hold::HoldQueue;
pub use queue::{Delivery, Ended, Holder, Queue};

/// What a hub's owner can set (guide: cloud-to-device configuration options).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long a message waits that names no expiry of its own; the service
    /// allows one minute to two days.
    pub default_ttl: Duration,
    /// Abandoned deliveries after which a message is dead-lettered; the
    /// service allows 1 to 100.
    pub max_delivery_count: u32,
    /// How feedback is kept.
    pub feedback: FeedbackSettings,
}

/// How feedback is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedbackSettings {
    /// How long a batch waits for a reader; the service allows one minute to
    /// two days.
    pub ttl: Duration,
    /// How long a reader may keep a batch to itself; the service allows 5 to 300 s.
    pub lock: Duration,
    /// Abandoned deliveries after which a batch is dropped; the service allows
    /// 1 to 100.
    pub max_delivery_count: u32,
    /// How long a batch that is not full waits for more records. The service
    /// takes 15 s; the emulator's own default is none.
    pub delay: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            default_ttl: limits::C2D_TTL_DEFAULT,
            max_delivery_count: limits::C2D_DELIVERIES_DEFAULT,
            feedback: FeedbackSettings::default(),
        }
    }
}

impl Default for FeedbackSettings {
    fn default() -> Self {
        Self {
            ttl: limits::C2D_TTL_DEFAULT,
            lock: limits::C2D_LOCK,
            max_delivery_count: limits::C2D_DELIVERIES_DEFAULT,
            delay: Duration::ZERO,
        }
    }
}

/// The feedback that a sender asks for, in the property `iothub-ack`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ack {
    /// None.
    #[default]
    None,
    /// When the message is completed.
    Positive,
    /// When the message is dead-lettered.
    Negative,
    /// In either case.
    Full,
}

impl Ack {
    /// Reads the property's value, of any case.
    ///
    /// # Errors
    /// `ArgumentInvalid` for anything but the four words.
    pub fn parse(text: &str) -> Result<Self, ServiceError> {
        [Self::None, Self::Positive, Self::Negative, Self::Full]
            .into_iter()
            .find(|ack| text.eq_ignore_ascii_case(ack.as_str()))
            .ok_or_else(|| ServiceError::invalid("iothub-ack must be none, positive, negative or full"))
    }

    /// The property's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Positive => "positive",
            Self::Negative => "negative",
            Self::Full => "full",
        }
    }

    /// Whether the sender wants to hear of this end.
    #[must_use]
    pub fn asks_for(self, outcome: Outcome) -> bool {
        match self {
            Self::None => false,
            Self::Positive => outcome == Outcome::Success,
            Self::Negative => outcome != Outcome::Success,
            Self::Full => true,
        }
    }
}

/// How a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The device completed it.
    Success,
    /// The device rejected it.
    Rejected,
    /// Its time was over before a device completed it.
    Expired,
    /// The device abandoned it too often.
    DeliveryCountExceeded,
    /// The back end emptied the queue.
    Purged,
}

impl Outcome {
    /// The service's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "Success",
            Self::Rejected => "Rejected",
            Self::Expired => "Expired",
            Self::DeliveryCountExceeded => "DeliveryCountExceeded",
            Self::Purged => "Purged",
        }
    }
}

/// What a receiver does with a message that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// It is dealt with.
    Complete,
    /// It is never to be delivered again.
    Reject,
    /// It is to be delivered again, which is counted.
    Abandon,
}

/// Names one hold of a message or of a feedback batch; 128 bits, so that nobody
/// names another's by accident. Written like a UUID.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LockToken(u128);

impl LockToken {
    /// A token made of random bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// Its bytes, the delivery tag of protocols that have one.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Reads a token, in double quotes (an ETag) or without.
    ///
    /// # Errors
    /// `DeviceMessageLockLost` for a text that is no token: nothing is held
    /// under it, whatever it was meant to be.
    pub fn parse(text: &str) -> Result<Self, ServiceError> {
        let bare = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
        let groups: Vec<&str> = bare.unwrap_or(text).split('-').collect();
        let well_formed = groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
            && groups
                .iter()
                .all(|group| group.bytes().all(|b| b.is_ascii_hexdigit()));
        if !well_formed {
            return Err(lock_lost());
        }
        u128::from_str_radix(&groups.concat(), 16)
            .map(Self)
            .map_err(|_| lock_lost())
    }
}

impl fmt::Display for LockToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", self.0);
        let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
        write!(f, "{a}-{b}-{c}-{d}-{e}")
    }
}

impl fmt::Debug for LockToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Nothing is held under this token, or not any more (412002).
#[must_use]
pub fn lock_lost() -> ServiceError {
    ServiceError::new(ErrorCode::DeviceMessageLockLost, "Message lock lost.")
}

/// A message that may be sent, before a queue takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    properties: MessageProperties,
    body: Bytes,
    ack: Ack,
    expiry: Option<Timestamp>,
}

impl Draft {
    /// Checks a message for what does not depend on its receiver. The expiry
    /// ([`SystemProperty::Expiry`], ISO 8601) and the wish for feedback
    /// ([`SystemProperty::Ack`]) are read from its properties; an empty text
    /// counts as absent.
    ///
    /// The body is kept as it is: copy it first if it is a slice of a larger
    /// buffer.
    ///
    /// # Errors
    /// `MessageTooLarge` above 64 KB, or when the properties would not fit in
    /// a topic. `ArgumentInvalid` for an expiry, a wish for feedback or a
    /// message id that cannot be read or is too long.
    pub fn new(mut properties: MessageProperties, body: Bytes) -> Result<Self, ServiceError> {
        let system = &mut properties.system;
        system.retain(|property, text| {
            !matches!(property, SystemProperty::Expiry | SystemProperty::Ack) || !text.is_empty()
        });
        let ack = match system.get_mut(&SystemProperty::Ack) {
            None => Ack::None,
            Some(text) => {
                let ack = Ack::parse(text)?;
                *text = ack.as_str().into();
                ack
            }
        };
        let expiry = match system.get_mut(&SystemProperty::Expiry) {
            None => None,
            Some(text) => {
                let expiry =
                    Timestamp::parse(text).map_err(|e| ServiceError::invalid(format!("the expiry: {e}")))?;
                *text = expiry.to_string();
                Some(expiry)
            }
        };
        let id = system.get(&SystemProperty::MessageId).map_or("", String::as_str);
        if id.chars().count() > limits::MESSAGE_ID_CHARS {
            return Err(ServiceError::invalid(format!(
                "a message id has at most {} characters",
                limits::MESSAGE_ID_CHARS
            )));
        }
        let size = body.len() + properties.size();
        // Encoding makes a bag at most three times as long and adds two
        // characters per property, so most need not be encoded to know.
        let fits = properties.size() * 4 <= limits::C2D_BAG_BYTES && properties.application.len() < 1000
            || properties.encode().len() <= limits::C2D_BAG_BYTES;
        if size > limits::C2D_MESSAGE_BYTES || !fits {
            return Err(ServiceError::new(
                ErrorCode::MessageTooLarge,
                format!(
                    "a cloud-to-device message has at most {} bytes, its encoded properties {}",
                    limits::C2D_MESSAGE_BYTES,
                    limits::C2D_BAG_BYTES
                ),
            ));
        }
        Ok(Self {
            properties,
            body,
            ack,
            expiry,
        })
    }
}

/// A message in its receiver's queue. Nothing of it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Position among all messages that the receiver was ever sent, from 1.
    pub sequence: u64,
    /// When the queue took it.
    pub enqueued: Timestamp,
    /// When it ceases to be delivered.
    pub expiry: Timestamp,
    /// The feedback that its sender asked for.
    pub ack: Ack,
    /// Its properties; [`SystemProperty::To`] is always among them, an expiry
    /// only if the sender gave one.
    pub properties: MessageProperties,
    /// Its body.
    pub body: Bytes,
}

impl Message {
    /// The sender's id for it, empty when it has none.
    #[must_use]
    pub fn id(&self) -> &str {
        self.properties
            .system
            .get(&SystemProperty::MessageId)
            .map_or("", String::as_str)
    }

    /// Bytes of body and properties, as the service counts them.
    #[must_use]
    pub fn size(&self) -> usize {
        self.body.len() + self.properties.size()
    }
}

/// Where messages for a receiver go:
/// `/devices/{d}[/modules/{m}]/messages/devicebound`.
#[must_use]
pub fn address(target: &Target) -> String {
    format!("/{}/messages/devicebound", Address::from(target))
}
