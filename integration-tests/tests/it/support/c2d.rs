//! Messages from the cloud, as a back end sends and a device sees them.

use std::num::NonZeroU16;

use emulator::Hub;
use hub_core::ids::{DeviceId, ModuleId, Target};
use hub_core::property_bag::{MessageProperties, SystemProperty};
use hub_core::topic::{Address, HubTopic};
use mqtt_wire::QoS;
use serde_json::Value;

use super::device::Device;
use super::rest::Rest;

/// The filter for the messages of a device.
pub fn filter(device: &str) -> String {
    format!("devices/{device}/messages/devicebound/#")
}

pub fn target(device: &str) -> Target {
    Target::device(DeviceId::parse(device).unwrap())
}

pub fn module(device: &str, module: &str) -> Target {
    Target {
        module: Some(ModuleId::parse(module).unwrap()),
        ..target(device)
    }
}

pub fn properties(system: &[(SystemProperty, &str)], application: &[(&str, &str)]) -> MessageProperties {
    MessageProperties {
        system: system.iter().map(|(p, v)| (*p, (*v).to_owned())).collect(),
        application: application
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
    }
}

/// Sends a message that asks for all feedback and has its number as its id and
/// body.
pub fn send(hub: &Hub, device: &str, n: u64) {
    let id = n.to_string();
    let asking = properties(
        &[(SystemProperty::MessageId, &id), (SystemProperty::Ack, "full")],
        &[],
    );
    let sequence = hub.send_to_device(&target(device), asking, id).unwrap();
    assert_eq!(sequence, n, "the device was sent other messages before");
}

/// What a device was sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    pub properties: MessageProperties,
    pub body: Vec<u8>,
    /// With QoS 1.
    pub packet_id: Option<NonZeroU16>,
    pub dup: bool,
}

impl Received {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// The next packet, which must be a message for `target`.
pub async fn expect_message(device: &mut Device, target: &Target) -> Received {
    let publish = device.expect_publish().await;
    assert!(!publish.retain);
    assert_eq!(publish.packet_id.is_some(), publish.qos == QoS::AtLeastOnce);
    let Ok(HubTopic::CloudToDevice { address, bag }) = HubTopic::parse(&publish.topic) else {
        panic!("{} is no topic of a message", publish.topic);
    };
    assert_eq!(address, Address::from(target));
    // Clients cut the topic at each of these.
    assert!(!bag.contains(['/', '?', '#', '+', ' ', '$']), "{bag}");
    let properties = MessageProperties::decode(bag).unwrap();
    assert!(properties.system.contains_key(&SystemProperty::To), "{bag}");
    Received {
        properties,
        body: publish.payload.to_vec(),
        packet_id: publish.packet_id,
        dup: publish.dup,
    }
}

/// The next message must be that of [`send`]; gives its packet id.
pub async fn expect_numbered(device: &mut Device, id: &str, n: u64) -> NonZeroU16 {
    let received = expect_message(device, &target(id)).await;
    assert_eq!(received.text(), n.to_string());
    received.packet_id.unwrap()
}

/// Ids and status codes of the next batch of feedback, which is completed.
pub async fn feedback(rest: &Rest) -> Vec<(String, String)> {
    let reply = rest.get("/messages/servicebound/feedback").await;
    if reply.status == 204 {
        return Vec::new();
    }
    let batch: Value = serde_json::from_slice(&reply.body).unwrap();
    let token = reply.header("etag").unwrap().trim_matches('"').to_owned();
    rest.delete(&format!("/messages/servicebound/feedback/{token}"))
        .await
        .no_content();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let records = batch.as_array().unwrap().iter();
    records
        .map(|record| (text(&record["originalMessageId"]), text(&record["statusCode"])))
        .collect()
}
