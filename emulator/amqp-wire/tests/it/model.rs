//! Random sequences of legal frames and commands against a model of credit,
//! windows and settlement.
//!
//! The peer is written by hand. What the server writes is checked at once
//! against all that has been fed to it, but the peer learns of it only at
//! [`Op::Sync`], so its flows count from where it was.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use amqp_wire::engine::{AttachReply, Config, DeliveryId, Engine, Event, LinkId, Outgoing, SentId};
use amqp_wire::frame::{Protocol, put_amqp_frame, take_frame};
use amqp_wire::performative::{
    Attach, Begin, DeliveryState, Disposition, Flow, Open, Performative, Role, Source, Target, Transfer,
};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use crate::clients::widths_are_full;

const LINKS: usize = 2;
const MAX_FRAME: usize = 512;
const UNSETTLED: usize = 4;
const WINDOW: u32 = 8;

#[derive(Debug, Clone, Copy)]
enum Op {
    /// The peer sends a delivery, if it has credit, in this many frames.
    PeerSends {
        link: usize,
        size: usize,
        settled: bool,
        frames: usize,
    },
    /// The server grants credit.
    Grant { link: usize, credit: u32 },
    /// The server settles one of what it has received.
    Settle { link: usize, pick: usize },
    /// The peer settles all that it has sent on its own.
    PeerForgets,
    /// The server sends.
    Send { link: usize, size: usize, settled: bool },
    /// The peer gives credit.
    PeerCredit { link: usize, credit: u32, drain: bool },
    /// The peer opens its window.
    PeerWindow { window: u32 },
    /// The peer tells what became of a range of what it has received.
    PeerDisposes { back: u32, count: u32, settled: bool },
    /// The peer sees what the server has written.
    Sync,
}

fn arb_op() -> impl Strategy<Value = Op> {
    let link = 0..LINKS;
    prop_oneof![
        (link.clone(), 0..1500_usize, any::<bool>(), 1..4_usize).prop_map(|(link, size, settled, frames)| {
            Op::PeerSends {
                link,
                size,
                settled,
                frames,
            }
        }),
        (link.clone(), 0..6_u32).prop_map(|(link, credit)| Op::Grant { link, credit }),
        (link.clone(), any::<usize>()).prop_map(|(link, pick)| Op::Settle { link, pick }),
        Just(Op::PeerForgets),
        (link.clone(), 0..1500_usize, any::<bool>()).prop_map(|(link, size, settled)| Op::Send {
            link,
            size,
            settled
        }),
        (link, 0..6_u32, proptest::bool::weighted(0.3)).prop_map(|(link, credit, drain)| Op::PeerCredit {
            link,
            credit,
            drain
        }),
        (0..8_u32).prop_map(|window| Op::PeerWindow { window }),
        (0..8_u32, 0..4_u32, any::<bool>()).prop_map(|(back, count, settled)| Op::PeerDisposes {
            back,
            count,
            settled
        }),
        Just(Op::Sync),
    ]
}

/// A link on which the peer sends; its handle is its index.
#[derive(Default)]
struct Incoming {
    link: Option<LinkId>,
    sent: u32,
    credit: u32,
    unsettled: Vec<(u32, DeliveryId)>,
}

/// A link on which the server sends; its handle is `LINKS` more than its index.
#[derive(Default)]
struct Outgo {
    link: Option<LinkId>,
    /// What waits: payload, settled, name.
    queue: VecDeque<(Bytes, bool, SentId)>,
    /// What has come of the first that waits.
    partial: Option<Vec<u8>>,
    /// Deliveries begun, and the count up to which the peer allows them.
    begun: u32,
    limit: u32,
    drain: bool,
    /// Deliveries begun as far as the peer has seen.
    seen: u32,
}

impl Outgo {
    fn credit(&self) -> u32 {
        self.limit.saturating_sub(self.begun)
    }
}

