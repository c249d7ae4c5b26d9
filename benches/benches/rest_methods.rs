//! Direct methods over REST.
//!
//! Scenario: 1,000 devices are connected in memory. `POST /twins/{id}/methods`
//! goes to one after the other, over one keep-alive HTTP connection with one
//! request at a time, and over 64 of them at once. One element is one call,
//! from the request to the device's own answer in the response's body.
//!
//! ```text
//! cargo bench -p benches --bench rest_methods
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use benches::rest::RestConnection;
use benches::runtime;
use benches::site::Site;
use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use device_sim::Fleet;
use hyper::Method;
use tokio::task::JoinSet;

const DEVICES: usize = 1_000;
const BODY: Bytes = Bytes::from_static(br#"{"methodName":"lockDoor","payload":{"lockTime":"10m"}}"#);
const ANSWER: &[u8] = br#"{"status":200,"payload":{"Response":"lockDoor called successfully"}}"#;

struct Stage {
    site: Site,
    fleet: Fleet,
    paths: Arc<[String]>,
}

impl Stage {
    async fn set() -> Self {
        let site = Site::start(DEVICES).await;
        Self {
            fleet: site.connect_fleet().await,
            paths: site
                .targets
                .iter()
                .map(|target| format!("/twins/{target}/methods"))
                .collect(),
            site,
        }
    }

    /// Makes `calls` calls over `connections` connections.
    async fn invoke(&self, connections: u64, calls: u64) -> Duration {
        let before = self.fleet.counts().methods_answered;
        let next = Arc::new(AtomicU64::new(0));
        let mut open = Vec::new();
        for _ in 0..connections.min(calls) {
            open.push(RestConnection::open(&self.site.hub).await);
        }
        let mut tasks = JoinSet::new();
        let start = Instant::now();
        for connection in open {
            tasks.spawn(call_in_turn(connection, self.paths.clone(), next.clone(), calls));
        }
        tasks.join_all().await;
        let took = start.elapsed();
        assert_eq!(self.fleet.counts().methods_answered - before, calls);
        took
    }
}

/// Takes numbers from `next` up to `calls` and calls the devices they lead to.
async fn call_in_turn(
    mut connection: RestConnection,
    paths: Arc<[String]>,
    next: Arc<AtomicU64>,
    calls: u64,
) {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= calls {
            return;
        }
        let path = &paths[number as usize % paths.len()];
        let reply = connection.call(Method::POST, path, BODY).await;
        assert_eq!(reply.body, ANSWER, "{}", reply.status);
    }
}

fn rest_methods(c: &mut Criterion) {
    let runtime = runtime();
    let mut stage = None;
    let mut group = c.benchmark_group("rest_methods");
    group
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .throughput(Throughput::Elements(1));
    for connections in [1, 64] {
        group.bench_function(BenchmarkId::new("connections", connections), |b| {
            let stage = stage.get_or_insert_with(|| runtime.block_on(Stage::set()));
            b.iter_custom(|calls| runtime.block_on(stage.invoke(connections, calls)));
        });
    }
    group.finish();
}

criterion_group!(benches, rest_methods);
criterion_main!(benches);
