//! The hub beside rumqttd 0.20, a general MQTT broker, where the two do
//! comparable things.
//!
//! Scenario: 100 and 1,000 devices over TCP on the loopback interface. The
//! devices are the same code for both, and each server runs on two threads of
//! its own.
//!
//! * `connect`: each device opens a connection, CONNECT, and SUBSCRIBE to one
//!   filter, 64 devices at a time: rumqttd's socket lets no more than 128 wait,
//!   and one that does not fit loses a second. The hub checks a token's
//!   signature for each device; rumqttd checks nothing. Its accepting loop,
//!   however, sleeps for a tick of the timer after each connection, even when
//!   it is told to wait 0 ms.
//! * `round_trip`: a service sends one request to each connected device and
//!   has every answer. Requests and answers are some tens of bytes, QoS 0.
//!   * `rumqttd`: the service is one MQTT client. It publishes all requests to
//!     `req/{id}` without waiting, each device answers on `res/{id}`, the
//!     service is subscribed to `res/+`. Four hops, with no notion of a
//!     request: the service itself counts who has answered.
//!   * `hub_rest`: 64 HTTP connections call direct methods, one call at a time
//!     on each. The same four hops, but two of them are HTTP requests with a
//!     token to check, and the hub matches answers to requests.
//!   * `hub_job`: one job over all devices, created and followed over HTTP. The
//!     hub itself sends the requests and keeps a record for each device, so
//!     only two hops are on the network. Up to 2 ms pass until the service
//!     notices the end.
//!
//! All topics are in use before the clock starts: the first message on a new
//! topic costs rumqttd many times as much as the later ones. As it leaves Nagle's
//! algorithm on, an ordinary client would meet stalls of 40 ms; on Linux the
//! service acknowledges at once what it receives, which spares rumqttd those.
//!
//! ```text
//! cargo bench -p benches --bench rumqttd_baseline
//! ```

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use benches::peer::{Hello, Peer};
use benches::rest::RestConnection;
use benches::site::Site;
use benches::{DEADLINE, runtime, wait_until};
use bytes::{Bytes, BytesMut};
use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use hub_core::topic::{DeviceTopic, Filter, HubTopic};
use hyper::Method;
use mqtt_wire::{Packet, QoS, encode, publish_qos0};
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// Devices that connect at the same time.
const CONNECTING: usize = 64;
/// HTTP connections of a service that calls methods.
const CONNECTIONS: usize = 64;
const REQUEST: Bytes = Bytes::from_static(br#"{"lockTime":"10m"}"#);

/// Opens the connections of all devices.
async fn connect_all(address: SocketAddr, hellos: &[Hello]) -> Vec<Peer<TcpStream>> {
    let connecting = Arc::new(Semaphore::new(CONNECTING));
    let mut tasks = JoinSet::new();
    for hello in hellos {
        let (hello, connecting) = (hello.clone(), connecting.clone());
        tasks.spawn(async move {
            let _permit = connecting.acquire().await;
            let stream = TcpStream::connect(address).await.expect("the server is there");
            stream.set_nodelay(true).expect("a TCP option");
            // Ports of closed connections are free again at once.
            stream.set_zero_linger().expect("a TCP option");
            Peer::open(stream, &hello).await
        });
    }
    tasks.join_all().await
}

/// Devices that answer until this is dropped.
struct Answering(Vec<AbortHandle>);

impl Answering {
    async fn start(address: SocketAddr, hellos: &[Hello], answer_topic: fn(&str) -> String) -> Self {
        let peers = connect_all(address, hellos).await;
        let spawn = |peer: Peer<TcpStream>| tokio::spawn(peer.answer(answer_topic)).abort_handle();
        Self(peers.into_iter().map(spawn).collect())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

/// The hub and what its devices say.
struct HubSide {
    site: Site,
    hellos: Vec<Hello>,
    address: SocketAddr,
    // The hub's own; last, so that it goes after the hub.
    _threads: Runtime,
}

impl HubSide {
    fn start(devices: usize) -> Self {
        let threads = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime starts");
        let site = threads.block_on(Site::start(devices));
        let hellos = site
            .targets
            .iter()
            .map(|target| {
                let login = site.login(target);
                let filter = Filter::Methods.text(target);
                Hello::new(
                    target.device.as_str(),
                    &login.user_name,
                    login.password.as_deref(),
                    &[&filter],
                    QoS::AtMostOnce,
                )
            })
            .collect();
        Self {
            address: site.hub.mqtt_address().expect("the hub accepts MQTT"),
            site,
            hellos,
            _threads: threads,
        }
    }

    async fn settle(&self, connected: usize) {
        let hub = &self.site.hub;
        wait_until("connections settle", || hub.connected_count() == connected).await;
    }

    async fn connect(&self) -> Duration {
        self.settle(0).await;
        let start = Instant::now();
        let peers = connect_all(self.address, &self.hellos).await;
        let took = start.elapsed();
        self.settle(peers.len()).await;
        took
    }

    async fn answering(&self) -> Answering {
        Answering::start(self.address, &self.hellos, answer_to_method).await
    }

    async fn service(&self, connections: usize) -> Vec<RestConnection> {
        let mut open = Vec::new();
        for _ in 0..connections {
            open.push(RestConnection::open(&self.site.hub).await);
        }
        open
    }

    /// Calls a method on every device, the devices dealt out to `connections`.
    async fn call_all(&self, connections: &mut Vec<RestConnection>) -> Duration {
        let paths: Arc<[String]> = self
            .site
            .targets
            .iter()
            .map(|target| format!("/twins/{target}/methods"))
            .collect();
        let mut tasks = JoinSet::new();
        let (start, step) = (Instant::now(), connections.len());
        for (first, mut connection) in connections.drain(..).enumerate() {
            let paths = paths.clone();
            tasks.spawn(async move {
                for path in paths.iter().skip(first).step_by(step) {
                    let body = Bytes::from_static(br#"{"methodName":"lock","payload":{"lockTime":"10m"}}"#);
                    let reply = connection.call(Method::POST, path, body).await;
                    assert_eq!(&reply.body[..], br#"{"status":200,"payload":{"ok":true}}"#);
                }
                connection
            });
        }
        *connections = tasks.join_all().await;
        start.elapsed()
    }
}

fn answer_to_method(topic: &str) -> String {
    match HubTopic::parse(topic) {
        Ok(HubTopic::MethodRequest { rid, .. }) => {
            DeviceTopic::MethodResponse { status: 200, rid }.to_string()
        }
        other => panic!("not a method: {other:?}"),
    }
}

/// rumqttd and what its devices say.
struct BrokerSide {
    address: SocketAddr,
    hellos: Vec<Hello>,
}

impl BrokerSide {
    /// Starts a broker; rumqttd knows no way to stop one before the process ends.
    fn start(devices: usize) -> Self {
        // The broker binds by itself, so a free port can only be guessed.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .expect("a free port");
        let mut broker = Broker::new(config(address));
        let server = thread::spawn(move || {
            if let Err(error) = broker.start() {
                panic!("rumqttd ended: {error}");
            }
        });
        while std::net::TcpStream::connect(address).is_err() {
            assert!(!server.is_finished(), "rumqttd does not start");
            thread::sleep(Duration::from_millis(5));
        }
        let hellos = (0..devices)
            .map(|i| {
                Hello::new(
                    &device(i),
                    &device(i),
                    None,
                    &[&format!("req/{}", device(i))],
                    QoS::AtMostOnce,
                )
            })
            .collect();
        Self { address, hellos }
    }

    async fn connect(&self) -> Duration {
        let start = Instant::now();
        let peers = connect_all(self.address, &self.hellos).await;
        let took = start.elapsed();
        drop(peers);
        // The broker does not show when it has seen them go.
        sleep(Duration::from_millis(100)).await;
        took
    }

    async fn answering(&self) -> Answering {
        Answering::start(self.address, &self.hellos, answer_to_request).await
    }

    async fn service(&self) -> Peer<TcpStream> {
        let hello = Hello::new("service", "service", None, &["res/+"], QoS::AtMostOnce);
        let mut peers = connect_all(self.address, &[hello]).await;
        peers.remove(0)
    }

    /// Sends a request to every device and waits for an answer of each.
    async fn call_all(&self, service: &mut Peer<TcpStream>) -> Duration {
        let mut awaited: HashSet<String> = (0..self.hellos.len())
            .map(|i| format!("res/{}", device(i)))
            .collect();
        let start = Instant::now();
        let mut out = BytesMut::new();
        for i in 0..self.hellos.len() {
            encode(publish_qos0(format!("req/{}", device(i)), REQUEST), &mut out).expect("a legal packet");
        }
        service.send(&out).await;
        while !awaited.is_empty() {
            acknowledge_at_once(service.stream());
            let packet = timeout(DEADLINE, service.receive()).await.expect("an answer");
            match packet {
                Some(Packet::Publish(publish)) => {
                    assert!(
                        awaited.remove(&*publish.topic),
                        "{} answered twice",
                        publish.topic
                    );
                }
                other => panic!("{other:?} instead of an answer"),
            }
        }
        start.elapsed()
    }
}

/// Lets the peer's next segment go without waiting for one of ours. The effect
/// does not last, so it is asked for again and again.
fn acknowledge_at_once(stream: &TcpStream) {
    #[cfg(target_os = "linux")]
    stream.set_quickack(true).expect("a TCP option");
    #[cfg(not(target_os = "linux"))]
    let _ = stream;
}

fn device(i: usize) -> String {
    format!("dev{i:05}")
}

fn answer_to_request(topic: &str) -> String {
    topic.replacen("req/", "res/", 1)
}

/// As rumqttd's own sample has it, apart from what would slow it down here.
fn config(listen: SocketAddr) -> Config {
    Config {
        router: RouterConfig {
            max_connections: 10_010,
            max_outgoing_packet_count: 200,
            max_segment_size: 100 * 1024 * 1024,
            max_segment_count: 10,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([(
            "v4".to_owned(),
            ServerSettings {
                name: "v4".into(),
                listen,
                tls: None,
                // The sample's 1 ms between two connections would limit it to
                // fewer than 1,000 a second.
                next_connection_delay_ms: 0,
                connections: ConnectionSettings {
                    connection_timeout_ms: 60_000,
                    max_payload_size: 20_480,
                    max_inflight_count: 100,
                    auth: None,
                    external_auth: None,
                    dynamic_filters: true,
                },
            },
        )])),
        ..Config::default()
    }
}

/// One line of the group: `set` makes what `once` then works on, and `once`
/// says how long its timed part took.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the type of an async closure's argument is not inferred through a reference"
)]
fn bench_times<T>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    runtime: &Runtime,
    set: impl Fn() -> T,
    once: impl AsyncFn(&mut T) -> Duration,
) {
    let mut state = None;
    group.bench_function(id, |b| {
        let state = state.get_or_insert_with(&set);
        b.iter_custom(|times| {
            runtime.block_on(async {
                let mut took = Duration::ZERO;
                for _ in 0..times {
                    took += once(state).await;
                }
                took
            })
        });
    });
}

fn connect(group: &mut BenchmarkGroup<'_, WallTime>, runtime: &Runtime, devices: usize) {
    bench_times(
        group,
        BenchmarkId::new("connect/hub", devices),
        runtime,
        || HubSide::start(devices),
        async |hub| hub.connect().await,
    );
    bench_times(
        group,
        BenchmarkId::new("connect/rumqttd", devices),
        runtime,
        || BrokerSide::start(devices),
        async |broker| broker.connect().await,
    );
}

fn round_trip(group: &mut BenchmarkGroup<'_, WallTime>, runtime: &Runtime, devices: usize) {
    let hub = |connections| {
        let hub = HubSide::start(devices);
        let (answering, service) =
            runtime.block_on(async { (hub.answering().await, hub.service(connections).await) });
        (hub, answering, service)
    };
    bench_times(
        group,
        BenchmarkId::new("round_trip/hub_rest", devices),
        runtime,
        || hub(CONNECTIONS),
        async |(hub, _, service)| hub.call_all(service).await,
    );
    let jobs = AtomicU64::new(0);
    bench_times(
        group,
        BenchmarkId::new("round_trip/hub_job", devices),
        runtime,
        || hub(1),
        async |(_, _, service)| {
            let id = format!("job{}", jobs.fetch_add(1, Ordering::Relaxed));
            let action = json!({
                "type": "scheduleDeviceMethod",
                "cloudToDeviceMethod": {"methodName": "lock", "payload": {"lockTime": "10m"}},
            });
            let start = Instant::now();
            service[0].run_job(&id, &action, devices).await;
            start.elapsed()
        },
    );
    bench_times(
        group,
        BenchmarkId::new("round_trip/rumqttd", devices),
        runtime,
        || {
            let broker = BrokerSide::start(devices);
            let (answering, mut service) =
                runtime.block_on(async { (broker.answering().await, broker.service().await) });
            runtime.block_on(broker.call_all(&mut service));
            (broker, answering, service)
        },
        async |(broker, _, service)| broker.call_all(service).await,
    );
}

fn rumqttd_baseline(c: &mut Criterion) {
    let runtime = runtime();
    let mut group = c.benchmark_group("rumqttd_baseline");
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    for devices in [100, 1_000] {
        group.throughput(Throughput::Elements(devices as u64));
        connect(&mut group, &runtime, devices);
        round_trip(&mut group, &runtime, devices);
    }
    group.finish();
}

criterion_group!(benches, rumqttd_baseline);
criterion_main!(benches);
