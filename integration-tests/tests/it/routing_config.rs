//! The configuration of message routing: read, changed, tried and refused.

use emulator::{Hub, StartError};
use hub_core::error::ErrorCode;
use hub_core::routing::Routing;
use serde_json::{Value, json};

use crate::support::device::Identity;
use crate::support::rest::{Rest, start};
use crate::support::routing::{TestDirectory, admin, kept, route, routed, send, stream, wait_for_report};

async fn put(rest: &Rest, routing: &Value) -> crate::support::rest::Reply {
    rest.authorized(None)
        .exactly("PUT", "/_emulator/routing")
        .json(routing)
        .send()
        .await
}

#[tokio::test]
async fn what_is_refused_changes_nothing() {
    let (_hub, rest) = start().await;
    let before = admin(&rest, "routing").await;
    let route_with = |condition: &str| {
        json!({"routes": [{"name": "r", "source": "DeviceMessages", "condition": condition,
            "endpointNames": ["events"]}]})
    };
    for (routing, place, reason) in [
        (json!([]), "routing", "object"),
        (json!({"rutes": []}), "routing", "rutes"),
        (route_with("a ="), "routes[0] \"r\"", "condition"),
        (route_with("a = 'x"), "routes[0] \"r\"", "condition"),
        (
            json!({"routes": [route("r", "DeviceMessages", "none")]}),
            "routes[0] \"r\"",
            "there is no endpoint \"none\"",
        ),
        (
            json!({"routes": [route("r", "Nothing", "events")]}),
            "routes[0] \"r\"",
            "unknown source",
        ),
        (
            json!({"endpoints": {"streams": [stream("a"), stream("A")]}}),
            "endpoints.streams[1]",
            "another endpoint",
        ),
        (
            json!({"endpoints": {"webhooks": [{"name": "w", "url": "ftp://x"}]}}),
            "endpoints.webhooks[0] \"w\"",
            "http",
        ),
        (
            json!({"endpoints": {"streams": [stream("LocalHost")]}}),
            "\"LocalHost\"",
            "the hub's own name",
        ),
    ] {
        let message = put(&rest, &routing).await.refused(ErrorCode::ArgumentInvalid);
        assert!(
            message.contains(place) && message.contains(reason),
            "{routing}: {message}"
        );
        assert_eq!(admin(&rest, "routing").await, before);
    }
    let call = rest.exactly("PUT", "/_emulator/routing").body("{\"routes\": [}");
    let message = call.send().await.refused(ErrorCode::ArgumentInvalid);
    assert!(message.contains("line 1 column 13"), "{message}");
}

#[tokio::test]
async fn a_hub_does_not_start_with_a_stream_of_its_own_name() {
    let routing = json!({"endpoints": {"streams": [stream("my-hub")]}});
    let routing = Routing::from_json(&routing).unwrap();
    let builder = Hub::builder().host_name("My-Hub.example.org").routing(routing);
    let error = builder.start().await.unwrap_err();
    assert!(matches!(error, StartError::Routing(_)), "{error}");
}

