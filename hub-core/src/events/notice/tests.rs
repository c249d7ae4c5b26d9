use super::*;
use crate::ids::{DeviceId, ModuleId};
use crate::twin::{ReportedPatch, TwinPatch};
use serde_json::{Value, json};

const AT: &str = "2026-01-02T03:04:05.1234567Z";
const BORN: &str = "2026-01-01T00:00:00Z";

fn time(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn device() -> Target {
    Target::device(DeviceId::parse("d").unwrap())
}

fn notice(target: &Target) -> Notice<'_> {
    Notice {
        hub_name: "hub",
        target,
        at: time(AT),
        correlation_id: "c-1",
    }
}

fn body(notification: &Notification) -> Value {
    serde_json::from_slice(&notification.body).unwrap()
}

fn check(notification: &Notification, source: Source, schema: &str, operation: &str) {
    assert_eq!(notification.source, source);
    let properties = &notification.properties;
    let system: Vec<_> = properties.system.iter().map(|(k, v)| (*k, v.as_str())).collect();
    assert_eq!(
        system,
        [
            (SystemProperty::CorrelationId, "c-1"),
            (SystemProperty::UserId, "hub"),
            (SystemProperty::ContentType, "application/json"),
            (SystemProperty::ContentEncoding, "utf-8"),
        ]
    );
    assert_eq!(
        json!(properties.application),
        json!({
            "hubName": "hub",
            "deviceId": "d",
            "opType": operation,
            "operationTimestamp": AT,
            "iothub-message-schema": schema,
        })
    );
}

#[test]
fn a_merge_shows_what_it_names() {
    let mut twin = Twin::new(time(BORN));
    let first =
        json!({"tags": {"a": 1, "b": {"c": 2}}, "properties": {"desired": {"x": {"y": 1, "z": 2}, "k": 1}}});
    twin.patch(&TwinPatch::from_json(&first).unwrap(), time(BORN))
        .unwrap();
    let patch =
        json!({"tags": {"a": null}, "properties": {"desired": {"x": {"y": 5, "z": null}, "new": [1]}}});
    let patch = TwinPatch::from_json(&patch).unwrap();
    let change = TwinChange::of_merge(&patch, &twin);
    twin.patch(&patch, time(AT)).unwrap();
    let target = device();
    let event = notice(&target).twin_updated(change, &twin);
    check(&event, Source::TwinChange, "twinChangeNotification", "updateTwin");
    let stamp = json!({"$lastUpdated": AT, "$lastUpdatedVersion": 3});
    assert_eq!(
        body(&event),
        json!({
            "version": 4,
            "tags": {"a": null},
            "properties": {"desired": {
                "x": {"y": 5, "z": null},
                "new": [1],
                "$metadata": {
                    "$lastUpdated": AT,
                    "$lastUpdatedVersion": 3,
                    "x": {"$lastUpdated": AT, "$lastUpdatedVersion": 3, "y": stamp},
                    "new": stamp,
                },
                "$version": 3,
            }},
        })
    );

    // Emptying a section names everything that goes.
    let patch = TwinPatch::from_json(&json!({"properties": {"desired": null}})).unwrap();
    let change = TwinChange::of_merge(&patch, &twin);
    twin.patch(&patch, time(AT)).unwrap();
    assert_eq!(
        body(&notice(&target).twin_updated(change, &twin)),
        json!({
            "version": 5,
            "properties": {"desired": {
                "x": null, "new": null, "k": null,
                "$metadata": {"$lastUpdated": AT, "$lastUpdatedVersion": 4},
                "$version": 4,
            }},
        })
    );
}

#[test]
fn a_report_has_no_versions_in_its_metadata() {
    let mut twin = Twin::new(time(BORN));
    let patch = ReportedPatch::parse(br#"{"a": {"b": true}, "gone": null}"#).unwrap();
    let change = TwinChange::of_report(&patch);
    twin.patch_reported(&patch, None, time(AT)).unwrap();
    let target = device();
    let event = notice(&target).twin_updated(change, &twin);
    check(&event, Source::TwinChange, "twinChangeNotification", "updateTwin");
    assert_eq!(
        body(&event),
        json!({
            "version": 2,
            "properties": {"reported": {
                "a": {"b": true},
                "gone": null,
                "$metadata": {
                    "$lastUpdated": AT,
                    "a": {"$lastUpdated": AT, "b": {"$lastUpdated": AT}},
                },
                "$version": 2,
            }},
        })
    );
}

#[test]
fn a_replacement_shows_everything() {
    let mut twin = Twin::new(time(BORN));
    let twin_body = json!({"tags": {"a": 1}, "properties": {"desired": {"x": 1}}});
    twin.replace(&TwinPatch::from_json(&twin_body).unwrap(), time(AT))
        .unwrap();
    let target = Target {
        device: device().device,
        module: Some(ModuleId::parse("m").unwrap()),
    };
    let event = notice(&target).twin_replaced(&twin);
    assert_eq!(event.properties.application["opType"], "replaceTwin");
    assert_eq!(event.properties.application["moduleId"], "m");
    assert_eq!(
        body(&event),
        json!({
            "deviceId": "d",
            "moduleId": "m",
            "etag": "AAAAAAAAAAI=",
            "version": 3,
            "tags": {"a": 1},
            "properties": {
                "desired": {
                    "x": 1,
                    "$metadata": {
                        "$lastUpdated": AT,
                        "$lastUpdatedVersion": 2,
                        "x": {"$lastUpdated": AT, "$lastUpdatedVersion": 2},
                    },
                    "$version": 2,
                },
                "reported": {"$metadata": {"$lastUpdated": BORN}, "$version": 1},
            },
        })
    );
}

#[test]
fn an_identity_is_shown_with_its_twin() {
    let twin = Twin::new(time(BORN));
    let target = device();
    for (change, operation) in [
        (Lifecycle::Created, "createDeviceIdentity"),
        (Lifecycle::Deleted, "deleteDeviceIdentity"),
    ] {
        let event = notice(&target).lifecycle(change, &twin);
        check(
            &event,
            Source::DeviceLifecycle,
            "deviceLifecycleNotification",
            operation,
        );
        assert_eq!(
            body(&event),
            json!({
                "deviceId": "d",
                "etag": "AAAAAAAAAAE=",
                "version": 2,
                "properties": {
                    "desired": {"$metadata": {"$lastUpdated": BORN}, "$version": 1},
                    "reported": {"$metadata": {"$lastUpdated": BORN}, "$version": 1},
                },
            })
        );
    }
}

#[test]
fn connection_states_are_numbered_upwards() {
    let mut sequence = ConnectionSequence::default();
    let target = device();
    let event = notice(&target).connection(ConnectionChange::Connected, &sequence.next(time(AT)));
    check(
        &event,
        Source::DeviceConnectionState,
        "deviceConnectionStateNotification",
        "deviceConnected",
    );
    let gone = notice(&target).connection(ConnectionChange::Disconnected, &sequence.next(time(BORN)));
    assert_eq!(gone.properties.application["opType"], "deviceDisconnected");
    let numbers = [body(&event), body(&gone)].map(|body| body["sequenceNumber"].as_str().unwrap().to_owned());
    for number in &numbers {
        assert!(
            number.len() == 64 && number.bytes().all(|b| b.is_ascii_hexdigit()),
            "{number}"
        );
    }
    assert!(numbers[0] < numbers[1] && numbers[1] < sequence.next(time(AT)));
}
