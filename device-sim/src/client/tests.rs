use std::sync::Arc;

use super::*;
use crate::behaviour::{Behaviour, Conduct, Device, MethodAnswer};
use crate::session::SessionSettings;
use bytes::Bytes;
use hub_core::ids::{DeviceId, Target};
use mqtt_wire::{ConnectAck, ConnectAckReason, Packet, QoS, SubscribeReturnCode, encode, publish_qos0};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, DuplexStream};
use tokio::task::JoinHandle;

/// The hub's end of a connection, played by the test.
struct Hub {
    stream: DuplexStream,
    buffer: PacketBuffer,
}

impl Hub {
    async fn receive(&mut self) -> Packet {
        loop {
            if let Some(packet) = self.buffer.next_packet().unwrap() {
                return packet;
            }
            assert_ne!(fill(&mut self.stream, &mut self.buffer).await.unwrap(), 0);
        }
    }

    async fn send(&mut self, packets: impl IntoIterator<Item = Packet>) {
        let mut out = BytesMut::new();
        for packet in packets {
            encode(packet, &mut out).unwrap();
        }
        self.stream.write_all(&out).await.unwrap();
    }

    async fn published(&mut self) -> (String, String) {
        match self.receive().await {
            Packet::Publish(publish) => (
                publish.topic.to_string(),
                String::from_utf8(publish.payload.to_vec()).unwrap(),
            ),
            other => panic!("{other:?} is no message"),
        }
    }

    /// Accepts a device and gives it an empty twin.
    async fn accept(&mut self) {
        assert!(matches!(self.receive().await, Packet::Connect(_)));
        self.send([connack(ConnectAckReason::ConnectionAccepted)]).await;
        let Packet::Subscribe {
            packet_id,
            topic_filters,
        } = self.receive().await
        else {
            panic!("no SUBSCRIBE");
        };
        let status = vec![SubscribeReturnCode::Success(QoS::AtMostOnce); topic_filters.len()];
        self.send([Packet::SubscribeAck { packet_id, status }]).await;
        assert_eq!(self.published().await.0, "$iothub/twin/GET/?$rid=1");
        let twin = Bytes::from_static(br#"{"desired":{"$version":1},"reported":{"$version":1}}"#);
        self.send([publish_qos0("$iothub/twin/res/200/?$rid=1", twin)])
            .await;
    }
}

fn connack(return_code: ConnectAckReason) -> Packet {
    Packet::ConnectAck(ConnectAck {
        return_code,
        session_present: false,
    })
}

fn method(name: &str, rid: u32) -> Packet {
    let topic = format!("$iothub/methods/POST/{name}/?$rid={rid}");
    publish_qos0(topic, Bytes::from_static(b"null"))
}

fn login(valid_for: Option<Duration>) -> Login {
    Login {
        user_name: "h/dev1/?api-version=2021-04-12".into(),
        password: Some("sig".into()),
        valid_for,
    }
}

/// A device that connects and serves, and the other end of its connection.
fn start(
    behaviour: Behaviour,
    valid_for: Option<Duration>,
) -> (Hub, CancellationToken, JoinHandle<Result<End, ClientError>>) {
    let (near, far) = tokio::io::duplex(4096);
    let target = Target::device(DeviceId::parse("dev1").unwrap());
    let device = Device::new(target, Arc::new(behaviour), Conduct::Normal);
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let task = tokio::spawn(async move {
        let mut session = Session::new(device, Arc::new(SessionSettings::default()), 0.0);
        let client = Client::open(near, &mut session, &login(valid_for), &|_| {}).await?;
        client.run(&stopped, &|_| {}).await
    });
    let hub = Hub {
        stream: far,
        buffer: PacketBuffer::new(1 << 20),
    };
    (hub, stop, task)
}

#[tokio::test]
async fn the_first_bytes_are_the_documented_connect() {
    let (mut hub, _stop, task) = start(Behaviour::default(), None);
    let expected =
        b"\x10\x35\x00\x04MQTT\x04\xc2\x00\x3c\x00\x04dev1\x00\x1eh/dev1/?api-version=2021-04-12\x00\x03sig";
    let mut bytes = vec![0; expected.len()];
    hub.stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes, expected);
    drop(hub);
    assert!(matches!(task.await.unwrap(), Err(ClientError::Closed)));
}