struct Model {
    /// What the model's numbers, which begin with 0, are ahead by on the wire.
    first: u32,
    server: Engine,
    incoming: Vec<Incoming>,
    outgoing: Vec<Outgo>,
    /// Frames the peer has sent, and up to which the server allows them.
    frames_in: u32,
    window_in: u32,
    /// Frames the server has sent, allowed, and seen by the peer.
    frames_out: u32,
    window_out: u32,
    frames_seen: u32,
    next_delivery_in: u32,
    next_delivery_out: u32,
    /// Deliveries of the server's that the peer has not settled.
    unsettled: Vec<(u32, usize, SentId)>,
    /// Numbers that the server must settle in answer.
    to_answer: BTreeSet<u32>,
}

impl Model {
    fn new(first: u32) -> Self {
        let mut config = Config::new("server");
        config.first_number = first;
        config.limits.incoming_window = WINDOW;
        config.limits.unsettled = UNSETTLED;
        let mut model = Self {
            first,
            server: Engine::server(Arc::new(config)),
            incoming: (0..LINKS).map(|_| Incoming::default()).collect(),
            outgoing: (0..LINKS).map(|_| Outgo::default()).collect(),
            frames_in: 0,
            window_in: WINDOW,
            frames_out: 0,
            window_out: 3,
            frames_seen: 0,
            next_delivery_in: 0,
            next_delivery_out: 0,
            unsettled: Vec::new(),
            to_answer: BTreeSet::new(),
        };
        model.server.feed(&Protocol::Amqp.header());
        model.feed(
            &Performative::Open(Box::new(Open {
                container_id: "peer".into(),
                max_frame_size: MAX_FRAME as u32,
                ..Open::default()
            })),
            &[],
        );
        model.feed(
            &Performative::Begin(Box::new(Begin {
                incoming_window: model.window_out,
                outgoing_window: 100,
                handle_max: 100,
                ..Begin::default()
            })),
            &[],
        );
        for handle in 0..2 * LINKS {
            let role = if handle < LINKS {
                Role::Sender
            } else {
                Role::Receiver
            };
            let attach = Attach::new(format!("{handle}"), role, Source::at("a"), Target::at("b"));
            let attach = Attach {
                handle: handle as u32,
                initial_delivery_count: (role == Role::Sender).then_some(0),
                ..attach
            };
            model.feed(&Performative::Attach(Box::new(attach)), &[]);
        }
        let mut links = Vec::new();
        while let Some(event) = model.server.next_event() {
            if let Event::Attach { link, .. } = event {
                model.server.accept_attach(link, AttachReply::default()).unwrap();
                links.push(link);
            }
        }
        for (index, link) in links.into_iter().enumerate() {
            if index < LINKS {
                model.incoming[index].link = Some(link);
            } else {
                model.outgoing[index - LINKS].link = Some(link);
            }
        }
        model.server.take_output();
        model
    }

    fn feed(&mut self, performative: &Performative, payload: &[u8]) {
        self.server.feed(&frame(performative, self.first, payload));
    }

    fn flow(&self) -> Flow {
        Flow {
            next_incoming_id: Some(self.frames_seen),
            incoming_window: self.window_out - self.frames_seen.min(self.window_out),
            next_outgoing_id: self.frames_in,
            outgoing_window: 100,
            ..Flow::default()
        }
    }

