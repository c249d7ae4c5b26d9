//! Links, deliveries and settlement between two engines.

use std::sync::Arc;

use amqp_wire::Value;
use amqp_wire::engine::{AttachReply, CommandError, Engine, Event, Outgoing, Side};
use amqp_wire::message::Message;
use amqp_wire::performative::{
    Attach, DeliveryState, Error, ReceiverSettleMode, Role, SaslCode, SaslInit, SenderSettleMode, Source,
    Target,
};
use bytes::Bytes;

use crate::pair::{Pair, config};

fn pair() -> Pair {
    Pair::open(config("client"), config("server"))
}

/// The payloads of the messages among events.
fn payloads(events: &[Event]) -> Vec<Bytes> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Message { payload, .. } => Some(payload.clone()),
            _ => None,
        })
        .collect()
}

#[test]
fn a_client_logs_in_and_opens() {
    let mut client = config("client");
    client.hostname = Some("hub".into());
    let mut server = config("server");
    server.mechanisms = vec!["MSSBCBS".into(), "ANONYMOUS".into()];
    let mut pair = Pair {
        client: Engine::client(Arc::new(client), Some(SaslInit::plain("user", "secret"))),
        server: Engine::server(Arc::new(server)),
        at_client: Vec::new(),
        at_server: Vec::new(),
    };
    pair.run();
    let [
        Event::Sasl {
            mechanism, response, ..
        },
        Event::Open(open),
    ] = &pair.at_server[..]
    else {
        panic!("{:?}", pair.at_server)
    };
    assert_eq!(mechanism, "PLAIN");
    assert_eq!(&response[..], b"\0user\0secret");
    assert_eq!(open.hostname.as_deref(), Some("hub"));
    assert_eq!(open.container_id, "client");
    assert!(pair.server.has_sasl());
    assert!(matches!(&pair.at_client[..], [Event::Open(open)] if open.container_id == "server"));
}

#[test]
fn a_refused_login_ends_the_connection() {
    let mut client = Engine::client(Arc::new(config("client")), Some(SaslInit::anonymous()));
    let mut server = Engine::server(Arc::new(config("server")));
    for _ in 0..2 {
        server.feed(&client.take_output());
        while server.next_event().is_some() {}
        client.feed(&server.take_output());
        assert_eq!(client.next_event(), None);
    }
    server.sasl_outcome(SaslCode::Auth).unwrap();
    assert_eq!(server.sasl_outcome(SaslCode::Ok), Err(CommandError::State));
    client.feed(&server.take_output());
    let Some(Event::Closed {
        by: Side::Peer,
        error: Some(error),
    }) = client.next_event()
    else {
        panic!("the client must learn of it")
    };
    assert_eq!(error.condition, "amqp:unauthorized-access");
    assert!(client.is_closed() && server.is_closed());
}

#[test]
fn a_message_is_received_and_settled() {
    let mut pair = pair();
    let session = pair.begin();
    let (sender, receiver) = pair.attach(session, Role::Sender);
    let payload = Message::with_data("hello").to_bytes();
    let sent = pair
        .client
        .send(sender, Outgoing::unsettled(payload.clone()))
        .unwrap();
    assert_eq!(pair.server_events(), []);
    assert_eq!(pair.server.grant(receiver, 10), Ok(10));
    let events = pair.server_events();
    let [
        Event::Message {
            link,
            delivery,
            settled: false,
            format: 0,
            payload: received,
            ..
        },
    ] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!((*link, received), (receiver, &payload));
    assert_eq!(pair.server.credit(receiver), Ok(9));
    pair.at_client.clear();
    let state = DeliveryState::Rejected {
        error: Some(Error::new("amqp:not-found", "no such device")),
    };
    pair.server.settle(receiver, *delivery, state.clone()).unwrap();
    assert_eq!(
        pair.server.settle(receiver, *delivery, state.clone()),
        Err(CommandError::Gone)
    );
    let events = pair.client_events();
    let [
        Event::Outcome {
            link,
            delivery,
            state: Some(outcome),
            ..
        },
    ] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!((*link, *delivery, outcome), (sender, sent, &state));
}

