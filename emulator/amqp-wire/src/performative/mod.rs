//! The performatives: bodies of AMQP frames (AMQP 1.0 part 2.7).
//!
//! Reading fills in the defaults of the standard for fields that are null or
//! left out. Writing is for clients that do neither: every list has all its
//! fields, numbers with a default are explicit, and descriptors have the short
//! form. The pure Python stack of Event Hubs indexes fields by position.

mod sasl;
mod state;
mod terminus;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;

pub use self::sasl::{SaslCode, SaslFrame, SaslInit, SaslOutcome};
pub use self::state::{DeliveryState, Error, condition};
pub use self::terminus::{Source, Target};
use crate::decode::{DecodeError, Fields as In, Reader};
use crate::encode::Fields as Out;
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

impl Performative {
    /// Reads the performative at the start of a frame's body, and the payload
    /// behind it, which only a `transfer` has.
    ///
    /// # Errors
    /// When the bytes are no performative or a field breaks its definition.
    pub fn decode(body: &Bytes) -> Result<(Self, Bytes), DecodeError> {
        let mut reader = Reader::new(body);
        let (code, mut fields) = reader.composite()?;
        let performative = match code {
            0x10 => Self::Open(Box::new(Open::read(&mut fields)?)),
            0x11 => Self::Begin(Box::new(Begin::read(&mut fields)?)),
            0x12 => Self::Attach(Box::new(Attach::read(&mut fields)?)),
            0x13 => Self::Flow(Flow::read(&mut fields)?),
            0x14 => Self::Transfer(Transfer::read(&mut fields)?),
            0x15 => Self::Disposition(Disposition::read(&mut fields)?),
            0x16 => Self::Detach(Detach::read(&mut fields)?),
            0x17 => Self::End(End {
                error: fields.composite(Error::read)?,
            }),
            0x18 => Self::Close(Close {
                error: fields.composite(Error::read)?,
            }),
            unknown => {
                return Err(DecodeError::Descriptor(format!(
                    "{unknown:#x} is no performative"
                )));
            }
        };
        fields.finish()?;
        let payload = match &performative {
            Self::Transfer(_) if !reader.is_empty() => reader.rest(),
            _ if reader.is_empty() => Bytes::new(),
            _ => return Err(DecodeError::Size),
        };
        Ok((performative, payload))
    }

    /// Appends the performative to `out`, with all its fields.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Open(open) => open.write(out),
            Self::Begin(begin) => begin.write(out),
            Self::Attach(attach) => attach.write(out),
            Self::Flow(flow) => flow.write(out),
            Self::Transfer(transfer) => transfer.write(out),
            Self::Disposition(disposition) => disposition.write(out),
            Self::Detach(detach) => Out::write(0x16, out, |fields| {
                fields.uint(detach.handle);
                fields.bool(detach.closed);
                Error::write_optional(detach.error.as_ref(), fields);
            }),
            Self::End(End { error }) => {
                Out::write(0x17, out, |fields| Error::write_optional(error.as_ref(), fields));
            }
            Self::Close(Close { error }) => {
                Out::write(0x18, out, |fields| Error::write_optional(error.as_ref(), fields));
            }
        }
    }
}

impl Open {
    fn read(fields: &mut In<'_, '_>) -> Result<Self, DecodeError> {
        Ok(Self {
            container_id: fields
                .text("container-id")?
                .ok_or(DecodeError::Missing("container-id"))?,
            hostname: fields.text("hostname")?,
            max_frame_size: fields.uint("max-frame-size")?.unwrap_or(u32::MAX),
            channel_max: fields.ushort("channel-max")?.unwrap_or(u16::MAX),
            idle_time_out: fields.uint("idle-time-out")?,
            outgoing_locales: fields.value()?,
            incoming_locales: fields.value()?,
            offered_capabilities: fields.value()?,
            desired_capabilities: fields.value()?,
            properties: fields.value()?,
        })
    }

    fn write(&self, out: &mut BytesMut) {
        Out::write(0x10, out, |fields| {
            fields.string(Some(&self.container_id));
            fields.string(self.hostname.as_deref());
            fields.uint(self.max_frame_size);
            fields.ushort(self.channel_max);
            fields.uint(self.idle_time_out);
            fields.value(&self.outgoing_locales);
            fields.value(&self.incoming_locales);
            fields.value(&self.offered_capabilities);
            fields.value(&self.desired_capabilities);
            fields.value(&self.properties);
        });
    }
}

