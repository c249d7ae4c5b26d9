use super::*;
use amqp_wire::message::Properties;
use std::sync::Arc;

use hub_core::events::{Origin, Source};
use hub_core::ids::{DeviceId, Target};
use hub_core::property_bag::Bag;
use hub_core::time::Timestamp;

use crate::hub::HubState;

fn ask(hub: &HubState, properties: &[(&'static str, Value)]) -> Message {
    let request = Message {
        properties: Some(Box::new(Properties {
            message_id: Value::Uuid([7; 16]),
            ..Properties::default()
        })),
        application_properties: properties
            .iter()
            .map(|(name, value)| (Value::from(*name), value.clone()))
            .collect(),
        ..Message::default()
    };
    let answer = stream_of(hub, None, &request).and_then(|stream| read(&stream, &request));
    let reply = answer.map_or_else(Reply::from, |body| Reply {
        body: Body::Value(body),
        ..Reply::new(200, "OK")
    });
    let message = reply.message(&request);
    // As the request has it, type and all.
    assert_eq!(
        message.properties.as_ref().unwrap().correlation_id,
        Value::Uuid([7; 16])
    );
    message
}

fn status(answer: &Message) -> Option<&Value> {
    answer.application_property("status-code")
}

#[test]
fn the_stream_is_described() {
    let hub = HubState::for_tests();
    let events = hub.events.built_in();
    let answer = ask(
        &hub,
        &[
            ("operation", "READ".into()),
            ("type", HUB.into()),
            ("name", "Localhost".into()),
        ],
    );
    assert_eq!(status(&answer), Some(&Value::Int(200)));
    let created = Value::Timestamp(events.created().unix_milliseconds());
    let expected = map([
        ("name", "localhost".into()),
        ("type", HUB.into()),
        ("created_at", created),
        ("partition_count", Value::Int(4)),
        (
            "partition_ids",
            Value::Array(Array::of_strings(["0", "1", "2", "3"])),
        ),
    ]);
    assert_eq!(answer.body, Body::Value(expected));
}

#[test]
fn a_partition_is_described() {
    let hub = HubState::for_tests();
    let events = hub.events.built_in();
    let read = |number: Value| {
        let answer = ask(
            &hub,
            &[
                ("operation", "READ".into()),
                ("type", PARTITION.into()),
                ("partition", number),
            ],
        );
        assert_eq!(status(&answer), Some(&Value::Int(200)));
        match answer.body {
            Body::Value(body) => body,
            other => panic!("{other:?}"),
        }
    };
    let empty = read("2".into());
    assert_eq!(
        empty,
        map([
            ("name", "localhost".into()),
            ("type", PARTITION.into()),
            ("partition", "2".into()),
            ("begin_sequence_number", Value::Long(0)),
            ("last_enqueued_sequence_number", Value::Long(-1)),
            ("last_enqueued_offset", "-1".into()),
            ("last_enqueued_time_utc", Value::Timestamp(-62_135_596_800_000)),
            ("is_partition_empty", true.into()),
        ])
    );
    let origin = Arc::new(Origin {
        target: Target::device(DeviceId::parse("d").unwrap()),
        sender: None,
    });
    let now = Timestamp::from_unix_milliseconds(1_795_000_000_000);
    events.append(Source::Telemetry, &origin, &Bag::default(), b"x", now);
    let partition = events
        .partitions()
        .iter()
        .position(|info| !info.is_empty())
        .unwrap();
    let filled = read(Value::Uint(partition as u32));
    assert_eq!(filled.get("last_enqueued_sequence_number"), Some(&Value::Long(0)));
    assert_eq!(filled.get("last_enqueued_offset"), Some(&"0".into()));
    let arrived = Value::Timestamp(1_795_000_000_000);
    assert_eq!(filled.get("last_enqueued_time_utc"), Some(&arrived));
    assert_eq!(filled.get("is_partition_empty"), Some(&false.into()));
}

#[test]
fn what_cannot_be_read_is_refused() {
    let hub = HubState::for_tests();
    let bad = (400, "com.microsoft:argument-error");
    let missing = (404, "amqp:not-found");
    let read = || ("operation", Value::from("READ"));
    let of_partition = || ("type", Value::from(PARTITION));
    for (request, (code, condition)) in [
        (vec![], bad),
        (vec![("operation", "DELETE".into()), ("type", HUB.into())], bad),
        (vec![read()], bad),
        (vec![read(), ("type", "com.microsoft:queue".into())], bad),
        (
            vec![read(), ("type", HUB.into()), ("name", "other".into())],
            missing,
        ),
        (vec![read(), of_partition()], bad),
        (vec![read(), of_partition(), ("partition", "4".into())], missing),
        (vec![read(), of_partition(), ("partition", "x".into())], missing),
        (
            vec![read(), of_partition(), ("partition", Value::Long(-1))],
            missing,
        ),
    ] {
        let answer = ask(&hub, &request);
        assert_eq!(status(&answer), Some(&Value::Int(code)), "{request:?}");
        let found = answer.application_property("error-condition");
        assert_eq!(found.and_then(Value::as_str), Some(condition), "{request:?}");
        assert!(answer.application_property("status-description").is_some());
    }
}
