//! Links: `attach`, `detach`, and credit.

use std::collections::VecDeque;
use std::sync::Arc;

use bytestring::ByteString;

use super::handshake::Phase;
use super::receive::Partial;
use super::send::Queued;
use super::{AttachReply, CommandError, Engine, Event, Fault, LinkId, SessionId, Side, ahead};
use crate::performative::{Attach, Detach, Error, Flow, Performative, Role, SenderSettleMode, condition};

/// Our end of a link.
#[derive(Debug)]
pub(super) struct Link {
    /// Our channel of its session.
    pub(super) channel: u16,
    pub(super) handle: u32,
    remote_handle: Option<u32>,
    pub(super) role: Role,
    state: State,
    /// Whether the sender settles all it sends.
    pub(super) sends_settled: bool,
    /// Greatest message, in bytes; 0 for any.
    pub(super) max_message_size: u64,
    /// The sender's count of deliveries.
    pub(super) delivery_count: u32,
    /// Deliveries that the receiver accepts beyond that count.
    pub(super) credit: u32,
    /// A sender: whether the peer wants its credit used up.
    pub(super) drain: bool,
    /// A receiver: what has come of a delivery in several frames.
    pub(super) partial: Option<Box<Partial>>,
    /// A receiver: deliveries to be settled, in the order of their arrival.
    pub(super) to_settle: VecDeque<u32>,
    /// A sender: deliveries that wait.
    pub(super) queue: VecDeque<Queued>,
    /// A sender: whether it is in its session's list of those that wait.
    pub(super) waiting: bool,
    /// A sender: deliveries that the peer has not settled.
    pub(super) unsettled: usize,
}

#[derive(Debug)]
enum State {
    /// The peer has attached and waits for our answer.
    Offered(Arc<Attach>),
    /// We have attached under this name and wait for the peer's answer.
    Requested(ByteString),
    /// Both have attached.
    Attached,
    /// We have detached and wait for the peer's answer; the name is there if
    /// it has not even attached.
    Detaching(Option<ByteString>),
}

impl Link {
    pub(super) fn is_detaching(&self) -> bool {
        matches!(self.state, State::Detaching(_))
    }

    pub(super) fn is_attached(&self) -> bool {
        matches!(self.state, State::Attached)
    }

    /// Whether it is ours and the peer's `attach` of this name answers it.
    fn awaits(&self, name: &str) -> bool {
        match &self.state {
            State::Requested(own) | State::Detaching(Some(own)) => own == name,
            _ => false,
        }
    }

    /// Credit beyond the deliveries that wait.
    pub(super) fn free_credit(&self) -> u32 {
        // A delivery of which a part is sent has used its credit already.
        let wait = self.queue.iter().filter(|queued| !queued.is_started()).count();
        self.credit
            .saturating_sub(u32::try_from(wait).unwrap_or(u32::MAX))
    }
}

impl Engine {
    pub(super) fn handle_attach(&mut self, channel: u16, attach: Attach) -> Result<(), Fault> {
        let limits = &self.config.limits;
        if attach.handle >= limits.links_per_session {
            return Err(Fault::Connection(Error::new(
                condition::FRAMING_ERROR,
                "a handle beyond handle-max",
            )));
        }
        let Some(session) = self.session(channel) else {
            return Ok(());
        };
        let id = session.id;
        if session
            .by_remote_handle
            .get(attach.handle as usize)
            .copied()
            .flatten()
            .is_some()
        {
            return Err(Fault::Session(
                channel,
                Error::new(
                    condition::HANDLE_IN_USE,
                    "an attach with a handle that has a link",
                ),
            ));
        }
        let answered = session.by_handle.iter().flatten().copied().find(|id| {
            self.links
                .get(*id)
                .is_some_and(|link| link.role != attach.role && link.awaits(&attach.name))
        });
        let remote_handle = attach.handle;
        let link = match answered {
            Some(link) => {
                self.complete_request(link, attach);
                link
            }
            None => {
                let attach = Arc::new(attach);
                let link = self.add_link(id, &attach, None).ok_or_else(|| {
                    Fault::Session(
                        channel,
                        Error::new(condition::RESOURCE_LIMIT_EXCEEDED, "too many links"),
                    )
                })?;
                self.events.push_back(Event::Attach {
                    link,
                    session: id,
                    attach,
                });
                link
            }
        };
        if let Some(session) = self.session_mut(channel) {
            let index = remote_handle as usize;
            if session.by_remote_handle.len() <= index {
                session.by_remote_handle.resize(index + 1, None);
            }
            session.by_remote_handle[index] = Some(link);
        }
        Ok(())
    }

