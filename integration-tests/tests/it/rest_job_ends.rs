//! How jobs end: what makes single devices fail, and what makes the job.

use std::time::Duration;

use hub_core::topic::Filter;
use serde_json::{Value, json};

use crate::support::answering::{Answer, AnsweringDevice};
use crate::support::jobs::{
    create, ended, expected, failure, method_job, not_online, outcomes, patient_job, records, statistics,
    timed_out, twin_job,
};
use crate::support::rest::start;
use crate::support::wait_for;

const NEVER: &str = "0001-01-01T00:00:00Z";

#[tokio::test]
async fn single_failures_leave_a_job_completed() {
    let (hub, rest) = start().await;
    for id in ["answers", "broken", "offline", "unsubscribed", "vanishes"] {
        rest.create(id).await;
    }
    rest.put("/devices/disabled", &json!({"status": "disabled"}))
        .await
        .ok();
    let _answers = AnsweringDevice::connect(&hub, "answers", Answer::json(200, &json!(1))).await;
    let _broken = AnsweringDevice::connect(&hub, "broken", Answer::With(200, "no JSON".into())).await;
    let filters = [Filter::DesiredChanges];
    let _unsubscribed = AnsweringDevice::try_connect(&hub, "unsubscribed", Answer::Nothing, &filters).await;
    let _vanishes = AnsweringDevice::connect(&hub, "vanishes", Answer::Vanish).await;
    create(&rest, "j", &method_job("*", json!({}))).await;
    let done = ended(&rest, "j").await;
    assert_eq!(done["status"], "completed");
    assert!(done.get("failureReason").is_none());
    assert_eq!(done["deviceJobStatistics"], statistics([6, 5, 1, 0, 0]));
    let found = outcomes(&rest, "j").await;
    let no_json = found[1].1["description"].as_str().unwrap();
    assert!(
        no_json.starts_with("the device's answer is not valid JSON"),
        "{no_json}"
    );
    assert_eq!(
        found,
        expected(&[
            ("answers", json!("completed")),
            ("broken", failure("GenericBadGateway", no_json)),
            (
                "disabled",
                failure("DeviceNotFound", "Device disabled is disabled")
            ),
            ("offline", not_online()),
            ("unsubscribed", not_online()),
            (
                "vanishes",
                failure("DeviceNotOnline", "The device disconnected before it answered.")
            ),
        ])
    );
    for record in records(&rest, "j").await {
        let failed = record["status"] == "failed";
        assert_eq!(record.get("outcome").is_none(), failed, "{record}");
        for time in [
            "startTimeUtc",
            "endTimeUtc",
            "createdDateTimeUtc",
            "lastUpdatedDateTimeUtc",
        ] {
            assert_ne!(record[time], NEVER);
        }
    }
}

#[tokio::test]
async fn a_job_fails_when_all_its_devices_do() {
    let (_hub, rest) = start().await;
    rest.create("a").await;
    rest.create("b").await;
    create(&rest, "j", &method_job("*", json!({}))).await;
    let done = ended(&rest, "j").await;
    assert_eq!(done["status"], "failed");
    assert_eq!(
        done["failureReason"],
        "2 of 2 devices failed; the first is a: DeviceNotOnline, Timed out waiting for device to connect."
    );
    assert_eq!(done["deviceJobStatistics"], statistics([2, 2, 0, 0, 0]));
}

#[tokio::test]
async fn a_condition_that_is_none_fails_the_job_when_it_runs() {
    let (_hub, rest) = start().await;
    rest.create("d").await;
    for (id, condition, place) in [
        ("a", "tags.a =", "Line 1:37 "),
        (
            "b",
            "SELECT * FROM devices",
            "Line 1:29 Unexpected character at input 'SELECT'",
        ),
        (
            "c",
            "FROM devices.jobs",
            "Line 1:15 Unexpected character at input 'devices.jobs'",
        ),
        (
            "d",
            "FROM things",
            "Line 1:15 Unexpected character at input 'things'",
        ),
        (
            "e",
            "deviceId = 'd' ORDER BY deviceId",
            "Line 1:44 Unexpected character at input 'ORDER'",
        ),
        ("f", "* OR true", "Line 1:29 "),
    ] {
        create(&rest, id, &twin_job(condition, json!({}))).await;
        let done = ended(&rest, id).await;
        assert_eq!(done["status"], "failed", "{condition}");
        let reason = done["failureReason"].as_str().unwrap();
        let at = reason.strip_prefix("SQL query parse failed due to following errors: ");
        assert!(
            at.is_some_and(|at| at.starts_with(place)),
            "{condition}: {reason}"
        );
        assert_eq!(done["deviceJobStatistics"], statistics([0; 5]));
        assert!(records(&rest, id).await.is_empty());
    }
    assert_eq!(rest.get("/twins/d").await.ok()["version"], 2);
}

