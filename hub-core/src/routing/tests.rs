//! Whole configurations: reading, writing, deciding, explaining.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::events::Origin;
use crate::ids::{DeviceId, Target};
use crate::limits;
use crate::query::{Path, Row, Value as QueryValue};
use crate::time::Timestamp;

const NOW: Timestamp = Timestamp::NEVER;

fn routing(value: Json) -> Routing {
    Routing::from_json(&value).unwrap()
}

fn refusal(value: Json) -> String {
    Routing::from_json(&value).unwrap_err().to_string()
}

fn trial(value: Json) -> Trial {
    Trial::from_json(&value).unwrap()
}

fn stream(name: &str) -> Json {
    json!({ "name": name })
}

fn route(name: &str, condition: &str, endpoint: &str) -> Json {
    json!({
        "name": name, "source": "DeviceMessages", "condition": condition,
        "endpointNames": [endpoint], "isEnabled": true,
    })
}

/// Names of the endpoints that a message goes to.
fn destinations(routing: &Routing, trial: &Trial) -> Vec<String> {
    let decision = routing.decide(&trial.message(NOW));
    let names = decision
        .endpoints
        .iter()
        .map(|endpoint| routing.endpoint_name(endpoint).to_owned());
    names.collect()
}

fn with(properties: Json) -> Trial {
    trial(json!({ "message": { "appProperties": properties } }))
}

#[test]
fn without_configuration_telemetry_goes_to_the_built_in_endpoint() {
    let routing = Routing::default();
    assert!(routing.wants(Source::Telemetry) && !routing.wants(Source::TwinChange));
    let decision = routing.decide(&trial(json!({})).message(NOW));
    assert!(decision.fallback);
    assert_eq!(decision.endpoints, EndpointSet::EVENTS);
}

#[test]
fn a_configuration_without_fallback_route_drops_what_nothing_takes() {
    let routing = routing(json!({}));
    assert!(!routing.wants(Source::Telemetry));
    assert_eq!(
        routing.decide(&trial(json!({})).message(NOW)),
        Decision::default()
    );
}

