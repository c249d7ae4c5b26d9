//! One connection per identity, what a session remembers, and subscriptions.

use std::num::NonZeroU16;
use std::sync::Arc;

use emulator::{Hub, Strictness};
use hub_core::error::ErrorCode;
use hub_core::limits;
use hub_core::sas::Key;
use mqtt_wire::{Connect, ConnectAckReason, LastWill, Packet, QoS, SubscribeReturnCode};
use serde_json::json;

use crate::support::back_end::BackEnd;
use crate::support::device::{DESIRED_CHANGES, Device, Identity, METHODS, OTHER_KEY, TWIN_RESPONSES};
use crate::support::transport::Transport;
use crate::support::{soon, start_hub, wait_for};

use SubscribeReturnCode::{Failure, Success};

#[tokio::test]
async fn a_second_connection_closes_the_first_over_every_transport() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let mut first = Device::online(&hub, "d").await;
    for transport in Transport::ALL {
        let mut second = Device::open(&hub, transport).await;
        let ack = second.connect(identity.connect()).await;
        assert_eq!(ack.return_code, ConnectAckReason::ConnectionAccepted);
        first.expect_closed().await;
        second.expect_silence().await;
        first = second;
    }
    assert_eq!(hub.counters().takeovers, 6);
    assert_eq!(hub.connected_count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_connections_at_once_one_is_left() {
    const CONNECTIONS: u64 = 32;
    let hub = Arc::new(start_hub().await);
    let identity = Identity::create(&hub, "d");
    let connections: Vec<_> = (0..CONNECTIONS)
        .map(|n| {
            let (hub, connect) = (hub.clone(), identity.connect());
            tokio::spawn(async move {
                let transport = [Transport::Memory, Transport::Tcp][n as usize % 2];
                let mut device = Device::open(&hub, transport).await;
                // Some are displaced before they are told that they are in.
                device.send(connect.into()).await;
                device
            })
        })
        .collect();
    let mut devices = Vec::new();
    for connection in connections {
        devices.push(soon("a connection", connection).await.unwrap());
    }
    let all_were_in = async || match hub.counters().takeovers {
        n if n == CONNECTIONS - 1 => Ok(()),
        n => Err(n),
    };
    wait_for("the takeovers", all_were_in).await;
    assert_eq!(hub.connected_count(), 1);
    let mut alive = 0;
    for device in &mut devices {
        alive += usize::from(device.is_alive().await);
    }
    assert_eq!(alive, 1);
    assert_eq!(hub.counters().connects_accepted, CONNECTIONS);
}

#[tokio::test]
async fn nobody_is_displaced_by_a_connection_that_is_refused() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let mut device = Device::online(&hub, "d").await;
    let wrong_key = Identity {
        key: Key::from_base64(OTHER_KEY).unwrap(),
        ..identity.clone()
    };
    let bad_will = Connect {
        last_will: Some(LastWill {
            qos: QoS::AtMostOnce,
            retain: false,
            topic: "weather".into(),
            message: "rain".into(),
        }),
        ..identity.connect()
    };
    for connect in [wrong_key.connect(), bad_will] {
        let mut intruder = Device::in_memory(&hub);
        let ack = intruder.connect(connect).await;
        assert_eq!(ack.return_code, ConnectAckReason::NotAuthorized);
        assert!(!ack.session_present);
        intruder.expect_closed().await;
    }
    device.expect_silence().await;
    assert_eq!(hub.counters().takeovers, 0);
}

#[tokio::test]
async fn a_device_and_its_modules_are_connected_side_by_side() {
    let hub = start_hub().await;
    let mut device = Device::online(&hub, "d").await;
    let identities = ["m1", "m2"].map(|id| Identity::create_module(&hub, "d", id));
    let (mut m1, _) = Device::connected(&hub, identities[0].connect()).await;
    let (mut m2, _) = Device::connected(&hub, identities[1].connect()).await;
    assert_eq!(hub.connected_count(), 3);
    let (mut m1_again, _) = Device::connected(&hub, identities[0].connect()).await;
    m1.expect_closed().await;
    for other in [&mut device, &mut m2, &mut m1_again] {
        other.expect_silence().await;
    }
    assert_eq!(hub.connected_count(), 3);
}

