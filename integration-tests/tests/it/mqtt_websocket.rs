//! MQTT inside a WebSocket: the upgrade, and frames that are not packets.

use bytes::Bytes;
use emulator::Hub;
use futures_util::SinkExt as _;
use mqtt_wire::{Packet, publish_qos0};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::support::device::{Device, Identity, bytes_of};
use crate::support::transport::{FrameBytes, WEBSOCKET_PATH, upgrade};
use crate::support::{soon, start_hub};

async fn socket(
    hub: &Hub,
    path_and_query: &str,
    protocol: Option<&'static str>,
) -> tungstenite::Result<WebSocketStream<TcpStream>> {
    let stream = TcpStream::connect(hub.http_address().unwrap()).await.unwrap();
    soon("the upgrade", upgrade(stream, path_and_query, protocol)).await
}

#[tokio::test]
async fn the_query_string_and_other_protocols_on_offer_do_not_matter() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    for (path_and_query, protocol) in [
        (WEBSOCKET_PATH, "mqtt"),
        ("/$iothub/websocket?iothub-no-client-cert=true", "mqtt"),
        ("/$iothub/websocket?api-version=x&y", "mqttv3.1, mqtt"),
        ("/$iothub/websocket/", "mqtt"),
    ] {
        let socket = socket(&hub, path_and_query, Some(protocol)).await;
        let mut device = Device::over(FrameBytes::new(socket.unwrap()));
        device.connect(identity.connect()).await;
        device.disconnect().await;
    }
    assert_eq!(hub.counters().connects_accepted, 4);
}

#[tokio::test]
async fn without_the_sub_protocol_there_is_no_upgrade() {
    let hub = start_hub().await;
    for protocol in [None, Some("amqp"), Some("mqttv3.1"), Some("MQTT")] {
        match socket(&hub, WEBSOCKET_PATH, protocol).await {
            Err(tungstenite::Error::Http(reply)) => assert_eq!(reply.status(), 400, "{protocol:?}"),
            other => panic!("{protocol:?}: {other:?}"),
        }
    }
    match socket(&hub, "/websocket", Some("mqtt")).await {
        Err(tungstenite::Error::Http(reply)) => assert_eq!(reply.status(), 404),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn frames_and_packets_need_not_coincide() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let telemetry = |n: u8| publish_qos0(identity.events(""), Bytes::from(vec![n; 3]));
    let bytes = bytes_of([
        identity.connect().into(),
        telemetry(1),
        telemetry(2),
        Packet::PingRequest,
    ]);
    for frame in [1, 10, bytes.len()] {
        let before = hub.counters().telemetry_messages;
        let mut socket = socket(&hub, WEBSOCKET_PATH, Some("mqtt")).await.unwrap();
        for bytes in bytes.chunks(frame) {
            socket
                .send(Message::Binary(Bytes::copy_from_slice(bytes)))
                .await
                .unwrap();
        }
        // Empty frames and pings of the WebSocket itself mean nothing.
        socket.send(Message::Binary(Bytes::new())).await.unwrap();
        socket
            .send(Message::Ping(Bytes::from_static(b"x")))
            .await
            .unwrap();
        let mut device = Device::over(FrameBytes::new(socket));
        assert!(matches!(device.expect_packet().await, Packet::ConnectAck(_)));
        assert_eq!(device.expect_packet().await, Packet::PingResponse);
        device.expect_silence().await;
        assert_eq!(
            hub.counters().telemetry_messages,
            before + 2,
            "frames of {frame} bytes"
        );
    }
}

#[tokio::test]
async fn a_text_frame_ends_the_connection() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let connect = bytes_of([identity.connect().into()]).freeze();
    let mut socket = socket(&hub, WEBSOCKET_PATH, Some("mqtt")).await.unwrap();
    socket.send(Message::Binary(connect)).await.unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    let mut device = Device::over(FrameBytes::new(socket));
    assert!(matches!(device.expect_packet().await, Packet::ConnectAck(_)));
    device.expect_closed().await;
    assert_eq!(hub.connected_count(), 0);
}

#[tokio::test]
async fn closing_the_socket_without_disconnect_ends_the_connection() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    let connect = bytes_of([identity.connect().into()]).freeze();
    let mut socket = socket(&hub, WEBSOCKET_PATH, Some("mqtt")).await.unwrap();
    socket.send(Message::Binary(connect)).await.unwrap();
    socket.send(Message::Close(None)).await.unwrap();
    let mut device = Device::over(FrameBytes::new(socket));
    assert!(matches!(device.expect_packet().await, Packet::ConnectAck(_)));
    device.expect_closed().await;
    assert_eq!(hub.connected_count(), 0);
}