#[test]
fn routes_decide_and_the_fallback_takes_the_rest() {
    let routing = routing(json!({
        "endpoints": {"streams": [stream("hot"), stream("all")], "webhooks": [{"name": "hook", "url": "http://h"}]},
        "routes": [
            route("hot", "level = 'hot'", "hot"),
            route("hot2", "LEVEL = 'hot' OR level = 'warm'", "HOT"),
            route("off", "true", "all"),
            route("events", "keep = 'yes'", "events"),
            {"name": "twins", "source": "twinchangeevents", "endpointNames": ["hook"]},
        ],
        "fallbackRoute": {"source": "DeviceMessages", "endpointNames": ["events"]},
    }));
    let mut off = routing.to_json();
    off["routes"][2]["isEnabled"] = json!(false);
    let routing = Routing::from_json(&off).unwrap();
    assert_eq!(destinations(&routing, &with(json!({"level": "hot"}))), ["hot"]);
    let decision = routing.decide(&with(json!({"level": "hot"})).message(NOW));
    assert_eq!(decision.routes.iter().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(
        destinations(&routing, &with(json!({"Level": "warm", "keep": "yes"}))),
        ["events", "hot"]
    );
    let cold = routing.decide(&with(json!({"level": "cold"})).message(NOW));
    assert!(cold.fallback && cold.routes.is_empty() && cold.endpoints == EndpointSet::EVENTS);
    // Another source is never the fallback's.
    for (source, expected) in [
        ("TwinChangeEvents", &["hook"][..]),
        ("DeviceLifecycleEvents", &[]),
        ("DeviceJobLifecycleEvents", &[]),
        ("DeviceConnectionStateEvents", &[]),
        ("DigitalTwinChangeEvents", &[]),
    ] {
        let event = trial(json!({ "routingSource": source }));
        assert_eq!(destinations(&routing, &event), expected, "{source}");
        assert_eq!(
            routing.wants(event.message(NOW).source),
            !expected.is_empty(),
            "{source}"
        );
    }
}

#[test]
fn the_fallback_route_may_be_off_or_have_a_condition() {
    let fallback = |fallback: Json| routing(json!({ "fallbackRoute": fallback }));
    let off = fallback(json!({"endpointNames": ["events"], "isEnabled": false}));
    assert!(destinations(&off, &with(json!({}))).is_empty() && !off.wants(Source::Telemetry));
    let picky = fallback(json!({"name": "$fallback", "condition": "a = '1'"}));
    assert_eq!(destinations(&picky, &with(json!({"a": "1"}))), ["events"]);
    assert!(destinations(&picky, &with(json!({"a": "2"}))).is_empty());
}

#[test]
fn a_hundred_routes_and_ten_endpoints_are_possible() {
    let names: Vec<String> = (0..limits::ROUTING_ENDPOINTS).map(|i| format!("e{i}")).collect();
    let endpoints: Vec<Json> = names.iter().map(|name| stream(name)).collect();
    let routes: Vec<Json> = (0..limits::ROUTES)
        .map(|i| route(&format!("r{i}"), &format!("p{i} = '1'"), &names[i % names.len()]))
        .collect();
    let mut value = json!({"endpoints": {"streams": endpoints}, "routes": routes});
    let all = routing(value.clone());
    let properties: serde_json::Map<String, Json> = (0..limits::ROUTES)
        .map(|i| (format!("P{i}"), json!("1")))
        .collect();
    let decision = all.decide(&with(properties.into()).message(NOW));
    assert_eq!(
        (decision.routes.len(), decision.endpoints.iter().count()),
        (100, 10)
    );

    value["endpoints"]["streams"]
        .as_array_mut()
        .unwrap()
        .push(stream("e10"));
    assert_eq!(
        refusal(value.clone()),
        "endpoints: there must not be more than 10 endpoints beside the built-in one"
    );
    value["endpoints"]["streams"].as_array_mut().unwrap().pop();
    value["routes"]
        .as_array_mut()
        .unwrap()
        .push(route("r100", "true", "e0"));
    assert_eq!(refusal(value), "routes: there must not be more than 100 routes");
}

#[test]
fn configurations_come_in_the_forms_of_the_resource() {
    let inner = json!({"routes": [route("r", "a = '1'", "events")]});
    let expected = routing(inner.clone()).to_json();
    for wrapped in [
        json!({ "routing": inner }),
        json!({ "properties": { "routing": inner } }),
        json!({ "name": "hub", "properties": { "state": "Active", "routing": inner } }),
    ] {
        assert_eq!(routing(wrapped).to_json(), expected);
    }
    // What the cloud's resource has no endpoints of is an empty list.
    let empty = json!({"endpoints": {"eventHubs": [], "storageContainers": [], "serviceBusQueues": null}});
    assert!(routing(empty).endpoints().is_empty());
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
    let written = routing(value).to_json();
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
    assert_eq!(routing(written.clone()).to_json(), written);
    let otherwise = Routing::default().to_json();
    assert_eq!(otherwise["fallbackRoute"]["isEnabled"], json!(true));
    assert_eq!(routing(otherwise.clone()).to_json(), otherwise);
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
        assert_eq!(refusal(value.clone()), expected, "{value}");
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
        "http://h/a b",
        "http://h/\r\nX: y",
        "http://u:p@h/",
        "ftp://h",
        "http://h\u{e9}",
    ] {
        assert!(!accepted(url), "{url}");
    }
}

fn enriched(value: &str, message: Json) -> Result<Option<String>, Oversized> {
    let routing = routing(json!({
        "fallbackRoute": {},
        "enrichments": [{"key": "k", "value": value, "endpointNames": ["events"]}],
    }));
    let trial = trial(message);
    let bag = routing.enrich(EndpointId::EVENTS, &trial.message(NOW), "my-hub")?;
    Ok(bag.and_then(|bag| bag.decode().application.get("k").cloned()))
}