#[tokio::test]
async fn what_the_old_connection_leaves_behind_does_not_touch_the_new_one() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let (mut first, _) = Device::connected(&hub, identity.connect_clean()).await;
    let (mut second, present) = Device::connected(&hub, identity.connect()).await;
    assert!(!present);
    second.subscribe(&[DESIRED_CHANGES]).await;
    // The first one's end comes after the second one's subscription.
    first.expect_closed().await;
    let version = BackEnd::of(&hub).patch_desired("d", json!({"a": 1})).await;
    let delivery = second.expect_delivery().await;
    assert_eq!(delivery.json(), json!({"a": 1, "$version": version}));
    assert_eq!(hub.connected_count(), 1);
}

#[tokio::test]
async fn a_method_in_flight_on_a_displaced_connection_fails_for_its_caller() {
    let hub = start_hub().await;
    let (identity, back_end) = (Identity::create(&hub, "d"), BackEnd::of(&hub));
    let mut first = Device::online(&hub, "d").await;
    first.subscribe(&[METHODS]).await;
    let device = async {
        first.expect_delivery().await;
        let (mut second, _) = Device::connected(&hub, identity.connect()).await;
        first.expect_closed().await;
        // The request is not repeated, and its answer belongs to nobody here.
        second
            .publish_acknowledged("$iothub/methods/res/200/?$rid=1", "{}")
            .await;
        second.expect_silence().await;
    };
    let (outcome, ()) = tokio::join!(back_end.call(&identity.target, "m", json!({})), device);
    assert_eq!(outcome, Err(ErrorCode::ConnectionForcefullyClosedOnNewConnection));
}

#[tokio::test]
async fn a_stored_session_remembers_its_filters() {
    let hub = start_hub().await;
    let (identity, back_end) = (Identity::create(&hub, "d"), BackEnd::of(&hub));
    let (mut device, present) = Device::connected(&hub, identity.connect()).await;
    assert!(!present);
    device
        .subscribe(&[METHODS, DESIRED_CHANGES, TWIN_RESPONSES])
        .await;
    device.unsubscribe(&[TWIN_RESPONSES]).await;
    device.disconnect().await;
    // What changes while the device is away is not kept for it.
    back_end.patch_desired("d", json!({"away": true})).await;

    let (mut device, present) = Device::connected(&hub, identity.connect()).await;
    assert!(present);
    device.expect_silence().await;
    back_end.patch_desired("d", json!({"back": true})).await;
    let delivery = device.expect_delivery().await;
    assert_eq!(
        delivery.topic,
        "$iothub/twin/PATCH/properties/desired/?$version=3"
    );
    assert_eq!(delivery.json(), json!({"back": true, "$version": 3}));
    let answer = async {
        let request = device.expect_delivery().await;
        assert_eq!(request.topic, "$iothub/methods/POST/m/?$rid=1");
        device.publish("$iothub/methods/res/200/?$rid=1", "7").await;
    };
    let (outcome, ()) = tokio::join!(back_end.call(&identity.target, "m", json!(null)), answer);
    assert_eq!(outcome.unwrap().payload.to_value(), json!(7));
    // The filter that was taken back stays away.
    device.publish("$iothub/twin/GET/?$rid=1", "").await;
    device.expect_silence().await;
}

#[tokio::test]
async fn a_stored_session_survives_a_displacement() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let mut first = Device::online(&hub, "d").await;
    first.subscribe(&[DESIRED_CHANGES]).await;
    let (mut second, present) = Device::connected(&hub, identity.connect()).await;
    assert!(present);
    BackEnd::of(&hub).patch_desired("d", json!({"a": 1})).await;
    assert_eq!(second.expect_delivery().await.json()["a"], 1);
    first.expect_closed().await;
}

