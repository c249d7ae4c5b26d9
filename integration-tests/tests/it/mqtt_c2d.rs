//! Messages from the cloud over MQTT: topics, acknowledgements, the window.

use std::num::NonZeroU16;
use std::sync::Arc;

use hub_core::error::ErrorCode;
use hub_core::limits;
use hub_core::property_bag::{MessageProperties, SystemProperty};
use mqtt_wire::{Packet, QoS, SubscribeReturnCode};
use proptest::prelude::*;
use serde_json::json;

use crate::support::c2d::{
    expect_message, expect_numbered, feedback, filter, module, properties, send, target,
};
use crate::support::device::{Device, Identity, bytes_of};
use crate::support::rest::{Rest, start};
use crate::support::transport::Transport;
use crate::support::{start_hub, wait_for};

/// A device that listens for messages.
async fn listening(hub: &emulator::Hub, id: &str) -> Device {
    let mut device = Device::online(hub, id).await;
    device.subscribe(&[&filter(id)]).await;
    device
}

/// What the twin says of the queue's length.
async fn expect_count(rest: &Rest, device: &str, expected: u64) {
    let count = async || {
        let twin = rest.get(&format!("/twins/{device}")).await.ok();
        match twin["cloudToDeviceMessageCount"].as_u64() {
            Some(count) if count == expected => Ok(()),
            other => Err(other),
        }
    };
    wait_for("the number of messages", count).await;
}

#[tokio::test]
async fn a_message_arrives_as_it_was_sent_over_every_transport() {
    let (hub, rest) = start().await;
    let identity = Identity::create(&hub, "a=b:(c)%40");
    let sent = properties(
        &[
            (SystemProperty::MessageId, "id/1?#+"),
            (SystemProperty::CorrelationId, "c=1&2"),
            (SystemProperty::UserId, "user x"),
            (SystemProperty::ContentType, "application/json; charset=utf-8"),
            (SystemProperty::ContentEncoding, "utf-8"),
            (SystemProperty::Ack, "Positive"),
        ],
        &[
            ("a =+#?/$", "é%20\u{0}\n"),
            ("", "nameless"),
            ("empty", ""),
            ("Case", "1"),
            ("case", "2"),
        ],
    );
    for transport in Transport::ALL {
        let mut device = Device::open(&hub, transport).await;
        device.connect(identity.connect_clean()).await;
        device.subscribe(&[&filter("a=b:(c)%40")]).await;
        let body = vec![0, 255, b'x'];
        hub.send_to_device(&identity.target, sent.clone(), body.clone())
            .unwrap();
        let received = expect_message(&mut device, &identity.target).await;
        let mut expected = sent.clone();
        expected.system.insert(SystemProperty::Ack, "positive".into());
        let to = "/devices/a=b:(c)%40/messages/devicebound".to_owned();
        expected.system.insert(SystemProperty::To, to);
        assert_eq!(received.properties, expected, "{transport:?}");
        assert_eq!((received.body, received.dup), (body, false));
        device.acknowledge(received.packet_id.unwrap()).await;
        device.expect_silence().await;
        assert_eq!(
            feedback(&rest).await,
            [("id/1?#+".to_owned(), "Success".to_owned())]
        );
    }
    let counters = hub.counters();
    assert_eq!(
        (counters.c2d_sent, counters.c2d_delivered, counters.c2d_completed),
        (6, 6, 6)
    );
}

#[tokio::test]
async fn messages_wait_for_their_device_and_are_counted() {
    let (hub, rest) = start().await;
    let mut device = Device::online(&hub, "d").await;
    for n in 1..=3 {
        send(&hub, "d", n);
    }
    // Nothing comes without the filter.
    device.expect_silence().await;
    expect_count(&rest, "d", 3).await;
    let identity = rest.get("/devices/d").await.ok();
    assert_eq!(identity["cloudToDeviceMessageCount"], 3);
    let rows = rest
        .query("SELECT deviceId FROM devices WHERE cloudToDeviceMessageCount = 3")
        .await
        .ok();
    assert_eq!(rows, json!([{"deviceId": "d"}]));

    // SUBACK first: `subscribe` insists.
    device.subscribe(&[&filter("d")]).await;
    for n in 1..=3 {
        let id = expect_numbered(&mut device, "d", n).await;
        expect_count(&rest, "d", 4 - n).await;
        device.acknowledge(id).await;
        expect_count(&rest, "d", 3 - n).await;
    }
}

