//! What ends a connection that does nothing wrong: time, a change of the
//! identity, a device that does not read, the end of the hub.
//!
//! Timers follow the runtime's clock, which stands still while it is paused
//! and jumps to the next timer when nothing else is left to do.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::num::NonZeroU16;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use emulator::{Hub, Listen, Ports};
use mqtt_wire::{Connect, ConnectAckReason, Packet, publish_qos1};
use serde_json::json;

use crate::support::back_end::BackEnd;
use crate::support::device::{
    DESIRED_CHANGES, Device, Identity, METHODS, TWIN_RESPONSES, bytes_of, expect_closed_after, unix_now,
};
use crate::support::transport::Transport;
use crate::support::{soon, start_hub, wait_for};

/// Waits until so many devices and modules are connected.
async fn wait_for_connected(hub: &Hub, count: usize) {
    let connected = async || match hub.connected_count() {
        n if n == count => Ok(()),
        n => Err(n),
    };
    wait_for("the number of connections", connected).await;
}

#[tokio::test]
async fn silence_ends_a_connection_after_one_and_a_half_times_the_keep_alive() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    tokio::time::pause();
    for (keep_alive, seconds) in [
        (1, 1.5),
        (60, 90.0),
        (1177, 1765.5),
        (u16::MAX, 1767.0),
        (0, 1767.0),
    ] {
        let connect = Connect {
            keep_alive,
            // Longer than any keep-alive.
            password: Some(identity.token(unix_now() + 36_000).into()),
            ..identity.connect()
        };
        let (mut device, _) = Device::connected(&hub, connect).await;
        expect_closed_after(&mut device, Duration::from_secs_f64(seconds)).await;
        assert_eq!(hub.connected_count(), 0);
    }
    assert_eq!(hub.counters().protocol_violations, 0);
}

#[tokio::test]
async fn every_packet_keeps_a_connection_alive() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let connect = Connect {
        keep_alive: 10,
        ..identity.connect()
    };
    let (mut device, _) = Device::connected(&hub, connect).await;
    tokio::time::pause();
    let almost = Duration::from_millis(14_900);
    for _ in 0..3 {
        tokio::time::advance(almost).await;
        device.expect_silence().await;
        tokio::time::advance(almost).await;
        device.publish_acknowledged(&identity.events(""), "x").await;
    }
    // Half a packet is none.
    tokio::time::advance(almost).await;
    device.send_bytes(&[0x30]).await;
    expect_closed_after(&mut device, Duration::from_millis(100)).await;
}

#[tokio::test]
async fn what_the_hub_sends_does_not_keep_a_connection_alive() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let connect = Connect {
        keep_alive: 1,
        ..identity.connect()
    };
    let (mut device, _) = Device::connected(&hub, connect).await;
    device.subscribe(&[DESIRED_CHANGES]).await;
    BackEnd::of(&hub).patch_desired("d", json!({"a": 1})).await;
    device.expect_delivery().await;
    tokio::time::pause();
    expect_closed_after(&mut device, Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_connection_ends_with_its_token() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let connect = Connect {
        password: Some(identity.token(unix_now() + 30).into()),
        ..identity.connect()
    };
    let (mut device, _) = Device::connected(&hub, connect).await;
    tokio::time::pause();
    // Tokens count in whole seconds, and pings do not help.
    tokio::time::advance(Duration::from_millis(28_500)).await;
    device.expect_silence().await;
    let start = tokio::time::Instant::now();
    soon("the end of the connection", device.closed()).await;
    assert!(
        start.elapsed() <= Duration::from_millis(1_500),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(hub.connected_count(), 0);
    assert_eq!(hub.counters().protocol_violations, 0);
}

#[tokio::test]
async fn a_token_that_has_just_ended_is_good_for_the_tolerance() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let connect = Connect {
        password: Some(identity.token(unix_now() - 60).into()),
        keep_alive: 600,
        ..identity.connect()
    };
    let (mut device, _) = Device::connected(&hub, connect).await;
    tokio::time::pause();
    // A client whose clock is behind is let in, for what is left of 5 minutes.
    tokio::time::advance(Duration::from_secs(238)).await;
    device.expect_silence().await;
    let start = tokio::time::Instant::now();
    soon("the end of the connection", device.closed()).await;
    assert!(start.elapsed() <= Duration::from_secs(2), "{:?}", start.elapsed());
}