#[tokio::test]
async fn a_clean_session_forgets_and_is_forgotten() {
    let hub = start_hub().await;
    let (identity, back_end) = (Identity::create(&hub, "d"), BackEnd::of(&hub));
    let mut device = Device::online(&hub, "d").await;
    device.subscribe(&[DESIRED_CHANGES, METHODS]).await;
    device.disconnect().await;

    let (mut device, present) = Device::connected(&hub, identity.connect_clean()).await;
    assert!(!present);
    back_end.patch_desired("d", json!({"a": 1})).await;
    device.expect_silence().await;
    let offline = back_end.call(&identity.target, "m", json!({})).await;
    assert_eq!(offline, Err(ErrorCode::DeviceNotOnline));
    device.subscribe(&[DESIRED_CHANGES]).await;
    device.disconnect().await;

    let (mut device, present) = Device::connected(&hub, identity.connect()).await;
    assert!(
        !present,
        "neither the clean session nor the one before it is left"
    );
    back_end.patch_desired("d", json!({"a": 2})).await;
    device.expect_silence().await;
}

#[tokio::test]
async fn sessions_belong_to_one_identity() {
    let hub = start_hub().await;
    Device::online(&hub, "d").await.disconnect().await;
    let module = Identity::create_module(&hub, "d", "m");
    let (_, present) = Device::connected(&hub, module.connect()).await;
    assert!(!present);
    // A device that is registered anew has a new session.
    let back_end = BackEnd::of(&hub);
    back_end.delete("d").await;
    let (_, present) = Device::connected(&hub, Identity::create(&hub, "d").connect()).await;
    assert!(!present);
}

#[tokio::test]
async fn subscriptions_are_granted_with_at_most_qos_1() {
    let hub = start_hub().await;
    let mut device = Device::online(&hub, "d").await;
    let granted = device
        .subscribe_to(&[
            (METHODS, QoS::AtMostOnce),
            (TWIN_RESPONSES, QoS::AtLeastOnce),
            (DESIRED_CHANGES, QoS::ExactlyOnce),
            ("devices/d/messages/devicebound/#", QoS::ExactlyOnce),
            ("$iothub/methods/POST/reboot/#", QoS::AtMostOnce),
        ])
        .await;
    let [zero, one] = [QoS::AtMostOnce, QoS::AtLeastOnce].map(Success);
    assert_eq!(granted, [zero, one, one, one, zero]);

    let module = Identity::create_module(&hub, "d", "m");
    let (mut module, _) = Device::connected(&hub, module.connect()).await;
    module
        .subscribe(&[
            METHODS,
            "devices/d/modules/m/#",
            "devices/d/modules/m/inputs/#",
            "devices/d/modules/m/messages/devicebound/#",
        ])
        .await;
}

/// Filters that no device `d` may have.
const UNSUPPORTED: [&str; 14] = [
    "#",
    "+",
    "+/#",
    "$iothub/#",
    "$iothub/+/res/#",
    "$iothub/twin/res/200/#",
    "$iothub/methods/POST/+/#",
    "$iothub/methods/POST/",
    "devices/d/messages/events/#",
    "devices/d/messages/devicebound/+",
    "devices/+/messages/devicebound/#",
    "devices/d2/messages/devicebound/#",
    "devices/d/modules/m/inputs/#",
    "weather/today",
];

#[tokio::test]
async fn an_unsupported_filter_ends_the_connection() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    for (n, filter) in UNSUPPORTED.into_iter().enumerate() {
        let (mut device, _) = Device::connected(&hub, identity.connect_clean()).await;
        let subscribe = Packet::Subscribe {
            packet_id: NonZeroU16::MIN,
            topic_filters: vec![
                (METHODS.into(), QoS::AtMostOnce),
                (filter.into(), QoS::AtMostOnce),
            ],
        };
        device.send(subscribe).await;
        device.expect_closed().await;
        assert_eq!(hub.counters().protocol_violations, n as u64 + 1, "{filter}");
    }
}

