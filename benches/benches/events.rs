//! Telemetry: how fast it comes in, what it takes to keep it, how fast it is
//! read.
//!
//! Scenario: devices send messages of 200 bytes over MQTT in memory, each
//! acknowledged, with one and with twenty of a device in flight; the
//! hub keeps all of them, a million by default. Then one reader drains a
//! partition over AMQP in memory. At last the same messages come in at a hub
//! with an event tap that nobody has subscribed to, and at one without, in turns.
//! It prints a table and keeps nothing.
//!
//! ```text
//! cargo bench -p benches --bench events               # a million messages
//! cargo bench -p benches --bench events -- 100000     # another number
//! ```

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Instant;

use amqp_wire::engine::{Config, Engine, Event};
use amqp_wire::performative::{Attach, Role, SaslInit, Source, Target as Terminus};
use benches::peer::{Hello, Peer};
use benches::runtime;
use benches::site::{Site, service_connection, token_expiry};
use bytes::{Bytes, BytesMut};
use device_sim::process::Usage;
use emulator::{EventSettings, Hub};
use hub_core::events::Retention;
use hub_core::sas;
use hub_core::topic::Filter;
use mqtt_wire::{Packet, encode, publish_qos1};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

const DEVICES: usize = 20;
const BODY: [u8; 200] = [b'x'; 200];

/// Messages that the reader asks for at once.
const CREDIT: u32 = 2_000;

fn main() {
    let is_test = std::env::args().any(|argument| argument == "--test");
    let number = std::env::args().find_map(|argument| argument.parse().ok());
    let messages = if is_test {
        1_000
    } else {
        number.unwrap_or(1_000_000)
    };
    runtime().block_on(async {
        measure(messages).await;
        measure_tap(messages).await;
    });
}

async fn measure(messages: usize) {
    let mut settings = EventSettings::default();
    settings.retention = Retention {
        bytes: 1 << 30,
        ..Retention::default()
    };
    let site = Site::on(Hub::builder().events(settings), DEVICES, |_| json!({})).await;
    let before = usage().peak_rss_bytes;
    for in_flight in [1, 20] {
        let start = Instant::now();
        let count = send(&site, messages / 2 / DEVICES, in_flight).await;
        show(
            &format!("messages in, {in_flight} in flight, each of 20 devices"),
            count,
            start,
        );
    }
    let all: u64 = (0..4).map(|partition| kept(&site.hub, partition)).sum();
    let bytes = usage().peak_rss_bytes.saturating_sub(before);
    println!(
        "{:<52}{:>12.1}",
        "memory of a message that is kept, bytes",
        bytes as f64 / all as f64
    );
    let fullest = (0..4)
        .max_by_key(|partition| kept(&site.hub, *partition))
        .unwrap_or(0);
    let count = kept(&site.hub, fullest);
    let start = Instant::now();
    drain(&site.hub, fullest, count).await;
    show("messages out, one reader of a partition", count as usize, start);
}

/// What an event tap costs that nobody has subscribed to.
async fn measure_tap(messages: usize) {
    const TURNS: usize = 10;
    let without = Site::on(Hub::builder(), DEVICES, |_| json!({})).await;
    let with = Site::on(Hub::builder().event_tap(0), DEVICES, |_| json!({})).await;
    let each = (messages / 2 / DEVICES / TURNS).max(1);
    let mut best = [f64::INFINITY; 2];
    for _ in 0..TURNS {
        for (site, best) in [&without, &with].into_iter().zip(&mut best) {
            let start = Instant::now();
            send(site, each, 20).await;
            *best = best.min(start.elapsed().as_secs_f64());
        }
    }
    let [without, with] = best;
    println!(
        "{:<52}{:>12.2}",
        "time of messages in, with an idle tap / without",
        with / without
    );
}

/// Events that a partition holds.
fn kept(hub: &Hub, partition: usize) -> u64 {
    let reader = hub.read_events("$Default", partition, hub_core::events::Start::Earliest, None);
    reader.expect("a place for a reader").partition_info().count
}

fn show(what: &str, count: usize, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{:<52}{:>12.0}",
        format!("{what}, a second"),
        count as f64 / seconds
    );
}

fn usage() -> Usage {
    Usage::current().expect("a system with /proc")
}

/// Each device sends `each` messages; gives how many were acknowledged.
async fn send(site: &Site, each: usize, in_flight: usize) -> usize {
    let mut devices = JoinSet::new();
    for target in &site.targets {
        let login = site.login(target);
        let filter = Filter::Methods.text(target);
        let id = target.device.as_str();
        let hello = Hello::new(id, &login.user_name, login.password.as_deref(), &[&filter]);
        let mut peer = Peer::open(site.hub.connect_in_memory(), &hello).await;
        let topic = format!("devices/{id}/messages/events/%24.ct=application%2Fjson&%24.ce=utf-8");
        devices.spawn(async move {
            let mut acknowledged = 0;
            while acknowledged < each {
                let round = in_flight.min(each - acknowledged);
                let mut out = BytesMut::new();
                for packet_id in (1..=round as u16).filter_map(NonZeroU16::new) {
                    let publish = publish_qos1(topic.as_str(), Bytes::from_static(&BODY), packet_id);
                    encode(publish, &mut out).expect("a legal packet");
                }
                peer.send(&out).await;
                for _ in 0..round {
                    assert!(matches!(peer.receive().await, Some(Packet::PublishAck { .. })));
                }
                acknowledged += round;
            }
            acknowledged
        });
    }
    devices.join_all().await.into_iter().sum()
}

/// Reads `count` events of a partition over AMQP.
async fn drain(hub: &Hub, partition: usize, count: u64) {
    let service = service_connection(hub);
    let token = sas::sign(
        service.host.name(),
        &service.key,
        token_expiry(),
        Some(&service.policy),
    );
    let login = SaslInit::plain(&format!("{}@sas.root.localhost", service.policy), &token);
    let mut engine = Engine::client(Arc::new(Config::new("bench")), Some(login));
    let mut stream = hub.connect_amqp_in_memory();
    let address = format!("messages/events/ConsumerGroups/$Default/Partitions/{partition}");
    let mut buffer = BytesMut::with_capacity(256 * 1024);
    let mut received = 0;
    let mut reader = None;
    while received < count {
        while let Some(event) = engine.next_event() {
            match event {
                Event::Open(_) => drop(engine.begin().expect("the connection is open")),
                Event::Begun { session } => {
                    let (source, target) = (Source::at(address.as_str()), Terminus::at("bench"));
                    let attach = Attach::new("reader", Role::Receiver, source, target);
                    reader = engine.attach(session, attach).ok();
                }
                Event::Attached { link, .. } => drop(engine.grant(link, CREDIT).expect("a receiver")),
                Event::Message { link, .. } => {
                    received += 1;
                    if engine.credit(link) == Ok(CREDIT / 2) {
                        engine.grant(link, CREDIT).expect("a receiver");
                    }
                }
                Event::Detached { error, .. } | Event::Closed { error, .. } => {
                    panic!("{reader:?}: {error:?}")
                }
                _ => {}
            }
        }
        let mut out = engine.take_output();
        stream
            .write_all_buf(&mut out)
            .await
            .expect("the connection stays");
        if received < count {
            buffer.clear();
            let read = stream.read_buf(&mut buffer).await.expect("the connection stays");
            assert!(read > 0, "the hub ended the connection after {received} events");
            engine.feed(&buffer);
        }
    }
}
