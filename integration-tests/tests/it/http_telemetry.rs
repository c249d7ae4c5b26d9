//! Device-to-cloud messages over HTTP.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use emulator::Hub;
use hub_core::error::ErrorCode;
use hub_core::limits::D2C_MESSAGE_BYTES;
use hub_core::property_bag::SystemProperty;
use serde_json::{Value, json};

use crate::support::rest::{Call, Rest, start};

const EVENTS: &str = "/devices/d/messages/events";
const BATCH: &str = "application/vnd.microsoft.iothub.json";

async fn hub() -> (Hub, Rest) {
    let (hub, rest) = start().await;
    rest.create("d").await;
    (hub, rest)
}

fn batch(rest: &Rest, items: &Value) -> Call {
    rest.call("POST", EVENTS)
        .header("Content-Type", BATCH)
        .json(items)
}

#[tokio::test]
async fn a_message_arrives_with_body_and_properties() {
    let (hub, rest) = hub().await;
    rest.put("/devices/d/modules/m", &json!({})).await.ok();
    let before = rest.get("/devices/d").await.ok();
    rest.call("POST", EVENTS)
        .header("IoTHub-MessageId", "m1")
        .header("iothub-contenttype", "application/json")
        .header("iothub-contentencoding", "utf-8")
        .header("iothub-app-color", "red")
        .header("iothub-to", EVENTS)
        .header("Content-Type", "application/octet-stream")
        .body(b"\x00\xffraw".as_slice())
        .send()
        .await
        .no_content();
    rest.call("POST", EVENTS)
        .body("in small chunks")
        .chunked()
        .send()
        .await
        .no_content();
    rest.call("POST", EVENTS).send().await.no_content();
    rest.call("POST", "/Devices/d/Modules/m/Messages/Events/")
        .body("of a module")
        .send()
        .await
        .no_content();

    let kept = hub.telemetry_after(0);
    let bodies: Vec<&[u8]> = kept.iter().map(|m| &*m.body).collect();
    assert_eq!(
        bodies,
        [b"\x00\xffraw".as_slice(), b"in small chunks", b"", b"of a module"]
    );
    assert_eq!(kept[0].properties.system[&SystemProperty::MessageId], "m1");
    assert_eq!(
        kept[0].properties.system[&SystemProperty::ContentType],
        "application/json"
    );
    assert_eq!(kept[0].properties.application["color"], "red");
    assert_eq!(kept[0].properties.application.len(), 1);
    // Where the request goes is no property of the message.
    assert!(!kept[0].properties.system.contains_key(&SystemProperty::To));
    assert_eq!(kept[3].source.module.as_ref().unwrap().as_str(), "m");
    assert_eq!(hub.counters().telemetry_messages, 4);

    // HTTP is no connection, but it is activity.
    let after = rest.get("/devices/d").await.ok();
    assert_eq!(after["connectionState"], "Disconnected");
    assert_eq!(
        after["connectionStateUpdatedTime"],
        before["connectionStateUpdatedTime"]
    );
    assert_ne!(after["lastActivityTime"], before["lastActivityTime"]);
}

#[tokio::test]
async fn a_batch_is_as_many_messages() {
    let (hub, rest) = hub().await;
    let items = json!([
        {"body": STANDARD.encode("one"), "properties": {"iothub-app-Color": "red", "iothub-messageid": "1"}},
        {"body": "two", "base64Encoded": false},
        {},
    ]);
    batch(&rest, &items).send().await.no_content();
    batch(&rest, &json!([])).send().await.no_content();
    let kept = hub.telemetry_after(0);
    let bodies: Vec<&[u8]> = kept.iter().map(|m| &*m.body).collect();
    assert_eq!(bodies, [b"one".as_slice(), b"two", b""]);
    assert_eq!(kept[0].properties.application["Color"], "red");
    assert_eq!(kept[0].properties.system[&SystemProperty::MessageId], "1");
}

#[tokio::test]
async fn one_bad_message_refuses_the_batch() {
    let (hub, rest) = hub().await;
    let good = json!({"body": "aGk="});
    for bad in [
        json!(1),
        json!({"body": "no base64"}),
        json!({"body": []}),
        json!({"properties": {"iothub-app-": "x"}}),
        json!({"properties": {"iothub-app-x": 1}}),
    ] {
        batch(&rest, &json!([good, bad]))
            .send()
            .await
            .refused(ErrorCode::ArgumentInvalid);
    }
    for text in ["", "{}", "[", "null"] {
        rest.call("POST", EVENTS)
            .header("Content-Type", BATCH)
            .body(text)
            .send()
            .await
            .refused(ErrorCode::ArgumentInvalid);
    }
    assert_eq!(hub.counters().telemetry_messages, 0);
}

#[tokio::test]
async fn a_message_and_a_whole_batch_hold_256_kilobytes() {
    let (hub, rest) = hub().await;
    let post = |bytes: usize| rest.call("POST", EVENTS).body(vec![7; bytes]);
    post(D2C_MESSAGE_BYTES).send().await.no_content();
    post(D2C_MESSAGE_BYTES + 1)
        .send()
        .await
        .refused(ErrorCode::MessageTooLarge);
    // Properties count.
    post(D2C_MESSAGE_BYTES - 1)
        .header("iothub-app-a", "b")
        .send()
        .await
        .refused(ErrorCode::MessageTooLarge);
    let half = STANDARD.encode(vec![7; D2C_MESSAGE_BYTES / 2]);
    batch(&rest, &json!([{"body": half}, {"body": half}]))
        .send()
        .await
        .no_content();
    for items in [
        json!([{"body": half}, {"body": half}, {"body": "eA=="}]),
        json!([{"body": half}, {"body": half, "properties": {"iothub-app-a": ""}}]),
        json!([{"body": "x".repeat(5 * D2C_MESSAGE_BYTES)}]),
    ] {
        batch(&rest, &items)
            .send()
            .await
            .refused(ErrorCode::MessageTooLarge);
    }
    assert_eq!(hub.counters().telemetry_messages, 3);
}

#[tokio::test]
async fn only_who_may_act_as_the_device_sends() {
    let (hub, rest) = hub().await;
    let disabled = json!({"status": "disabled"});
    for path in [
        "/devices/unknown/messages/events",
        "/devices/d/modules/unknown/messages/events",
        "/devices/bad%20id/messages/events",
    ] {
        rest.call("POST", path)
            .body("x")
            .send()
            .await
            .refused(ErrorCode::IotHubUnauthorizedAccess);
    }
    rest.call("PUT", "/devices/d")
        .if_match("*")
        .json(&disabled)
        .send()
        .await
        .ok();
    rest.call("POST", EVENTS)
        .body("x")
        .send()
        .await
        .refused(ErrorCode::IotHubUnauthorizedAccess);
    rest.get(EVENTS).await.refused(ErrorCode::GenericMethodNotAllowed);
    assert_eq!(hub.counters().telemetry_messages, 0);
}