#[tokio::test]
async fn all_requests_of_one_read_are_answered_in_one_write() {
    let (mut hub, stop, task) = start(Behaviour::default(), None);
    hub.accept().await;
    hub.send((1..=20).map(|rid| method("lockDoor", rid))).await;
    let mut bytes = vec![0; 4096];
    let read = hub.stream.read(&mut bytes).await.unwrap();
    hub.buffer.extend(&bytes[..read]);
    for rid in 1..=20 {
        let Some(Packet::Publish(answer)) = hub.buffer.next_packet().unwrap() else {
            panic!("answer {rid} is not part of the first write");
        };
        assert_eq!(answer.topic, format!("$iothub/methods/res/200/?$rid={rid}"));
    }
    stop.cancel();
    assert_eq!(hub.receive().await, Packet::Disconnect);
    assert_eq!(task.await.unwrap().unwrap(), End::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_answer_and_a_ping_come_in_their_time() {
    let slow = MethodAnswer::new(200, &json!({"ok": true})).after(Duration::from_secs(20));
    let (mut hub, _stop, _task) = start(Behaviour::default().with_method("slow", slow), None);
    hub.accept().await;
    let asked = Instant::now();
    hub.send([method("slow", 1)]).await;
    let answer = hub.published().await;
    assert_eq!(
        answer,
        ("$iothub/methods/res/200/?$rid=1".into(), r#"{"ok":true}"#.into())
    );
    let answered = Instant::now();
    assert_eq!((answered - asked).as_secs(), 20);
    assert_eq!(hub.receive().await, Packet::PingRequest);
    assert_eq!((Instant::now() - answered).as_secs(), 60);
}

#[tokio::test]
async fn a_desired_change_comes_back_as_a_report() {
    let (mut hub, _stop, _task) = start(Behaviour::default().with_reflection(), None);
    hub.accept().await;
    let body = Bytes::from_static(br#"{"building":43,"floor":3,"$version":2}"#);
    hub.send([publish_qos0(
        "$iothub/twin/PATCH/properties/desired/?$version=2",
        body,
    )])
    .await;
    assert_eq!(
        hub.published().await,
        (
            "$iothub/twin/PATCH/properties/reported/?$rid=2".into(),
            r#"{"building":43,"floor":3}"#.into()
        )
    );
}

#[tokio::test]
async fn packets_arrive_in_any_portions() {
    let (mut hub, _stop, _task) = start(Behaviour::default(), None);
    hub.accept().await;
    let mut bytes = BytesMut::new();
    encode(method("lockDoor", 7), &mut bytes).unwrap();
    for byte in bytes {
        hub.stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(hub.published().await.0, "$iothub/methods/res/200/?$rid=7");
}

#[tokio::test]
async fn a_refusal_and_garbage_end_the_connection() {
    let (mut hub, _stop, task) = start(Behaviour::default(), None);
    assert!(matches!(hub.receive().await, Packet::Connect(_)));
    hub.send([connack(ConnectAckReason::NotAuthorized)]).await;
    let error = task.await.unwrap().unwrap_err();
    let expected = SessionError::Refused(ConnectAckReason::NotAuthorized);
    assert!(matches!(error, ClientError::Session(e) if e == expected));

    let (mut hub, _stop, task) = start(Behaviour::default(), None);
    hub.accept().await;
    hub.stream.write_all(b"\xf0\x00").await.unwrap();
    let error = task.await.unwrap().unwrap_err();
    assert!(
        matches!(error, ClientError::Session(SessionError::Wire(_))),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_expiring_token_ends_the_connection_in_order() {
    let (mut hub, _stop, task) = start(Behaviour::default(), Some(Duration::from_secs(60)));
    hub.accept().await;
    let started = Instant::now();
    assert_eq!(hub.receive().await, Packet::Disconnect);
    assert_eq!((Instant::now() - started).as_secs(), 51);
    assert_eq!(task.await.unwrap().unwrap(), End::Renewal);
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_takes_no_bytes_is_given_up() {
    let (mut hub, _stop, task) = start(Behaviour::default(), None);
    hub.accept().await;
    let requests: BytesMut = (0..400).fold(BytesMut::new(), |mut out, rid| {
        encode(method("lockDoor", rid), &mut out).unwrap();
        out
    });
    // The device stops reading when its answers are not taken.
    let _ = timeout(Duration::from_secs(30), hub.stream.write_all(&requests)).await;
    assert!(matches!(task.await.unwrap(), Err(ClientError::Stalled)));
}