/// Asking for the second settlement mode must not make a client wait: the
/// service's Python client expects one settled disposition.
#[test]
fn the_second_settlement_mode_is_settled_at_once() {
    let mut pair = pair();
    let session = pair.begin();
    let mut attach = Attach::new("link", Role::Sender, Source::at("a"), Target::at("b"));
    attach.rcv_settle_mode = ReceiverSettleMode::Second;
    let (sender, receiver) = pair.attach_as(session, attach);
    pair.server.grant(receiver, 1).unwrap();
    pair.client.send(sender, Outgoing::unsettled("x")).unwrap();
    let events = pair.server_events();
    let Some(Event::Message { delivery, .. }) = events.last() else {
        panic!("{events:?}")
    };
    pair.at_client.clear();
    pair.server
        .settle(receiver, *delivery, DeliveryState::Accepted)
        .unwrap();
    let events = pair.client_events();
    assert!(matches!(
        &events[..],
        [Event::Outcome {
            state: Some(DeliveryState::Accepted),
            ..
        }]
    ));
}

#[test]
fn a_server_sends_when_credit_comes() {
    let mut pair = pair();
    let session = pair.begin();
    let (receiver, sender) = pair.attach(session, Role::Receiver);
    for number in 0..3_u8 {
        pair.server.send(sender, Outgoing::settled(vec![number])).unwrap();
    }
    assert_eq!(payloads(&pair.client_events()), [] as [Bytes; 0]);
    pair.client.grant(receiver, 2).unwrap();
    assert_eq!(payloads(&pair.client_events()), [vec![0], vec![1]]);
    assert_eq!(pair.server.queued(sender), Ok(1));
    let events = pair.server_events();
    assert!(
        matches!(
            &events[..],
            [Event::Credit {
                credit: 0,
                drain: false,
                ..
            }]
        ),
        "{events:?}"
    );
    pair.client.grant(receiver, 5).unwrap();
    assert_eq!(payloads(&pair.client_events()), [vec![2]]);
    let events = pair.server_events();
    assert!(
        matches!(&events[..], [Event::Credit { credit: 4, .. }]),
        "{events:?}"
    );
    assert_eq!(pair.server.credit(sender), Ok(4));
}

/// Credit may come before the attach is answered: clients send both at once.
#[test]
fn credit_before_the_answer_counts() {
    let mut pair = pair();
    let session = pair.begin();
    let attach = Attach::new("link", Role::Receiver, Source::at("a"), Target::at("b"));
    pair.client.attach(session, attach).unwrap();
    pair.server.feed(&pair.client.take_output());
    let Some(Event::Attach { link, .. }) = pair.server.next_event() else {
        panic!("no attach")
    };
    // What the client would send at once: handle 0, credit 7.
    pair.server.feed(&[
        0, 0, 0, 0x1a, 2, 0, 0, 0, 0, 0x53, 0x13, 0xc0, 13, 9, 0x43, 0x52, 100, 0x43, 0x52, 100, 0x43, 0x43,
        0x52, 7, 0x40, 0x42,
    ]);
    assert_eq!(pair.server.next_event(), None);
    assert_eq!(
        pair.server.send(link, Outgoing::settled("x")),
        Err(CommandError::State)
    );
    pair.server.accept_attach(link, AttachReply::default()).unwrap();
    assert_eq!(
        pair.server.next_event(),
        Some(Event::Credit {
            link,
            credit: 7,
            drain: false
        })
    );
    pair.server.send(link, Outgoing::settled("x")).unwrap();
    assert_eq!(pair.server.queued(link), Ok(0));
}

#[test]
fn a_refused_link_is_attached_and_detached_with_the_reason() {
    let mut pair = pair();
    let session = pair.begin();
    let attach = Attach::new("link", Role::Receiver, Source::default(), Target::default());
    let link = pair.client.attach(session, attach).unwrap();
    pair.server.feed(&pair.client.take_output());
    let Some(Event::Attach {
        link: offered,
        attach,
        ..
    }) = pair.server.next_event()
    else {
        panic!("no attach")
    };
    assert_eq!((attach.role, attach.address()), (Role::Receiver, None));
    let error = Error::new("amqp:not-found", "no such entity");
    pair.server.refuse_attach(offered, error.clone()).unwrap();
    assert_eq!(
        pair.server.refuse_attach(offered, error.clone()),
        Err(CommandError::Gone)
    );
    let events = pair.client_events();
    let [
        Event::Attached { attach, .. },
        Event::Detached {
            link: detached,
            by: Side::Peer,
            closed: true,
            error: Some(reason),
        },
    ] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert!(attach.source.is_some() && attach.target.is_some());
    assert_eq!((*detached, reason), (link, &error));
    pair.run();
    assert_eq!((pair.client.link_count(), pair.server.link_count()), (0, 0));
    // The handles are free again.
    pair.attach(session, Role::Sender);
}

