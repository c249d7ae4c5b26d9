//! One AMQP connection, as a state machine without I/O.
//!
//! An [`Engine`] is one end of a connection, server or client. Bytes that
//! arrive are [fed](Engine::feed) to it; [`Engine::next_event`] hands out what
//! they mean, one frame at a time; commands and events leave bytes to write in
//! [`Engine::take_output`]. It reads no clock: [`Engine::tick`] is told the time.
//!
//! The next frame is not touched before the caller asks for the next event.
//! So what is sent in answer to an event is on the wire before the answer to
//! anything that came later, whatever arrived in one read.
//!
//! It keeps the rules of connection, sessions and links: windows, credit,
//! delivery ids, settlement, parts of large messages, idle times and bounds.
//! What it must not do is decide: which links are attached, which messages
//! accepted, which mechanisms enough is for the caller.

mod config;
mod event;
mod handshake;
mod idle;
mod link;
mod receive;
mod send;
mod session;
mod slab;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;

pub use self::config::{Config, Limits};
pub use self::event::{
    AttachReply, CommandError, DeliveryId, Event, LinkId, Outgoing, SentId, SessionId, Side,
};
use self::handshake::Phase;
use self::idle::Idle;
use self::link::Link;
use self::session::Session;
use self::slab::Slab;
use crate::frame::{self, FrameType};
use crate::performative::{Close, Error, Performative, Role, SaslInit, condition};

/// One end of a connection.
#[derive(Debug)]
pub struct Engine {
    config: Arc<Config>,
    phase: Phase,
    /// Whether there was a SASL layer.
    sasl: bool,
    /// Whether our `open` is sent.
    open_sent: bool,
    input: BytesMut,
    output: BytesMut,
    events: VecDeque<Event>,
    peer: Peer,
    /// Sessions by the number of our channel.
    sessions: Vec<Option<Box<Session>>>,
    /// Our channels by the number of the peer's.
    channels: Vec<Option<u16>>,
    links: Slab<Link>,
    /// Sessions begun so far.
    generation: u32,
    /// Deliveries sent so far.
    sent: u64,
    /// Bytes of deliveries that wait.
    queued_bytes: usize,
    /// Bytes of deliveries that have arrived in part.
    partial_bytes: usize,
    /// Links whose credit is to be given up when the caller has had its say.
    draining: Vec<LinkId>,
    /// Whether deliveries wait for the output to be taken.
    stalled: bool,
    /// Whether a frame did not fit in the peer's greatest.
    oversized: bool,
    idle: Idle,
}

/// What the peer's `open` says.
#[derive(Debug)]
struct Peer {
    max_frame_size: u32,
    channel_max: u16,
}

/// What a broken rule costs.
enum Fault {
    Connection(Error),
    /// The session on our channel of this number.
    Session(u16, Error),
    Link(LinkId, Error),
}

impl Engine {
    /// The server's end of a connection.
    #[must_use]
    pub fn server(config: Arc<Config>) -> Self {
        Self::new(config, Phase::ServerHeader)
    }

    /// The client's end of a connection, which authenticates with `login`, or
    /// does without the SASL layer. Takes no interest in which mechanisms the
    /// server offers.
    #[must_use]
    pub fn client(config: Arc<Config>, login: Option<SaslInit>) -> Self {
        let mut engine = Self::new(config, Phase::Closed);
        engine.start_client(login);
        engine
    }

    fn new(config: Arc<Config>, phase: Phase) -> Self {
        Self {
            config,
            phase,
            sasl: false,
            open_sent: false,
            input: BytesMut::new(),
            output: BytesMut::new(),
            events: VecDeque::new(),
            peer: Peer {
                max_frame_size: frame::MIN_MAX_FRAME_SIZE,
                channel_max: 0,
            },
            sessions: Vec::new(),
            channels: Vec::new(),
            links: Slab::new(),
            generation: 0,
            sent: 0,
            queued_bytes: 0,
            partial_bytes: 0,
            draining: Vec::new(),
            stalled: false,
            oversized: false,
            idle: Idle::default(),
        }
    }

    /// Takes bytes that have arrived.
    ///
    /// Pull events before feeding more: what is not pulled is kept, however
    /// much it is.
    pub fn feed(&mut self, bytes: &[u8]) {
        if !matches!(self.phase, Phase::Closed) {
            self.idle.received = true;
            self.input.extend_from_slice(bytes);
        }
    }

    /// Bytes fed and not yet consumed.
    #[must_use]
    pub fn input_len(&self) -> usize {
        self.input.len()
    }

