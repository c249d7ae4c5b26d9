//! Errors and what becomes of deliveries (AMQP 1.0 parts 2.8.14 and 3.4).

use bytestring::ByteString;

use crate::decode::{DecodeError, Fields as In};
use crate::encode::Fields as Out;
use crate::value::Value;

/// Error conditions that the engine itself uses, as the standard names them.
pub mod condition {
    /// Bytes that are no frame.
    pub const FRAMING_ERROR: &str = "amqp:connection:framing-error";
    /// The connection is closed for a reason of the server's.
    pub const CONNECTION_FORCED: &str = "amqp:connection:forced";
    /// A frame whose body cannot be decoded.
    pub const DECODE_ERROR: &str = "amqp:decode-error";
    /// A frame that must not come in this state.
    pub const ILLEGAL_STATE: &str = "amqp:illegal-state";
    /// A field with a value that is not allowed.
    pub const INVALID_FIELD: &str = "amqp:invalid-field";
    /// Something that the peer may not do.
    pub const NOT_ALLOWED: &str = "amqp:not-allowed";
    /// The peer's greatest frame is too small for what must be said.
    pub const FRAME_SIZE_TOO_SMALL: &str = "amqp:frame-size-too-small";
    /// One of the connection's bounds.
    pub const RESOURCE_LIMIT_EXCEEDED: &str = "amqp:resource-limit-exceeded";
    /// More transfers than the session's window allows.
    pub const WINDOW_VIOLATION: &str = "amqp:session:window-violation";
    /// A transfer for a handle without a link.
    pub const UNATTACHED_HANDLE: &str = "amqp:session:unattached-handle";
    /// An attach with a handle that has a link.
    pub const HANDLE_IN_USE: &str = "amqp:session:handle-in-use";
    /// More deliveries than the link's credit allows.
    pub const TRANSFER_LIMIT_EXCEEDED: &str = "amqp:link:transfer-limit-exceeded";
    /// A message larger than the link allows.
    pub const MESSAGE_SIZE_EXCEEDED: &str = "amqp:link:message-size-exceeded";
}

/// An AMQP error.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Error {
    /// The condition, a symbol such as `amqp:not-found`.
    pub condition: ByteString,
    /// A text for people.
    pub description: Option<ByteString>,
    /// More about it.
    pub info: Vec<(Value, Value)>,
}

impl Error {
    /// An error without further information.
    #[must_use]
    pub fn new(condition: &'static str, description: impl Into<ByteString>) -> Self {
        Self {
            condition: ByteString::from_static(condition),
            description: Some(description.into()),
            info: Vec::new(),
        }
    }

    pub(super) fn read(code: u64, fields: &mut In<'_, '_>) -> Result<Self, DecodeError> {
        if code != 0x1d {
            return Err(DecodeError::Field("error"));
        }
        Ok(Self {
            condition: fields
                .text("condition")?
                .ok_or(DecodeError::Missing("condition"))?,
            description: fields.text("description")?,
            info: fields.map("info")?,
        })
    }

    pub(super) fn write_optional(error: Option<&Self>, fields: &mut Out<'_>) {
        let Some(error) = error else { return fields.null() };
        Out::write(0x1d, fields.next(), |fields| {
            fields.symbol(Some(&error.condition));
            fields.string(error.description.as_deref());
            if error.info.is_empty() {
                fields.null();
            } else {
                crate::encode::put_map(&error.info, fields.next());
            }
        });
    }
}

/// What became of a delivery, or how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryState {
    /// Received up to a position in the message.
    Received {
        /// Sections received before the one that is incomplete.
        section_number: u32,
        /// Bytes received of that section.
        section_offset: u64,
    },
    /// Taken over by the receiver.
    Accepted,
    /// Not acceptable. Some clients fail without an error, so give one.
    Rejected {
        /// Why.
        error: Option<Error>,
    },
    /// Not touched by the receiver.
    Released,
    /// Not taken, and changed.
    Modified {
        /// Whether it counts as a failed delivery.
        delivery_failed: bool,
        /// Whether it must not come to this receiver again.
        undeliverable_here: bool,
        /// `message-annotations` to be merged: a map, or null.
        message_annotations: Value,
    },
    /// A state that this crate does not know (those of transactions), as its descriptor.
    Other(u64),
}

impl DeliveryState {
    /// Whether it is an outcome: nothing more will become of the delivery.
    #[must_use]
    pub fn is_outcome(&self) -> bool {
        !matches!(self, Self::Received { .. } | Self::Other(_))
    }

    pub(super) fn read(code: u64, fields: &mut In<'_, '_>) -> Result<Self, DecodeError> {
        Ok(match code {
            0x23 => Self::Received {
                section_number: fields.uint("section-number")?.unwrap_or_default(),
                section_offset: fields.ulong("section-offset")?.unwrap_or_default(),
            },
            0x24 => Self::Accepted,
            0x25 => Self::Rejected {
                error: fields.composite(Error::read)?,
            },
            0x26 => Self::Released,
            0x27 => Self::Modified {
                delivery_failed: fields.bool("delivery-failed")?.unwrap_or(false),
                undeliverable_here: fields.bool("undeliverable-here")?.unwrap_or(false),
                message_annotations: fields.value()?,
            },
            other => Self::Other(other),
        })
    }

    pub(super) fn write_optional(state: Option<&Self>, fields: &mut Out<'_>) {
        match state {
            // A state that is not understood cannot be repeated.
            None | Some(Self::Other(_)) => fields.null(),
            Some(state) => state.write(fields),
        }
    }

    fn write(&self, fields: &mut Out<'_>) {
        let code = match self {
            Self::Received { .. } => 0x23,
            Self::Accepted => 0x24,
            Self::Rejected { .. } => 0x25,
            Self::Released => 0x26,
            Self::Modified { .. } | Self::Other(_) => 0x27,
        };
        Out::write(code, fields.next(), |fields| match self {
            Self::Received {
                section_number,
                section_offset,
            } => {
                fields.uint(*section_number);
                fields.ulong(Some(*section_offset));
            }
            Self::Accepted | Self::Released | Self::Other(_) => {}
            Self::Rejected { error } => Error::write_optional(error.as_ref(), fields),
            Self::Modified {
                delivery_failed,
                undeliverable_here,
                message_annotations,
            } => {
                fields.bool(*delivery_failed);
                fields.bool(*undeliverable_here);
                fields.value(message_annotations);
            }
        });
    }
}
