//! A minimal MQTT client: connects, subscribes, answers. It works with any
//! broker, so that the same code is on the other end of the hub and of what it
//! is compared with.

use std::num::NonZeroU16;

use bytes::{Bytes, BytesMut};
use mqtt_wire::{
    CleanSession, ConnectAckReason, Packet, PacketBuffer, QoS, SubscribeReturnCode, encode, fill,
    publish_qos0,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

/// The largest packet that a peer accepts, in bytes.
const PACKET_BYTES: u32 = 256 * 1024;
/// Seconds; longer than any bench keeps a connection quiet.
const KEEP_ALIVE: u16 = 600;

/// What a client says when it connects, encoded beforehand: the client's own
/// work is not what is measured.
#[derive(Clone)]
pub struct Hello {
    connect: Bytes,
    subscribe: Bytes,
}

impl Hello {
    /// A CONNECT with a clean session, and a SUBSCRIBE to `filters` with `qos`.
    ///
    /// # Panics
    /// When a text is too long for MQTT.
    #[must_use]
    pub fn new(client_id: &str, user_name: &str, password: Option<&str>, filters: &[&str], qos: QoS) -> Self {
        let subscribe = Packet::Subscribe {
            packet_id: NonZeroU16::MIN,
            topic_filters: filters.iter().map(|filter| ((*filter).into(), qos)).collect(),
        };
        Self {
            connect: bytes_of(mqtt_wire::connect(
                client_id,
                user_name,
                password,
                KEEP_ALIVE,
                CleanSession::Yes,
            )),
            subscribe: bytes_of(subscribe),
        }
    }
}

fn bytes_of(packet: Packet) -> Bytes {
    let mut bytes = BytesMut::new();
    encode(packet, &mut bytes).expect("a legal packet");
    bytes.freeze()
}

/// A connected client.
pub struct Peer<S> {
    stream: S,
    packets: PacketBuffer,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// Connects, waits for CONNACK, subscribes, waits for SUBACK.
    ///
    /// # Panics
    /// When either is refused or the connection breaks.
    pub async fn open(stream: S, hello: &Hello) -> Self {
        let mut peer = Self {
            stream,
            packets: PacketBuffer::new(PACKET_BYTES),
        };
        peer.send(&hello.connect).await;
        match peer.receive().await {
            Some(Packet::ConnectAck(ack)) => {
                assert_eq!(ack.return_code, ConnectAckReason::ConnectionAccepted);
            }
            other => panic!("{other:?} instead of CONNACK"),
        }
        peer.send(&hello.subscribe).await;
        match peer.receive().await {
            Some(Packet::SubscribeAck { status, .. }) => {
                assert!(!status.contains(&SubscribeReturnCode::Failure), "{status:?}");
            }
            other => panic!("{other:?} instead of SUBACK"),
        }
        peer
    }

    /// The stream beneath.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Writes encoded packets.
    ///
    /// # Panics
    /// When the connection breaks.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the connection stays");
        self.stream.flush().await.expect("the connection stays");
    }

    /// The next packet; `None` at the end of the connection.
    ///
    /// # Panics
    /// When the other end sends something that is not MQTT.
    pub async fn receive(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.packets.next_packet().expect("MQTT 3.1.1") {
                return Some(packet);
            }
            if !matches!(fill(&mut self.stream, &mut self.packets).await, Ok(1..)) {
                return None;
            }
        }
    }

    /// Answers every PUBLISH with QoS 0 on the topic that `answer_topic` makes
    /// of its topic, until the connection ends. What one read brought is
    /// answered in one write.
    ///
    /// # Panics
    /// When the other end sends something that is not MQTT.
    pub async fn answer(mut self, answer_topic: impl Fn(&str) -> String) {
        let mut out = BytesMut::new();
        while matches!(fill(&mut self.stream, &mut self.packets).await, Ok(1..)) {
            while let Some(packet) = self.packets.next_packet().expect("MQTT 3.1.1") {
                if let Packet::Publish(publish) = packet {
                    let answer = publish_qos0(answer_topic(&publish.topic), ANSWER);
                    encode(answer, &mut out).expect("a legal packet");
                }
            }
            // A server that goes away in the middle is seen by the next read.
            let _ = self.stream.write_all_buf(&mut out).await;
        }
    }
}

/// The body of every answer.
const ANSWER: Bytes = Bytes::from_static(br#"{"ok":true}"#);
