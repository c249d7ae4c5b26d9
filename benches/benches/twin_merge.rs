//! Writes to a twin, as pure code.
//!
//! Scenario: a twin with 50 properties in each section. `service` is a whole
//! `PATCH` of desired properties: its body is read, checked, merged, and the
//! notification for the device is made. `job` merges a patch that was read
//! once, which is what a job does to each of its devices. `reported` is a
//! device's own update. Every write changes values, never only versions.
//!
//! ```text
//! cargo bench -p benches --bench twin_merge
//! ```

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hub_core::time::Timestamp;
use hub_core::twin::{ReportedPatch, Twin, TwinPatch};
use serde_json::{Map, Value, json};

/// Properties in each section of the twin.
const PROPERTIES: usize = 50;

fn now() -> Timestamp {
    Timestamp::from_unix_seconds(1_767_322_000)
}

/// `count` of the twin's properties with values that depend on `salt`: every
/// fifth an object.
fn properties(count: usize, salt: u64) -> Value {
    let members: Map<String, Value> = (0..count)
        .map(|i| {
            let value = match i % 5 {
                0 => json!({"setPoint": 20 + salt, "unit": "celsius"}),
                1 => json!(format!("text {i} {salt}")),
                _ => json!(i as u64 * 10 + salt),
            };
            (format!("property{i:02}"), value)
        })
        .collect();
    Value::Object(members)
}

fn service_body(count: usize, salt: u64) -> Vec<u8> {
    json!({"properties": {"desired": properties(count, salt)}})
        .to_string()
        .into_bytes()
}

fn reported_body(count: usize, salt: u64) -> Vec<u8> {
    properties(count, salt).to_string().into_bytes()
}

fn service_patch(body: &[u8]) -> TwinPatch {
    let body = serde_json::from_slice(body).expect("JSON");
    TwinPatch::from_json(&body).expect("a legal patch")
}

fn twin() -> Twin {
    let mut twin = Twin::new(now());
    twin.patch(&service_patch(&service_body(PROPERTIES, 0)), now())
        .expect("within limits");
    let reported = ReportedPatch::parse(&reported_body(PROPERTIES, 0)).expect("a legal patch");
    twin.patch_reported(&reported, None, now())
        .expect("within limits");
    twin
}

fn patch(twin: &mut Twin, patch: &TwinPatch) {
    let change = twin.patch(patch, now()).expect("within limits");
    assert!(black_box(change).is_some());
}

fn twin_merge(c: &mut Criterion) {
    let mut group = c.benchmark_group("twin_merge");
    group.throughput(Throughput::Elements(1));
    for keys in [2, PROPERTIES] {
        // Two in turn, so that each write finds other values than its own.
        let bodies = [service_body(keys, 1), service_body(keys, 2)];
        group.bench_function(BenchmarkId::new("service", keys), |b| {
            let mut twin = twin();
            let mut turn = bodies.iter().cycle();
            b.iter(|| patch(&mut twin, &service_patch(turn.next().expect("endless"))));
        });
        let patches = bodies.each_ref().map(|body| service_patch(body));
        group.bench_function(BenchmarkId::new("job", keys), |b| {
            let mut twin = twin();
            let mut turn = patches.iter().cycle();
            b.iter(|| patch(&mut twin, turn.next().expect("endless")));
        });
        let bodies = [reported_body(keys, 1), reported_body(keys, 2)];
        group.bench_function(BenchmarkId::new("reported", keys), |b| {
            let mut twin = twin();
            let mut turn = bodies.iter().cycle();
            b.iter(|| {
                let patch = ReportedPatch::parse(turn.next().expect("endless")).expect("a legal patch");
                black_box(twin.patch_reported(&patch, None, now()).expect("within limits"))
            });
        });
    }
    group.bench_function("device_view", |b| {
        let twin = twin();
        b.iter(|| black_box(twin.device_view()));
    });
    group.finish();
}

criterion_group!(benches, twin_merge);
criterion_main!(benches);
