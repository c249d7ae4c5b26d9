//! The performatives as lists of fields.

use bytes::{Bytes, BytesMut};

use super::{
    Attach, Begin, Close, DeliveryState, Detach, Disposition, End, Error, Flow, Open, Performative,
    ReceiverSettleMode, Role, SenderSettleMode, Source, Target, Transfer,
};
use crate::decode::{DecodeError, Fields as In, Reader};
use crate::encode::Fields as Out;

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
