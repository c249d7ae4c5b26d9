//! What an engine reports, and how commands fail.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;

pub use super::slab::LinkId;
use crate::performative::{Attach, DeliveryState, Error, Open, Source, Target};
use crate::value::Value;

/// Names a session of one connection; no later session has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    pub(super) channel: u16,
    pub(super) generation: u32,
}

/// Names a delivery received on a link: its delivery id in the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId(pub(super) u32);

/// Names a delivery given to [`send`](super::Engine::send); counts up over the
/// connection and is not on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SentId(pub(super) u64);

/// Which end of the connection did something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The engine, because the peer broke a rule.
    Us,
    /// The peer.
    Peer,
}

/// What has happened on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A client wants to authenticate; nothing goes on before
    /// [`sasl_outcome`](super::Engine::sasl_outcome).
    Sasl {
        /// Name of the mechanism, offered or not.
        mechanism: ByteString,
        /// What the mechanism begins with.
        response: Bytes,
        /// Host that the client wants to speak to.
        hostname: Option<ByteString>,
    },
    /// The peer has opened the connection; a server's engine has answered.
    Open(Box<Open>),
    /// A session has begun: the peer's, which has been answered, or ours,
    /// which the peer has answered.
    Begun {
        /// The session.
        session: SessionId,
    },
    /// The peer attaches a link and waits for
    /// [`accept_attach`](super::Engine::accept_attach) or
    /// [`refuse_attach`](super::Engine::refuse_attach).
    Attach {
        /// The link.
        link: LinkId,
        /// Its session.
        session: SessionId,
        /// What the peer says; its role is the peer's.
        attach: Arc<Attach>,
    },
    /// The peer has answered [`attach`](super::Engine::attach). If it refuses
    /// the link, [`Event::Detached`] follows.
    Attached {
        /// The link.
        link: LinkId,
        /// What the peer says; its role is the peer's.
        attach: Arc<Attach>,
    },
    /// A message has arrived whole.
    Message {
        /// The link.
        link: LinkId,
        /// For [`settle`](super::Engine::settle).
        delivery: DeliveryId,
        /// The sender's tag.
        tag: Bytes,
        /// Whether the sender has settled it; if not, settle it.
        settled: bool,
        /// Message format.
        format: u32,
        /// The message. A slice of the bytes fed if it came in one frame:
        /// copy what is kept for longer.
        payload: Bytes,
    },
    /// Credit of a link has changed, or the deliveries that waited on it for
    /// window or output have all become frames.
    Credit {
        /// The link.
        link: LinkId,
        /// A sender: deliveries that may be sent beyond those that wait. A
        /// receiver: deliveries that may still come, after the sender has
        /// given up the rest.
        credit: u32,
        /// A sender: the peer wants what there is now, and no credit after it.
        /// What is sent before the next call of
        /// [`next_event`](super::Engine::next_event) still counts.
        drain: bool,
    },
    /// The peer tells what has become of a delivery that was sent unsettled.
    /// It is settled now.
    Outcome {
        /// The link.
        link: LinkId,
        /// What `send` returned.
        delivery: SentId,
        /// Its tag.
        tag: Bytes,
        /// The outcome; `None` if the peer named none.
        state: Option<DeliveryState>,
    },
    /// A link is gone without [`detach`](super::Engine::detach).
    Detached {
        /// The link, no longer known.
        link: LinkId,
        /// Who detached.
        by: Side,
        /// Whether for good.
        closed: bool,
        /// Why.
        error: Option<Error>,
    },
    /// A session is gone without [`end`](super::Engine::end), and its links with it.
    Ended {
        /// The session, no longer known.
        session: SessionId,
        /// Its links, no longer known.
        links: Vec<LinkId>,
        /// Who ended it.
        by: Side,
        /// Why.
        error: Option<Error>,
    },
    /// The connection is closed, with all that it held: write the rest of the
    /// output and end the stream. The last event.
    Closed {
        /// Who closed; also [`Side::Peer`] when it answers
        /// [`close`](super::Engine::close).
        by: Side,
        /// Why.
        error: Option<Error>,
    },
}

/// How a server answers an attach; what is not said is as the client has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AttachReply {
    /// The source, if not the client's.
    pub source: Option<Source>,
    /// The target, if not the client's.
    pub target: Option<Target>,
    /// Greatest message, in bytes, if not that of the limits.
    pub max_message_size: Option<u64>,
    /// `offered-capabilities`: an array of symbols, or null.
    pub offered_capabilities: Value,
    /// `properties`: a map, or null.
    pub properties: Value,
}

/// A delivery to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Its tag, at most 32 bytes, different from those of other unsettled
    /// deliveries of the link; `None` for a count of the engine's.
    pub tag: Option<Bytes>,
    /// Message format.
    pub format: u32,
    /// Whether it is settled at once. It is anyway if the link was attached so.
    pub settled: bool,
    /// The encoded message.
    pub payload: Bytes,
}

impl Outgoing {
    /// A settled delivery of a standard message.
    #[must_use]
    pub fn settled(payload: impl Into<Bytes>) -> Self {
        Self {
            tag: None,
            format: crate::message::STANDARD_FORMAT,
            settled: true,
            payload: payload.into(),
        }
    }

    /// A delivery of a standard message that the receiver is to settle.
    #[must_use]
    pub fn unsettled(payload: impl Into<Bytes>) -> Self {
        Self {
            settled: false,
            ..Self::settled(payload)
        }
    }
}

/// Why a command was not carried out. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The link, session or delivery is gone, or the connection is closed.
    #[error("it is gone")]
    Gone,
    /// The link, session or connection is not that far, or already further.
    #[error("not in this state")]
    State,
    /// The link's role is the other one.
    #[error("the link has the other role")]
    Role,
    /// The queue of the link or of the connection is full.
    #[error("too many deliveries wait")]
    QueueFull,
    /// The message exceeds what the peer accepts, or the tag 32 bytes.
    #[error("the message or its tag is too large")]
    TooLarge,
    /// No more links or sessions.
    #[error("no more links or sessions")]
    Limit,
}