    /// Takes the peer's answer to our attach.
    fn complete_request(&mut self, id: LinkId, attach: Attach) {
        let Some(link) = self.links.get_mut(id) else {
            return;
        };
        link.remote_handle = Some(attach.handle);
        match link.role {
            Role::Sender => link.max_message_size = attach.max_message_size.unwrap_or(0),
            Role::Receiver => link.delivery_count = attach.initial_delivery_count.unwrap_or(0),
        }
        if link.is_detaching() {
            link.state = State::Detaching(None);
        } else {
            link.state = State::Attached;
            self.events.push_back(Event::Attached {
                link: id,
                attach: Arc::new(attach),
            });
        }
    }

    /// A new link of a session: the peer's if `own` is `None`, else ours under
    /// that name. Takes the peer's handle if ours of that number is free.
    fn add_link(
        &mut self,
        session: SessionId,
        attach: &Arc<Attach>,
        own: Option<ByteString>,
    ) -> Option<LinkId> {
        let limits = &self.config.limits;
        let entry = self.check_session(session).ok()?;
        let limit = limits
            .links_per_session
            .min(entry.remote_handle_max.saturating_add(1));
        let free = |handle: &u32| entry.by_handle.get(*handle as usize).is_none_or(Option::is_none);
        let handle = Some(attach.handle)
            .filter(|handle| own.is_none() && *handle < limit)
            .filter(free)
            .or_else(|| (0..limit).find(free))?;
        let role = if own.is_none() {
            attach.role.other()
        } else {
            attach.role
        };
        let max_message_size = match role {
            Role::Sender if own.is_none() => attach.max_message_size.unwrap_or(0),
            Role::Sender => 0,
            Role::Receiver => limits.max_message_size,
        };
        let (remote_handle, delivery_count) = match (own.is_none(), role) {
            (true, Role::Receiver) => (Some(attach.handle), attach.initial_delivery_count.unwrap_or(0)),
            (true, Role::Sender) => (Some(attach.handle), self.config.first_number),
            (false, _) => (None, self.config.first_number),
        };
        let link = Link {
            channel: session.channel,
            handle,
            remote_handle,
            role,
            state: own.map_or_else(|| State::Offered(Arc::clone(attach)), State::Requested),
            sends_settled: attach.snd_settle_mode == SenderSettleMode::Settled,
            max_message_size,
            delivery_count,
            credit: 0,
            drain: false,
            partial: None,
            to_settle: VecDeque::new(),
            queue: VecDeque::new(),
            waiting: false,
            unsettled: 0,
        };
        let id = self.links.insert(link, limits.links)?;
        let entry = self.session_mut(session.channel)?;
        let index = handle as usize;
        if entry.by_handle.len() <= index {
            entry.by_handle.resize(index + 1, None);
        }
        entry.by_handle[index] = Some(id);
        Some(id)
    }

    /// Attaches a link, whose handle and initial delivery count the engine
    /// sets. [`Event::Attached`] comes with the peer's answer.
    ///
    /// # Errors
    /// When the session is gone, or there are as many links as either end allows.
    pub fn attach(&mut self, session: SessionId, mut attach: Attach) -> Result<LinkId, CommandError> {
        self.check_session(session)?;
        // The name lives as long as the request: it must not hold a read.
        let name = ByteString::from(attach.name.to_string());
        attach.initial_delivery_count = (attach.role == Role::Sender).then_some(self.config.first_number);
        if attach.role == Role::Receiver && attach.max_message_size.is_none() {
            attach.max_message_size = Some(self.config.limits.max_message_size);
        }
        let mut shared = Arc::new(attach);
        let id = self
            .add_link(session, &shared, Some(name))
            .ok_or(CommandError::Limit)?;
        let (Some(link), Some(attach)) = (self.links.get_mut(id), Arc::get_mut(&mut shared)) else {
            return Err(CommandError::Gone);
        };
        attach.handle = link.handle;
        if let (Role::Receiver, Some(size)) = (link.role, attach.max_message_size) {
            link.max_message_size = size;
        }
        let frame = Performative::Attach(Box::new(Arc::unwrap_or_clone(shared)));
        self.put(session.channel, &frame);
        Ok(id)
    }

    /// Answers an attach. A link without credit so far; see
    /// [`grant`](Self::grant).
    ///
    /// # Errors
    /// When the link is gone, or does not wait for an answer.
    pub fn accept_attach(&mut self, link: LinkId, reply: AttachReply) -> Result<(), CommandError> {
        self.answer_attach(link, reply)?;
        if let Some(state) = self.links.get(link)
            && state.role == Role::Sender
            && (state.credit > 0 || state.drain)
        {
            // The peer gave credit before it had our answer.
            let credit = state.free_credit();
            let drain = state.drain;
            self.events.push_back(Event::Credit { link, credit, drain });
        }
        Ok(())
    }

