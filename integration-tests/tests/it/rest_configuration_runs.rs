//! What evaluating configurations does to devices: notifications, priorities,
//! un-targeting, metrics, many devices.

use std::time::Duration;

use emulator::Hub;
use serde_json::{Value, json};

use crate::support::answering::{Answer, AnsweringDevice};
use crate::support::rest::Rest;
use crate::support::wait_for;

/// A hub that evaluates often.
async fn start() -> (Hub, Rest) {
    let interval = Duration::from_millis(10);
    let hub = Hub::builder()
        .configuration_interval(interval)
        .start()
        .await
        .unwrap();
    let rest = Rest::of(&hub);
    (hub, rest)
}

async fn put(rest: &Rest, id: &str, condition: &str, priority: u32, settings: Value) -> Value {
    let body = json!({
        "content": {"deviceContent": {"properties.desired": settings}},
        "targetCondition": condition, "priority": priority,
    });
    let path = format!("/configurations/{id}");
    rest.put(&path, &body).await.ok()
}

async fn tag(rest: &Rest, device: &str, tags: Value) {
    let path = format!("/twins/{device}");
    rest.patch(&path, &json!({ "tags": tags })).await.ok();
}

/// Waits until the desired properties are these.
async fn desired(rest: &Rest, twin: &str, expected: Value) {
    wait_for("the desired properties", async || {
        let mut desired = rest.get(&format!("/twins/{twin}")).await.ok()["properties"]["desired"].clone();
        let members = desired.as_object_mut().unwrap();
        members.remove("$metadata");
        members.remove("$version");
        if desired == expected { Ok(()) } else { Err(desired) }
    })
    .await;
}

/// Waits until the statuses in the twin are these.
async fn statuses(rest: &Rest, expected: Value) {
    wait_for("the statuses", async || {
        let rows = rest.query("SELECT configurations FROM devices").await.ok();
        if rows == expected { Ok(()) } else { Err(rows) }
    })
    .await;
}

/// Waits until the results of metrics are these.
async fn results(rest: &Rest, id: &str, kind: &str, expected: Value) {
    wait_for("the results", async || {
        let results = rest.get(&format!("/configurations/{id}")).await.ok()[kind]["results"].clone();
        if results == expected { Ok(()) } else { Err(results) }
    })
    .await;
}

#[tokio::test]
async fn a_device_is_told_once_what_a_configuration_wants() {
    let (hub, rest) = start().await;
    rest.create("d").await;
    tag(&rest, "d", json!({"site": "a"})).await;
    let mut device = AnsweringDevice::connect(&hub, "d", Answer::Nothing).await;
    put(
        &rest,
        "c",
        "tags.site = 'a'",
        1,
        json!({"water": {"temperature": 66}}),
    )
    .await;
    let seen = device
        .saw("a notification", |seen| !seen.desired.is_empty())
        .await;
    assert_eq!(
        seen.desired[0],
        json!({"water": {"temperature": 66}, "$version": 2})
    );
    statuses(&rest, json!([{"configurations": {"c": {"status": "Applied"}}}])).await;
    let row = rest
        .query("SELECT deviceId, configurations.[[c]].status AS s FROM devices WHERE configurations.[[c]].status = 'Applied'")
        .await
        .ok();
    assert_eq!(row, json!([{"deviceId": "d", "s": "Applied"}]));
    let whole = rest.query("SELECT * FROM devices").await.ok();
    assert_eq!(whole[0]["configurations"], json!({"c": {"status": "Applied"}}));
    assert_eq!(rest.get("/twins/d").await.ok()["configurations"], Value::Null);

    // What a device reports and other tags change nothing of it.
    device.publish("$iothub/twin/PATCH/properties/reported/?$rid=1", b"{\"x\":1}");
    tag(&rest, "d", json!({"other": 1})).await;
    // Overwriting is undone by the next run, and the device hears of both.
    let overwritten = json!({"properties": {"desired": {"water": {"temperature": 1}}}});
    rest.patch("/twins/d", &overwritten).await.ok();
    let seen = device
        .saw("the second write", |seen| seen.desired.len() >= 3)
        .await;
    let versions: Vec<&Value> = seen.desired.iter().map(|n| &n["$version"]).collect();
    assert_eq!(versions, [2, 3, 4]);
    assert_eq!(
        seen.desired[2],
        json!({"water": {"temperature": 66}, "$version": 4})
    );
}

