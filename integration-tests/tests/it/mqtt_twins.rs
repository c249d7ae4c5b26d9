//! Twins on the device's side of the wire.

use std::time::Duration;

use hub_core::limits;
use mqtt_wire::publish_qos0;
use serde_json::{Value, json};

use crate::support::back_end::BackEnd;
use crate::support::device::{DESIRED_CHANGES, Delivery, Device, Identity, TWIN_RESPONSES, bytes_of};
use crate::support::start_hub;
use crate::support::transport::Transport;

const REPORTED: &str = "$iothub/twin/PATCH/properties/reported/";

/// Asks for the twin and gives it.
async fn get(device: &mut Device) -> Value {
    device.publish("$iothub/twin/GET/?$rid=get", "").await;
    let answer = device.expect_delivery().await;
    assert_eq!(answer.topic, "$iothub/twin/res/200/?$rid=get");
    answer.json()
}

/// Reports `body` under the request id `p` and gives the answer.
async fn report(device: &mut Device, parameters: &str, body: impl Into<bytes::Bytes>) -> Delivery {
    device
        .publish(&format!("{REPORTED}?$rid=p{parameters}"), body)
        .await;
    device.expect_delivery().await
}

#[tokio::test]
async fn a_device_reads_what_the_back_end_wants_and_what_it_reported() {
    let hub = start_hub().await;
    Identity::create(&hub, "d");
    let back_end = BackEnd::of(&hub);
    back_end
        .put_twin(
            "d",
            json!({"tags": {"secret": 1}, "properties": {"desired": {"a": {"b": 1}}}}),
        )
        .await;
    for transport in Transport::ALL {
        let mut device = Device::open(&hub, transport).await;
        device.connect(Identity::create(&hub, "d").connect_clean()).await;
        device.subscribe(&[TWIN_RESPONSES]).await;
        let twin = get(&mut device).await;
        assert_eq!(
            twin,
            json!({"desired": {"a": {"b": 1}, "$version": 2}, "reported": {"$version": 1}}),
            "{transport:?}"
        );
    }
    assert_eq!(hub.counters().device_twin_reads, 6);
}

#[tokio::test]
async fn request_ids_come_back_byte_for_byte() {
    let hub = start_hub().await;
    let mut device = Device::online(&hub, "d").await;
    device.subscribe(&[TWIN_RESPONSES]).await;
    let long = "x".repeat(1000);
    for rid in ["1", "0001", "8b0c-7f%20%zz+/?=$rid", "ü🌡", "%24rid", " ", &long] {
        device
            .publish(&format!("$iothub/twin/GET/?$rid={rid}"), " ")
            .await;
        let answer = device.expect_delivery().await;
        assert_eq!(answer.topic, format!("$iothub/twin/res/200/?$rid={rid}"));
        device.publish(&format!("{REPORTED}?$rid={rid}"), "[]").await;
        let answer = device.expect_delivery().await;
        assert_eq!(answer.topic, format!("$iothub/twin/res/400/?$rid={rid}"));
    }
    // The request id need not be the first parameter.
    device.publish("$iothub/twin/GET/?x=1&$rid=a&$rid=b", "").await;
    assert_eq!(
        device.expect_delivery().await.topic,
        "$iothub/twin/res/200/?$rid=a"
    );
}

#[tokio::test]
async fn a_twin_request_without_an_id_ends_the_connection() {
    let hub = start_hub().await;
    let identity = Identity::create(&hub, "d");
    for topic in [
        "$iothub/twin/GET/",
        "$iothub/twin/GET/?",
        "$iothub/twin/GET/?$rid=",
        "$iothub/twin/GET/?$rid",
        "$iothub/twin/GET",
        "$iothub/twin/get/?$rid=1",
        "$iothub/twin/PATCH/properties/reported/",
        "$iothub/twin/PATCH/properties/reported/?$version=1",
        "$iothub/twin/PATCH/properties/reported/?$rid=1&$version=x",
        "$iothub/twin/PATCH/properties/reported/?$rid=1&$version=-1",
        "$iothub/twin/PATCH/properties/?$rid=1",
        "$iothub/twin/res/200/?$rid=1",
    ] {
        let (mut device, _) = Device::connected(&hub, identity.connect()).await;
        device.publish(topic, "{}").await;
        device.expect_closed().await;
    }
    assert_eq!(hub.counters().protocol_violations, 12);
}

