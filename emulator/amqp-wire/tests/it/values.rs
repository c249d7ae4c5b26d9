//! Values and messages.

use amqp_wire::message::{BATCH_FORMAT, Body, Header, Message, Properties, batch, messages};
use amqp_wire::performative::{Performative, SaslFrame};
use amqp_wire::value::Array;
use amqp_wire::{DecodeError, MAX_DEPTH, Value, decode_value, encode_value};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use crate::golden::hex;

fn encoded(value: &Value) -> Bytes {
    let mut out = BytesMut::new();
    encode_value(value, &mut out);
    out.freeze()
}

#[test]
fn values_take_the_forms_that_clients_read() {
    #[track_caller]
    fn form(value: impl Into<Value>, text: &str) {
        let value = value.into();
        let bytes = encoded(&value);
        assert_eq!(bytes, hex(text), "{bytes:02x?}");
        assert_eq!(decode_value(&bytes), Ok(value));
    }
    form(Value::Null, "40");
    form(true, "41");
    form(0_u32, "43");
    form(200_u32, "52 c8");
    form(0_u64, "44");
    form(0x468C_0000_0004_u64, "80 0000468c00000004");
    // A status code is an int: uint and long make the Python client wait.
    form(200_i32, "71 000000c8");
    form(-1_i32, "54 ff");
    form(-1_i64, "55 ff");
    form(300_i64, "81 000000000000012c");
    form(Value::Timestamp(1), "83 0000000000000001");
    form(Value::List(vec![]), "c0 01 00");
    form(Value::Map(vec![]), "c1 01 00");
    form(Value::Array(Array::default()), "e0 02 00 a3");
    form(
        Value::Array(Array::of_strings(["0", "1"])),
        "e0 0c 02 b1 00000001 30 00000001 31",
    );
    form(
        Value::string("x".repeat(255)),
        &format!("a1 ff {}", "78".repeat(255)),
    );
    form(
        Value::string("x".repeat(256)),
        &format!("b1 00000100 {}", "78".repeat(256)),
    );
    // 254 bytes of items with the count fill a one-byte size.
    form(
        Value::List(vec![Value::Null; 254]),
        &format!("c0 ff fe {}", "40".repeat(254)),
    );
    form(
        Value::List(vec![Value::Null; 255]),
        &format!("d0 00000103 000000ff {}", "40".repeat(255)),
    );
}

#[test]
fn all_constructors_are_read() {
    for (text, value) in [
        ("56 00", false.into()),
        ("70 00000007", 7_u32.into()),
        ("80 0000000000000007", 7_u64.into()),
        ("71 00000007", 7_i32.into()),
        ("81 0000000000000007", 7_i64.into()),
        ("b0 00000001 61", Bytes::from("a").into()),
        ("b1 00000001 61", "a".into()),
        ("b3 00000001 61", Value::symbol("a")),
        ("45", Value::List(vec![])),
        ("d0 00000005 00000001 41", Value::List(vec![true.into()])),
        (
            "d1 00000006 00000002 41 42",
            Value::Map(vec![(true.into(), false.into())]),
        ),
        ("73 00000061", Value::Char('a')),
        (
            "e0 02 02 41",
            Value::Array(Array::new(vec![true.into(), true.into()]).unwrap()),
        ),
    ] {
        assert_eq!(decode_value(&hex(text)), Ok(value), "{text}");
    }
    // One item less than announced.
    assert!(decode_value(&hex("f0 00000009 00000002 00 53 07 50 08")).is_err());
    // An array of described values: one descriptor for all.
    let items = [8, 9].map(|number| Value::described(7_u64.into(), Value::Ubyte(number)));
    assert_eq!(
        decode_value(&hex("e0 07 02 00 53 07 50 08 09")),
        Ok(Value::Array(Array::new(items.to_vec()).unwrap()))
    );
}

#[test]
fn bombs_are_refused() {
    // Thousands of millions of items without a byte each.
    assert_eq!(
        decode_value(&hex("f0 00000005 ffffffff 41")),
        Err(DecodeError::Size)
    );
    assert_eq!(
        decode_value(&hex("f0 00000005 ffffffff 40")),
        Err(DecodeError::Size)
    );
    assert_eq!(decode_value(&hex("d0 00000004 ffffffff")), Err(DecodeError::Size));
    assert_eq!(decode_value(&hex("d1 00000004 fffffffe")), Err(DecodeError::Size));
    assert_eq!(decode_value(&hex("b0 ffffffff")), Err(DecodeError::Truncated));
    // A large descriptor for each of many items.
    assert_eq!(
        decode_value(&hex("e0 08 02 00 c0 02 01 41 50 08")),
        Err(DecodeError::Items)
    );
    let mut deep = Value::Null;
    for _ in 0..MAX_DEPTH {
        deep = Value::List(vec![deep]);
    }
    assert_eq!(decode_value(&encoded(&deep)).as_ref(), Ok(&deep));
    deep = Value::List(vec![deep]);
    assert_eq!(decode_value(&encoded(&deep)), Err(DecodeError::Depth));
    for opening in ["00", "c0ff01"] {
        assert!(decode_value(&hex(&opening.repeat(5000))).is_err());
    }
}

