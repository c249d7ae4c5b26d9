//! Messages: the sections of AMQP 1.0 part 3.2, and batches of them.
//!
//! A read message holds slices of what it was read from. Sections may leave
//! out trailing null fields, which all known clients accept, and do.

use bytes::{BufMut as _, Bytes, BytesMut};
use bytestring::ByteString;

use crate::decode::{DecodeError, Fields as In, Reader};
use crate::encode::{self, Fields as Out};
use crate::value::{Value, find};

/// Message format of a message of the standard.
pub const STANDARD_FORMAT: u32 = 0;

/// Message format of a batch, as the service's clients send it: each data
/// section is an encoded message.
pub const BATCH_FORMAT: u32 = 0x8001_3700;

/// Entries of a map section, in the order of the wire.
pub type Entries = Vec<(Value, Value)>;

/// A message. A section that is empty is the same as one that is not there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// `header`: how it is to be transferred.
    pub header: Option<Header>,
    /// `delivery-annotations`: for the next hop.
    pub delivery_annotations: Entries,
    /// `message-annotations`: for the infrastructure.
    pub message_annotations: Entries,
    /// `properties`: of the message, immutable.
    pub properties: Option<Box<Properties>>,
    /// `application-properties`: the sender's own.
    pub application_properties: Entries,
    /// What it carries.
    pub body: Body,
    /// `footer`: what follows from the rest.
    pub footer: Entries,
}

/// What a message carries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Body {
    /// Nothing, not even an empty section.
    #[default]
    Empty,
    /// One `data` section.
    Data(Bytes),
    /// Two or more `data` sections.
    DataSections(Vec<Bytes>),
    /// An `amqp-value`.
    Value(Value),
    /// `amqp-sequence` sections, each a list.
    Sequence(Vec<Vec<Value>>),
}

/// The `header` section.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// Whether it must not be lost.
    pub durable: bool,
    /// Priority; 4 is the standard's default.
    pub priority: Option<u8>,
    /// Time to live in milliseconds.
    pub ttl: Option<u32>,
    /// Whether nobody has had it before.
    pub first_acquirer: bool,
    /// Deliveries that failed before.
    pub delivery_count: u32,
}

/// The `properties` section.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Properties {
    /// `message-id`: ulong, uuid, binary or string; null if there is none.
    pub message_id: Value,
    /// `user-id`.
    pub user_id: Option<Bytes>,
    /// `to`: an address.
    pub to: Option<ByteString>,
    /// `subject`.
    pub subject: Option<ByteString>,
    /// `reply-to`: an address.
    pub reply_to: Option<ByteString>,
    /// `correlation-id`, typed as `message-id`.
    pub correlation_id: Value,
    /// `content-type`, a symbol.
    pub content_type: Option<ByteString>,
    /// `content-encoding`, a symbol.
    pub content_encoding: Option<ByteString>,
    /// `absolute-expiry-time` in milliseconds since 1970.
    pub absolute_expiry_time: Option<i64>,
    /// `creation-time` in milliseconds since 1970.
    pub creation_time: Option<i64>,
    /// `group-id`.
    pub group_id: Option<ByteString>,
    /// `group-sequence`.
    pub group_sequence: Option<u32>,
    /// `reply-to-group-id`.
    pub reply_to_group_id: Option<ByteString>,
}

impl Message {
    /// A message with one data section.
    #[must_use]
    pub fn with_data(data: impl Into<Bytes>) -> Self {
        Self {
            body: Body::Data(data.into()),
            ..Self::default()
        }
    }

    /// A message whose body is a value.
    #[must_use]
    pub fn with_value(value: impl Into<Value>) -> Self {
        Self {
            body: Body::Value(value.into()),
            ..Self::default()
        }
    }

    /// The value of an application property.
    #[must_use]
    pub fn application_property(&self, name: &str) -> Option<&Value> {
        find(&self.application_properties, name)
    }

    /// The value of a message annotation.
    #[must_use]
    pub fn message_annotation(&self, name: &str) -> Option<&Value> {
        find(&self.message_annotations, name)
    }