    /// Carries out an operation and checks all that follows from it.
    fn step(&mut self, op: Op) {
        let mut expected = Vec::new();
        match op {
            Op::PeerSends {
                link,
                size,
                settled,
                frames,
            } => {
                if self.incoming[link].credit == 0 {
                    return;
                }
                let delivery = self.next_delivery_in;
                self.next_delivery_in += 1;
                let payload: Vec<u8> = (0..size).map(|at| (at as u32 + delivery) as u8).collect();
                self.incoming[link].credit -= 1;
                self.incoming[link].sent += 1;
                let chunk = size.div_ceil(frames).max(1);
                let mut chunks: Vec<&[u8]> = payload.chunks(chunk).collect();
                if chunks.is_empty() {
                    chunks.push(&[]);
                }
                for (index, part) in chunks.iter().enumerate() {
                    assert!(
                        self.window_in > self.frames_in,
                        "the window must open again by itself"
                    );
                    self.frames_in += 1;
                    let transfer = Transfer {
                        handle: link as u32,
                        delivery_id: (index == 0).then_some(delivery),
                        delivery_tag: (index == 0).then(|| Bytes::from_static(b"tag")),
                        settled: Some(settled),
                        more: index + 1 < chunks.len(),
                        ..Transfer::default()
                    };
                    self.feed(&Performative::Transfer(transfer), part);
                    if index + 1 < chunks.len() {
                        assert_eq!(self.server.next_event(), None);
                        self.check_output();
                    }
                }
                let event = self.server.next_event();
                let Some(Event::Message {
                    link: at,
                    delivery: id,
                    settled: is,
                    payload: got,
                    ..
                }) = event
                else {
                    panic!("{event:?}")
                };
                assert_eq!((Some(at), is), (self.incoming[link].link, settled));
                assert!(got == payload);
                if !settled {
                    self.incoming[link].unsettled.push((delivery, id));
                }
            }
            Op::Grant { link, credit } => {
                let incoming = &mut self.incoming[link];
                let room = UNSETTLED - incoming.unsettled.len();
                let given = credit.min(room as u32);
                incoming.credit = given;
                assert_eq!(self.server.grant(incoming.link.unwrap(), credit), Ok(given));
            }
            Op::Settle { link, pick } => {
                let incoming = &mut self.incoming[link];
                if incoming.unsettled.is_empty() {
                    return;
                }
                let (number, id) = incoming.unsettled.remove(pick % incoming.unsettled.len());
                self.server
                    .settle(incoming.link.unwrap(), id, DeliveryState::Accepted)
                    .unwrap();
                let output = self.server.take_output();
                let wire = Disposition {
                    role: Role::Receiver,
                    first: number,
                    last: Some(number),
                    settled: true,
                    state: Some(DeliveryState::Accepted),
                    batchable: false,
                };
                assert_eq!(output, frame(&Performative::Disposition(wire), self.first, &[]));
            }
            Op::PeerForgets => {
                if self.next_delivery_in == 0 {
                    return;
                }
                self.feed(
                    &Performative::Disposition(Disposition {
                        role: Role::Sender,
                        first: 0,
                        last: Some(self.next_delivery_in - 1),
                        settled: true,
                        state: None,
                        batchable: false,
                    }),
                    &[],
                );
                for incoming in &mut self.incoming {
                    incoming.unsettled.clear();
                }
            }
            Op::Send { link, size, settled } => {
                let payload = Bytes::from(vec![size as u8; size]);
                let message = Outgoing {
                    settled,
                    ..Outgoing::settled(payload.clone())
                };
                let outgoing = &mut self.outgoing[link];
                let sent = self.server.send(outgoing.link.unwrap(), message).unwrap();
                outgoing.queue.push_back((payload, settled, sent));
            }
            Op::PeerCredit { link, credit, drain } => {
                let flow = Flow {
                    handle: Some((LINKS + link) as u32),
                    delivery_count: Some(self.outgoing[link].seen),
                    link_credit: Some(credit),
                    drain,
                    ..self.flow()
                };
                let outgoing = &mut self.outgoing[link];
                outgoing.limit = outgoing.seen + credit;
                outgoing.drain = drain;
                self.feed(&Performative::Flow(flow), &[]);
                expected.push(link);
            }
            Op::PeerWindow { window } => {
                self.window_out = self.frames_seen + window;
                self.feed(&Performative::Flow(self.flow()), &[]);
            }
            Op::PeerDisposes { back, count, settled } => {
                let Some(last) = self.next_delivery_out.checked_sub(back + 1) else {
                    return;
                };
                let first = last.saturating_sub(count);
                self.feed(
                    &Performative::Disposition(Disposition {
                        role: Role::Receiver,
                        first,
                        last: Some(last),
                        settled,
                        state: Some(DeliveryState::Accepted),
                        batchable: false,
                    }),
                    &[],
                );
                let (named, left) = self
                    .unsettled
                    .iter()
                    .partition(|(id, ..)| (first..=last).contains(id));
                self.unsettled = left;
                let named: Vec<(u32, usize, SentId)> = named;
                for (id, link, sent) in named {
                    let event = self.server.next_event();
                    let Some(Event::Outcome {
                        link: at,
                        delivery,
                        state,
                        ..
                    }) = event
                    else {
                        panic!("{event:?}")
                    };
                    assert_eq!((Some(at), delivery), (self.outgoing[link].link, sent));
                    assert_eq!(state, Some(DeliveryState::Accepted));
                    if !settled {
                        self.to_answer.insert(id);
                    }
                }
            }
            Op::Sync => {
                self.frames_seen = self.frames_out;
                for outgoing in &mut self.outgoing {
                    outgoing.seen = outgoing.begun;
                }
            }
        }
        let mut credits = Vec::new();
        loop {
            let event = self.server.next_event().or_else(|| {
                // What is written makes room for what waits.
                self.check_output();
                self.server.next_event()
            });
            let Some(event) = event else { break };
            let Event::Credit { link, credit, drain } = event else {
                panic!("{event:?}")
            };
            self.check_output();
            let index = self
                .outgoing
                .iter()
                .position(|outgoing| outgoing.link == Some(link))
                .unwrap();
            let waiting =
                self.outgoing[index].queue.len() - usize::from(self.outgoing[index].partial.is_some());
            assert_eq!(
                credit,
                self.outgoing[index].credit().saturating_sub(waiting as u32)
            );
            assert_eq!(drain, self.outgoing[index].drain);
            credits.push(index);
        }
        // Beside what the peer gave, credit is reported where nothing waits any more.
        for link in expected {
            let at = credits.iter().position(|credit| *credit == link);
            credits.remove(at.expect("the credit is reported"));
        }
        for link in credits {
            assert!(self.outgoing[link].queue.is_empty());
        }
        self.check_progress();
    }