#[tokio::test]
async fn an_expiry_travels_with_the_message() {
    let hub = start_hub().await;
    let mut device = listening(&hub, "d").await;
    let expiry = hub
        .now()
        .saturating_add(std::time::Duration::from_secs(60))
        .to_string();
    let with_expiry = properties(&[(SystemProperty::Expiry, &expiry)], &[]);
    hub.send_to_device(&target("d"), with_expiry, "x").unwrap();
    let received = expect_message(&mut device, &target("d")).await;
    assert_eq!(received.properties.system[&SystemProperty::Expiry], expiry);
}

#[tokio::test]
async fn a_module_is_reached_through_either_of_its_filters() {
    let (hub, rest) = start().await;
    hub.create_device("d").unwrap();
    let identity = Identity::create_module(&hub, "d", "m");
    for filter in [
        "devices/d/modules/m/messages/devicebound/#",
        "devices/d/modules/m/#",
    ] {
        let (mut device, _) = Device::connected(&hub, identity.connect_clean()).await;
        device.subscribe(&[filter]).await;
        let path = "/devices/d/modules/m/messages/deviceBound";
        rest.call("POST", path).body("hello").send().await.no_content();
        let received = expect_message(&mut device, &module("d", "m")).await;
        let to = "/devices/d/modules/m/messages/devicebound";
        assert_eq!(received.properties, properties(&[(SystemProperty::To, to)], &[]));
        assert_eq!(received.text(), "hello");
        device.acknowledge(received.packet_id.unwrap()).await;
    }
    // The device itself was sent nothing.
    assert_eq!(rest.get("/twins/d").await.ok()["cloudToDeviceMessageCount"], 0);
}

#[tokio::test]
async fn with_qos_0_a_message_is_complete_once_it_is_written() {
    let (hub, rest) = start().await;
    let mut device = Device::online(&hub, "d").await;
    // As many bytes as a queue takes: more than may wait in an outbox at once.
    let body = "x".repeat(60 * 1024);
    for _ in 0..limits::C2D_QUEUE_DEPTH {
        hub.send_to_device(&target("d"), MessageProperties::default(), body.clone())
            .unwrap();
    }
    let granted = device.subscribe_to(&[(&filter("d"), QoS::AtMostOnce)]).await;
    assert_eq!(granted, [SubscribeReturnCode::Success(QoS::AtMostOnce)]);
    for _ in 0..limits::C2D_QUEUE_DEPTH {
        let received = expect_message(&mut device, &target("d")).await;
        assert_eq!(received.packet_id, None);
        assert_eq!(received.body.len(), body.len());
    }
    expect_count(&rest, "d", 0).await;
    device.expect_silence().await;
    assert_eq!(hub.counters().c2d_completed, 50);
}

#[tokio::test]
async fn what_is_written_just_before_the_end_is_complete_as_well() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let (mut device, _) = Device::connected(&hub, identity.connect()).await;
    send(&hub, "d", 1);
    let packet_id = NonZeroU16::MIN;
    let subscribe = Packet::Subscribe {
        packet_id,
        topic_filters: vec![(filter("d").into(), QoS::AtMostOnce)],
    };
    device
        .send_bytes(&bytes_of([subscribe, Packet::Disconnect]))
        .await;
    assert!(matches!(
        device.expect_packet().await,
        Packet::SubscribeAck { .. }
    ));
    assert_eq!(expect_message(&mut device, &target("d")).await.text(), "1");
    device.expect_closed().await;
    assert_eq!(hub.counters().c2d_completed, 1);
    let (mut device, resumed) = Device::connected(&hub, identity.connect()).await;
    assert!(resumed);
    device.expect_silence().await;
}

#[tokio::test]
async fn a_device_holds_a_window_of_messages() {
    let hub = start_hub().await;
    let mut device = listening(&hub, "d").await;
    for n in 1..=50 {
        send(&hub, "d", n);
    }
    let mut ids = Vec::new();
    for n in 1..=16 {
        ids.push(expect_numbered(&mut device, "d", n).await);
    }
    device.expect_silence().await;
    // In any order, each makes room for one.
    ids.reverse();
    for (n, id) in (17..=32).zip(ids) {
        device.acknowledge(id).await;
        expect_numbered(&mut device, "d", n).await;
        device.expect_silence().await;
    }
}

