//! Messages to devices over HTTP, from both of their ends, and purging.

use std::time::Duration;

use emulator::Hub;
use hub_core::error::ErrorCode;
use hub_core::property_bag::{MessageProperties, SystemProperty};
use hub_core::time::Timestamp;
use serde_json::{Value, json};

use crate::support::c2d::{expect_message, feedback, filter, properties, send, target};
use crate::support::device::{Device, Identity, unix_now};
use crate::support::rest::{Reply, Rest, start};
use crate::support::wait_for;

const MESSAGES: &str = "/devices/d/messages/deviceBound";

/// A hub with a device `d`, its back end, and the device as an HTTP client.
async fn site() -> (Hub, Rest, Rest) {
    let (hub, rest) = start().await;
    let identity = Identity::create(&hub, "d");
    let device = rest.authorized(Some(&identity.token(unix_now() + 3600)));
    (hub, rest, device)
}

/// The next message's answer, which must be one.
async fn take(device: &Rest) -> Reply {
    let reply = device.get(MESSAGES).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply
}

/// The lock token of an answer, as clients cut it out.
fn token(reply: &Reply) -> String {
    let etag = reply.header("etag").unwrap();
    etag[1..etag.len() - 1].to_owned()
}

async fn complete(device: &Rest, token: &str) -> Reply {
    device.call("DELETE", &format!("{MESSAGES}/{token}")).send().await
}

async fn reject(device: &Rest, token: &str) -> Reply {
    let path = format!("{MESSAGES}/{token}?api-version=2021-04-12&reject");
    device.exactly("DELETE", &path).send().await
}

async fn abandon(device: &Rest, token: &str) -> Reply {
    device
        .call("POST", &format!("{MESSAGES}/{token}/abandon"))
        .send()
        .await
}

async fn count(rest: &Rest) -> Value {
    rest.get("/twins/d").await.ok()["cloudToDeviceMessageCount"].clone()
}

