//! The event tap as its readers see it.

use emulator::Hub;
use mqtt_wire::{ConnectAckReason, Packet};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::support::answering::{Answer, AnsweringDevice};
use crate::support::device::{Device, Identity};
use crate::support::jobs::{create, ended, method_job};
use crate::support::rest::Rest;
use crate::support::tap::{client, expect, open, start_with_tap, subscriber};

/// A body that is JSON.
fn body(message: &Value) -> Value {
    serde_json::from_str(message["body"].as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn a_subscriber_sees_telemetry_a_twin_change_and_a_job_go_by() {
    let hub = start_with_tap().await;
    let rest = Rest::of(&hub);
    let mut tap = subscriber(&hub, &["hub/#"]).await;
    let device = Identity::create(&hub, "d");
    let created = expect(&mut tap, "hub/d/lifecycle", |_| true).await;
    assert_eq!(created["operation"], "createDeviceIdentity");

    let (mut sender, _) = Device::connected(&hub, device.connect()).await;
    let topic = device.events("unit=C&%24.ct=application%2Fjson&%24.ce=utf-8");
    sender.publish_acknowledged(&topic, r#"{"temperature":21}"#).await;
    let message = expect(&mut tap, "hub/d/telemetry", |_| true).await;
    assert_eq!(message["deviceId"], "d");
    assert_eq!(message["body"], r#"{"temperature":21}"#);
    assert_eq!(message["applicationProperties"], json!({"unit": "C"}));
    drop(sender);

    rest.patch("/twins/d", &json!({"properties": {"desired": {"floor": 3}}}))
        .await
        .ok();
    let change = expect(&mut tap, "hub/d/twin", |_| true).await;
    assert_eq!(body(&change)["properties"]["desired"]["floor"], 3);

    let answering = AnsweringDevice::connect(&hub, "d", Answer::json(200, &json!({"done": 1}))).await;
    create(&rest, "j", &method_job("deviceId IN ['d']", json!({}))).await;
    ended(&rest, "j").await;
    let call = expect(&mut tap, "hub/d/method", |_| true).await;
    assert_eq!(call["operation"], "answered");
    assert_eq!(body(&call)["status"], 200);
    assert!(call["id"].as_u64() > change["id"].as_u64());
    let done = |json: &Value| json["operation"] == "deviceJobCompleted";
    let step = expect(&mut tap, "hub/d/job", done).await;
    assert_eq!(step["deviceId"], "d");
    drop(answering);
    hub.shutdown().await;
}

#[tokio::test]
async fn filters_choose_by_device_and_by_kind() {
    let hub = start_with_tap().await;
    let (a, b) = (Identity::create(&hub, "a"), Identity::create(&hub, "b*$"));
    let module = Identity::create_module(&hub, "a", "m");
    let mut by_device = subscriber(&hub, &["hub/a/telemetry"]).await;
    let mut by_kind = subscriber(&hub, &["hub/+/telemetry", "$SYS/#"]).await;
    for identity in [&b, &a, &module] {
        let (mut device, _) = Device::connected(&hub, identity.connect_clean()).await;
        let text = identity.target.to_string();
        device.publish_acknowledged(&identity.events(""), text).await;
    }
    for expected in ["a", "a/m"] {
        let seen = by_device.expect_delivery().await;
        assert_eq!(seen.topic, "hub/a/telemetry");
        assert_eq!(seen.json()["body"], expected);
        let is_module = expected.ends_with('m');
        assert_eq!(seen.json()["moduleId"] == "m", is_module);
    }
    for (topic, expected) in [
        ("hub/b%2A%24/telemetry", "b*$"),
        ("hub/a/telemetry", "a"),
        ("hub/a/telemetry", "a/m"),
    ] {
        let seen = by_kind.expect_delivery().await;
        assert_eq!((&*seen.topic, &seen.json()["body"]), (topic, &json!(expected)));
    }

    // Nothing is shown of what was unsubscribed.
    by_device.unsubscribe(&["hub/a/telemetry"]).await;
    let (mut device, _) = Device::connected(&hub, a.connect_clean()).await;
    device.publish_acknowledged(&a.events(""), "again").await;
    assert_eq!(by_kind.expect_delivery().await.json()["body"], "again");
    by_device.expect_silence().await;
    hub.shutdown().await;
}

#[tokio::test]
async fn a_client_may_come_back_and_others_may_have_its_id() {
    let hub = start_with_tap().await;
    let device = Identity::create(&hub, "d");
    let (mut sender, _) = Device::connected(&hub, device.connect()).await;
    let mut connect = client("same");
    // A session is not kept, and nobody is asked for a password.
    connect.clean_session = false;
    connect.keep_alive = 0;
    connect.username = Some("anybody".into());
    let mut readers = Vec::new();
    for _ in 0..3 {
        let mut reader = open(&hub).await;
        let answer = reader.connect(connect.clone()).await;
        assert_eq!(answer.return_code, ConnectAckReason::ConnectionAccepted);
        assert!(!answer.session_present);
        reader
            .subscribe_to(&[("hub/#", mqtt_wire::QoS::ExactlyOnce)])
            .await;
        readers.push(reader);
    }
    for round in ["one", "two"] {
        sender.publish_acknowledged(&device.events(""), round).await;
        for reader in &mut readers {
            expect(reader, "hub/d/telemetry", |json| json["body"] == round).await;
        }
        readers.remove(0).disconnect().await;
    }
    hub.shutdown().await;
}

#[tokio::test]
async fn other_protocols_are_refused() {
    let hub = start_with_tap().await;
    let mut version_5 = open(&hub).await;
    version_5
        .send_bytes(b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x03abc")
        .await;
    let Packet::ConnectAck(answer) = version_5.expect_packet().await else {
        panic!("no CONNACK");
    };
    assert_eq!(answer.return_code, ConnectAckReason::UnacceptableProtocolVersion);
    version_5.expect_closed().await;
    let mut http = open(&hub).await;
    let request = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100));
    http.send_bytes(request.as_bytes()).await;
    http.expect_closed().await;
    hub.shutdown().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_a_precise_error() {
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap();
    let error = Hub::builder()
        .event_tap(address.port())
        .start()
        .await
        .unwrap_err();
    let text = error.to_string();
    let expected = format!("cannot listen for the event tap on {address}: ");
    assert!(text.starts_with(&expected), "{text}");
}

#[tokio::test]
async fn the_tap_ends_with_its_hub() {
    let hub = start_with_tap().await;
    let address = hub.event_tap_address().unwrap();
    assert!(address.ip().is_loopback());
    let mut reader = subscriber(&hub, &["#"]).await;
    hub.shutdown().await;
    reader.expect_cut().await;
    assert!(TcpStream::connect(address).await.is_err());
    TcpListener::bind(address).await.unwrap();
}
