//! Devices that come online.
//!
//! Scenario: CONNECT with a token of the device's own key, CONNACK, SUBSCRIBE
//! to methods and desired properties, SUBACK. The hub checks the signature
//! each time; the client's packets are made beforehand. First one device after
//! the other, over memory and over TCP, then 1,000 of them at the same moment.
//! Opening the TCP connection counts, closing it does not.
//!
//! ```text
//! cargo bench -p benches --bench connect
//! ```
//!
//! The 1,000 devices over TCP need about 2,200 open files: `ulimit -n 4096`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use benches::peer::{Hello, Peer};
use benches::site::Site;
use benches::{runtime, wait_until};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use emulator::Hub;
use hub_core::topic::Filter;
use mqtt_wire::QoS;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const DEVICES: usize = 1_000;

/// A way to the hub.
trait Road: Clone + Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn open(&self) -> impl Future<Output = Self::Stream> + Send;
}

#[derive(Clone)]
struct Memory(Arc<Hub>);

impl Road for Memory {
    type Stream = DuplexStream;

    async fn open(&self) -> DuplexStream {
        self.0.connect_in_memory()
    }
}

#[derive(Clone)]
struct Tcp(SocketAddr);

impl Road for Tcp {
    type Stream = TcpStream;

    async fn open(&self) -> TcpStream {
        let stream = TcpStream::connect(self.0).await.expect("the hub is there");
        stream.set_nodelay(true).expect("a TCP option");
        // Closed connections would keep their ports for a minute otherwise,
        // and thousands a second would run out of them.
        stream.set_zero_linger().expect("a TCP option");
        stream
    }
}

struct Stage {
    site: Site,
    hellos: Vec<Hello>,
}

impl Stage {
    async fn set() -> Self {
        let site = Site::start(DEVICES).await;
        let hellos = site
            .targets
            .iter()
            .map(|target| {
                let login = site.login(target);
                let filters = [Filter::Methods, Filter::DesiredChanges].map(|filter| filter.text(target));
                let filters = filters.each_ref().map(String::as_str);
                Hello::new(
                    target.device.as_str(),
                    &login.user_name,
                    login.password.as_deref(),
                    &filters,
                    QoS::AtMostOnce,
                )
            })
            .collect();
        Self { site, hellos }
    }

    /// Connects one device after the other, `count` times in all. Each comes
    /// round again only after all others, so that none takes over its own
    /// connection.
    async fn one_by_one(&self, road: &impl Road, count: u64) -> Duration {
        let mut took = Duration::ZERO;
        for hello in self.hellos.iter().cycle().take(count as usize) {
            let start = Instant::now();
            let peer = Peer::open(road.open().await, hello).await;
            took += start.elapsed();
            drop(peer);
        }
        took
    }

    /// Connects all devices at once, and checks that all are online.
    async fn at_once<R: Road>(&self, road: &R) -> Duration {
        self.wait_connected(0).await;
        let mut tasks = JoinSet::new();
        let start = Instant::now();
        for hello in &self.hellos {
            let (road, hello) = (road.clone(), hello.clone());
            tasks.spawn(async move { Peer::open(road.open().await, &hello).await });
        }
        let peers = tasks.join_all().await;
        let took = start.elapsed();
        assert_eq!(self.site.hub.connected_count(), DEVICES);
        drop(peers);
        took
    }

    async fn wait_connected(&self, count: usize) {
        wait_until("the earlier connections end", || {
            self.site.hub.connected_count() == count
        })
        .await;
    }
}

fn bench_road<R: Road>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    runtime: &Runtime,
    stage: &mut Option<Stage>,
    name: &str,
    road: impl Fn(&Arc<Hub>) -> R,
) {
    group
        .throughput(Throughput::Elements(1))
        .sampling_mode(SamplingMode::Auto);
    group.bench_function(format!("one/{name}"), |b| {
        let stage = &*stage.get_or_insert_with(|| runtime.block_on(Stage::set()));
        let road = road(&stage.site.hub);
        b.iter_custom(|count| runtime.block_on(stage.one_by_one(&road, count)));
    });
    group
        .throughput(Throughput::Elements(DEVICES as u64))
        .sampling_mode(SamplingMode::Flat);
    group.bench_function(format!("1000_at_once/{name}"), |b| {
        let stage = &*stage.get_or_insert_with(|| runtime.block_on(Stage::set()));
        let road = road(&stage.site.hub);
        b.iter_custom(|times| {
            runtime.block_on(async {
                let mut took = Duration::ZERO;
                for _ in 0..times {
                    took += stage.at_once(&road).await;
                }
                took
            })
        });
    });
}

fn connect(c: &mut Criterion) {
    let runtime = runtime();
    let mut stage = None;
    let mut group = c.benchmark_group("connect");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    bench_road(&mut group, &runtime, &mut stage, "memory", |hub| {
        Memory(hub.clone())
    });
    bench_road(&mut group, &runtime, &mut stage, "tcp", |hub| {
        Tcp(hub.mqtt_address().expect("the hub accepts MQTT"))
    });
    group.finish();
}

criterion_group!(benches, connect);
criterion_main!(benches);
