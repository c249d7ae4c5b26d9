//! The frames of the SASL layer (AMQP 1.0 part 5.3).

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;

use crate::decode::{DecodeError, Reader};
use crate::encode::Fields as Out;
use crate::value::{Array, Value};

/// The body of a SASL frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SaslFrame {
    /// What the server offers: names of mechanisms, in order of preference.
    Mechanisms(Vec<ByteString>),
    /// What the client chooses.
    Init(SaslInit),
    /// A question of the server's.
    Challenge(Bytes),
    /// The client's answer to it.
    Response(Bytes),
    /// How it ended.
    Outcome(SaslOutcome),
}

/// `sasl-init`: the mechanism that a client chooses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaslInit {
    /// Name of the mechanism, as sent.
    pub mechanism: ByteString,
    /// What the mechanism begins with.
    pub initial_response: Option<Bytes>,
    /// Host that the client wants to speak to.
    pub hostname: Option<ByteString>,
}

impl SaslInit {
    /// The mechanism ANONYMOUS (RFC 4505).
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            mechanism: ByteString::from_static("ANONYMOUS"),
            initial_response: Some(Bytes::new()),
            hostname: None,
        }
    }

    /// The mechanism PLAIN (RFC 4616).
    #[must_use]
    pub fn plain(user: &str, password: &str) -> Self {
        Self {
            mechanism: ByteString::from_static("PLAIN"),
            initial_response: Some(format!("\0{user}\0{password}").into()),
            hostname: None,
        }
    }
}

/// `sasl-outcome`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaslOutcome {
    /// How it ended.
    pub code: SaslCode,
    /// What the mechanism ends with.
    pub additional_data: Option<Bytes>,
}

/// How an authentication ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaslCode {
    /// The client is who it says.
    Ok,
    /// The client is not who it says.
    Auth,
    /// A failure of the server's.
    Sys,
    /// A failure that remains until somebody repairs it.
    SysPerm,
    /// A failure that may pass.
    SysTemp,
}

impl SaslFrame {
    /// Reads the body of a SASL frame.
    ///
    /// # Errors
    /// When the bytes are no SASL frame or a field breaks its definition.
    pub fn decode(body: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let (code, mut fields) = reader.composite()?;
        let frame = match code {
            0x40 => Self::Mechanisms(match fields.value()? {
                Value::Symbol(name) => vec![name],
                Value::Array(names) => symbols(&names)?,
                _ => return Err(DecodeError::Field("sasl-server-mechanisms")),
            }),
            0x41 => Self::Init(SaslInit {
                mechanism: fields
                    .text("mechanism")?
                    .ok_or(DecodeError::Missing("mechanism"))?,
                initial_response: fields.binary("initial-response")?,
                hostname: fields.text("hostname")?,
            }),
            0x42 => Self::Challenge(fields.binary("challenge")?.unwrap_or_default()),
            0x43 => Self::Response(fields.binary("response")?.unwrap_or_default()),
            0x44 => Self::Outcome(SaslOutcome {
                code: match fields.ubyte("code")? {
                    Some(0) => SaslCode::Ok,
                    Some(1) => SaslCode::Auth,
                    Some(2) => SaslCode::Sys,
                    Some(3) => SaslCode::SysPerm,
                    Some(4) => SaslCode::SysTemp,
                    _ => return Err(DecodeError::Field("code")),
                },
                additional_data: fields.binary("additional-data")?,
            }),
            unknown => return Err(DecodeError::Descriptor(format!("{unknown:#x} is no SASL frame"))),
        };
        fields.finish()?;
        if reader.is_empty() {
            Ok(frame)
        } else {
            Err(DecodeError::Size)
        }
    }

    /// Appends the body to `out`, with all its fields.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Mechanisms(names) => Out::write(0x40, out, |fields| {
                fields.value(&Value::Array(Array::of_symbols(names.iter().cloned())));
            }),
            Self::Init(init) => Out::write(0x41, out, |fields| {
                fields.symbol(Some(&init.mechanism));
                fields.binary(init.initial_response.as_deref());
                fields.string(init.hostname.as_deref());
            }),
            Self::Challenge(bytes) => Out::write(0x42, out, |fields| fields.binary(Some(bytes))),
            Self::Response(bytes) => Out::write(0x43, out, |fields| fields.binary(Some(bytes))),
            Self::Outcome(outcome) => Out::write(0x44, out, |fields| {
                fields.ubyte(outcome.code as u8);
                fields.binary(outcome.additional_data.as_deref());
            }),
        }
    }
}

fn symbols(names: &Array) -> Result<Vec<ByteString>, DecodeError> {
    names
        .items()
        .iter()
        .map(|name| match name {
            Value::Symbol(name) => Ok(name.clone()),
            _ => Err(DecodeError::Field("sasl-server-mechanisms")),
        })
        .collect()
}