#[tokio::test]
async fn what_was_written_is_read() {
    let (_hub, rest) = start().await;
    let routing = json!({
        "endpoints": {
            "streams": [stream("s")],
            "directories": [{"name": "d", "path": "/nowhere"}],
            "webhooks": [{"name": "w", "url": "http://localhost:9/"}],
        },
        "routes": [route("r", "DeviceMessages", "s")],
        "enrichments": [{"key": "k", "value": "v", "endpointNames": ["s"]}],
    });
    let written = put(&rest, &routing).await.ok();
    assert_eq!(written["routes"][0]["isEnabled"], true);
    assert_eq!(admin(&rest, "routing").await, written);
    assert_eq!(
        put(&rest, &json!({"properties": {"routing": written.clone()}}))
            .await
            .ok(),
        written
    );
    let kinds: Vec<Value> = admin(&rest, "routing/endpoints").await["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|endpoint| json!([endpoint["name"], endpoint["kind"], endpoint["health"]]))
        .collect();
    assert_eq!(
        kinds,
        [
            json!(["events", "builtIn", "healthy"]),
            json!(["s", "stream", "healthy"]),
            json!(["d", "directory", "unknown"]),
            json!(["w", "webhook", "unknown"]),
        ]
    );
}

#[tokio::test]
async fn a_message_is_tried_without_being_kept() {
    let routing = json!({
        "endpoints": {"streams": [stream("north")]},
        "routes": [
            {"name": "by-tag", "source": "DeviceMessages", "condition": "$twin.tags.region = 'north'",
             "endpointNames": ["north"]},
            {"name": "by-property", "source": "DeviceMessages", "condition": "a = '1'",
             "endpointNames": ["events"]},
        ],
    });
    let (_hub, rest) = routed(&routing, &["d"]).await;
    rest.patch("/twins/d", &json!({"tags": {"region": "north"}}))
        .await
        .ok();
    let test = async |body: Value| {
        rest.authorized(None)
            .exactly("POST", "/_emulator/routing/test")
            .json(&body)
            .send()
            .await
    };
    let matched = |explanation: &Value| -> Vec<Value> {
        let routes = explanation["routes"].as_array().unwrap().iter();
        routes
            .filter(|route| route["matched"] == true)
            .map(|route| route["name"].clone())
            .collect()
    };
    // The device's own twin, or one that is only thought of.
    let explanation = test(json!({"deviceId": "d"})).await.ok();
    assert_eq!(matched(&explanation), ["by-tag"], "{explanation}");
    let explanation = test(json!({"twin": {"tags": {"region": "north"}}})).await.ok();
    assert_eq!(matched(&explanation), ["by-tag"], "{explanation}");
    let message = json!({"appProperties": {"a": "1"}});
    let explanation = test(json!({"message": message})).await.ok();
    assert_eq!(matched(&explanation), ["by-property"], "{explanation}");
    // Another configuration, which does not come into force.
    let other = json!({"routes": [route("other", "DeviceMessages", "events")]});
    let explanation = test(json!({"message": message, "routing": other})).await.ok();
    assert_eq!(matched(&explanation), ["other"], "{explanation}");
    assert_eq!(
        kept(&rest, "north").await.len() + kept(&rest, "events").await.len(),
        0
    );

    for (body, reason) in [
        (json!([]), "object"),
        (json!({"deviceId": 1}), "deviceId must be a string"),
        (json!({"moduleId": "m"}), "beside deviceId"),
        (json!({"deviceId": "d", "twin": {}}), "either deviceId or twin"),
        (json!({"routingSource": "Nothing"}), "unknown routingSource"),
        (json!({"routing": {"routes": 1}}), "routes must be an array"),
    ] {
        let message = test(body.clone()).await.refused(ErrorCode::ArgumentInvalid);
        assert!(message.contains(reason), "{body}: {message}");
    }
    test(json!({"deviceId": "none"}))
        .await
        .refused(ErrorCode::DeviceNotFound);
    send(&rest, "d", "x", &[]).await;
    assert_eq!(kept(&rest, "north").await.len(), 1);
}

#[tokio::test]
async fn a_message_is_tried_as_the_device_would_send_it() {
    let conditions = [
        (
            "device",
            "$connectionDeviceId = 'd' AND NOT IS_DEFINED($connectionModuleId)",
        ),
        (
            "module",
            "$connectionDeviceId = 'd' AND $connectionModuleId = 'm'",
        ),
        ("generation", "LENGTH($connectionDeviceGenerationId) > 0"),
        ("token", "CONTAINS($connectionAuthMethod, 'sas')"),
        (
            "metadata",
            "IS_STRING($twin.properties.desired.$metadata.a.$lastUpdated)",
        ),
        ("version", "$twin.properties.desired.$version > 0"),
        ("section", "IS_OBJECT($twin.properties.desired.$metadata)"),
        ("elsewhere", "$connectionDeviceId = 'other'"),
    ];
    let routes: Vec<Value> = conditions
        .iter()
        .map(|(name, condition)| {
            json!({"name": name, "source": "DeviceMessages", "condition": condition, "endpointNames": [name]})
        })
        .collect();
    let streams: Vec<Value> = conditions.iter().map(|(name, _)| stream(name)).collect();
    let routing = json!({"endpoints": {"streams": streams}, "routes": routes});
    let (hub, rest) = routed(&routing, &["d"]).await;
    Identity::create_module(&hub, "d", "m");
    for twin in ["d", "d/modules/m"] {
        rest.patch(
            &format!("/twins/{twin}"),
            &json!({"properties": {"desired": {"a": 1}}}),
        )
        .await
        .ok();
    }
    let names = |routes: &Value| -> Vec<String> {
        let routes = routes.as_array().unwrap().iter();
        let matched = routes.filter(|route| route["matched"] == true);
        matched
            .map(|route| route["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let tried = async |body: Value| {
        let path = "/_emulator/routing/test";
        let explanation = rest
            .authorized(None)
            .exactly("POST", path)
            .json(&body)
            .send()
            .await
            .ok();
        names(&explanation["routes"])
    };
    // What is tried is what happens.
    for (device, body) in [
        ("d", json!({"deviceId": "d"})),
        ("d/modules/m", json!({"deviceId": "d", "moduleId": "m"})),
    ] {
        let expected = tried(body).await;
        assert!(expected.len() >= 6, "{expected:?}");
        let before = admin(&rest, "routing/endpoints").await;
        send(&rest, device, "x", &[]).await;
        let after = admin(&rest, "routing/endpoints").await;
        let reports = before["endpoints"].as_array().unwrap().iter();
        let reports = reports.zip(after["endpoints"].as_array().unwrap());
        let got = reports.filter(|(before, after)| before["delivered"] != after["delivered"]);
        let got: Vec<_> = got.map(|(_, after)| after["name"].as_str().unwrap()).collect();
        assert_eq!(got, expected);
    }
    // Unless the message says otherwise; an event of the hub has no sender.
    let other = json!({"systemProperties": {"connectionDeviceId": "other"}});
    let others = tried(json!({"deviceId": "d", "message": other})).await;
    assert!(
        others.contains(&"elsewhere".into()) && others.contains(&"generation".into()),
        "{others:?}"
    );
    let about = json!({"routes": [
        {"name": "about", "source": "TwinChangeEvents", "endpointNames": ["events"],
         "condition": "$connectionDeviceId = 'd' AND NOT IS_DEFINED($connectionDeviceGenerationId)"},
    ]});
    let body = json!({"deviceId": "d", "routingSource": "TwinChangeEvents", "routing": about});
    assert_eq!(tried(body).await, ["about"]);
}

#[tokio::test]
async fn a_thread_without_a_runtime_may_change_the_configuration() {
    let (hub, rest) = start().await;
    hub.create_device("d").unwrap();
    let directory = TestDirectory::new();
    let routing = json!({
        "endpoints": {"directories": [{"name": "files", "path": directory.path()}]},
        "routes": [route("r", "DeviceMessages", "files")],
    });
    let routing = Routing::from_json(&routing).unwrap();
    let hub = std::thread::spawn(move || {
        hub.set_routing(routing).unwrap();
        hub
    });
    let _hub = hub.join().unwrap();
    send(&rest, "d", "x", &[]).await;
    wait_for_report(&rest, "files", |report| report["delivered"] == 1).await;
}
