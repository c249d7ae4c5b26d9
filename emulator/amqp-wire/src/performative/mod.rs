//! The performatives: bodies of AMQP frames (AMQP 1.0 part 2.7).
//!
//! Reading fills in the defaults of the standard for fields that are null or
//! left out. Writing is for clients that do neither: every list has all its
//! fields, numbers with a default are explicit, and descriptors have the short
//! form. The pure Python stack of Event Hubs indexes fields by position.

mod sasl;
mod state;
mod terminus;
mod wire;

use bytes::Bytes;
use bytestring::ByteString;

pub use self::sasl::{SaslCode, SaslFrame, SaslInit, SaslOutcome};
pub use self::state::{DeliveryState, Error, condition};
pub use self::terminus::{Source, Target};
use crate::value::Value;

/// The body of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Performative {
    /// Begins a connection.
    Open(Box<Open>),
    /// Begins a session.
    Begin(Box<Begin>),
    /// Attaches a link.
    Attach(Box<Attach>),
    /// Tells windows and credit.
    Flow(Flow),
    /// Carries a message or a part of one; its payload follows.
    Transfer(Transfer),
    /// Tells what became of deliveries.
    Disposition(Disposition),
    /// Detaches a link.
    Detach(Detach),
    /// Ends a session.
    End(End),
    /// Closes the connection.
    Close(Close),
}

/// Which end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It sends messages.
    Sender,
    /// It receives messages.
    Receiver,
}

impl Role {
    /// The other end.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Sender => Self::Receiver,
            Self::Receiver => Self::Sender,
        }
    }
}

/// How the sender settles (`snd-settle-mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SenderSettleMode {
    /// Every delivery is unsettled at first.
    Unsettled,
    /// Every delivery is settled when it is sent.
    Settled,
    /// As the sender likes.
    #[default]
    Mixed,
}

/// How the receiver settles (`rcv-settle-mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReceiverSettleMode {
    /// At once.
    #[default]
    First,
    /// After the sender has settled.
    Second,
}

/// `open`: what the sender of it offers for the connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Open {
    /// Name of the container.
    pub container_id: ByteString,
    /// Host that a client wants to speak to.
    pub hostname: Option<ByteString>,
    /// Greatest frame accepted, in bytes.
    pub max_frame_size: u32,
    /// Greatest channel number accepted.
    pub channel_max: u16,
    /// Time in milliseconds after which silence ends the connection.
    pub idle_time_out: Option<u32>,
    /// `outgoing-locales`: an array of symbols, or null.
    pub outgoing_locales: Value,
    /// `incoming-locales`: an array of symbols, or null.
    pub incoming_locales: Value,
    /// `offered-capabilities`: an array of symbols, or null.
    pub offered_capabilities: Value,
    /// `desired-capabilities`: an array of symbols, or null.
    pub desired_capabilities: Value,
    /// `properties`: a map, or null.
    pub properties: Value,
}

/// `begin`: one direction of a session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Begin {
    /// Channel of the `begin` that this one answers.
    pub remote_channel: Option<u16>,
    /// Transfer id of the first transfer to be sent.
    pub next_outgoing_id: u32,
    /// Transfer frames accepted.
    pub incoming_window: u32,
    /// Transfer frames that may be sent.
    pub outgoing_window: u32,
    /// Greatest link handle accepted.
    pub handle_max: u32,
    /// `offered-capabilities`: an array of symbols, or null.
    pub offered_capabilities: Value,
    /// `desired-capabilities`: an array of symbols, or null.
    pub desired_capabilities: Value,
    /// `properties`: a map, or null.
    pub properties: Value,
}

/// `attach`: one end of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// Name of the link.
    pub name: ByteString,
    /// Number of the link in the session, for the one who sends this.
    pub handle: u32,
    /// Which end the one who sends this is.
    pub role: Role,
    /// How the sender settles.
    pub snd_settle_mode: SenderSettleMode,
    /// How the receiver settles.
    pub rcv_settle_mode: ReceiverSettleMode,
    /// Where messages come from.
    pub source: Option<Source>,
    /// Where messages go to.
    pub target: Option<Target>,
    /// `unsettled`: a map from delivery tags to states, or null.
    pub unsettled: Value,
    /// Whether `unsettled` is not all there is.
    pub incomplete_unsettled: bool,
    /// The sender's first delivery count.
    pub initial_delivery_count: Option<u32>,
    /// Greatest message accepted, in bytes; 0 and `None` mean any.
    pub max_message_size: Option<u64>,
    /// `offered-capabilities`: an array of symbols, or null.
    pub offered_capabilities: Value,
    /// `desired-capabilities`: an array of symbols, or null.
    pub desired_capabilities: Value,
    /// `properties`: a map, or null.
    pub properties: Value,
}

