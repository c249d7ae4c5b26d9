//! `/messages/servicebound/feedback` and `…/filenotifications`: what the hub
//! has to tell its back ends.
//!
//! Several links compete for what there is. What a link is sent it holds until
//! it settles it or the hold is over; what it has not settled when it goes
//! waits again for the next one.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use amqp_wire::engine::{Engine, Event, LinkId, Outgoing, SentId};
use amqp_wire::message::{Message, Properties};
use amqp_wire::performative::{Attach, DeliveryState, Error, SenderSettleMode};
use amqp_wire::{Value, message::STANDARD_FORMAT};
use bytes::Bytes;
use hub_core::c2d::LockToken;
use hub_core::limits;
use hub_core::time::Timestamp;

use super::{Ctx, has_room};
use crate::amqp::{condition, properties};
use crate::hub::HubState;

/// Media types of the bodies; the first from the guide on cloud-to-device
/// messages, the second from that on file uploads.
const FEEDBACK: &str = "application/vnd.microsoft.iothub.feedback.json";
const FILES: &str = "application/vnd.microsoft.iothub.filenotification.json";

/// What a link is sent and has not settled, at most; the emulator's own. Clients
/// give far more credit than they can look after within a hold.
const HELD: usize = 64;

/// Which of the hub's queues a link reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Feedback,
    Files,
}

/// Something to tell, and the hold on it.
struct Notice {
    token: LockToken,
    enqueued: Timestamp,
    /// JSON.
    body: Vec<u8>,
}

/// Waits for the next notice.
type NextNotice = Pin<Box<dyn Future<Output = Result<Notice, Error>> + Send>>;

/// A link that reads one of the queues.
pub(crate) struct Notices {
    hub: Arc<HubState>,
    kind: Kind,
    /// Whether the client wants what it is sent to be settled at once.
    settled: bool,
    /// The next notice, while the link has room for one.
    next: Option<NextNotice>,
    held: BTreeMap<SentId, Hold>,
    /// Waits for the first hold to end, while there is no room for more.
    hold_ends: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// What the client has been sent and has not settled.
#[derive(Clone, Copy)]
struct Hold {
    token: LockToken,
    until: Timestamp,
}

impl Kind {
    /// The next notice, as soon as there is one. None is held when the caller
    /// stops waiting.
    async fn next(self, hub: Arc<HubState>) -> Result<Notice, Error> {
        let (token, enqueued, body) = match self {
            Self::Feedback => {
                let batch = hub.next_feedback().await;
                (batch.token, batch.enqueued, serde_json::to_vec(&*batch.records))
            }
            Self::Files => {
                let (token, notification) = hub.next_file_notification().await;
                let body = serde_json::to_vec(&notification);
                (token, notification.enqueued_time_utc, body)
            }
        };
        match body {
            Ok(body) => Ok(Notice {
                token,
                enqueued,
                body,
            }),
            Err(error) => Err(condition::of(&crate::hub::internal(error))),
        }
    }

    /// Ends a hold. One that is over is no mistake of the client: the notice is
    /// delivered again.
    fn settle(self, hub: &HubState, token: LockToken, state: Option<&DeliveryState>) {
        let is_done = matches!(
            state,
            Some(DeliveryState::Accepted | DeliveryState::Rejected { .. })
        );
        let _ = match (self, is_done) {
            (Self::Feedback, true) => hub.complete_feedback(token),
            (Self::Feedback, false) => hub.abandon_feedback(token),
            (Self::Files, true) => hub.complete_file_notification(token),
            (Self::Files, false) => hub.abandon_file_notification(token),
        };
    }
}

impl Notices {
    pub(super) fn new(hub: &Arc<HubState>, kind: Kind, attach: &Attach) -> Box<Self> {
        Box::new(Self {
            hub: hub.clone(),
            kind,
            settled: attach.snd_settle_mode == SenderSettleMode::Settled,
            next: None,
            held: BTreeMap::new(),
            hold_ends: None,
        })
    }