impl Begin {
    fn read(fields: &mut In<'_, '_>) -> Result<Self, DecodeError> {
        Ok(Self {
            remote_channel: fields.ushort("remote-channel")?,
            next_outgoing_id: required(fields.uint("next-outgoing-id")?, "next-outgoing-id")?,
            incoming_window: required(fields.uint("incoming-window")?, "incoming-window")?,
            outgoing_window: required(fields.uint("outgoing-window")?, "outgoing-window")?,
            handle_max: fields.uint("handle-max")?.unwrap_or(u32::MAX),
            offered_capabilities: fields.value()?,
            desired_capabilities: fields.value()?,
            properties: fields.value()?,
        })
    }

    fn write(&self, out: &mut BytesMut) {
        Out::write(0x11, out, |fields| {
            match self.remote_channel {
                Some(channel) => fields.ushort(channel),
                None => fields.null(),
            }
            fields.uint(self.next_outgoing_id);
            fields.uint(self.incoming_window);
            fields.uint(self.outgoing_window);
            fields.uint(self.handle_max);
            fields.value(&self.offered_capabilities);
            fields.value(&self.desired_capabilities);
            fields.value(&self.properties);
        });
    }
}

impl Attach {
    fn read(fields: &mut In<'_, '_>) -> Result<Self, DecodeError> {
        Ok(Self {
            name: required(fields.text("name")?, "name")?,
            handle: required(fields.uint("handle")?, "handle")?,
            role: read_role(fields)?,
            snd_settle_mode: match fields.ubyte("snd-settle-mode")? {
                Some(0) => SenderSettleMode::Unsettled,
                Some(1) => SenderSettleMode::Settled,
                Some(2) | None => SenderSettleMode::Mixed,
                Some(_) => return Err(DecodeError::Field("snd-settle-mode")),
            },
            rcv_settle_mode: read_receiver_mode(fields)?.unwrap_or_default(),
            source: fields.composite(Source::read)?,
            target: fields.composite(Target::read)?.flatten(),
            unsettled: fields.value()?,
            incomplete_unsettled: fields.bool("incomplete-unsettled")?.unwrap_or(false),
            initial_delivery_count: fields.uint("initial-delivery-count")?,
            max_message_size: fields.ulong("max-message-size")?,
            offered_capabilities: fields.value()?,
            desired_capabilities: fields.value()?,
            properties: fields.value()?,
        })
    }

    fn write(&self, out: &mut BytesMut) {
        Out::write(0x12, out, |fields| {
            fields.string(Some(&self.name));
            fields.uint(self.handle);
            write_role(self.role, fields);
            fields.ubyte(match self.snd_settle_mode {
                SenderSettleMode::Unsettled => 0,
                SenderSettleMode::Settled => 1,
                SenderSettleMode::Mixed => 2,
            });
            write_receiver_mode(self.rcv_settle_mode, fields);
            match &self.source {
                Some(source) => source.write(fields.next()),
                None => fields.null(),
            }
            match &self.target {
                Some(target) => target.write(fields.next()),
                None => fields.null(),
            }
            fields.value(&self.unsettled);
            fields.bool(self.incomplete_unsettled);
            fields.uint(self.initial_delivery_count);
            fields.ulong(self.max_message_size);
            fields.value(&self.offered_capabilities);
            fields.value(&self.desired_capabilities);
            fields.value(&self.properties);
        });
    }
}

impl Flow {
    fn read(fields: &mut In<'_, '_>) -> Result<Self, DecodeError> {
        Ok(Self {
            next_incoming_id: fields.uint("next-incoming-id")?,
            incoming_window: required(fields.uint("incoming-window")?, "incoming-window")?,
            next_outgoing_id: required(fields.uint("next-outgoing-id")?, "next-outgoing-id")?,
            outgoing_window: required(fields.uint("outgoing-window")?, "outgoing-window")?,
            handle: fields.uint("handle")?,
            delivery_count: fields.uint("delivery-count")?,
            link_credit: fields.uint("link-credit")?,
            available: fields.uint("available")?,
            drain: fields.bool("drain")?.unwrap_or(false),
            echo: fields.bool("echo")?.unwrap_or(false),
            properties: fields.value()?,
        })
    }

