//! Pages of query results: sizes, tokens, TOP, and rows that come and go.
//! Pages of job records are tested with the jobs.

use std::collections::BTreeSet;

use hub_core::error::ErrorCode;
use serde_json::{Value, json};

use crate::rest_queries::register;
use crate::support::rest::{Reply, Rest, start};

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
    // Nor may one character of the text differ.
    for other in [
        "SELECT * FROM devices ",
        "select * from devices",
        "SELECT * FROM devices;",
    ] {
        page(&rest, other, 2, Some(token))
            .await
            .refused(ErrorCode::ArgumentInvalid);
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
