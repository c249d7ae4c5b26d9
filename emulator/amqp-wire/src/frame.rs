//! Frames and protocol headers (AMQP 1.0 parts 2.2 and 2.3).

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::performative::{Performative, SaslFrame, Transfer};

/// Length of a protocol header, and of a frame's header without extension.
pub const HEADER_BYTES: usize = 8;

/// The least that `max-frame-size` may be (part 2.4.1), in bytes.
pub const MIN_MAX_FRAME_SIZE: u32 = 512;

/// The layer that a protocol header announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `AMQP 0 1 0 0`.
    Amqp,
    /// `AMQP 3 1 0 0`.
    Sasl,
}

impl Protocol {
    /// The header.
    #[must_use]
    pub fn header(self) -> [u8; HEADER_BYTES] {
        match self {
            Self::Amqp => *b"AMQP\x00\x01\x00\x00",
            Self::Sasl => *b"AMQP\x03\x01\x00\x00",
        }
    }

    /// The layer that a header announces, if it is one of these two.
    #[must_use]
    pub fn of(header: [u8; HEADER_BYTES]) -> Option<Self> {
        [Self::Amqp, Self::Sasl]
            .into_iter()
            .find(|layer| layer.header() == header)
    }
}

/// The frame type of a layer (part 2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameType {
    /// A frame of the connection.
    Amqp,
    /// A frame of the SASL layer.
    Sasl,
}

/// A frame without its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: FrameType,
    /// Its channel; without meaning in the SASL layer.
    pub channel: u16,
    /// A performative, or nothing: a sign of life.
    pub body: Bytes,
}

/// Why bytes are no frame. The connection cannot go on: where the next frame
/// would start is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The frame exceeds the limit; nothing of its body was kept.
    #[error("a frame of {size} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// Length that the frame announces, in bytes.
        size: u32,
        /// Greatest length accepted, in bytes.
        limit: u32,
    },
    /// The size is smaller than the header, or the data offset points outside.
    #[error("size {size} and data offset {offset} of a frame contradict each other")]
    Size {
        /// Length that the frame announces, in bytes.
        size: u32,
        /// Data offset, in words of four bytes.
        offset: u8,
    },
    /// A frame type that is neither AMQP nor SASL.
    #[error("there is no frame type {0}")]
    Type(u8),
}

/// Takes the first frame from `input`; `None` when more bytes are needed.
///
/// The frame's body is a slice of the bytes received.
///
/// # Errors
/// When the bytes are no frame of at most `limit` bytes. This is known from
/// the first eight.
pub fn take_frame(input: &mut BytesMut, limit: u32) -> Result<Option<Frame>, FrameError> {
    let Some(&[s0, s1, s2, s3, offset, kind, c0, c1]) = input.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let size = u32::from_be_bytes([s0, s1, s2, s3]);
    if size > limit {
        return Err(FrameError::TooLarge { size, limit });
    }
    let start = usize::from(offset) * 4;
    if start < HEADER_BYTES || start > size as usize {
        return Err(FrameError::Size { size, offset });
    }
    let kind = match kind {
        0 => FrameType::Amqp,
        1 => FrameType::Sasl,
        unknown => return Err(FrameError::Type(unknown)),
    };
    if input.len() < size as usize {
        return Ok(None);
    }
    let mut body = input.split_to(size as usize).freeze();
    body.advance(start);
    Ok(Some(Frame {
        kind,
        channel: u16::from_be_bytes([c0, c1]),
        body,
    }))
}

/// Appends a frame whose body `write` writes; returns its length in bytes.
fn put_frame(kind: u8, channel: u16, out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) -> usize {
    let start = out.len();
    out.put_u32(0);
    out.put_slice(&[2, kind]);
    out.put_u16(channel);
    write(out);
    let length = out.len() - start;
    let size = u32::try_from(length).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&size.to_be_bytes());
    length
}

/// Appends a frame with `performative` and `payload` on `channel`; returns its
/// length in bytes.
pub fn put_amqp_frame(
    channel: u16,
    performative: &Performative,
    payload: &[u8],
    out: &mut BytesMut,
) -> usize {
    put_frame(0, channel, out, |out| {
        performative.encode(out);
        out.put_slice(payload);
    })
}

/// As [`put_amqp_frame`] for the frames that are sent most.
pub(crate) fn put_transfer_frame(channel: u16, transfer: &Transfer, payload: &[u8], out: &mut BytesMut) {
    put_frame(0, channel, out, |out| {
        transfer.write(out);
        out.put_slice(payload);
    });
}

/// Appends an empty frame: a sign of life.
pub fn put_empty_frame(out: &mut BytesMut) {
    put_frame(0, 0, out, |_| ());
}

/// Appends a frame of the SASL layer.
pub fn put_sasl_frame(frame: &SaslFrame, out: &mut BytesMut) {
    put_frame(1, 0, out, |out| frame.encode(out));
}
