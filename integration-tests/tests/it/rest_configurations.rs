//! Automatic configurations over REST: documents, preconditions, bad input.

use hub_core::error::ErrorCode;
use hub_core::limits;
use serde_json::{Value, json};

use crate::support::rest::{Rest, start};

fn content() -> Value {
    json!({"deviceContent": {"properties.desired.a": 1}})
}

async fn create(rest: &Rest, id: &str) -> Value {
    let path = format!("/configurations/{id}");
    rest.put(&path, &json!({"id": id, "content": content()}))
        .await
        .ok()
}

#[tokio::test]
async fn a_configuration_is_created_read_changed_and_removed() {
    let (_hub, rest) = start().await;
    let body = json!({
        "id": "cfg1", "schemaVersion": "2.0", "labels": {"k": "v"}, "content": content(),
        "targetCondition": "tags.environment='test'", "priority": 10,
        "metrics": {"queries": {"all": "SELECT deviceId FROM devices"}},
    });
    let created = rest.put("/configurations/cfg1", &body).await;
    assert_eq!(created.header("etag"), Some("\"MA==\""));
    let created = created.ok();
    assert_eq!(created["etag"], "MA==");
    for member in [
        "id",
        "schemaVersion",
        "labels",
        "content",
        "targetCondition",
        "priority",
    ] {
        assert_eq!(created[member], body[member], "{member}");
    }
    assert_eq!(
        created["systemMetrics"]["results"],
        json!({"targetedCount": 0, "appliedCount": 0})
    );
    assert_eq!(created["createdTimeUtc"], created["lastUpdatedTimeUtc"]);

    // What was read can be sent back, another content is ignored.
    let mut changed = created.clone();
    changed["priority"] = json!(20);
    changed["content"] = json!({"deviceContent": {"properties.desired.other": 2}});
    let updated = rest
        .call("PUT", "/configurations/cfg1")
        .if_match("\"MA==\"")
        .json(&changed)
        .send()
        .await;
    assert_eq!(updated.header("etag"), Some("\"MQ==\""));
    let updated = updated.ok();
    assert_eq!(updated["priority"], 20);
    assert_eq!(updated["content"], content());
    assert_eq!(updated["createdTimeUtc"], created["createdTimeUtc"]);

    let read = rest.get("/configurations/cfg1").await;
    assert_eq!(read.header("etag"), Some("\"MQ==\""));
    assert_eq!(read.ok()["priority"], 20);
    create(&rest, "another").await;
    let list = rest.get("/configurations?top=1").await.ok();
    let ids: Vec<&Value> = list.as_array().unwrap().iter().map(|c| &c["id"]).collect();
    assert_eq!(ids, ["another", "cfg1"], "top is ignored");

    rest.call("DELETE", "/configurations/cfg1")
        .send()
        .await
        .no_content();
    let missing = rest.get("/configurations/cfg1").await;
    assert_eq!(missing.refused(ErrorCode::ConfigurationNotFound), "cfg1");
}

#[tokio::test]
async fn preconditions_count_in_quotes_only() {
    use ErrorCode::{ConfigurationAlreadyExists, ConfigurationNotFound, PreconditionFailed};
    let (_hub, rest) = start().await;
    create(&rest, "c").await;
    let body = json!({"content": content()});
    for (method, path, if_match, expected) in [
        ("PUT", "c", None, Some(ConfigurationAlreadyExists)),
        ("PUT", "c", Some("MA=="), Some(ConfigurationAlreadyExists)),
        ("PUT", "c", Some(""), Some(ConfigurationAlreadyExists)),
        ("PUT", "c", Some("\"MQ==\""), Some(PreconditionFailed)),
        ("PUT", "c", Some("\"MA==\""), None),
        ("PUT", "c", Some("*"), None),
        ("PUT", "c", Some("\"*\""), None),
        ("PUT", "new", Some("*"), Some(ConfigurationNotFound)),
        ("PUT", "new", Some("\"MA==\""), Some(ConfigurationNotFound)),
        ("DELETE", "c", Some("\"MA==\""), Some(PreconditionFailed)),
        ("DELETE", "new", None, Some(ConfigurationNotFound)),
        ("DELETE", "new", Some("*"), Some(ConfigurationNotFound)),
        // As good as no precondition, and a DELETE needs none.
        ("DELETE", "c", Some("stale"), None),
    ] {
        let mut call = rest.call(method, &format!("/configurations/{path}")).json(&body);
        if let Some(value) = if_match {
            call = call.if_match(value);
        }
        let reply = call.send().await;
        match expected {
            Some(code) => _ = reply.refused(code),
            None => assert!([200, 204].contains(&reply.status), "{method} {if_match:?}"),
        }
    }
    assert_eq!(rest.get("/configurations").await.ok(), json!([]));
}

