//! Twins from the service side: documents, merging, preconditions, limits,
//! and what connected devices are told.

use emulator::Hub;
use hub_core::error::ErrorCode;
use hub_core::limits;
use hub_core::topic::Filter;
use serde_json::{Map, Value, json};

use crate::support::answering::{Answer, AnsweringDevice};
use crate::support::rest::{Reply, Rest};
use crate::support::{start_hub, wait_for};

const NEVER: &str = "0001-01-01T00:00:00Z";

/// A hub with a device `d` that has a module `m`.
async fn start() -> (Hub, Rest) {
    let hub = start_hub().await;
    let rest = Rest::of(&hub);
    rest.create("d").await;
    rest.put("/devices/d/modules/m", &json!({})).await.ok();
    (hub, rest)
}

fn desired(properties: &Value) -> Value {
    json!({ "properties": { "desired": properties } })
}

/// The desired properties of a twin without `$metadata`.
fn plain(twin: &Value, section: &str) -> Value {
    let mut properties = twin["properties"][section].clone();
    let members = properties.as_object_mut().unwrap();
    members.remove("$metadata");
    properties
}

async fn with_if_match(rest: &Rest, method: &str, path: &str, if_match: &str, body: &Value) -> Reply {
    rest.call(method, path).if_match(if_match).json(body).send().await
}

#[tokio::test]
async fn a_fresh_twin_reads_as_the_service_prints_it() {
    let (_hub, rest) = start().await;
    let identity = rest.get("/devices/d").await.ok();
    let reply = rest.get("/twins/d").await;
    assert_eq!(reply.header("etag"), Some("\"AAAAAAAAAAE=\""));
    let twin = reply.ok();
    let section = |name: &str| {
        let created = &twin["properties"][name]["$metadata"]["$lastUpdated"];
        let text = created.as_str().unwrap();
        // Seven fractional digits and the zone.
        assert_eq!(text.len(), "2026-01-02T03:04:05.1234567Z".len(), "{text}");
        json!({"$metadata": {"$lastUpdated": created}, "$version": 1})
    };
    let expected = json!({
        "deviceId": "d",
        "etag": "AAAAAAAAAAE=",
        "deviceEtag": identity["etag"],
        "status": "enabled",
        "statusReason": null,
        "statusUpdateTime": NEVER,
        "connectionState": "Disconnected",
        "lastActivityTime": NEVER,
        "cloudToDeviceMessageCount": 0,
        "authenticationType": "sas",
        "x509Thumbprint": {"primaryThumbprint": null, "secondaryThumbprint": null},
        "modelId": "",
        "version": 2,
        "tags": {},
        "properties": {"desired": section("desired"), "reported": section("reported")},
        "capabilities": {"iotEdge": false},
    });
    assert_eq!(twin, expected);
    let module = rest.get("/twins/d/modules/m").await.ok();
    assert_eq!(module["moduleId"], "m");
    assert_eq!(module["deviceId"], "d");
    let identity = rest.get("/devices/d/modules/m").await.ok();
    assert_eq!(module["deviceEtag"], identity["etag"]);
}

#[tokio::test]
async fn patches_merge() {
    let (_hub, rest) = start().await;
    let steps = [
        (
            json!({"a": {"b": 1, "c": [1, 2]}, "s": "x"}),
            json!({"a": {"b": 1, "c": [1, 2]}, "s": "x"}),
        ),
        // Arrays are replaced as a whole, null removes, a missing key is no matter.
        (
            json!({"a": {"c": [3], "b": null, "z": null}}),
            json!({"a": {"c": [3]}, "s": "x"}),
        ),
        // The last key leaves an empty object; a missing parent is made.
        (
            json!({"a": {"c": null}, "n": {"m": {"k": null}}}),
            json!({"a": {}, "n": {"m": {}}, "s": "x"}),
        ),
        // A primitive replaces an object and the other way round.
        (
            json!({"n": 5, "s": {"t": true}}),
            json!({"a": {}, "n": 5, "s": {"t": true}}),
        ),
        (json!({}), json!({"a": {}, "n": 5, "s": {"t": true}})),
        (json!({"a": null, "n": null, "s": null}), json!({})),
        // Text that looks like a time, large integers and fractions stay what they are.
        (
            json!({"t": "2020-01-01T00:00:00+05:00", "i": 4_503_599_627_370_495_i64, "f": 1.5, "e": {}}),
            json!({"t": "2020-01-01T00:00:00+05:00", "i": 4_503_599_627_370_495_i64, "f": 1.5, "e": {}}),
        ),
    ];
    for (number, (patch, expected)) in steps.iter().enumerate() {
        let body = json!({"tags": patch, "properties": {"desired": patch}});
        let reply = rest.patch("/twins/d", &body).await;
        let twin = reply.ok();
        assert_eq!(twin["tags"], *expected, "step {number}");
        let mut properties = expected.clone();
        properties["$version"] = (number + 2).into();
        assert_eq!(plain(&twin, "desired"), properties, "step {number}");
        // One write counts once, whatever it changes.
        assert_eq!(twin["version"], number + 3);
        assert_eq!(
            reply.header("etag"),
            Some(&*format!("\"{}\"", twin["etag"].as_str().unwrap()))
        );
        assert_eq!(rest.get("/twins/d").await.ok(), twin);
    }
}