/// Sends more than fits the way to a device that does not read, and says how
/// long it stays connected.
async fn gone_without_reading(hub: &Hub, device: &mut Device) -> Duration {
    device.subscribe(&[DESIRED_CHANGES]).await;
    let patch = json!({"a": "x".repeat(4000), "b": "x".repeat(4000), "c": "x".repeat(4000)});
    BackEnd::of(hub).patch_desired("d", patch).await;
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    let gone = async {
        while hub.connected_count() == 1 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(100), gone)
        .await
        .unwrap();
    start.elapsed()
}

#[tokio::test]
async fn a_token_ends_the_connection_of_a_device_that_does_not_read() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let connect = Connect {
        password: Some(identity.token(unix_now() + 30).into()),
        ..identity.connect()
    };
    let (mut device, _) = Device::connected(&hub, connect).await;
    let took = gone_without_reading(&hub, &mut device).await;
    assert!(took <= Duration::from_secs(31), "{:?}", took);
}

#[tokio::test]
async fn a_token_for_ever_is_no_problem() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    for seconds in [4_000_000_000, u64::from(u32::MAX) * 1000, u64::MAX] {
        let connect = Connect {
            password: Some(identity.token(seconds).into()),
            ..identity.connect()
        };
        let (mut device, _) = Device::connected(&hub, connect).await;
        device.expect_silence().await;
    }
}

#[tokio::test]
async fn the_hubs_own_clock_ends_no_connection() {
    let hub = start_hub().await;
    let mut device = Device::online(&hub, "d").await;
    hub.advance_clock(Duration::from_secs(365 * 24 * 3600));
    device.expect_silence().await;
    Device::online(&hub, "other").await.expect_silence().await;
}

#[tokio::test]
async fn disabling_a_device_ends_its_connections_and_those_of_its_modules() {
    let hub = start_hub().await;
    let back_end = BackEnd::of(&hub);
    let identity = Identity::create(&hub, "d");
    let mut device = Device::online(&hub, "d").await;
    let module = Identity::create_module(&hub, "d", "m");
    let (mut module, _) = Device::connected(&hub, module.connect()).await;
    let mut other = Device::online(&hub, "other").await;
    back_end.set_status("d", "disabled").await;
    assert_eq!(hub.connected_count(), 1);
    device.expect_closed().await;
    module.expect_closed().await;
    other.expect_silence().await;

    let mut again = Device::in_memory(&hub);
    let ack = again.connect(identity.connect()).await;
    assert_eq!(ack.return_code, ConnectAckReason::NotAuthorized);
    back_end.set_status("d", "enabled").await;
    Device::online(&hub, "d").await.expect_silence().await;
}

#[tokio::test]
async fn deleting_an_identity_ends_its_connection() {
    let hub = start_hub().await;
    let back_end = BackEnd::of(&hub);
    let identity = Identity::create(&hub, "d");
    let mut device = Device::online(&hub, "d").await;
    device.subscribe(&[METHODS]).await;
    let [m1, m2] = ["m1", "m2"].map(|id| Identity::create_module(&hub, "d", id));
    let (mut m1, _) = Device::connected(&hub, m1.connect()).await;
    let (mut m2, _) = Device::connected(&hub, m2.connect()).await;
    back_end.delete("d/modules/m1").await;
    m1.expect_closed().await;
    m2.expect_silence().await;
    device.expect_silence().await;

    // A call under way ends with the device.
    let deletion = async {
        device.expect_delivery().await;
        back_end.delete("d").await;
        assert_eq!(hub.connected_count(), 0);
    };
    let (outcome, ()) = tokio::join!(back_end.call(&identity.target, "m", json!({})), deletion);
    assert_eq!(outcome, Err(hub_core::error::ErrorCode::DeviceNotOnline));
    device.expect_closed().await;
    m2.expect_closed().await;
}

#[tokio::test]
async fn a_reset_ends_every_connection() {
    let hub = start_hub().await;
    let mut devices = Vec::new();
    for transport in Transport::ALL {
        let identity = Identity::create(&hub, &format!("{transport:?}"));
        let mut device = Device::open(&hub, transport).await;
        device.connect(identity.connect()).await;
        devices.push(device);
    }
    hub.reset();
    for mut device in devices {
        device.expect_closed().await;
    }
    assert_eq!(hub.connected_count(), 0);
}

