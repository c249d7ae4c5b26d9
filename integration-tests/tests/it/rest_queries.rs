//! The query route: item types, pages, projections, groups and refusals.
//! What conditions mean is tested where they are evaluated.

use std::collections::BTreeSet;

use emulator::Hub;
use hub_core::error::ErrorCode;
use hub_core::limits;
use serde_json::{Value, json};

use crate::support::answering::{Answer, AnsweringDevice};
use crate::support::rest::{Reply, Rest, start};
use crate::support::wait_for;

/// Registers devices `{prefix}000` and so on, each with its number as a tag.
fn register(hub: &Hub, prefix: &str, numbers: std::ops::Range<usize>) {
    let lines: Vec<String> = numbers
        .map(|n| {
            json!({"deviceId": format!("{prefix}{n:03}"), "tags": {"n": n, "odd": n % 2 == 1}}).to_string()
        })
        .collect();
    hub.import(&lines.join("\n")).unwrap();
}

/// One page.
async fn page(rest: &Rest, query: &str, size: usize, token: Option<&str>) -> Reply {
    let mut call = rest
        .call("POST", "/devices/query")
        .header("x-ms-max-item-count", &size.to_string())
        .json(&json!({ "query": query }));
    if let Some(token) = token {
        call = call.header("x-ms-continuation", token);
    }
    call.send().await
}

/// The sizes of all pages and their rows. `between` runs after each page but
/// the last; it is told how many there were and the device of the last row.
async fn pages(
    rest: &Rest,
    query: &str,
    size: usize,
    mut between: impl AsyncFnMut(usize, String),
) -> (Vec<usize>, Vec<Value>) {
    let (mut sizes, mut rows, mut token) = (Vec::new(), Vec::new(), None);
    loop {
        let reply = page(rest, query, size, token.as_deref()).await;
        let Value::Array(found) = reply.ok() else {
            panic!("{} is no array", reply.text());
        };
        sizes.push(found.len());
        rows.extend(found);
        token = reply.header("x-ms-continuation").map(str::to_owned);
        if token.is_none() {
            return (sizes, rows);
        }
        let last = rows
            .last()
            .map_or("", |row: &Value| row["deviceId"].as_str().unwrap());
        between(sizes.len(), last.to_owned()).await;
    }
}

fn ids(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["deviceId"].as_str().unwrap()).collect()
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
async fn pages_neither_lose_nor_repeat_rows_while_devices_come_and_go() {
    let (hub, rest) = start().await;
    register(&hub, "d", 0..250);
    let mut removed = BTreeSet::new();
    let (sizes, rows) = pages(&rest, "SELECT deviceId FROM devices", 7, async |done, last| {
        // Behind and ahead of where the next page starts, and the very row
        // that the page before ended with.
        register(&hub, &format!("c{done}-"), 0..2);
        register(&hub, "z", done * 2..done * 2 + 1);
        for id in [last, format!("d{:03}", 249 - done * 3)] {
            if id.starts_with('d') && removed.insert(id.clone()) {
                rest.delete(&format!("/devices/{id}")).await.no_content();
            }
        }
    })
    .await;
    let (last, full) = sizes.split_last().unwrap();
    assert!(full.iter().all(|size| *size == 7), "{sizes:?}");
    assert!((1..=7).contains(last), "{sizes:?}");
    let seen = ids(&rows);
    let distinct: BTreeSet<&str> = seen.iter().copied().collect();
    assert_eq!(distinct.len(), seen.len(), "no row twice");
    assert!(seen.is_sorted());
    for n in 0..250 {
        let id = format!("d{n:03}");
        assert!(
            distinct.contains(&*id) || removed.contains(&id),
            "{id} stayed and was lost"
        );
    }
    // What came behind the position was too late, what came ahead was not.
    assert!(!seen.iter().any(|id| id.starts_with('c')));
    assert!(seen.iter().filter(|id| id.starts_with('z')).count() > 10);
}

#[tokio::test]
async fn pages_are_full_whatever_the_condition_leaves_out() {
    let (hub, rest) = start().await;
    register(&hub, "d", 0..250);
    let idle = async |_: usize, _: String| {};
    let (sizes, rows) = pages(&rest, "SELECT * FROM devices WHERE tags.odd = true", 50, idle).await;
    assert_eq!(sizes, [50, 50, 25]);
    assert!(rows.iter().all(|row| row["tags"]["odd"] == true));
    // No empty page at the end, even when the rows fit exactly.
    let (sizes, _) = pages(&rest, "SELECT * FROM devices WHERE tags.n < 100", 50, idle).await;
    assert_eq!(sizes, [50, 50]);
    let (sizes, _) = pages(&rest, "SELECT * FROM devices WHERE tags.n < 101", 50, idle).await;
    assert_eq!(sizes, [50, 50, 1]);
    let named = "SELECT deviceId FROM devices WHERE deviceId IN ['d003','d001','d249','none','d002','d001']";
    let (sizes, rows) = pages(&rest, named, 2, idle).await;
    assert_eq!(sizes, [2, 2]);
    assert_eq!(ids(&rows), ["d001", "d002", "d003", "d249"]);
    let (sizes, _) = pages(&rest, "SELECT * FROM devices WHERE deviceId = 'none'", 2, idle).await;
    assert_eq!(sizes, [0]);
}