    fn answer_attach(&mut self, id: LinkId, reply: AttachReply) -> Result<(), CommandError> {
        let default_size = self.config.limits.max_message_size;
        self.live(id)?;
        let link = self.links.get_mut(id).ok_or(CommandError::Gone)?;
        let State::Offered(offer) = &link.state else {
            return Err(CommandError::State);
        };
        let offer = Arc::clone(offer);
        link.state = State::Attached;
        let max_message_size = reply.max_message_size.unwrap_or(default_size);
        if link.role == Role::Receiver {
            link.max_message_size = max_message_size;
        }
        let attach = Attach {
            name: offer.name.clone(),
            handle: link.handle,
            role: link.role,
            snd_settle_mode: offer.snd_settle_mode,
            rcv_settle_mode: offer.rcv_settle_mode,
            // Clients hang unless both are there.
            source: Some(reply.source.or_else(|| offer.source.clone()).unwrap_or_default()),
            target: Some(reply.target.or_else(|| offer.target.clone()).unwrap_or_default()),
            unsettled: crate::Value::Null,
            incomplete_unsettled: false,
            initial_delivery_count: (link.role == Role::Sender).then_some(link.delivery_count),
            max_message_size: Some(max_message_size),
            offered_capabilities: reply.offered_capabilities,
            desired_capabilities: crate::Value::Null,
            properties: reply.properties,
        };
        let channel = link.channel;
        self.put(channel, &Performative::Attach(Box::new(attach)));
        Ok(())
    }

    /// Refuses an attach: answers it and detaches for good, which is how
    /// clients learn the reason.
    ///
    /// # Errors
    /// When the link is gone, or does not wait for an answer.
    pub fn refuse_attach(&mut self, link: LinkId, error: Error) -> Result<(), CommandError> {
        self.answer_attach(link, AttachReply::default())?;
        self.detach(link, true, Some(error))
    }

    /// Detaches a link, for good if `closed`. It is gone for the caller at
    /// once, with all that waits on it, and nothing more is reported of it.
    /// An attach that waits for an answer gets one first.
    ///
    /// # Errors
    /// When the link is gone.
    pub fn detach(&mut self, id: LinkId, closed: bool, error: Option<Error>) -> Result<(), CommandError> {
        self.live(id)?;
        if matches!(self.live(id)?.state, State::Offered(_)) {
            self.answer_attach(id, AttachReply::default())?;
        }
        self.release(id);
        let link = self.links.get_mut(id).ok_or(CommandError::Gone)?;
        link.state = match std::mem::replace(&mut link.state, State::Attached) {
            State::Requested(name) => State::Detaching(Some(name)),
            _ => State::Detaching(None),
        };
        let (channel, handle) = (link.channel, link.handle);
        self.put(
            channel,
            &Performative::Detach(Detach {
                handle,
                closed,
                error,
            }),
        );
        Ok(())
    }

    pub(super) fn handle_detach(&mut self, channel: u16, detach: Detach) {
        let Some(session) = self.session(channel) else {
            return;
        };
        let index = detach.handle as usize;
        let Some(id) = session.by_remote_handle.get(index).copied().flatten() else {
            return;
        };
        if self.live(id).is_ok() {
            // Answers an attach that waits, and detaches in turn.
            let answered = self.detach(id, detach.closed, None);
            debug_assert!(answered.is_ok(), "a live link can be detached");
            self.events.push_back(Event::Detached {
                link: id,
                by: Side::Peer,
                closed: detach.closed,
                error: detach.error,
            });
        }
        let handle = self.links.get(id).map(|link| link.handle);
        self.drop_link(id);
        if let Some(session) = self.session_mut(channel) {
            if let Some(entry) = session.by_remote_handle.get_mut(index) {
                *entry = None;
            }
            if let Some(entry) = handle.and_then(|handle| session.by_handle.get_mut(handle as usize)) {
                *entry = None;
            }
        }
    }

    /// Drops what waits on a link and what it has not settled.
    fn release(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(id) else {
            return;
        };
        let channel = link.channel;
        let queued: usize = link.queue.iter().map(Queued::waiting_bytes).sum();
        let partial = link.partial.take().map_or(0, |partial| partial.len());
        link.queue = VecDeque::new();
        link.to_settle = VecDeque::new();
        link.credit = 0;
        link.drain = false;
        self.queued_bytes -= queued;
        self.partial_bytes -= partial;
        let unsettled = std::mem::take(&mut link.unsettled);
        let waiting = std::mem::take(&mut link.waiting);
        let Some(session) = self.session_mut(channel) else {
            return;
        };
        if unsettled > 0 {
            session.unsettled.retain(|_, entry| entry.link != id);
        }
        if waiting {
            session.waiting.retain(|entry| *entry != id);
        }
    }

    /// Forgets a link; its handles are the session's business.
    pub(super) fn drop_link(&mut self, id: LinkId) {
        self.release(id);
        self.links.remove(id);
    }