#[tokio::test]
async fn the_stronger_configuration_wins_and_the_next_one_follows_it() {
    let (_hub, rest) = start().await;
    rest.create("d").await;
    let own = json!({"properties": {"desired": {"own": 1, "shared": {"mine": 1}}}});
    rest.patch("/twins/d", &own).await.ok();
    put(
        &rest,
        "low",
        "*",
        1,
        json!({"a": "low", "b": "low", "shared": {"low": 1}}),
    )
    .await;
    desired(
        &rest,
        "d",
        json!({"own": 1, "a": "low", "b": "low", "shared": {"mine": 1, "low": 1}}),
    )
    .await;
    put(&rest, "high", "tags.vip = true", 2, json!({"a": "high"})).await;
    put(&rest, "hidden", "*", 0, json!({"a": "hidden"})).await;
    tag(&rest, "d", json!({"vip": true})).await;
    desired(
        &rest,
        "d",
        json!({"own": 1, "a": "high", "b": "low", "shared": {"mine": 1, "low": 1}}),
    )
    .await;
    statuses(
        &rest,
        json!([{"configurations": {
            "high": {"status": "Applied"}, "hidden": {"status": "Targeted"}, "low": {"status": "Applied"},
        }}]),
    )
    .await;
    results(
        &rest,
        "hidden",
        "systemMetrics",
        json!({"targetedCount": 1, "appliedCount": 0}),
    )
    .await;
    // Of equal ones the later one wins.
    put(&rest, "equal", "*", 2, json!({"a": "equal"})).await;
    desired(
        &rest,
        "d",
        json!({"own": 1, "a": "equal", "b": "low", "shared": {"mine": 1, "low": 1}}),
    )
    .await;
    rest.delete("/configurations/equal").await.no_content();
    tag(&rest, "d", json!({"vip": null})).await;
    desired(
        &rest,
        "d",
        json!({"own": 1, "a": "low", "b": "low", "shared": {"mine": 1, "low": 1}}),
    )
    .await;
    for id in ["low", "high", "hidden"] {
        rest.delete(&format!("/configurations/{id}")).await.no_content();
    }
    desired(&rest, "d", json!({"own": 1, "shared": {"mine": 1}})).await;
    statuses(&rest, json!([{}])).await;
}

#[tokio::test]
async fn reported_properties_and_new_devices_move_the_target() {
    let (hub, rest) = start().await;
    put(
        &rest,
        "c",
        "properties.reported.ready = true",
        1,
        json!({"go": true}),
    )
    .await;
    rest.create("d").await;
    let device = AnsweringDevice::connect(&hub, "d", Answer::Nothing).await;
    device.publish(
        "$iothub/twin/PATCH/properties/reported/?$rid=1",
        b"{\"ready\":true}",
    );
    desired(&rest, "d", json!({"go": true})).await;
    device.publish(
        "$iothub/twin/PATCH/properties/reported/?$rid=2",
        b"{\"ready\":false}",
    );
    desired(&rest, "d", json!({})).await;
    put(&rest, "all", "*", 1, json!({"x": 1})).await;
    rest.create("new").await;
    desired(&rest, "new", json!({"x": 1})).await;
}

#[tokio::test]
async fn a_target_condition_that_changes_moves_the_settings() {
    let (_hub, rest) = start().await;
    for device in ["a", "b"] {
        rest.create(device).await;
    }
    let created = put(&rest, "c", "deviceId = 'a'", 1, json!({"x": 1})).await;
    desired(&rest, "a", json!({"x": 1})).await;
    let mut body = created;
    body["targetCondition"] = json!("deviceId = 'b'");
    let call = rest.call("PUT", "/configurations/c").if_match("*").json(&body);
    call.send().await.ok();
    desired(&rest, "a", json!({})).await;
    desired(&rest, "b", json!({"x": 1})).await;
    // No condition, no target.
    body["targetCondition"] = json!("");
    let call = rest.call("PUT", "/configurations/c").if_match("*").json(&body);
    call.send().await.ok();
    desired(&rest, "b", json!({})).await;
    results(
        &rest,
        "c",
        "systemMetrics",
        json!({"targetedCount": 0, "appliedCount": 0}),
    )
    .await;
}

