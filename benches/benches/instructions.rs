//! Instructions of the pure hot paths: what every packet of a device, every twin
//! write, every twin that a query looks at and every device of a job runs.
//!
//! Scenario: each is run once, warm-up excluded, under Valgrind, which counts
//! instructions. The counts hardly vary from run to run and not with the load of
//! the machine, so two commits can be compared where times cannot. Valgrind does
//! not offer the processor's instructions for SHA-256, so that tokens show more
//! than they take.
//!
//! ```text
//! cargo install --locked gungraun-runner@0.20.0          # once, and Valgrind
//! cargo bench -p benches --features instructions --bench instructions
//! cargo bench -p benches --features instructions --bench instructions -- --save-baseline=main
//! cargo bench -p benches --features instructions --bench instructions -- --baseline=main
//! ```

#![allow(missing_docs, reason = "the library makes a public module of each function")]

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use gungraun::{library_benchmark, library_benchmark_group, main};
use hub_core::ids::{DeviceId, Target};
use hub_core::job::{Job, JobRequest, Outcome, PartialFailure};
use hub_core::json::JsonText;
use hub_core::method::{MethodCall, MethodResponse};
use hub_core::property_bag::MessageProperties;
use hub_core::query::Query;
use hub_core::sas::{self, Key, Token};
use hub_core::time::Timestamp;
use hub_core::topic::{DeviceTopic, HubTopic};
use hub_core::twin::{ReportedPatch, Twin, TwinPatch};
use mqtt_wire::{PacketBuffer, encode, publish_qos0};
use serde_json::{Value, json};

const BAG: &str = "%24.mid=7f3a&%24.ct=application%2Fjson&alert=true&building=43&room=north%20wing";
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const CALL: &[u8] =
    br#"{"methodName":"lockDoor","payload":{"lockTime":"10m"},"responseTimeoutInSeconds":30}"#;
const ANSWER: &[u8] = br#"{"Response":"lockDoor called successfully"}"#;
/// Devices of the job of which one is taken through.
const DEVICES: usize = 1_000;

fn device(number: usize) -> Target {
    Target::device(DeviceId::parse(&format!("dev{number:05}")).expect("a legal id"))
}

fn now() -> Timestamp {
    Timestamp::from_unix_seconds(1_767_322_000)
}

fn telemetry_topic() -> (String, Target) {
    (format!("devices/dev00042/messages/events/{BAG}"), device(42))
}

fn response_topic() -> (String, Target) {
    ("$iothub/methods/res/200/?$rid=4711".to_owned(), device(42))
}

#[library_benchmark]
#[bench::telemetry(telemetry_topic())]
#[bench::method_response(response_topic())]
fn topic_read((text, target): (String, Target)) {
    black_box(DeviceTopic::parse(black_box(&text), &target).expect("a legal topic"));
}

#[library_benchmark]
#[bench::method_request("lockDoor")]
fn topic_written(name: &str) -> String {
    let topic = HubTopic::MethodRequest {
        name: black_box(name),
        rid: "4711",
    };
    topic.to_string()
}

#[library_benchmark]
#[bench::five_properties(BAG)]
fn property_bag_read(text: &str) -> MessageProperties {
    MessageProperties::decode(black_box(text)).expect("a legal bag")
}

fn token() -> String {
    let key = Key::from_base64(KEY).expect("a legal key");
    sas::sign(
        &sas::resource_text("localhost", &device(42)),
        &key,
        4_000_000_000,
        None,
    )
}

#[library_benchmark]
#[bench::of_a_device(token())]
fn token_verified(text: String) -> String {
    let token = Token::parse(black_box(&text)).expect("a legal token");
    let key = Key::from_base64(black_box(KEY)).expect("a legal key");
    assert!(token.verify(&key));
    text
}

fn packet(payload: &'static [u8]) -> mqtt_wire::Packet {
    publish_qos0(
        "$iothub/methods/POST/lockDoor/?$rid=4711",
        Bytes::from_static(payload),
    )
}

fn received() -> PacketBuffer {
    let (mut bytes, mut buffer) = (BytesMut::new(), PacketBuffer::new(256 * 1024));
    encode(packet(ANSWER), &mut bytes).expect("a legal packet");
    buffer.extend(&bytes);
    buffer
}

#[library_benchmark]
#[bench::publish(received())]
fn packet_read(mut buffer: PacketBuffer) -> PacketBuffer {
    black_box(buffer.next_packet().expect("MQTT").expect("a packet"));
    buffer
}

#[library_benchmark]
#[bench::publish(packet(ANSWER))]
fn packet_written(packet: mqtt_wire::Packet) -> BytesMut {
    let mut out = BytesMut::new();
    encode(packet, &mut out).expect("a legal packet");
    out
}

