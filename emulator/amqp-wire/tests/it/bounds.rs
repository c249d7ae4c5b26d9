//! Broken rules and bounds: what each costs, by its name.

use std::sync::Arc;
use std::time::{Duration, Instant};

use amqp_wire::Value;
use amqp_wire::engine::{CommandError, Config, Engine, Event, LinkId, Outgoing, SessionId, Side};
use amqp_wire::frame::{Protocol, put_amqp_frame};
use amqp_wire::performative::{
    Attach, Begin, DeliveryState, Error, Flow, Open, Performative, Role, Source, Target, Transfer,
};
use bytes::BytesMut;

use crate::pair::{Pair, config};

/// A server that has a session on channel 0, and a peer that writes frames by hand.
pub(crate) struct Raw {
    pub(crate) server: Engine,
    pub(crate) session: SessionId,
}

impl Raw {
    pub(crate) fn new(config: Config) -> Self {
        let mut server = Engine::server(Arc::new(config));
        let mut bytes = BytesMut::from(&Protocol::Amqp.header()[..]);
        let open = Open {
            container_id: "peer".into(),
            max_frame_size: 4096,
            channel_max: 9,
            ..Open::default()
        };
        put_amqp_frame(0, &Performative::Open(Box::new(open)), &[], &mut bytes);
        put_amqp_frame(0, &Performative::Begin(Box::new(begin(None))), &[], &mut bytes);
        server.feed(&bytes);
        assert!(matches!(server.next_event(), Some(Event::Open(_))));
        let Some(Event::Begun { session }) = server.next_event() else {
            panic!("no session")
        };
        server.take_output();
        Self { server, session }
    }

    pub(crate) fn feed(&mut self, performative: &Performative, payload: &[u8]) {
        let mut bytes = BytesMut::new();
        put_amqp_frame(0, performative, payload, &mut bytes);
        self.server.feed(&bytes);
    }

    pub(crate) fn attach(&mut self, handle: u32, role: Role) -> LinkId {
        self.feed(&attach(handle, role), &[]);
        let Some(Event::Attach { link, .. }) = self.server.next_event() else {
            panic!("no attach")
        };
        self.server.accept_attach(link, Default::default()).unwrap();
        link
    }

    /// The only event that comes.
    fn event(&mut self) -> Event {
        let event = self.server.next_event().expect("an event");
        assert_eq!(self.server.next_event(), None);
        event
    }

    #[track_caller]
    fn is_closed_with(&mut self, condition: &str) {
        let event = self.event();
        let Event::Closed {
            by: Side::Us,
            error: Some(error),
        } = event
        else {
            panic!("{event:?}")
        };
        assert_eq!(error.condition, condition, "{error:?}");
        assert!(self.server.is_closed());
        let output = self.server.take_output();
        let text = String::from_utf8_lossy(&output);
        assert!(text.contains(condition), "the peer must learn it: {text}");
        self.server.feed(b"more");
        assert_eq!(
            (self.server.next_event(), self.server.has_output()),
            (None, false)
        );
    }

    #[track_caller]
    fn is_ended_with(&mut self, condition: &str) {
        let event = self.event();
        let Event::Ended {
            session,
            by: Side::Us,
            error: Some(error),
            ..
        } = event
        else {
            panic!("{event:?}")
        };
        assert_eq!((session, &error.condition[..]), (self.session, condition));
        assert!(self.server.is_open());
        // The channel is free again when the peer has ended, too.
        self.feed(&Performative::End(Default::default()), &[]);
        self.feed(&Performative::Begin(Box::new(begin(None))), &[]);
        assert!(matches!(self.event(), Event::Begun { session } if session != self.session));
    }

