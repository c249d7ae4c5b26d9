//! What all routes have in common: the version check, unknown paths and
//! methods, the spellings of a path, and bodies that cannot be read.

use hub_core::error::ErrorCode;
use hub_core::limits;
use serde_json::json;

use crate::support::rest::Rest;
use crate::support::start_hub;

#[tokio::test]
async fn every_service_route_wants_an_api_version() {
    let hub = start_hub().await;
    let rest = Rest::of(&hub);
    rest.create("d").await;
    for (query, text) in [
        ("", "the query parameter api-version is missing"),
        ("?", "the query parameter api-version is missing"),
        ("?top=1", "the query parameter api-version is missing"),
        ("?api-version", "the query parameter api-version is missing"),
        ("?api-version=", "the api-version \"\" is not a date"),
        ("?api-version=latest", "the api-version \"latest\" is not a date"),
        (
            "?api-version=2021-4-12",
            "the api-version \"2021-4-12\" is not a date",
        ),
        (
            "?api-version=2021-04-12-beta",
            "the api-version \"2021-04-12-beta\" is not a date",
        ),
    ] {
        for path in [
            "/devices",
            "/devices/d",
            "/devices/d/modules",
            "/statistics/devices",
            "/twins/d",
            "/jobs/v2/query",
            "/jobs/v2/j",
        ] {
            let reply = rest.exactly("GET", &format!("{path}{query}")).send().await;
            assert_eq!(
                reply.refused(ErrorCode::InvalidProtocolVersion),
                text,
                "{path}{query}"
            );
        }
    }
    for version in [
        "2016-11-14",
        "2018-06-30",
        "2020-05-31-preview",
        "2021-04-12",
        "2024-03-31",
    ] {
        let path = format!("/devices/d?api-version={version}");
        rest.exactly("GET", &path).send().await.ok();
    }
    rest.exactly("GET", "/devices?top=1&API-Version=2021-04-12")
        .send()
        .await
        .ok();
}

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
async fn an_unknown_method_is_refused_in_the_services_form() {
    let hub = start_hub().await;
    let rest = Rest::of(&hub);
    for (method, path) in [
        ("PUT", "/devices"),
        ("PATCH", "/devices/d"),
        ("GET", "/devices/query"),
        ("POST", "/devices/d/modules"),
        ("POST", "/devices/d/modules/m"),
        ("POST", "/statistics/devices"),
        ("DELETE", "/twins/d"),
        ("GET", "/twins/d/methods"),
        ("GET", "/twins/d/modules/m/methods"),
        ("DELETE", "/jobs/v2/j"),
        ("GET", "/jobs/v2/j/cancel"),
        ("PUT", "/jobs/v2/query"),
        ("PUT", "/jobs/create"),
        ("POST", "/jobs"),
        ("POST", "/_emulator/health"),
        ("GET", "/_emulator/clock/advance"),
        ("GET", "/_emulator/state"),
        ("OPTIONS", "/devices"),
    ] {
        let reply = rest.call(method, path).send().await;
        let text = reply.refused(ErrorCode::GenericMethodNotAllowed);
        assert_eq!(text, format!("{method} is not supported at {path}"));
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
    for (encoded, found) in [
        ("a%2Fb", "'/'"),
        ("a%20b", "' '"),
        ("a+b", "'+'"),
        ("a%23", "'#'"),
        ("%C3%A9", "'é'"),
        ("%00", "'\\0'"),
    ] {
        let text = rest
            .get(&format!("/devices/{encoded}"))
            .await
            .refused(ErrorCode::ArgumentInvalid);
        assert!(
            text.starts_with("bad device id: ") && text.contains(found),
            "{encoded}: {text}"
        );
    }
    let long = "x".repeat(limits::IDENTITY_ID_CHARS + 1);
    rest.get(&format!("/devices/{long}"))
        .await
        .refused(ErrorCode::ArgumentInvalid);
    rest.create(&long[1..]).await;
}

/// Whatever names a thing, bytes that are no text name nothing.
#[tokio::test]
async fn ids_that_are_not_utf8_are_refused_in_the_services_form() {
    let hub = start_hub().await;
    let rest = Rest::of(&hub);
    for (method, path) in [
        ("GET", "/devices/%FF"),
        ("PUT", "/devices/%FF"),
        ("GET", "/devices/d/modules/%FF"),
        ("GET", "/twins/%FF"),
        ("POST", "/twins/%FF/methods"),
        ("GET", "/jobs/v2/%FF"),
        ("PUT", "/jobs/v2/%FF"),
        ("POST", "/jobs/v2/%FF/cancel"),
    ] {
        let reply = rest.call(method, path).json(&json!({})).send().await;
        reply.refused(ErrorCode::ArgumentInvalid);
    }
}

/// The routes that read a body, as calls that get as far as reading it.
const WITH_BODY: [(&str, &str); 9] = [
    ("POST", "/devices"),
    ("POST", "/devices/query"),
    ("PUT", "/devices/new"),
    ("PUT", "/devices/d/modules/new"),
    ("PATCH", "/twins/d"),
    ("PUT", "/twins/d"),
    ("POST", "/twins/d/methods"),
    ("PUT", "/jobs/v2/j"),
    ("POST", "/_emulator/clock/advance"),
];

#[tokio::test]
async fn bodies_that_are_not_json_are_refused() {
    let hub = start_hub().await;
    let rest = Rest::of(&hub);
    rest.create("d").await;
    for (method, path) in WITH_BODY {
        let call = || rest.call(method, path);
        let text = call().send().await.refused(ErrorCode::ArgumentNull);
        assert_eq!(text, "the request has no body", "{method} {path}");

        for body in ["{", "{}{}", "nonsense", "{\"a\":}", "\u{feff}{}"] {
            let text = call().body(body).send().await.refused(ErrorCode::ArgumentInvalid);
            assert!(
                text.starts_with("the body is not valid JSON: "),
                "{method} {path} {body}: {text}"
            );
        }
        let text = call()
            .body(b"{\"a\":\"\xff\"}")
            .send()
            .await
            .refused(ErrorCode::ArgumentInvalid);
        assert!(
            text.starts_with("the body is not valid JSON: "),
            "{method} {path}: {text}"
        );

        for depth in [limits::JSON_DEPTH + 1, 100_000] {
            let text = call()
                .body("[".repeat(depth))
                .send()
                .await
                .refused(ErrorCode::ArgumentInvalid);
            assert_eq!(text, "JSON is nested deeper than 100 levels", "{method} {path}");
        }
    }
    assert_eq!(rest.get("/devices").await.ok().as_array().unwrap().len(), 1);
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