impl Attach {
    /// An `attach` with the defaults of the standard.
    #[must_use]
    pub fn new(name: impl Into<ByteString>, role: Role, source: Source, target: Target) -> Self {
        Self {
            name: name.into(),
            handle: 0,
            role,
            snd_settle_mode: SenderSettleMode::Mixed,
            rcv_settle_mode: ReceiverSettleMode::First,
            source: Some(source),
            target: Some(target),
            unsettled: Value::Null,
            incomplete_unsettled: false,
            initial_delivery_count: (role == Role::Sender).then_some(0),
            max_message_size: None,
            offered_capabilities: Value::Null,
            desired_capabilities: Value::Null,
            properties: Value::Null,
        }
    }

    /// The text of the address at the other end of the link: where a sender
    /// of this `attach` sends to, or where a receiver receives from.
    #[must_use]
    pub fn address(&self) -> Option<&str> {
        match self.role {
            Role::Sender => self.target.as_ref()?.address.as_str(),
            Role::Receiver => self.source.as_ref()?.address.as_str(),
        }
    }
}

/// `flow`: windows of a session, and credit of a link if `handle` is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Flow {
    /// Transfer id expected next; `None` before the other's `begin` is seen.
    pub next_incoming_id: Option<u32>,
    /// Transfer frames accepted from there on.
    pub incoming_window: u32,
    /// Transfer id to be sent next.
    pub next_outgoing_id: u32,
    /// Transfer frames that may be sent from there on.
    pub outgoing_window: u32,
    /// The link that the rest is about.
    pub handle: Option<u32>,
    /// The sender's delivery count, as far as known.
    pub delivery_count: Option<u32>,
    /// Deliveries that the receiver accepts from that count on.
    pub link_credit: Option<u32>,
    /// Deliveries that wait at the sender.
    pub available: Option<u32>,
    /// Whether unused credit is to be given up.
    pub drain: bool,
    /// Whether an answer is wanted.
    pub echo: bool,
    /// `properties`: a map, or null.
    pub properties: Value,
}

/// `transfer`: a message or a part of one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transfer {
    /// The link.
    pub handle: u32,
    /// Number of the delivery in the session; may be left out after its first frame.
    pub delivery_id: Option<u32>,
    /// The sender's tag for the delivery, at most 32 bytes.
    pub delivery_tag: Option<Bytes>,
    /// Message format; 0 is the standard's.
    pub message_format: Option<u32>,
    /// Whether the sender has settled it.
    pub settled: Option<bool>,
    /// Whether more frames of this delivery follow.
    pub more: bool,
    /// How the receiver is to settle this delivery.
    pub rcv_settle_mode: Option<ReceiverSettleMode>,
    /// The sender's view of the delivery.
    pub state: Option<DeliveryState>,
    /// Whether the delivery is resumed.
    pub resume: bool,
    /// Whether the delivery is given up; nothing of it counts.
    pub aborted: bool,
    /// Whether the receiver need not hurry with its disposition.
    pub batchable: bool,
}

/// `disposition`: what became of a range of deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disposition {
    /// Which end of the links the one who sends this is.
    pub role: Role,
    /// First delivery.
    pub first: u32,
    /// Last delivery, if more than one.
    pub last: Option<u32>,
    /// Whether they are settled.
    pub settled: bool,
    /// What became of them.
    pub state: Option<DeliveryState>,
    /// Whether the other need not hurry with its answer.
    pub batchable: bool,
}

/// `detach`: the end of an attached link.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Detach {
    /// The link.
    pub handle: u32,
    /// Whether the link is gone for good.
    pub closed: bool,
    /// Why.
    pub error: Option<Error>,
}

/// `end`: the end of a session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct End {
    /// Why.
    pub error: Option<Error>,
}

/// `close`: the end of the connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Close {
    /// Why.
    pub error: Option<Error>,
}
