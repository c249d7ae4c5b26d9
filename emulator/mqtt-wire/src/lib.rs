//! MQTT 3.1.1 packets as bytes, for both ends of a connection.
//!
//! The hub and the device simulator share this crate, and it is the only place
//! that names the codec library. It knows packets, not topics: what a topic
//! means is decided in `hub-core`, what a packet does in the connection tasks.
//!
//! * [`PacketBuffer`] turns bytes that arrive in any portions into packets.
//! * [`encode`] appends a packet to an output buffer.
//! * [`fill`] reads from a stream without keeping a buffer while it waits.
//! * [`raise_descriptor_limit`] makes room for thousands of connections.

mod descriptors;
mod fill;

use std::num::NonZeroU16;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use rmqtt_codec::error::DecodeError;
pub use rmqtt_codec::types::{Protocol, Publish, QoS};
use rmqtt_codec::v3::Codec;
pub use rmqtt_codec::v3::{Connect, ConnectAck, ConnectAckReason, LastWill, Packet, SubscribeReturnCode};
use tokio_util::codec::{Decoder as _, Encoder as _};

pub use self::descriptors::raise_descriptor_limit;
pub use self::fill::{fill, fill_with};

/// Protocol level of MQTT 3.1.1, the only version that an IoT hub speaks.
pub const LEVEL_3_1_1: u8 = 4;

/// Why bytes are not acceptable MQTT.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A CONNECT for another protocol than MQTT 3.1.1; deserves CONNACK 1.
    #[error("the protocol is not MQTT 3.1.1")]
    Protocol,
    /// A CONNECT whose client id is empty without a clean session; deserves CONNACK 2.
    #[error("the client id is empty")]
    ClientId,
    /// The packet's length exceeds the limit; nothing of its body was kept.
    #[error("a packet of {size} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// Length that the packet announces.
        size: u32,
        /// Greatest length accepted.
        limit: u32,
    },
    /// The bytes break the packet format.
    #[error("malformed packet: {0}")]
    Malformed(String),
}

impl From<DecodeError> for WireError {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::InvalidProtocol | DecodeError::UnsupportedProtocolLevel => Self::Protocol,
            DecodeError::InvalidClientId => Self::ClientId,
            DecodeError::MaxSizeExceeded { size, max } => Self::TooLarge { size, limit: max },
            other => Self::Malformed(other.to_string()),
        }
    }
}

/// Bytes received and not yet turned into packets.
///
/// Holds no memory between packets, so that ten thousand idle connections
/// cost nothing here.
#[derive(Debug)]
pub struct PacketBuffer {
    codec: Codec,
    bytes: BytesMut,
}

impl PacketBuffer {
    /// An empty buffer that refuses packets of more than `limit` bytes.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self {
            codec: Codec::new(limit),
            bytes: BytesMut::new(),
        }
    }

    /// Changes the greatest accepted packet length, in bytes.
    pub fn set_limit(&mut self, limit: u32) {
        self.codec.set_max_size(limit);
    }

    /// Appends received bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next complete packet; `None` when more bytes are needed.
    ///
    /// Payloads are slices of the received bytes: copy what is kept for
    /// longer, or the whole read stays in memory.
    ///
    /// # Errors
    /// When the bytes are not MQTT 3.1.1. The connection cannot go on: where
    /// the next packet would start is unknown.
    pub fn next_packet(&mut self) -> Result<Option<Packet>, WireError> {
        if self.bytes.is_empty() {
            // `BytesMut` keeps its storage until it is dropped.
            self.bytes = BytesMut::new();
            return Ok(None);
        }
        match self.codec.decode(&mut self.bytes)? {
            Some((packet, length)) => check_form(&packet, length).map(|()| Some(packet)),
            None => Ok(None),
        }
    }
}

/// Refuses what MQTT 3.1.1 forbids and the codec lets pass; `length` is what
/// the packet's fixed header announced.
fn check_form(packet: &Packet, length: u32) -> Result<(), WireError> {
    let fault = match packet {
        Packet::PingRequest | Packet::PingResponse | Packet::Disconnect if length != 0 => {
            "a packet without a body has one"
        }
        Packet::Publish(publish) if publish.dup && publish.qos == QoS::AtMostOnce => {
            "a PUBLISH with QoS 0 cannot be a duplicate (MQTT-3.3.1-2)"
        }
        // The level below is for the handshake to refuse, with CONNACK 1.
        Packet::Connect(connect)
            if connect.protocol.level() == LEVEL_3_1_1 && length as usize != connect_length(connect) =>
        {
            "CONNECT does not end with its payload"
        }
        _ => return Ok(()),
    };
    Err(WireError::Malformed(fault.into()))
}