    /// Reads a message from its first to its last byte.
    ///
    /// The order of sections is not insisted on; the last of two equal ones
    /// counts, save that data and sequence sections add up.
    ///
    /// # Errors
    /// When the bytes are no sections, a field breaks its definition, or
    /// sections of different kinds make up the body.
    pub fn decode(payload: &Bytes) -> Result<Self, DecodeError> {
        let mut message = Self::default();
        let mut reader = Reader::new(payload);
        while !reader.is_empty() {
            match reader.descriptor()? {
                0x70 => {
                    let mut fields = reader.fields()?;
                    message.header = Some(Header::read(&mut fields)?);
                    fields.finish()?;
                }
                0x71 => message.delivery_annotations = entries(reader.value()?, "delivery-annotations")?,
                0x72 => message.message_annotations = entries(reader.value()?, "message-annotations")?,
                0x73 => {
                    let mut fields = reader.fields()?;
                    message.properties = Some(Box::new(Properties::read(&mut fields)?));
                    fields.finish()?;
                }
                0x74 => message.application_properties = entries(reader.value()?, "application-properties")?,
                0x75 => match reader.value()? {
                    Value::Binary(data) => message.body.add_data(data)?,
                    _ => return Err(DecodeError::Field("data")),
                },
                0x76 => match reader.value()? {
                    Value::List(items) => message.body.add_sequence(items)?,
                    _ => return Err(DecodeError::Field("amqp-sequence")),
                },
                0x77 => match message.body {
                    Body::Empty => message.body = Body::Value(reader.value()?),
                    _ => return Err(DecodeError::Field("amqp-value")),
                },
                0x78 => message.footer = entries(reader.value()?, "footer")?,
                unknown => return Err(DecodeError::Descriptor(format!("{unknown:#x} is no section"))),
            }
        }
        Ok(message)
    }

    /// Appends the message to `out`, its sections in the order of the standard.
    pub fn encode(&self, out: &mut BytesMut) {
        if let Some(header) = &self.header {
            header.write(out);
        }
        put_entries(0x71, &self.delivery_annotations, out);
        put_entries(0x72, &self.message_annotations, out);
        if let Some(properties) = &self.properties {
            properties.write(out);
        }
        put_entries(0x74, &self.application_properties, out);
        match &self.body {
            Body::Empty => {}
            Body::Data(data) => put_data(data, out),
            Body::DataSections(sections) => sections.iter().for_each(|data| put_data(data, out)),
            Body::Value(value) => {
                put_descriptor(0x77, out);
                encode::encode_value(value, out);
            }
            Body::Sequence(sequences) => {
                for items in sequences {
                    put_descriptor(0x76, out);
                    encode::compound(encode::LIST, out, |out| {
                        items.iter().for_each(|item| encode::encode_value(item, out));
                        items.len()
                    });
                }
            }
        }
        put_entries(0x78, &self.footer, out);
    }

    /// The message as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.encode(&mut out);
        out.freeze()
    }
}

impl Body {
    fn add_data(&mut self, data: Bytes) -> Result<(), DecodeError> {
        match self {
            Self::Empty => *self = Self::Data(data),
            Self::Data(first) => *self = Self::DataSections(vec![std::mem::take(first), data]),
            Self::DataSections(sections) => sections.push(data),
            Self::Value(_) | Self::Sequence(_) => return Err(DecodeError::Field("data")),
        }
        Ok(())
    }

    fn add_sequence(&mut self, items: Vec<Value>) -> Result<(), DecodeError> {
        match self {
            Self::Empty => *self = Self::Sequence(vec![items]),
            Self::Sequence(sequences) => sequences.push(items),
            _ => return Err(DecodeError::Field("amqp-sequence")),
        }
        Ok(())
    }

    /// The bytes of the data sections one after another; `None` if the body is
    /// a value or a sequence. A single section is not copied.
    #[must_use]
    pub fn data(&self) -> Option<Bytes> {
        match self {
            Self::Empty => Some(Bytes::new()),
            Self::Data(data) => Some(data.clone()),
            Self::DataSections(sections) => Some(sections.concat().into()),
            Self::Value(_) | Self::Sequence(_) => None,
        }
    }
}