#[tokio::test]
async fn reports_are_merged_and_answered_with_their_version() {
    let hub = start_hub().await;
    let mut device = Device::online(&hub, "d").await;
    device.subscribe(&[TWIN_RESPONSES]).await;
    for (version, patch) in [
        (2, json!({"a": {"b": 1, "c": "x"}, "list": [1, 2]})),
        (3, json!({"a": {"c": null, "d": 2.5}, "list": [3]})),
        (4, json!({})),
        (5, json!({"$version": 99, "$metadata": {"x": 1}, "e": true})),
    ] {
        let answer = report(&mut device, "", patch.to_string()).await;
        assert_eq!(
            answer.topic,
            format!("$iothub/twin/res/204/?$rid=p&$version={version}")
        );
        assert_eq!(answer.payload, "");
    }
    let expected = json!({"a": {"b": 1, "d": 2.5}, "list": [3], "e": true, "$version": 5});
    assert_eq!(get(&mut device).await["reported"], expected);
    let twin = BackEnd::of(&hub).twin("d").await;
    assert_eq!(twin["properties"]["reported"]["a"], json!({"b": 1, "d": 2.5}));
    assert_eq!(twin["properties"]["reported"]["$version"], 5);
    assert_eq!(hub.counters().reported_updates, 4);
}