    pub(super) fn on_event(&mut self, event: &Event) {
        if let Event::Outcome { delivery, state, .. } = event
            && let Some(hold) = self.held.remove(delivery)
        {
            self.kind.settle(&self.hub, hold.token, state.as_ref());
        }
    }

    pub(super) fn pump(&mut self, link: LinkId, engine: &mut Engine, ctx: &mut Ctx<'_>) -> Result<(), Error> {
        let waker = ctx.waker(link);
        let mut context = Context::from_waker(&waker);
        loop {
            let has_credit = engine.credit(link).is_ok_and(|credit| credit > 0);
            if !has_credit || !self.has_place(&mut context) {
                // Others may have what this one has no use for.
                self.next = None;
                return Ok(());
            }
            if !has_room(engine) {
                ctx.wake(link);
                return Ok(());
            }
            let (kind, hub) = (self.kind, &self.hub);
            let next = self.next.get_or_insert_with(|| Box::pin(kind.next(hub.clone())));
            let Poll::Ready(notice) = next.as_mut().poll(&mut context) else {
                return Ok(());
            };
            self.next = None;
            self.send(link, notice?, engine);
        }
    }

    /// Whether the link may be sent more than it holds; otherwise the context is
    /// woken when a hold is over, of which nobody will be told.
    fn has_place(&mut self, context: &mut Context<'_>) -> bool {
        if self.held.len() >= HELD {
            let now = self.hub.clock.now();
            self.held.retain(|_, hold| hold.until > now);
        }
        if self.held.len() < HELD {
            self.hold_ends = None;
            return true;
        }
        let (clock, first) = (&self.hub.clock, self.held.values().map(|hold| hold.until).min());
        let ends = self.hold_ends.get_or_insert_with(|| {
            let (clock, first) = (clock.clone(), first.unwrap_or(Timestamp::NEVER));
            Box::pin(async move { clock.sleep_until(first).await })
        });
        if ends.as_mut().poll(context).is_pending() {
            return false;
        }
        self.hold_ends = None;
        context.waker().wake_by_ref();
        false
    }

    fn send(&mut self, link: LinkId, notice: Notice, engine: &mut Engine) {
        let Notice {
            token,
            enqueued,
            body,
        } = notice;
        let content_type = match self.kind {
            Kind::Feedback => FEEDBACK,
            Kind::Files => FILES,
        };
        let symbol = |name: &'static str| Value::Symbol(name.into());
        let message = Message {
            message_annotations: vec![(
                symbol("iothub-enqueuedtime"),
                Value::Timestamp(properties::milliseconds(enqueued)),
            )],
            properties: Some(Box::new(Properties {
                message_id: Value::String(token.to_string().into()),
                // .NET reads it without looking whether it is there.
                user_id: Some(Bytes::copy_from_slice(self.hub.events.hub_name().as_bytes())),
                content_type: Some(content_type.into()),
                content_encoding: Some("utf-8".into()),
                ..Properties::default()
            })),
            ..Message::with_data(body)
        };
        let outgoing = Outgoing {
            tag: Some(Bytes::copy_from_slice(&token.to_bytes())),
            format: STANDARD_FORMAT,
            settled: self.settled,
            payload: message.to_bytes(),
        };
        match engine.send(link, outgoing) {
            Ok(_) if self.settled => self.kind.settle(&self.hub, token, Some(&DeliveryState::Accepted)),
            Ok(sent) => {
                let until = self.hub.clock.now().saturating_add(limits::C2D_LOCK);
                self.held.insert(sent, Hold { token, until });
            }
            Err(_) => self.kind.settle(&self.hub, token, None),
        }
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        for hold in std::mem::take(&mut self.held).into_values() {
            self.kind.settle(&self.hub, hold.token, None);
        }
    }
}
