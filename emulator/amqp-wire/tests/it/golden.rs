//! The bytes of every performative, in both directions, and the forms that
//! are understood and never written.

use amqp_wire::performative::{
    Attach, Begin, Close, DeliveryState, Detach, Disposition, End, Error, Flow, Open, Performative, Role,
    SaslCode, SaslFrame, SaslInit, SaslOutcome, SenderSettleMode, Source, Target, Transfer,
};
use bytes::{Bytes, BytesMut};

/// Bytes from hexadecimal digits, with any blanks.
pub(crate) fn hex(text: &str) -> Bytes {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

#[track_caller]
fn both_ways(performative: &Performative, text: &str) {
    let mut out = BytesMut::new();
    performative.encode(&mut out);
    assert_eq!(out, hex(text), "{out:02x?}");
    assert_eq!(
        Performative::decode(&out.freeze()),
        Ok((performative.clone(), Bytes::new()))
    );
}

#[test]
fn open() {
    let open = Open {
        container_id: "hub".into(),
        max_frame_size: 65536,
        channel_max: 1023,
        idle_time_out: Some(240_000),
        ..Open::default()
    };
    both_ways(
        &Performative::Open(Box::new(open)),
        "00 53 10 c0 19 0a  a1 03 687562  40  70 00010000  60 03ff  70 0003a980  40 40 40 40 40",
    );
}

#[test]
fn begin() {
    let begin = Begin {
        remote_channel: Some(1),
        incoming_window: 5000,
        outgoing_window: 5000,
        handle_max: 1023,
        ..Begin::default()
    };
    both_ways(
        &Performative::Begin(Box::new(begin)),
        "00 53 11 c0 17 08  60 0001  43  70 00001388  70 00001388  70 000003ff  40 40 40",
    );
}

#[test]
fn attach() {
    let attach = Attach {
        snd_settle_mode: SenderSettleMode::Unsettled,
        max_message_size: Some(262_144),
        ..Attach::new("l", Role::Sender, Source::at("$cbs"), Target::at("$cbs"))
    };
    both_ways(
        &Performative::Attach(Box::new(attach)),
        "00 53 12 c0 41 0e  a1 01 6c  43  42  50 00  50 00
         00 53 28 c0 11 0b  a1 04 24636273  43 40 43 42  40 40 40 40 40 40
         00 53 29 c0 0d 07  a1 04 24636273  43 40 43 42  40 40
         40 42 43  80 0000000000040000  40 40 40",
    );
}

#[test]
fn flow() {
    let flow = Flow {
        next_incoming_id: Some(1),
        incoming_window: 5000,
        next_outgoing_id: 2,
        outgoing_window: 5000,
        handle: Some(3),
        delivery_count: Some(4),
        link_credit: Some(100),
        available: Some(0),
        ..Flow::default()
    };
    both_ways(
        &Performative::Flow(flow),
        "00 53 13 c0 19 0b  52 01  70 00001388  52 02  70 00001388  52 03  52 04  52 64  43  42 42  40",
    );
}

#[test]
fn transfer() {
    let transfer = Transfer {
        handle: 1,
        delivery_id: Some(0),
        delivery_tag: Some(Bytes::from_static(&[0; 4])),
        message_format: Some(0),
        settled: Some(true),
        ..Transfer::default()
    };
    let text = "00 53 14 c0 12 0b  52 01  43  a0 04 00000000  43  41 42  40 40  42 42 42";
    both_ways(&Performative::Transfer(transfer.clone()), text);
    let with_payload = [hex(text), Bytes::from_static(b"payload")].concat();
    assert_eq!(
        Performative::decode(&with_payload.into()),
        Ok((Performative::Transfer(transfer), Bytes::from_static(b"payload")))
    );
}

#[test]
fn disposition() {
    let disposition = |state| {
        Performative::Disposition(Disposition {
            role: Role::Receiver,
            first: 0,
            last: Some(0),
            settled: true,
            state: Some(state),
            batchable: false,
        })
    };
    both_ways(
        &disposition(DeliveryState::Accepted),
        "00 53 15 c0 0c 06  41 43 43 41  00 53 24 c0 01 00  42",
    );
    both_ways(
        &disposition(DeliveryState::Released),
        "00 53 15 c0 0c 06  41 43 43 41  00 53 26 c0 01 00  42",
    );
    let error = Some(Error::new("amqp:not-found", "no"));
    both_ways(
        &disposition(DeliveryState::Rejected { error }),
        "00 53 15 c0 27 06  41 43 43 41
         00 53 25 c0 1c 01  00 53 1d c0 16 03  a3 0e 616d71703a6e6f742d666f756e64  a1 02 6e6f  40
         42",
    );
    let modified = DeliveryState::Modified {
        delivery_failed: true,
        undeliverable_here: false,
        message_annotations: amqp_wire::Value::Null,
    };
    both_ways(
        &disposition(modified),
        "00 53 15 c0 0f 06  41 43 43 41  00 53 27 c0 04 03  41 42 40  42",
    );
    let received = DeliveryState::Received {
        section_number: 1,
        section_offset: 300,
    };
    both_ways(
        &disposition(received),
        "00 53 15 c0 17 06  41 43 43 41  00 53 23 c0 0c 02  52 01  80 000000000000012c  42",
    );
}

#[test]
fn detach_end_and_close() {
    let detach = Detach {
        handle: 1,
        closed: true,
        error: None,
    };
    both_ways(&Performative::Detach(detach), "00 53 16 c0 05 03  52 01  41  40");
    both_ways(&Performative::End(End::default()), "00 53 17 c0 02 01  40");
    both_ways(&Performative::Close(Close::default()), "00 53 18 c0 02 01  40");
    let error = Some(Error {
        condition: "a".into(),
        description: None,
        info: vec![(amqp_wire::Value::symbol("k"), amqp_wire::Value::Null)],
    });
    both_ways(
        &Performative::Close(Close { error }),
        "00 53 18 c0 12 01  00 53 1d c0 0c 03  a3 01 61  40  c1 05 02 a3 01 6b 40",
    );
}

#[test]
fn sasl() {
    #[track_caller]
    fn both_ways(frame: &SaslFrame, text: &str) {
        let mut out = BytesMut::new();
        frame.encode(&mut out);
        assert_eq!(out, hex(text), "{out:02x?}");
        assert_eq!(SaslFrame::decode(&out.freeze()).as_ref(), Ok(frame));
    }
    both_ways(
        &SaslFrame::Mechanisms(vec!["MSSBCBS".into(), "ANONYMOUS".into()]),
        "00 53 40 c0 1d 01  e0 1a 02 b3  00000007 4d535342434253  00000009 414e4f4e594d4f5553",
    );
    both_ways(
        &SaslFrame::Init(SaslInit::anonymous()),
        "00 53 41 c0 0f 03  a3 09 414e4f4e594d4f5553  a0 00  40",
    );
    both_ways(
        &SaslFrame::Outcome(SaslOutcome {
            code: SaslCode::Auth,
            additional_data: None,
        }),
        "00 53 44 c0 04 02  50 01  40",
    );
    both_ways(&SaslFrame::Challenge("a".into()), "00 53 42 c0 04 01 a0 01 61");
    both_ways(&SaslFrame::Response("a".into()), "00 53 43 c0 04 01 a0 01 61");
    // One mechanism need not be in an array.
    assert_eq!(
        SaslFrame::decode(&hex("00 53 40 c0 0c 01 a3 09 414e4f4e594d4f5553")),
        Ok(SaslFrame::Mechanisms(vec!["ANONYMOUS".into()]))
    );
    // A choice without response and host, as a short list.
    assert_eq!(
        SaslFrame::decode(&hex("00 53 41 c0 0a 01 a3 07 4d535342434253")),
        Ok(SaslFrame::Init(SaslInit {
            mechanism: "MSSBCBS".into(),
            initial_response: None,
            hostname: None
        }))
    );
}

/// Clients leave out trailing fields, and choose among several forms of lists,
/// numbers and descriptors.
#[test]
fn other_forms_are_understood() {
    #[track_caller]
    fn means(text: &str, expected: Performative) {
        assert_eq!(Performative::decode(&hex(text)), Ok((expected, Bytes::new())));
    }
    for end in [
        "00 53 17 45",
        "00 53 17 c0 01 00",
        "00 53 17 d0 00000004 00000000",
        "00 80 0000000000000017 45",
        "00 a3 0d 616d71703a656e643a6c697374 45",
    ] {
        means(end, Performative::End(End::default()));
    }
    means("00 53 18 45", Performative::Close(Close::default()));
    let open = Open {
        container_id: "hub".into(),
        max_frame_size: u32::MAX,
        channel_max: u16::MAX,
        ..Open::default()
    };
    means(
        "00 53 10 c0 06 01 a1 03 687562",
        Performative::Open(Box::new(open.clone())),
    );
    means(
        "00 53 10 d0 00000009 00000001 a1 03 687562",
        Performative::Open(Box::new(open)),
    );
    // Numbers in their wide forms, and an unknown field at the end.
    let detach = Detach {
        handle: 1,
        closed: true,
        error: None,
    };
    means(
        "00 53 16 c0 0a 04  70 00000001  56 01  40  41",
        Performative::Detach(detach),
    );
}

#[test]
fn broken_performatives_are_refused() {
    for text in [
        "",
        "40",
        "00 53 10 45",                               // no container-id
        "00 53 10 40",                               // no list
        "00 53 99 45",                               // no such performative
        "00 40 45",                                  // no descriptor
        "00 53 17 c0 01 01",                         // a field that is not there
        "00 53 17 c0 09 01 40",                      // a size beyond the end
        "00 53 17 c0 01 00 40",                      // bytes behind it
        "00 53 16 c0 04 01 a1 01 61",                // a text for a handle
        "00 53 12 c0 0a 04 a1 01 6c 43 42 50 07 40", // no such mode
    ] {
        assert!(Performative::decode(&hex(text)).is_err(), "{text}");
    }
}
