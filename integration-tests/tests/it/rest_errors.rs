//! What all routes have in common: unknown paths, the spellings of a path and
//! of ids, the size and framing of bodies. What routes refuse is in
//! `rest_bad_input` and `rest_bad_bodies`.

use hub_core::error::ErrorCode;
use hub_core::limits;
use serde_json::json;

use crate::support::rest::Rest;
use crate::support::start_hub;

#[tokio::test]
async fn an_unknown_path_is_not_found_in_the_services_form() {
    let hub = start_hub().await;
    let rest = Rest::of(&hub);
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/device"),
        ("GET", "/devices/d/twin"),
        ("GET", "/devices/d/modules/m/x"),
        ("GET", "/statistics"),
        ("GET", "/twins"),
        ("GET", "/jobs/v1/j"),
        ("GET", "/jobs/v1/j/x"),
        ("GET", "/_emulator"),
        ("GET", "/_emulator/unknown"),
        ("PATCH", "/%FF/%00"),
    ] {
        let text = rest
            .call(method, path)
            .send()
            .await
            .refused(ErrorCode::GenericNotFound);
        assert_eq!(text, format!("there is no resource at {path}"));
        // Who asks, and for which version, does not matter.
        let reply = rest.authorized(None).exactly(method, path).send().await;
        reply.refused(ErrorCode::GenericNotFound);
    }
}

#[tokio::test]
async fn a_path_may_be_spelled_as_clients_do() {
    let hub = start_hub().await;
    let rest = Rest::of(&hub);
    rest.create("Dev1").await;
    rest.put("/devices/Dev1/modules/Mod1", &json!({})).await.ok();
    for path in [
        "/devices/?top=10",
        "/Devices",
        "/devices/Dev1/",
        "/DEVICES/Dev1",
        "/devices/Dev1/Modules/",
        "/devices/Dev1/MODULES/Mod1/",
        "/Statistics/Devices",
        "/statistics/SERVICE/",
        "/Twins/Dev1/",
        "/twins/Dev1/Modules/Mod1",
        "/Jobs/V2/Query/",
        "/jobs/V2/Job1",
    ] {
        let reply = rest.get(path).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    }
    for path in [
        "/devices%2Fquery",
        "/devices%2fquery",
        "/Devices/Query",
        "/devices/query/",
    ] {
        let reply = rest
            .post(path, &json!({"query": "SELECT COUNT() AS n FROM devices"}))
            .await;
        assert_eq!(reply.ok(), json!([{"n": 1}]), "{path}");
    }
    // Ids are never folded.
    rest.get("/devices/dev1").await.refused(ErrorCode::DeviceNotFound);
    rest.get("/devices/Dev1/modules/mod1")
        .await
        .refused_in_detail(ErrorCode::ModuleNotFound);
}

#[tokio::test]
async fn ids_with_special_characters_are_decoded_once() {
    let hub = start_hub().await;
    let rest = Rest::of(&hub);
    for (encoded, id) in [
        ("a%40b", "a@b"),
        ("a@b2", "a@b2"),
        ("100%25", "100%"),
        ("a%2540b", "a%40b"),
        ("q%3F", "q?"),
        ("(x)%2C%3B%3D", "(x),;="),
        ("%24.%27%21%2A_-:", "$.'!*_-:"),
        ("modules", "modules"),
        ("methods", "methods"),
        ("%ZZ", "%ZZ"),
    ] {
        let device = rest.create(encoded).await;
        assert_eq!(device["deviceId"], id, "{encoded}");
        assert_eq!(rest.get(&format!("/twins/{encoded}")).await.ok()["deviceId"], id);
        let module = rest
            .put(&format!("/devices/{encoded}/modules/{encoded}x"), &json!({}))
            .await;
        if id.starts_with('$') {
            module.refused(ErrorCode::ArgumentInvalid);
        } else {
            assert_eq!(module.ok()["moduleId"], format!("{id}x"), "{encoded}");
        }
        let query = format!(
            "SELECT deviceId FROM devices WHERE deviceId = '{}'",
            id.replace('\'', "\\'")
        );
        assert_eq!(
            rest.query(&query).await.ok(),
            json!([{ "deviceId": id }]),
            "{query}"
        );
        rest.delete(&format!("/devices/{encoded}")).await.no_content();
    }
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_too_large() {
    let hub = start_hub().await;
    let rest = Rest::of(&hub);
    rest.create("d").await;
    let largest = |extra: usize| {
        let mut body = br#"{"tags":{"a":1}}"#.to_vec();
        body.resize(limits::HTTP_BODY_BYTES + extra, b' ');
        body
    };
    rest.call("PATCH", "/twins/d").body(largest(0)).send().await.ok();
    let reply = rest.call("PATCH", "/twins/d").body(largest(1)).send().await;
    let text = reply.refused(ErrorCode::GenericRequestEntityTooLarge);
    assert_eq!(text, "the request body exceeds the limit");
    assert_eq!(rest.get("/twins/d").await.ok()["version"], 3);
    // Who may not call is told so first.
    let reply = rest
        .authorized(None)
        .call("PATCH", "/twins/d")
        .body(largest(1))
        .send()
        .await;
    reply.refused(ErrorCode::IotHubUnauthorizedAccess);
}

#[tokio::test]
async fn how_a_body_is_framed_and_labelled_does_not_matter() {
    let hub = start_hub().await;
    let rest = Rest::of(&hub);
    rest.create("d").await;
    let body = json!({"tags": {"a": "chunked"}});
    let call = rest.call("PATCH", "/twins/d").json(&body).chunked();
    assert_eq!(call.send().await.ok()["tags"], body["tags"]);
    for media_type in [
        "text/plain",
        "application/json",
        "application/x-www-form-urlencoded",
    ] {
        let body = json!({ "tags": { "a": media_type } });
        let call = rest
            .call("PATCH", "/twins/d")
            .json(&body)
            .header("Content-Type", media_type);
        assert_eq!(call.send().await.ok()["tags"], body["tags"]);
    }
}

#[tokio::test]
async fn unknown_members_are_ignored() {
    let hub = start_hub().await;
    let rest = Rest::of(&hub);
    let device = rest
        .put("/devices/d", &json!({"deviceId": "d", "colour": {"deep": [1]}}))
        .await
        .ok();
    assert!(device.get("colour").is_none());
    rest.put("/devices/d/modules/m", &json!({"colour": 1})).await.ok();
    rest.patch("/twins/d", &json!({"colour": 1, "tags": {"a": 1}}))
        .await
        .ok();
    let query = json!({"query": "SELECT * FROM devices", "colour": 1});
    rest.post("/devices/query", &query).await.ok();
    let method = json!({"methodName": "m", "timeoutInSeconds": 7, "colour": 1});
    rest.post("/twins/d/methods", &method)
        .await
        .refused_in_detail(ErrorCode::DeviceNotOnline);
}
