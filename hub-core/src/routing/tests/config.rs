//! Reading and writing configurations.

use serde_json::{Value as Json, json};

use super::super::*;
use super::{refusal, route, routing, stream};
use crate::limits;

#[test]
fn configurations_come_in_the_forms_of_the_resource() {
    let inner = json!({"routes": [route("r", "a = '1'", "events")]});
    let expected = routing(&inner).to_json();
    for wrapped in [
        json!({ "routing": inner }),
        json!({ "properties": { "routing": inner } }),
        json!({ "name": "hub", "properties": { "state": "Active", "routing": inner } }),
    ] {
        assert_eq!(routing(&wrapped).to_json(), expected);
    }
    // What the cloud's resource has no endpoints of is an empty list.
    let empty = json!({"endpoints": {"eventHubs": [], "storageContainers": [], "serviceBusQueues": null}});
    assert!(routing(&empty).endpoints().is_empty());
}

#[test]
fn everything_that_is_written_is_read_again() {
    let value = json!({
        "endpoints": {
            "streams": [{
                "name": "s-1", "partitions": 2, "retention": "1h", "retentionBytes": "1MiB",
                "retentionCount": 10, "consumerGroups": ["b", "a"],
            }],
            "directories": [{"name": "d.1", "path": "out/files", "maxFileBytes": 4096, "maxFiles": 3}],
            "webhooks": [{
                "name": "w_1", "url": "https://user.example:8443/in?x=1", "batchCount": 5, "batchWait": 1.5,
                "timeout": "250ms",
            }],
        },
        "routes": [
            {"name": "r", "source": "DeviceMessages", "condition": "a = '1' /* why */", "endpointNames": ["D.1"]},
            {"name": "t", "source": "TwinChangeEvents", "condition": "", "endpointNames": ["s-1"], "isEnabled": false},
        ],
        "fallbackRoute": {"name": "rest", "condition": "b = '2'", "endpointNames": ["events"], "isEnabled": true},
        "enrichments": [{"key": "k", "value": "$twin.tags.a", "endpointNames": ["events", "w_1"]}],
    });
    let written = routing(&value).to_json();
    assert_eq!(
        written,
        json!({
            "endpoints": {
                "streams": [{
                    "name": "s-1", "partitions": 2, "retention": "1h", "retentionBytes": 1_048_576,
                    "retentionCount": 10, "consumerGroups": ["a", "b"],
                }],
                "directories": [{"name": "d.1", "path": "out/files", "maxFileBytes": 4096, "maxFiles": 3}],
                "webhooks": [{
                    "name": "w_1", "url": "https://user.example:8443/in?x=1", "batchCount": 5,
                    "batchWait": "1500ms", "timeout": "250ms",
                }],
            },
            "routes": [
                {"name": "r", "source": "DeviceMessages", "condition": "a = '1' /* why */",
                 "endpointNames": ["d.1"], "isEnabled": true},
                {"name": "t", "source": "TwinChangeEvents", "condition": "", "endpointNames": ["s-1"],
                 "isEnabled": false},
            ],
            "fallbackRoute": {"name": "rest", "source": "DeviceMessages", "condition": "b = '2'",
                              "endpointNames": ["events"], "isEnabled": true},
            "enrichments": [{"key": "k", "value": "$twin.tags.a", "endpointNames": ["events", "w_1"]}],
        })
    );
    assert_eq!(routing(&written).to_json(), written);
    let otherwise = Routing::default().to_json();
    assert_eq!(otherwise["fallbackRoute"]["isEnabled"], json!(true));
    assert_eq!(routing(&otherwise).to_json(), otherwise);
}

