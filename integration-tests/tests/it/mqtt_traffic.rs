//! What a device publishes: telemetry, and everything that ends a connection.

use std::num::NonZeroU16;

use bytes::Bytes;
use emulator::{Hub, TelemetryMessage};
use hub_core::limits;
use hub_core::property_bag::SystemProperty;
use mqtt_wire::{ConnectAck, ConnectAckReason, LastWill, Packet, Publish, QoS, publish_qos0, publish_qos1};

use crate::support::device::{Device, Identity, bytes_of};
use crate::support::transport::Transport;
use crate::support::{start_hub, wait_for};

/// The only message that the hub keeps.
fn only_message(hub: &Hub) -> TelemetryMessage {
    let messages = hub.telemetry_after(0);
    assert_eq!(messages.len(), 1, "{messages:?}");
    messages.into_iter().next().unwrap()
}

/// A message's application properties.
fn application(message: &TelemetryMessage) -> Vec<(&str, &str)> {
    let properties = message.properties.application.iter();
    properties.map(|(k, v)| (k.as_str(), v.as_str())).collect()
}

#[tokio::test]
async fn a_message_is_kept_before_it_is_acknowledged() {
    let hub = start_hub().await;
    for transport in Transport::ALL {
        let identity = Identity::create(&hub, &format!("{transport:?}"));
        let mut device = Device::open(&hub, transport).await;
        device.connect(identity.connect()).await;
        for body in ["1", ""] {
            let before = hub.counters().telemetry_messages;
            device.publish_acknowledged(&identity.events(""), body).await;
            assert_eq!(hub.counters().telemetry_messages, before + 1);
            let message = hub.telemetry_after(before).remove(0);
            assert_eq!(message.source, identity.target);
            assert_eq!(message.body, body);
            assert!(message.properties.application.is_empty() && message.properties.system.is_empty());
        }
    }
}

#[tokio::test]
async fn messages_without_acknowledgement_are_kept_in_order() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let mut device = Device::online(&hub, "d").await;
    let bodies: Vec<Bytes> = (0..100).map(|n| Bytes::from(format!("{n}"))).collect();
    let packets = bodies
        .iter()
        .map(|body| publish_qos0(identity.events("a=b"), body.clone()));
    device.send_bytes(&bytes_of(packets)).await;
    device.expect_silence().await;
    let messages = hub.telemetry_after(0);
    assert!(messages.iter().map(|m| &m.body).eq(&bodies));
    assert!(messages.iter().map(|m| m.sequence).eq(1..=100));
    assert_eq!(hub.counters().telemetry_bytes, 190);
}

#[tokio::test]
async fn every_acknowledgement_names_its_message() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let mut device = Device::online(&hub, "d").await;
    let ids = [1, 65535, 7, 7].map(|id| NonZeroU16::new(id).unwrap());
    let packets = ids.map(|id| publish_qos1(identity.events(""), Bytes::from_static(b"x"), id));
    device.send_bytes(&bytes_of(packets)).await;
    for packet_id in ids {
        assert_eq!(device.expect_packet().await, Packet::PublishAck { packet_id });
    }
    // The same id twice is two messages: nothing is de-duplicated.
    assert_eq!(hub.counters().telemetry_messages, 4);
}

#[tokio::test]
async fn the_property_bag_is_taken_apart() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let mut device = Device::online(&hub, "d").await;
    let bag = "%24.mid=7%2F8&$.cid=c&%24.ct=application%2Fjson&%24.ce=utf-8&%24.exp=2026-01-01&$.x=y\
               &a%20b=%C3%A9%26%3D%2B+%25&color=red=blue&null&empty=&twice=1&twice=2&%F0%9F%8C%A1=21%2C5";
    device.publish_acknowledged(&identity.events(bag), "{}").await;
    let message = only_message(&hub);
    let system: Vec<_> = message
        .properties
        .system
        .iter()
        .map(|(k, v)| (*k, v.as_str()))
        .collect();
    assert_eq!(
        system,
        [
            (SystemProperty::MessageId, "7/8"),
            (SystemProperty::CorrelationId, "c"),
            (SystemProperty::Expiry, "2026-01-01"),
            (SystemProperty::ContentType, "application/json"),
            (SystemProperty::ContentEncoding, "utf-8"),
        ]
    );
    assert_eq!(
        application(&message),
        [
            ("$.x", "y"),
            ("a b", "é&=++%"),
            ("color", "red=blue"),
            ("empty", ""),
            ("null", ""),
            ("twice", "2"),
            ("🌡", "21,5"),
        ]
    );
}