    fn write(&self, out: &mut BytesMut) {
        Out::write(0x13, out, |fields| {
            fields.uint(self.next_incoming_id);
            fields.uint(self.incoming_window);
            fields.uint(self.next_outgoing_id);
            fields.uint(self.outgoing_window);
            fields.uint(self.handle);
            fields.uint(self.delivery_count);
            fields.uint(self.link_credit);
            fields.uint(self.available);
            fields.bool(self.drain);
            fields.bool(self.echo);
            fields.value(&self.properties);
        });
    }
}

impl Transfer {
    fn read(fields: &mut In<'_, '_>) -> Result<Self, DecodeError> {
        Ok(Self {
            handle: required(fields.uint("handle")?, "handle")?,
            delivery_id: fields.uint("delivery-id")?,
            delivery_tag: fields.binary("delivery-tag")?,
            message_format: fields.uint("message-format")?,
            settled: fields.bool("settled")?,
            more: fields.bool("more")?.unwrap_or(false),
            rcv_settle_mode: read_receiver_mode(fields)?,
            state: fields.composite(DeliveryState::read)?,
            resume: fields.bool("resume")?.unwrap_or(false),
            aborted: fields.bool("aborted")?.unwrap_or(false),
            batchable: fields.bool("batchable")?.unwrap_or(false),
        })
    }

    pub(crate) fn write(&self, out: &mut BytesMut) {
        Out::write(0x14, out, |fields| {
            fields.uint(self.handle);
            fields.uint(self.delivery_id);
            fields.binary(self.delivery_tag.as_deref());
            fields.uint(self.message_format);
            match self.settled {
                Some(settled) => fields.bool(settled),
                None => fields.null(),
            }
            fields.bool(self.more);
            match self.rcv_settle_mode {
                Some(mode) => write_receiver_mode(mode, fields),
                None => fields.null(),
            }
            DeliveryState::write_optional(self.state.as_ref(), fields);
            fields.bool(self.resume);
            fields.bool(self.aborted);
            fields.bool(self.batchable);
        });
    }
}

impl Disposition {
    fn read(fields: &mut In<'_, '_>) -> Result<Self, DecodeError> {
        Ok(Self {
            role: read_role(fields)?,
            first: required(fields.uint("first")?, "first")?,
            last: fields.uint("last")?,
            settled: fields.bool("settled")?.unwrap_or(false),
            state: fields.composite(DeliveryState::read)?,
            batchable: fields.bool("batchable")?.unwrap_or(false),
        })
    }

    fn write(&self, out: &mut BytesMut) {
        Out::write(0x15, out, |fields| {
            write_role(self.role, fields);
            fields.uint(self.first);
            fields.uint(self.last);
            fields.bool(self.settled);
            DeliveryState::write_optional(self.state.as_ref(), fields);
            fields.bool(self.batchable);
        });
    }
}

impl Detach {
    fn read(fields: &mut In<'_, '_>) -> Result<Self, DecodeError> {
        Ok(Self {
            handle: required(fields.uint("handle")?, "handle")?,
            closed: fields.bool("closed")?.unwrap_or(false),
            error: fields.composite(Error::read)?,
        })
    }
}

fn required<T>(field: Option<T>, name: &'static str) -> Result<T, DecodeError> {
    field.ok_or(DecodeError::Missing(name))
}

/// On the wire, a role is whether it is the receiver's.
fn read_role(fields: &mut In<'_, '_>) -> Result<Role, DecodeError> {
    let receiver = required(fields.bool("role")?, "role")?;
    Ok(if receiver { Role::Receiver } else { Role::Sender })
}

fn write_role(role: Role, fields: &mut Out<'_>) {
    fields.bool(role == Role::Receiver);
}

fn read_receiver_mode(fields: &mut In<'_, '_>) -> Result<Option<ReceiverSettleMode>, DecodeError> {
    match fields.ubyte("rcv-settle-mode")? {
        None => Ok(None),
        Some(0) => Ok(Some(ReceiverSettleMode::First)),
        Some(1) => Ok(Some(ReceiverSettleMode::Second)),
        Some(_) => Err(DecodeError::Field("rcv-settle-mode")),
    }
}

fn write_receiver_mode(mode: ReceiverSettleMode, fields: &mut Out<'_>) {
    fields.ubyte(u8::from(mode == ReceiverSettleMode::Second));
}
