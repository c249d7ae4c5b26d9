//! Many identities in one request.

use hub_core::error::ErrorCode;
use serde_json::{Value, json};

use crate::support::answering::{Answer, AnsweringDevice};
use crate::support::rest::start;

fn all_done() -> Value {
    json!({"isSuccessful": true, "errors": [], "warnings": []})
}

fn failed(device: &str, module: Option<&str>, code: &str, status: &str, operation: Option<&str>) -> Value {
    json!({
        "deviceId": device,
        "moduleId": module,
        "errorCode": code,
        "errorStatus": status,
        "operation": operation,
    })
}

#[tokio::test]
async fn every_mode_does_what_it_says() {
    let (hub, rest) = start().await;
    let created = rest
        .post(
            "/devices",
            &json!([
                {"id": "a", "importMode": "create", "status": "disabled", "statusReason": "new",
                 "tags": {"site": 1}, "properties": {"desired": {"x": 1}, "reported": {"y": 1}}},
                {"id": "b", "importMode": "Create"},
                {"id": "c", "importMode": "create"},
                {"id": "edge", "importMode": "create", "capabilities": {"iotEdge": true}},
            ]),
        )
        .await;
    assert_eq!(created.ok(), all_done());
    let twin = rest.get("/twins/a").await.ok();
    assert_eq!(twin["status"], "disabled");
    assert_eq!(twin["tags"], json!({"site": 1}));
    assert_eq!(twin["properties"]["desired"]["x"], 1);
    assert!(twin["properties"]["reported"].get("y").is_none());
    assert_eq!(
        rest.get("/devices/edge/modules")
            .await
            .ok()
            .as_array()
            .unwrap()
            .len(),
        2
    );

    let (a, b) = (
        rest.get("/devices/a").await.ok(),
        rest.get("/devices/b").await.ok(),
    );
    let mut device = AnsweringDevice::connect(&hub, "b", Answer::Nothing).await;
    let mixed = rest
        .post(
            "/devices",
            &json!([
                // An existing twin is changed by the twin modes only.
                {"id": "a", "importMode": "update", "status": "enabled", "tags": {"site": 2}},
                {"id": "b", "importMode": "updateTwin", "tags": {"t": 1}, "properties": {"desired": {"z": 2}}},
                {"id": "c", "importMode": "delete"},
                {"id": "m", "importMode": "create", "moduleId": null},
            ]),
        )
        .await;
    assert_eq!(mixed.ok(), all_done());
    let twin = rest.get("/twins/a").await.ok();
    assert_eq!(twin["status"], "enabled");
    assert_eq!(twin["tags"], json!({"site": 1}));
    assert_ne!(rest.get("/devices/a").await.ok()["etag"], a["etag"]);
    assert_eq!(rest.get("/devices/b").await.ok()["etag"], b["etag"]);
    let seen = device
        .saw("the notification", |seen| !seen.desired.is_empty())
        .await;
    assert_eq!(seen.desired, [json!({"z": 2, "$version": 2})]);
    rest.get("/devices/c").await.refused(ErrorCode::DeviceNotFound);

    let (a, twin) = (rest.get("/devices/a").await.ok(), rest.get("/twins/b").await.ok());
    let edge = rest.get("/devices/edge").await.ok();
    let matching = rest
        .post(
            "/devices",
            &json!([
                {"id": "a", "importMode": "updateIfMatchETag", "eTag": a["etag"], "status": "disabled"},
                {"id": "b", "importMode": "updateTwinIfMatchETag", "twinETag": twin["etag"], "tags": {"t": null}},
                {"id": "edge", "importMode": "deleteIfMatchETag", "eTag": edge["etag"]},
            ]),
        )
        .await;
    assert_eq!(matching.ok(), all_done());
    assert_eq!(rest.get("/devices/a").await.ok()["status"], "disabled");
    assert_eq!(rest.get("/twins/b").await.ok()["tags"], json!({}));
    rest.get("/devices/edge").await.refused(ErrorCode::DeviceNotFound);
}

#[tokio::test]
async fn modules_are_entries_too() {
    let (_hub, rest) = start().await;
    rest.create("d").await;
    let created =
        json!([{"id": "d", "moduleId": "m", "importMode": "create", "managedBy": "me", "tags": {"a": 1}}]);
    assert_eq!(rest.post("/devices", &created).await.ok(), all_done());
    assert_eq!(rest.get("/devices/d/modules/m").await.ok()["managedBy"], "me");
    assert_eq!(rest.get("/twins/d/modules/m").await.ok()["tags"], json!({"a": 1}));
    let patched = json!([{"id": "d", "moduleId": "m", "importMode": "updateTwin", "tags": {"b": 2}}]);
    assert_eq!(rest.post("/devices", &patched).await.ok(), all_done());
    assert_eq!(
        rest.get("/twins/d/modules/m").await.ok()["tags"],
        json!({"a": 1, "b": 2})
    );
    assert_eq!(rest.get("/twins/d").await.ok()["tags"], json!({}));
    let removed = json!([{"id": "d", "moduleId": "m", "importMode": "delete"}]);
    assert_eq!(rest.post("/devices", &removed).await.ok(), all_done());
    assert_eq!(rest.get("/devices/d/modules").await.ok(), json!([]));
    rest.get("/devices/d").await.ok();
}