#[test]
fn mistakes_are_named_with_their_place() {
    let webhook = |url: &str| json!({"endpoints": {"webhooks": [{"name": "w", "url": url}]}});
    let one = |route: Json| json!({ "routes": [route] });
    let enrichment = |value: Json| json!({ "enrichments": [value] });
    let endpoint = |value: Json| json!({"endpoints": {"streams": [value]}});
    for (value, expected) in [
        (json!([]), "routing: must be an object"),
        (
            json!({"route": []}),
            "routing: unknown member \"route\"; known are endpoints, routes, fallbackRoute, enrichments",
        ),
        (json!({"routes": {}}), "routing: routes must be an array"),
        (
            json!({"endpoints": {"eventHubs": [{"name": "x"}]}}),
            "endpoints: eventHubs are of the cloud; a local hub has streams, directories and webhooks",
        ),
        (endpoint(json!("x")), "endpoints.streams[0]: must be an object"),
        (endpoint(json!({})), "endpoints.streams[0]: name is missing"),
        (
            endpoint(json!({"name": 1})),
            "endpoints.streams[0]: name must be a string",
        ),
        (
            endpoint(stream("a b")),
            "endpoints.streams[0]: name must have 1 to 64 ASCII letters, digits, '.', '_' or '-'",
        ),
        (
            endpoint(stream("Events")),
            "endpoints.streams[0] \"Events\": the name is reserved",
        ),
        (
            endpoint(stream("Messages")),
            "endpoints.streams[0] \"Messages\": the name is reserved: readers could not call a stream so",
        ),
        (
            endpoint(stream("devices")),
            "endpoints.streams[0] \"devices\": the name is reserved: readers could not call a stream so",
        ),
        (
            endpoint(json!({"name": "s", "partitions": 33})),
            "endpoints.streams[0] \"s\": partitions must be an integer within [1; 32]",
        ),
        (
            endpoint(json!({"name": "s", "retention": "8d"})),
            "endpoints.streams[0] \"s\": retention must be a duration within [1s; 7d], such as 250ms, 10s, 5m, 1h or 7d",
        ),
        (
            endpoint(json!({"name": "s", "retentionBytes": "1 GB"})),
            "endpoints.streams[0] \"s\": retentionBytes must be a size within [1; 1099511627776] bytes, such as 65536 or 64KiB",
        ),
        (
            json!({"endpoints": {"streams": [stream("a")], "directories": [{"name": "A", "path": "p"}]}}),
            "endpoints.directories[0]: there is another endpoint \"A\"",
        ),
        (
            json!({"endpoints": {"directories": [{"name": "d"}]}}),
            "endpoints.directories[0] \"d\": path is missing",
        ),
        (
            webhook("ftp://x"),
            "endpoints.webhooks[0] \"w\": url must be an absolute URL with the scheme http or https",
        ),
        (one(json!({"name": "r"})), "routes[0] \"r\": source is missing"),
        (
            one(json!({"name": "r", "source": "Telemetry", "endpointNames": ["events"]})),
            "routes[0] \"r\": unknown source \"Telemetry\"; known are DeviceMessages, TwinChangeEvents, \
             DeviceLifecycleEvents, DeviceConnectionStateEvents, DeviceJobLifecycleEvents, DigitalTwinChangeEvents",
        ),
        (
            one(route("r", "true", "nowhere")),
            "routes[0] \"r\": there is no endpoint \"nowhere\"",
        ),
        (
            one(json!({"name": "r", "source": "DeviceMessages", "endpointNames": ["events", "events"]})),
            "routes[0] \"r\": endpointNames must name exactly one endpoint",
        ),
        (
            one(
                json!({"name": "r", "source": "DeviceMessages", "endpointNames": ["events"], "isEnabled": "yes"}),
            ),
            "routes[0] \"r\": isEnabled must be true or false",
        ),
        (
            json!({"routes": [route("r", "true", "events"), route("R", "true", "events")]}),
            "routes[1] \"R\": there is another route of this name",
        ),
        (
            json!({"routes": [route("ok", "true", "events"), route("bad", "a = 'x'\n AND b == 1", "events")]}),
            "routes[1] \"bad\": condition: SQL query parse failed due to following errors: Line 2:9 Unexpected \
             character at input '=': expected a path, a constant or a function",
        ),
        (
            json!({"fallbackRoute": {"source": "TwinChangeEvents"}}),
            "fallbackRoute: the source of the fallback route is DeviceMessages",
        ),
        (
            json!({"fallbackRoute": {"endpointNames": ["x"]}}),
            "fallbackRoute: the fallback route leads to the built-in endpoint, events",
        ),
        (
            enrichment(json!({"key": "a b", "value": "x", "endpointNames": ["events"]})),
            "enrichments[0]: key must have 1 to 128 ASCII letters, digits, '.', '_' or '-'",
        ),
        (
            enrichment(json!({"key": "iothub-ack", "value": "x", "endpointNames": ["events"]})),
            "enrichments[0]: key is the name of a system property",
        ),
        (
            enrichment(json!({"key": "k", "value": "x", "endpointNames": []})),
            "enrichments[0] \"k\": endpointNames must name at least one endpoint",
        ),
        (
            enrichment(json!({"key": "k", "value": "x", "endpointNames": ["no"]})),
            "enrichments[0] \"k\": there is no endpoint \"no\"",
        ),
        (
            json!({"enrichments": [
                {"key": "k", "value": "x", "endpointNames": ["events"]},
                {"key": "k", "value": "y", "endpointNames": ["events"]},
            ]}),
            "enrichments[1] \"k\": another enrichment of an endpoint has this key",
        ),
        (
            json!({"enrichments": vec![json!({}); 11]}),
            "enrichments: there must not be more than 10 enrichments",
        ),
    ] {
        assert_eq!(refusal(&value), expected, "{value}");
    }
    let long = "x".repeat(limits::ROUTE_CONDITION_CHARS + 1);
    let error = Routing::from_json(&one(route("r", &long, "events"))).unwrap_err();
    assert_eq!(error.condition.unwrap().column, limits::ROUTE_CONDITION_CHARS + 1);
}

