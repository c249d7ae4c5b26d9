//! Telemetry and messages to devices: how fast they go through the hub, and
//! what it takes to keep them.
//!
//! Scenario: 10,000 devices are connected over MQTT in memory and send messages
//! of 200 bytes, each acknowledged, with one and with twenty of a device in
//! flight; the hub keeps all of them, a million by default. Then one reader
//! drains a partition over AMQP in memory, and at last a back end sends every
//! device a message over AMQP, which the device receives and completes and the
//! back end sees accepted. At last messages come in at hubs with ten routes, and
//! with an event tap that nobody reads, beside one without either. Both ends of every connection are in the process, so
//! its processor time is that of both. It prints a table and keeps nothing.
//!
//! ```text
//! cargo bench -p benches --bench events               # a million messages
//! cargo bench -p benches --bench events -- 100000     # another number
//! ```

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::num::NonZeroU16;
use std::time::Instant;

use amqp_wire::engine::{Event, Outgoing};
use amqp_wire::message::{Message, Properties};
use amqp_wire::performative::{DeliveryState, Role};
use benches::amqp::AmqpPeer;
use benches::peer::{Hello, Peer};
use benches::runtime;
use benches::site::Site;
use bytes::{Bytes, BytesMut};
use device_sim::process::Usage;
use emulator::{EventSettings, Hub};
use hub_core::events::Retention;
use hub_core::routing::Routing;
use hub_core::topic::Filter;
use mqtt_wire::{Packet, QoS, encode, publish_qos1};
use serde_json::json;
use tokio::io::DuplexStream;
use tokio::task::JoinSet;

const DEVICES: usize = 10_000;
const BODY: [u8; 200] = [b'x'; 200];

/// Messages that the reader asks for at once.
const CREDIT: u32 = 2_000;

fn main() {
    let is_test = std::env::args().any(|argument| argument == "--test");
    let number = std::env::args().find_map(|argument| argument.parse().ok());
    let (devices, messages) = if is_test {
        (20, 1_000)
    } else {
        (DEVICES, number.unwrap_or(1_000_000))
    };
    runtime().block_on(async {
        measure(devices, messages).await;
        compare(devices.min(1_000), messages / 5).await;
    });
}

/// What ten routes, or an event tap that nobody has subscribed to, add to taking
/// messages in. The hubs take turns; the best round of each counts.
async fn compare(devices: usize, messages: usize) {
    const ROUNDS: usize = 5;
    let condition = |number: usize| match number {
        0 => "true".to_owned(),
        number => format!("level = 'l{number}' OR $connectionDeviceId = 'none'"),
    };
    let routes: Vec<_> = (0..10)
        .map(|number| {
            json!({
                "name": format!("r{number}"),
                "source": "DeviceMessages",
                "condition": condition(number),
                "endpointNames": ["events"],
            })
        })
        .collect();
    let routing = Routing::from_json(&json!({ "routes": routes })).expect("a configuration");
    let hubs = [
        ("as it is", Hub::builder()),
        ("with ten routes", Hub::builder().routing(routing)),
        ("with an event tap that nobody reads", Hub::builder().event_tap(0)),
    ];
    for in_flight in [1, 20] {
        let mut best = [f64::INFINITY; 3];
        for _ in 0..ROUNDS {
            for ((_, builder), best) in hubs.iter().zip(&mut best) {
                let site = Site::on(builder.clone(), devices, |_| json!({})).await;
                let connected = connect(&site).await;
                let meter = Meter::start();
                let (count, _) = send(connected, messages / devices, in_flight).await;
                *best = best.min(meter.cpu() / count as f64);
            }
        }
        println!("messages in, {in_flight} of a device in flight, processor time of device and hub");
        for ((name, _), cost) in hubs.iter().zip(best) {
            println!("  {name:<46}{:>12.2} µs, {:.2} times", cost * 1e6, cost / best[0]);
        }
    }
}

async fn measure(devices: usize, messages: usize) {
    let mut settings = EventSettings::default();
    settings.retention = Retention {
        bytes: 1 << 30,
        ..Retention::default()
    };
    let site = Site::on(Hub::builder().events(settings), devices, |_| json!({})).await;
    println!("{devices} devices, {messages} messages of {} bytes", BODY.len());
    println!("{:<48}{:>12}{:>12}", "", "a second", "µs CPU each");
    let mut connected = connect(&site).await;
    let before = usage().peak_rss_bytes;
    for in_flight in [1, 20] {
        let meter = Meter::start();
        let (count, devices) = send(connected, messages / 2 / devices, in_flight).await;
        meter.show(&format!("messages in, {in_flight} of a device in flight"), count);
        connected = devices;
    }
    let grown = usage().peak_rss_bytes.saturating_sub(before);

    let kept: Vec<u64> = site
        .hub
        .event_partitions()
        .iter()
        .map(|partition| partition.count)
        .collect();
    let all: u64 = kept.iter().sum();
    assert_eq!(all as usize, messages / 2 / devices * devices * 2, "all are kept");
    let (fullest, count) = kept
        .iter()
        .enumerate()
        .max_by_key(|(_, count)| **count)
        .expect("four");
    let meter = Meter::start();
    drain(&site.hub, fullest, *count).await;
    meter.show("messages out, one reader of a partition", *count as usize);

    let meter = Meter::start();
    send_to_devices(&site, connected).await;
    meter.show("messages to devices, until all are completed", devices);
    println!(
        "memory of {all} messages that are kept: {:.0} MiB, {:.0} bytes each",
        grown as f64 / f64::from(1 << 20),
        grown as f64 / all as f64
    );
}

fn usage() -> Usage {
    Usage::current().expect("a system with /proc")
}