/// Bytes of a CONNECT after its fixed header.
fn connect_length(connect: &Connect) -> usize {
    // Protocol name, level, flags, keep-alive.
    const VARIABLE_HEADER: usize = 10;
    let field = |length: usize| 2 + length;
    let will = |will: &LastWill| field(will.topic.len()) + field(will.message.len());
    VARIABLE_HEADER
        + field(connect.client_id.len())
        + connect.last_will.as_ref().map_or(0, will)
        + connect.username.as_ref().map_or(0, |text| field(text.len()))
        + connect.password.as_ref().map_or(0, |bytes| field(bytes.len()))
}

/// Appends `packet` to `out`.
///
/// # Errors
/// When a text or the packet as a whole exceeds what MQTT can express.
pub fn encode(packet: Packet, out: &mut BytesMut) -> Result<(), WireError> {
    // The codec's state concerns decoding only, so a fresh one costs nothing.
    Codec::new(0)
        .encode(packet, out)
        .map_err(|e| WireError::Malformed(e.to_string()))
}

/// A PUBLISH without acknowledgement.
#[must_use]
pub fn publish_qos0(topic: impl Into<ByteString>, payload: Bytes) -> Packet {
    Packet::Publish(publish(topic, payload, QoS::AtMostOnce, None))
}

/// A PUBLISH to be acknowledged under `packet_id`.
#[must_use]
pub fn publish_qos1(topic: impl Into<ByteString>, payload: Bytes, packet_id: NonZeroU16) -> Packet {
    Packet::Publish(publish(topic, payload, QoS::AtLeastOnce, Some(packet_id)))
}

/// A PUBLISH that may have arrived before under the same `packet_id`: DUP is set.
#[must_use]
pub fn publish_again(topic: impl Into<ByteString>, payload: Bytes, packet_id: NonZeroU16) -> Packet {
    let mut publish = publish(topic, payload, QoS::AtLeastOnce, Some(packet_id));
    publish.dup = true;
    Packet::Publish(publish)
}

fn publish(
    topic: impl Into<ByteString>,
    payload: Bytes,
    qos: QoS,
    packet_id: Option<NonZeroU16>,
) -> Box<Publish> {
    Box::new(Publish {
        dup: false,
        retain: false,
        qos,
        topic: topic.into(),
        packet_id,
        payload,
        properties: None,
    })
}

/// The CONNECT of an MQTT 3.1.1 client that authenticates with a user name
/// and, unless it shows a certificate, a password.
#[must_use]
pub fn connect(
    client_id: &str,
    user_name: &str,
    password: Option<&str>,
    keep_alive: u16,
    clean: CleanSession,
) -> Packet {
    Packet::Connect(Box::new(Connect {
        protocol: Protocol(LEVEL_3_1_1),
        clean_session: clean == CleanSession::Yes,
        keep_alive,
        last_will: None,
        client_id: client_id.into(),
        username: Some(user_name.into()),
        password: password.map(|p| Bytes::copy_from_slice(p.as_bytes())),
        cert: None,
    }))
}