    #[track_caller]
    fn is_detached_with(&mut self, link: LinkId, condition: &str) {
        let event = self.event();
        let Event::Detached {
            link: detached,
            by: Side::Us,
            closed: true,
            error: Some(error),
        } = event
        else {
            panic!("{event:?}")
        };
        assert_eq!((detached, &error.condition[..]), (link, condition));
        assert!(self.server.is_open());
        // What is still on its way is passed over, and the handle is free afterwards.
        self.feed(&transfer(0, 77), b"late");
        self.feed(&Performative::Flow(link_flow(0, 5)), &[]);
        assert_eq!(self.server.next_event(), None);
        self.feed(&Performative::Detach(Default::default()), &[]);
        assert_eq!(self.server.next_event(), None);
        assert_eq!(self.server.link_count(), 0);
        self.attach(0, Role::Sender);
    }
}

fn begin(remote_channel: Option<u16>) -> Begin {
    Begin {
        remote_channel,
        incoming_window: 100,
        outgoing_window: 100,
        handle_max: 9,
        ..Begin::default()
    }
}

pub(crate) fn attach(handle: u32, role: Role) -> Performative {
    let attach = Attach {
        handle,
        ..Attach::new(format!("link{handle}"), role, Source::at("a"), Target::at("b"))
    };
    Performative::Attach(Box::new(attach))
}

pub(crate) fn transfer(handle: u32, delivery: u32) -> Performative {
    Performative::Transfer(Transfer {
        handle,
        delivery_id: Some(delivery),
        delivery_tag: Some("t".into()),
        ..Transfer::default()
    })
}

fn link_flow(handle: u32, credit: u32) -> Flow {
    Flow {
        next_incoming_id: Some(0),
        incoming_window: 100,
        outgoing_window: 100,
        handle: Some(handle),
        delivery_count: Some(0),
        link_credit: Some(credit),
        ..Flow::default()
    }
}

#[test]
fn what_is_no_amqp_is_answered_with_a_header() {
    for header in [*b"AMQP\x00\x00\x09\x01", *b"GET / HT", *b"AMQP\x02\x01\x00\x00"] {
        let mut server = Engine::server(Arc::new(config("server")));
        server.feed(&header);
        assert!(matches!(
            server.next_event(),
            Some(Event::Closed { by: Side::Us, .. })
        ));
        assert_eq!(server.take_output(), &b"AMQP\x00\x01\x00\x00"[..]);
    }
}

#[test]
fn what_is_no_frame_closes_the_connection() {
    for bytes in [
        &[0x7f, 0xff, 0xff, 0xff, 2, 0, 0, 0][..], // 2 GiB
        &[0, 1, 0, 1, 2, 0, 0, 0],                 // one byte too much
        &[0, 0, 0, 7, 2, 0, 0, 0],                 // less than a header
        &[0, 0, 0, 8, 1, 0, 0, 0],                 // data inside the header
        &[0, 0, 0, 8, 3, 0, 0, 0],                 // data behind the end
        &[0, 0, 0, 8, 2, 2, 0, 0],                 // no such type
        &[0, 0, 0, 8, 2, 1, 0, 0],                 // of the SASL layer
    ] {
        let mut raw = Raw::new(config("server"));
        raw.server.feed(bytes);
        raw.is_closed_with("amqp:connection:framing-error");
    }
}

#[test]
fn what_is_no_performative_closes_the_connection() {
    for body in [
        &[0x00, 0x53, 0x99, 0x45][..],
        &[0xff],
        &[0x00; 500],
        &[0x00, 0x53, 0x10, 0x45],
    ] {
        let mut raw = Raw::new(config("server"));
        let mut frame = vec![
            0,
            0,
            ((body.len() + 8) >> 8) as u8,
            (body.len() + 8) as u8,
            2,
            0,
            0,
            0,
        ];
        frame.extend_from_slice(body);
        raw.server.feed(&frame);
        raw.is_closed_with("amqp:decode-error");
    }
}