#[test]
fn large_messages_are_split_and_joined() {
    let mut client = config("client");
    client.max_frame_size = 512;
    let mut pair = Pair::open(client, config("server"));
    let session = pair.begin();
    let (receiver, sender) = pair.attach(session, Role::Receiver);
    let large: Vec<u8> = (0..150_000_u32).map(|n| n as u8).collect();
    pair.client.grant(receiver, 5).unwrap();
    for size in [large.len(), 0, 400, 420, 440, 460] {
        pair.server
            .send(sender, Outgoing::settled(large[..size].to_vec()))
            .unwrap();
        if size == 460 {
            pair.client.grant(receiver, 5).unwrap();
        }
        let events = pair.client_events();
        assert!(payloads(&events) == [&large[..size]]);
    }
}

/// A delivery of more frames than the peer's whole window: it pauses until the
/// window opens, and other links get their turn in between.
#[test]
fn a_delivery_larger_than_the_window_pauses() {
    let mut client = config("client");
    client.max_frame_size = 512;
    client.limits.incoming_window = 4;
    let mut pair = Pair::open(client, config("server"));
    let session = pair.begin();
    let (first, large) = pair.attach(session, Role::Receiver);
    let mut other = Attach::new("other", Role::Receiver, Source::at("a"), Target::at("b"));
    other.snd_settle_mode = SenderSettleMode::Settled;
    let (second, small) = pair.attach_as(session, other);
    pair.client.grant(first, 1).unwrap();
    pair.client.grant(second, 1).unwrap();
    pair.run();
    pair.server
        .send(large, Outgoing::settled(vec![7; 20_000]))
        .unwrap();
    pair.server.send(small, Outgoing::settled("quick")).unwrap();
    assert_eq!(pair.server.queued(large), Ok(1));
    let received = payloads(&pair.client_events());
    assert!(received == ["quick".into(), Bytes::from(vec![7; 20_000])]);
}

/// Whoever held back while deliveries waited for the window learns that they
/// have left.
#[test]
fn credit_is_reported_again_when_nothing_waits() {
    let mut client = config("client");
    client.limits.incoming_window = 2;
    let mut pair = Pair::open(client, config("server"));
    let session = pair.begin();
    let (ours, theirs) = pair.attach(session, Role::Receiver);
    pair.client.grant(ours, 10).unwrap();
    pair.server_events();
    for number in 0..5_u8 {
        pair.server.send(theirs, Outgoing::settled(vec![number])).unwrap();
    }
    assert_eq!(pair.server.queued(theirs), Ok(3));
    let reported = pair.server_events();
    assert_eq!(payloads(&pair.client_events()).len(), 5);
    let expected = Event::Credit {
        link: theirs,
        credit: 5,
        drain: false,
    };
    assert_eq!(reported, [expected]);
}

#[test]
fn draining_takes_what_there_is() {
    let mut pair = pair();
    let session = pair.begin();
    let (receiver, sender) = pair.attach(session, Role::Receiver);
    pair.client.drain(receiver, 10).unwrap();
    pair.server.feed(&pair.client.take_output());
    let Some(Event::Credit {
        credit: 10,
        drain: true,
        ..
    }) = pair.server.next_event()
    else {
        panic!("no credit")
    };
    pair.server.send(sender, Outgoing::settled("last")).unwrap();
    let events = pair.client_events();
    let [
        Event::Message { .. },
        Event::Credit {
            link,
            credit: 0,
            drain: true,
        },
    ] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!(*link, receiver);
    assert_eq!(pair.server.credit(sender), Ok(0));
    // Later credit counts from the right place.
    pair.client.grant(receiver, 1).unwrap();
    pair.run();
    pair.server.send(sender, Outgoing::settled("more")).unwrap();
    pair.server.send(sender, Outgoing::settled("even more")).unwrap();
    assert_eq!(payloads(&pair.client_events()), ["more"]);
}