#[tokio::test]
async fn sections_are_versioned_apart() {
    let (_hub, rest) = start().await;
    let twin = rest.patch("/twins/d", &json!({"tags": {"a": 1}})).await.ok();
    assert_eq!(
        (&twin["version"], &twin["properties"]["desired"]["$version"]),
        (&json!(3), &json!(1))
    );
    let twin = rest.patch("/twins/d", &desired(&json!({"a": 1}))).await.ok();
    assert_eq!(
        (&twin["version"], &twin["properties"]["desired"]["$version"]),
        (&json!(4), &json!(2))
    );
    let etag = twin["etag"].clone();
    // A service can neither write what a device reports nor anything else.
    let body = json!({
        "properties": {"reported": {"x": 1}}, "deviceId": "other", "etag": "mine", "version": 99,
        "status": "disabled", "connectionState": "Connected",
    });
    let twin = rest.patch("/twins/d", &body).await.ok();
    assert_eq!(twin["etag"], etag, "a patch without a section is no write");
    assert_eq!(plain(&twin, "reported"), json!({"$version": 1}));
    assert_eq!(twin["status"], "enabled");
    // What was read can be sent back.
    let twin = rest.patch("/twins/d", &twin).await.ok();
    assert_eq!(plain(&twin, "desired"), json!({"a": 1, "$version": 3}));
    assert_eq!(twin["version"], 5);
}

#[tokio::test]
async fn metadata_mirrors_the_desired_properties() {
    let (hub, rest) = start().await;
    rest.patch(
        "/twins/d",
        &desired(&json!({"a": {"b": 1, "c": [{"x": 1}]}, "k": 1})),
    )
    .await
    .ok();
    hub.advance_clock(std::time::Duration::from_secs(60));
    let twin = rest
        .patch("/twins/d", &desired(&json!({"a": {"b": 2}, "k": null})))
        .await
        .ok();
    let metadata = &twin["properties"]["desired"]["$metadata"];
    assert_eq!(metadata["$lastUpdatedVersion"], 3);
    assert_eq!(metadata["a"]["$lastUpdatedVersion"], 3);
    assert_eq!(metadata["a"]["b"]["$lastUpdatedVersion"], 3);
    // Arrays are leaves; what was not written keeps its time.
    assert_eq!(metadata["a"]["c"]["$lastUpdatedVersion"], 2);
    assert_eq!(metadata["a"]["c"].as_object().unwrap().len(), 2);
    assert!(metadata.get("k").is_none());
    let time = |path: &Value| path["$lastUpdated"].as_str().unwrap().to_owned();
    assert!(time(&metadata["a"]["b"]) > time(&metadata["a"]["c"]));
    assert_eq!(time(metadata), time(&metadata["a"]["b"]));
}