#[test]
fn numbers_beyond_what_was_announced_close_the_connection() {
    let mut small = config("server");
    small.limits.links_per_session = 2;
    small.limits.sessions = 2;
    let mut raw = Raw::new(small.clone());
    raw.feed(&attach(2, Role::Sender), &[]);
    raw.is_closed_with("amqp:connection:framing-error");
    let mut raw = Raw::new(small);
    let mut bytes = BytesMut::new();
    put_amqp_frame(2, &Performative::Begin(Box::new(begin(None))), &[], &mut bytes);
    raw.server.feed(&bytes);
    raw.is_closed_with("amqp:connection:framing-error");
}

#[test]
fn frames_out_of_turn_close_the_connection() {
    let open = Open {
        container_id: "again".into(),
        max_frame_size: 512,
        ..Open::default()
    };
    for performative in [
        Performative::Open(Box::new(open.clone())),
        Performative::Begin(Box::new(begin(None))),
        Performative::Begin(Box::new(begin(Some(0)))),
        Performative::Begin(Box::new(begin(Some(999)))),
    ] {
        let mut raw = Raw::new(config("server"));
        raw.feed(&performative, &[]);
        raw.is_closed_with("amqp:illegal-state");
    }
    for (performative, condition) in [
        (Performative::Begin(Box::new(begin(None))), "amqp:illegal-state"),
        (
            Performative::Open(Box::new(Open {
                max_frame_size: 511,
                ..open
            })),
            "amqp:invalid-field",
        ),
    ] {
        let mut server = Engine::server(Arc::new(config("server")));
        server.feed(&Protocol::Amqp.header());
        let mut raw = Raw {
            server,
            ..Raw::new(config("other"))
        };
        raw.feed(&performative, &[]);
        raw.is_closed_with(condition);
    }
}

#[test]
fn an_answer_larger_than_the_peers_frames_closes_the_connection() {
    let mut raw = Raw::new(config("server"));
    raw.feed(&attach(0, Role::Sender), &[]);
    let Some(Event::Attach { link, .. }) = raw.server.next_event() else {
        panic!("no attach")
    };
    let reply = amqp_wire::engine::AttachReply {
        properties: Value::Map(vec![("k".into(), Value::string("x".repeat(5000)))]),
        ..Default::default()
    };
    raw.server.accept_attach(link, reply).unwrap();
    raw.is_closed_with("amqp:frame-size-too-small");
}

#[test]
fn a_reason_too_long_for_the_peer_is_left_out() {
    let mut raw = Raw::new(config("server"));
    raw.server
        .close(Some(Error::new("amqp:not-allowed", "x".repeat(5000))))
        .unwrap();
    assert_eq!(
        raw.server.take_output(),
        &[0, 0, 0, 0x0f, 2, 0, 0, 0, 0, 0x53, 0x18, 0xc0, 2, 1, 0x40][..]
    );
    raw.feed(&transfer(9, 9), b"passed over");
    raw.feed(&Performative::Close(Default::default()), &[]);
    assert_eq!(
        raw.event(),
        Event::Closed {
            by: Side::Peer,
            error: None
        }
    );
}

#[test]
fn deliveries_beyond_credit_detach_the_link() {
    let mut raw = Raw::new(config("server"));
    let link = raw.attach(0, Role::Sender);
    raw.server.grant(link, 1).unwrap();
    raw.feed(&transfer(0, 0), b"one");
    assert!(matches!(raw.event(), Event::Message { .. }));
    raw.feed(&transfer(0, 1), b"two");
    raw.is_detached_with(link, "amqp:link:transfer-limit-exceeded");
}

#[test]
fn deliveries_before_the_answer_detach_the_link() {
    let mut raw = Raw::new(config("server"));
    raw.feed(&attach(0, Role::Sender), &[]);
    let Some(Event::Attach { link, .. }) = raw.server.next_event() else {
        panic!("no attach")
    };
    raw.feed(&transfer(0, 0), b"one");
    raw.is_detached_with(link, "amqp:link:transfer-limit-exceeded");
}