#[tokio::test]
async fn the_topic_may_lack_a_slash_or_have_one_too_many() {
    let hub = start_hub().await;
    let mut device = Device::online(&hub, "d").await;
    for (n, (topic, expected)) in [
        ("devices/d/messages/events", None),
        ("devices/d/messages/events/", None),
        ("devices/d/messages/events//", None),
        ("devices/d/messages/events/a=b", Some(("a", "b"))),
        ("devices/d/messages/events/a=b/", Some(("a", "b"))),
        ("devices/d/messages/events/a=b/c", Some(("a", "b/c"))),
    ]
    .into_iter()
    .enumerate()
    {
        device.publish_acknowledged(topic, "x").await;
        let message = hub.telemetry_after(n as u64).remove(0);
        assert_eq!(application(&message), Vec::from_iter(expected), "{topic}");
    }
}

#[tokio::test]
async fn retain_and_dup_become_properties() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let mut device = Device::online(&hub, "d").await;
    for (n, (retain, dup, expected)) in [
        (true, false, vec![("a", "b"), ("mqtt-retain", "true")]),
        (false, true, vec![("a", "b"), ("mqtt-dup", "true")]),
        (
            true,
            true,
            vec![("a", "b"), ("mqtt-dup", "true"), ("mqtt-retain", "true")],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let packet_id = NonZeroU16::MIN;
        let publish = Publish {
            dup,
            retain,
            qos: QoS::AtLeastOnce,
            topic: identity.events("a=b").into(),
            packet_id: Some(packet_id),
            payload: Bytes::new(),
            properties: None,
        };
        device.send(Packet::Publish(Box::new(publish))).await;
        assert_eq!(device.expect_packet().await, Packet::PublishAck { packet_id });
        assert_eq!(application(&hub.telemetry_after(n as u64)[0]), expected);
    }
}

#[tokio::test]
async fn a_modules_telemetry_is_its_own() {
    let hub = start_hub().await;
    Identity::create(&hub, "d");
    let identity = Identity::create_module(&hub, "d", "m");
    let (mut module, _) = Device::connected(&hub, identity.connect()).await;
    module
        .publish_acknowledged("devices/d/modules/m/messages/events/%24.on=out", "x")
        .await;
    let message = only_message(&hub);
    assert_eq!(message.source, identity.target);
    assert_eq!(message.properties.system[&SystemProperty::Output], "out");
    // Not for its device.
    module.publish("devices/d/messages/events/", "x").await;
    module.expect_closed().await;
    assert_eq!(hub.counters().telemetry_messages, 1);
}

/// Sends `bytes` after CONNECT and expects nothing but the end.
async fn expect_violation(hub: &Hub, identity: &Identity, bytes: &[u8], what: &str) {
    let violations = hub.counters().protocol_violations;
    let (mut device, _) = Device::connected(hub, identity.connect()).await;
    device.send_bytes(bytes).await;
    device.expect_closed().await;
    assert_eq!(hub.counters().protocol_violations, violations + 1, "{what}");
    assert_eq!(hub.connected_count(), 0, "{what}");
}

#[tokio::test]
async fn a_publish_that_breaks_the_rules_ends_the_connection() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    Identity::create(&hub, "d2");
    for topic in [
        "devices/d/messages/events/a=%",
        "devices/d/messages/events/a=%4",
        "devices/d/messages/events/%zz=1",
        "devices/d/messages/events/a=%ff",
        "devices/d2/messages/events/",
        "devices/D/messages/events/",
        "devices/d/modules/m/messages/events/",
        "devices/d/messages/devicebound/",
        "devices/d/messages/eventsx",
        "/devices/d/messages/events/",
        "devices/d",
        "weather/today",
        "$iothub/twin/PATCH/properties/desired/?$version=1",
        "$SYS/uptime",
    ] {
        for packet in [
            publish_qos0(topic, Bytes::new()),
            publish_qos1(topic, Bytes::new(), NonZeroU16::MIN),
        ] {
            expect_violation(&hub, &identity, &bytes_of([packet]), topic).await;
        }
    }
    assert_eq!(hub.counters().telemetry_messages, 0);
}