#[tokio::test]
async fn a_twin_that_is_full_stays_targeted_until_there_is_room() {
    let (_hub, rest) = start().await;
    rest.create("d").await;
    let texts = |n: usize| -> Vec<String> { (0..n).map(|_| "x".repeat(4000)).collect() };
    let fill = |n: usize| json!({"properties": {"desired": {"own": texts(n)}}});
    rest.patch("/twins/d", &fill(7)).await.ok();
    put(&rest, "c", "*", 1, json!({"big": texts(3)})).await;
    statuses(&rest, json!([{"configurations": {"c": {"status": "Targeted"}}}])).await;
    rest.patch("/twins/d", &fill(1)).await.ok();
    statuses(&rest, json!([{"configurations": {"c": {"status": "Applied"}}}])).await;
}

#[tokio::test]
async fn what_no_longer_counts_goes_even_if_nothing_new_fits() {
    let (_hub, rest) = start().await;
    rest.create("d").await;
    let texts = |n: usize| -> Vec<String> { (0..n).map(|_| "x".repeat(4000)).collect() };
    put(&rest, "old", "*", 1, json!({"a": 1, "b": 1})).await;
    desired(&rest, "d", json!({"a": 1, "b": 1})).await;
    let own = json!({"properties": {"desired": {"own": texts(7)}}});
    rest.patch("/twins/d", &own).await.ok();
    put(&rest, "new", "*", 2, json!({"b": 2, "big": texts(3)})).await;
    let refused = json!([{"configurations": {"new": {"status": "Targeted"}, "old": {"status": "Targeted"}}}]);
    statuses(&rest, refused).await;
    rest.delete("/configurations/old").await.no_content();
    desired(&rest, "d", json!({"b": 1, "own": texts(7)})).await;
    rest.delete("/configurations/new").await.no_content();
    desired(&rest, "d", json!({"own": texts(7)})).await;
}

#[tokio::test]
async fn metrics_follow_identities_connections_and_devices_that_go() {
    let (_hub, rest) = start().await;
    for device in ["d", "e"] {
        rest.create(device).await;
    }
    let body = json!({
        "content": {"deviceContent": {"properties.desired.x": 1}}, "targetCondition": "*",
        "metrics": {"queries": {
            "all": "SELECT deviceId FROM devices",
            "disabled": "SELECT deviceId FROM devices WHERE status = 'disabled'",
            "told": "SELECT deviceId FROM devices WHERE cloudToDeviceMessageCount > 0",
        }},
    });
    rest.put("/configurations/c", &body).await.ok();
    results(&rest, "c", "metrics", json!({"all": 2, "disabled": 0, "told": 0})).await;
    let message = rest.call("POST", "/devices/d/messages/devicebound").body("x");
    message.send().await.no_content();
    results(&rest, "c", "metrics", json!({"all": 2, "disabled": 0, "told": 1})).await;
    let mut identity = rest.get("/devices/e").await.ok();
    identity["status"] = "disabled".into();
    let disable = rest.call("PUT", "/devices/e").if_match("*").json(&identity);
    disable.send().await.ok();
    results(&rest, "c", "metrics", json!({"all": 2, "disabled": 1, "told": 1})).await;
    rest.delete("/devices/e").await.no_content();
    results(&rest, "c", "metrics", json!({"all": 1, "disabled": 0, "told": 1})).await;
    results(
        &rest,
        "c",
        "systemMetrics",
        json!({"targetedCount": 1, "appliedCount": 1}),
    )
    .await;
}

