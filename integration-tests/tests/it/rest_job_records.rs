//! Queries over `devices.jobs`: filters and pages of what jobs recorded.

use std::time::Duration;

use emulator::Hub;
use hub_core::error::ErrorCode;
use serde_json::{Value, json};

use crate::support::jobs::{create, ended, job, method_job, twin_job};
use crate::support::rest::Rest;
use crate::support::start_hub;

/// Three ended jobs over 25 devices: `a` patched all, `b` could call none,
/// `c` patched five an hour later.
async fn start() -> (Hub, Rest) {
    let hub = start_hub().await;
    let rest = Rest::of(&hub);
    let lines: Vec<String> = (0..25)
        .map(|n| json!({"deviceId": format!("d{n:02}"), "tags": {"low": n < 5}}).to_string())
        .collect();
    hub.import(&lines.join("\n")).unwrap();
    create(&rest, "a", &twin_job("*", json!({}))).await;
    create(&rest, "b", &method_job("*", json!({}))).await;
    ended(&rest, "a").await;
    ended(&rest, "b").await;
    hub.advance_clock(Duration::from_secs(3600));
    create(&rest, "c", &twin_job("tags.low = true", json!({}))).await;
    ended(&rest, "c").await;
    (hub, rest)
}

/// Every row, in pages of ten.
async fn all(rest: &Rest, query: &str) -> (Vec<usize>, Vec<Value>) {
    let (mut sizes, mut rows, mut token) = (Vec::new(), Vec::new(), None::<String>);
    loop {
        let mut call = rest
            .call("POST", "/devices/query")
            .header("x-ms-max-item-count", "10")
            .json(&json!({ "query": query }));
        if let Some(token) = &token {
            call = call.header("x-ms-continuation", token);
        }
        let reply = call.send().await;
        assert_eq!(reply.header("x-ms-item-type"), Some("DeviceJob"), "{query}");
        let Value::Array(page) = reply.ok() else {
            panic!("{query}: no array");
        };
        sizes.push(page.len());
        rows.extend(page);
        token = reply.header("x-ms-continuation").map(str::to_owned);
        if token.is_none() {
            return (sizes, rows);
        }
    }
}

#[tokio::test]
async fn records_are_paged_by_job_and_device() {
    let (_hub, rest) = start().await;
    let (sizes, rows) = all(&rest, "SELECT * FROM devices.jobs").await;
    assert_eq!(sizes, [10, 10, 10, 10, 10, 5]);
    let keys: Vec<(&str, &str)> = rows
        .iter()
        .map(|row| (row["jobId"].as_str().unwrap(), row["deviceId"].as_str().unwrap()))
        .collect();
    assert!(keys.windows(2).all(|pair| pair[0] < pair[1]), "{keys:?}");

    let (sizes, rows) = all(&rest, "SELECT * FROM devices.jobs WHERE devices.jobs.jobId = 'b'").await;
    assert_eq!(sizes, [10, 10, 5]);
    assert!(rows.iter().all(|row| row["jobId"] == "b"));
    let (sizes, _) = all(&rest, "SELECT TOP 15 * FROM devices.jobs WHERE jobId = 'b'").await;
    assert_eq!(sizes, [10, 5]);
    // Several jobs by name: whole, and in pages that end within each.
    for ids in ["['a', 'c']", "['c', 'a', 'none', 'a']"] {
        let (sizes, rows) = all(&rest, &format!("SELECT * FROM devices.jobs WHERE jobId IN {ids}")).await;
        assert_eq!(sizes, [10, 10, 10]);
        assert!(rows[..25].iter().all(|row| row["jobId"] == "a"));
        assert!(rows[25..].iter().all(|row| row["jobId"] == "c"));
    }
    // Exactly full pages have no empty one behind them.
    let (sizes, _) = all(
        &rest,
        "SELECT * FROM devices.jobs WHERE jobId = 'a' AND deviceId < 'd20'",
    )
    .await;
    assert_eq!(sizes, [10, 10]);
}