#[tokio::test]
async fn packets_out_of_place_end_the_connection() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let packet_id = NonZeroU16::MIN;
    let qos2 = Publish {
        dup: false,
        retain: false,
        qos: QoS::ExactlyOnce,
        topic: identity.events("").into(),
        packet_id: Some(packet_id),
        payload: Bytes::new(),
        properties: None,
    };
    for packet in [
        identity.connect().into(),
        Packet::Publish(Box::new(qos2)),
        Packet::PublishReceived { packet_id },
        Packet::PublishRelease { packet_id },
        Packet::PublishComplete { packet_id },
        Packet::ConnectAck(ConnectAck {
            return_code: ConnectAckReason::ConnectionAccepted,
            session_present: false,
        }),
        Packet::UnsubscribeAck { packet_id },
        Packet::SubscribeAck {
            packet_id,
            status: vec![],
        },
        Packet::PingResponse,
    ] {
        let what = format!("{packet:?}");
        expect_violation(&hub, &identity, &bytes_of([packet]), &what).await;
    }
    for garbage in [
        // Packet types that are none, flags that are not theirs, ids of zero,
        // no filters, a length without end, a topic that is not UTF-8 or cut.
        &b"\x00\x00"[..],
        b"\xf0\x00",
        b"\x80\x0a\x00\x01\x00\x05a/b/#\x00",
        b"\x32\x05\x00\x01a\x00\x00",
        b"\x82\x05\x00\x00\x00\x01a",
        b"\x82\x02\x00\x01",
        b"\xa2\x02\x00\x01",
        b"\xc0\xff\xff\xff\xff\x01",
        b"\x30\x04\x00\x02\xff\xfe",
        b"\x30\x04\x00\x09ab",
        b"\x36\x05\x00\x01a\x00\x01",
    ] {
        expect_violation(&hub, &identity, garbage, &format!("{garbage:?}")).await;
    }
    assert_eq!(hub.counters().telemetry_messages, 0);
}

#[tokio::test]
async fn nothing_of_what_follows_a_violation_is_done() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let telemetry = publish_qos1(identity.events(""), Bytes::from_static(b"x"), NonZeroU16::MIN);
    let bytes = bytes_of([publish_qos0("weather", Bytes::new()), telemetry.clone()]);
    expect_violation(&hub, &identity, &bytes, "a publish to an unknown topic").await;
    assert_eq!(hub.counters().telemetry_messages, 0);

    let (mut device, _) = Device::connected(&hub, identity.connect()).await;
    device
        .send_bytes(&bytes_of([Packet::Disconnect, telemetry]))
        .await;
    device.expect_closed().await;
    assert_eq!(hub.counters().telemetry_messages, 0);
}

#[tokio::test]
async fn a_message_may_have_256_kib_and_not_a_byte_more() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let body = |bytes| Bytes::from(vec![b'x'; bytes]);
    for transport in Transport::ALL {
        let mut device = Device::open(&hub, transport).await;
        device.connect(identity.connect()).await;
        for (bag, bytes) in [
            ("", limits::D2C_MESSAGE_BYTES),
            ("a=b", limits::D2C_MESSAGE_BYTES - 3),
        ] {
            device
                .publish_acknowledged(&identity.events(bag), body(bytes))
                .await;
        }
        for (bag, bytes) in [
            ("", limits::D2C_MESSAGE_BYTES + 1),
            ("a=b", limits::D2C_MESSAGE_BYTES - 2),
        ] {
            let mut device = Device::open(&hub, transport).await;
            device.connect(identity.connect()).await;
            device.publish(&identity.events(bag), body(bytes)).await;
            device.expect_closed().await;
        }
    }
    assert_eq!(hub.counters().telemetry_messages, 12);
    assert_eq!(hub.counters().protocol_violations, 12);
}