#[tokio::test]
async fn put_replaces_tags_and_desired_properties() {
    let (hub, rest) = start().await;
    let device = AnsweringDevice::connect(&hub, "d", Answer::Nothing).await;
    device.publish(
        "$iothub/twin/PATCH/properties/reported/?$rid=1",
        br#"{"up":true}"#,
    );
    wait_for("the reported property", async || {
        let twin = rest.get("/twins/d").await.ok();
        if twin["properties"]["reported"]["up"] == true {
            Ok(())
        } else {
            Err(twin)
        }
    })
    .await;
    let body = json!({"tags": {"a": 1, "n": null}, "properties": {"desired": {"x": {"y": 1, "z": null}}}});
    let twin = rest.put("/twins/d", &body).await.ok();
    assert_eq!(twin["tags"], json!({"a": 1}));
    assert_eq!(plain(&twin, "desired"), json!({"x": {"y": 1}, "$version": 2}));
    assert_eq!(plain(&twin, "reported"), json!({"up": true, "$version": 2}));
    // A section that is left out is emptied.
    let twin = rest.put("/twins/d", &json!({"tags": {"b": 2}})).await.ok();
    assert_eq!(twin["tags"], json!({"b": 2}));
    assert_eq!(plain(&twin, "desired"), json!({"$version": 3}));
    assert_eq!(plain(&twin, "reported"), json!({"up": true, "$version": 2}));
    let twin = rest.put("/twins/d", &json!({})).await.ok();
    assert_eq!(twin["tags"], json!({}));
    assert_eq!(twin["version"], 5);
}

#[tokio::test]
async fn if_match_guards_patch_and_put() {
    let (_hub, rest) = start().await;
    let body = json!({"tags": {"a": 1}});
    for path in ["/twins/d", "/twins/d/modules/m"] {
        let first = rest.get(path).await.ok()["etag"].as_str().unwrap().to_owned();
        for method in ["PATCH", "PUT"] {
            let etag = rest.get(path).await.ok()["etag"].as_str().unwrap().to_owned();
            let quoted = format!("\"{etag}\"");
            let next = with_if_match(&rest, method, path, &quoted, &body).await.ok();
            assert_ne!(next["etag"], etag);
            let bare = next["etag"].as_str().unwrap();
            with_if_match(&rest, method, path, bare, &body).await.ok();
            for any in ["*", "\"*\""] {
                with_if_match(&rest, method, path, any, &body).await.ok();
            }
            let before = rest.get(path).await.ok();
            // A twin's ETag is another one than its identity's.
            let of_identity = before["deviceEtag"].as_str().unwrap();
            for stale in [&first, &quoted, &etag, of_identity, "nonsense"] {
                let text = with_if_match(&rest, method, path, stale, &json!({"tags": {"b": 2}}))
                    .await
                    .refused(ErrorCode::PreconditionFailed);
                assert_eq!(text, "PreconditionFailed, ETag may be invalid.");
            }
            assert_eq!(rest.get(path).await.ok(), before);
        }
    }
}

#[tokio::test]
async fn unknown_twins_are_not_found() {
    let (_hub, rest) = start().await;
    for (path, text) in [
        ("/twins/x", "x"),
        ("/twins/x/modules/m", "x"),
        ("/twins/d/modules/x", "d/x"),
    ] {
        for method in ["GET", "PATCH", "PUT"] {
            // Before the body is looked at, and before the precondition.
            let call = rest.call(method, path).if_match("\"nonsense\"").json(&json!([]));
            assert_eq!(
                call.send().await.refused(ErrorCode::DeviceNotFound),
                text,
                "{method} {path}"
            );
        }
    }
}

fn nested(levels: usize) -> Value {
    (0..levels).fold(json!(1), |inner, _| json!({ "o": inner }))
}

fn numbers(count: usize) -> Value {
    // Each has four characters of name and counts eight for its value.
    let members: Map<String, Value> = (0..count).map(|n| (format!("{n:04}"), json!(n))).collect();
    members.into()
}

/// What no twin takes, with the words of the refusal.
fn illegal() -> Vec<(Value, String)> {
    let name = |shown: &str| format!("property name of §.{shown} contains an invalid character");
    vec![
        (json!({"a.b": 1}), name("a.b")),
        (json!({"$a": 1}), name("$a")),
        (json!({"a b": 1}), name("a b")),
        (json!({"a#": 1}), name("a#")),
        (json!({"x": {"a\u{7}": 1}}), name("x.a\\u{7}")),
        (json!({"x": {"$version": 1}}), name("x.$version")),
        (json!({"a": [1, null]}), "§.a: arrays cannot contain null".into()),
        (
            json!({"a": [{"b": null}]}),
            "§.a.b: arrays cannot contain null".into(),
        ),
        (
            json!({"x": {"a": "ü".repeat(2049)}}),
            "value of §.x.a exceeds maximum length of 4096".into(),
        ),
        (
            json!({"k".repeat(1025): 1}),
            format!(
                "property name of §.{} exceeds maximum length of 1024",
                "k".repeat(64)
            ),
        ),
        (
            json!({"a": 4_503_599_627_370_496_i64}),
            "value of §.a is out of bounds: integers must be within [-4503599627370496; 4503599627370495]"
                .into(),
        ),
        (
            nested(12),
            format!("nested depth of §{} exceeds 10", ".o".repeat(11)),
        ),
    ]
}

