//! Golden cases of documents and contents.

use serde_json::{Map, Value, json};

use super::*;
use crate::error::ErrorCode;
use crate::ids::ConfigurationId;
use crate::limits;
use crate::query::Query;
use crate::time::Timestamp;

fn id(text: &str) -> ConfigurationId {
    ConfigurationId::parse(text).unwrap()
}

fn spec(body: &Value) -> Result<ConfigurationSpec, ErrorCode> {
    ConfigurationSpec::from_json(body, &id("c")).map_err(|e| e.code)
}

fn device_content() -> Value {
    json!({"deviceContent": {"properties.desired.water": {"temperature": 66}}})
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(1_600_000_000 + seconds)
}

#[test]
fn a_fresh_configuration_reads_as_the_service_prints_it() {
    let body = json!({
        "id": "c", "labels": {"k": "v"}, "content": device_content(), "priority": 10,
        "targetCondition": "tags.environment='test'", "etag": "ignored", "createdTimeUtc": 5,
        "systemMetrics": {"queries": {"x": "not a query"}},
        "metrics": {"queries": {"pending": "SELECT deviceId FROM devices"}, "results": {"pending": 7}},
    });
    let configuration = Configuration::create(spec(&body).unwrap(), 1, at(0));
    let text = serde_json::to_string(&configuration.document(&MetricResults::default())).unwrap();
    assert_eq!(
        text,
        concat!(
            r#"{"id":"c","schemaVersion":"1.0","labels":{"k":"v"},"#,
            r#""content":{"deviceContent":{"properties.desired.water":{"temperature":66}}},"#,
            r#""targetCondition":"tags.environment='test'","#,
            r#""createdTimeUtc":"2020-09-13T12:26:40Z","lastUpdatedTimeUtc":"2020-09-13T12:26:40Z","#,
            r#""priority":10,"systemMetrics":{"results":{"appliedCount":0,"targetedCount":0},"queries":{"#,
            r#""appliedCount":"select deviceId from devices where configurations.[[c]].status = 'Applied'","#,
            r#""targetedCount":"select deviceId from devices where tags.environment='test'"}},"#,
            r#""metrics":{"results":{},"queries":{"pending":"SELECT deviceId FROM devices"}},"etag":"MA=="}"#,
        )
    );
}

#[test]
fn an_update_keeps_the_content() {
    let first = spec(&json!({"content": device_content(), "targetCondition": "*"})).unwrap();
    let first = Configuration::create(first, 1, at(0));
    let other = json!({
        "content": {"deviceContent": {"properties.desired.other": 1}}, "priority": 3,
        "labels": {"a": "b"}, "schemaVersion": "2.0",
    });
    let second = first.update(spec(&other).unwrap(), at(5)).unwrap();
    let document = serde_json::to_value(second.document(&MetricResults::default())).unwrap();
    assert_eq!(document["content"], device_content());
    assert_eq!(
        (&document["priority"], &document["etag"]),
        (&json!(3), &json!("MQ=="))
    );
    assert_eq!(document["schemaVersion"], "2.0");
    assert_eq!(document["targetCondition"], "");
    assert_eq!(document["createdTimeUtc"], "2020-09-13T12:26:40Z");
    assert_eq!(document["lastUpdatedTimeUtc"], "2020-09-13T12:26:45Z");
    // The condition must suit the content that stays.
    let modules = json!({
        "content": {"moduleContent": {"properties.desired.a": 1}},
        "targetCondition": "from devices.modules",
    });
    let refused = first.update(spec(&modules).unwrap(), at(5)).unwrap_err();
    assert_eq!(refused.code, ErrorCode::InvalidConfigurationTargetCondition);
}

