//! A device of raw MQTT packets.
//!
//! It follows no protocol by itself: a test says what is sent and what must
//! come back, packet by packet or byte by byte. Each wait has a deadline.

use std::io;
use std::num::NonZeroU16;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use emulator::Hub;
use hub_core::connection_string::{ConnectionString, Credential, DeviceConnection};
use hub_core::ids::Target;
use hub_core::sas::{self, Key};
use mqtt_wire::{
    Connect, ConnectAck, ConnectAckReason, Packet, PacketBuffer, Publish, QoS, SubscribeReturnCode, encode,
    fill, publish_qos0, publish_qos1,
};
use tokio::io::AsyncWriteExt as _;

use super::soon;
use super::transport::{Socket, Transport};

pub const METHODS: &str = "$iothub/methods/POST/#";
pub const TWIN_RESPONSES: &str = "$iothub/twin/res/#";
pub const DESIRED_CHANGES: &str = "$iothub/twin/PATCH/properties/desired/#";

/// Bytes of a packet that a device takes: more than a hub should ever send.
const PACKET_LIMIT: u32 = 1024 * 1024;

/// A key for devices and modules that a test registers itself.
pub const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// Another one.
pub const OTHER_KEY: &str = "Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";

/// Seconds since 1970-01-01 UTC.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// An identity and its key, from which tokens are made.
#[derive(Clone)]
pub struct Identity {
    pub host: String,
    pub target: Target,
    pub key: Key,
}

impl Identity {
    /// That of a device's or module's connection string.
    pub fn of(connection_string: &str) -> Self {
        match ConnectionString::parse(connection_string).unwrap() {
            ConnectionString::Device(DeviceConnection {
                host,
                target,
                credential: Credential::Key(key),
                ..
            }) => Self {
                host: host.to_string(),
                target,
                key,
            },
            other => panic!("{other:?} is no device with a key"),
        }
    }

    /// Registers a device with a fresh key.
    pub fn create(hub: &Hub, id: &str) -> Self {
        Self::of(&hub.create_device(id).unwrap())
    }

    /// Registers a module of a device that exists.
    pub fn create_module(hub: &Hub, device: &str, module: &str) -> Self {
        let identity = serde_json::json!({
            "deviceId": device, "moduleId": module,
            "authentication": {"symmetricKey": {"primaryKey": KEY, "secondaryKey": OTHER_KEY}},
        });
        hub.import(&identity.to_string()).unwrap();
        let host = hub.host_name();
        Self::of(&format!(
            "HostName={host};DeviceId={device};ModuleId={module};SharedAccessKey={KEY}"
        ))
    }

    /// A token that ends `seconds` after 1970-01-01.
    pub fn token(&self, seconds: u64) -> String {
        let resource = sas::resource_text(&self.host, &self.target);
        sas::sign(&resource, &self.key, seconds, None)
    }

    pub fn user_name(&self) -> String {
        format!("{}/{}/?api-version=2021-04-12", self.host, self.target)
    }

    /// A CONNECT as SDKs send it: a stored session is asked for, the token is
    /// good for an hour.
    pub fn connect(&self) -> Connect {
        Connect {
            keep_alive: 60,
            client_id: self.target.to_string().into(),
            username: Some(self.user_name().into()),
            password: Some(self.token(unix_now() + 3600).into()),
            ..Connect::default()
        }
    }

    /// The same with a clean session.
    pub fn connect_clean(&self) -> Connect {
        Connect {
            clean_session: true,
            ..self.connect()
        }
    }

    /// The topic of a telemetry message with this property bag.
    pub fn events(&self, bag: &str) -> String {
        match &self.target.module {
            None => format!("devices/{}/messages/events/{bag}", self.target.device),
            Some(module) => format!(
                "devices/{}/modules/{module}/messages/events/{bag}",
                self.target.device
            ),
        }
    }
}

/// What a device was sent in a PUBLISH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub topic: String,
    pub payload: Bytes,
}

impl Delivery {
    /// The payload as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload).unwrap()
    }
}

/// One end of an MQTT connection.
pub struct Device {
    stream: Box<dyn Socket>,
    packets: PacketBuffer,
    last_id: u16,
}

impl Device {
    pub fn over(stream: impl Socket + 'static) -> Self {
        Self::over_boxed(Box::new(stream))
    }