#[tokio::test]
async fn a_deployment_brings_a_deleted_module_back() {
    let (_hub, rest) = start().await;
    rest.put("/devices/e", &json!({"capabilities": {"iotEdge": true}}))
        .await
        .ok();
    let body = json!({
        "content": {"modulesContent": {
            "$edgeAgent": {"properties.desired.modules": {}}, "m": {"properties.desired.a": 1},
        }},
        "targetCondition": "*",
    });
    rest.put("/configurations/c", &body).await.ok();
    let brought = async || {
        wait_for("the module", async || {
            let reply = rest.get("/devices/e/modules/m").await;
            if reply.status == 200 {
                Ok(())
            } else {
                Err(reply.status)
            }
        })
        .await;
        desired(&rest, "e/modules/m", json!({"a": 1})).await;
    };
    brought().await;
    rest.delete("/devices/e/modules/m").await.no_content();
    brought().await;
}

#[tokio::test]
async fn modules_are_configured_by_their_own_twins() {
    let (_hub, rest) = start().await;
    rest.create("d").await;
    for module in ["m", "n"] {
        rest.put(&format!("/devices/d/modules/{module}"), &json!({}))
            .await
            .ok();
    }
    let body = json!({
        "content": {"moduleContent": {"properties.desired.x": 1}},
        "targetCondition": "from devices.modules where moduleId = 'm'",
    });
    rest.put("/configurations/c", &body).await.ok();
    desired(&rest, "d/modules/m", json!({"x": 1})).await;
    results(
        &rest,
        "c",
        "systemMetrics",
        json!({"targetedCount": 1, "appliedCount": 1}),
    )
    .await;
    desired(&rest, "d/modules/n", json!({})).await;
    desired(&rest, "d", json!({})).await;
    let rows = "SELECT moduleId FROM devices.modules WHERE configurations.[[c]].status = 'Applied'";
    assert_eq!(rest.query(rows).await.ok(), json!([{"moduleId": "m"}]));
}

#[tokio::test]
async fn a_deployment_brings_its_modules_and_counts_what_is_reported() {
    let (hub, rest) = start().await;
    rest.put("/devices/edge", &json!({"capabilities": {"iotEdge": true}}))
        .await
        .ok();
    rest.create("plain").await;
    let deployment = |priority: u32, settings: Value| json!({"content": {"modulesContent": settings}, "targetCondition": "*", "priority": priority});
    let base = |version: &str| json!({"$edgeAgent": {"properties.desired": {"modules": {"sensor": {"v": version}}}}});
    rest.put("/configurations/old", &deployment(1, base("1")))
        .await
        .ok();
    rest.put("/configurations/base", &deployment(2, base("2")))
        .await
        .ok();
    let layer = json!({
        "$edgeAgent": {"properties.desired.modules.more": {"v": "3"}},
        "more": {"properties.desired": {"x": 1}},
    });
    rest.put("/configurations/layer", &deployment(3, layer))
        .await
        .ok();
    let agent = json!({"modules": {"sensor": {"v": "2"}, "more": {"v": "3"}}});
    desired(&rest, "edge/modules/$edgeAgent", agent).await;
    desired(&rest, "edge/modules/more", json!({"x": 1})).await;
    results(
        &rest,
        "old",
        "systemMetrics",
        json!({"targetedCount": 1, "appliedCount": 0, "reportedSuccessfulCount": 0, "reportedFailedCount": 0}),
    )
    .await;
    let rows = rest
        .query("SELECT deviceId, moduleId FROM devices.modules WHERE moduleId IN ['sensor','more']")
        .await;
    assert_eq!(rows.ok().as_array().unwrap().len(), 2);

    // The agent reports what became of the deployment.
    let version =
        rest.get("/twins/edge/modules/$edgeAgent").await.ok()["properties"]["desired"]["$version"].clone();
    let identity = json!({"managedBy": "iotEdge"});
    let path = "/devices/edge/modules/$edgeAgent";
    rest.call("PUT", path)
        .if_match("*")
        .json(&identity)
        .send()
        .await
        .ok();
    let agent = AnsweringDevice::connect(&hub, "edge/$edgeAgent", Answer::Nothing).await;
    let report = json!({"lastDesiredVersion": version, "lastDesiredStatus": {"code": 200}});
    agent.publish(
        "$iothub/twin/PATCH/properties/reported/?$rid=1",
        report.to_string().as_bytes(),
    );
    results(
        &rest,
        "base",
        "systemMetrics",
        json!({"targetedCount": 1, "appliedCount": 1, "reportedSuccessfulCount": 1, "reportedFailedCount": 0}),
    )
    .await;
    // The queries behind the metrics give the same.
    let base = rest.get("/configurations/base").await.ok();
    for (name, query) in base["systemMetrics"]["queries"].as_object().unwrap() {
        let rows = rest.query(query.as_str().unwrap()).await.ok();
        assert_eq!(
            base["systemMetrics"]["results"][name],
            rows.as_array().unwrap().len(),
            "{query}"
        );
    }
}

