//! Deliveries that leave.

use bytes::{Buf as _, Bytes};

use super::session::Unsettled;
use super::{CommandError, Engine, Event, LinkId, Outgoing, SentId};
use crate::frame;
use crate::performative::{Disposition, Performative, Role, Transfer};

/// Greatest length of a delivery tag (part 2.8.7), in bytes.
const MAX_TAG_BYTES: usize = 32;

/// What the frame of a transfer takes beside its payload, at most, in bytes:
/// header, list, numbers of full width and the longest tag.
const MAX_TRANSFER_BYTES: usize = 96;

/// What became of an attempt to send a frame of a link.
enum Pumped {
    Sent,
    /// Nothing waits, or what waits has no credit.
    Idle,
    /// Window or output are full; the link is in the session's list.
    Blocked,
}

/// A delivery that waits for credit, window or output.
#[derive(Debug)]
pub(super) struct Queued {
    sent: SentId,
    tag: Bytes,
    format: u32,
    settled: bool,
    /// What is left of it.
    payload: Bytes,
    /// Its delivery id, once a part of it is sent.
    delivery: Option<u32>,
}

impl Queued {
    pub(super) fn waiting_bytes(&self) -> usize {
        self.payload.len()
    }

    pub(super) fn is_started(&self) -> bool {
        self.delivery.is_some()
    }
}

impl Engine {
    /// Sends a delivery, or lets it wait for credit and window behind those
    /// that wait. [`Event::Outcome`] tells what becomes of one that is not
    /// settled.
    ///
    /// # Errors
    /// When the link is gone, not attached, or the peer's to send; when the
    /// queue is full, or the message larger than the peer accepts.
    pub fn send(&mut self, id: LinkId, message: Outgoing) -> Result<SentId, CommandError> {
        let limits = &self.config.limits;
        let link = self.live(id)?;
        if link.role != Role::Sender {
            return Err(CommandError::Role);
        }
        if !link.is_attached() {
            return Err(CommandError::State);
        }
        let size = message.payload.len();
        let too_large = link.max_message_size > 0 && size as u64 > link.max_message_size;
        if too_large || message.tag.as_ref().is_some_and(|tag| tag.len() > MAX_TAG_BYTES) {
            return Err(CommandError::TooLarge);
        }
        if link.queue.len() >= limits.queued_deliveries || self.queued_bytes + size > limits.queued_bytes {
            return Err(CommandError::QueueFull);
        }
        let settled = message.settled || link.sends_settled;
        let sent = SentId(self.sent);
        self.sent += 1;
        let tag = message
            .tag
            .unwrap_or_else(|| Bytes::copy_from_slice(&(sent.0 as u32).to_be_bytes()));
        let link = self.links.get_mut(id).ok_or(CommandError::Gone)?;
        link.queue.push_back(Queued {
            sent,
            tag,
            format: message.format,
            settled,
            payload: message.payload,
            delivery: None,
        });
        self.queued_bytes += size;
        self.pump(id);
        Ok(sent)
    }

    /// Deliveries of a link that wait for credit, window or output.
    ///
    /// # Errors
    /// When the link is gone.
    pub fn queued(&self, id: LinkId) -> Result<usize, CommandError> {
        Ok(self.live(id)?.queue.len())
    }

    /// Turns what waits on a link into frames, as far as credit, window and
    /// output allow.
    pub(super) fn pump(&mut self, id: LinkId) {
        while let Pumped::Sent = self.pump_frame(id) {}
    }