#[tokio::test]
async fn a_job_without_devices_is_done() {
    let (_hub, rest) = start().await;
    for (id, condition) in [
        ("a", "*"),
        ("b", "deviceId IN ['x', 'y']"),
        ("c", "FROM devices.modules"),
        ("d", "false"),
    ] {
        create(&rest, id, &method_job(condition, json!({}))).await;
        let done = ended(&rest, id).await;
        assert_eq!(done["status"], "completed", "{condition}");
        assert_eq!(done["deviceJobStatistics"], statistics([0; 5]));
        assert!(records(&rest, id).await.is_empty());
    }
}

#[tokio::test]
async fn a_silent_device_times_out() {
    let (hub, rest) = start().await;
    rest.create("answers").await;
    rest.create("silent").await;
    let _answers = AnsweringDevice::connect(&hub, "answers", Answer::json(200, &json!(1))).await;
    let mut silent = AnsweringDevice::connect(&hub, "silent", Answer::Nothing).await;
    create(&rest, "j", &patient_job("*", 0, 20, 3600)).await;
    let call = silent.call(1).await;
    hub.advance_clock(Duration::from_secs(20));
    assert_eq!(ended(&rest, "j").await["status"], "completed");
    let timeout = failure(
        "GatewayTimeout",
        "Timed out waiting for the response from device.",
    );
    assert_eq!(
        outcomes(&rest, "j").await,
        expected(&[("answers", json!("completed")), ("silent", timeout)])
    );
    // An answer after the end changes nothing.
    let before = records(&rest, "j").await;
    silent.respond(&call, 200, b"1");
    wait_for("the late answer", async || {
        let answers = hub.counters().method_responses;
        if answers == 2 { Ok(()) } else { Err(answers) }
    })
    .await;
    assert_eq!(records(&rest, "j").await, before);
}

#[tokio::test]
async fn the_end_of_the_window_fails_what_is_not_done() {
    let (hub, rest) = start().await;
    for id in ["answers", "offline", "silent"] {
        rest.create(id).await;
    }
    let _answers = AnsweringDevice::connect(&hub, "answers", Answer::json(200, &json!(1))).await;
    let mut silent = AnsweringDevice::connect(&hub, "silent", Answer::Nothing).await;
    create(&rest, "j", &patient_job("*", 300, 300, 60)).await;
    let call = silent.call(1).await;
    hub.advance_clock(Duration::from_secs(60));
    let done = ended(&rest, "j").await;
    assert_eq!(done["status"], "completed");
    assert_eq!(done["deviceJobStatistics"], statistics([3, 2, 1, 0, 0]));
    assert_eq!(
        outcomes(&rest, "j").await,
        expected(&[
            ("answers", json!("completed")),
            ("offline", timed_out()),
            ("silent", timed_out())
        ])
    );
    // The places of the calls are free again: nothing of the job goes on.
    silent.respond(&call, 200, b"1");
    let late = AnsweringDevice::connect(&hub, "offline", Answer::json(200, &json!(1))).await;
    rest.post("/twins/offline/methods", &json!({"methodName": "other"}))
        .await
        .ok();
    assert_eq!(late.seen().calls.len(), 1);

    create(&rest, "none", &patient_job("deviceId = 'silent'", 300, 300, 1)).await;
    silent.call(2).await;
    hub.advance_clock(Duration::from_secs(1));
    let done = ended(&rest, "none").await;
    assert_eq!(done["status"], "failed");
    assert_eq!(
        done["failureReason"],
        "1 of 1 devices failed; the first is silent: JobTimedOut, \
         the job's execution window ended before the device was done"
    );
}

#[tokio::test]
async fn a_twin_that_cannot_take_the_patch_fails_alone() {
    let (_hub, rest) = start().await;
    rest.create("empty").await;
    rest.create("full").await;
    let most: serde_json::Map<String, Value> = (0..680).map(|n| (format!("{n:04}"), json!(n))).collect();
    rest.patch("/twins/full", &json!({ "tags": most })).await.ok();
    let update = json!({"etag": "*", "tags": {"note": "x".repeat(100)}, "properties": {"desired": {"a": 1}}});
    create(&rest, "j", &twin_job("*", json!({ "updateTwin": update }))).await;
    assert_eq!(
        ended(&rest, "j").await["deviceJobStatistics"],
        statistics([2, 1, 1, 0, 0])
    );
    let too_large = "the size of tags would be 8264, which exceeds the limit of 8192";
    assert_eq!(
        outcomes(&rest, "j").await,
        expected(&[
            ("empty", json!("completed")),
            ("full", failure("ArgumentInvalid", too_large))
        ])
    );
    // Nothing is half applied.
    assert!(
        rest.get("/twins/full").await.ok()["properties"]["desired"]
            .get("a")
            .is_none()
    );
}