#[tokio::test]
async fn the_window_is_also_one_of_bytes() {
    let hub = start_hub().await;
    let mut device = listening(&hub, "d").await;
    let body = "x".repeat(60 * 1024);
    for _ in 0..10 {
        hub.send_to_device(&target("d"), MessageProperties::default(), body.clone())
            .unwrap();
    }
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(expect_message(&mut device, &target("d")).await.packet_id.unwrap());
    }
    device.expect_silence().await;
    for _ in 0..6 {
        device.acknowledge(open.remove(0)).await;
        open.push(expect_message(&mut device, &target("d")).await.packet_id.unwrap());
    }
    device.expect_silence().await;
}

#[tokio::test]
async fn unsubscribing_stops_deliveries() {
    let hub = start_hub().await;
    let mut device = listening(&hub, "d").await;
    send(&hub, "d", 1);
    let first = expect_numbered(&mut device, "d", 1).await;
    device.unsubscribe(&[&filter("d")]).await;
    send(&hub, "d", 2);
    device.acknowledge(first).await;
    device.expect_silence().await;
    assert_eq!(hub.counters().c2d_completed, 1);
    device.subscribe(&[&filter("d")]).await;
    expect_numbered(&mut device, "d", 2).await;
}

#[tokio::test]
async fn acknowledgements_of_nothing_are_ignored() {
    let (hub, rest) = start().await;
    let mut device = listening(&hub, "d").await;
    send(&hub, "d", 1);
    let id = expect_numbered(&mut device, "d", 1).await;
    for other in [2, 3, 255, 256, 257, 65_535] {
        device.acknowledge(NonZeroU16::new(other).unwrap()).await;
    }
    device.expect_silence().await;
    expect_count(&rest, "d", 1).await;
    device.acknowledge(id).await;
    device.acknowledge(id).await;
    device.expect_silence().await;
    expect_count(&rest, "d", 0).await;
    assert_eq!(hub.counters().c2d_completed, 1);
}

#[tokio::test]
async fn a_device_that_listens_for_nothing_else_gets_its_messages_only() {
    let hub = start_hub().await;
    let mut one = listening(&hub, "one").await;
    let mut two = listening(&hub, "two").await;
    send(&hub, "one", 1);
    expect_numbered(&mut one, "one", 1).await;
    two.expect_silence().await;
    // Acknowledging another device's message does nothing.
    two.acknowledge(NonZeroU16::MIN).await;
    two.expect_silence().await;
    assert_eq!(hub.counters().c2d_completed, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_message_arrives_once_and_in_order_while_others_are_sent() {
    const MESSAGES: u64 = 500;
    let hub = Arc::new(start_hub().await);
    let mut device = listening(&hub, "d").await;
    let sender = {
        let hub = hub.clone();
        tokio::spawn(async move {
            for n in 1..=MESSAGES {
                // Room comes as the device acknowledges, for which it has a deadline.
                while let Err(error) =
                    hub.send_to_device(&target("d"), MessageProperties::default(), n.to_string())
                {
                    assert_eq!(error.code, ErrorCode::DeviceMaximumQueueDepthExceeded);
                    tokio::task::yield_now().await;
                }
            }
        })
    };
    for n in 1..=MESSAGES {
        let id = expect_numbered(&mut device, "d", n).await;
        device.acknowledge(id).await;
    }
    sender.await.unwrap();
    device.expect_silence().await;
    let counters = hub.counters();
    assert_eq!(
        (counters.c2d_delivered, counters.c2d_completed),
        (MESSAGES, MESSAGES)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn arbitrary_acknowledgements_do_no_harm(ids in proptest::collection::vec(1_u16..40, 0..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let hub = start_hub().await;
            let mut device = listening(&hub, "d").await;
            for n in 1..=30 {
                send(&hub, "d", n);
            }
            for id in &ids {
                device.acknowledge(NonZeroU16::new(*id).unwrap()).await;
            }
            // Completed is what had been delivered before its acknowledgement came.
            // Messages that wait may be written behind the answer to a packet that
            // came in the meantime, but not behind that to the next one.
            device.send(Packet::PingRequest).await;
            device.send(Packet::PingRequest).await;
            let (mut delivered, mut answers) = (0, 0);
            while answers < 2 {
                match device.expect_packet().await {
                    Packet::Publish(_) => delivered += 1,
                    Packet::PingResponse => answers += 1,
                    other => panic!("{other:?}"),
                }
            }
            let counters = hub.counters();
            assert_eq!(counters.c2d_delivered, delivered);
            let waiting = 30 - counters.c2d_completed;
            assert_eq!(delivered - counters.c2d_completed, waiting.min(16));
            hub.shutdown().await;
        });
    }
}
