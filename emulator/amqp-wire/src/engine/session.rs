//! Sessions: `begin`, `end`, and windows.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::handshake::Phase;
use super::{CommandError, Config, Engine, Event, Fault, LinkId, SentId, SessionId, Side, ahead, illegal};
use crate::performative::{Begin, End, Error, Flow, Performative, Role};

/// The outgoing window that we announce. Nothing limits us but the peer's
/// incoming window, and nobody acts on this number.
const OUTGOING_WINDOW: u32 = 5000;

/// One session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    /// The peer's channel, once it has begun.
    remote_channel: Option<u16>,
    /// Whether we have ended it and wait for the peer's `end`.
    pub(super) ending: bool,
    /// Transfer id expected next.
    next_incoming_id: u32,
    /// Transfer frames that we accept.
    incoming_window: u32,
    /// Transfer id of our next frame.
    pub(super) next_outgoing_id: u32,
    /// Transfer frames that the peer accepts.
    pub(super) remote_window: u32,
    /// Greatest handle that the peer accepts.
    pub(super) remote_handle_max: u32,
    /// Delivery id of our next delivery. Its lower half is on the wire; whole,
    /// it orders the unsettled ones.
    pub(super) next_delivery_id: u64,
    /// Our deliveries that the peer has not settled.
    pub(super) unsettled: BTreeMap<u64, Unsettled>,
    /// Links by our handle.
    pub(super) by_handle: Vec<Option<LinkId>>,
    /// Links by the peer's handle.
    pub(super) by_remote_handle: Vec<Option<LinkId>>,
    /// Links with deliveries that wait for window or output, in turn.
    pub(super) waiting: VecDeque<LinkId>,
}

/// A delivery that the peer has not settled.
#[derive(Debug)]
pub(super) struct Unsettled {
    pub(super) link: LinkId,
    pub(super) sent: SentId,
    pub(super) tag: Bytes,
}

