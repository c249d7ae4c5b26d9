//! The devices: connections that answer whatever they are asked, and count what
//! has reached them. As a role they have a process of their own.

use std::num::NonZeroU16;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use benches::DEADLINE;
use benches::peer::{Hello, Peer};
use bytes::{Bytes, BytesMut};
use device_sim::{Credentials, Transport};
use emulator::MemoryConnector;
use hub_core::connection_string::ServiceConnection;
use hub_core::ids::{DeviceId, Target};
use hub_core::time::Timestamp;
use hub_core::topic::Filter;
use mqtt_wire::{Packet, QoS, encode, publish_qos0, publish_qos1};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::hub::service;
use super::{FRAME, child, device_id, half_a_machine};

/// Body of a telemetry message: 100 bytes.
const BODY: [u8; 100] = [b'x'; 100];

/// Connections that are opened at the same time to what is not a hub.
const CONNECTING: usize = 500;

/// What has reached the devices.
#[derive(Default)]
struct Counts {
    methods: AtomicU64,
    desired: AtomicU64,
    acknowledged: AtomicU64,
}

/// An order to send telemetry: so many messages each, so many in flight.
#[derive(Debug, Clone, Copy, Default)]
struct Order {
    each: usize,
    in_flight: usize,
}

/// Where the other end of the connections is.
#[derive(Clone)]
pub(crate) enum Reach {
    Tcp(String),
    Tls(Transport),
    /// In this process.
    Memory(MemoryConnector),
}

/// What the devices say and do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Devices of a hub.
    Hub,
    /// Clients of a broker.
    Broker,
    /// Ends of the floor's plain connections.
    Floor,
}

/// `fleet KIND ADDRESS CA-FILE DEVICES`, in a process of its own.
pub(crate) fn run(arguments: &[String]) {
    let [kind, address, ca_file, devices] = arguments else {
        panic!("a fleet takes four arguments")
    };
    let devices: usize = devices.parse().expect("a number");
    let tcp = Reach::Tcp(address.clone());
    let plan = match kind.as_str() {
        "hub" => Plan::of_hub(tcp, &service("localhost"), devices),
        "hub-tls" => {
            let service = service(address);
            let transport = Transport::tls(&service.host, Some(Path::new(ca_file)));
            Plan::of_hub(
                Reach::Tls(transport.expect("the CA file is good")),
                &service,
                devices,
            )
        }
        "broker" => Plan::new(Kind::Broker, tcp, (0..devices).map(broker_hello).collect()),
        "floor" => Plan::new(
            Kind::Floor,
            tcp,
            (0..devices).map(|i| (device_id(i), None)).collect(),
        ),
        other => panic!("no kind {other}"),
    };
    let runtime = half_a_machine();
    let (running, connected) = Running::connect(&runtime, plan);
    child::serve(&connected, |line| running.obey(&runtime, line));
}

/// A fleet that is connected.
pub(crate) struct Running {
    counts: Arc<Counts>,
    orders: watch::Sender<Order>,
    devices: usize,
}

impl Running {
    /// Connects all at once; says how long that took, and the longest time in
    /// which none got through, in seconds.
    pub(crate) fn connect(runtime: &Runtime, plan: Plan) -> (Self, Value) {
        let running = Self {
            counts: Arc::default(),
            orders: watch::Sender::new(Order::default()),
            devices: plan.hellos.len(),
        };
        let begun = Instant::now();
        let mut ends = runtime.block_on(plan.connect(&running.counts, &running.orders));
        ends.sort_unstable();
        let (mut last, mut stall) = (begun, Duration::ZERO);
        for end in ends {
            stall = stall.max(end.saturating_duration_since(last));
            last = last.max(end);
        }
        let seconds = (last - begun).as_secs_f64();
        (running, json!({"seconds": seconds, "stall": stall.as_secs_f64()}))
    }

    /// Carries out a command and answers when every device has done its part.
    pub(crate) fn obey(&self, runtime: &Runtime, line: &str) -> Value {
        let counts = &self.counts;
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        let (counter, count) = match words[0] {
            "methods" => (&counts.methods, number(1)),
            "desired" => (&counts.desired, number(1)),
            "ingest" => {
                let before = counts.acknowledged.load(Relaxed);
                let (each, in_flight) = (number(1) as usize, number(2) as usize);
                self.orders.send_replace(Order { each, in_flight });
                (&counts.acknowledged, before + (each * self.devices) as u64)
            }
            other => panic!("no command {other}"),
        };
        let begun = Instant::now();
        wait(runtime.handle(), counter, count);
        json!({"seconds": begun.elapsed().as_secs_f64()})
    }
}

/// Waits until a counter has come to `count`. More than that is an error: the
/// devices must have seen everything once.
fn wait(runtime: &Handle, counter: &AtomicU64, count: u64) {
    runtime.block_on(benches::wait_until("every device has seen it", || {
        counter.load(Relaxed) >= count
    }));
    assert_eq!(counter.load(Relaxed), count, "seen more often than it was sent");
}

/// A fleet that is to be connected.
pub(crate) struct Plan {
    kind: Kind,
    reach: Reach,
    /// Ids, and what each says first. Signing is not the hub's work, so it has
    /// been done before.
    hellos: Vec<(String, Option<Hello>)>,
}

impl Plan {
    fn new(kind: Kind, reach: Reach, hellos: Vec<(String, Option<Hello>)>) -> Self {
        Self { kind, reach, hellos }
    }

    /// Devices of a hub, each with a token of its own.
    pub(crate) fn of_hub(reach: Reach, service: &ServiceConnection, devices: usize) -> Self {
        let credentials = Credentials::derived(service);
        let hellos = (0..devices).map(|number| hub_hello(&credentials, number));
        Self::new(Kind::Hub, reach, hellos.collect())
    }