#[tokio::test]
async fn ids_and_bodies_that_break_a_rule_are_refused() {
    use ErrorCode::{ArgumentInvalid, ArgumentNull};
    let (_hub, rest) = start().await;
    let long = "c".repeat(129);
    for id in ["Cfg", "a.b", "a%20b", "a%2Fb", "%C3%A4", "a$", "a:b", &long] {
        let path = format!("/configurations/{id}");
        for method in ["GET", "PUT", "DELETE"] {
            let call = rest.call(method, &path).json(&json!({"content": content()}));
            call.send().await.refused(ArgumentInvalid);
        }
    }
    let id = "az09-+%25_*!'";
    let body = json!({"content": content()});
    rest.put(&format!("/configurations/{id}"), &body).await.ok();
    assert_eq!(
        rest.get(&format!("/configurations/{id}")).await.ok()["id"],
        "az09-+%_*!'"
    );

    for (body, code) in [
        ("", ArgumentNull),
        ("{", ArgumentInvalid),
        ("[]", ArgumentInvalid),
        ("null", ArgumentInvalid),
        (r#"{"content":{}}"#, ErrorCode::InvalidConfigurationContent),
        (
            r#"{"id":"other","content":{"deviceContent":{}}}"#,
            ArgumentInvalid,
        ),
        (
            r#"{"priority":-1,"content":{"deviceContent":{}}}"#,
            ArgumentInvalid,
        ),
        (
            r#"{"targetCondition":"x x","content":{"deviceContent":{}}}"#,
            ErrorCode::InvalidConfigurationTargetCondition,
        ),
        (
            r#"{"metrics":{"queries":{"a":"b"}},"content":{"deviceContent":{}}}"#,
            ErrorCode::InvalidConfigurationCustomMetricsQuery,
        ),
    ] {
        let reply = rest.call("PUT", "/configurations/c").body(body).send().await;
        reply.refused(code);
    }
    rest.get("/configurations/c")
        .await
        .refused(ErrorCode::ConfigurationNotFound);
    for (method, path) in [
        ("POST", "/configurations"),
        ("POST", "/configurations/c"),
        ("PATCH", "/configurations/c"),
        ("GET", "/configurations/testQueries"),
        ("GET", "/devices/d/applyConfigurationContent"),
        ("PUT", "/digitaltwins/d"),
    ] {
        let reply = rest.call(method, path).send().await;
        reply.refused(ErrorCode::GenericMethodNotAllowed);
    }
}

#[tokio::test]
async fn a_hub_has_a_hundred_configurations_and_a_hundred_deployments() {
    let (_hub, rest) = start().await;
    for number in 0..limits::CONFIGURATIONS_PER_HUB {
        create(&rest, &format!("c{number}")).await;
    }
    let more = json!({"content": content()});
    let refused = rest.put("/configurations/more", &more).await;
    refused.refused(ErrorCode::ConfigurationCountLimitExceeded);
    let deployment = json!({"content": {"modulesContent": {"$edgeAgent": {}}}});
    rest.put("/configurations/deployment", &deployment).await.ok();
    rest.delete("/configurations/c7").await.no_content();
    rest.put("/configurations/more", &more).await.ok();
}

#[tokio::test]
async fn queries_are_tried_without_a_configuration() {
    let (_hub, rest) = start().await;
    let body = json!({
        "targetCondition": "tags.a = 1", "customMetricQueries": {"m": "SELECT deviceId FROM devices"},
    });
    let verdict = rest.post("/configurations/testQueries", &body).await.ok();
    assert_eq!(
        verdict,
        json!({"targetConditionError": null, "customMetricQueryErrors": {}})
    );
    let body = json!({"targetCondition": "tags.a ==", "customMetricQueries": {"m": "x", "n": 1}});
    let verdict = rest.post("/configurations/testQueries", &body).await.ok();
    assert!(verdict["targetConditionError"].is_string());
    assert!(verdict["customMetricQueryErrors"]["m"].is_string());
    for body in [
        json!([]),
        json!({"targetCondition": 1}),
        json!({"customMetricQueries": "x"}),
    ] {
        let reply = rest.post("/configurations/testQueries", &body).await;
        reply.refused(ErrorCode::ArgumentInvalid);
    }
}

#[tokio::test]
async fn content_is_applied_to_an_edge_device_once() {
    let (_hub, rest) = start().await;
    let edge = json!({"capabilities": {"iotEdge": true}});
    rest.put("/devices/edge", &edge).await.ok();
    rest.create("plain").await;
    let apply = |device: &str| format!("/devices/{device}/applyConfigurationContent");
    let content = json!({"modulesContent": {
        "$edgeAgent": {"properties.desired": {"modules": {"sensor": {"version": "1.0"}}}},
        "$edgeHub": {"properties.desired": {"routes": {}}},
        "filter": {"properties.desired": {"limit": 5}},
    }});
    rest.post(&apply("edge"), &content).await.no_content();
    let modules = rest.get("/devices/edge/modules").await.ok();
    let modules: Vec<_> = modules.as_array().unwrap().clone();
    let ids: Vec<&Value> = modules.iter().map(|m| &m["moduleId"]).collect();
    assert_eq!(ids, ["$edgeAgent", "$edgeHub", "filter", "sensor"]);
    assert!(modules.iter().all(|m| m["managedBy"] == "iotEdge"));
    let desired = async |module: &str| {
        let twin = rest.get(&format!("/twins/edge/modules/{module}")).await.ok();
        let mut desired = twin["properties"]["desired"].clone();
        desired.as_object_mut().unwrap().remove("$metadata");
        desired
    };
    assert_eq!(desired("filter").await, json!({"limit": 5, "$version": 2}));
    // A whole section replaces, a path merges.
    let content = json!({"modulesContent": {
        "filter": {"properties.desired": {"other": 1}},
        "$edgeAgent": {"properties.desired.modules.more": {"version": "2.0"}},
    }});
    rest.post(&apply("edge"), &content).await.no_content();
    assert_eq!(desired("filter").await, json!({"other": 1, "$version": 3}));
    let agent = desired("$edgeAgent").await;
    assert_eq!(
        agent["modules"],
        json!({"sensor": {"version": "1.0"}, "more": {"version": "2.0"}})
    );
    let device = json!({"deviceContent": {"properties.desired.x": 1}});
    rest.post(&apply("edge"), &device).await.no_content();
    assert_eq!(
        rest.get("/twins/edge").await.ok()["properties"]["desired"]["x"],
        1
    );

    rest.post(&apply("plain"), &content)
        .await
        .refused(ErrorCode::ArgumentInvalid);
    rest.post(&apply("nobody"), &content)
        .await
        .refused(ErrorCode::DeviceNotFound);
    let many: Value = (0..49)
        .map(|n| (format!("m{n}"), json!({})))
        .collect::<serde_json::Map<_, _>>()
        .into();
    for (body, code) in [
        (json!({}), ErrorCode::InvalidConfigurationContent),
        (json!([]), ErrorCode::InvalidConfigurationContent),
        (
            json!({"moduleContent": {"properties.desired.a": 1}}),
            ErrorCode::InvalidConfigurationContent,
        ),
        (
            json!({"modulesContent": {"m": {"tags.a": 1}}}),
            ErrorCode::InvalidConfigurationContent,
        ),
        (json!({"modulesContent": many}), ErrorCode::TooManyModulesOnDevice),
    ] {
        rest.post(&apply("edge"), &body).await.refused(code);
    }
    let unknown = json!({"modulesContent": {"aaa": {}, "$unknown": {"properties.desired.a": 1}}});
    let refused = rest.post(&apply("edge"), &unknown).await;
    _ = refused.refused_in_detail(ErrorCode::ModuleNotFound);
    rest.get("/twins/edge/modules/aaa")
        .await
        .refused(ErrorCode::DeviceNotFound);
    // Two pieces of 20 KB: each fits, together they do not, and nothing stays.
    let piece = |key: &str| {
        let text: Vec<String> = (0..5).map(|_| "x".repeat(4000)).collect();
        json!({"modulesContent": {
            "aaa": {"properties.desired": {"trace": 1}},
            "filter": {format!("properties.desired.{key}"): text},
        }})
    };
    rest.post(&apply("edge"), &piece("one")).await.no_content();
    rest.delete("/devices/edge/modules/aaa").await.no_content();
    rest.post(&apply("edge"), &piece("two"))
        .await
        .refused(ErrorCode::ArgumentInvalid);
    rest.get("/twins/edge/modules/aaa")
        .await
        .refused(ErrorCode::DeviceNotFound);
}