/// The messages of a transfer's payload: one, or those of a batch.
///
/// What else a batch holds beside its data sections is about the batch, not
/// about its messages, and is left out.
///
/// # Errors
/// When the payload is no message, or a batch without data sections.
pub fn messages(
    format: u32,
    payload: &Bytes,
) -> Result<impl Iterator<Item = Result<Message, DecodeError>> + use<>, DecodeError> {
    let sections = if format == BATCH_FORMAT {
        match Message::decode(payload)?.body {
            Body::Data(data) => vec![data],
            Body::DataSections(sections) => sections,
            Body::Empty | Body::Value(_) | Body::Sequence(_) => return Err(DecodeError::Field("data")),
        }
    } else {
        vec![payload.clone()]
    };
    Ok(sections.into_iter().map(|section| Message::decode(&section)))
}

/// The payload of a batch of `messages`, for [`BATCH_FORMAT`].
#[must_use]
pub fn batch<'a>(messages: impl IntoIterator<Item = &'a Message>) -> Bytes {
    let mut out = BytesMut::new();
    for message in messages {
        put_data(&message.to_bytes(), &mut out);
    }
    out.freeze()
}

fn put_descriptor(code: u8, out: &mut BytesMut) {
    out.put_slice(&[0x00, 0x53, code]);
}

fn put_data(data: &[u8], out: &mut BytesMut) {
    put_descriptor(0x75, out);
    encode::put_binary(data, out);
}

fn put_entries(code: u8, entries: &[(Value, Value)], out: &mut BytesMut) {
    if !entries.is_empty() {
        put_descriptor(code, out);
        encode::put_map(entries, out);
    }
}

fn entries(value: Value, section: &'static str) -> Result<Entries, DecodeError> {
    match value {
        Value::Map(entries) => Ok(entries),
        Value::Null => Ok(Vec::new()),
        _ => Err(DecodeError::Field(section)),
    }
}

impl Header {
    fn read(fields: &mut In<'_, '_>) -> Result<Self, DecodeError> {
        Ok(Self {
            durable: fields.bool("durable")?.unwrap_or(false),
            priority: fields.ubyte("priority")?,
            ttl: fields.uint("ttl")?,
            first_acquirer: fields.bool("first-acquirer")?.unwrap_or(false),
            delivery_count: fields.uint("delivery-count")?.unwrap_or_default(),
        })
    }

    fn write(&self, out: &mut BytesMut) {
        Out::write(0x70, out, |fields| {
            fields.bool(self.durable);
            match self.priority {
                Some(priority) => fields.ubyte(priority),
                None => fields.null(),
            }
            fields.uint(self.ttl);
            fields.bool(self.first_acquirer);
            fields.uint(self.delivery_count);
        });
    }
}

impl Properties {
    fn read(fields: &mut In<'_, '_>) -> Result<Self, DecodeError> {
        Ok(Self {
            message_id: read_id(fields, "message-id")?,
            user_id: fields.binary("user-id")?,
            to: fields.text("to")?,
            subject: fields.text("subject")?,
            reply_to: fields.text("reply-to")?,
            correlation_id: read_id(fields, "correlation-id")?,
            content_type: fields.text("content-type")?,
            content_encoding: fields.text("content-encoding")?,
            absolute_expiry_time: fields.timestamp("absolute-expiry-time")?,
            creation_time: fields.timestamp("creation-time")?,
            group_id: fields.text("group-id")?,
            group_sequence: fields.uint("group-sequence")?,
            reply_to_group_id: fields.text("reply-to-group-id")?,
        })
    }

    fn write(&self, out: &mut BytesMut) {
        Out::write(0x73, out, |fields| {
            fields.value(&self.message_id);
            fields.binary(self.user_id.as_deref());
            fields.string(self.to.as_deref());
            fields.string(self.subject.as_deref());
            fields.string(self.reply_to.as_deref());
            fields.value(&self.correlation_id);
            fields.symbol(self.content_type.as_deref());
            fields.symbol(self.content_encoding.as_deref());
            fields.timestamp(self.absolute_expiry_time);
            fields.timestamp(self.creation_time);
            fields.string(self.group_id.as_deref());
            fields.uint(self.group_sequence);
            fields.string(self.reply_to_group_id.as_deref());
        });
    }
}

/// A message id, in one of the four types that the standard allows.
fn read_id(fields: &mut In<'_, '_>, name: &'static str) -> Result<Value, DecodeError> {
    match fields.value()? {
        id @ (Value::Null | Value::Ulong(_) | Value::Uuid(_) | Value::Binary(_) | Value::String(_)) => Ok(id),
        _ => Err(DecodeError::Field(name)),
    }
}