#[tokio::test]
async fn a_message_keeps_its_headers_from_end_to_end() {
    let (hub, rest, device) = site().await;
    device.get(MESSAGES).await.no_content();
    let expiry = hub.now().saturating_add(Duration::from_secs(600)).to_string();
    let sent = [
        ("IoTHub-MessageId", "7"),
        ("iothub-correlationid", "c/1"),
        ("iothub-userid", "someone"),
        ("iothub-to", "/devices/d/messages/deviceBound"),
        ("iothub-expiry", &expiry),
        ("iothub-ack", "FULL"),
        ("iothub-contenttype", "application/json"),
        ("iothub-contentencoding", "utf-8"),
        ("iothub-app-color", "röt & blue"),
        ("iothub-app-empty", ""),
        // The request's own, not the message's.
        ("Content-Type", "text/plain"),
    ];
    let mut call = rest.call("POST", MESSAGES).body([0, 255]);
    for (name, value) in sent {
        call = call.header(name, value);
    }
    call.send().await.no_content();

    let reply = take(&device).await;
    assert_eq!(reply.body, [0, 255]);
    for (name, value) in [
        ("iothub-messageid", "7"),
        ("iothub-correlationid", "c/1"),
        ("iothub-userid", "someone"),
        ("iothub-to", "/devices/d/messages/deviceBound"),
        ("iothub-expiry", &*expiry),
        ("iothub-ack", "full"),
        ("iothub-contenttype", "application/json"),
        ("content-type", "application/json"),
        ("iothub-contentencoding", "utf-8"),
        ("iothub-app-color", "röt & blue"),
        ("iothub-app-empty", ""),
        ("iothub-sequencenumber", "1"),
        ("iothub-deliverycount", "0"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{name}");
    }
    let enqueued = Timestamp::parse(reply.header("iothub-enqueuedtime").unwrap()).unwrap();
    assert!(hub.now().saturating_since(enqueued) < Duration::from_secs(60));

    // It is locked now, and counts until it is completed.
    device.get(MESSAGES).await.no_content();
    assert_eq!(count(&rest).await, 1);
    complete(&device, &token(&reply)).await.no_content();
    assert_eq!(count(&rest).await, 0);
    device.get(MESSAGES).await.no_content();
    assert_eq!(feedback(&rest).await, [("7".to_owned(), "Success".to_owned())]);
}

#[tokio::test]
async fn an_empty_message_has_what_every_message_has() {
    let (_hub, rest, device) = site().await;
    rest.call("POST", MESSAGES).send().await.no_content();
    let reply = take(&device).await;
    assert!(reply.body.is_empty());
    assert_eq!(reply.header("iothub-to"), Some("/devices/d/messages/devicebound"));
    assert_eq!(reply.header("iothub-ack"), Some("none"));
    assert_eq!(reply.header("iothub-messageid"), None);
    assert!(Timestamp::parse(reply.header("iothub-expiry").unwrap()).is_ok());
}

#[tokio::test]
async fn a_policy_may_receive_for_any_device_and_slashes_may_be_encoded() {
    let (_hub, rest, _) = site().await;
    // As IoT Explorer and the command line tool do.
    let path = "/devices%2Fd%2Fmessages%2FdeviceBound?api-version=2020-09-30";
    rest.exactly("POST", path).body("x").send().await.no_content();
    let reply = take(&rest).await;
    assert_eq!(reply.text(), "x");
    // An ETag with its quotes names the message as well.
    let quoted = format!("%22{}%22", token(&reply));
    complete(&rest, &quoted).await.no_content();
}

#[tokio::test]
async fn only_a_get_takes_a_message() {
    let (hub, _, device) = site().await;
    send(&hub, "d", 1);
    let reply = device.call("HEAD", MESSAGES).send().await;
    assert_eq!(reply.status, 405);
    assert_eq!(take(&device).await.text(), "1");
}

#[tokio::test]
async fn a_rejected_message_is_gone() {
    let (hub, rest, device) = site().await;
    send(&hub, "d", 1);
    let taken = token(&take(&device).await);
    reject(&device, &taken).await.no_content();
    reject(&device, &taken)
        .await
        .refused(ErrorCode::DeviceMessageLockLost);
    device.get(MESSAGES).await.no_content();
    assert_eq!(count(&rest).await, 0);
    assert_eq!(feedback(&rest).await, [("1".to_owned(), "Rejected".to_owned())]);
    assert_eq!(hub.counters().c2d_rejected, 1);
}

#[tokio::test]
async fn an_abandoned_message_keeps_its_place_until_it_was_delivered_ten_times() {
    let (hub, rest, device) = site().await;
    for n in 1..=2 {
        send(&hub, "d", n);
    }
    for delivery in 0..10 {
        let reply = take(&device).await;
        assert_eq!(reply.text(), "1");
        assert_eq!(reply.header("iothub-deliverycount"), Some(&*delivery.to_string()));
        abandon(&device, &token(&reply)).await.no_content();
    }
    assert_eq!(take(&device).await.text(), "2");
    let given_up = ("1".to_owned(), "DeliveryCountExceeded".to_owned());
    assert_eq!(feedback(&rest).await, [given_up]);
    assert_eq!(hub.counters().c2d_abandoned, 10);
}

#[tokio::test]
async fn a_lock_ends_after_a_minute_and_is_not_counted() {
    let (hub, rest, device) = site().await;
    send(&hub, "d", 1);
    for _ in 0..12 {
        let reply = take(&device).await;
        assert_eq!(reply.header("iothub-deliverycount"), Some("0"));
        hub.advance_clock(Duration::from_secs(59));
        device.get(MESSAGES).await.no_content();
        hub.advance_clock(Duration::from_secs(1));
        let lost = token(&reply);
        for late in [
            complete(&device, &lost).await,
            reject(&device, &lost).await,
            abandon(&device, &lost).await,
        ] {
            late.refused(ErrorCode::DeviceMessageLockLost);
        }
    }
    assert_eq!(count(&rest).await, 1);
    complete(&device, &token(&take(&device).await)).await.no_content();
}

#[tokio::test]
async fn tokens_that_name_nothing_are_refused() {
    let (hub, rest, device) = site().await;
    // Before there ever was a message, and with one that is held.
    let unknown = "00000000-0000-0000-0000-000000000000";
    complete(&device, unknown)
        .await
        .refused(ErrorCode::DeviceMessageLockLost);
    send(&hub, "d", 1);
    let taken = token(&take(&device).await);
    let damaged = format!("{}{}", &taken[..35], if taken.ends_with('0') { '1' } else { '0' });
    for wrong in [unknown, "x", "%22", "%00", &taken[..35], &*damaged] {
        for reply in [
            complete(&device, wrong).await,
            reject(&device, wrong).await,
            abandon(&device, wrong).await,
        ] {
            reply.refused(ErrorCode::DeviceMessageLockLost);
        }
    }
    // Another device's.
    Identity::create(&hub, "d2");
    let foreign = format!("/devices/d2/messages/deviceBound/{taken}");
    rest.call("DELETE", &foreign)
        .send()
        .await
        .refused(ErrorCode::DeviceMessageLockLost);
    complete(&device, &taken).await.no_content();
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_and_leaves_no_trace() {
    let (hub, rest, device) = site().await;
    let now = hub.now();
    let past = now.to_string();
    let far = now
        .saturating_add(Duration::from_secs(2 * 24 * 3600 + 60))
        .to_string();
    let long = "x".repeat(129);
    for (name, value, code) in [
        ("iothub-expiry", &*past, ErrorCode::InvalidMessageExpiryTime),
        ("iothub-expiry", &far, ErrorCode::InvalidMessageExpiryTime),
        ("iothub-expiry", "soon", ErrorCode::ArgumentInvalid),
        ("iothub-ack", "maybe", ErrorCode::ArgumentInvalid),
        ("iothub-messageid", &long, ErrorCode::ArgumentInvalid),
        ("iothub-app-", "x", ErrorCode::ArgumentInvalid),
    ] {
        let call = rest.call("POST", MESSAGES).header(name, value);
        call.send().await.refused(code);
    }
    let too_large = rest.call("POST", MESSAGES).body(vec![b'x'; 64 * 1024 + 1]);
    too_large.send().await.refused(ErrorCode::MessageTooLarge);
    let largest = vec![b'x'; 64 * 1024];
    let chunked = rest.call("POST", MESSAGES).body(largest.clone()).chunked();
    chunked.send().await.no_content();

    rest.call("POST", "/devices/nobody/messages/devicebound")
        .send()
        .await
        .refused(ErrorCode::DeviceNotFound);
    rest.call("POST", "/devices/d/modules/nobody/messages/devicebound")
        .send()
        .await
        .refused_in_detail(ErrorCode::ModuleNotFound);
    rest.call("POST", "/devices/a+b/messages/devicebound")
        .send()
        .await
        .refused(ErrorCode::ArgumentInvalid);

    let reply = take(&device).await;
    assert_eq!(reply.header("iothub-sequencenumber"), Some("1"));
    assert_eq!(reply.body, largest);
    assert_eq!(hub.counters().c2d_sent, 1);
}

#[tokio::test]
async fn the_51st_message_is_refused() {
    let (hub, rest, device) = site().await;
    for n in 1..=50 {
        send(&hub, "d", n);
    }
    // A message that is held is still in the queue.
    let taken = token(&take(&device).await);
    let full = rest.call("POST", MESSAGES).send().await;
    full.refused(ErrorCode::DeviceMaximumQueueDepthExceeded);
    assert_eq!(count(&rest).await, 50);
    complete(&device, &taken).await.no_content();
    rest.call("POST", MESSAGES).send().await.no_content();
}

#[tokio::test]
async fn a_device_over_mqtt_and_over_http_share_one_queue() {
    let (hub, _, device) = site().await;
    for n in 1..=2 {
        send(&hub, "d", n);
    }
    let over_http = take(&device).await;
    assert_eq!(over_http.text(), "1");
    let mut mqtt = Device::online(&hub, "d").await;
    mqtt.subscribe(&[&filter("d")]).await;
    let received = expect_message(&mut mqtt, &target("d")).await;
    assert_eq!(received.text(), "2");
    device.get(MESSAGES).await.no_content();
    // What one gives back the other gets, for the first time.
    abandon(&device, &token(&over_http)).await.no_content();
    let received = expect_message(&mut mqtt, &target("d")).await;
    assert_eq!((received.text(), received.dup), ("1", false));
    drop(mqtt);
    let both = async || match device.get(MESSAGES).await {
        reply if reply.status == 200 => Ok(reply),
        reply => Err(reply.status),
    };
    assert_eq!(wait_for("the first message", both).await.text(), "1");
    assert_eq!(take(&device).await.text(), "2");
}

#[tokio::test]
async fn purging_empties_the_queue() {
    let (hub, rest, device) = site().await;
    let purge = async |path: &str| rest.call("DELETE", path).send().await;
    let purged =
        |module: Value, n: u64| json!({"deviceId": "d", "moduleId": module, "totalMessagesPurged": n});
    assert_eq!(purge("/devices/d/commands").await.ok(), purged(Value::Null, 0));
    for n in 1..=3 {
        send(&hub, "d", n);
    }
    let silent = properties(
        &[
            (SystemProperty::MessageId, "silent"),
            (SystemProperty::Ack, "positive"),
        ],
        &[],
    );
    hub.send_to_device(&target("d"), silent, "").unwrap();
    let held = token(&take(&device).await);
    assert_eq!(purge("/devices/d/Commands").await.ok(), purged(Value::Null, 4));
    complete(&device, &held)
        .await
        .refused(ErrorCode::DeviceMessageLockLost);
    device.get(MESSAGES).await.no_content();
    assert_eq!(count(&rest).await, 0);
    let expected: Vec<_> = (1..=3).map(|n| (n.to_string(), "Purged".to_owned())).collect();
    assert_eq!(feedback(&rest).await, expected);

    Identity::create_module(&hub, "d", "m");
    let path = "/devices/d/modules/m/messages/devicebound";
    rest.call("POST", path).send().await.no_content();
    assert_eq!(
        purge("/devices/d/modules/m/commands").await.ok(),
        purged(json!("m"), 1)
    );
    purge("/devices/nobody/commands")
        .await
        .refused(ErrorCode::DeviceNotFound);
    purge("/devices/d/modules/nobody/commands")
        .await
        .refused_in_detail(ErrorCode::ModuleNotFound);
}

#[tokio::test]
async fn the_admin_endpoint_sends_and_is_strict() {
    let (hub, rest, device) = site().await;
    Identity::create_module(&hub, "d", "m");
    let anybody = rest.authorized(None);
    let post = async |body: Value| anybody.exactly("POST", "/_emulator/c2d").json(&body).send().await;
    let expiry = hub.now().saturating_add(Duration::from_secs(60)).to_string();
    let full = json!({
        "deviceId": "d", "body": "grüße", "messageId": "1", "correlationId": "2", "userId": "3",
        "contentType": "text/plain", "contentEncoding": "utf-8", "expiryTimeUtc": expiry, "ack": "full",
        "properties": {"color": "red"},
    });
    assert_eq!(post(full).await.ok(), json!({"sequenceNumber": 1}));
    let bytes = json!({"deviceId": "d", "bodyBase64": "AP8="});
    assert_eq!(post(bytes).await.ok(), json!({"sequenceNumber": 2}));
    let module = json!({"deviceId": "d", "moduleId": "m", "body": null});
    assert_eq!(post(module).await.ok(), json!({"sequenceNumber": 1}));
    let reply = take(&device).await;
    assert_eq!(
        (reply.text(), reply.header("iothub-app-color")),
        ("grüße", Some("red"))
    );
    for (name, value) in [
        ("iothub-messageid", "1"),
        ("iothub-correlationid", "2"),
        ("iothub-userid", "3"),
        ("content-type", "text/plain"),
        ("iothub-contentencoding", "utf-8"),
        ("iothub-expiry", &*expiry),
        ("iothub-ack", "full"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{name}");
    }
    assert_eq!(take(&device).await.body, [0, 255]);

    for (body, code) in [
        (json!({}), ErrorCode::ArgumentInvalid),
        (json!([]), ErrorCode::ArgumentInvalid),
        (json!({"deviceId": 1}), ErrorCode::ArgumentInvalid),
        (json!({"deviceId": "a b"}), ErrorCode::ArgumentInvalid),
        (
            json!({"deviceId": "d", "moduleId": ""}),
            ErrorCode::ArgumentInvalid,
        ),
        (
            json!({"deviceId": "d", "payload": "x"}),
            ErrorCode::ArgumentInvalid,
        ),
        (
            json!({"deviceId": "d", "body": {"a": 1}}),
            ErrorCode::ArgumentInvalid,
        ),
        (
            json!({"deviceId": "d", "body": "x", "bodyBase64": "AA=="}),
            ErrorCode::ArgumentInvalid,
        ),
        (
            json!({"deviceId": "d", "bodyBase64": "A"}),
            ErrorCode::ArgumentInvalid,
        ),
        (
            json!({"deviceId": "d", "properties": {"a": 1}}),
            ErrorCode::ArgumentInvalid,
        ),
        (
            json!({"deviceId": "d", "properties": {"iothub-ack": "full"}}),
            ErrorCode::ArgumentInvalid,
        ),
        (json!({"deviceId": "d", "ack": "all"}), ErrorCode::ArgumentInvalid),
        (
            json!({"deviceId": "d", "expiryTimeUtc": 5}),
            ErrorCode::ArgumentInvalid,
        ),
        (
            json!({"deviceId": "d", "expiryTimeUtc": "2020-01-01T00:00:00Z"}),
            ErrorCode::InvalidMessageExpiryTime,
        ),
        (
            json!({"deviceId": "d", "body": "x".repeat(65 * 1024)}),
            ErrorCode::MessageTooLarge,
        ),
        (json!({"deviceId": "nobody"}), ErrorCode::DeviceNotFound),
    ] {
        post(body).await.refused(code);
    }
    assert_eq!(hub.counters().c2d_sent, 3);
}

#[tokio::test]
async fn the_library_refuses_what_a_request_would_be_refused_for() {
    let (hub, _, _) = site().await;
    let bad = properties(&[(SystemProperty::Ack, "x")], &[]);
    let code = |target: &str, properties: MessageProperties| {
        let target = crate::support::c2d::target(target);
        hub.send_to_device(&target, properties, "").unwrap_err().code
    };
    assert_eq!(code("d", bad), ErrorCode::ArgumentInvalid);
    assert_eq!(
        code("nobody", MessageProperties::default()),
        ErrorCode::DeviceNotFound
    );
}