#[test]
fn enrichments_are_literals_the_hub_or_values_of_the_twin() {
    let twin = json!({
        "tags": {"text": "t", "number": 1.5, "whole": 3, "flag": true, "object": {"a": 1}, "list": [1]},
        "properties": {"desired": {"$version": 2}, "reported": {"x": {"y": "z"}}},
    });
    for (value, expected) in [
        ("literal", "literal"),
        ("$iothubname", "my-hub"),
        ("$twin.tags.text", "t"),
        ("$twin.tags.number", "1.5"),
        ("$twin.tags.whole", "3"),
        ("$twin.tags.flag", "true"),
        ("$twin.properties.desired.$version", "2"),
        ("$twin.properties.reported.x.y", "z"),
        // What is not there, or no primitive value, is stamped as it was written.
        ("$twin.tags.absent", "$twin.tags.absent"),
        ("$twin.tags.object", "$twin.tags.object"),
        ("$twin.tags.list", "$twin.tags.list"),
        ("$twin.tags", "$twin.tags"),
        ("$twin.other", "$twin.other"),
        ("$twin.tags.text = 't'", "$twin.tags.text = 't'"),
        ("$connectionDeviceId", "$connectionDeviceId"),
    ] {
        let found = enriched(value, json!({ "twin": twin }));
        assert_eq!(found, Ok(Some(expected.into())), "{value}");
    }
    let without_twin = enriched("$twin.tags.text", json!({}));
    assert_eq!(without_twin, Ok(Some("$twin.tags.text".into())));
    // It takes the place of what the sender set.
    let overwritten = enriched("new", json!({"message": {"appProperties": {"k": "old"}}}));
    assert_eq!(overwritten, Ok(Some("new".into())));
    let of_digital_twins = enriched("new", json!({"routingSource": "DigitalTwinChangeEvents"}));
    assert_eq!(of_digital_twins, Ok(None));
}

#[test]
fn enrichments_are_for_their_endpoints_only() {
    let routing = routing(json!({
        "endpoints": {"streams": [stream("a"), stream("b")]},
        "enrichments": [
            {"key": "k", "value": "1", "endpointNames": ["a"]},
            {"key": "k", "value": "2", "endpointNames": ["events", "b"]},
        ],
    }));
    let trial = with(json!({}));
    for (name, expected) in [("a", "1"), ("b", "2"), ("EVENTS", "2")] {
        let endpoint = routing.endpoint_id(name).unwrap();
        let bag = routing
            .enrich(endpoint, &trial.message(NOW), "h")
            .unwrap()
            .unwrap();
        assert_eq!(bag.as_str(), format!("k={expected}"), "{name}");
    }
    assert_eq!(routing.endpoint_id("c"), None);
    assert_eq!(
        Routing::default().enrich(EndpointId::EVENTS, &trial.message(NOW), "h"),
        Ok(None)
    );
}

#[test]
fn a_message_that_enrichments_make_too_large_is_dropped() {
    // Key and value have two bytes together.
    let message = |bytes: usize| json!({"message": {"body": "x".repeat(bytes)}});
    assert_eq!(
        enriched("v", message(limits::D2C_MESSAGE_BYTES - 2)),
        Ok(Some("v".into()))
    );
    let error = enriched("v", message(limits::D2C_MESSAGE_BYTES - 1)).unwrap_err();
    assert_eq!(error.size, limits::D2C_MESSAGE_BYTES + 1);
}

