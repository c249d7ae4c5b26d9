//! The role of the devices: connections that answer whatever they are asked, and
//! count what has reached them.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use benches::peer::{Hello, Peer};
use benches::{DEADLINE, runtime};
use bytes::{Bytes, BytesMut};
use device_sim::{Credentials, Transport};
use hub_core::connection_string::{ConnectionString, ServiceConnection};
use hub_core::ids::{DeviceId, Target};
use hub_core::time::Timestamp;
use hub_core::topic::Filter;
use mqtt_wire::{Packet, QoS, encode, publish_qos0, publish_qos1};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::{FRAME, child, device_id};

/// Body of a telemetry message: 100 bytes.
const BODY: [u8; 100] = [b'x'; 100];

/// Connections that a fleet opens at the same time, unless it is told to open
/// all at once.
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

/// What is at the other end of the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A hub, over TCP or TLS.
    Hub,
    HubOverTls,
    /// A broker.
    Broker,
    /// The plain relay of the floor.
    Floor,
}

impl Kind {
    fn parse(text: &str) -> Self {
        match text {
            "hub" => Self::Hub,
            "hub-tls" => Self::HubOverTls,
            "broker" => Self::Broker,
            "floor" => Self::Floor,
            other => panic!("no kind {other}"),
        }
    }
}

/// `fleet KIND CONNECTION-STRING ADDRESS CA-FILE DEVICES`.
pub(crate) fn run(arguments: &[String]) {
    let [kind, connection, address, ca_file, devices] = arguments else {
        panic!("a fleet takes five arguments")
    };
    let devices: usize = devices.parse().expect("a number");
    let runtime = runtime();
    let counts = Arc::<Counts>::default();
    let orders = watch::Sender::new(Order::default());
    let fleet = Plan::new(Kind::parse(kind), connection, address, ca_file, devices);
    let (seconds, longest) = runtime.block_on(fleet.connect(&counts, &orders));
    let ready = json!({"seconds": seconds, "longest": longest});
    child::serve(&ready, |line| {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        let (counter, count) = match words[0] {
            "methods" => (&counts.methods, number(1)),
            "desired" => (&counts.desired, number(1)),
            "ingest" => {
                let before = counts.acknowledged.load(Relaxed);
                let (each, in_flight) = (number(1) as usize, number(2) as usize);
                orders.send_replace(Order { each, in_flight });
                (&counts.acknowledged, before + (each * devices) as u64)
            }
            other => panic!("no command {other}"),
        };
        let begun = Instant::now();
        wait(runtime.handle(), counter, count);
        json!({"seconds": begun.elapsed().as_secs_f64()})
    });
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
struct Plan {
    kind: Kind,
    address: String,
    transport: Option<Transport>,
    hellos: BTreeMap<usize, (String, Hello)>,
    devices: usize,
}

impl Plan {
    fn new(kind: Kind, connection: &str, address: &str, ca_file: &str, devices: usize) -> Self {
        let service = match ConnectionString::parse(connection) {
            Ok(ConnectionString::Service(service)) => Some(service),
            _ => None,
        };
        let host = service.as_ref().map(|service| service.host.clone());
        let transport = (kind == Kind::HubOverTls).then(|| {
            let host = host.expect("a connection string of a hub");
            Transport::tls(&host, Some(Path::new(ca_file))).expect("the CA file is good")
        });
        // Signing is not the hub's work, so it is done before.
        let hellos = (0..devices)
            .filter(|_| kind != Kind::Floor)
            .map(|number| (number, hello(kind, service.as_ref(), number)))
            .collect();
        Self {
            kind,
            address: address.to_owned(),
            transport,
            hellos,
            devices,
        }
    }

    /// Connects all; gives how long that took, and the longest time that one
    /// connection took.
    async fn connect(mut self, counts: &Arc<Counts>, orders: &watch::Sender<Order>) -> (f64, f64) {
        let room = Arc::new(Semaphore::new(CONNECTING));
        let mut opening = JoinSet::new();
        let start = Instant::now();
        for number in 0..self.devices {
            let (id, hello) = self
                .hellos
                .remove(&number)
                .map_or_else(|| (device_id(number), None), |(id, hello)| (id, Some(hello)));
            let (kind, address, transport) = (self.kind, self.address.clone(), self.transport.clone());
            let (counts, orders, room) = (counts.clone(), orders.subscribe(), room.clone());
            opening.spawn(async move {
                let _permit = room.acquire().await.expect("never closed");
                let begun = Instant::now();
                let Some(hello) = hello else {
                    tokio::spawn(echo(connect_tcp(&address).await, counts));
                    return begun.elapsed();
                };
                let device = Device {
                    id,
                    kind,
                    counts,
                    orders,
                };
                if let Some(transport) = transport {
                    let stream = transport.connect().await.expect("the hub accepts TLS");
                    tokio::spawn(device.serve(Peer::open(stream, &hello).await));
                } else {
                    let stream = connect_tcp(&address).await;
                    tokio::spawn(device.serve(Peer::open(stream, &hello).await));
                }
                begun.elapsed()
            });
        }
        let mut longest = Duration::ZERO;
        while let Some(took) = opening.join_next().await {
            longest = longest.max(took.expect("every device connects"));
        }
        (start.elapsed().as_secs_f64(), longest.as_secs_f64())
    }
}

async fn connect_tcp(address: &str) -> TcpStream {
    let stream = tokio::time::timeout(DEADLINE, TcpStream::connect(address)).await;
    let stream = stream.expect("in time").expect("the other end is there");
    stream.set_nodelay(true).expect("a TCP option");
    stream
}

fn hello(kind: Kind, service: Option<&ServiceConnection>, number: usize) -> (String, Hello) {
    let id = device_id(number);
    let hello = match service {
        Some(service) if kind != Kind::Broker => {
            let target = Target::device(DeviceId::parse(&id).expect("a legal id"));
            let now = Timestamp::from_unix_seconds(benches::site::token_expiry() as i64 - 3600);
            let login = Credentials::derived(service).login(&target, now);
            let filters = [Filter::Methods, Filter::DesiredChanges].map(|filter| filter.text(&target));
            let filters = filters.each_ref().map(String::as_str);
            let password = login.password.as_deref();
            Hello::new(&id, &login.user_name, password, &filters, QoS::AtMostOnce)
        }
        _ => {
            let filter = format!("req/{id}");
            Hello::new(&id, &id, None, &[&filter], QoS::AtMostOnce)
        }
    };
    (id, hello)
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
