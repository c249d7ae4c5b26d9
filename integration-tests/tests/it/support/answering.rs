//! A device that answers direct methods and listens for desired properties,
//! over the hub's in-memory transport.

use std::num::NonZeroU16;

use bytes::{Bytes, BytesMut};
use emulator::Hub;
use hub_core::ids::{DeviceId, ModuleId, Target};
use hub_core::limits;
use hub_core::sas::{self, Key};
use hub_core::topic::{DeviceTopic, Filter, HubTopic};
use mqtt_wire::{
    CleanSession, ConnectAckReason, Packet, PacketBuffer, QoS, connect, encode, fill, publish_qos0,
    publish_qos1,
};
use serde_json::Value;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, watch};

use super::rest::{FAR_FUTURE, Rest};
use super::soon;

/// What a device does with a method call.
#[derive(Debug, Clone)]
pub enum Answer {
    /// It answers at once, with this status and body.
    With(i32, Bytes),
    /// It says nothing, until the test makes it [`AnsweringDevice::respond`].
    Nothing,
    /// It drops the connection.
    Vanish,
}

impl Answer {
    /// A JSON answer.
    pub fn json(status: i32, body: &Value) -> Self {
        Self::With(status, body.to_string().into())
    }
}

/// A method call as the device sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenCall {
    pub name: String,
    pub rid: String,
    pub payload: Bytes,
}

/// Everything that a device has seen so far.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub calls: Vec<SeenCall>,
    /// Payloads of desired-property notifications.
    pub desired: Vec<Value>,
    /// Whether the hub has ended the connection.
    pub closed: bool,
}

enum Command {
    Send(Packet),
    Disconnect,
}

/// A connected device; dropping it cuts the connection.
#[derive(Debug)]
pub struct AnsweringDevice {
    seen: watch::Receiver<Seen>,
    commands: mpsc::UnboundedSender<Command>,
}

impl AnsweringDevice {
    /// Connects `target` (`device` or `device/module`), which must exist, and
    /// returns once it is subscribed to methods and desired properties.
    pub async fn connect(hub: &Hub, target: &str, answer: Answer) -> Self {
        let filters = [Filter::Methods, Filter::DesiredChanges];
        Self::try_connect(hub, target, answer, &filters).await.unwrap()
    }

    /// Connects and subscribes to `filters`.
    ///
    /// # Errors
    /// The hub's return code, when it refuses the connection.
    pub async fn try_connect(
        hub: &Hub,
        target: &str,
        answer: Answer,
        filters: &[Filter],
    ) -> Result<Self, ConnectAckReason> {
        let target = parse(target);
        let mut wire = Wire {
            stream: hub.connect_in_memory(),
            packets: PacketBuffer::new(limits::MQTT_PACKET_BYTES),
        };
        let token = sas::sign(
            &sas::resource_text("localhost", &target),
            &key(hub, &target).await,
            FAR_FUTURE,
            None,
        );
        let client_id = target.to_string();
        let user_name = format!("localhost/{client_id}/?api-version=2021-04-12");
        wire.send(connect(
            &client_id,
            &user_name,
            Some(&token),
            60,
            CleanSession::Yes,
        ))
        .await;
        match wire.next().await {
            Some(Packet::ConnectAck(ack)) if ack.return_code == ConnectAckReason::ConnectionAccepted => {}
            Some(Packet::ConnectAck(ack)) => return Err(ack.return_code),
            other => panic!("{other:?} in place of CONNACK"),
        }
        if !filters.is_empty() {
            wire.subscribe(filters, &target).await;
        }
        let (seen, seen_by_test) = watch::channel(Seen::default());
        let (commands, orders) = mpsc::unbounded_channel();
        tokio::spawn(run(wire, answer, seen, orders));
        Ok(Self {
            seen: seen_by_test,
            commands,
        })
    }

    /// What the device has seen by now.
    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Waits until what the device has seen satisfies `condition`.
    pub async fn saw(&mut self, what: &str, condition: impl Fn(&Seen) -> bool) -> Seen {
        soon(what, self.seen.wait_for(condition)).await.unwrap().clone()
    }

    /// Waits for the method call number `count`, counted from 1.
    pub async fn call(&mut self, count: usize) -> SeenCall {
        let seen = self.saw("a method call", |seen| seen.calls.len() >= count).await;
        seen.calls[count - 1].clone()
    }

    /// Answers a call that was left open.
    pub fn respond(&self, call: &SeenCall, status: i32, body: &[u8]) {
        let topic = DeviceTopic::MethodResponse {
            status,
            rid: &call.rid,
        };
        self.publish(&topic.to_string(), body);
    }