#[test]
fn an_explanation_says_what_every_route_makes_of_a_message() {
    let mut off = route("off", "true", "s");
    off["isEnabled"] = json!(false);
    let routing = routing(json!({
        "endpoints": {"streams": [stream("s")]},
        "routes": [
            route("yes", "level = 'hot'", "s"),
            off,
            {"name": "twins", "source": "TwinChangeEvents", "endpointNames": ["s"]},
            route("no", "level = 'cold'", "events"),
            route("unknown", "level = 'hot' AND $body.a = 1 AND other = 'x'", "events"),
            route("types", "$twin.tags.n = 'x'", "events"),
        ],
        "fallbackRoute": {"isEnabled": true},
        "enrichments": [{"key": "site", "value": "$twin.tags.site", "endpointNames": ["s"]}],
    }));
    let hot = trial(json!({
        "message": {"body": "x", "appProperties": {"level": "hot"}},
        "twin": {"tags": {"site": "43", "n": 1}},
    }));
    let explanation = routing.explain(&hot.message(NOW), "h");
    assert_eq!(explanation.decision, routing.decide(&hot.message(NOW)));
    assert_eq!(
        explanation.to_json(),
        json!({
            "routes": [
                {"name": "yes", "endpoint": "s", "matched": true},
                {"name": "off", "endpoint": "s", "matched": false, "reason": "the route is not enabled"},
                {"name": "twins", "endpoint": "s", "matched": false, "reason": "the route is for another source"},
                {"name": "no", "endpoint": "events", "matched": false, "reason": "the condition is false"},
                {"name": "unknown", "endpoint": "events", "matched": false,
                 "reason": "the condition is undefined: $body.a has no value, \
                            the message's content type is not application/json"},
                {"name": "types", "endpoint": "events", "matched": false,
                 "reason": "the condition is undefined: operands of different types"},
            ],
            "fallbackRoute": {"name": "$fallback", "endpoint": "events", "matched": false,
                              "reason": "another route takes the message"},
            "endpoints": [{"name": "s", "enrichments": {"site": "43"}, "dropped": false}],
        })
    );
    let cold = routing.explain(&with(json!({})).message(NOW), "h").to_json();
    assert_eq!(cold["fallbackRoute"]["matched"], json!(true));
    assert_eq!(
        cold["endpoints"],
        json!([{"name": "events", "enrichments": {}, "dropped": false}])
    );
    let twin = routing
        .explain(
            &trial(json!({"routingSource": "TwinChangeEvents"})).message(NOW),
            "h",
        )
        .to_json();
    assert_eq!(
        twin["fallbackRoute"]["reason"],
        json!("the route is for another source")
    );
    assert_eq!(
        twin["routes"][0]["reason"],
        json!("the route is for another source")
    );
}

#[test]
fn mistakes_in_a_message_are_named() {
    for (value, expected) in [
        (json!(1), "test: must be an object"),
        (
            json!({"routingSource": "x"}),
            "test: unknown routingSource \"x\"; known are DeviceMessages",
        ),
        (json!({"twin": 1}), "test: twin must be an object"),
        (
            json!({"message": {"properties": {}}}),
            "message: unknown member \"properties\"",
        ),
        (
            json!({"message": {"appProperties": {"a": 1}}}),
            "message: appProperties: \"a\" must be a string",
        ),
        (
            json!({"message": {"systemProperties": {"conentType": "x"}}}),
            "message: systemProperties: unknown system property \"conentType\"",
        ),
        (
            json!({"message": {"systemProperties": {"connectionDeviceId": "a b"}}}),
            "message: systemProperties: connectionDeviceId: the id contains the character ' '",
        ),
        (
            json!({"message": {"body": "x".repeat(limits::D2C_MESSAGE_BYTES + 1)}}),
            "message: the message has more than 262144 bytes",
        ),
    ] {
        let text = Trial::from_json(&value).unwrap_err().to_string();
        assert!(text.starts_with(expected), "{text}");
    }
}

/// A twin that counts how often it is looked at.
struct Counted(std::cell::Cell<u32>);

impl SenderTwin for Counted {
    fn look(&self, look: &mut dyn FnMut(&dyn Row)) {
        self.0.set(self.0.get() + 1);
        look(&json!({"tags": {"a": "1", "b": "2"}}));
    }
}

#[test]
fn the_twin_is_looked_at_once_and_only_if_a_condition_comes_to_it() {
    let routes: Vec<Json> = (0..50)
        .map(|i| {
            route(
                &format!("r{i}"),
                "level = 'hot' AND $twin.tags.a = '1' AND $twin.tags.b = '2'",
                "events",
            )
        })
        .collect();
    let routing = routing(json!({ "routes": routes }));
    for (level, looks) in [("hot", 1), ("cold", 0)] {
        let twin = Counted(0.into());
        let trial = with(json!({ "level": level }));
        let message = Message {
            twin: Some(&twin),
            ..trial.message(NOW)
        };
        assert_eq!(routing.decide(&message).routes.is_empty(), looks == 0);
        assert_eq!(twin.0.get(), looks, "{level}");
    }
}

/// A message as conditions describe it, without anything that makes it fast:
/// the reference for [`Routing::decide`].
struct Naive<'a>(&'a Trial);