#[tokio::test]
async fn every_limit_is_kept_and_nothing_is_half_applied() {
    let (hub, rest) = start().await;
    let before = rest
        .patch(
            "/twins/d",
            &json!({"tags": {"old": 1}, "properties": {"desired": {"old": 1}}}),
        )
        .await
        .ok();
    let mut device = AnsweringDevice::connect(&hub, "d", Answer::Nothing).await;
    for method in ["PATCH", "PUT"] {
        for (bad, text) in illegal() {
            for (section, body) in [
                (
                    "tags",
                    json!({"tags": bad, "properties": {"desired": {"new": 1}}}),
                ),
                (
                    "properties.desired",
                    json!({"tags": {"new": 1}, "properties": {"desired": bad}}),
                ),
            ] {
                let reply = rest.call(method, "/twins/d").json(&body).send().await;
                let expected = text.replace('§', section);
                assert_eq!(
                    reply.refused(ErrorCode::ArgumentInvalid),
                    expected,
                    "{method} {section}"
                );
            }
        }
        for (body, text) in [
            (json!([]), "the twin must be a JSON object"),
            (json!({"tags": [1]}), "tags must be a JSON object"),
            (
                json!({"tags": {"new": 1}, "properties": 5}),
                "properties must be a JSON object",
            ),
            (
                json!({"tags": {"new": 1}, "properties": {"desired": "x"}}),
                "properties.desired must be a JSON object",
            ),
            (
                json!({"tags": numbers(683), "properties": {"desired": {"new": 1}}}),
                "the size of tags would be 8196, which exceeds the limit of 8192",
            ),
            (
                json!({"tags": {"new": 1}, "properties": {"desired": numbers(2731)}}),
                "the size of properties.desired would be 32772, which exceeds the limit of 32768",
            ),
        ] {
            let reply = rest.call(method, "/twins/d").json(&body).send().await;
            assert_eq!(reply.refused(ErrorCode::ArgumentInvalid), text, "{method}");
        }
    }
    assert_eq!(
        plain(&rest.get("/twins/d").await.ok(), "desired"),
        plain(&before, "desired")
    );
    let after = rest.get("/twins/d").await.ok();
    for member in ["tags", "etag", "version"] {
        assert_eq!(after[member], before[member]);
    }
    // The first notification is that of the next write.
    rest.patch("/twins/d", &desired(&json!({"last": 1}))).await.ok();
    let seen = device
        .saw("the notification", |seen| !seen.desired.is_empty())
        .await;
    assert_eq!(seen.desired, [json!({"last": 1, "$version": 3})]);
}

#[tokio::test]
async fn the_largest_legal_values_are_taken() {
    let (_hub, rest) = start().await;
    for legal in [
        json!({"a": "ü".repeat(2048)}),
        json!({"k".repeat(1024): 1}),
        json!({"a": -4_503_599_627_370_496_i64, "b": 4_503_599_627_370_495_i64, "c": 1e300}),
        // Ten objects, and a property in the last.
        nested(11),
        json!({"a": [[[[1, "x", {"b": [true]}]]]], "e": [], "ключ": "значение"}),
    ] {
        let body = json!({"tags": legal, "properties": {"desired": legal}});
        let twin = rest.put("/twins/d", &body).await.ok();
        assert_eq!(twin["tags"], legal);
    }
    // 682 of twelve characters each and one of eight are exactly 8 KB.
    let mut full = numbers(682);
    full["x"] = json!("1234567");
    let twin = rest.put("/twins/d", &json!({"tags": full})).await.ok();
    assert_eq!(twin["tags"], full);
    let text = rest
        .patch("/twins/d", &json!({"tags": {"x": "12345678"}}))
        .await
        .refused(ErrorCode::ArgumentInvalid);
    assert_eq!(
        text,
        "the size of tags would be 8193, which exceeds the limit of 8192"
    );
    // What does not grow is legal, and so is making room in the same request.
    rest.patch("/twins/d", &json!({"tags": {"x": "7654321"}}))
        .await
        .ok();
    rest.patch(
        "/twins/d",
        &json!({"tags": {"0000": null, "x": "1234567890123456789"}}),
    )
    .await
    .ok();
    assert_eq!(limits::TWIN_TAGS_SIZE, 8192);
}