#[library_benchmark]
#[bench::rest_body(CALL)]
fn method_call_read(body: &[u8]) -> MethodCall {
    let body: Value = serde_json::from_slice(black_box(body)).expect("JSON");
    MethodCall::from_json(&body).expect("a legal call")
}

#[library_benchmark]
#[bench::json(ANSWER)]
fn method_response_read(body: &[u8]) -> MethodResponse {
    MethodResponse::from_device(200, black_box(body)).expect("a legal answer")
}

fn twin() -> Twin {
    let mut twin = Twin::new(now());
    let sections = json!({
        "tags": {"building": 43, "location": {"region": "EU", "floor": 3}},
        "properties": {"desired": {"building": 42, "floor": 2, "telemetry": {"interval": 60, "unit": "s"}}},
    });
    let patch = TwinPatch::from_json(&sections).expect("a legal patch");
    twin.patch(&patch, now()).expect("within limits");
    let reported = ReportedPatch::parse(br#"{"battery":80,"firmware":"2.1.7"}"#).expect("a legal patch");
    twin.patch_reported(&reported, None, now())
        .expect("within limits");
    twin
}

fn twin_and_patch() -> (Twin, TwinPatch) {
    let patch = json!({"properties": {"desired": {"building": 43, "floor": 3}}});
    (twin(), TwinPatch::from_json(&patch).expect("a legal patch"))
}

#[library_benchmark]
#[bench::two_keys(twin_and_patch())]
fn twin_merged_by_a_job((mut twin, patch): (Twin, TwinPatch)) -> (Twin, TwinPatch) {
    black_box(twin.patch(&patch, now()).expect("within limits"));
    (twin, patch)
}

#[library_benchmark]
#[bench::one_key(twin())]
fn twin_reported(mut twin: Twin) -> Twin {
    let patch = ReportedPatch::parse(black_box(br#"{"battery":79}"#)).expect("a legal patch");
    black_box(twin.patch_reported(&patch, None, now()).expect("within limits"));
    twin
}

#[library_benchmark]
#[bench::whole(twin())]
fn twin_read_by_its_device(twin: Twin) -> (Twin, Bytes) {
    let view = twin.device_view();
    (twin, view)
}

const SIMPLE: &str = "SELECT * FROM devices WHERE tags.building = 43";
const COMPLEX: &str = "SELECT * FROM devices WHERE (tags.location.region = 'EU' OR tags.location.region = 'US') \
                       AND properties.desired.telemetry.interval >= 30 AND tags.building IN [1, 2, 3, 43] \
                       AND NOT STARTSWITH(deviceId, 'lab')";

fn query(text: &str) -> (Query, Value) {
    let row = json!({
        "deviceId": "dev00042",
        "tags": {"building": 43, "location": {"region": "EU", "floor": 3}},
        "properties": {"desired": {"telemetry": {"interval": 60, "unit": "s"}}},
    });
    (Query::parse(text).expect("a legal query"), row)
}

#[library_benchmark]
#[bench::simple(query(SIMPLE))]
#[bench::complex(query(COMPLEX))]
fn query_step((query, row): (Query, Value)) -> (Query, Value) {
    assert!(query.matches(black_box(&row)));
    (query, row)
}

#[library_benchmark]
#[bench::complex(COMPLEX)]
fn query_parsed(text: &str) -> Query {
    Query::parse(black_box(text)).expect("a legal query")
}

fn running_job() -> (Job, Outcome) {
    let body = json!({"jobId": "j", "type": "scheduleDeviceMethod", "queryCondition": "*",
        "maxExecutionTimeInSeconds": 60, "cloudToDeviceMethod": {"methodName": "lockDoor"}});
    let request = JobRequest::from_json("j", &body, now()).expect("a legal job");
    let mut job = Job::new(request, PartialFailure::default(), now());
    job.plan();
    job.enqueue();
    assert!(job.start(now()));
    job.select((0..DEVICES).map(device).collect(), now());
    let outcome = Outcome::Method(MethodResponse {
        status: 200,
        payload: JsonText::parse(Bytes::from_static(ANSWER)).expect("JSON"),
    });
    // Its list of changes has room from here on.
    job.begin(0, now());
    job.take_changed(|_| ());
    (job, outcome)
}

#[library_benchmark]
#[bench::one_device(running_job())]
fn job_step((mut job, outcome): (Job, Outcome)) -> Job {
    job.begin(1, now());
    job.settle(1, Ok(outcome), now());
    job.take_changed(|record| {
        black_box(record);
    });
    job
}

library_benchmark_group!(
    name = hot_paths,
    benchmarks = [
        topic_read,
        topic_written,
        property_bag_read,
        token_verified,
        packet_read,
        packet_written,
        method_call_read,
        method_response_read,
        twin_merged_by_a_job,
        twin_reported,
        twin_read_by_its_device,
        query_step,
        query_parsed,
        job_step,
    ]
);

main!(library_benchmark_groups = hot_paths);