    /// Connects all; gives when each was.
    async fn connect(self, counts: &Arc<Counts>, orders: &watch::Sender<Order>) -> Vec<Instant> {
        let at_a_time = match self.kind {
            Kind::Hub => self.hellos.len(),
            Kind::Broker | Kind::Floor => CONNECTING,
        };
        let room = Arc::new(Semaphore::new(at_a_time));
        let mut opening = JoinSet::new();
        for (id, hello) in self.hellos {
            let (kind, reach) = (self.kind, self.reach.clone());
            let (counts, orders, room) = (counts.clone(), orders.subscribe(), room.clone());
            opening.spawn(async move {
                let _permit = room.acquire().await.expect("never closed");
                let Some(hello) = hello else {
                    let Reach::Tcp(address) = reach else {
                        panic!("the floor is over TCP")
                    };
                    tokio::spawn(echo(connect_tcp(&address).await, counts));
                    return Instant::now();
                };
                let device = Device {
                    id,
                    kind,
                    counts,
                    orders,
                };
                match reach {
                    Reach::Tcp(address) => device.start(connect_tcp(&address).await, &hello).await,
                    Reach::Tls(transport) => {
                        let stream = transport.connect().await.expect("the hub accepts TLS");
                        device.start(stream, &hello).await;
                    }
                    Reach::Memory(connector) => device.start(connector.connect(), &hello).await,
                }
                Instant::now()
            });
        }
        opening.join_all().await
    }
}

async fn connect_tcp(address: &str) -> TcpStream {
    let stream = tokio::time::timeout(DEADLINE, TcpStream::connect(address)).await;
    let stream = stream.expect("in time").expect("the other end is there");
    stream.set_nodelay(true).expect("a TCP option");
    stream
}

fn hub_hello(credentials: &Credentials, number: usize) -> (String, Option<Hello>) {
    let id = device_id(number);
    let target = Target::device(DeviceId::parse(&id).expect("a legal id"));
    let now = Timestamp::from_unix_seconds(benches::site::token_expiry() as i64 - 3600);
    let login = credentials.login(&target, now);
    let filters = [Filter::Methods, Filter::DesiredChanges].map(|filter| filter.text(&target));
    let filters = filters.each_ref().map(String::as_str);
    let password = login.password.as_deref();
    let hello = Hello::new(&id, &login.user_name, password, &filters, QoS::AtMostOnce);
    (id, Some(hello))
}

fn broker_hello(number: usize) -> (String, Option<Hello>) {
    let id = device_id(number);
    let filter = format!("req/{id}");
    let hello = Hello::new(&id, &id, None, &[&filter], QoS::AtMostOnce);
    (id, Some(hello))
}

/// Sends back what comes.
async fn echo(mut stream: TcpStream, counts: Arc<Counts>) {
    let mut frame = [0; FRAME];
    while stream.read_exact(&mut frame).await.is_ok() {
        if stream.write_all(&frame).await.is_err() {
            return;
        }
        counts.methods.fetch_add(1, Relaxed);
    }
}

struct Device {
    id: String,
    kind: Kind,
    counts: Arc<Counts>,
    orders: watch::Receiver<Order>,
}

impl Device {
    /// Logs in and subscribes; from then on the device acts by itself.
    async fn start<S>(self, stream: S, hello: &Hello)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let peer = Peer::open(stream, hello).await;
        tokio::spawn(self.serve(peer));
    }

    async fn serve(mut self, mut peer: Peer<impl AsyncRead + AsyncWrite + Unpin>) {
        loop {
            tokio::select! {
                packet = peer.receive() => match packet {
                    Some(packet) => self.handle(packet, &mut peer).await,
                    None => return,
                },
                changed = self.orders.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let order = *self.orders.borrow_and_update();
                    self.send(order, &mut peer).await;
                }
            }
        }
    }

    async fn handle(&self, packet: Packet, peer: &mut Peer<impl AsyncRead + AsyncWrite + Unpin>) {
        let Packet::Publish(publish) = packet else { return };
        let topic = publish.topic.to_string();
        let answer = if let Some((_, request)) = topic.split_once("/?$rid=") {
            format!("$iothub/methods/res/200/?$rid={request}")
        } else if topic.starts_with("req/") {
            format!("res/{}", self.id)
        } else {
            self.counts.desired.fetch_add(1, Relaxed);
            return;
        };
        let mut out = BytesMut::new();
        encode(publish_qos0(answer, Bytes::from_static(b"{}")), &mut out).expect("a legal packet");
        peer.send(&out).await;
        self.counts.methods.fetch_add(1, Relaxed);
    }

    async fn send(&self, order: Order, peer: &mut Peer<impl AsyncRead + AsyncWrite + Unpin>) {
        let topic = match self.kind {
            Kind::Broker => format!("events/{}", self.id),
            _ => format!("devices/{}/messages/events/", self.id),
        };
        let mut sent = 0;
        while sent < order.each {
            let round = order.in_flight.min(order.each - sent);
            let mut out = BytesMut::new();
            for packet_id in (1..=round as u16).filter_map(NonZeroU16::new) {
                let publish = publish_qos1(topic.as_str(), Bytes::from_static(&BODY), packet_id);
                encode(publish, &mut out).expect("a legal packet");
            }
            peer.send(&out).await;
            for _ in 0..round {
                let answer = peer.receive().await;
                assert!(matches!(answer, Some(Packet::PublishAck { .. })), "{answer:?}");
            }
            sent += round;
            self.counts.acknowledged.fetch_add(round as u64, Relaxed);
        }
    }
}

/// What a fleet said, as a number.
pub(crate) fn seconds(answer: &Value) -> f64 {
    answer["seconds"].as_f64().expect("a fleet says how long")
}