#[tokio::test]
async fn a_thousand_devices_are_configured_and_counted() {
    let (hub, rest) = start().await;
    let lines: Vec<String> = (0..1000)
        .map(|n| json!({"deviceId": format!("d{n:04}"), "tags": {"n": n, "odd": n % 2 == 1}}).to_string())
        .collect();
    hub.import(&lines.join("\n")).unwrap();
    let body = json!({
        "content": {"deviceContent": {"properties.desired.x": 1}}, "targetCondition": "tags.odd = true",
        "metrics": {"queries": {
            "first": "SELECT deviceId FROM devices WHERE tags.n < 10",
            "top": "SELECT TOP 3 deviceId FROM devices",
            "groups": "SELECT COUNT() AS n FROM devices GROUP BY tags.odd",
            "done": "SELECT deviceId FROM devices WHERE properties.desired.x = 1",
        }},
    });
    let before = hub.counters().twin_writes;
    rest.put("/configurations/c", &body).await.ok();
    results(
        &rest,
        "c",
        "systemMetrics",
        json!({"targetedCount": 500, "appliedCount": 500}),
    )
    .await;
    results(
        &rest,
        "c",
        "metrics",
        json!({"first": 10, "top": 3, "groups": 2, "done": 500}),
    )
    .await;
    assert_eq!(hub.counters().twin_writes - before, 500, "one write each");
    rest.delete("/configurations/c").await.no_content();
    wait_for("all settings to be gone", async || {
        let left = rest
            .query("SELECT COUNT() AS n FROM devices WHERE is_defined(properties.desired.x)")
            .await
            .ok();
        if left == json!([{"n": 0}]) {
            Ok(())
        } else {
            Err(left)
        }
    })
    .await;
}

#[tokio::test]
async fn a_reset_forgets_configurations() {
    let (hub, rest) = start().await;
    rest.create("d").await;
    put(&rest, "c", "*", 1, json!({"x": 1})).await;
    desired(&rest, "d", json!({"x": 1})).await;
    hub.reset();
    assert_eq!(rest.get("/configurations").await.ok(), json!([]));
    rest.create("d").await;
    put(&rest, "other", "*", 1, json!({"y": 1})).await;
    desired(&rest, "d", json!({"y": 1})).await;
}

#[tokio::test]
async fn the_interval_follows_the_hubs_clock() {
    let hub = Hub::builder()
        .configuration_interval(Duration::from_secs(300))
        .start()
        .await
        .unwrap();
    let rest = Rest::of(&hub);
    rest.create("d").await;
    put(&rest, "c", "tags.go = true", 1, json!({"x": 1})).await;
    put(&rest, "all", "*", 0, json!({"y": 1})).await;
    // Changes of configurations are evaluated at once.
    desired(&rest, "d", json!({"y": 1})).await;
    tag(&rest, "d", json!({"go": true})).await;
    // Again and again: the run before may not have ended yet.
    wait_for("the next run", async || {
        hub.advance_clock(Duration::from_secs(301));
        let twin = rest.get("/twins/d").await.ok();
        if twin["properties"]["desired"]["x"] == 1 {
            Ok(())
        } else {
            Err(twin)
        }
    })
    .await;
}
