//! Filling a hub from a text.

use emulator::{ImportError, Imported};
use hub_core::error::ErrorCode;
use serde_json::json;

use crate::support::rest::start;

#[tokio::test]
async fn lines_and_arrays_describe_identities_and_twins() {
    let (hub, rest) = start().await;
    let key = "A".repeat(43) + "=";
    let lines = [
        json!({"deviceId": "d", "status": "disabled", "statusReason": "spare", "tags": {"site": 1},
               "authentication": {"symmetricKey": {"primaryKey": key, "secondaryKey": key}},
               "properties": {"desired": {"x": 1}, "reported": {"y": 1}}}),
        json!({"deviceId": "d", "moduleId": "m", "managedBy": "me", "tags": {"in": "d"}}),
        json!({"id": "edge", "capabilities": {"iotEdge": true}}),
    ]
    .map(|entry| entry.to_string())
    .join("\r\n\n");
    assert_eq!(
        hub.import(&lines).unwrap(),
        Imported {
            created: 3,
            existing: 0
        }
    );

    let device = rest.get("/devices/d").await.ok();
    assert_eq!(device["statusReason"], "spare");
    assert_eq!(device["authentication"]["symmetricKey"]["primaryKey"], key);
    let twin = rest.get("/twins/d").await.ok();
    assert_eq!(twin["tags"], json!({"site": 1}));
    assert_eq!(twin["properties"]["desired"]["x"], 1);
    assert!(twin["properties"]["reported"].get("y").is_none());
    assert_eq!(rest.get("/devices/d/modules/m").await.ok()["managedBy"], "me");
    assert_eq!(
        rest.get("/twins/d/modules/m").await.ok()["tags"],
        json!({"in": "d"})
    );
    assert_eq!(
        rest.get("/devices/edge/modules")
            .await
            .ok()
            .as_array()
            .unwrap()
            .len(),
        2
    );

    let array = json!([{"deviceId": "e"}, {"deviceId": "d", "tags": {"site": 2}}]).to_string();
    assert_eq!(
        hub.import(&format!(" \n{array}\n")).unwrap(),
        Imported {
            created: 1,
            existing: 1
        }
    );
    assert_eq!(
        hub.import("").unwrap(),
        Imported {
            created: 0,
            existing: 0
        }
    );
    assert_eq!(
        hub.import("[]").unwrap(),
        Imported {
            created: 0,
            existing: 0
        }
    );
}

#[tokio::test]
async fn importing_again_changes_nothing() {
    let (hub, rest) = start().await;
    let lines = "{\"deviceId\":\"d\",\"tags\":{\"a\":1}}\n{\"deviceId\":\"d\",\"moduleId\":\"m\"}\n";
    hub.import(lines).unwrap();
    rest.patch("/twins/d", &json!({"tags": {"a": 2}})).await.ok();
    let state = async || {
        [
            rest.get("/devices").await.ok(),
            rest.get("/devices/d/modules").await.ok(),
            rest.get("/twins/d").await.ok(),
        ]
    };
    let before = state().await;
    assert_eq!(
        hub.import(lines).unwrap(),
        Imported {
            created: 0,
            existing: 2
        }
    );
    assert_eq!(state().await, before);
    // Neither does asking for a device that is there.
    let string = hub.create_device("d").unwrap();
    assert_eq!(hub.create_device("d").unwrap(), string);
    assert_eq!(state().await, before);
}

#[tokio::test]
async fn errors_name_the_line_or_the_identity() {
    let (hub, rest) = start().await;
    for (text, line) in [
        ("{\"deviceId\":\"a\"}\n\n{oops}\n", 3),
        ("[\n{\"deviceId\":\"a\"},\n{\"deviceId\":}\n]", 3),
        ("deviceId,status\n", 1),
        ("{\"deviceId\":\"a\"}\n{\"deviceId\":", 2),
        (&format!("{{\"deviceId\":\"a\"}}\n{}", "[".repeat(101)), 2),
        (&"[".repeat(101), 1),
    ] {
        let ImportError::Syntax { line: found, reason } = hub.import(text).unwrap_err() else {
            panic!("{text}");
        };
        assert_eq!(found, line, "{text}: {reason}");
    }
    assert_eq!(
        rest.get("/devices").await.ok(),
        json!([]),
        "nothing of a text that cannot be read"
    );

    for (text, number, id, code) in [
        (
            "{\"deviceId\":\"ok1\"}\n{\"deviceId\":\"a b\"}",
            2,
            "a b",
            ErrorCode::ArgumentInvalid,
        ),
        ("{\"name\":\"a\"}", 1, "no id", ErrorCode::ArgumentInvalid),
        ("[5]", 1, "no id", ErrorCode::ArgumentInvalid),
        (
            "{\"deviceId\":\"a\",\"moduleId\":\"m\"}",
            1,
            "a",
            ErrorCode::DeviceNotFound,
        ),
        (
            "{\"deviceId\":\"ok1\",\"moduleId\":\"a/b\"}",
            1,
            "ok1",
            ErrorCode::ArgumentInvalid,
        ),
        (
            "{\"deviceId\":\"ok1\",\"moduleId\":5}",
            1,
            "ok1",
            ErrorCode::ArgumentInvalid,
        ),
        (
            "{\"deviceId\":\"a\",\"tags\":{\"a.b\":1}}",
            1,
            "a",
            ErrorCode::ArgumentInvalid,
        ),
        (
            "{\"deviceId\":\"a\",\"status\":\"odd\"}",
            1,
            "a",
            ErrorCode::ArgumentInvalid,
        ),
        (
            "{\"deviceId\":\"a\",\"deviceScope\":\"x\"}",
            1,
            "a",
            ErrorCode::InvalidDeviceScope,
        ),
    ] {
        let ImportError::Identity {
            number: found,
            id: named,
            source,
        } = hub.import(text).unwrap_err()
        else {
            panic!("{text}");
        };
        assert_eq!((found, &*named, source.code), (number, id, code), "{text}");
    }
    // Those before a bad one stay, the bad ones leave nothing.
    assert_eq!(
        rest.query("SELECT deviceId FROM devices").await.ok(),
        json!([{"deviceId": "ok1"}])
    );
}