/// Whether a client asks for its stored session to be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CleanSession {
    /// Drop what was stored, store nothing.
    Yes,
    /// Take up the stored session and keep it for the next connection.
    No,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all_packets(buffer: &mut PacketBuffer) -> Result<Vec<Packet>, WireError> {
        let mut packets = Vec::new();
        while let Some(packet) = buffer.next_packet()? {
            packets.push(packet);
        }
        Ok(packets)
    }

    fn sample() -> Vec<Packet> {
        let id = NonZeroU16::new(7).unwrap();
        vec![
            connect(
                "dev1",
                "localhost/dev1/?api-version=2021-04-12",
                Some("sig"),
                60,
                CleanSession::No,
            ),
            Packet::ConnectAck(ConnectAck {
                return_code: ConnectAckReason::NotAuthorized,
                session_present: true,
            }),
            publish_qos0("$iothub/methods/POST/m/?$rid=1", Bytes::from_static(b"{}")),
            publish_qos1("devices/d/messages/events/", Bytes::from(vec![7; 300]), id),
            Packet::PublishAck { packet_id: id },
            Packet::Subscribe {
                packet_id: id,
                topic_filters: vec![("a/#".into(), QoS::AtLeastOnce)],
            },
            Packet::SubscribeAck {
                packet_id: id,
                status: vec![
                    SubscribeReturnCode::Success(QoS::AtMostOnce),
                    SubscribeReturnCode::Failure,
                ],
            },
            Packet::Unsubscribe {
                packet_id: id,
                topic_filters: vec!["a/#".into()],
            },
            Packet::UnsubscribeAck { packet_id: id },
            Packet::PingRequest,
            Packet::PingResponse,
            Packet::Disconnect,
        ]
    }

    #[test]
    fn packets_survive_any_split_of_the_bytes() {
        let mut bytes = BytesMut::new();
        for packet in sample() {
            encode(packet, &mut bytes).unwrap();
        }
        for cut in 0..=bytes.len() {
            let mut buffer = PacketBuffer::new(1024);
            buffer.extend(&bytes[..cut]);
            let mut packets = all_packets(&mut buffer).unwrap();
            buffer.extend(&bytes[cut..]);
            packets.extend(all_packets(&mut buffer).unwrap());
            assert_eq!(packets, sample(), "cut at {cut}");
        }
    }

    #[test]
    fn an_announced_length_beyond_the_limit_is_refused_before_the_body_arrives() {
        let mut buffer = PacketBuffer::new(1000);
        buffer.extend(&[0x30, 0xff, 0xff, 0x7f]);
        assert_eq!(
            buffer.next_packet(),
            Err(WireError::TooLarge {
                size: 2_097_151,
                limit: 1000
            })
        );
    }

    #[test]
    fn what_the_codec_lets_pass_is_refused() {
        let malformed = |bytes: &[u8]| {
            let mut buffer = PacketBuffer::new(1000);
            buffer.extend(bytes);
            matches!(buffer.next_packet(), Err(WireError::Malformed(_)))
        };
        // Bodies of packets that have none.
        for bytes in [b"\xc0\x01x", b"\xd0\x01x", b"\xe0\x01x"] {
            assert!(malformed(bytes), "{bytes:?}");
        }
        // A duplicate with QoS 0.
        assert!(malformed(b"\x38\x03\x00\x01t"));
        // Bytes behind the client id, and behind a will and credentials.
        let connect = |flags: u8, rest: &[u8]| {
            let mut bytes = vec![0x10, 10 + rest.len() as u8, 0, 4];
            bytes.extend_from_slice(b"MQTT");
            bytes.extend_from_slice(&[4, flags, 0, 60]);
            bytes.extend_from_slice(rest);
            malformed(&bytes)
        };
        let all = b"\x00\x01i\x00\x01t\x00\x01m\x00\x01u\x00\x01p";
        assert!(!connect(0x02, b"\x00\x01i"));
        assert!(connect(0x02, b"\x00\x01ix"));
        assert!(!connect(0xc6, all));
        assert!(connect(0xc6, &[all.as_slice(), b"x"].concat()));
        // The name of version 3.1 with the level of 3.1.1.
        assert!(malformed(b"\x10\x0f\x00\x06MQIsdp\x04\x02\x00\x3c\x00\x01i"));
    }

    #[test]
    fn other_protocols_are_told_apart_from_garbage() {
        let decode = |bytes: &[u8]| {
            let mut buffer = PacketBuffer::new(1000);
            buffer.extend(bytes);
            buffer.next_packet()
        };
        let v5 = b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x03abc";
        assert_eq!(decode(v5), Err(WireError::Protocol));
        assert_eq!(
            decode(b"\x10\x0c\x00\x04HTTP\x04\x02\x00\x3c\x00\x00"),
            Err(WireError::Protocol)
        );
        assert_eq!(
            decode(b"\x10\x0c\x00\x04MQTT\x04\x00\x00\x3c\x00\x00"),
            Err(WireError::ClientId)
        );
        assert!(matches!(decode(b"\xf0\x00"), Err(WireError::Malformed(_))));
        assert!(matches!(
            decode(b"\x30\xff\xff\xff\xff\x01"),
            Err(WireError::Malformed(_))
        ));
        assert!(matches!(
            decode(b"\x30\x04\x00\x02\xff\xfe"),
            Err(WireError::Malformed(_))
        ));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(chunks: Vec<Vec<u8>>) {
            let mut buffer = PacketBuffer::new(4096);
            for chunk in chunks {
                buffer.extend(&chunk);
                if all_packets(&mut buffer).is_err() {
                    break;
                }
            }
        }

        #[test]
        fn arbitrary_bodies_never_panic(first in any::<u8>(), body in proptest::collection::vec(any::<u8>(), 0..127)) {
            let mut buffer = PacketBuffer::new(4096);
            buffer.extend(&[first, body.len() as u8]);
            buffer.extend(&body);
            let _ = all_packets(&mut buffer);
        }
    }
}