#[tokio::test]
async fn what_arrives_after_the_end_is_neither_done_nor_acknowledged() {
    let hub = start_hub().await;
    // The hub looks at both, the end and the packets, for the first time in
    // the same moment and in any order: try often.
    for _ in 0..20 {
        let identity = Identity::create(&hub, "d");
        let mut device = Device::online(&hub, "d").await;
        device.send_bytes(&burst(&identity)).await;
        hub.reset();
        device.expect_closed().await;
        assert!(hub.telemetry_after(0).is_empty());
    }
    Identity::create(&hub, "d");
    for _ in 0..20 {
        let identity = Identity::create(&hub, "d");
        let mut first = Device::online(&hub, "d").await;
        let mut second = Device::in_memory(&hub);
        second.send(identity.connect().into()).await;
        first.send_bytes(&burst(&identity)).await;
        first.expect_closed().await;
        assert!(matches!(second.expect_packet().await, Packet::ConnectAck(_)));
    }
    assert!(hub.telemetry_after(0).is_empty());
    let twin = BackEnd::of(&hub).twin("d").await;
    assert_eq!(twin["properties"]["reported"]["$version"], 1);
}

/// Telemetry, a report and a ping in one segment.
fn burst(identity: &Identity) -> BytesMut {
    let topic = "$iothub/twin/PATCH/properties/reported/?$rid=1";
    bytes_of([
        publish_qos1(identity.events(""), Bytes::from_static(b"x"), NonZeroU16::MIN),
        publish_qos1(topic, Bytes::from_static(b"{}"), NonZeroU16::MAX),
        Packet::PingRequest,
    ])
}

#[tokio::test]
async fn a_device_that_does_not_read_is_disconnected_and_disturbs_nobody() {
    let hub = start_hub().await;
    let back_end = BackEnd::of(&hub);
    let mut stuck = Device::online(&hub, "stuck").await;
    stuck.subscribe(&[DESIRED_CHANGES]).await;
    let mut other = Device::online(&hub, "other").await;
    other.subscribe(&[DESIRED_CHANGES, TWIN_RESPONSES]).await;
    // 30 kB per change: what the connection holds and what the hub keeps for
    // it, 1 MiB, is full after some 40 of them.
    let filler: String = "x".repeat(4000);
    let patch =
        json!({"a": filler, "b": filler, "c": filler, "d": filler, "e": filler, "f": filler, "g": filler});
    let mut changes = 0;
    while hub.connected_count() == 2 {
        assert!(changes < 100, "the device is still connected");
        back_end.patch_desired("stuck", patch.clone()).await;
        changes += 1;
        back_end.patch_desired("other", json!({"n": changes})).await;
        assert_eq!(other.expect_delivery().await.json()["n"], changes);
    }
    assert!(changes > 30, "disconnected after {changes} changes only");
    other.publish("$iothub/twin/GET/?$rid=1", "").await;
    assert_eq!(
        other.expect_delivery().await.topic,
        "$iothub/twin/res/200/?$rid=1"
    );
    // It may come back, and what it missed is in its twin.
    let mut back = Device::online(&hub, "stuck").await;
    back.subscribe(&[TWIN_RESPONSES]).await;
    back.publish("$iothub/twin/GET/?$rid=1", "").await;
    let twin = back.expect_delivery().await.json();
    assert_eq!(twin["desired"]["$version"], changes + 1);
}

#[tokio::test]
async fn a_device_that_does_not_read_can_be_displaced_deleted_and_shut_down() {
    let hub = start_hub().await;
    let back_end = BackEnd::of(&hub);
    let patch = json!({"a": "x".repeat(4000), "b": "x".repeat(4000), "c": "x".repeat(4000)});
    let mut stuck = Vec::new();
    for id in ["displaced", "deleted", "shut"] {
        let mut device = Device::online(&hub, id).await;
        device.subscribe(&[DESIRED_CHANGES]).await;
        // More than fits: the hub's task waits in the middle of this packet.
        back_end.patch_desired(id, patch.clone()).await;
        stuck.push(device);
    }
    let mut second = Device::online(&hub, "displaced").await;
    second.expect_silence().await;
    back_end.delete("deleted").await;
    wait_for_connected(&hub, 2).await;
    soon("the end of the hub", hub.shutdown()).await;
    drop(stuck);
}

