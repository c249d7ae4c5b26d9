//! The query route: item types, projections, groups and refusals. What
//! conditions mean is tested where they are evaluated.

use emulator::Hub;
use hub_core::error::ErrorCode;
use hub_core::limits;
use hub_core::query::Dialect;
use serde_json::{Value, json};

use crate::support::answering::{Answer, AnsweringDevice};
use crate::support::jobs::{create, ended, twin_job};
use crate::support::rest::{Rest, start};
use crate::support::wait_for;

/// Registers devices `{prefix}000` and so on, each with its number as a tag.
pub(super) fn register(hub: &Hub, prefix: &str, numbers: std::ops::Range<usize>) {
    let lines: Vec<String> = numbers
        .map(|n| {
            json!({"deviceId": format!("{prefix}{n:03}"), "tags": {"n": n, "odd": n % 2 == 1}}).to_string()
        })
        .collect();
    hub.import(&lines.join("\n")).unwrap();
}

#[tokio::test]
async fn the_item_type_says_what_the_rows_are() {
    let (hub, rest) = start().await;
    register(&hub, "d", 0..1);
    for (query, item_type) in [
        ("SELECT * FROM devices", "Twin"),
        ("select * from devices where tags.n = 5", "Twin"),
        ("SELECT * FROM devices.modules", "Twin"),
        ("SELECT TOP 1 * FROM devices", "Twin"),
        ("SELECT deviceId FROM devices", "Raw"),
        ("SELECT COUNT() AS n FROM devices", "Raw"),
        ("SELECT tags.n, COUNT() AS n FROM devices GROUP BY tags.n", "Raw"),
        ("SELECT * FROM devices.jobs", "DeviceJob"),
        (
            "SELECT * FROM devices.jobs WHERE devices.jobs.jobId = 'x'",
            "DeviceJob",
        ),
    ] {
        let reply = rest.query(query).await;
        assert!(reply.ok().is_array(), "{query}");
        assert_eq!(reply.header("x-ms-item-type"), Some(item_type), "{query}");
        assert_eq!(reply.header("x-ms-continuation"), None, "{query}");
    }
}

#[tokio::test]
async fn rows_are_the_twins_themselves() {
    let (_hub, rest) = start().await;
    rest.create("d").await;
    rest.put("/devices/d/modules/m", &json!({})).await.ok();
    rest.put("/devices/off", &json!({"status": "disabled"}))
        .await
        .ok();
    rest.patch(
        "/twins/d",
        &json!({"tags": {"a": [1]}, "properties": {"desired": {"b": {"c": 1}}}}),
    )
    .await
    .ok();
    let (d, off) = (rest.get("/twins/d").await.ok(), rest.get("/twins/off").await.ok());
    assert_eq!(rest.query("SELECT * FROM devices").await.ok(), json!([d, off]));
    let m = rest.get("/twins/d/modules/m").await.ok();
    assert_eq!(rest.query("SELECT * FROM devices.modules").await.ok(), json!([m]));
}

#[tokio::test]
async fn projections_name_their_columns() {
    let (hub, rest) = start().await;
    rest.create("a").await;
    rest.put(
        "/devices/b",
        &json!({"status": "disabled", "capabilities": {"iotEdge": true}}),
    )
    .await
    .ok();
    rest.patch(
        "/twins/a",
        &json!({"tags": {"location": {"region": "US"}}, "properties": {"desired": {"x": 1}}}),
    )
    .await
    .ok();
    let _device = AnsweringDevice::connect(&hub, "a", Answer::Nothing).await;
    for (query, expected) in [
        (
            "SELECT deviceId, tags.location.region FROM devices",
            json!([{"deviceId": "a", "region": "US"}, {"deviceId": "b"}]),
        ),
        (
            "SELECT DEVICEID, ConnectionState FROM devices WHERE status = 'enabled'",
            json!([{"deviceId": "a", "connectionState": "Connected"}]),
        ),
        (
            "SELECT id AS Name, capabilities.iotedge AS IotEdge FROM devices",
            json!([{"Name": "a", "IotEdge": false}, {"Name": "b", "IotEdge": true}]),
        ),
        (
            "SELECT version, properties.desired.$version AS v, properties.desired.x FROM devices WHERE deviceId = 'a'",
            json!([{"version": 3, "v": 2, "x": 1}]),
        ),
        (
            "SELECT tags FROM devices WHERE STARTSWITH(id, 'a')",
            json!([{"tags": {"location": {"region": "US"}}}]),
        ),
        (
            "SELECT statusReason, nothing FROM devices WHERE id = 'b'",
            json!([{"statusReason": null}]),
        ),
        (
            "SELECT devices.deviceId FROM devices WHERE devices.tags.location.region IN ['US', 'DE']",
            json!([{"deviceId": "a"}]),
        ),
        (
            "SELECT deviceId FROM devices WHERE NOT IS_DEFINED(tags.location)",
            json!([{"deviceId": "b"}]),
        ),
    ] {
        let reply = rest.query(query).await;
        assert_eq!(reply.ok(), expected, "{query}");
    }
}