impl Session {
    fn new(id: SessionId, config: &Config) -> Self {
        Self {
            id,
            remote_channel: None,
            ending: false,
            next_incoming_id: 0,
            incoming_window: config.limits.incoming_window,
            next_outgoing_id: config.first_number,
            remote_window: 0,
            remote_handle_max: u32::MAX,
            next_delivery_id: config.first_number.into(),
            unsettled: BTreeMap::new(),
            by_handle: Vec::new(),
            by_remote_handle: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    fn connect(&mut self, channel: u16, begin: &Begin) {
        self.remote_channel = Some(channel);
        self.next_incoming_id = begin.next_outgoing_id;
        // What was sent before the peer's begin cannot be: the window was 0.
        self.remote_window = begin.incoming_window;
        self.remote_handle_max = begin.handle_max;
    }

    /// The links, in the order of our handles.
    pub(super) fn links(&self) -> Vec<LinkId> {
        self.by_handle.iter().flatten().copied().collect()
    }

    /// Counts a transfer frame that has come; `None` if the window forbids it,
    /// else whether the peer should be told of more room.
    pub(super) fn count_transfer(&mut self, window: u32) -> Option<bool> {
        self.incoming_window = self.incoming_window.checked_sub(1)?;
        self.next_incoming_id = self.next_incoming_id.wrapping_add(1);
        if self.incoming_window > window / 2 {
            return Some(false);
        }
        self.incoming_window = window;
        Some(true)
    }

    /// The fields of a `flow` about the session.
    pub(super) fn flow(&self) -> Flow {
        Flow {
            next_incoming_id: self.remote_channel.map(|_| self.next_incoming_id),
            incoming_window: self.incoming_window,
            next_outgoing_id: self.next_outgoing_id,
            outgoing_window: OUTGOING_WINDOW,
            ..Flow::default()
        }
    }

    /// The whole delivery id that the wire's half stands for: the nearest to
    /// the next one.
    pub(super) fn whole_id(&self, id: u32) -> u64 {
        let back = (self.next_delivery_id as u32).wrapping_sub(id) as i32;
        self.next_delivery_id.wrapping_sub(i64::from(back) as u64)
    }
}

impl Engine {
    /// Begins a session. It can be used at once; [`Event::Begun`] comes with
    /// the peer's answer.
    ///
    /// # Errors
    /// When the connection is not open, or has as many sessions as either end
    /// allows.
    pub fn begin(&mut self) -> Result<SessionId, CommandError> {
        if !matches!(self.phase, Phase::Open) {
            return Err(CommandError::State);
        }
        let session = self.add_session(None).ok_or(CommandError::Limit)?;
        self.put_begin(session.channel);
        Ok(session)
    }

    /// A new session on the peer's channel number, if ours of that number is
    /// free, or on the first that is.
    fn add_session(&mut self, remote: Option<u16>) -> Option<SessionId> {
        let limit = self
            .config
            .limits
            .sessions
            .min(self.peer.channel_max.saturating_add(1));
        let free = |channel: &u16| self.session(*channel).is_none();
        let channel = remote
            .filter(|channel| *channel < limit)
            .filter(free)
            .or_else(|| (0..limit).find(free))?;
        if self.sessions.len() <= usize::from(channel) {
            self.sessions.resize_with(usize::from(channel) + 1, || None);
        }
        self.generation = self.generation.wrapping_add(1);
        let id = SessionId {
            channel,
            generation: self.generation,
        };
        let session = Session::new(id, &self.config);
        self.sessions[usize::from(channel)] = Some(Box::new(session));
        Some(id)
    }

    fn put_begin(&mut self, channel: u16) {
        let handle_max = self.config.limits.links_per_session.saturating_sub(1);
        let Some(session) = self.session(channel) else {
            return;
        };
        let begin = Begin {
            remote_channel: session.remote_channel,
            next_outgoing_id: session.next_outgoing_id,
            incoming_window: session.incoming_window,
            outgoing_window: OUTGOING_WINDOW,
            handle_max,
            ..Begin::default()
        };
        self.put(channel, &Performative::Begin(Box::new(begin)));
    }

    pub(super) fn handle_begin(&mut self, channel: u16, begin: &Begin) -> Result<(), Fault> {
        if self
            .channels
            .get(usize::from(channel))
            .copied()
            .flatten()
            .is_some()
        {
            return Err(illegal("a begin on a channel that has a session"));
        }
        let ours = match begin.remote_channel {
            Some(ours) => ours,
            None => {
                let session = self.add_session(Some(channel)).ok_or_else(|| {
                    Fault::Connection(Error::new(
                        crate::performative::condition::RESOURCE_LIMIT_EXCEEDED,
                        "too many sessions",
                    ))
                })?;
                session.channel
            }
        };
        let Some(session) = self
            .session_mut(ours)
            .filter(|session| session.remote_channel.is_none())
        else {
            return Err(illegal("a begin that answers none"));
        };
        session.connect(channel, begin);
        let (id, ending) = (session.id, session.ending);
        if self.channels.len() <= usize::from(channel) {
            self.channels.resize(usize::from(channel) + 1, None);
        }
        self.channels[usize::from(channel)] = Some(ours);
        if begin.remote_channel.is_none() {
            self.put_begin(ours);
        } else {
            self.pump_session(ours);
        }
        if !ending {
            self.events.push_back(Event::Begun { session: id });
        }
        Ok(())
    }

    /// Ends a session and its links. Nothing more is reported of them.
    ///
    /// # Errors
    /// When the session is gone.
    pub fn end(&mut self, session: SessionId, error: Option<Error>) -> Result<(), CommandError> {
        self.check_session(session)?;
        self.clear_session(session.channel);
        self.put(session.channel, &Performative::End(End { error }));
        Ok(())
    }

    /// Ends a session whose peer broke a rule.
    pub(super) fn end_session(&mut self, channel: u16, error: Error) {
        let Some(session) = self.session(channel) else {
            return;
        };
        let (session, links) = (session.id, session.links());
        let links = links
            .into_iter()
            .filter(|link| self.live(*link).is_ok())
            .collect();
        if self.end(session, Some(error.clone())).is_ok() {
            self.events.push_back(Event::Ended {
                session,
                links,
                by: Side::Us,
                error: Some(error),
            });
        }
    }

    pub(super) fn handle_end(&mut self, channel: u16, error: Option<Error>) {
        let Some(session) = self.session(channel) else {
            return;
        };
        let (id, ending, links) = (session.id, session.ending, session.links());
        let remote = session.remote_channel;
        if !ending {
            let links = links
                .into_iter()
                .filter(|link| self.live(*link).is_ok())
                .collect();
            self.clear_session(channel);
            self.put(channel, &Performative::End(End { error: None }));
            self.events.push_back(Event::Ended {
                session: id,
                links,
                by: Side::Peer,
                error,
            });
        }
        if let Some(entry) = self.sessions.get_mut(usize::from(channel)) {
            *entry = None;
        }
        if let Some(entry) = remote.and_then(|remote| self.channels.get_mut(usize::from(remote))) {
            *entry = None;
        }
    }

    /// Removes all that a session holds; its channels stay taken.
    fn clear_session(&mut self, channel: u16) {
        let Some(session) = self.session_mut(channel) else {
            return;
        };
        session.ending = true;
        session.unsettled = BTreeMap::new();
        session.waiting = VecDeque::new();
        session.by_remote_handle = Vec::new();
        for link in std::mem::take(&mut session.by_handle).into_iter().flatten() {
            self.drop_link(link);
        }
    }

    pub(super) fn check_session(&self, id: SessionId) -> Result<&Session, CommandError> {
        self.session(id.channel)
            .filter(|session| session.id == id && !session.ending)
            .ok_or(CommandError::Gone)
    }

    /// Sends the windows of a session.
    pub(super) fn put_session_flow(&mut self, channel: u16) {
        if let Some(flow) = self.session(channel).map(Session::flow) {
            self.put(channel, &Performative::Flow(flow));
        }
    }

    pub(super) fn handle_flow(&mut self, channel: u16, flow: &Flow) {
        let Some(session) = self.session_mut(channel) else {
            return;
        };
        // Before the peer has seen our begin it counts from its first id, 0.
        let under_way = ahead(flow.next_incoming_id.unwrap_or(0), session.next_outgoing_id);
        session.remote_window = flow.incoming_window.saturating_sub(under_way);
        let link = match flow.handle {
            None => None,
            Some(handle) => session.by_remote_handle.get(handle as usize).copied().flatten(),
        };
        self.pump_session(channel);
        match (flow.handle, link) {
            (None, _) => {
                if flow.echo {
                    self.put_session_flow(channel);
                }
            }
            // Credit for a link that is gone, sent before the peer knew.
            (Some(_), None) => {}
            (Some(_), Some(link)) => match self.live(link).map(|link| link.role) {
                Ok(Role::Sender) => self.handle_sender_flow(link, flow),
                Ok(Role::Receiver) => self.handle_receiver_flow(link, flow),
                Err(_) => {}
            },
        }
    }
}
