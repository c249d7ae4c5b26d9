//! What known clients do, as their bytes come, and what they insist on.

use std::sync::Arc;

use amqp_wire::engine::{AttachReply, Engine, Event, Outgoing};
use amqp_wire::frame::{Protocol, put_amqp_frame, put_sasl_frame, take_frame};
use amqp_wire::message::Message;
use amqp_wire::performative::{
    Attach, Begin, Close, DeliveryState, Detach, End, Error, Flow, Open, Performative, Role, SaslCode,
    SaslFrame, SaslInit, Source, Target, Transfer,
};
use bytes::{Bytes, BytesMut};

use crate::pair::config;

/// Everything that a client of Event Hubs sends to read, in one write: both
/// headers, login, channel 1, handles from 1, a put-token, credit, a large
/// message in frames, a detach, an end, stray detaches and a close.
fn script() -> BytesMut {
    let mut out = BytesMut::new();
    out.extend_from_slice(&Protocol::Sasl.header());
    put_sasl_frame(&SaslFrame::Init(SaslInit::anonymous()), &mut out);
    out.extend_from_slice(&Protocol::Amqp.header());
    let mut put = |performative: Performative, payload: &[u8]| {
        put_amqp_frame(1, &performative, payload, &mut out);
    };
    put(
        Performative::Open(Box::new(Open {
            container_id: "client".into(),
            max_frame_size: 1_048_576,
            channel_max: 65535,
            ..Open::default()
        })),
        &[],
    );
    put(
        Performative::Begin(Box::new(Begin {
            incoming_window: 65536,
            outgoing_window: 65536,
            handle_max: u32::MAX,
            ..Begin::default()
        })),
        &[],
    );
    for (handle, role) in [(2, Role::Receiver), (1, Role::Sender)] {
        let attach = Attach::new(
            format!("cbs{handle}"),
            role,
            Source::at("$cbs"),
            Target::at("$cbs"),
        );
        put(Performative::Attach(Box::new(Attach { handle, ..attach })), &[]);
    }
    let transfer = |delivery, more| {
        Performative::Transfer(Transfer {
            handle: 1,
            delivery_id: Some(delivery),
            delivery_tag: Some(Bytes::from_static(b"tag")),
            message_format: Some(0),
            more,
            ..Transfer::default()
        })
    };
    put(transfer(0, false), &Message::with_value("token").to_bytes());
    let flow = Flow {
        next_incoming_id: Some(0),
        incoming_window: 65536,
        next_outgoing_id: 1,
        outgoing_window: 65536,
        handle: Some(2),
        delivery_count: Some(0),
        link_credit: Some(300),
        ..Flow::default()
    };
    put(Performative::Flow(flow), &[]);
    put(transfer(1, true), &[1; 300]);
    put(transfer(1, true), &[2; 300]);
    put(transfer(1, false), &[3; 300]);
    let detach = |handle| {
        Performative::Detach(Detach {
            handle,
            closed: true,
            error: None,
        })
    };
    put(detach(2), &[]);
    put(Performative::End(End::default()), &[]);
    put(detach(1), &[]);
    put(detach(2), &[]);
    put(Performative::Close(Close::default()), &[]);
    out
}

/// A server as a hub uses it: tokens are accepted and answered at once.
fn serve(portions: &[&[u8]]) -> (Vec<Event>, Vec<u8>) {
    let mut server_config = config("hub");
    server_config.mechanisms = vec!["MSSBCBS".into(), "ANONYMOUS".into()];
    let mut server = Engine::server(Arc::new(server_config));
    let mut replies = None;
    let (mut events, mut output) = (Vec::new(), Vec::new());
    for portion in portions {
        server.feed(portion);
        while let Some(event) = server.next_event() {
            match &event {
                Event::Sasl { .. } => server.sasl_outcome(SaslCode::Ok).unwrap(),
                Event::Attach { link, attach, .. } => {
                    server.accept_attach(*link, AttachReply::default()).unwrap();
                    match attach.role {
                        Role::Sender => drop(server.grant(*link, 100).unwrap()),
                        Role::Receiver => replies = Some(*link),
                    }
                }
                Event::Message {
                    link,
                    delivery,
                    payload,
                    ..
                } => {
                    server.settle(*link, *delivery, DeliveryState::Accepted).unwrap();
                    if payload.len() < 100 {
                        let reply = Outgoing::settled(Message::with_data("reply").to_bytes());
                        server.send(replies.unwrap(), reply).unwrap();
                    }
                }
                _ => {}
            }
            events.push(event);
        }
        output.extend_from_slice(&server.take_output());
    }
    assert!(server.is_closed());
    (events, output)
}

/// The performatives that a server has written behind its headers and SASL frames.
fn performatives(output: &[u8]) -> Vec<Performative> {
    let amqp = Protocol::Amqp.header();
    let start = output.windows(8).position(|window| window == amqp).unwrap() + 8;
    let mut rest = BytesMut::from(&output[start..]);
    let mut all = Vec::new();
    while let Some(frame) = take_frame(&mut rest, 65536).unwrap() {
        widths_are_full(&frame.body);
        assert!([0, 1].contains(&frame.channel));
        all.push(Performative::decode(&frame.body).unwrap().0);
    }
    assert!(rest.is_empty());
    all
}

