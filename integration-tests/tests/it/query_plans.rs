//! How the hub finds the rows of a query, as it says itself.

use emulator::Hub;
use hub_core::error::ErrorCode;
use serde_json::json;

use crate::support::rest::{Rest, start};

/// Registers devices `d000` and so on, each with its number as a tag.
fn register(hub: &Hub, count: usize) {
    let line = |n| json!({"deviceId": format!("d{n:03}"), "tags": {"n": n}}).to_string();
    let lines: Vec<String> = (0..count).map(line).collect();
    hub.import(&lines.join("\n")).unwrap();
}

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
    register(&hub, 1000);
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
    let (text, ..) = explained(&rest, "SELECT * FROM devices.jobs").await;
    assert!(text.starts_with("the records of all jobs"), "{text}");
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