    /// Checks that what the server has written is allowed, and takes note of it.
    fn check_output(&mut self) {
        let mut output = self.server.take_output();
        while let Some(frame) = take_frame(&mut output, MAX_FRAME as u32).unwrap() {
            widths_are_full(&frame.body);
            let (performative, payload) = Performative::decode(&frame.body).unwrap();
            match shifted(&performative, self.first.wrapping_neg()) {
                Performative::Flow(flow) => self.check_flow(&flow),
                Performative::Transfer(transfer) => self.check_transfer(&transfer, &payload),
                Performative::Disposition(disposition) => {
                    assert_eq!((disposition.role, disposition.settled), (Role::Sender, true));
                    let range = disposition.first..=disposition.last.unwrap();
                    self.to_answer.retain(|id| !range.contains(id));
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(output.is_empty());
    }

    fn check_flow(&mut self, flow: &Flow) {
        // The flow may be of a moment before the last frame that was fed.
        assert_eq!(flow.next_incoming_id, Some(self.frames_in));
        assert_eq!(flow.next_outgoing_id, self.frames_out);
        self.window_in = self.frames_in + flow.incoming_window;
        let Some(handle) = flow.handle.map(|handle| handle as usize) else {
            return;
        };
        if handle < LINKS {
            let incoming = &self.incoming[handle];
            assert_eq!(flow.link_credit, Some(incoming.credit));
            assert_eq!(flow.delivery_count, Some(incoming.sent));
        } else {
            let outgoing = &mut self.outgoing[handle - LINKS];
            assert!(flow.drain && outgoing.drain);
            assert!(outgoing.queue.is_empty() || outgoing.credit() == 0);
            outgoing.begun += outgoing.credit();
            outgoing.drain = false;
            assert_eq!(
                (flow.link_credit, flow.delivery_count),
                (Some(0), Some(outgoing.begun))
            );
        }
    }

    fn check_transfer(&mut self, transfer: &Transfer, payload: &[u8]) {
        assert!(self.frames_out < self.window_out, "beyond the window");
        self.frames_out += 1;
        let index = transfer.handle as usize - LINKS;
        let outgoing = &mut self.outgoing[index];
        let (whole, settled, sent) = outgoing.queue.front().cloned().unwrap();
        assert_eq!(transfer.settled, Some(settled));
        if outgoing.partial.is_none() {
            assert!(outgoing.credit() > 0, "beyond the credit");
            outgoing.begun += 1;
            assert_eq!(transfer.delivery_id, Some(self.next_delivery_out));
            self.next_delivery_out += 1;
            if !settled {
                self.unsettled.push((transfer.delivery_id.unwrap(), index, sent));
            }
        }
        let partial = outgoing.partial.get_or_insert_default();
        partial.extend_from_slice(payload);
        assert!(whole.starts_with(partial));
        if !transfer.more {
            assert!(*partial == whole);
            outgoing.partial = None;
            outgoing.queue.pop_front();
        }
    }

    /// Nothing waits without a reason.
    fn check_progress(&self) {
        assert!(self.to_answer.is_empty());
        for (index, outgoing) in self.outgoing.iter().enumerate() {
            let unsettled = self
                .unsettled
                .iter()
                .filter(|(_, link, _)| *link == index)
                .count();
            assert_eq!(
                self.server.queued(outgoing.link.unwrap()),
                Ok(outgoing.queue.len())
            );
            let Some((_, settled, _)) = outgoing.queue.front() else {
                assert!(!outgoing.drain, "an empty queue drains at once");
                continue;
            };
            let no_credit = outgoing.partial.is_none() && outgoing.credit() == 0;
            let no_room = outgoing.partial.is_none() && !settled && unsettled >= UNSETTLED;
            let no_window = self.frames_out >= self.window_out;
            assert!(no_credit || no_room || no_window, "it could have been sent");
            assert!(!outgoing.drain || outgoing.credit() > 0);
        }
    }
}

/// A frame that carries the model's numbers `by` ahead.
fn frame(performative: &Performative, by: u32, payload: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::new();
    put_amqp_frame(0, &shifted(performative, by), payload, &mut bytes);
    bytes
}

/// The same with every transfer's and delivery's number and every link's count
/// `by` ahead.
fn shifted(performative: &Performative, by: u32) -> Performative {
    let shift = |number: &mut u32| *number = number.wrapping_add(by);
    let mut performative = performative.clone();
    match &mut performative {
        Performative::Begin(begin) => shift(&mut begin.next_outgoing_id),
        Performative::Attach(attach) => attach.initial_delivery_count.iter_mut().for_each(shift),
        Performative::Flow(flow) => {
            shift(&mut flow.next_outgoing_id);
            flow.next_incoming_id.iter_mut().for_each(shift);
            flow.delivery_count.iter_mut().for_each(shift);
        }
        Performative::Transfer(transfer) => transfer.delivery_id.iter_mut().for_each(shift),
        Performative::Disposition(disposition) => {
            shift(&mut disposition.first);
            disposition.last.iter_mut().for_each(shift);
        }
        _ => {}
    }
    performative
}

/// Where numbers begin: often where they soon go round.
fn arb_first() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(0),
        (0..12_u32).prop_map(|before| u32::MAX - before),
        (0..12_u32).prop_map(|before| i32::MAX as u32 - before),
        any::<u32>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn credit_windows_and_settlement_follow_the_model(
        first in arb_first(),
        ops in proptest::collection::vec(arb_op(), 1..60),
    ) {
        let mut model = Model::new(first);
        for op in ops {
            model.step(op);
        }
    }

    /// An open connection survives any frames, and says so in legal ones.
    #[test]
    fn any_frames_end_in_a_close_at_worst(
        bodies in proptest::collection::vec(
            (0..2_u16, proptest::collection::vec(
                prop_oneof![
                    proptest::sample::select(&[
                        0x00_u8, 0x40, 0x41, 0x42, 0x43, 0x45, 0x53, 0xa0, 0xa1, 0xc0, 0x01, 0x02, 0x03,
                    ][..]),
                    any::<u8>(),
                ],
                0..30,
            ), 0x11..0x19_u8),
            1..6,
        ),
    ) {
        let mut model = Model::new(0);
        for (channel, rest, code) in bodies {
            let body = [&[0x00, 0x53, code, 0xc0, rest.len() as u8 + 1, 3], &rest[..]].concat();
            let mut frame = vec![0, 0, 0, body.len() as u8 + 8, 2, 0, 0, channel as u8];
            frame.extend_from_slice(&body);
            model.server.feed(&frame);
            while model.server.next_event().is_some() {}
        }
        let mut output = model.server.take_output();
        while let Some(frame) = take_frame(&mut output, MAX_FRAME as u32).unwrap() {
            widths_are_full(&frame.body);
            prop_assert!(Performative::decode(&frame.body).is_ok());
        }
    }
}