/// Measures wall time and the processor time of the whole process.
struct Meter {
    start: Instant,
    usage: Usage,
}

impl Meter {
    fn start() -> Self {
        Self {
            start: Instant::now(),
            usage: usage(),
        }
    }

    /// Processor time since the start, in seconds.
    fn cpu(&self) -> f64 {
        let now = usage();
        now.user_seconds + now.system_seconds - self.usage.user_seconds - self.usage.system_seconds
    }

    fn show(self, what: &str, count: usize) {
        let (seconds, cpu) = (self.start.elapsed().as_secs_f64(), self.cpu());
        println!(
            "{what:<48}{:>12.0}{:>12.2}   in {seconds:.3} s",
            count as f64 / seconds,
            cpu * 1e6 / count as f64
        );
    }
}

/// A connected device.
struct Device {
    peer: Peer<DuplexStream>,
    /// Where it sends telemetry.
    topic: String,
}

/// Connects every device, subscribed to its messages.
async fn connect(site: &Site) -> Vec<Device> {
    let mut devices = JoinSet::new();
    for target in &site.targets {
        let login = site.login(target);
        let filter = Filter::CloudToDevice.text(target);
        let id = target.device.as_str();
        let hello = Hello::new(
            id,
            &login.user_name,
            login.password.as_deref(),
            &[&filter],
            QoS::AtLeastOnce,
        );
        let topic = format!("devices/{id}/messages/events/%24.ct=application%2Fjson&%24.ce=utf-8");
        let stream = site.hub.connect_in_memory();
        devices.spawn(async move {
            let peer = Peer::open(stream, &hello).await;
            Device { peer, topic }
        });
    }
    devices.join_all().await
}

/// Each device sends `each` messages; gives how many were acknowledged.
async fn send(devices: Vec<Device>, each: usize, in_flight: usize) -> (usize, Vec<Device>) {
    let mut tasks = JoinSet::new();
    for mut device in devices {
        tasks.spawn(async move {
            let mut acknowledged = 0;
            while acknowledged < each {
                let round = in_flight.min(each - acknowledged);
                let mut out = BytesMut::new();
                for packet_id in (1..=round as u16).filter_map(NonZeroU16::new) {
                    let publish = publish_qos1(device.topic.as_str(), Bytes::from_static(&BODY), packet_id);
                    encode(publish, &mut out).expect("a legal packet");
                }
                device.peer.send(&out).await;
                for _ in 0..round {
                    let answer = device.peer.receive().await;
                    assert!(matches!(answer, Some(Packet::PublishAck { .. })));
                }
                acknowledged += round;
            }
            (acknowledged, device)
        });
    }
    let ends = tasks.join_all().await;
    let count = ends.iter().map(|(acknowledged, _)| acknowledged).sum();
    (count, ends.into_iter().map(|(_, device)| device).collect())
}

/// Reads `count` events of a partition over AMQP.
async fn drain(hub: &Hub, partition: usize, count: u64) {
    let address = format!("messages/events/ConsumerGroups/$Default/Partitions/{partition}");
    let mut peer = AmqpPeer::open(hub).await;
    let reader = peer.attach(Role::Receiver, &address).await;
    peer.engine.grant(reader, CREDIT).expect("a receiver");
    let mut received = 0;
    while received < count {
        if let Event::Message { payload, .. } = peer.event().await {
            assert!(payload.len() > BODY.len());
            received += 1;
            if peer.engine.credit(reader) == Ok(CREDIT / 2) {
                peer.engine.grant(reader, CREDIT).expect("a receiver");
            }
        }
    }
}

/// A back end sends each device a message and waits until the hub has accepted
/// it; every device receives its own and completes it.
async fn send_to_devices(site: &Site, devices: Vec<Device>) {
    let mut receivers = JoinSet::new();
    for mut device in devices {
        receivers.spawn(async move {
            match device.peer.receive().await {
                Some(Packet::Publish(message)) => {
                    assert_eq!(message.payload.len(), BODY.len());
                    let packet_id = message.packet_id.expect("messages to devices have QoS 1");
                    let mut out = BytesMut::new();
                    encode(Packet::PublishAck { packet_id }, &mut out).expect("a legal packet");
                    device.peer.send(&out).await;
                }
                other => panic!("{other:?} instead of a message"),
            }
            device
        });
    }
    let mut peer = AmqpPeer::open(&site.hub).await;
    let sender = peer.attach(Role::Sender, "/messages/devicebound").await;
    let mut waiting = site.targets.iter();
    let (mut sent, mut accepted) = (0, 0);
    while accepted < site.targets.len() {
        match peer.event().await {
            Event::Outcome { state, .. } => {
                assert_eq!(state, Some(DeliveryState::Accepted));
                accepted += 1;
            }
            Event::Credit { link, credit, .. } if link == sender => {
                for target in waiting.by_ref().take(credit as usize) {
                    let to = format!("/devices/{}/messages/devicebound", target.device);
                    let message = Message {
                        properties: Some(Box::new(Properties {
                            to: Some(to.into()),
                            ..Properties::default()
                        })),
                        ..Message::with_data(Bytes::from_static(&BODY))
                    };
                    peer.engine
                        .send(sender, Outgoing::unsettled(message.to_bytes()))
                        .expect("there is credit");
                    sent += 1;
                }
            }
            _ => {}
        }
    }
    assert_eq!(sent, site.targets.len());
    let devices = receivers.join_all().await;
    assert_eq!(devices.len(), site.targets.len());
    // The last completions may still be on their way.
    let completed = || site.hub.counters().c2d_completed as usize;
    benches::wait_until("every message is completed", || completed() == site.targets.len()).await;
}