#[test]
fn every_system_metric_can_be_run() {
    for (content, condition, names) in [
        (device_content(), "", 2),
        (device_content(), "*", 2),
        (device_content(), "from devices where deviceId = 'd'", 2),
        (
            json!({"moduleContent": {"properties.desired.a": 1}}),
            "from devices.modules where moduleId = 'm'",
            2,
        ),
        (
            json!({"modulesContent": {"$edgeAgent": {}}}),
            "tags.a = 1 or tags.b = 2",
            4,
        ),
        (json!({"modulesContent": {"$edgeAgent": {}}}), "*", 4),
        (json!({"modulesContent": {"$edgeAgent": {}}}), "", 4),
    ] {
        let body = json!({"content": content, "targetCondition": condition});
        let everything = id("a0-+%_*!'");
        let spec = ConfigurationSpec::from_json(&body, &everything).unwrap();
        let metrics = Configuration::create(spec, 1, at(0)).system_metrics();
        assert_eq!(metrics.len(), names);
        for (name, query) in metrics {
            assert!(Query::parse(&query).is_ok(), "{name}: {query}");
        }
    }
}

#[test]
fn members_have_their_types_and_bounds() {
    use ErrorCode::{ArgumentInvalid, InvalidConfigurationCustomMetricsQuery as BadMetric};
    let many: Map<_, _> = (0..=limits::CONFIGURATION_METRICS)
        .map(|n| (n.to_string(), json!("SELECT * FROM devices")))
        .collect();
    for (member, value, expected) in [
        ("id", json!("other"), ArgumentInvalid),
        ("id", json!(1), ArgumentInvalid),
        ("priority", json!(-1), ArgumentInvalid),
        ("priority", json!(1.5), ArgumentInvalid),
        ("priority", json!("1"), ArgumentInvalid),
        ("priority", json!(u64::MAX), ArgumentInvalid),
        ("labels", json!([]), ArgumentInvalid),
        ("labels", json!({"a": 1}), ArgumentInvalid),
        ("labels", json!({"a": "x".repeat(8192)}), ArgumentInvalid),
        ("schemaVersion", json!(2), ArgumentInvalid),
        ("schemaVersion", json!("x".repeat(33)), ArgumentInvalid),
        ("targetCondition", json!(true), ArgumentInvalid),
        (
            "targetCondition",
            json!("tags.a ="),
            ErrorCode::InvalidConfigurationTargetCondition,
        ),
        ("metrics", json!("x"), ArgumentInvalid),
        ("metrics", json!({"queries": []}), ArgumentInvalid),
        ("metrics", json!({"queries": {"a": 1}}), BadMetric),
        ("metrics", json!({"queries": {"a": "SELECT"}}), BadMetric),
        (
            "metrics",
            json!({"queries": {"": "SELECT * FROM devices"}}),
            BadMetric,
        ),
        (
            "metrics",
            json!({"queries": {"a": "SELECT * FROM devices.jobs"}}),
            BadMetric,
        ),
        ("metrics", json!({"queries": many}), BadMetric),
        ("content", json!(null), ErrorCode::InvalidConfigurationContent),
    ] {
        let mut body = json!({"content": device_content()});
        body[member] = value;
        assert_eq!(spec(&body).unwrap_err(), expected, "{member}");
    }
    for body in [json!([]), json!("x"), json!(null)] {
        assert_eq!(spec(&body).unwrap_err(), ArgumentInvalid);
    }
    let nulls = json!({
        "id": null, "priority": null, "labels": null, "schemaVersion": null,
        "targetCondition": null, "metrics": null, "content": device_content(),
    });
    assert!(spec(&nulls).is_ok());
}