#[tokio::test]
async fn modules_are_paged_across_and_within_devices() {
    let (hub, rest) = start().await;
    register(&hub, "d", 0..10);
    for device in 0..10 {
        for module in 0..3 {
            rest.put(&format!("/devices/d{device:03}/modules/m{module}"), &json!({}))
                .await
                .ok();
        }
    }
    let query = "SELECT deviceId, moduleId FROM devices.modules WHERE moduleId != 'm1'";
    // The last device of the page before is deleted between two pages.
    let (sizes, rows) = pages(&rest, query, 3, async |done, _| {
        if done == 3 {
            rest.delete("/devices/d004").await.no_content();
        }
    })
    .await;
    assert_eq!(sizes, [3, 3, 3, 3, 3, 3, 1]);
    let seen: BTreeSet<String> = rows
        .iter()
        .map(|row| {
            format!(
                "{}/{}",
                row["deviceId"].as_str().unwrap(),
                row["moduleId"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(seen.len(), 19);
    assert!(seen.contains("d004/m0") && !seen.contains("d004/m2"));
    let grouped = "SELECT moduleId, COUNT() AS n FROM devices.modules GROUP BY moduleId";
    assert_eq!(
        rest.query(grouped).await.ok(),
        json!([{"moduleId": "m0", "n": 9}, {"moduleId": "m1", "n": 9}, {"moduleId": "m2", "n": 9}])
    );
}

#[tokio::test]
async fn top_counts_over_all_pages() {
    let (hub, rest) = start().await;
    register(&hub, "d", 0..30);
    let idle = async |_: usize, _: String| {};
    for (query, expected) in [
        ("SELECT TOP 10 * FROM devices", vec![4, 4, 2]),
        ("SELECT TOP 8 * FROM devices", vec![4, 4]),
        ("SELECT TOP 4 deviceId FROM devices", vec![4]),
        ("SELECT TOP 3 * FROM devices", vec![3]),
        ("SELECT TOP 0 * FROM devices", vec![0]),
        ("SELECT TOP 1000 * FROM devices WHERE tags.n >= 25", vec![4, 1]),
        ("SELECT TOP 6 * FROM devices WHERE tags.odd = true", vec![4, 2]),
    ] {
        assert_eq!(pages(&rest, query, 4, idle).await.0, expected, "{query}");
    }
}

#[tokio::test]
async fn the_page_size_is_within_its_bounds() {
    let (hub, rest) = start().await;
    register(&hub, "d", 0..120);
    for (header, expected) in [
        (None, 100),
        (Some("1"), 1),
        (Some("99"), 99),
        (Some("100"), 100),
        (Some(" 5 "), 5),
        (Some("101"), 100),
        (Some("1000000"), 100),
        (Some("0"), 100),
        (Some("-1"), 100),
        (Some("many"), 100),
        (Some(""), 100),
    ] {
        let mut call = rest
            .call("POST", "/devices/query")
            .json(&json!({"query": "SELECT deviceId FROM devices"}));
        if let Some(value) = header {
            call = call.header("x-ms-max-item-count", value);
        }
        let reply = call.send().await;
        assert_eq!(reply.ok().as_array().unwrap().len(), expected, "{header:?}");
        assert!(reply.header("x-ms-continuation").is_some(), "{header:?}");
    }
}

#[tokio::test]
async fn a_token_is_for_its_own_query_only() {
    let (hub, rest) = start().await;
    register(&hub, "d", 0..5);
    let query = "SELECT * FROM devices";
    let first = page(&rest, query, 2, None).await;
    let token = first.header("x-ms-continuation").unwrap();
    for other in [
        "SELECT * FROM devices WHERE tags.n > 1",
        "SELECT deviceId FROM devices",
        "SELECT * FROM devices.jobs",
        "SELECT COUNT() AS n FROM devices",
    ] {
        let text = page(&rest, other, 2, Some(token))
            .await
            .refused(ErrorCode::ArgumentInvalid);
        assert_eq!(text, "the continuation token belongs to another query", "{other}");
    }
    let jobs = rest
        .call("GET", "/jobs/v2/query")
        .header("x-ms-continuation", token)
        .send()
        .await;
    assert_eq!(
        jobs.refused(ErrorCode::ArgumentInvalid),
        "the continuation token belongs to another query"
    );
    for damaged in ["nonsense", "%%%", &token[1..], &token[..8]] {
        let text = page(&rest, query, 2, Some(damaged))
            .await
            .refused(ErrorCode::ArgumentInvalid);
        assert!(
            text == "the continuation token is not valid"
                || text == "the continuation token belongs to another query",
            "{damaged}: {text}"
        );
    }
    // The size may change from page to page, the same page may be read twice,
    // and an empty token is none.
    for size in [1, 3] {
        let rows = page(&rest, query, size, Some(token)).await.ok();
        assert_eq!(rows.as_array().unwrap().len(), size);
        assert_eq!(rows[0]["deviceId"], "d002");
    }
    assert_eq!(page(&rest, query, 1, Some("")).await.ok()[0]["deviceId"], "d000");
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