#[test]
fn large_messages_detach_the_link() {
    let mut config = config("server");
    config.limits.max_message_size = 10;
    let mut raw = Raw::new(config);
    let link = raw.attach(0, Role::Sender);
    raw.server.grant(link, 9).unwrap();
    raw.feed(&transfer(0, 0), &[0; 10]);
    assert!(matches!(raw.event(), Event::Message { .. }));
    let part = Transfer {
        delivery_id: Some(1),
        more: true,
        ..Transfer::default()
    };
    raw.feed(&Performative::Transfer(part.clone()), &[0; 6]);
    assert_eq!(raw.server.next_event(), None);
    raw.feed(
        &Performative::Transfer(Transfer {
            delivery_id: None,
            ..part
        }),
        &[0; 5],
    );
    raw.is_detached_with(link, "amqp:link:message-size-exceeded");
}

#[test]
fn parts_of_messages_are_bounded_over_all_links() {
    let mut config = config("server");
    config.limits.partial_bytes = 10;
    let mut raw = Raw::new(config);
    let part = |handle, delivery| {
        Performative::Transfer(Transfer {
            handle,
            delivery_id: Some(delivery),
            more: true,
            ..Transfer::default()
        })
    };
    let other = raw.attach(1, Role::Sender);
    raw.server.grant(other, 1).unwrap();
    raw.feed(&part(1, 0), &[0; 8]);
    let link = raw.attach(0, Role::Sender);
    raw.server.grant(link, 1).unwrap();
    raw.feed(&part(0, 1), &[0; 3]);
    let Event::Detached {
        error: Some(error), ..
    } = raw.event()
    else {
        panic!("not detached")
    };
    assert_eq!(error.condition, "amqp:resource-limit-exceeded");
    // The other delivery is complete; its bytes count no more.
    raw.feed(&transfer(1, 0), &[0; 20]);
    assert!(matches!(raw.event(), Event::Message { payload, .. } if payload.len() == 28));
    raw.server.grant(other, 1).unwrap();
    raw.feed(&part(1, 2), &[0; 10]);
    assert_eq!(raw.server.next_event(), None);
}

#[test]
fn an_aborted_delivery_counts_for_credit_only() {
    let mut raw = Raw::new(config("server"));
    let link = raw.attach(0, Role::Sender);
    raw.server.grant(link, 3).unwrap();
    let part = Transfer {
        delivery_id: Some(0),
        more: true,
        ..Transfer::default()
    };
    raw.feed(&Performative::Transfer(part.clone()), b"begun");
    raw.feed(
        &Performative::Transfer(Transfer {
            aborted: true,
            ..part
        }),
        b"",
    );
    raw.feed(&transfer(0, 1), b"whole");
    assert!(matches!(raw.event(), Event::Message { payload, .. } if payload == "whole"));
    assert_eq!(raw.server.credit(link), Ok(1));
}

#[test]
fn a_delivery_inside_another_detaches_the_link() {
    let mut raw = Raw::new(config("server"));
    let link = raw.attach(0, Role::Sender);
    raw.server.grant(link, 3).unwrap();
    let part = Transfer {
        delivery_id: Some(0),
        more: true,
        ..Transfer::default()
    };
    raw.feed(&Performative::Transfer(part), b"begun");
    raw.feed(&transfer(0, 1), b"another");
    raw.is_detached_with(link, "amqp:not-allowed");
}

#[test]
fn a_delivery_without_number_and_one_to_a_sender_detach_the_link() {
    let mut raw = Raw::new(config("server"));
    let link = raw.attach(0, Role::Sender);
    raw.server.grant(link, 3).unwrap();
    raw.feed(&Performative::Transfer(Transfer::default()), b"nameless");
    raw.is_detached_with(link, "amqp:invalid-field");
    let mut raw = Raw::new(config("server"));
    let link = raw.attach(0, Role::Receiver);
    raw.feed(&transfer(0, 0), b"wrong way");
    raw.is_detached_with(link, "amqp:not-allowed");
}