    /// The next event; `None` when more bytes are needed, or a decision on
    /// [`Event::Sasl`].
    ///
    /// Frames that mean nothing to the caller are passed over. A frame may
    /// mean several events; the next frame is not touched before they are
    /// handed out.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            self.finish_drains();
            if self.oversized {
                self.oversized = false;
                self.fail(Error::new(
                    condition::FRAME_SIZE_TOO_SMALL,
                    "a frame does not fit in the peer's max-frame-size",
                ));
            } else if !self.step() {
                if self.input.is_empty() {
                    // The buffer's storage is returned only by dropping it.
                    self.input = BytesMut::new();
                }
                return self.events.pop_front();
            }
        }
    }

    /// Consumes one protocol header or frame; false if there is none.
    fn step(&mut self) -> bool {
        match self.phase {
            Phase::Closed | Phase::ServerSaslDecision => false,
            Phase::ServerHeader | Phase::ServerAmqpHeader | Phase::ClientHeader(_) => self.step_header(),
            Phase::ServerSaslInit | Phase::ClientMechanisms(_) | Phase::ClientSaslOutcome => {
                self.step_frame(FrameType::Sasl)
            }
            Phase::Opening | Phase::Open | Phase::Closing => self.step_frame(FrameType::Amqp),
        }
    }

    fn step_frame(&mut self, expected: FrameType) -> bool {
        let fault = match frame::take_frame(&mut self.input, self.config.max_frame_size) {
            Ok(None) => return false,
            Ok(Some(frame)) if frame.kind != expected => Error::new(
                condition::FRAMING_ERROR,
                "a frame of the wrong type for this layer",
            ),
            Ok(Some(frame)) => {
                let handled = match expected {
                    FrameType::Sasl => self.handle_sasl(&frame.body),
                    FrameType::Amqp if frame.body.is_empty() => Ok(()),
                    FrameType::Amqp => self.handle_amqp(frame.channel, &frame.body),
                };
                if let Err(fault) = handled {
                    self.punish(fault);
                }
                return true;
            }
            Err(error) => Error::new(condition::FRAMING_ERROR, error.to_string()),
        };
        self.fail(fault);
        true
    }

    fn handle_amqp(&mut self, channel: u16, body: &bytes::Bytes) -> Result<(), Fault> {
        let (performative, payload) = Performative::decode(body)
            .map_err(|error| Fault::Connection(Error::new(condition::DECODE_ERROR, error.to_string())))?;
        match (&self.phase, performative) {
            (_, Performative::Close(close)) => {
                self.handle_close(close);
                Ok(())
            }
            // Whatever was on its way when we closed no longer counts.
            (Phase::Closing, _) => Ok(()),
            (Phase::Opening, Performative::Open(open)) => self.handle_open(open),
            (Phase::Opening, _) => Err(illegal("a frame before the open")),
            (_, Performative::Open(_)) => Err(illegal("a second open")),
            _ if channel >= self.config.limits.sessions => Err(Fault::Connection(Error::new(
                condition::FRAMING_ERROR,
                "a channel beyond channel-max",
            ))),
            (_, Performative::Begin(begin)) => self.handle_begin(channel, &begin),
            (_, performative) => {
                // Clients send frames on sessions that have ended, in good
                // faith, when they shut down.
                let Some(ours) = self.channels.get(usize::from(channel)).copied().flatten() else {
                    return Ok(());
                };
                let ending = self.session(ours).is_none_or(|session| session.ending);
                match performative {
                    Performative::End(end) => self.handle_end(ours, end.error),
                    _ if ending => {}
                    Performative::Attach(attach) => return self.handle_attach(ours, *attach),
                    Performative::Flow(flow) => self.handle_flow(ours, &flow),
                    Performative::Transfer(transfer) => {
                        return self.handle_transfer(ours, transfer, payload);
                    }
                    Performative::Disposition(disposition) => self.handle_disposition(ours, &disposition),
                    Performative::Detach(detach) => self.handle_detach(ours, detach),
                    Performative::Open(_) | Performative::Begin(_) | Performative::Close(_) => {}
                }
                Ok(())
            }
        }
    }

    fn punish(&mut self, fault: Fault) {
        match fault {
            Fault::Connection(error) => self.fail(error),
            Fault::Session(channel, error) => self.end_session(channel, error),
            Fault::Link(link, error) => {
                if self.detach(link, true, Some(error.clone())).is_ok() {
                    self.events.push_back(Event::Detached {
                        link,
                        by: Side::Us,
                        closed: true,
                        error: Some(error),
                    });
                }
            }
        }
    }

    /// Closes at once, without waiting for the peer's `close`: it has broken a
    /// rule, or says nothing any more.
    fn fail(&mut self, error: Error) {
        if self.phase.may_send_close() {
            self.put_open_once();
            self.put_close(Some(error.clone()));
        }
        self.finish(Side::Us, Some(error));
    }

    /// Ends everything; what is in the output can still be written.
    fn finish(&mut self, by: Side, error: Option<Error>) {
        self.phase = Phase::Closed;
        self.forget_all();
        self.input = BytesMut::new();
        self.events.push_back(Event::Closed { by, error });
    }

    /// Drops sessions and links. Events that wait are of a time when they
    /// existed, and stay.
    fn forget_all(&mut self) {
        self.sessions = Vec::new();
        self.channels = Vec::new();
        self.links = Slab::new();
        self.draining = Vec::new();
        self.stalled = false;
        self.oversized = false;
        self.queued_bytes = 0;
        self.partial_bytes = 0;
    }

    /// Closes the connection. [`Event::Closed`] comes with the peer's answer;
    /// until then whatever it sends is passed over.
    ///
    /// # Errors
    /// When the connection is closed or closing, or not yet open.
    pub fn close(&mut self, error: Option<Error>) -> Result<(), CommandError> {
        match self.phase {
            Phase::Open => {
                self.put_close(error);
                self.phase = Phase::Closing;
                self.forget_all();
                Ok(())
            }
            Phase::Closed | Phase::Closing => Err(CommandError::Gone),
            _ => Err(CommandError::State),
        }
    }

    fn put_close(&mut self, error: Option<Error>) {
        let length = self.output.len();
        self.put(0, &Performative::Close(Close { error }));
        if self.output.len() == length {
            // It did not fit: better without the reason than not at all.
            self.oversized = false;
            self.put(0, &Performative::Close(Close { error: None }));
        }
    }

    fn handle_close(&mut self, close: Close) {
        match self.phase {
            Phase::Closing => {}
            _ => {
                self.put_open_once();
                self.put_close(None);
            }
        }
        self.finish(Side::Peer, close.error);
    }

    /// Whether the connection is over: write the output, then end the stream.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Whether both ends have opened the connection and neither has closed it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Whether the connection has, or had, a SASL layer.
    #[must_use]
    pub fn has_sasl(&self) -> bool {
        self.sasl
    }

    /// Links that exist, including those that wait for the peer's `detach`.
    #[must_use]
    pub fn link_count(&self) -> usize {
        self.links.len()
    }

    /// What is to be written; empty when nothing is. Ask again after writing:
    /// deliveries that waited for room in the output become frames then.
    pub fn take_output(&mut self) -> BytesMut {
        if self.stalled && self.output.is_empty() {
            self.stalled = false;
            self.pump_all();
        }
        std::mem::take(&mut self.output)
    }

    /// Bytes to be written. While this is large, stop pulling events: a peer
    /// that does not read would fill the memory with answers.
    #[must_use]
    pub fn output_len(&self) -> usize {
        self.output.len()
    }

    /// Whether [`take_output`](Self::take_output) would return something.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.output.is_empty() || self.stalled
    }

    /// Appends a frame to the output.
    fn put(&mut self, channel: u16, performative: &Performative) {
        let start = self.output.len();
        let length = frame::put_amqp_frame(channel, performative, &[], &mut self.output);
        if length > self.peer.max_frame_size as usize {
            self.output.truncate(start);
            self.oversized = true;
        }
        self.idle.wrote = true;
    }

    /// The role of our end of a link.
    ///
    /// # Errors
    /// When the link is gone.
    pub fn role(&self, link: LinkId) -> Result<Role, CommandError> {
        Ok(self.live(link)?.role)
    }

    /// The link, if it is there and not being detached.
    fn live(&self, id: LinkId) -> Result<&Link, CommandError> {
        let link = self.links.get(id).filter(|link| !link.is_detaching());
        link.ok_or(CommandError::Gone)
    }

    fn session(&self, channel: u16) -> Option<&Session> {
        self.sessions.get(usize::from(channel))?.as_deref()
    }

    fn session_mut(&mut self, channel: u16) -> Option<&mut Session> {
        self.sessions.get_mut(usize::from(channel))?.as_deref_mut()
    }
}

fn illegal(what: &'static str) -> Fault {
    Fault::Connection(Error::new(condition::ILLEGAL_STATE, what))
}

/// How far `to` is ahead of `from` in the numbers of RFC 1982, as the standard
/// counts; 0 if it is behind.
fn ahead(from: u32, to: u32) -> u32 {
    let distance = to.wrapping_sub(from);
    if distance < 1 << 31 { distance } else { 0 }
}
