//! Queries over 10,000 twins.
//!
//! Scenario: `parse` reads the texts of the queries. `eval` runs them over
//! 10,000 twin documents in memory, with nothing but the rules of the language.
//! `rest` asks a hub with the same 10,000 twins by `POST /devices/query` for
//! one page; where the condition selects few or the query aggregates, the hub
//! looks at all of them for it. Elements are twins looked at.
//!
//! ```text
//! cargo bench -p benches --bench query_eval
//! ```

use std::hint::black_box;
use std::time::{Duration, Instant};

use benches::rest::RestConnection;
use benches::runtime;
use benches::site::Site;
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hub_core::query::{Query, Selection};
use hyper::Method;
use serde_json::{Value, json};

const TWINS: usize = 10_000;

/// A query and what is known of its result.
struct Case {
    name: &'static str,
    text: &'static str,
    /// Twins that match, of all.
    matching: usize,
    /// Rows on the first page over REST.
    page: usize,
}

/// Twins are so made (see [`twin`]) that each condition but that of `page`
/// selects few: then a page is filled only after all twins have been looked at.
const CASES: [Case; 5] = [
    Case {
        name: "simple",
        text: "SELECT * FROM devices WHERE tags.building = 42",
        matching: 100,
        page: 100,
    },
    Case {
        name: "complex",
        text: "SELECT * FROM devices WHERE (tags.location.region = 'EU' OR tags.location.region = 'US') \
               AND properties.desired.telemetry.interval >= 30 AND tags.building IN [1, 2, 3, 5, 8, 13, 21] \
               AND NOT STARTSWITH(deviceId, 'lab') AND is_defined(properties.desired.firmware)",
        matching: 56,
        page: 56,
    },
    Case {
        name: "projection",
        text: "SELECT deviceId, tags.location.region AS region, properties.desired.telemetry.interval \
               FROM devices WHERE tags.building < 1",
        matching: 100,
        page: 100,
    },
    Case {
        name: "aggregate",
        text: "SELECT tags.location.region AS region, COUNT() AS devices, \
               AVG(properties.desired.telemetry.interval) AS interval FROM devices GROUP BY tags.location.region",
        matching: TWINS,
        page: 4,
    },
    Case {
        name: "page",
        text: "SELECT * FROM devices",
        matching: TWINS,
        page: 100,
    },
];

/// Tags and desired properties of the twin number `i`.
fn twin(i: usize) -> Value {
    let region = ["EU", "US", "AP", "AF"][i / 100 % 4];
    json!({
        "tags": {
            "building": i % 100,
            "location": {"region": region, "floor": i % 7},
        },
        "properties": {"desired": {
            "telemetry": {"interval": 10 * (i / 100 % 4 + i / 400 % 3), "unit": "s"},
            "firmware": "2.1.7",
        }},
    })
}

fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("query_eval/parse");
    group.throughput(Throughput::Elements(1));
    for case in CASES {
        group.bench_function(case.name, |b| {
            b.iter(|| black_box(Query::parse(black_box(case.text)).expect("a legal query")));
        });
    }
    group.finish();
}

/// How many of `rows` match; what comes out of them is made and dropped.
fn evaluate(query: &Query, rows: &[Value]) -> usize {
    let matching = rows.iter().filter(|row| query.matches(*row));
    match query.selection() {
        Selection::Whole => matching.count(),
        Selection::Fields(projection) => matching
            .inspect(|row| {
                black_box(projection.project(*row));
            })
            .count(),
        Selection::Groups(grouping) => {
            let mut groups = grouping.aggregate();
            let count = matching.inspect(|row| groups.add(*row)).count();
            black_box(groups.finish());
            count
        }
    }
}

fn eval(c: &mut Criterion) {
    let mut group = c.benchmark_group("query_eval/eval");
    group
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .throughput(Throughput::Elements(TWINS as u64));
    let rows: Vec<Value> = (0..TWINS)
        .map(|i| {
            let mut row = twin(i);
            row["deviceId"] = json!(format!("dev{i:05}"));
            row
        })
        .collect();
    // The last has no condition to evaluate.
    for case in &CASES[..4] {
        let query = Query::parse(case.text).expect("a legal query");
        group.bench_function(case.name, |b| {
            b.iter(|| assert_eq!(evaluate(&query, &rows), case.matching));
        });
    }
    group.finish();
}

fn rest(c: &mut Criterion) {
    let runtime = runtime();
    let mut stage = None;
    let mut group = c.benchmark_group("query_eval/rest");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    for case in CASES {
        let looked_at = if case.name == "page" { case.page } else { TWINS };
        group.throughput(Throughput::Elements(looked_at as u64));
        let body = Bytes::from(json!({ "query": case.text }).to_string());
        group.bench_function(case.name, |b| {
            let (_, connection) = stage.get_or_insert_with(|| {
                runtime.block_on(async {
                    let site = Site::with_twins(TWINS, twin).await;
                    let connection = RestConnection::open(&site.hub).await;
                    (site, connection)
                })
            });
            b.iter_custom(|times| {
                runtime.block_on(async {
                    let mut took = Duration::ZERO;
                    for _ in 0..times {
                        let start = Instant::now();
                        let reply = connection
                            .call(Method::POST, "/devices/query", body.clone())
                            .await;
                        took += start.elapsed();
                        assert_eq!(rows(&reply.json()), case.page);
                    }
                    took
                })
            });
        });
    }
    group.finish();
}

fn rows(page: &Value) -> usize {
    page.as_array().map_or(0, Vec::len)
}

criterion_group!(benches, parse, eval, rest);
criterion_main!(benches);