    fn over_boxed(stream: Box<dyn Socket>) -> Self {
        Self {
            stream,
            packets: PacketBuffer::new(PACKET_LIMIT),
            last_id: 0,
        }
    }

    /// Opens a connection without sending anything.
    pub async fn open(hub: &Hub, transport: Transport) -> Self {
        Self::over_boxed(soon("a connection", Box::pin(transport.open(hub))).await)
    }

    /// Opens an in-memory connection without sending anything.
    pub fn in_memory(hub: &Hub) -> Self {
        Self::over(hub.connect_in_memory())
    }

    /// Registers a device unless it exists and connects it, in memory and with
    /// a stored session.
    pub async fn online(hub: &Hub, id: &str) -> Self {
        let (device, _) = Self::connected(hub, Identity::create(hub, id).connect()).await;
        device
    }

    /// Connects in memory; says whether a session was present.
    pub async fn connected(hub: &Hub, connect: Connect) -> (Self, bool) {
        let mut device = Self::in_memory(hub);
        let ack = device.connect(connect).await;
        assert_eq!(ack.return_code, ConnectAckReason::ConnectionAccepted);
        (device, ack.session_present)
    }

    /// Sends a CONNECT and waits for its answer.
    pub async fn connect(&mut self, connect: Connect) -> ConnectAck {
        self.send(connect.into()).await;
        match self.expect_packet().await {
            Packet::ConnectAck(ack) => ack,
            other => panic!("{other:?} instead of a CONNACK"),
        }
    }