#[test]
fn payloads_are_not_copied() {
    let bytes = Message::with_data(vec![7; 100]).to_bytes();
    let Body::Data(data) = Message::decode(&bytes).unwrap().body else {
        panic!("no data")
    };
    assert!(bytes.as_ptr_range().contains(&data.as_ptr()));
}

fn full_message() -> Message {
    let annotations = |key| vec![(Value::symbol(key), Value::from(1_i64))];
    Message {
        header: Some(Header {
            durable: true,
            priority: Some(4),
            ttl: Some(60_000),
            first_acquirer: false,
            delivery_count: 2,
        }),
        delivery_annotations: annotations("d"),
        message_annotations: annotations("m"),
        properties: Some(Box::new(Properties {
            message_id: Value::Uuid([1; 16]),
            user_id: Some("user".into()),
            to: Some("/devices/d".into()),
            subject: Some("subject".into()),
            reply_to: Some("reply".into()),
            correlation_id: Value::Ulong(0),
            content_type: Some("application/json".into()),
            content_encoding: Some("utf-8".into()),
            absolute_expiry_time: Some(1),
            creation_time: Some(2),
            group_id: Some("group".into()),
            group_sequence: Some(3),
            reply_to_group_id: Some("other".into()),
        })),
        application_properties: vec![("iothub-ack".into(), "full".into())],
        body: Body::Data("body".into()),
        footer: annotations("f"),
    }
}

#[test]
fn messages_come_back() {
    let message = full_message();
    assert_eq!(Message::decode(&message.to_bytes()).as_ref(), Ok(&message));
    assert_eq!(message.application_property("iothub-ack"), Some(&"full".into()));
    assert_eq!(message.message_annotation("m"), Some(&1_i64.into()));
    assert_eq!(message.message_annotation("n"), None);
    for body in [
        Body::Empty,
        Body::DataSections(vec!["a".into(), "b".into()]),
        Body::Value(Value::Null),
        Body::Sequence(vec![vec![Value::Null], vec![]]),
    ] {
        let message = Message {
            body,
            ..full_message()
        };
        assert_eq!(Message::decode(&message.to_bytes()), Ok(message));
    }
    assert_eq!(Message::decode(&Bytes::new()), Ok(Message::default()));
    let parts = Body::DataSections(vec!["a".into(), "b".into()]);
    assert_eq!(parts.data(), Some("ab".into()));
    assert_eq!(Body::Value(Value::Null).data(), None);
}