/// Every list has all its fields and every descriptor is short.
pub(crate) fn widths_are_full(body: &[u8]) {
    let [0x00, 0x53, code, list, ..] = *body else {
        panic!("a long descriptor: {body:02x?}")
    };
    let count = match list {
        0xc0 => body[5],
        0xd0 => body[11],
        other => panic!("list form {other:#x}"),
    };
    let width = [10, 8, 14, 11, 11, 6, 3, 1, 1][usize::from(code - 0x10)];
    assert_eq!(count, width, "performative {code:#x}");
}

#[test]
fn a_client_may_send_everything_at_once() {
    let (events, output) = serve(&[&script()]);
    let kinds: Vec<String> = events
        .iter()
        .map(|event| format!("{event:?}").split([' ', '(']).next().unwrap().to_owned())
        .collect();
    assert_eq!(
        kinds.join(" "),
        "Sasl Open Begun Attach Attach Message Credit Message Detached Ended Closed"
    );
    assert!(output.starts_with(&Protocol::Sasl.header()));
    let names: Vec<String> = performatives(&output)
        .iter()
        .map(|performative| match performative {
            Performative::Flow(flow) => format!("Flow{:?}", flow.link_credit.unwrap()),
            other => format!("{other:?}").split(['(', ' ']).next().unwrap().to_owned(),
        })
        .collect();
    // The disposition of the token comes before the reply, which waits for credit.
    assert_eq!(
        names.join(" "),
        "Open Begin Attach Attach Flow100 Disposition Transfer Disposition Detach End Close"
    );
}

#[test]
fn portions_do_not_matter() {
    let script = script();
    let whole = serve(&[&script]);
    for at in 0..script.len() {
        let (first, second) = script.split_at(at);
        assert!(serve(&[first, second]) == whole, "split at {at}");
    }
    let bytes: Vec<&[u8]> = script.chunks(1).collect();
    assert!(serve(&bytes) == whole, "byte by byte");
}

#[test]
fn answers_hold_what_clients_index() {
    let (_, output) = serve(&[&script()]);
    let all = performatives(&output);
    let Performative::Open(open) = &all[0] else {
        panic!("no open")
    };
    assert_eq!(
        (open.max_frame_size, open.channel_max, open.idle_time_out),
        (65536, 1023, Some(240_000))
    );
    let Performative::Begin(begin) = &all[1] else {
        panic!("no begin")
    };
    assert_eq!((begin.remote_channel, begin.handle_max), (Some(1), 1023));
    let Performative::Attach(sender) = &all[2] else {
        panic!("no attach")
    };
    assert_eq!(
        (sender.role, sender.initial_delivery_count, sender.handle),
        (Role::Sender, Some(0), 2)
    );
    assert!(sender.source.is_some() && sender.target.is_some());
    assert_eq!(sender.max_message_size, Some(256 * 1024));
    let Performative::Attach(receiver) = &all[3] else {
        panic!("no attach")
    };
    assert_eq!(
        (receiver.role, receiver.initial_delivery_count),
        (Role::Receiver, None)
    );
}

/// rhea's links for tokens have termini without address; others have none at
/// all. Clients hang when either is missing in the answer.
#[test]
fn an_answer_has_source_and_target() {
    for (source, target) in [(None, None), (Some(Source::default()), Some(Target::default()))] {
        let mut raw = crate::bounds::Raw::new(config("hub"));
        let attach = Attach {
            source,
            target,
            ..Attach::new("cbs", Role::Receiver, Source::default(), Target::default())
        };
        raw.feed(&Performative::Attach(Box::new(attach)), &[]);
        let Some(Event::Attach { link, .. }) = raw.server.next_event() else {
            panic!("no attach")
        };
        raw.server
            .refuse_attach(link, Error::new("amqp:not-found", "no"))
            .unwrap();
        let mut output = raw.server.take_output();
        let frame = take_frame(&mut output, 65536).unwrap().unwrap();
        let (Performative::Attach(answer), _) = Performative::decode(&frame.body).unwrap() else {
            panic!("no attach")
        };
        assert_eq!(answer.source, Some(Source::default()));
        assert_eq!(answer.target, Some(Target::default()));
        let frame = take_frame(&mut output, 65536).unwrap().unwrap();
        assert!(matches!(
            Performative::decode(&frame.body).unwrap().0,
            Performative::Detach(Detach {
                closed: true,
                error: Some(_),
                ..
            })
        ));
    }
}

/// Clients without the SASL layer send the AMQP header first; the caller learns it.
#[test]
fn the_sasl_layer_may_be_left_out() {
    let raw = crate::bounds::Raw::new(config("hub"));
    assert!(raw.server.is_open() && !raw.server.has_sasl());
}

/// `end` and `close` as empty lists, and lists cut short, as uamqp sends them.
#[test]
fn short_lists_are_understood() {
    let mut raw = crate::bounds::Raw::new(config("hub"));
    raw.server.feed(&[0, 0, 0, 12, 2, 0, 0, 0, 0, 0x53, 0x17, 0x45]);
    assert!(matches!(
        raw.server.next_event(),
        Some(Event::Ended { error: None, .. })
    ));
    raw.server.feed(&[0, 0, 0, 12, 2, 0, 0, 0, 0, 0x53, 0x18, 0x45]);
    assert!(matches!(
        raw.server.next_event(),
        Some(Event::Closed { error: None, .. })
    ));
}