#[tokio::test]
async fn a_write_that_makes_no_progress_ends_the_connection() {
    let hub = start_hub().await;
    let mut device = Device::online(&hub, "d").await;
    let took = gone_without_reading(&hub, &mut device).await;
    assert!((59..=61).contains(&took.as_secs()), "{:?}", took);
}

/// An address that no other test binds, so that a port of it that was free
/// stays so. Only Linux has more than one address for loopback.
const ADDRESS: Ipv4Addr = if cfg!(target_os = "linux") {
    Ipv4Addr::new(127, 0, 0, 7)
} else {
    Ipv4Addr::LOCALHOST
};

fn addresses(hub: &Hub) -> [SocketAddr; 4] {
    [
        hub.mqtt_address(),
        hub.mqtts_address(),
        hub.http_address(),
        hub.https_address(),
    ]
    .map(Option::unwrap)
}

#[tokio::test]
async fn shutdown_ends_every_connection_and_frees_the_ports() {
    let hub = Hub::builder().address(ADDRESS.into()).start().await.unwrap();
    let bound = addresses(&hub);
    let mut devices = Vec::new();
    for transport in Transport::ALL {
        let identity = Identity::create(&hub, &format!("{transport:?}"));
        let mut device = Device::open(&hub, transport).await;
        device.connect(identity.connect()).await;
        devices.push(device);
    }
    // One that has not said anything yet.
    devices.push(Device::open(&hub, Transport::Tcp).await);
    soon("the end of the hub", hub.shutdown()).await;
    for address in bound {
        TcpListener::bind(address).unwrap();
    }
    for device in &mut devices {
        device.expect_cut().await;
    }

    let [mqtt, mqtts, http, https] = bound.map(|address| Listen::On(address.port()));
    let ports = Ports {
        mqtt,
        mqtts,
        amqp: Listen::Off,
        amqps: Listen::Off,
        http,
        https,
    };
    let hub = Hub::builder()
        .address(ADDRESS.into())
        .ports(ports)
        .start()
        .await
        .unwrap();
    assert_eq!(addresses(&hub), bound);
    // Nothing is left of the hub before.
    let identity = Identity::create(&hub, "Tcp");
    let mut device = Device::open(&hub, Transport::Tcp).await;
    assert!(!device.connect(identity.connect()).await.session_present);
    hub.shutdown().await;
}

#[tokio::test]
async fn a_hub_that_is_dropped_ends_its_connections() {
    let hub = start_hub().await;
    let mut device = Device::online(&hub, "d").await;
    let mut socket = Device::open(&hub, Transport::Tcp).await;
    socket.connect(Identity::create(&hub, "d2").connect()).await;
    drop(hub);
    device.expect_cut().await;
    socket.expect_cut().await;
}

#[tokio::test]
async fn hubs_in_one_process_share_nothing() {
    let (one, two) = (start_hub().await, start_hub().await);
    let (first, second) = (Identity::create(&one, "d"), Identity::create(&two, "d"));
    let mut on_one = Device::online(&one, "d").await;
    on_one.subscribe(&[DESIRED_CHANGES]).await;
    // Each has its own keys, connections, twins and telemetry.
    let mut stranger = Device::open(&two, Transport::Tcp).await;
    let ack = stranger.connect(first.connect()).await;
    assert_eq!(ack.return_code, ConnectAckReason::NotAuthorized);
    let (mut on_two, present) = Device::connected(&two, second.connect()).await;
    assert!(!present);
    on_two.subscribe(&[DESIRED_CHANGES]).await;
    BackEnd::of(&two).patch_desired("d", json!({"of": "two"})).await;
    assert_eq!(on_two.expect_delivery().await.json()["of"], "two");
    on_two.publish_acknowledged(&second.events(""), "x").await;
    on_one.expect_silence().await;
    assert!(one.telemetry_after(0).is_empty());
    assert_eq!((one.counters().takeovers, two.counters().takeovers), (0, 0));
    two.advance_clock(Duration::from_secs(3600));
    assert!(two.now().saturating_since(one.now()) > Duration::from_secs(3500));
    soon("the end of one hub", two.shutdown()).await;
    on_one.expect_silence().await;
    assert_eq!(one.connected_count(), 1);
}