    /// Publishes with QoS 0.
    pub fn publish(&self, topic: &str, body: &[u8]) {
        self.send(publish_qos0(topic.to_owned(), Bytes::copy_from_slice(body)));
    }

    /// Publishes with QoS 1; nothing waits for the acknowledgement.
    pub fn publish_acknowledged(&self, topic: &str, body: &[u8]) {
        let body = Bytes::copy_from_slice(body);
        self.send(publish_qos1(topic.to_owned(), body, NonZeroU16::MIN));
    }

    /// Subscribes to `filter` later than on connecting.
    pub fn subscribe(&self, filter: Filter, target: &str) {
        self.send(Packet::Subscribe {
            packet_id: NonZeroU16::MIN,
            topic_filters: vec![(filter.text(&parse(target)).into(), QoS::AtMostOnce)],
        });
    }

    /// Ends the connection in good order.
    pub fn disconnect(&self) {
        let _ = self.commands.send(Command::Disconnect);
    }

    fn send(&self, packet: Packet) {
        // A device whose connection has ended sends nothing.
        let _ = self.commands.send(Command::Send(packet));
    }
}

fn parse(target: &str) -> Target {
    let (device, module) = match target.split_once('/') {
        None => (target, None),
        Some((device, module)) => (device, Some(ModuleId::parse(module).unwrap())),
    };
    Target {
        device: DeviceId::parse(device).unwrap(),
        module,
    }
}

async fn key(hub: &Hub, target: &Target) -> Key {
    let path = match &target.module {
        None => format!("/devices/{}", target.device),
        Some(module) => format!("/devices/{}/modules/{module}", target.device),
    };
    let identity = Rest::of(hub).get(&path).await.ok();
    let key = &identity["authentication"]["symmetricKey"]["primaryKey"];
    Key::from_base64(key.as_str().unwrap()).unwrap()
}

/// Serves the connection until either side ends it.
async fn run(
    mut wire: Wire,
    answer: Answer,
    seen: watch::Sender<Seen>,
    mut orders: mpsc::UnboundedReceiver<Command>,
) {
    loop {
        tokio::select! {
            packet = wire.next() => match packet {
                Some(Packet::Publish(publish)) => {
                    let topic = publish.topic.to_string();
                    match HubTopic::parse(&topic).unwrap() {
                        HubTopic::MethodRequest { name, rid } => {
                            let call = SeenCall {
                                name: name.into(),
                                rid: rid.into(),
                                payload: Bytes::copy_from_slice(&publish.payload),
                            };
                            match &answer {
                                Answer::With(status, body) => {
                                    let topic = DeviceTopic::MethodResponse { status: *status, rid };
                                    wire.send(publish_qos0(topic.to_string(), body.clone())).await;
                                }
                                Answer::Nothing => {}
                                Answer::Vanish => {
                                    seen.send_modify(|seen| seen.calls.push(call));
                                    return;
                                }
                            }
                            seen.send_modify(|seen| seen.calls.push(call));
                        }
                        HubTopic::DesiredChanged { .. } => {
                            let change = serde_json::from_slice(&publish.payload).unwrap();
                            seen.send_modify(|seen| seen.desired.push(change));
                        }
                        other => panic!("{other:?} was not subscribed to"),
                    }
                }
                Some(Packet::SubscribeAck { .. } | Packet::PublishAck { .. }) => {}
                Some(other) => panic!("{other:?} was not expected"),
                None => {
                    seen.send_modify(|seen| seen.closed = true);
                    return;
                }
            },
            order = orders.recv() => match order {
                Some(Command::Send(packet)) => wire.send(packet).await,
                Some(Command::Disconnect) => return wire.send(Packet::Disconnect).await,
                None => return,
            },
        }
    }
}

/// A connection as packets.
struct Wire {
    stream: DuplexStream,
    packets: PacketBuffer,
}

impl Wire {
    /// The next packet; `None` at the end of the connection.
    async fn next(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.packets.next_packet().unwrap() {
                return Some(packet);
            }
            if fill(&mut self.stream, &mut self.packets).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    async fn send(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        encode(packet, &mut bytes).unwrap();
        // A hub that has closed shows at the next read.
        let _ = self.stream.write_all(&bytes).await;
    }

    async fn subscribe(&mut self, filters: &[Filter], target: &Target) {
        self.send(Packet::Subscribe {
            packet_id: NonZeroU16::MIN,
            topic_filters: filters
                .iter()
                .map(|filter| (filter.text(target).into(), QoS::AtMostOnce))
                .collect(),
        })
        .await;
        match self.next().await {
            Some(Packet::SubscribeAck { .. }) => {}
            other => panic!("{other:?} in place of SUBACK"),
        }
    }
}