/// A path gives the same as in the twin's document, wherever it ends.
#[tokio::test]
async fn projections_of_whole_sections_show_what_the_document_shows() {
    let (_hub, rest) = start().await;
    rest.create("d").await;
    rest.patch(
        "/twins/d",
        &json!({"tags": {"t": {"u": 1}}, "properties": {"desired": {"a": {"b": [1]}, "c": 2}}}),
    )
    .await
    .ok();
    let twin = rest.get("/twins/d").await.ok();
    for path in [
        "properties",
        "properties.desired",
        "properties.reported",
        "properties.desired.a",
        "properties.desired.a.b",
        "properties.desired.$version",
        "properties.desired.$metadata",
        "properties.desired.$metadata.$lastUpdated",
        "properties.desired.$metadata.$lastUpdatedVersion",
        "properties.desired.$metadata.a",
        "properties.desired.$metadata.a.b",
        "properties.desired.$metadata.a.b.$lastUpdated",
        "properties.reported.$metadata",
        "properties.reported.$version",
        "tags",
        "tags.t",
        "tags.t.u",
        "capabilities",
        "x509Thumbprint",
        "deviceEtag",
        "etag",
        "statusUpdateTime",
        "authenticationType",
        "modelId",
    ] {
        let expected = path.split('.').fold(&twin, |value, key| &value[key]);
        assert!(!expected.is_null(), "{path}");
        let rows = rest
            .query(&format!("SELECT {path} AS value FROM devices"))
            .await
            .ok();
        assert_eq!(rows, json!([{ "value": expected }]), "{path}");
        let defined = rest
            .query(&format!("SELECT deviceId FROM devices WHERE IS_DEFINED({path})"))
            .await
            .ok();
        assert_eq!(defined, json!([{"deviceId": "d"}]), "{path}");
    }
    for path in [
        "properties.desired.$metadata.x",
        "properties.desired.$metadata.a.$other",
        "properties.desired.$version.x",
        "properties.desired.x.$version",
        "tags.t.u.v",
        "etag.x",
        "status.x",
        "configurations",
    ] {
        let rows = rest
            .query(&format!("SELECT {path} AS value FROM devices"))
            .await
            .ok();
        assert_eq!(rows, json!([{}]), "{path}");
    }
}