    /// Sends bytes as they are, in one write. That the hub has closed the
    /// connection meanwhile shows in what the test expects next.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        let write = async {
            let _ = self.stream.write_all(bytes).await;
            let _ = self.stream.flush().await;
        };
        soon("a write", write).await;
    }

    pub async fn send(&mut self, packet: Packet) {
        self.send_bytes(&bytes_of([packet])).await;
    }

    /// The next packet from the hub.
    pub async fn expect_packet(&mut self) -> Packet {
        let read = async {
            loop {
                if let Some(packet) = self.packets.next_packet().unwrap() {
                    return packet;
                }
                let read = fill(&mut self.stream, &mut self.packets).await.unwrap();
                assert_ne!(read, 0, "the hub closed the connection");
            }
        };
        soon("a packet", read).await
    }

    /// The next packet, which must be a PUBLISH with QoS 0.
    pub async fn expect_delivery(&mut self) -> Delivery {
        match self.expect_packet().await {
            Packet::Publish(publish) => {
                assert_eq!(
                    (publish.qos, publish.retain, publish.dup),
                    (QoS::AtMostOnce, false, false)
                );
                Delivery {
                    topic: publish.topic.to_string(),
                    payload: publish.payload,
                }
            }
            other => panic!("{other:?} instead of a PUBLISH"),
        }
    }

    /// The next packet, which must be a PUBLISH of any kind.
    pub async fn expect_publish(&mut self) -> Publish {
        match self.expect_packet().await {
            Packet::Publish(publish) => *publish,
            other => panic!("{other:?} instead of a PUBLISH"),
        }
    }

    /// Acknowledges a PUBLISH with QoS 1.
    pub async fn acknowledge(&mut self, packet_id: NonZeroU16) {
        self.send(Packet::PublishAck { packet_id }).await;
    }

    /// The hub sent nothing up to now: the answer to a ping is the next packet.
    pub async fn expect_silence(&mut self) {
        self.send(Packet::PingRequest).await;
        assert_eq!(self.expect_packet().await, Packet::PingResponse);
    }

    /// Whether the hub answers a ping, or has closed the connection; whatever
    /// else it sent is skipped.
    pub async fn is_alive(&mut self) -> bool {
        self.send(Packet::PingRequest).await;
        let answer = async {
            loop {
                while let Some(packet) = self.packets.next_packet().unwrap() {
                    if packet == Packet::PingResponse {
                        return true;
                    }
                }
                if !fill(&mut self.stream, &mut self.packets)
                    .await
                    .is_ok_and(|read| read > 0)
                {
                    return false;
                }
            }
        };
        soon("an answer or the end", answer).await
    }

    /// The hub closes the connection, without a packet before.
    pub async fn expect_closed(&mut self) {
        soon("the end of the connection", self.closed()).await;
    }

    /// The connection ends, perhaps without the transport's farewell: the hub
    /// has stopped.
    pub async fn expect_cut(&mut self) {
        let cut = async {
            while fill(&mut self.stream, &mut self.packets)
                .await
                .is_ok_and(|read| read > 0)
            {}
            assert_eq!(self.packets.next_packet(), Ok(None));
        };
        soon("the end of the connection", cut).await;
    }

    /// Waits for the end without a deadline of its own.
    pub async fn closed(&mut self) {
        loop {
            if let Some(packet) = self.packets.next_packet().unwrap() {
                panic!("{packet:?} before the end of the connection");
            }
            match fill(&mut self.stream, &mut self.packets).await {
                Ok(0) => return,
                Ok(_) => {}
                // What the hub had not read when it closed turns into this.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return,
                Err(e) => panic!("the connection broke: {e}"),
            }
        }
    }

    /// Subscribes and gives the codes of the SUBACK.
    pub async fn subscribe_to(&mut self, filters: &[(&str, QoS)]) -> Vec<SubscribeReturnCode> {
        let packet_id = self.next_id();
        let topic_filters = filters.iter().map(|(f, qos)| ((*f).into(), *qos)).collect();
        self.send(Packet::Subscribe {
            packet_id,
            topic_filters,
        })
        .await;
        match self.expect_packet().await {
            Packet::SubscribeAck {
                packet_id: id,
                status,
            } if id == packet_id => status,
            other => panic!("{other:?} instead of a SUBACK of {packet_id}"),
        }
    }

    /// Subscribes with QoS 1, which must be granted.
    pub async fn subscribe(&mut self, filters: &[&str]) {
        let wanted: Vec<_> = filters.iter().map(|f| (*f, QoS::AtLeastOnce)).collect();
        let granted = vec![SubscribeReturnCode::Success(QoS::AtLeastOnce); filters.len()];
        assert_eq!(self.subscribe_to(&wanted).await, granted);
    }

    pub async fn unsubscribe(&mut self, filters: &[&str]) {
        let packet_id = self.next_id();
        let topic_filters = filters.iter().map(|f| (*f).into()).collect();
        self.send(Packet::Unsubscribe {
            packet_id,
            topic_filters,
        })
        .await;
        assert_eq!(self.expect_packet().await, Packet::UnsubscribeAck { packet_id });
    }

    /// Publishes with QoS 0.
    pub async fn publish(&mut self, topic: &str, payload: impl Into<Bytes>) {
        self.send(publish_qos0(topic, payload.into())).await;
    }

    /// Publishes with QoS 1; the acknowledgement must be the next packet.
    pub async fn publish_acknowledged(&mut self, topic: &str, payload: impl Into<Bytes>) {
        let packet_id = self.next_id();
        self.send(publish_qos1(topic, payload.into(), packet_id)).await;
        assert_eq!(self.expect_packet().await, Packet::PublishAck { packet_id });
    }

    pub async fn disconnect(mut self) {
        self.send(Packet::Disconnect).await;
        self.expect_closed().await;
    }

    fn next_id(&mut self) -> NonZeroU16 {
        self.last_id += 1;
        NonZeroU16::new(self.last_id).unwrap()
    }
}

/// Packets as they go over the wire.
pub fn bytes_of(packets: impl IntoIterator<Item = Packet>) -> BytesMut {
    let mut bytes = BytesMut::new();
    for packet in packets {
        encode(packet, &mut bytes).unwrap();
    }
    bytes
}

/// Awaits the end of the connection, which must come `after` so much time of
/// the runtime's clock and less than a second later.
pub async fn expect_closed_after(device: &mut Device, after: Duration) {
    let start = tokio::time::Instant::now();
    tokio::time::timeout(after + Duration::from_secs(10), device.closed())
        .await
        .unwrap_or_else(|_| {
            panic!(
                "the connection lives {:?} longer than {after:?}",
                start.elapsed() - after
            )
        });
    let elapsed = start.elapsed();
    assert!(
        (after..after + Duration::from_secs(1)).contains(&elapsed),
        "closed after {elapsed:?} instead of {after:?}"
    );
}