#[tokio::test]
async fn a_lenient_hub_refuses_unsupported_filters_one_by_one() {
    let hub = Hub::builder()
        .strictness(Strictness::Lenient)
        .start()
        .await
        .unwrap();
    let mut device = Device::online(&hub, "d").await;
    let mut wanted: Vec<_> = UNSUPPORTED.map(|filter| (filter, QoS::AtLeastOnce)).into();
    wanted.push((DESIRED_CHANGES, QoS::AtLeastOnce));
    let mut expected = vec![Failure; UNSUPPORTED.len()];
    expected.push(Success(QoS::AtLeastOnce));
    assert_eq!(device.subscribe_to(&wanted).await, expected);
    BackEnd::of(&hub).patch_desired("d", json!({"a": 1})).await;
    assert_eq!(device.expect_delivery().await.json()["a"], 1);
}

#[tokio::test]
async fn too_many_filters_end_the_connection() {
    let hub = start_hub().await;
    let mut device = Device::online(&hub, "d").await;
    let most = vec![DESIRED_CHANGES; limits::MQTT_SUBSCRIPTIONS];
    device.subscribe(&most).await;
    device.unsubscribe(&most).await;
    let topic_filters = vec![(DESIRED_CHANGES.into(), QoS::AtMostOnce); limits::MQTT_SUBSCRIPTIONS + 1];
    let packet_id = NonZeroU16::MIN;
    device
        .send(Packet::Subscribe {
            packet_id,
            topic_filters,
        })
        .await;
    device.expect_closed().await;
    assert_eq!(hub.counters().protocol_violations, 1);
}

#[tokio::test]
async fn unsubscribing_ends_deliveries_and_the_readiness_for_methods() {
    let hub = start_hub().await;
    let (identity, back_end) = (Identity::create(&hub, "d"), BackEnd::of(&hub));
    let mut device = Device::online(&hub, "d").await;
    device
        .subscribe(&[METHODS, DESIRED_CHANGES, TWIN_RESPONSES])
        .await;
    // What is not subscribed, or not even a filter, is acknowledged all the same.
    device
        .unsubscribe(&[
            METHODS,
            DESIRED_CHANGES,
            "devices/d/messages/devicebound/#",
            "weather/+",
        ])
        .await;
    back_end.patch_desired("d", json!({"a": 1})).await;
    let offline = back_end.call(&identity.target, "m", json!({})).await;
    assert_eq!(offline, Err(ErrorCode::DeviceNotOnline));
    device.expect_silence().await;
    device.publish("$iothub/twin/GET/?$rid=1", "").await;
    assert_eq!(
        device.expect_delivery().await.topic,
        "$iothub/twin/res/200/?$rid=1"
    );

    device.subscribe(&[DESIRED_CHANGES]).await;
    back_end.patch_desired("d", json!({"a": 2})).await;
    assert_eq!(device.expect_delivery().await.json()["a"], 2);
}

#[tokio::test]
async fn the_state_of_the_connection_shows_in_the_twin() {
    let hub = start_hub().await;
    Identity::create(&hub, "d");
    let back_end = BackEnd::of(&hub);
    assert_eq!(back_end.twin("d").await["connectionState"], "Disconnected");
    let device = Device::online(&hub, "d").await;
    assert_eq!(back_end.twin("d").await["connectionState"], "Connected");
    drop(device);
    wait_for("the end of the connection in the twin", async || {
        match back_end.twin("d").await["connectionState"].as_str() {
            Some("Disconnected") => Ok(()),
            other => Err(other.map(str::to_owned)),
        }
    })
    .await;
    assert_eq!(hub.connected_count(), 0);
}