impl Row<crate::query::Reference> for Naive<'_> {
    fn get(&self, reference: &crate::query::Reference) -> QueryValue<'_> {
        use crate::query::{Reference, Step, SystemReference};
        let message = self.0.message(NOW);
        let properties = message.bag.decode();
        let application = |name: &str| {
            let found = properties
                .application
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone())
        };
        let walk = |json: Option<Json>, steps: &[Step]| {
            let step = |json: Option<Json>, step: &Step| match step {
                Step::Key(key) => json?.get(&**key).cloned(),
                Step::Index(index) => json?.get(*index).cloned(),
            };
            steps.iter().fold(json, step)
        };
        let text = |found: Option<String>| found.map_or(QueryValue::Undefined, QueryValue::from);
        match reference {
            Reference::Property(name) => text(application(name)),
            Reference::System {
                property: SystemReference::MessageId,
                only_system,
            } => {
                let own = properties
                    .system
                    .get(&crate::property_bag::SystemProperty::MessageId)
                    .cloned();
                text(own.or_else(|| application("$messageId").filter(|_| !only_system)))
            }
            Reference::System {
                property: SystemReference::ConnectionDeviceId,
                ..
            } => text(Some(message.origin.target.device.to_string())),
            Reference::Body(steps) => {
                let is_json = properties
                    .system
                    .get(&crate::property_bag::SystemProperty::ContentType)
                    .is_some();
                let json = serde_json::from_slice(message.body).ok().filter(|_| is_json);
                walk(json, steps).map_or(QueryValue::Undefined, |json| QueryValue::from(&json).into_owned())
            }
            Reference::Twin(path, steps) => {
                let mut found = QueryValue::Undefined;
                if let Some(twin) = message.twin {
                    twin.look(&mut |row| found = row.get(path as &Path).into_owned());
                }
                match steps.is_empty() {
                    true => found,
                    false => walk(found.into_json(), steps)
                        .map_or(QueryValue::Undefined, |json| QueryValue::from(&json).into_owned()),
                }
            }
            other => panic!("no model of {other}"),
        }
    }
}

fn condition() -> impl Strategy<Value = String> {
    let operand = prop::sample::select(vec![
        "a",
        "B",
        "$messageId",
        "{$messageId}",
        "$connectionDeviceId",
        "$body.x",
        "$body.l[0].y",
        "$twin.tags.t",
        "$twin.tags.l[1]",
        "$twin.properties.reported.r",
        "'1'",
        "'x'",
        "LOWER(a)",
        "a || B",
    ]);
    let comparison = (
        operand.clone(),
        prop::sample::select(vec!["=", "!=", "<", ">="]),
        operand,
    )
        .prop_map(|(a, op, b)| format!("{a} {op} {b}"));
    let leaf = prop_oneof![
        4 => comparison,
        1 => prop::sample::select(vec!["true", "", "$body.x = 1", "$body.flag", "IS_DEFINED(a)", "$twin.tags.n > 2"])
            .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(3, 12, 2, |inner| {
        let inner = inner.prop_map(|text| if text.is_empty() { "true".to_owned() } else { text });
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) AND ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) OR ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) ?? ({b})")),
            inner.prop_map(|a| format!("NOT ({a})")),
        ]
    })
}

fn message() -> impl Strategy<Value = Json> {
    let text = || prop::sample::select(vec!["1", "x", "X", "é &=%", ""]);
    let json = || {
        prop::sample::select(vec![
            json!(1),
            json!("1"),
            json!("x"),
            json!(null),
            json!({"y": "x"}),
            json!([{"y": 1}, "x"]),
        ])
    };
    (
        prop::sample::select(vec!["DeviceMessages", "TwinChangeEvents"]),
        prop::collection::btree_map(
            prop::sample::select(vec!["a", "b", "c", "$messageId"]),
            text(),
            0..4,
        ),
        prop::option::of(text()),
        prop::collection::btree_map(prop::sample::select(vec!["x", "l", "flag"]), json(), 0..3),
        prop::collection::btree_map(prop::sample::select(vec!["t", "l", "n"]), json(), 0..3),
        (json(), any::<bool>(), any::<bool>()),
    )
        .prop_map(
            |(source, properties, id, body, tags, (reported, has_twin, is_json))| {
                let mut system = serde_json::Map::new();
                system.extend(id.map(|id| ("messageId".to_owned(), json!(id))));
                let body = if is_json {
                    json!(body)
                } else {
                    json!(json!(body).to_string())
                };
                let twin =
                    has_twin.then(|| json!({"tags": tags, "properties": {"reported": {"r": reported}}}));
                json!({
                    "routingSource": source,
                    "message": {"body": body, "appProperties": properties, "systemProperties": system},
                    "twin": twin,
                })
            },
        )
}

