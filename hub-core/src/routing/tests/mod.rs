//! What routing does with messages.

mod config;
mod model;

use serde_json::{Value as Json, json};

use super::*;
use crate::limits;
use crate::query::Row;
use crate::time::Timestamp;

const NOW: Timestamp = Timestamp::NEVER;

fn routing(value: &Json) -> Routing {
    Routing::from_json(value).unwrap()
}

fn refusal(value: &Json) -> String {
    Routing::from_json(value).unwrap_err().to_string()
}

fn trial(value: &Json) -> Trial {
    Trial::from_json(value).unwrap()
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

fn with(properties: &Json) -> Trial {
    trial(&json!({ "message": { "appProperties": properties } }))
}

#[test]
fn without_configuration_telemetry_goes_to_the_built_in_endpoint() {
    let routing = Routing::default();
    assert!(routing.wants(Source::Telemetry) && !routing.wants(Source::TwinChange));
    let decision = routing.decide(&trial(&json!({})).message(NOW));
    assert!(decision.fallback);
    assert_eq!(decision.endpoints, EndpointSet::EVENTS);
}

#[test]
fn only_a_fallback_route_that_is_turned_off_drops_what_nothing_takes() {
    let taken = |fallback: Json| {
        let routing = routing(&json!({
            "routes": [route("hot", "level = 'hot'", "events")],
            "fallbackRoute": fallback,
        }));
        routing.decide(&trial(&json!({})).message(NOW)).fallback
    };
    for (fallback, expected) in [
        (Json::Null, true),
        (json!({}), true),
        (json!({"isEnabled": true}), true),
        (json!({"isEnabled": false}), false),
    ] {
        assert_eq!(taken(fallback.clone()), expected, "{fallback}");
    }
    assert!(
        routing(&json!({}))
            .decide(&trial(&json!({})).message(NOW))
            .fallback
    );
    assert_eq!(routing(&json!({})).to_json(), Routing::default().to_json());
}

#[test]
fn routes_decide_and_the_fallback_takes_the_rest() {
    let routing = routing(&json!({
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
    assert_eq!(destinations(&routing, &with(&json!({"level": "hot"}))), ["hot"]);
    let decision = routing.decide(&with(&json!({"level": "hot"})).message(NOW));
    assert_eq!(decision.routes.iter().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(
        destinations(&routing, &with(&json!({"Level": "warm", "keep": "yes"}))),
        ["events", "hot"]
    );
    let cold = routing.decide(&with(&json!({"level": "cold"})).message(NOW));
    assert!(cold.fallback && cold.routes.is_empty() && cold.endpoints == EndpointSet::EVENTS);
    // Another source is never the fallback's.
    for (source, expected) in [
        ("TwinChangeEvents", &["hook"][..]),
        ("DeviceLifecycleEvents", &[]),
        ("DeviceJobLifecycleEvents", &[]),
        ("DeviceConnectionStateEvents", &[]),
        ("DigitalTwinChangeEvents", &[]),
    ] {
        let event = trial(&json!({ "routingSource": source }));
        assert_eq!(destinations(&routing, &event), expected, "{source}");
        assert_eq!(
            routing.wants(event.message(NOW).source),
            !expected.is_empty(),
            "{source}"
        );
    }
}

#[test]
fn what_takes_everything_is_known_however_it_is_written() {
    let is_always = |text: &str| {
        RouteCondition::parse(text, Source::Telemetry)
            .unwrap()
            .is_always()
    };
    for text in ["", " ", "true", "TRUE", "(true)", "/* all of them */ true"] {
        assert!(is_always(text), "{text}");
    }
    for text in ["false", "a = 'true'", "NOT (false)"] {
        assert!(!is_always(text), "{text}");
    }
}

#[test]
fn the_fallback_route_may_be_off_or_have_a_condition() {
    let fallback = |fallback: Json| routing(&json!({ "fallbackRoute": fallback }));
    let off = fallback(json!({"endpointNames": ["events"], "isEnabled": false}));
    assert!(destinations(&off, &with(&json!({}))).is_empty() && !off.wants(Source::Telemetry));
    let picky = fallback(json!({"name": "$fallback", "condition": "a = '1'"}));
    assert_eq!(destinations(&picky, &with(&json!({"a": "1"}))), ["events"]);
    assert!(destinations(&picky, &with(&json!({"a": "2"}))).is_empty());
}

#[test]
fn a_hundred_routes_and_ten_endpoints_are_possible() {
    let names: Vec<String> = (0..limits::ROUTING_ENDPOINTS).map(|i| format!("e{i}")).collect();
    let endpoints: Vec<Json> = names.iter().map(|name| stream(name)).collect();
    let routes: Vec<Json> = (0..limits::ROUTES)
        .map(|i| route(&format!("r{i}"), &format!("p{i} = '1'"), &names[i % names.len()]))
        .collect();
    let mut value = json!({"endpoints": {"streams": endpoints}, "routes": routes});
    let all = routing(&value);
    let properties: serde_json::Map<String, Json> = (0..limits::ROUTES)
        .map(|i| (format!("P{i}"), json!("1")))
        .collect();
    let decision = all.decide(&with(&properties.into()).message(NOW));
    assert_eq!(
        (decision.routes.len(), decision.endpoints.iter().count()),
        (100, 10)
    );

    value["endpoints"]["streams"]
        .as_array_mut()
        .unwrap()
        .push(stream("e10"));
    assert_eq!(
        refusal(&value),
        "endpoints: there must not be more than 10 endpoints beside the built-in one"
    );
    value["endpoints"]["streams"].as_array_mut().unwrap().pop();
    value["routes"]
        .as_array_mut()
        .unwrap()
        .push(route("r100", "true", "e0"));
    assert_eq!(refusal(&value), "routes: there must not be more than 100 routes");
}

fn enriched(value: &str, message: &Json) -> Result<Option<String>, Oversized> {
    let routing = routing(&json!({
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
        let found = enriched(value, &json!({ "twin": twin }));
        assert_eq!(found, Ok(Some(expected.into())), "{value}");
    }
    let without_twin = enriched("$twin.tags.text", &json!({}));
    assert_eq!(without_twin, Ok(Some("$twin.tags.text".into())));
    // It takes the place of what the sender set.
    let overwritten = enriched("new", &json!({"message": {"appProperties": {"k": "old"}}}));
    assert_eq!(overwritten, Ok(Some("new".into())));
    let of_digital_twins = enriched("new", &json!({"routingSource": "DigitalTwinChangeEvents"}));
    assert_eq!(of_digital_twins, Ok(None));
}

#[test]
fn enrichments_are_for_their_endpoints_only() {
    let routing = routing(&json!({
        "endpoints": {"streams": [stream("a"), stream("b")]},
        "enrichments": [
            {"key": "k", "value": "1", "endpointNames": ["a"]},
            {"key": "k", "value": "2", "endpointNames": ["events", "b"]},
        ],
    }));
    let trial = with(&json!({}));
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
        enriched("v", &message(limits::D2C_MESSAGE_BYTES - 2)),
        Ok(Some("v".into()))
    );
    let error = enriched("v", &message(limits::D2C_MESSAGE_BYTES - 1)).unwrap_err();
    assert_eq!(error.size, limits::D2C_MESSAGE_BYTES + 1);
}

#[test]
fn an_explanation_says_what_every_route_makes_of_a_message() {
    let mut off = route("off", "true", "s");
    off["isEnabled"] = json!(false);
    let routing = routing(&json!({
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
    let hot = trial(&json!({
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
    let cold = routing.explain(&with(&json!({})).message(NOW), "h").to_json();
    assert_eq!(cold["fallbackRoute"]["matched"], json!(true));
    assert_eq!(
        cold["endpoints"],
        json!([{"name": "events", "enrichments": {}, "dropped": false}])
    );
    let twin = routing
        .explain(
            &trial(&json!({"routingSource": "TwinChangeEvents"})).message(NOW),
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
    let routing = routing(&json!({ "routes": routes }));
    for (level, looks) in [("hot", 1), ("cold", 0)] {
        let twin = Counted(0.into());
        let trial = with(&json!({ "level": level }));
        let message = Message {
            twin: Some(&twin),
            ..trial.message(NOW)
        };
        assert_eq!(routing.decide(&message).routes.is_empty(), looks == 0);
        assert_eq!(twin.0.get(), looks, "{level}");
    }
}