#[tokio::test]
async fn groups_are_counted_over_all_devices() {
    let (hub, rest) = start().await;
    register(&hub, "d", 0..250);
    rest.create("untagged").await;
    for (query, expected) in [
        ("SELECT COUNT() AS n FROM devices", json!([{"n": 251}])),
        (
            "SELECT COUNT() FROM devices WHERE tags.odd = true",
            json!([{"count": 125}]),
        ),
        (
            "SELECT COUNT() AS n FROM devices WHERE tags.n > 1000",
            json!([{"n": 0}]),
        ),
        (
            "SELECT tags.odd AS odd, COUNT() AS n, SUM(tags.n) AS s, MIN(tags.n) AS low, MAX(tags.n) AS high, \
             AVG(tags.n) AS mean FROM devices WHERE IS_DEFINED(tags.odd) GROUP BY tags.odd",
            json!([
                {"odd": false, "n": 125, "s": 15500, "low": 0, "high": 248, "mean": 124},
                {"odd": true, "n": 125, "s": 15625, "low": 1, "high": 249, "mean": 125},
            ]),
        ),
    ] {
        let reply = rest.query(query).await;
        assert_eq!(sorted(reply.ok()), sorted(expected), "{query}");
        assert_eq!(reply.header("x-ms-item-type"), Some("Raw"));
        assert_eq!(reply.header("x-ms-continuation"), None);
    }
    let reply = rest
        .query("SELECT tags.odd AS odd, COUNT() AS n FROM devices GROUP BY tags.odd")
        .await;
    let groups = reply.ok();
    assert_eq!(groups.as_array().unwrap().len(), 3);
    assert!(groups.as_array().unwrap().contains(&json!({"n": 1})), "{groups}");
}

/// Rows in an order of their own, numbers as fractions.
fn sorted(rows: Value) -> Vec<String> {
    let Value::Array(rows) = rows else {
        panic!("{rows} is no array")
    };
    let mut rows: Vec<String> = rows
        .into_iter()
        .map(|mut row| {
            for value in row.as_object_mut().unwrap().values_mut() {
                if let Some(number) = value.as_f64() {
                    *value = number.into();
                }
            }
            row.to_string()
        })
        .collect();
    rows.sort();
    rows
}

#[tokio::test]
async fn connection_and_reported_properties_show_at_once() {
    let (hub, rest) = start().await;
    register(&hub, "d", 0..3);
    let device = AnsweringDevice::connect(&hub, "d001", Answer::Nothing).await;
    let connected = "SELECT deviceId FROM devices WHERE connectionState = 'Connected'";
    assert_eq!(rest.query(connected).await.ok(), json!([{"deviceId": "d001"}]));
    device.publish(
        "$iothub/twin/PATCH/properties/reported/?$rid=1",
        br#"{"temp":21.5}"#,
    );
    wait_for("the reported property", async || {
        let rows = rest
            .query("SELECT deviceId FROM devices WHERE properties.reported.temp > 21")
            .await
            .ok();
        if rows == json!([{"deviceId": "d001"}]) {
            Ok(())
        } else {
            Err(rows)
        }
    })
    .await;
    rest.delete("/devices/d001").await.no_content();
    assert_eq!(rest.query(connected).await.ok(), json!([]));
}

#[tokio::test]
async fn bad_queries_are_refused_with_their_place() {
    let (_hub, rest) = start().await;
    for (query, text) in [
        ("SELECT * FROM devices WHERE", "Line 1:28 Unexpected end of input"),
        ("SELECT * FROM devices WHERE tags.a = ", "Line 1:38"),
        ("SELECT * FROM devices\nWHERE tags.a ~ 1", "Line 2:14"),
        (
            "SELECT * FROM things",
            "Line 1:15 Unexpected character at input 'things'",
        ),
        (
            "SELECT * FROM devices ORDER BY deviceId",
            "Line 1:23 Unexpected character at input 'ORDER'",
        ),
        (
            "DELETE FROM devices",
            "Line 1:1 Unexpected character at input 'DELETE'",
        ),
        ("SELECT * FROM devices WHERE FOO(tags.a)", "Line 1:29"),
        (
            "SELECT deviceId FROM devices.jobs",
            "Line 1:8 devices.jobs can be queried with SELECT * only",
        ),
        ("SELECT * FROM devices.jobs WHERE tags.a = 1", "Line 1:34"),
        ("SELECT deviceId, COUNT() AS n FROM devices", "Line 1:8"),
        ("SELECT * FROM devices WHERE 'open", "Line 1:29"),
    ] {
        let message = rest.query(query).await.refused(ErrorCode::ArgumentInvalid);
        let place = message.strip_prefix("SQL query parse failed due to following errors: ");
        assert!(
            place.is_some_and(|place| place.starts_with(text)),
            "{query}: {message}"
        );
    }
    let long = format!(
        "SELECT * FROM devices WHERE deviceId = '{}'",
        "x".repeat(limits::QUERY_CHARS)
    );
    let message = rest.query(&long).await.refused(ErrorCode::ArgumentInvalid);
    assert!(
        message.ends_with("Line 1:8193 The query is longer than 8192 characters"),
        "{message}"
    );
    for deep in [
        "(".repeat(2000),
        "NOT ".repeat(2000),
        "-".repeat(5000),
        "ABS(".repeat(2000),
    ] {
        let query = format!("SELECT * FROM devices WHERE {deep}");
        let message = rest.query(&query).await.refused(ErrorCode::ArgumentInvalid);
        assert!(message.starts_with("SQL query parse failed"), "{message}");
    }
}

