//! What every packet of a device passes: topic, property bag, token, codec.
//!
//! Scenario: the texts are those of a device that answers methods and sends
//! telemetry with two system and three application properties. The token is
//! checked as a hub does it, with the key decoded from the identity's text.
//!
//! ```text
//! cargo bench -p benches --bench topics
//! ```

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hub_core::ids::{DeviceId, Target};
use hub_core::property_bag::MessageProperties;
use hub_core::sas::{self, Key, Token};
use hub_core::topic::{DeviceTopic, HubTopic};
use mqtt_wire::{Packet, PacketBuffer, encode, publish_qos0};

const BAG: &str = "%24.mid=7f3a&%24.ct=application%2Fjson&alert=true&building=43&room=north%20wing";
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn target() -> Target {
    Target::device(DeviceId::parse("dev00042").expect("a legal id"))
}

fn topics(c: &mut Criterion) {
    let target = target();
    let mut group = c.benchmark_group("topics");
    group.throughput(Throughput::Elements(1));
    let telemetry = format!("devices/dev00042/messages/events/{BAG}");
    for (name, text) in [
        ("parse_telemetry", telemetry.as_str()),
        ("parse_method_response", "$iothub/methods/res/200/?$rid=4711"),
        (
            "parse_reported",
            "$iothub/twin/PATCH/properties/reported/?$rid=17&$version=4",
        ),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| black_box(DeviceTopic::parse(black_box(text), &target).expect("a legal topic")));
        });
    }
    group.bench_function("write_method_request", |b| {
        let (name, rid) = ("lockDoor", "4711");
        b.iter(|| black_box(HubTopic::MethodRequest { name, rid }.to_string()));
    });
    group.finish();
}

fn property_bag(c: &mut Criterion) {
    let mut group = c.benchmark_group("property_bag");
    group.throughput(Throughput::Elements(1));
    group.bench_function("decode", |b| {
        b.iter(|| black_box(MessageProperties::decode(black_box(BAG)).expect("a legal bag")));
    });
    let properties = MessageProperties::decode(BAG).expect("a legal bag");
    assert_eq!(properties.encode(), BAG);
    group.bench_function("encode", |b| b.iter(|| black_box(properties.encode())));
    group.finish();
}

fn tokens(c: &mut Criterion) {
    let mut group = c.benchmark_group("sas");
    group.throughput(Throughput::Elements(1));
    let key = Key::from_base64(KEY).expect("a legal key");
    let resource = sas::resource_text("localhost", &target());
    let text = sas::sign(&resource, &key, 4_000_000_000, None);
    group.bench_function("sign", |b| {
        b.iter(|| black_box(sas::sign(&resource, &key, 4_000_000_000, None)));
    });
    group.bench_function("parse_and_verify", |b| {
        b.iter(|| {
            let token = Token::parse(black_box(&text)).expect("a legal token");
            let key = Key::from_base64(black_box(KEY)).expect("a legal key");
            assert!(token.verify(&key));
        });
    });
    group.finish();
}

fn wire(c: &mut Criterion) {
    const PACKETS: usize = 20;
    let publish = || {
        let payload = Bytes::from_static(br#"{"temperature":21.5,"humidity":40}"#);
        publish_qos0("$iothub/methods/POST/lockDoor/?$rid=4711", payload)
    };
    let mut bytes = BytesMut::new();
    for _ in 0..PACKETS {
        encode(publish(), &mut bytes).expect("a legal packet");
    }
    let mut group = c.benchmark_group("mqtt_wire");
    group.throughput(Throughput::Elements(PACKETS as u64));
    group.bench_function("decode_20_publishes", |b| {
        let mut buffer = PacketBuffer::new(256 * 1024);
        b.iter(|| {
            buffer.extend(black_box(&bytes));
            let mut count = 0;
            while let Some(packet) = buffer.next_packet().expect("MQTT") {
                assert!(matches!(packet, Packet::Publish(_)));
                count += 1;
            }
            assert_eq!(count, PACKETS);
        });
    });
    group.bench_function("encode_20_publishes", |b| {
        b.iter(|| {
            let mut out = BytesMut::new();
            for _ in 0..PACKETS {
                encode(publish(), &mut out).expect("a legal packet");
            }
            assert_eq!(black_box(&out).len(), bytes.len());
        });
    });
    group.finish();
}

criterion_group!(benches, topics, property_bag, tokens, wire);
criterion_main!(benches);