#[tokio::test]
async fn a_connected_device_is_told_of_every_desired_write() {
    let (hub, rest) = start().await;
    let mut device = AnsweringDevice::connect(&hub, "d", Answer::Nothing).await;
    let mut module = AnsweringDevice::connect(&hub, "d/m", Answer::Nothing).await;
    rest.patch("/twins/d", &json!({"tags": {"only": "tags"}}))
        .await
        .ok();
    rest.patch("/twins/d", &desired(&json!({"a": {"b": 1, "c": null}})))
        .await
        .ok();
    rest.patch("/twins/d", &desired(&json!({}))).await.ok();
    rest.patch("/twins/d", &desired(&json!({"a": null}))).await.ok();
    // After a PUT the whole section is told.
    rest.put("/twins/d", &desired(&json!({"x": 1, "y": null})))
        .await
        .ok();
    rest.put("/twins/d", &json!({"tags": {}})).await.ok();
    rest.patch("/twins/d/modules/m", &desired(&json!({"for": "module"})))
        .await
        .ok();
    let seen = device
        .saw("five notifications", |seen| seen.desired.len() >= 5)
        .await;
    assert_eq!(
        seen.desired,
        [
            json!({"a": {"b": 1, "c": null}, "$version": 2}),
            json!({"$version": 3}),
            json!({"a": null, "$version": 4}),
            json!({"x": 1, "$version": 5}),
            json!({"$version": 6}),
        ]
    );
    let seen = module
        .saw("a notification", |seen| !seen.desired.is_empty())
        .await;
    assert_eq!(seen.desired, [json!({"for": "module", "$version": 2})]);
}

#[tokio::test]
async fn who_does_not_listen_is_not_told_later() {
    let (hub, rest) = start().await;
    rest.patch("/twins/d", &desired(&json!({"missed": "offline"})))
        .await
        .ok();
    let filters = [Filter::Methods];
    let mut device = AnsweringDevice::try_connect(&hub, "d", Answer::Nothing, &filters)
        .await
        .unwrap();
    rest.patch("/twins/d", &desired(&json!({"missed": "not subscribed"})))
        .await
        .ok();
    device.subscribe(Filter::DesiredChanges, "d");
    wait_for("the subscription", async || {
        rest.patch("/twins/d", &desired(&json!({"heard": 1}))).await.ok();
        if device.seen().desired.is_empty() {
            Err("nothing heard")
        } else {
            Ok(())
        }
    })
    .await;
    let seen = device
        .saw("a notification", |seen| !seen.desired.is_empty())
        .await;
    assert!(
        seen.desired.iter().all(|change| change.get("missed").is_none()),
        "{seen:?}"
    );
}

#[tokio::test]
async fn twins_of_modules_stand_alone() {
    let (_hub, rest) = start().await;
    rest.patch("/twins/d", &json!({"tags": {"of": "device"}}))
        .await
        .ok();
    let module = rest
        .patch("/twins/d/modules/m", &json!({"tags": {"of": "module"}}))
        .await
        .ok();
    assert_eq!(module["tags"], json!({"of": "module"}));
    assert_eq!(module["version"], 3);
    assert_eq!(rest.get("/twins/d").await.ok()["tags"], json!({"of": "device"}));
    rest.delete("/devices/d/modules/m").await.no_content();
    rest.put("/devices/d/modules/m", &json!({})).await.ok();
    assert_eq!(rest.get("/twins/d/modules/m").await.ok()["tags"], json!({}));
}

/// Writes of many callers at once are counted one by one.
#[tokio::test]
async fn concurrent_writes_are_not_lost() {
    let (_hub, rest) = start().await;
    let writes: Vec<_> = (0..20)
        .map(|n| {
            let rest = rest.clone();
            tokio::spawn(async move {
                rest.patch("/twins/d", &json!({ "tags": { format!("t{n}"): n } }))
                    .await
                    .ok()["version"]
                    .clone()
            })
        })
        .collect();
    let mut versions = Vec::new();
    for write in writes {
        versions.push(write.await.unwrap().as_u64().unwrap());
    }
    versions.sort_unstable();
    assert_eq!(versions, (3..23).collect::<Vec<u64>>());
    let twin = rest.get("/twins/d").await.ok();
    assert_eq!(twin["tags"].as_object().unwrap().len(), 20);
}