/// What the service documents for message routing only, and one list in
/// parentheses; each finds the device `d000` alone.
const LENIENT: [&str; 6] = [
    "CONTAINS(deviceId, '000')",
    "LOWER(tags.odd) = 'true' OR LENGTH(deviceId) = 4 AND SUBSTRING(deviceId, 3) = '0'",
    "IS_NUMBER(tags.n) AND ABS(tags.n) < 1",
    "STARTS_WITH(deviceId, 'd') AND ENDS_WITH(deviceId, '0')",
    "CONCAT(deviceId, '!') = 'd000!'",
    "deviceId IN ('d000', 'none')",
];

#[tokio::test]
async fn functions_of_message_routing_are_refused_or_accepted_by_choice() {
    let (strict, rest) = start().await;
    register(&strict, "d", 0..3);
    for condition in LENIENT {
        let query = format!("SELECT deviceId FROM devices WHERE {condition}");
        let text = rest.query(&query).await.refused(ErrorCode::ArgumentInvalid);
        assert!(text.contains("Line 1:"), "{text}");
    }
    let hub = Hub::builder()
        .query_dialect(Dialect::Lenient)
        .start()
        .await
        .unwrap();
    let rest = Rest::of(&hub);
    register(&hub, "d", 0..3);
    for condition in LENIENT {
        let rows = rest
            .query(&format!("SELECT deviceId FROM devices WHERE {condition}"))
            .await
            .ok();
        assert_eq!(rows, json!([{"deviceId": "d000"}]), "{condition}");
    }
    // Jobs choose their devices in the same language.
    let job = twin_job(LENIENT[0], json!({}));
    create(&rest, "lenient", &job).await;
    assert_eq!(
        ended(&rest, "lenient").await["deviceJobStatistics"]["succeededCount"],
        1
    );
    create(&Rest::of(&strict), "strict", &job).await;
    let failed = ended(&Rest::of(&strict), "strict").await;
    assert_eq!(failed["status"], "failed");
    // Other rules are as they were.
    for query in [
        "SELECT LOWER(deviceId) FROM devices",
        "SELECT * FROM devices WHERE deviceId || 'x' = 'x'",
        "SELECT * FROM devices WHERE FROBNICATE(deviceId)",
        "SELECT deviceId FROM devices.jobs",
    ] {
        rest.query(query).await.refused(ErrorCode::ArgumentInvalid);
    }
    // A configuration is the service's in any case.
    let body = json!({"targetCondition": "CONTAINS(deviceId, '0')", "customMetricQueries": {}});
    let verdict = rest.post("/configurations/testQueries", &body).await.ok();
    assert!(verdict["targetConditionError"].is_string(), "{verdict}");
}

#[tokio::test]
async fn a_query_request_must_have_a_text() {
    let (_hub, rest) = start().await;
    for body in [
        json!({}),
        json!({"query": null}),
        json!({"query": ""}),
        json!({"query": " \n"}),
        json!([]),
    ] {
        let text = rest
            .post("/devices/query", &body)
            .await
            .refused(ErrorCode::ArgumentNull);
        assert_eq!(text, "the query text is missing", "{body}");
    }
    let text = rest
        .post("/devices/query", &json!({"query": 5}))
        .await
        .refused(ErrorCode::ArgumentInvalid);
    assert_eq!(text, "the query must be a string");
}
