//! Jobs over a whole fleet.
//!
//! Scenario: a hub and 1,000 or 10,000 simulated devices in one process, over
//! the in-memory transport. A job is created by `PUT /jobs/v2/{id}`; the clock
//! runs until the hub reports it completed and, for a twin job, until every
//! device has received the change. Each run checks that every device did its
//! part. The figure includes the work of the devices, which share the cores,
//! and up to 2 ms until the end is noticed.
//!
//! ```text
//! cargo bench -p benches --bench job_fan_out
//! ```

use std::time::{Duration, Instant};

use benches::rest::RestConnection;
use benches::site::Site;
use benches::{DEADLINE, runtime, wait_until};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use device_sim::Fleet;
use serde_json::{Value, json};

/// A site with its fleet connected, and how many jobs it has seen.
struct Stage {
    fleet: Fleet,
    rest: RestConnection,
    devices: usize,
    jobs: u64,
    // Dropped last: the fleet would report a hub that went away before it.
    _site: Site,
}

impl Stage {
    async fn set(devices: usize) -> Self {
        let site = Site::start(devices).await;
        Self {
            fleet: site.connect_fleet().await,
            rest: RestConnection::open(&site.hub).await,
            devices,
            jobs: 0,
            _site: site,
        }
    }

    async fn run(&mut self, action: &Value) {
        self.jobs += 1;
        let id = format!("job{}", self.jobs);
        self.rest.run_job(&id, action, self.devices).await;
    }

    async fn method_job(&mut self) -> Duration {
        let before = self.fleet.counts().methods_answered;
        let action = json!({
            "type": "scheduleDeviceMethod",
            "cloudToDeviceMethod": {"methodName": "lockDoor", "payload": {"lockTime": "10m"}},
        });
        let start = Instant::now();
        self.run(&action).await;
        let took = start.elapsed();
        let answered = self.fleet.counts().methods_answered - before;
        assert_eq!(answered, self.devices as u64);
        assert_eq!(self.fleet.devices_with_method("lockDoor"), self.devices);
        took
    }

    async fn twin_job(&mut self) -> Duration {
        let desired = json!({"building": "43", "run": self.jobs});
        let action = json!({
            "type": "scheduleUpdateTwin",
            "updateTwin": {"etag": "*", "properties": {"desired": desired}},
        });
        let awaited = self.fleet.counts().desired_changes + self.devices as u64;
        let start = Instant::now();
        self.run(&action).await;
        wait_until("every device is told", || {
            self.fleet.counts().desired_changes == awaited
        })
        .await;
        let took = start.elapsed();
        assert_eq!(self.fleet.devices_with_desired(&desired), self.devices);
        took
    }
}

fn job_fan_out(c: &mut Criterion) {
    let runtime = runtime();
    let mut group = c.benchmark_group("job_fan_out");
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .warm_up_time(Duration::from_secs(1));
    for devices in [1_000, 10_000] {
        // Made by the first bench that runs: a filter may leave both out.
        let mut stage = None;
        group.throughput(Throughput::Elements(devices as u64));
        group.bench_function(BenchmarkId::new("method", devices), |b| {
            let stage = stage.get_or_insert_with(|| runtime.block_on(Stage::set(devices)));
            b.iter_custom(|iterations| {
                runtime.block_on(async {
                    let mut took = Duration::ZERO;
                    for _ in 0..iterations {
                        took += stage.method_job().await;
                    }
                    took
                })
            });
        });
        group.bench_function(BenchmarkId::new("twin", devices), |b| {
            let stage = stage.get_or_insert_with(|| runtime.block_on(Stage::set(devices)));
            b.iter_custom(|iterations| {
                runtime.block_on(async {
                    let mut took = Duration::ZERO;
                    for _ in 0..iterations {
                        took += stage.twin_job().await;
                    }
                    took
                })
            });
        });
        if let Some(stage) = stage {
            runtime
                .block_on(async { tokio::time::timeout(DEADLINE, stage.fleet.stop()).await })
                .expect("the fleet stops");
        }
    }
    group.finish();
}

criterion_group!(benches, job_fan_out);
criterion_main!(benches);