#[tokio::test]
async fn refused_reports_name_the_error_and_change_nothing() {
    let hub = start_hub().await;
    let mut device = Device::online(&hub, "d").await;
    device.subscribe(&[TWIN_RESPONSES]).await;
    report(&mut device, "", r#"{"kept": 1}"#).await;
    let deep = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
    for (body, status, code) in [
        (String::new(), 400, 400_004),
        ("{".into(), 400, 400_004),
        ("[]".into(), 400, 400_004),
        ("null".into(), 400, 400_004),
        ("{\"a\":1} {}".into(), 400, 400_004),
        (r#"{"a.b":1}"#.into(), 400, 400_004),
        (r#"{"$a":1}"#.into(), 400, 400_004),
        (r#"{"a b":1}"#.into(), 400, 400_004),
        (r#"{"a":[null]}"#.into(), 400, 400_004),
        (r#"{"a":4503599627370496}"#.into(), 400, 400_004),
        (json!({"a": "x".repeat(4097)}).to_string(), 400, 400_004),
        (deep(limits::TWIN_DEPTH + 2), 400, 400_004),
        (deep(10_000), 400, 400_004),
        (large_patch(9).to_string(), 413, 413_000),
    ] {
        let answer = report(&mut device, "", body).await;
        assert_eq!(answer.topic, format!("$iothub/twin/res/{status}/?$rid=p"));
        let error = answer.json();
        assert_eq!(error["errorCode"], code, "{error}");
        for member in ["message", "trackingId", "timestampUtc"] {
            assert!(!error[member].as_str().unwrap().is_empty(), "{error}");
        }
    }
    let not_utf8 = report(&mut device, "", &b"{\"a\":\"\xff\"}"[..]).await;
    assert_eq!(not_utf8.topic, "$iothub/twin/res/400/?$rid=p");
    assert_eq!(
        get(&mut device).await["reported"],
        json!({"kept": 1, "$version": 2})
    );
}

/// `members` strings of 4000 characters each; nine exceed a section.
fn large_patch(members: usize) -> Value {
    let member = |n| (format!("k{n}"), Value::from("x".repeat(4000)));
    Value::Object((0..members).map(member).collect())
}

#[tokio::test]
async fn a_report_may_be_meant_for_one_version_only() {
    let hub = start_hub().await;
    let mut device = Device::online(&hub, "d").await;
    device.subscribe(&[TWIN_RESPONSES]).await;
    let answer = report(&mut device, "&$version=1", r#"{"a":1}"#).await;
    assert_eq!(answer.topic, "$iothub/twin/res/204/?$rid=p&$version=2");
    for stale in [1, 3] {
        let answer = report(&mut device, &format!("&$version={stale}"), r#"{"a":2}"#).await;
        assert_eq!(answer.topic, "$iothub/twin/res/412/?$rid=p");
        assert_eq!(answer.json()["errorCode"], 412_001);
    }
    assert_eq!(get(&mut device).await["reported"], json!({"a": 1, "$version": 2}));
}

#[tokio::test]
async fn answers_are_dropped_without_a_subscription_but_requests_take_effect() {
    let hub = start_hub().await;
    let mut device = Device::online(&hub, "d").await;
    device.publish_acknowledged("$iothub/twin/GET/?$rid=1", "").await;
    device
        .publish_acknowledged(&format!("{REPORTED}?$rid=2"), r#"{"a":1}"#)
        .await;
    device
        .publish_acknowledged(&format!("{REPORTED}?$rid=3"), "x")
        .await;
    device.expect_silence().await;
    device.subscribe(&[TWIN_RESPONSES]).await;
    assert_eq!(get(&mut device).await["reported"], json!({"a": 1, "$version": 2}));
}

#[tokio::test]
async fn requests_in_one_burst_are_answered_one_by_one() {
    let hub = start_hub().await;
    let mut device = Device::online(&hub, "d").await;
    device.subscribe(&[TWIN_RESPONSES]).await;
    let report = |n| publish_qos0(format!("{REPORTED}?$rid={n}"), format!("{{\"n\":{n}}}").into());
    device.send_bytes(&bytes_of((0..200).map(report))).await;
    for n in 0..200 {
        let answer = device.expect_delivery().await;
        assert_eq!(
            answer.topic,
            format!("$iothub/twin/res/204/?$rid={n}&$version={}", n + 2)
        );
    }
    assert_eq!(get(&mut device).await["reported"]["n"], 199);
}

#[tokio::test]
async fn large_answers_to_one_burst_do_not_count_against_the_device() {
    let hub = start_hub().await;
    let mut device = Device::online(&hub, "d").await;
    device.subscribe(&[TWIN_RESPONSES]).await;
    report(&mut device, "", large_patch(8).to_string()).await;
    // Together twice as much as may wait for a device that does not read.
    let get = |n| publish_qos0(format!("$iothub/twin/GET/?$rid={n}"), bytes::Bytes::new());
    device.send_bytes(&bytes_of((0..64).map(get))).await;
    for n in 0..64 {
        let answer = device.expect_delivery().await;
        assert_eq!(answer.topic, format!("$iothub/twin/res/200/?$rid={n}"));
        assert!(answer.payload.len() > 32_000);
    }
    device.expect_silence().await;
}

#[tokio::test]
async fn a_burst_of_changes_arrives_whole_and_in_order() {
    let hub = start_hub().await;
    let mut device = Device::online(&hub, "d").await;
    let mut deaf = Device::online(&hub, "deaf").await;
    device.subscribe(&[DESIRED_CHANGES]).await;
    let back_end = BackEnd::of(&hub);
    let burst = async {
        let patch = |n| back_end.patch_desired("d", json!({"n": n, "gone": null}));
        let mut versions = futures_util::future::join_all((0..200).map(patch)).await;
        versions.sort_unstable();
        assert!(versions.into_iter().eq(2..202));
        back_end.patch_desired("deaf", json!({"n": 1})).await;
    };
    let listen = async {
        let mut seen = Vec::new();
        for version in 2..202 {
            let change = device.expect_delivery().await;
            let topic = format!("$iothub/twin/PATCH/properties/desired/?$version={version}");
            assert_eq!(change.topic, topic);
            let body = change.json();
            assert_eq!(
                (&body["$version"], &body["gone"]),
                (&json!(version), &json!(null))
            );
            assert_eq!(body.as_object().unwrap().len(), 3);
            seen.push(body["n"].as_u64().unwrap());
        }
        seen
    };
    let ((), mut seen) = tokio::join!(burst, listen);
    // The last one is what the twin says.
    let twin = back_end.twin("d").await;
    assert_eq!(twin["properties"]["desired"]["n"], json!(seen[199]));
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..200));
    device.expect_silence().await;
    deaf.expect_silence().await;
}

#[tokio::test]
async fn notifications_say_what_was_written() {
    let hub = start_hub().await;
    let mut device = Device::online(&hub, "d").await;
    device.subscribe(&[DESIRED_CHANGES, TWIN_RESPONSES]).await;
    let back_end = BackEnd::of(&hub);
    let nested = json!({"a": {"b": 1, "c": null}, "list": [1, {"x": "é"}]});
    back_end.patch_desired("d", nested).await;
    let change = device.expect_delivery().await;
    assert_eq!(
        change.json(),
        json!({"a": {"b": 1, "c": null}, "list": [1, {"x": "é"}], "$version": 2})
    );
    // An empty patch is a write like any other; one of tags alone is none.
    back_end.patch_desired("d", json!({})).await;
    assert_eq!(device.expect_delivery().await.json(), json!({"$version": 3}));
    back_end.patch_twin("d", json!({"tags": {"t": 0}})).await;
    back_end
        .put_twin(
            "d",
            json!({"tags": {"t": 1}, "properties": {"desired": {"z": 1, "n": null}}}),
        )
        .await;
    let change = device.expect_delivery().await;
    assert_eq!(change.topic, "$iothub/twin/PATCH/properties/desired/?$version=4");
    assert_eq!(change.json(), json!({"z": 1, "$version": 4}));
    // A device's own reports do not come back to it.
    let answer = report(&mut device, "", r#"{"z":1}"#).await;
    assert_eq!(answer.topic, "$iothub/twin/res/204/?$rid=p&$version=2");
    device.expect_silence().await;
    assert_eq!(get(&mut device).await["desired"], json!({"z": 1, "$version": 4}));
}

#[tokio::test]
async fn a_module_has_a_twin_of_its_own() {
    let hub = start_hub().await;
    let mut device = Device::online(&hub, "d").await;
    device.subscribe(&[DESIRED_CHANGES, TWIN_RESPONSES]).await;
    let identity = Identity::create_module(&hub, "d", "m");
    let (mut module, _) = Device::connected(&hub, identity.connect()).await;
    module.subscribe(&[DESIRED_CHANGES, TWIN_RESPONSES]).await;
    let back_end = BackEnd::of(&hub);
    back_end.patch_desired("d/modules/m", json!({"of": "m"})).await;
    back_end.patch_desired("d", json!({"of": "d"})).await;
    assert_eq!(
        module.expect_delivery().await.json(),
        json!({"of": "m", "$version": 2})
    );
    assert_eq!(
        device.expect_delivery().await.json(),
        json!({"of": "d", "$version": 2})
    );
    report(&mut module, "", r#"{"x":1}"#).await;
    assert_eq!(get(&mut module).await["reported"], json!({"x": 1, "$version": 2}));
    assert_eq!(get(&mut device).await["reported"], json!({"$version": 1}));
}

#[tokio::test]
async fn times_of_the_twin_follow_the_hubs_clock() {
    let hub = start_hub().await;
    let mut device = Device::online(&hub, "d").await;
    device.subscribe(&[TWIN_RESPONSES]).await;
    hub.advance_clock(Duration::from_secs(365 * 24 * 3600));
    let before = hub.now().to_string();
    report(&mut device, "", r#"{"x":1}"#).await;
    let twin = BackEnd::of(&hub).twin("d").await;
    for time in [
        &twin["properties"]["reported"]["$metadata"]["x"]["$lastUpdated"],
        &twin["lastActivityTime"],
    ] {
        let time = time.as_str().unwrap();
        assert!((&*before..=&*hub.now().to_string()).contains(&time), "{time}");
    }
}