    /// Turns what waits on a link into one frame.
    fn pump_frame(&mut self, id: LinkId) -> Pumped {
        let limits = &self.config.limits;
        let Some(link) = self.links.get_mut(id) else {
            return Pumped::Idle;
        };
        let Some(session) = self
            .sessions
            .get_mut(usize::from(link.channel))
            .and_then(Option::as_deref_mut)
        else {
            return Pumped::Idle;
        };
        let Some(queued) = link.queue.front_mut() else {
            return Pumped::Idle;
        };
        let blocked = link.credit == 0 || !queued.settled && link.unsettled >= limits.unsettled;
        if queued.delivery.is_none() && blocked {
            return Pumped::Idle;
        }
        let full = self.output.len() >= limits.output_bytes;
        if full || session.remote_window == 0 {
            self.stalled |= full;
            if !link.waiting {
                link.waiting = true;
                session.waiting.push_back(id);
            }
            return Pumped::Blocked;
        }
        let delivery = match queued.delivery {
            Some(delivery) => delivery,
            None => {
                let whole = session.next_delivery_id;
                session.next_delivery_id += 1;
                link.credit -= 1;
                link.delivery_count = link.delivery_count.wrapping_add(1);
                if !queued.settled {
                    link.unsettled += 1;
                    session.unsettled.insert(
                        whole,
                        Unsettled {
                            link: id,
                            sent: queued.sent,
                            tag: queued.tag.clone(),
                        },
                    );
                }
                // The lower half is what the wire has.
                *queued.delivery.insert(whole as u32)
            }
        };
        let mut transfer = Transfer {
            handle: link.handle,
            delivery_id: Some(delivery),
            delivery_tag: Some(queued.tag.clone()),
            message_format: Some(queued.format),
            settled: Some(queued.settled),
            ..Transfer::default()
        };
        let limit = self.peer.max_frame_size as usize;
        let mut part = queued.payload.len();
        if part + MAX_TRANSFER_BYTES > limit {
            let start = self.output.len();
            frame::put_transfer_frame(link.channel, &transfer, &[], &mut self.output);
            part = part.min(limit.saturating_sub(self.output.len() - start));
            self.output.truncate(start);
        }
        transfer.more = part < queued.payload.len();
        frame::put_transfer_frame(link.channel, &transfer, &queued.payload[..part], &mut self.output);
        queued.payload.advance(part);
        self.idle.wrote = true;
        self.queued_bytes -= part;
        session.next_outgoing_id = session.next_outgoing_id.wrapping_add(1);
        session.remote_window -= 1;
        if !transfer.more {
            link.queue.pop_front();
            if link.queue.is_empty() {
                // Most links wait rarely; none keeps the room of its worst time.
                link.queue.shrink_to(4);
            }
        }
        Pumped::Sent
    }

    /// Lets the links of a session that wait take turns, a frame each, until
    /// window or output are full.
    pub(super) fn pump_session(&mut self, channel: u16) {
        loop {
            let next = self
                .session_mut(channel)
                .and_then(|session| session.waiting.pop_front());
            let Some(id) = next else { return };
            let Some(link) = self.links.get_mut(id) else {
                continue;
            };
            link.waiting = false;
            match self.pump_frame(id) {
                Pumped::Blocked => return,
                Pumped::Idle => {}
                Pumped::Sent => {
                    let Some(link) = self.links.get_mut(id) else {
                        continue;
                    };
                    if link.queue.is_empty() {
                        // Whoever held back because deliveries waited may go on.
                        let (credit, drain) = (link.free_credit(), link.drain);
                        self.events.push_back(Event::Credit {
                            link: id,
                            credit,
                            drain,
                        });
                    } else {
                        link.waiting = true;
                        if let Some(session) = self.session_mut(channel) {
                            session.waiting.push_back(id);
                        }
                    }
                }
            }
        }
    }

    pub(super) fn pump_all(&mut self) {
        for channel in 0..self.sessions.len() {
            self.pump_session(channel as u16);
        }
    }

    pub(super) fn handle_disposition(&mut self, channel: u16, disposition: &Disposition) {
        let first = disposition.first;
        let last = disposition.last.unwrap_or(first);
        match disposition.role {
            Role::Sender if disposition.settled => self.forget_received(channel, first, last),
            Role::Sender => {}
            Role::Receiver => self.handle_outcomes(channel, first, last, disposition),
        }
    }

    /// The peer tells what became of our deliveries.
    fn handle_outcomes(&mut self, channel: u16, first: u32, last: u32, disposition: &Disposition) {
        let is_outcome = disposition.state.as_ref().is_some_and(|state| state.is_outcome());
        if !disposition.settled && !is_outcome {
            return;
        }
        let Some(session) = self.session_mut(channel) else {
            return;
        };
        let (first, last) = (session.whole_id(first), session.whole_id(last));
        if last < first {
            return;
        }
        // The range is the peer's, what it selects is ours and bounded.
        let ids: Vec<u64> = session.unsettled.range(first..=last).map(|(id, _)| *id).collect();
        let (Some(&lowest), Some(&highest)) = (ids.first(), ids.last()) else {
            return;
        };
        let mut links = Vec::new();
        for id in ids {
            let Some(entry) = self
                .session_mut(channel)
                .and_then(|session| session.unsettled.remove(&id))
            else {
                continue;
            };
            if let Some(link) = self.links.get_mut(entry.link) {
                link.unsettled -= 1;
                if !link.queue.is_empty() && !links.contains(&entry.link) {
                    links.push(entry.link);
                }
            }
            self.events.push_back(Event::Outcome {
                link: entry.link,
                delivery: entry.sent,
                tag: entry.tag,
                state: disposition.state.clone(),
            });
        }
        if !disposition.settled {
            // The receiver waits for the sender to settle first.
            let answer = Disposition {
                role: Role::Sender,
                first: lowest as u32,
                last: Some(highest as u32),
                settled: true,
                state: disposition.state.clone(),
                batchable: false,
            };
            self.put(channel, &Performative::Disposition(answer));
        }
        for link in links {
            self.pump(link);
        }
    }
}