    /// Lets the sender of a link send `credit` more deliveries from now on;
    /// what was left before is replaced. Returns the credit given, which is
    /// less if too many deliveries are unsettled.
    ///
    /// # Errors
    /// When the link is gone, not attached, or ours to send.
    pub fn grant(&mut self, id: LinkId, credit: u32) -> Result<u32, CommandError> {
        self.grant_with(id, credit, false)
    }

    /// Asks the sender of a link to send what it has, at most `credit`
    /// deliveries, and to give up the rest: [`Event::Credit`] tells when.
    ///
    /// # Errors
    /// As for [`grant`](Self::grant).
    pub fn drain(&mut self, id: LinkId, credit: u32) -> Result<u32, CommandError> {
        self.grant_with(id, credit, true)
    }

    fn grant_with(&mut self, id: LinkId, credit: u32, drain: bool) -> Result<u32, CommandError> {
        if !matches!(self.phase, Phase::Open) {
            return Err(CommandError::Gone);
        }
        let limit = self.config.limits.unsettled;
        self.live(id)?;
        let link = self.links.get_mut(id).ok_or(CommandError::Gone)?;
        if link.role != Role::Receiver {
            return Err(CommandError::Role);
        }
        if !link.is_attached() {
            return Err(CommandError::State);
        }
        let room = limit.saturating_sub(link.to_settle.len());
        link.credit = credit.min(u32::try_from(room).unwrap_or(u32::MAX));
        let credit = link.credit;
        self.put_link_flow(id, drain);
        Ok(credit)
    }

    /// Credit left on a link: what the peer may still send, or what we may
    /// still send beyond what waits.
    ///
    /// # Errors
    /// When the link is gone.
    pub fn credit(&self, id: LinkId) -> Result<u32, CommandError> {
        let link = self.live(id)?;
        Ok(match link.role {
            Role::Sender => link.free_credit(),
            Role::Receiver => link.credit,
        })
    }

    /// Sends the windows of a link's session, and its credit.
    pub(super) fn put_link_flow(&mut self, id: LinkId, drain: bool) {
        let Some(link) = self.links.get(id) else { return };
        let Some(session) = self.session(link.channel) else {
            return;
        };
        let waiting = match link.role {
            Role::Sender => u32::try_from(link.queue.len()).unwrap_or(u32::MAX),
            Role::Receiver => 0,
        };
        let flow = Flow {
            handle: Some(link.handle),
            delivery_count: Some(link.delivery_count),
            link_credit: Some(link.credit),
            available: Some(waiting),
            drain,
            ..session.flow()
        };
        let channel = link.channel;
        self.put(channel, &Performative::Flow(flow));
    }

    /// The peer, which sends, reports: it may have given up credit.
    pub(super) fn handle_receiver_flow(&mut self, id: LinkId, flow: &Flow) {
        let Some(link) = self.links.get_mut(id) else {
            return;
        };
        let given_up = match flow.delivery_count {
            Some(count) => ahead(link.delivery_count, count).min(link.credit),
            None => 0,
        };
        link.delivery_count = link.delivery_count.wrapping_add(given_up);
        link.credit -= given_up;
        let credit = link.credit;
        if flow.echo {
            self.put_link_flow(id, false);
        }
        if given_up > 0 || flow.drain {
            self.events.push_back(Event::Credit {
                link: id,
                credit,
                drain: flow.drain,
            });
        }
    }

    /// The peer, which receives, gives credit.
    pub(super) fn handle_sender_flow(&mut self, id: LinkId, flow: &Flow) {
        let Some(link) = self.links.get_mut(id) else {
            return;
        };
        if let Some(credit) = flow.link_credit {
            // Deliveries that the peer had not seen when it wrote this.
            let under_way = ahead(flow.delivery_count.unwrap_or(0), link.delivery_count);
            link.credit = credit.saturating_sub(under_way);
        }
        let first_drain = flow.drain && !link.drain;
        link.drain = flow.drain;
        if first_drain {
            self.draining.push(id);
        }
        self.pump(id);
        if flow.echo {
            self.put_link_flow(id, false);
        }
        if let Some(link) = self.links.get(id).filter(|link| link.is_attached()) {
            self.events.push_back(Event::Credit {
                link: id,
                credit: link.free_credit(),
                drain: link.drain,
            });
        }
    }

    /// Gives up the credit of links that the peer drains, once nothing waits.
    pub(super) fn finish_drains(&mut self) {
        if self.draining.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.draining) {
            let Some(link) = self.links.get_mut(id).filter(|link| link.drain) else {
                continue;
            };
            if !link.is_attached() || !link.queue.is_empty() && link.credit > 0 {
                self.draining.push(id);
                continue;
            }
            link.delivery_count = link.delivery_count.wrapping_add(link.credit);
            link.credit = 0;
            link.drain = false;
            self.put_link_flow(id, true);
        }
    }
}