#[tokio::test]
async fn a_packet_that_announces_too_much_is_not_waited_for() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    // The greatest length that MQTT can express, and the least that is too much.
    for header in [&b"\x32\xff\xff\xff\x7f"[..], b"\x32\x81\xc0\x10"] {
        expect_violation(&hub, &identity, header, &format!("{header:?}")).await;
    }
}

fn will(topic: &str) -> Option<LastWill> {
    Some(LastWill {
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: topic.into(),
        message: Bytes::from_static(b"gone"),
    })
}

/// How a connection may end.
#[derive(Debug, Clone, Copy)]
enum End {
    Disconnect,
    Cut,
    Violation,
    Takeover,
}

#[tokio::test]
async fn the_will_is_sent_unless_the_device_says_goodbye() {
    for (end, sent) in [
        (End::Disconnect, false),
        (End::Cut, true),
        (End::Violation, true),
        (End::Takeover, true),
    ] {
        let hub = start_hub().await;
        let identity = Identity::create(&hub, "d");
        let mut connect = identity.connect();
        connect.last_will = will("devices/d/messages/events/a=b&%24.ct=text");
        let (mut device, _) = Device::connected(&hub, connect).await;
        device.publish_acknowledged(&identity.events(""), "x").await;
        match end {
            End::Disconnect => device.disconnect().await,
            End::Cut => drop(device),
            End::Violation => {
                device.publish("weather", "").await;
                device.expect_closed().await;
            }
            End::Takeover => {
                Device::online(&hub, "d").await.disconnect().await;
                device.expect_closed().await;
            }
        }
        let disconnected = async || match hub.connected_count() {
            0 => Ok(()),
            n => Err(n),
        };
        wait_for("the end of the connection", disconnected).await;
        let wills = hub.telemetry_after(1);
        assert_eq!(wills.len(), usize::from(sent), "{end:?}");
        for will in wills {
            assert_eq!(
                (will.source.clone(), &will.body[..]),
                (identity.target.clone(), &b"gone"[..])
            );
            assert_eq!(application(&will), [("a", "b"), ("iothub-MessageType", "Will")]);
            assert_eq!(will.properties.system[&SystemProperty::ContentType], "text");
        }
    }
}

#[tokio::test]
async fn what_was_done_before_the_end_is_acknowledged() {
    let hub = start_hub().await;
    let packet_id = NonZeroU16::MIN;
    for transport in Transport::ALL {
        let identity = Identity::create(&hub, &format!("{transport:?}"));
        // All in one segment, as if the packets had come one by one.
        for end in [
            &bytes_of([Packet::Disconnect])[..],
            &bytes_of([publish_qos0("weather", Bytes::new())]),
            b"\xf0\x00",
        ] {
            let mut bytes = bytes_of([
                publish_qos1(identity.events(""), Bytes::from_static(b"x"), packet_id),
                Packet::PingRequest,
            ]);
            bytes.extend_from_slice(end);
            let mut device = Device::open(&hub, transport).await;
            device.connect(identity.connect()).await;
            device.send_bytes(&bytes).await;
            assert_eq!(device.expect_packet().await, Packet::PublishAck { packet_id });
            assert_eq!(device.expect_packet().await, Packet::PingResponse);
            device.expect_closed().await;
        }
    }
    assert_eq!(hub.counters().telemetry_messages, 18);
    assert_eq!(hub.counters().protocol_violations, 12);
}

#[tokio::test]
async fn a_goodbye_counts_even_if_its_sender_is_gone_already() {
    let hub = start_hub().await;
    let mut connect = Identity::create(&hub, "d").connect();
    connect.last_will = will("devices/d/messages/events/");
    let (mut device, _) = Device::connected(&hub, connect).await;
    device
        .send_bytes(&bytes_of([Packet::PingRequest, Packet::Disconnect]))
        .await;
    drop(device);
    let disconnected = async || match hub.connected_count() {
        0 => Ok(()),
        n => Err(n),
    };
    wait_for("the end of the connection", disconnected).await;
    assert!(hub.telemetry_after(0).is_empty());
}