/// The answer is the same object with status 400; entries that are good stay done.
#[tokio::test]
async fn entries_fail_one_by_one() {
    let (_hub, rest) = start().await;
    rest.create("there").await;
    let reply = rest
        .post(
            "/devices",
            &json!([
                {"id": "good", "importMode": "create"},
                {"id": "there", "importMode": "create"},
                {"id": "absent", "importMode": "update"},
                {"id": "absent2", "importMode": "delete"},
                {"id": "absent3", "importMode": "updateTwin", "tags": {}},
                {"id": "absent4", "moduleId": "m", "importMode": "create"},
                {"id": "bad id", "importMode": "create"},
                {"id": "mode", "importMode": "createOrUpdate"},
                {"id": "none"},
                {"id": "deep", "importMode": "create", "tags": {"a.b": 1}},
                {"id": "scope", "importMode": "create", "deviceScope": "nonsense"},
                {"id": "key", "importMode": "create", "authentication": {"symmetricKey": {"primaryKey": "x"}}},
                {"id": "last", "importMode": "create"},
            ]),
        )
        .await;
    assert_eq!(reply.status, 400);
    assert_eq!(reply.header("iothub-errorcode"), None);
    let modes = "importMode must be one of create, update, updateIfMatchETag, delete, deleteIfMatchETag, \
                 updateTwin, updateTwinIfMatchETag";
    let invalid = "ArgumentInvalid";
    assert_eq!(
        reply.json(),
        json!({
            "isSuccessful": false,
            "errors": [
                failed("there", None, "DeviceAlreadyExists",
                       "A device with ID 'there' is already registered.", Some("create")),
                failed("absent", None, "DeviceNotFound", "absent", Some("update")),
                failed("absent2", None, "DeviceNotFound", "absent2", Some("delete")),
                failed("absent3", None, "DeviceNotFound", "absent3", Some("updateTwin")),
                failed("absent4", Some("m"), "DeviceNotFound", "absent4", Some("create")),
                failed("bad id", None, invalid,
                       "the id contains the character ' ', which is not allowed", Some("create")),
                failed("mode", None, invalid, modes, Some("createOrUpdate")),
                failed("none", None, "ArgumentNull", "importMode is required", None),
                failed("deep", None, invalid,
                       "property name of tags.a.b contains an invalid character", Some("create")),
                failed("scope", None, "InvalidDeviceScope",
                       "no Edge device has the scope \"nonsense\"", Some("create")),
                failed("key", None, invalid,
                       "either both symmetric keys or none must be given", Some("create")),
            ],
            "warnings": [],
        })
    );
    let rows = rest.query("SELECT deviceId FROM devices").await.ok();
    assert_eq!(
        rows,
        json!([{"deviceId": "good"}, {"deviceId": "last"}, {"deviceId": "there"}])
    );
}

#[tokio::test]
async fn stale_etags_fail_their_entries() {
    let (_hub, rest) = start().await;
    for id in ["a", "b", "c", "d"] {
        rest.create(id).await;
    }
    let reply = rest
        .post(
            "/devices",
            &json!([
                {"id": "a", "importMode": "updateIfMatchETag", "eTag": "stale", "status": "disabled"},
                {"id": "b", "importMode": "deleteIfMatchETag", "eTag": "stale"},
                {"id": "c", "importMode": "updateTwinIfMatchETag", "twinETag": "stale", "tags": {"a": 1}},
                {"id": "d", "importMode": "deleteIfMatchETag"},
            ]),
        )
        .await;
    assert_eq!(reply.status, 400);
    let errors = reply.json()["errors"].clone();
    let codes: Vec<&Value> = errors
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["errorCode"])
        .collect();
    assert_eq!(codes, ["PreconditionFailed"; 4]);
    let rows = rest
        .query("SELECT deviceId FROM devices WHERE status = 'enabled'")
        .await
        .ok();
    assert_eq!(rows.as_array().unwrap().len(), 4);
    assert_eq!(rest.get("/twins/c").await.ok()["version"], 2);
}

#[tokio::test]
async fn requests_that_are_wrong_as_a_whole_do_nothing() {
    let (_hub, rest) = start().await;
    let entries = |n: usize| -> Value {
        (0..n)
            .map(|n| json!({"id": format!("d{n}"), "importMode": "create"}))
            .collect()
    };
    let text = rest
        .post("/devices", &entries(101))
        .await
        .refused(ErrorCode::TooManyDevices);
    assert_eq!(
        text,
        "the request has 101 devices, which exceeds the limit of 100"
    );
    for (body, code, text) in [
        (
            json!([{"id": "a", "importMode": "create"}, {"id": "b", "importMode": "create"}, {"id": "a", "importMode": "delete"}]),
            ErrorCode::DeviceDefinedMultipleTimes,
            "DeviceDefinedMultipleTimes, device ID a",
        ),
        (
            json!([{"id": "a", "moduleId": "m", "importMode": "create"}, {"id": "a", "moduleId": "n", "importMode": "create"}]),
            ErrorCode::DeviceDefinedMultipleTimes,
            "DeviceDefinedMultipleTimes, device ID a",
        ),
        (
            json!([]),
            ErrorCode::ArgumentInvalid,
            "the array of devices must not be empty",
        ),
        (
            json!({"devices": []}),
            ErrorCode::ArgumentInvalid,
            "the body must be a JSON array of devices",
        ),
        (
            json!(["a"]),
            ErrorCode::ArgumentInvalid,
            "each device must be a JSON object",
        ),
        (
            json!([{"id": "a", "importMode": "create"}, {"deviceId": "b"}]),
            ErrorCode::ArgumentInvalid,
            "each device must have an id",
        ),
    ] {
        assert_eq!(rest.post("/devices", &body).await.refused(code), text, "{body}");
    }
    assert_eq!(rest.get("/devices").await.ok(), json!([]));
    assert_eq!(rest.post("/devices", &entries(100)).await.ok(), all_done());
    assert_eq!(rest.get("/devices").await.ok().as_array().unwrap().len(), 100);
}
