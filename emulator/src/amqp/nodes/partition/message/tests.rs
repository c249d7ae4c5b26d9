use super::*;
use std::sync::Arc;

use hub_core::events::{AuthMethod, AuthScope, Draft, Origin, Partition, Retention, Sender, Source};
use hub_core::ids::{DeviceId, ModuleId, Target};
use hub_core::property_bag::Bag;

/// The event of a sender, as a partition gives it.
fn event(module: Option<&str>, source: Source, bag: &str, body: &[u8]) -> (Event, PartitionInfo) {
    let origin = Arc::new(Origin {
        target: Target {
            device: DeviceId::parse("d1").unwrap(),
            module: module.map(|module| ModuleId::parse(module).unwrap()),
        },
        sender: (source == Source::Telemetry).then(|| Sender {
            generation_id: "639".into(),
            auth: AuthMethod::Sas(AuthScope::Device),
            model_id: None,
        }),
    });
    let mut partition = Partition::new(Retention::default());
    let draft = Draft {
        source,
        position: 1,
        origin: &origin,
        bag: &Bag::parse(bag).unwrap(),
        body,
    };
    partition.append(&draft, Timestamp::from_unix_milliseconds(1_795_000_000_123));
    let event = partition.read(0, 1).into_events().remove(0);
    (event, partition.info())
}

fn encoded(event: &Event) -> Bytes {
    Encoder::new(0, None).encode(event)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Type by type: a map of symbols, then small long, string, timestamp; one data section.
#[test]
fn a_bare_message() {
    let (event, _) = event(None, Source::Telemetry, "", b"hi");
    let golden: [&[u8]; 11] = [
        b"\x00Sr\xd1\x00\x00\x01`\x00\x00\x00\x12",
        b"\xa3\x15x-opt-sequence-numberU\x00",
        b"\xa3\x0cx-opt-offset\xa1\x010",
        b"\xa3\x13x-opt-enqueued-time\x83\x00\x00\x01\xa1\xeeV^{",
        b"\xa3\x13x-opt-partition-key\xa1\x02d1",
        b"\xa3\x1biothub-connection-device-id\xa1\x02d1",
        b"\xa3\x1diothub-connection-auth-method\xa1N{\"scope\":\"device\",\"type\":\"sas\",\"issuer\":\"iothub\",\"acceptingIpFilterRule\":null}",
        b"\xa3$iothub-connection-auth-generation-id\xa1\x03639",
        b"\xa3\x13iothub-enqueuedtime\x83\x00\x00\x01\xa1\xeeV^{",
        b"\xa3\x15iothub-message-source\xa1\x09Telemetry",
        b"\x00Su\xa0\x02hi",
    ];
    assert_eq!(hex(&encoded(&event)), hex(&golden.concat()));
}

#[test]
fn every_property_has_its_place_and_type() {
    let bag = "%24.mid=m&%24.cid=c&%24.uid=u&%24.to=t&%24.ct=application%2Fjson&%24.ce=utf-8\
               &%24.exp=2026-01-01T00%3A00%3A00Z&%24.ctime=then&%24.sub=part&color=red";
    let (event, _) = event(Some("m1"), Source::Telemetry, bag, b"{}");
    let message = Message::decode(&encoded(&event)).unwrap();
    let properties = Properties {
        message_id: "m".into(),
        correlation_id: "c".into(),
        user_id: Some(Bytes::from_static(b"u")),
        to: Some("t".into()),
        content_type: Some("application/json".into()),
        content_encoding: Some("utf-8".into()),
        absolute_expiry_time: Some(1_767_225_600_000),
        ..Properties::default()
    };
    assert_eq!(message.properties.as_deref(), Some(&properties));
    assert_eq!(
        message.application_properties,
        [
            ("color".into(), "red".into()),
            ("iothub-creation-time-utc".into(), "then".into())
        ]
    );
    let arrived = Value::Timestamp(1_795_000_000_123);
    let auth = r#"{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}"#;
    let annotations = [
        ("x-opt-sequence-number", Value::Long(0)),
        ("x-opt-offset", "0".into()),
        ("x-opt-enqueued-time", arrived.clone()),
        ("x-opt-partition-key", "d1".into()),
        ("iothub-connection-device-id", "d1".into()),
        ("iothub-connection-module-id", "m1".into()),
        ("iothub-connection-auth-method", auth.into()),
        ("iothub-connection-auth-generation-id", "639".into()),
        ("iothub-enqueuedtime", arrived),
        ("iothub-message-source", "Telemetry".into()),
        ("dt-subject", "part".into()),
    ];
    assert_eq!(
        message.message_annotations,
        annotations.map(|(name, value)| (Value::symbol(name), value))
    );
    assert_eq!(message.body, Body::Data(Bytes::from_static(b"{}")));
}

#[test]
fn what_is_not_there_is_left_out() {
    let (event, _) = event(None, Source::TwinChange, "%24.exp=tomorrow", b"");
    let message = Message::decode(&encoded(&event)).unwrap();
    assert_eq!(message.properties, None);
    assert_eq!(message.message_annotation("iothub-connection-auth-method"), None);
    assert_eq!(message.message_annotation("iothub-connection-module-id"), None);
    let source = message.message_annotation("iothub-message-source");
    assert_eq!(source, Some(&"twinChangeEvents".into()));
    assert_eq!(message.body, Body::Data(Bytes::new()));
}

#[test]
fn a_reader_may_learn_how_far_its_partition_is() {
    let (event, info) = event(None, Source::Telemetry, "", b"hi");
    let now = Timestamp::from_unix_milliseconds(1_795_000_000_456);
    let mut encoder = Encoder::new(0, Some((&info, now)));
    for _ in 0..2 {
        let message = Message::decode(&encoder.encode(&event)).unwrap();
        let expected = [
            ("last_enqueued_sequence_number", Value::Long(0)),
            ("last_enqueued_offset", "0".into()),
            ("last_enqueued_time_utc", Value::Timestamp(1_795_000_000_123)),
            (
                "runtime_info_retrieval_time_utc",
                Value::Timestamp(1_795_000_000_456),
            ),
        ];
        assert_eq!(
            message.delivery_annotations,
            expected.map(|(name, value)| (Value::symbol(name), value))
        );
    }
}