proptest! {
    #[test]
    fn a_decision_is_that_of_each_route_alone(
        routes in prop::collection::vec(
            (condition(), prop::sample::select(vec!["DeviceMessages", "TwinChangeEvents"]), 0..4_usize, any::<bool>()),
            0..8,
        ),
        fallback in any::<bool>(),
        message in message(),
    ) {
        let names = ["events", "s0", "s1", "s2"];
        let list: Vec<Json> = routes
            .iter()
            .enumerate()
            .map(|(i, (condition, source, endpoint, enabled))| json!({
                "name": format!("r{i}"), "source": source, "condition": condition,
                "endpointNames": [names[*endpoint]], "isEnabled": enabled,
            }))
            .collect();
        let value = json!({
            "endpoints": {"streams": [stream("s0"), stream("s1"), stream("s2")]},
            "routes": list,
            "fallbackRoute": {"isEnabled": fallback},
        });
        // Some operands' types do not go together.
        let Ok(routing) = Routing::from_json(&value) else { return Ok(()) };
        prop_assert_eq!(routing.to_json(), Routing::from_json(&routing.to_json()).unwrap().to_json());
        let trial = Trial::from_json(&message).unwrap();
        let view = trial.message(NOW);
        let mut expected = Decision::default();
        for (place, route) in routing.routes().iter().enumerate() {
            let matches = route.condition.condition.outcome(&Naive(&trial)) == Some(true);
            if matches && route.is_enabled && route.source == view.source {
                expected.routes.insert(u8::try_from(place).unwrap());
                expected.endpoints.insert(route.endpoint);
            }
        }
        if expected.routes.is_empty() && fallback && view.source == Source::Telemetry {
            expected.fallback = true;
            expected.endpoints = EndpointSet::EVENTS;
        }
        prop_assert_eq!(routing.decide(&view), expected);
        let explanation = routing.explain(&view, "h");
        for (place, outcome) in explanation.routes.iter().enumerate() {
            prop_assert_eq!(outcome.verdict == Verdict::Matched, expected.routes.contains(place));
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(
        text in "([a-z$.\\[\\]{}()0-9'\"|?/*<>=! \n,+-]|AND|NOT|\\$body\\.|\\$twin\\.tags|twin_change_includes\\(|LENGTH\\(|é|😀){0,40}",
    ) {
        let source = Source::TwinChange;
        if let Ok(condition) = RouteCondition::parse(&text, source) {
            let trial = with(json!({"a": "x"}));
            let message = Message { source, ..trial.message(NOW) };
            let mut lookups = Lookups::default();
            let compiled = lookups.compile(&condition.condition);
            let _ = compiled.outcome(&Evaluation::new(&lookups, &message));
        }
    }

    #[test]
    fn any_bag_and_body_can_be_routed(text in "(level|a|%24.ct|%24.ce|[%&=]|application%2Fjson|utf-(8|16)|%[0-9a-f]{2}){0,20}", body: Vec<u8>) {
        let Ok(bag) = Bag::parse(&text) else { return Ok(()) };
        let routing = routing(json!({"routes": [route("r", "level = 'a' OR $body.x = 1 OR $contentType = 'b'", "events")]}));
        let origin = Origin { target: Target::device(DeviceId::parse("d").unwrap()), sender: None };
        let message = Message {
            source: Source::Telemetry, origin: &origin, bag: &bag, body: &body, enqueued: NOW, twin: None,
        };
        let level = bag.decode().application.iter().any(|(key, value)| key == "level" && value == "a");
        if level {
            prop_assert!(!routing.decide(&message).routes.is_empty());
        } else {
            routing.decide(&message);
        }
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