#[test]
fn transfers_beyond_the_window_end_the_session() {
    let mut config = config("server");
    config.limits.incoming_window = 0;
    let mut raw = Raw::new(config);
    let link = raw.attach(0, Role::Sender);
    raw.server.grant(link, 3).unwrap();
    raw.feed(&transfer(0, 0), b"too much");
    raw.is_ended_with("amqp:session:window-violation");
}

#[test]
fn unknown_handles_cost_the_session_only_for_transfers() {
    let mut raw = Raw::new(config("server"));
    raw.feed(&Performative::Detach(Default::default()), &[]);
    raw.feed(&Performative::Flow(link_flow(5, 5)), &[]);
    assert_eq!((raw.server.next_event(), raw.server.has_output()), (None, false));
    raw.feed(&transfer(5, 0), b"to nobody");
    raw.is_ended_with("amqp:session:unattached-handle");
}

#[test]
fn a_handle_in_use_and_too_many_links_end_the_session() {
    let mut raw = Raw::new(config("server"));
    raw.attach(0, Role::Sender);
    raw.feed(&attach(0, Role::Sender), &[]);
    raw.is_ended_with("amqp:session:handle-in-use");
    let mut config = config("server");
    config.limits.links = 1;
    let mut raw = Raw::new(config);
    raw.attach(0, Role::Sender);
    raw.feed(&attach(1, Role::Sender), &[]);
    raw.is_ended_with("amqp:resource-limit-exceeded");
}

#[test]
fn credit_leaves_room_for_what_is_unsettled() {
    let mut config = config("server");
    config.limits.unsettled = 3;
    let mut raw = Raw::new(config);
    let link = raw.attach(0, Role::Sender);
    assert_eq!(raw.server.grant(link, 100), Ok(3));
    raw.feed(&transfer(0, 0), b"one");
    let Event::Message { delivery, .. } = raw.event() else {
        panic!("no message")
    };
    assert_eq!(raw.server.grant(link, 100), Ok(2));
    raw.server
        .settle(link, delivery, DeliveryState::Accepted)
        .unwrap();
    assert_eq!(raw.server.grant(link, 100), Ok(3));
}

#[test]
fn a_peer_that_settles_nothing_gets_no_more() {
    let mut config = config("server");
    config.limits.unsettled = 2;
    let mut raw = Raw::new(config);
    let link = raw.attach(0, Role::Receiver);
    raw.feed(&Performative::Flow(link_flow(0, 50)), &[]);
    raw.event();
    for _ in 0..5 {
        raw.server.send(link, Outgoing::unsettled("x")).unwrap();
    }
    assert_eq!(raw.server.queued(link), Ok(3));
    // disposition: receiver, 0 to 0, settled, accepted
    raw.server.feed(&[
        0, 0, 0, 0x19, 2, 0, 0, 0, 0, 0x53, 0x15, 0xc0, 12, 6, 0x41, 0x43, 0x40, 0x41, 0, 0x53, 0x24, 0xc0,
        1, 0, 0x42,
    ]);
    assert!(matches!(raw.event(), Event::Outcome { .. }));
    assert_eq!(raw.server.queued(link), Ok(2));
}

#[test]
fn queues_are_bounded() {
    let mut config = config("server");
    config.limits.queued_deliveries = 2;
    config.limits.queued_bytes = 100;
    let mut raw = Raw::new(config);
    let (first, second) = (raw.attach(0, Role::Receiver), raw.attach(1, Role::Receiver));
    raw.server.send(first, Outgoing::settled(vec![0; 50])).unwrap();
    assert_eq!(
        raw.server.send(second, Outgoing::settled(vec![0; 51])),
        Err(CommandError::QueueFull)
    );
    raw.server.send(first, Outgoing::settled(vec![0; 10])).unwrap();
    assert_eq!(
        raw.server.send(first, Outgoing::settled("")),
        Err(CommandError::QueueFull)
    );
    raw.server.send(second, Outgoing::settled(vec![0; 40])).unwrap();
    // What a link leaves behind counts no more.
    raw.server.detach(first, true, None).unwrap();
    raw.server.send(second, Outgoing::settled(vec![0; 60])).unwrap();
    let mut tagged = Outgoing::settled("");
    tagged.tag = Some(vec![0; 33].into());
    assert_eq!(raw.server.send(second, tagged), Err(CommandError::TooLarge));
}