#[tokio::test]
async fn a_token_of_records_is_for_its_own_query_only() {
    let (_hub, rest) = start().await;
    let page = async |query: &str, size: &str, token: Option<&str>| {
        let call = rest
            .call("POST", "/devices/query")
            .header("x-ms-max-item-count", size)
            .json(&json!({ "query": query }));
        match token {
            Some(token) => call.header("x-ms-continuation", token).send().await,
            None => call.send().await,
        }
    };
    let query = "SELECT * FROM devices.jobs WHERE jobId IN ['a', 'c']";
    let first = page(query, "24", None).await;
    let token = first.header("x-ms-continuation").unwrap();
    for other in [
        "SELECT * FROM devices.jobs",
        "SELECT * FROM devices.jobs WHERE jobId IN ['a', 'b']",
        "SELECT * FROM devices.modules",
    ] {
        let text = page(other, "24", Some(token))
            .await
            .refused(ErrorCode::ArgumentInvalid);
        assert_eq!(text, "the continuation token belongs to another query", "{other}");
    }
    for damaged in ["nonsense", &token[1..]] {
        page(query, "24", Some(damaged))
            .await
            .refused(ErrorCode::ArgumentInvalid);
    }
    // The rest of one job and the next one; sizes out of bounds are the greatest.
    for size in ["100", "0", "-1", "many", "100000"] {
        let rest = page(query, size, Some(token)).await;
        assert_eq!(rest.header("x-ms-continuation"), None);
        let rows = rest.ok();
        let jobs: Vec<&str> = rows
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["jobId"].as_str().unwrap())
            .collect();
        assert_eq!(jobs, ["a", "c", "c", "c", "c", "c"], "{size}");
    }
}

#[tokio::test]
async fn records_are_filtered_by_the_fields_of_the_job() {
    let (_hub, rest) = start().await;
    let c = job(&rest, "c").await;
    let created = c["createdTime"].as_str().unwrap();
    for (condition, expected) in [
        ("devices.jobs.status = 'completed'", 30),
        ("devices.jobs.status = 'failed'", 25),
        ("status = 'pending' OR status = 'running'", 0),
        ("devices.jobs.deviceId = 'd03'", 3),
        (
            "devices.jobs.deviceId = 'd03' AND devices.jobs.jobType = 'scheduleUpdateTwin'",
            2,
        ),
        ("devices.jobs.jobType = 'scheduleDeviceMethod'", 25),
        (
            "devices.jobs.jobId IN ['a', 'c'] AND deviceId IN ['d00', 'd24']",
            3,
        ),
        ("devices.jobs.jobId = 'nobody'", 0),
        ("devices.jobs.jobId = 'not_an_id'", 0),
        (&format!("devices.jobs.createdDateTimeUtc >= '{created}'"), 5),
        (&format!("devices.jobs.createdTimeUtc < '{created}'"), 50),
        (&format!("devices.jobs.startTimeUtc >= '{created}'"), 5),
        (
            &format!("devices.jobs.endTimeUtc >= '{created}' AND lastUpdatedDateTimeUtc >= '{created}'"),
            5,
        ),
        ("devices.jobs.startTimeUtc > '2016-09-01'", 55),
        ("IS_DEFINED(moduleId)", 0),
        ("NOT devices.jobs.jobId = 'b'", 30),
    ] {
        let query = format!("SELECT * FROM devices.jobs WHERE {condition}");
        assert_eq!(all(&rest, &query).await.1.len(), expected, "{condition}");
    }
}

#[tokio::test]
async fn records_come_out_whole_or_not_at_all() {
    let (_hub, rest) = start().await;
    for query in [
        "SELECT deviceId FROM devices.jobs",
        "SELECT COUNT() AS n FROM devices.jobs",
        "SELECT * FROM devices.jobs GROUP BY jobId",
        "SELECT * FROM devices.jobs WHERE tags.low = true",
        "SELECT * FROM devices.jobs WHERE outcome.deviceMethodResponse.status = 200",
        "SELECT * FROM devices.jobs WHERE devices.deviceId.x = 'd'",
    ] {
        rest.query(query).await.refused(ErrorCode::ArgumentInvalid);
    }
}

#[tokio::test]
async fn the_records_stay_when_devices_go() {
    let (hub, rest) = start().await;
    for n in 0..25 {
        rest.delete(&format!("/devices/d{n:02}")).await.no_content();
    }
    assert_eq!(all(&rest, "SELECT * FROM devices.jobs").await.1.len(), 55);
    hub.reset();
    assert_eq!(all(&rest, "SELECT * FROM devices.jobs").await.0, [0]);
}
