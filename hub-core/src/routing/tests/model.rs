//! Decisions against a reference model that does everything the plain way, and
//! hostile texts.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::super::*;
use super::{NOW, route, routing, stream, with};
use crate::events::Origin;
use crate::ids::{DeviceId, Target};
use crate::query::{Path, Row, Value as QueryValue};

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
                    .contains_key(&crate::property_bag::SystemProperty::ContentType);
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
            let trial = with(&json!({"a": "x"}));
            let message = Message { source, ..trial.message(NOW) };
            let mut lookups = Lookups::default();
            let compiled = lookups.compile(&condition.condition);
            let _ = compiled.outcome(&Evaluation::new(&lookups, &message));
        }
    }

    #[test]
    fn any_bag_and_body_can_be_routed(text in "(level|a|%24.ct|%24.ce|[%&=]|application%2Fjson|utf-(8|16)|%[0-9a-f]{2}){0,20}", body: Vec<u8>) {
        let Ok(bag) = Bag::parse(&text) else { return Ok(()) };
        let routing = routing(&json!({"routes": [route("r", "level = 'a' OR $body.x = 1 OR $contentType = 'b'", "events")]}));
        let origin = Origin { target: Target::device(DeviceId::parse("d").unwrap()), sender: None };
        let message = Message {
            source: Source::Telemetry, origin: &origin, bag: &bag, body: &body, enqueued: NOW, twin: None,
        };
        let level = bag.decode().application.iter().any(|(key, value)| key == "level" && value == "a");
        // The other operands are looked at only if this one does not decide.
        let is_taken = !routing.decide(&message).routes.is_empty();
        prop_assert!(is_taken || !level);
    }
}