#[test]
fn output_is_bounded_by_waiting() {
    let mut config = config("server");
    config.limits.output_bytes = 1000;
    let mut raw = Raw::new(config);
    let link = raw.attach(0, Role::Receiver);
    raw.feed(&Performative::Flow(link_flow(0, 50)), &[]);
    raw.event();
    for _ in 0..20 {
        raw.server.send(link, Outgoing::settled(vec![0xee; 400])).unwrap();
    }
    assert!(raw.server.output_len() < 1500);
    let mut taken = 0;
    while raw.server.has_output() {
        let output = raw.server.take_output();
        assert!(output.len() < 1500);
        taken += output.iter().filter(|byte| **byte == 0xee).count();
    }
    assert_eq!((taken, raw.server.queued(link)), (20 * 400, Ok(0)));
}

#[test]
fn sessions_and_links_of_ours_are_bounded() {
    let mut client = config("client");
    client.limits.sessions = 2;
    let mut pair = Pair::open(client, config("server"));
    let session = pair.client.begin().unwrap();
    pair.client.begin().unwrap();
    assert_eq!(pair.client.begin(), Err(CommandError::Limit));
    let mut small = config("server");
    small.limits.links_per_session = 1;
    let mut other = Pair::open(config("client"), small);
    let begun = other.begin();
    let attach = || Attach::new("l", Role::Sender, Source::at("a"), Target::at("b"));
    other.client.attach(begun, attach()).unwrap();
    assert_eq!(other.client.attach(begun, attach()), Err(CommandError::Limit));
    assert!(pair.client.attach(session, attach()).is_ok());
}

#[test]
fn signs_of_life_and_silence() {
    let start = Instant::now();
    let seconds = |seconds| start + Duration::from_secs(seconds);
    let mut client = config("client");
    client.idle_time_out = Some(Duration::from_secs(60));
    let mut server = config("server");
    server.idle_time_out = Some(Duration::from_secs(240));
    let mut pair = Pair::open(client, server);
    // A third of the client's 60 s.
    assert_eq!(pair.server.tick(start), Some(seconds(20)));
    assert_eq!(pair.server.tick(seconds(19)), Some(seconds(20)));
    assert!(!pair.server.has_output());
    assert_eq!(pair.server.tick(seconds(20)), Some(seconds(40)));
    assert_eq!(pair.server.take_output(), &[0, 0, 0, 8, 2, 0, 0, 0][..]);
    // Something else to say is a sign of life, too.
    pair.server.begin().unwrap();
    assert_eq!(pair.server.tick(seconds(40)), Some(seconds(60)));
    pair.server.take_output();
    // The client's sign of life is heard, its silence noticed.
    pair.server.feed(&[0, 0, 0, 8, 2, 0, 0, 0]);
    assert_eq!(pair.server.next_event(), None);
    assert_eq!(pair.server.tick(seconds(100)), Some(seconds(120)));
    assert!(pair.server.tick(seconds(339)).is_some());
    assert!(pair.server.is_open());
    assert_eq!(pair.server.tick(seconds(340)), None);
    let Some(Event::Closed {
        by: Side::Us,
        error: Some(error),
    }) = pair.server.next_event()
    else {
        panic!("not closed")
    };
    assert_eq!(error.condition, "amqp:connection:forced");
    assert!(pair.server.is_closed());
}