/// What the clients send and want: short descriptors, a data section, and
/// message ids with their type.
#[test]
fn message_bytes() {
    let message = Message {
        properties: Some(Box::new(Properties {
            correlation_id: Value::Ulong(0),
            ..Properties::default()
        })),
        application_properties: vec![("status-code".into(), 200_i32.into())],
        ..Message::with_value("x")
    };
    assert_eq!(
        message.to_bytes(),
        hex("00 53 73 c0 0e 0d 40 40 40 40 40 44 40 40 40 40 40 40 40
             00 53 74 c1 13 02 a1 0b 7374617475732d636f6465 71 000000c8
             00 53 77 a1 01 78")
    );
    assert_eq!(Message::with_data("x").to_bytes(), hex("00 53 75 a0 01 78"));
    // Properties may be cut short, and descriptors long.
    let short = Message::decode(&hex("00 80 0000000000000073 c0 03 01 53 05 00 53 75 a0 00")).unwrap();
    assert_eq!(short.properties.unwrap().message_id, Value::Ulong(5));
    assert_eq!(short.body, Body::Data(Bytes::new()));
    for broken in [
        "00 53 75 40",
        "00 53 79 40",
        "00 53 75 a0 00 00 53 77 40",
        "00 53 74 45",
        "00",
    ] {
        assert!(Message::decode(&hex(broken)).is_err(), "{broken}");
    }
}

#[test]
fn batches_hold_messages() {
    let parts = [full_message(), Message::with_data("second")];
    let payload = batch(&parts);
    let read: Result<Vec<_>, _> = messages(BATCH_FORMAT, &payload).unwrap().collect();
    assert_eq!(read.as_deref(), Ok(&parts[..]));
    let one = full_message();
    let read: Result<Vec<_>, _> = messages(0, &one.to_bytes()).unwrap().collect();
    assert_eq!(read, Ok(vec![one]));
    assert!(messages(BATCH_FORMAT, &Bytes::new()).is_err());
    let mut broken = messages(BATCH_FORMAT, &Message::with_data("broken").to_bytes()).unwrap();
    assert!(broken.next().unwrap().is_err());
}

fn arb_scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<u8>().prop_map(Value::Ubyte),
        any::<u16>().prop_map(Value::Ushort),
        prop_oneof![0..300_u32, any::<u32>()].prop_map(Value::Uint),
        prop_oneof![0..300_u64, any::<u64>()].prop_map(Value::Ulong),
        any::<i8>().prop_map(Value::Byte),
        any::<i16>().prop_map(Value::Short),
        prop_oneof![-200..200_i32, any::<i32>()].prop_map(Value::Int),
        prop_oneof![-200..200_i64, any::<i64>()].prop_map(Value::Long),
        any::<u32>().prop_map(Value::Float),
        any::<u64>().prop_map(Value::Double),
        any::<[u8; 4]>().prop_map(Value::Decimal32),
        any::<[u8; 8]>().prop_map(Value::Decimal64),
        any::<[u8; 16]>().prop_map(Value::Decimal128),
        any::<char>().prop_map(Value::Char),
        any::<i64>().prop_map(Value::Timestamp),
        any::<[u8; 16]>().prop_map(Value::Uuid),
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| Value::Binary(bytes.into())),
        ".{0,80}".prop_map(Value::string),
        "[a-z:]{0,20}".prop_map(Value::symbol),
    ]
}

pub(crate) fn arb_value() -> impl Strategy<Value = Value> {
    arb_scalar().prop_recursive(4, 64, 8, |inner| {
        let descriptor = prop_oneof![
            any::<u64>().prop_map(Value::Ulong),
            "[a-z]{1,9}".prop_map(Value::symbol)
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::List),
            proptest::collection::vec((inner.clone(), inner.clone()), 0..8).prop_map(Value::Map),
            // Equal items make an array of any type.
            (inner.clone(), 0..5_usize, descriptor.clone()).prop_map(|(item, count, descriptor)| {
                let described = Value::described(descriptor, item.clone());
                Array::new(vec![described; count])
                    .or_else(|| Array::new(vec![item; count]))
                    .map_or(Value::Null, Value::Array)
            }),
            proptest::collection::vec(any::<i32>().prop_map(Value::Int), 0..80)
                .prop_map(|items| Value::Array(Array::new(items).unwrap())),
            (inner.clone(), inner).prop_map(|(descriptor, value)| Value::described(descriptor, value)),
        ]
    })
}

proptest! {
    #[test]
    fn values_come_back(value in arb_value()) {
        let bytes = encoded(&value);
        prop_assert_eq!(decode_value(&bytes), Ok(value));
        for end in 0..bytes.len().min(40) {
            prop_assert!(decode_value(&bytes.slice(..end)).is_err());
        }
    }

    #[test]
    fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        if let Ok(value) = decode_value(&bytes) {
            prop_assert_eq!(decode_value(&encoded(&value)), Ok(value));
        }
        let _ = Message::decode(&bytes);
        let _ = Performative::decode(&bytes);
        let _ = SaslFrame::decode(&bytes);
    }

    /// Bytes of which most are constructors reach deeper than any bytes.
    #[test]
    fn bytes_like_values_can_be_read(
        bytes in proptest::collection::vec(
            prop_oneof![
                proptest::sample::select(&[
                    0x00_u8, 0x40, 0x41, 0x45, 0x53, 0x10, 0x14, 0x24, 0x73, 0x75, 0xa0, 0xa1, 0xa3, 0xc0, 0xc1,
                    0xd0, 0xe0, 0xf0, 0x01, 0x02, 0x03,
                ][..]),
                any::<u8>(),
            ],
            0..60,
        ),
    ) {
        let bytes = Bytes::from(bytes);
        if let Ok(value) = decode_value(&bytes) {
            prop_assert_eq!(decode_value(&encoded(&value)), Ok(value));
        }
        if let Ok((performative, _)) = Performative::decode(&bytes) {
            let mut out = BytesMut::new();
            performative.encode(&mut out);
            prop_assert!(Performative::decode(&out.freeze()).is_ok());
        }
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert!(Message::decode(&message.to_bytes()).is_ok());
        }
    }
}
