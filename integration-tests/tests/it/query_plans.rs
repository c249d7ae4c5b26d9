//! How the hub finds the rows of a query, as it says itself.

use emulator::Hub;
use hub_core::error::ErrorCode;
use hub_core::query::Dialect;
use serde_json::json;

use crate::rest_queries::register;
use crate::support::jobs::{create, ended, twin_job};
use crate::support::rest::{Rest, start};

/// The plan, candidates and matches that the hub names for a query.
async fn explained(rest: &Rest, query: &str) -> (String, u64, u64) {
    let reply = rest
        .post("/_emulator/query/explain", &json!({ "query": query }))
        .await
        .ok();
    assert!(reply["milliseconds"].as_f64().unwrap() >= 0.0, "{reply}");
    let number = |name: &str| reply[name].as_u64().unwrap();
    (
        reply["explanation"].as_str().unwrap().to_owned(),
        number("candidates"),
        number("matches"),
    )
}

#[tokio::test]
async fn the_hub_explains_how_it_finds_rows() {
    let (hub, rest) = start().await;
    register(&hub, "d", 0..1000);
    let named = "SELECT deviceId FROM devices WHERE deviceId IN ['d001', 'none'] AND tags.n >= 0";
    let (text, candidates, matches) = explained(&rest, named).await;
    assert!(text.starts_with("the condition names 2 devices"), "{text}");
    assert_eq!((candidates, matches), (2, 1));
    let scan = "SELECT * FROM devices WHERE tags.n > 10";
    let (text, candidates, matches) = explained(&rest, scan).await;
    assert!(text.ends_with("so no index can help"), "{text}");
    assert_eq!((candidates, matches), (1000, 989));
    let equal = "SELECT COUNT() FROM devices WHERE tags.n = 10";
    let missing = "all of 1000 devices are looked at: there is no index on tags.n; \
                   one is made when 3 scans have asked for the same path";
    for _ in 0..3 {
        assert_eq!(explained(&rest, equal).await, (missing.to_owned(), 1000, 1));
        rest.query(equal).await.ok();
    }
    let (text, candidates, matches) = explained(&rest, equal).await;
    assert_eq!(text, "the index on tags.n leaves 1 device of 1000 to look at");
    assert_eq!((candidates, matches), (1, 1));
    // Whoever changes a twin, and however, the index knows.
    rest.patch("/twins/d500", &json!({"tags": {"n": 10}})).await.ok();
    assert_eq!(rest.query(equal).await.ok(), json!([{"count": 2}]));
    rest.delete("/devices/d010").await.no_content();
    assert_eq!(rest.query(equal).await.ok(), json!([{"count": 1}]));
}

#[tokio::test]
async fn the_hub_explains_how_it_finds_records_of_jobs() {
    let (hub, rest) = start().await;
    register(&hub, "d", 0..3);
    for id in ["a", "b", "c"] {
        create(&rest, id, &twin_job("*", json!({}))).await;
        ended(&rest, id).await;
    }
    let scan = "the records of all jobs are looked at: the condition does not name jobs by their jobId";
    let devices = "the records of all jobs are looked at: the condition names devices, \
                   but no jobs by their jobId";
    let one = "the condition names the job b; only its records are looked at";
    let two = "the condition names 2 jobs; only their records are looked at";
    for (condition, plan, text, candidates, matches) in [
        ("true", "scan", scan, 9, 9),
        ("status = 'completed' OR jobId = 'b'", "scan", scan, 9, 9),
        ("devices.jobs.deviceId = 'd001'", "scan", devices, 9, 3),
        (
            "deviceId IN ['d001', 'd002'] AND status = 'completed'",
            "scan",
            devices,
            9,
            6,
        ),
        (
            "devices.jobs.jobId = 'b' AND devices.jobs.deviceId = 'd001'",
            "jobs",
            one,
            3,
            1,
        ),
        ("jobId IN ['c', 'a', 'c']", "jobs", two, 6, 6),
        (
            "jobId = 'a' OR (jobId = 'c' AND deviceId = 'd000')",
            "jobs",
            two,
            6,
            4,
        ),
        ("jobId IN ['a', 'none'] AND deviceId = 'd002'", "jobs", two, 3, 1),
    ] {
        let query = format!("SELECT * FROM devices.jobs WHERE {condition}");
        let reply = rest
            .post("/_emulator/query/explain", &json!({ "query": query }))
            .await
            .ok();
        assert_eq!(reply["plan"], plan, "{condition}");
        assert_eq!(
            explained(&rest, &query).await,
            (text.to_owned(), candidates, matches),
            "{condition}"
        );
    }
}

#[tokio::test]
async fn what_is_lenient_is_explained_and_run_alike() {
    let hub = Hub::builder()
        .query_dialect(Dialect::Lenient)
        .start()
        .await
        .unwrap();
    register(&hub, "d", 0..3);
    let query = "SELECT deviceId FROM devices WHERE CONTAINS(deviceId, '01')";
    assert_eq!(explained(&Rest::of(&hub), query).await.2, 1);
}

#[tokio::test]
async fn what_cannot_be_run_cannot_be_explained() {
    let (_hub, rest) = start().await;
    let (null, invalid) = (ErrorCode::ArgumentNull, ErrorCode::ArgumentInvalid);
    for (body, code) in [
        (json!({}), null),
        (json!({"query": ""}), null),
        (json!({"query": 1}), invalid),
        (json!({"query": "SELECT * FROM devices WHERE #"}), invalid),
    ] {
        let run = rest.post("/devices/query", &body).await;
        let explained = rest.post("/_emulator/query/explain", &body).await;
        assert_eq!(explained.refused(code), run.refused(code), "{body}");
    }
}
