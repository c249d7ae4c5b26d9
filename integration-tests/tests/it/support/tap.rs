//! A client of the event tap.

use emulator::Hub;
use mqtt_wire::{Connect, ConnectAckReason, QoS, SubscribeReturnCode};
use serde_json::Value;
use tokio::net::TcpStream;

use super::device::{Delivery, Device};
use super::soon;

/// A hub with an event tap.
pub async fn start_with_tap() -> Hub {
    Hub::builder().event_tap(0).start().await.unwrap()
}

/// A connection to the tap on which nothing has been sent.
pub async fn open(hub: &Hub) -> Device {
    let address = hub.event_tap_address().unwrap();
    Device::over(soon("a connection", TcpStream::connect(address)).await.unwrap())
}

/// The CONNECT of a client as `mosquitto_sub` sends it.
pub fn client(id: &str) -> Connect {
    Connect {
        clean_session: true,
        keep_alive: 60,
        client_id: id.into(),
        ..Connect::default()
    }
}

/// A client that has subscribed; what happens from now on is shown to it.
pub async fn subscriber(hub: &Hub, filters: &[&str]) -> Device {
    let mut device = open(hub).await;
    let answer = device.connect(client("")).await;
    assert_eq!(answer.return_code, ConnectAckReason::ConnectionAccepted);
    let wanted: Vec<_> = filters.iter().map(|filter| (*filter, QoS::AtMostOnce)).collect();
    let granted = vec![SubscribeReturnCode::Success(QoS::AtMostOnce); filters.len()];
    assert_eq!(device.subscribe_to(&wanted).await, granted);
    device
}

/// The next message under `topic` that `wanted` says yes to; others are skipped.
pub async fn expect(device: &mut Device, topic: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let seen = async {
        loop {
            let Delivery { topic: seen, payload } = device.expect_delivery().await;
            let json: Value = serde_json::from_slice(&payload).unwrap();
            if seen == topic && wanted(&json) {
                return json;
            }
        }
    };
    soon(topic, seen).await
}