#[test]
fn outcomes_of_a_range_come_one_by_one() {
    let mut pair = pair();
    let session = pair.begin();
    let (receiver, sender) = pair.attach(session, Role::Receiver);
    pair.client.grant(receiver, 10).unwrap();
    pair.run();
    for tag in ["a", "b", "c"] {
        let message = Outgoing {
            tag: Some(tag.into()),
            ..Outgoing::unsettled("x")
        };
        pair.server.send(sender, message).unwrap();
    }
    pair.run();
    pair.at_server.clear();
    // disposition: receiver, first 0, last 1, not settled, accepted. The server settles in answer.
    pair.server.feed(&[
        0, 0, 0, 0x1a, 2, 0, 0, 0, 0, 0x53, 0x15, 0xc0, 13, 6, 0x41, 0x43, 0x52, 1, 0x42, 0, 0x53, 0x24,
        0xc0, 1, 0, 0x42,
    ]);
    let tags: Vec<Bytes> = std::iter::from_fn(|| pair.server.next_event())
        .map(|event| match event {
            Event::Outcome {
                tag,
                state: Some(DeliveryState::Accepted),
                ..
            } => tag,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(tags, ["a", "b"]);
    assert_eq!(
        &pair.server.take_output()[..],
        [
            0, 0, 0, 0x1a, 2, 0, 0, 0, 0, 0x53, 0x15, 0xc0, 13, 6, 0x42, 0x43, 0x52, 1, 0x41, 0, 0x53, 0x24,
            0xc0, 1, 0, 0x42
        ]
    );
}

#[test]
fn a_link_attached_settled_sends_settled() {
    let mut pair = pair();
    let session = pair.begin();
    let mut attach = Attach::new("link", Role::Receiver, Source::at("a"), Target::at("b"));
    attach.snd_settle_mode = SenderSettleMode::Settled;
    let (receiver, sender) = pair.attach_as(session, attach);
    pair.client.grant(receiver, 1).unwrap();
    pair.server.send(sender, Outgoing::unsettled("x")).unwrap();
    let events = pair.client_events();
    assert!(
        matches!(&events[..], [Event::Message { settled: true, .. }]),
        "{events:?}"
    );
}

#[test]
fn commands_for_what_is_gone_do_nothing() {
    let mut pair = pair();
    let session = pair.begin();
    let (sender, receiver) = pair.attach(session, Role::Sender);
    pair.client.detach(sender, true, None).unwrap();
    let events = pair.server_events();
    assert!(
        matches!(&events[..], [Event::Detached { link, closed: true, error: None, by: Side::Peer }] if *link == receiver)
    );
    assert_eq!(pair.server.grant(receiver, 1), Err(CommandError::Gone));
    assert_eq!(
        pair.server.send(receiver, Outgoing::settled("")),
        Err(CommandError::Gone)
    );
    assert_eq!(pair.server.detach(receiver, true, None), Err(CommandError::Gone));
    // A new link on the same handle is another.
    let (_, again) = pair.attach(session, Role::Sender);
    assert_ne!(again, receiver);
    assert_eq!(pair.server.grant(receiver, 1), Err(CommandError::Gone));

    pair.client.end(session, None).unwrap();
    assert_eq!(pair.client.end(session, None), Err(CommandError::Gone));
    let events = pair.server_events();
    let [
        Event::Ended {
            session: ended,
            links,
            by: Side::Peer,
            error: None,
        },
    ] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!(links[..], [again]);
    assert_eq!(pair.server.end(*ended, None), Err(CommandError::Gone));
    assert!(!pair.server.has_output());

    pair.server
        .close(Some(Error::new("amqp:connection:forced", "bye")))
        .unwrap();
    assert_eq!(pair.server.close(None), Err(CommandError::Gone));
    let events = pair.client_events();
    assert!(matches!(
        &events[..],
        [Event::Closed {
            by: Side::Peer,
            error: Some(_)
        }]
    ));
    assert!(matches!(
        pair.at_server[..],
        [Event::Closed {
            by: Side::Peer,
            error: None
        }]
    ));
    assert!(pair.client.is_closed() && pair.server.is_closed());
    assert_eq!(pair.client.begin(), Err(CommandError::State));
}

#[test]
fn an_attach_answer_can_say_more() {
    let mut pair = pair();
    let session = pair.begin();
    let attach = Attach::new("link", Role::Sender, Source::at("a"), Target::at("b"));
    pair.client.attach(session, attach).unwrap();
    pair.server.feed(&pair.client.take_output());
    let Some(Event::Attach { link, .. }) = pair.server.next_event() else {
        panic!("no attach")
    };
    let reply = AttachReply {
        target: Some(Target::at("elsewhere")),
        max_message_size: Some(10),
        properties: Value::Map(vec![(Value::symbol("key"), Value::from(1_i64))]),
        ..AttachReply::default()
    };
    pair.server.accept_attach(link, reply).unwrap();
    assert_eq!(
        pair.server.accept_attach(link, AttachReply::default()),
        Err(CommandError::State)
    );
    let events = pair.client_events();
    let [Event::Attached { link, attach }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(attach.target.as_ref().unwrap().address, Value::from("elsewhere"));
    assert_eq!(attach.properties.get("key"), Some(&Value::from(1_i64)));
    assert_eq!(
        pair.client.send(*link, Outgoing::settled(vec![0; 11])),
        Err(CommandError::TooLarge)
    );
}