#[test]
fn content_is_of_one_kind_and_fits_a_twin() {
    let deep = format!("properties.desired{}", ".a".repeat(100_000));
    let big: Map<_, _> = (0..9).map(|n| (n.to_string(), json!("x".repeat(4000)))).collect();
    let modules: Map<_, _> = (0..51).map(|n| (format!("m{n}"), json!({}))).collect();
    let nested = (0..11).fold(json!(1), |inner, _| json!({ "o": inner }));
    for (content, legal) in [
        (json!({"deviceContent": {}}), true),
        (json!({"deviceContent": {"properties.desired": {"a": 1}}}), true),
        (json!({"deviceContent": {"properties.desired.a": null}}), true),
        (
            json!({"deviceContent": {"properties.desired.a": {"b": 1}, "properties.desired.a.c": 2}}),
            true,
        ),
        (
            json!({"deviceContent": {"properties.desired.a": 1}, "modulesContent": {}, "moduleContent": null}),
            true,
        ),
        (
            json!({"moduleContent": {"properties.desired.a": [1, {"b": 2}]}}),
            true,
        ),
        (
            json!({"modulesContent": {"$edgeAgent": {"properties.desired.modules.x": {}}}}),
            true,
        ),
        (json!({}), false),
        (json!([]), false),
        (json!({"deviceContent": 5}), false),
        (
            json!({
                "deviceContent": {"properties.desired.a": 1},
                "moduleContent": {"properties.desired.a": 1},
            }),
            false,
        ),
        (json!({"deviceContent": {"properties.reported.a": 1}}), false),
        (json!({"deviceContent": {"tags.a": 1}}), false),
        (json!({"deviceContent": {"properties.desired.": 1}}), false),
        (json!({"deviceContent": {"properties.desired.a..b": 1}}), false),
        (json!({"deviceContent": {"properties.desireda": 1}}), false),
        (json!({"deviceContent": {"properties.desired": 1}}), false),
        (
            json!({"deviceContent": {"properties.desired.$version": 1}}),
            false,
        ),
        (json!({"deviceContent": {"properties.desired.a b": 1}}), false),
        (json!({"deviceContent": {"properties.desired.a": [null]}}), false),
        (json!({"deviceContent": {"properties.desired.a": nested}}), false),
        (json!({"deviceContent": {deep: 1}}), false),
        (json!({"deviceContent": {"properties.desired": big}}), false),
        (
            json!({"deviceContent": {"properties.desired.a": 1, "properties.desired.a.b": 2}}),
            false,
        ),
        (json!({"modulesContent": {"m": {}}}), false),
        (json!({"modulesContent": {"$edgeAgent": 1}}), false),
        (json!({"modulesContent": {"$edgeAgent": {}, "a/b": {}}}), false),
        (json!({"modulesContent": modules}), false),
    ] {
        match Content::parse(&content) {
            Ok(_) => assert!(legal, "{content}"),
            Err(error) => {
                assert_eq!(error.code, ErrorCode::InvalidConfigurationContent);
                assert!(!legal, "{error} {content}");
                assert!(error.message.len() < 400);
            }
        }
    }
    // What is applied to one device may be about any of its modules.
    assert!(Content::parse_part(&json!({"modulesContent": {"m": {}}})).is_ok());
}

#[test]
fn a_deployment_names_its_modules() {
    let base = json!({"modulesContent": {
        "$edgeAgent": {"properties.desired": {"modules": {"sensor": {}, "no/id": {}}}},
        "$edgeHub": {"properties.desired": {"routes": {}}},
        "filter": {"properties.desired": {"a": 1}},
    }});
    let base = Content::parse(&base).unwrap();
    let names: Vec<String> = base.deployed_modules().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["filter", "sensor"]);
    assert!(base.is_base_deployment());
    let layer = json!({"modulesContent": {"$edgeAgent": {"properties.desired.modules.more": {"v": 1}}}});
    let layer = Content::parse(&layer).unwrap();
    assert!(!layer.is_base_deployment());
    assert_eq!(layer.deployed_modules().len(), 1);
}

#[test]
fn queries_are_tried_without_creating_anything() {
    let verdict = |body| serde_json::to_value(test_queries(&body).unwrap()).unwrap();
    assert_eq!(
        verdict(json!({})),
        json!({"targetConditionError": null, "customMetricQueryErrors": {}})
    );
    let mixed = verdict(json!({
        "targetCondition": "tags.a = ",
        "customMetricQueries": {"good": "SELECT * FROM devices", "bad": "SELECT", "worse": 1},
    }));
    assert!(mixed["targetConditionError"].is_string());
    let named: Vec<_> = mixed["customMetricQueryErrors"]
        .as_object()
        .unwrap()
        .keys()
        .collect();
    assert_eq!(named, ["bad", "worse"]);
    assert!(test_queries(&json!([])).is_err());
    assert!(test_queries(&json!({"targetCondition": 1})).is_err());
}