#[test]
fn web_addresses_are_told_from_others() {
    let accepted = |url: &str| {
        Routing::from_json(&json!({"endpoints": {"webhooks": [{"name": "w", "url": url}]}})).is_ok()
    };
    for url in [
        "http://h",
        "HTTPS://h.example:443/p?q=1",
        "http://127.0.0.1:80/",
        "http://[::1]:9000/x",
        "http://[::1]",
    ] {
        assert!(accepted(url), "{url}");
    }
    for url in [
        "",
        "h",
        "/p",
        "http:/h",
        "http://",
        "http://:80",
        "http:///p",
        "http://h:x/",
        "http://h:70000",
        "http://::1/",
        "http://[::1",
        "http://[::1:80",
        "http://[::1]x",
        "http://[::1]:",
        "http://[h]/",
        "http://h]/",
        "http://h/a b",
        "http://h/\r\nX: y",
        "http://u:p@h/",
        "ftp://h",
        "http://h\u{e9}",
    ] {
        assert!(!accepted(url), "{url}");
    }
}

#[test]
fn nesting_is_bounded() {
    let depth = limits::QUERY_DEPTH;
    for (open, inner, close) in [
        ("(", "true", ")"),
        ("NOT ", "true", ""),
        ("-", "1", ""),
        ("LENGTH(", "a", ")"),
    ] {
        let text = |depth: usize| format!("{}{inner}{}", open.repeat(depth), close.repeat(depth));
        // LENGTH makes a number, so that only the first one's type is right.
        if open != "LENGTH(" {
            assert!(
                RouteCondition::parse(&text(depth), Source::Telemetry).is_ok(),
                "{open}"
            );
        }
        let error = RouteCondition::parse(&text(depth + 1), Source::Telemetry).unwrap_err();
        assert!(error.message.ends_with("nested deeper than 64 levels"), "{error}");
        assert!(RouteCondition::parse(&text(2000), Source::Telemetry).is_err());
    }
    // Chains do not nest.
    let chain = vec!["a"; 1000].join(" ?? ");
    assert!(RouteCondition::parse(&format!("({chain}) = 'x'"), Source::Telemetry).is_ok());
}
