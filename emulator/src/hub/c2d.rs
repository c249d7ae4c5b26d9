//! Cloud-to-device messages: the queues of [`hub_core::c2d`] in the devices'
//! cells, and the hub's one feedback queue.
//!
//! Whoever changes a queue does so through [`HubState::update_queue`], under
//! the device's lock: it hands waiting messages to the connected device, counts
//! and files what ended, and notes when the queue changes by itself next. For
//! that moment one task ([`keep_time`]) serves all devices.

use std::collections::BTreeSet;
use std::future::pending;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hub_core::c2d::{
    Delivery, Draft, Ended, FeedbackBatch, FeedbackQueue, FeedbackRecord, FeedbackSettings, Holder,
    LockToken, Message, Outcome, Queue, Settlement, lock_lost,
};
use hub_core::error::ServiceError;
use hub_core::ids::Target;
use hub_core::limits;
use hub_core::time::Timestamp;
use tokio::sync::Notify;
use uuid::Uuid;

use super::HubState;
use super::cell::{DeviceState, Endpoint};
use super::events::journal::Kind;
use super::outbox::ToDevice;
use super::showing::MessageStep;

/// Numbers of messages that one connection holds stay this close together, so
/// that a protocol can name them by 16 bits.
const IN_FLIGHT_SPAN: u64 = 65_535;

/// Due queues that are looked after before other tasks get a turn.
const DUE_AT_ONCE: usize = 256;

/// The messages of one device or module. It has none until the first is sent.
#[derive(Debug)]
pub(crate) struct Mailbox {
    queue: Queue,
    /// The first connection of the session that is being taken up again and
    /// again: what it or a later one held is delivered again, to the same client.
    session_since: u64,
    /// When [`keep_time`] will look after the queue.
    scheduled: Option<Timestamp>,
}

impl Default for Mailbox {
    fn default() -> Self {
        Self {
            queue: Queue::default(),
            session_since: 1,
            scheduled: None,
        }
    }
}

impl Mailbox {
    /// A connection starts; `resumed` when it takes up the session before it.
    pub(super) fn connected(&mut self, generation: u64, resumed: bool) {
        if !resumed {
            self.session_since = generation;
        }
    }

    /// A connection has ended: what it held waits again.
    pub(super) fn disconnected(&mut self, generation: u64) {
        self.queue.release(Holder(generation));
    }

    /// Hands waiting messages to the connected device as far as it may hold
    /// them; says how many.
    fn deliver(&mut self, endpoint: &mut Endpoint, steps: &mut Steps<'_>) -> usize {
        let Some(mut receiver) = endpoint.receiver() else {
            return 0;
        };
        let holder = Holder(receiver.generation);
        let most = match &receiver.credit {
            None => limits::C2D_IN_FLIGHT,
            // The device says itself how much it takes.
            Some(_) => limits::C2D_QUEUE_DEPTH,
        };
        let mut delivered = 0;
        while self.queue.has_waiting() && receiver.credit.as_deref() != Some(&0) {
            let (mut count, mut bytes, mut oldest, mut newest) = (0, 0, u64::MAX, 0);
            for (message, _) in self.queue.held_by(holder) {
                count += 1;
                bytes += message.size();
                oldest = oldest.min(message.sequence);
                newest = newest.max(message.sequence);
            }
            let room = |message: &Message| {
                count == 0
                    || count < most
                        && bytes + message.size() <= limits::C2D_IN_FLIGHT_BYTES
                        && newest.max(message.sequence) - oldest.min(message.sequence) < IN_FLIGHT_SPAN
            };
            let token = new_token();
            let taken = self.queue.take(holder, token, room, steps.now, &mut steps.ended);
            let Some(delivery) = taken else {
                break;
            };
            let held_before = delivery.held_before.map_or(0, |holder| holder.0);
            steps.show(&delivery.message, MessageStep::Delivered);
            receiver.outbox.push(ToDevice::Message {
                message: delivery.message,
                token: delivery.token,
                qos: receiver.qos,
                again: held_before >= self.session_since,
                delivery_count: delivery.delivery_count,
            });
            if let Some(credit) = receiver.credit.as_deref_mut() {
                *credit -= 1;
            }
            delivered += 1;
        }
        delivered
    }
}

/// What happens to the messages of a queue while it is changed, shown in its order.
struct Steps<'a> {
    hub: &'a HubState,
    target: &'a Target,
    now: Timestamp,
    /// Those that have ended.
    ended: Vec<Ended>,
    /// How many of them were shown.
    shown: usize,
}

impl Steps<'_> {
    fn show_ended(&mut self) {
        for ended in &self.ended[self.shown..] {
            let step = MessageStep::Ended(ended.outcome);
            self.hub.show_message(self.target, &ended.message, step, self.now);
        }
        self.shown = self.ended.len();
    }

    /// Shows a step, behind what has ended before.
    fn show(&mut self, message: &Message, step: MessageStep) {
        self.show_ended();
        self.hub.show_message(self.target, message, step, self.now);
    }
}

/// What the hub as a whole keeps about cloud-to-device messages.
pub(crate) struct CloudToDevice {
    feedback: Mutex<FeedbackQueue>,
    /// The call to those who wait for feedback.
    feedback_news: Notify,
    schedule: Schedule,
}

/// When which queue changes by itself: at most one entry for each.
#[derive(Default)]
struct Schedule {
    entries: Mutex<BTreeSet<(Timestamp, Target)>>,
    changed: Notify,
}

impl CloudToDevice {
    pub(crate) fn new(feedback: FeedbackSettings) -> Self {
        Self {
            feedback: Mutex::new(FeedbackQueue::new(feedback)),
            feedback_news: Notify::new(),
            schedule: Schedule::default(),
        }
    }

    pub(crate) fn clear(&self) {
        self.feedback().clear();
        self.schedule.lock().clear();
    }

    /// Drops what is known of the queues of a device that is being deleted.
    pub(super) fn forget_device(&self, state: &DeviceState) {
        let device = Target::device(state.identity.id.clone());
        let mut used = self.unschedule(&device, &state.endpoint);
        for (id, module) in &state.modules {
            used |= self.unschedule(&state.module(id), &module.endpoint);
        }
        if used {
            self.feedback().forget(&device);
        }
    }

    /// Drops what is known of the queue of a module that is being deleted.
    pub(super) fn forget_module(&self, target: &Target, endpoint: &Endpoint) {
        if self.unschedule(target, endpoint) {
            self.feedback().forget(target);
        }
    }

    /// Looks after a queue no more; says whether there was one.
    fn unschedule(&self, target: &Target, endpoint: &Endpoint) -> bool {
        if let Some(time) = endpoint.mailbox.as_ref().and_then(|mailbox| mailbox.scheduled) {
            self.schedule.lock().remove(&(time, target.clone()));
        }
        endpoint.mailbox.is_some()
    }

    fn feedback(&self) -> MutexGuard<'_, FeedbackQueue> {
        // A panic cannot leave the queue half changed.
        self.feedback.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Schedule {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<(Timestamp, Target)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the queue's next change, unless it is looked after before that.
    fn note(&self, mailbox: &mut Mailbox, target: &Target) {
        let Some(next) = mailbox.queue.next_change() else {
            return;
        };
        if mailbox.scheduled.is_some_and(|scheduled| scheduled <= next) {
            return;
        }
        let mut entries = self.lock();
        if let Some(later) = mailbox.scheduled.replace(next) {
            entries.remove(&(later, target.clone()));
        }
        entries.insert((next, target.clone()));
        if entries.first().is_some_and(|(first, _)| *first == next) {
            self.changed.notify_one();
        }
    }

    /// Takes out up to [`DUE_AT_ONCE`] queues that are due; also says when the
    /// next one will be.
    fn take_due(&self, now: Timestamp) -> (Vec<Target>, Option<Timestamp>) {
        let mut entries = self.lock();
        let mut due = Vec::new();
        while due.len() < DUE_AT_ONCE && entries.first().is_some_and(|(time, _)| *time <= now) {
            due.extend(entries.pop_first().map(|(_, target)| target));
        }
        (due, entries.first().map(|(time, _)| *time))
    }
}

impl HubState {
    /// Puts a message into the queue of a device or module, connected or not,
    /// enabled or not, and gives its sequence number.
    ///
    /// # Errors
    /// `DeviceNotFound`, `ModuleNotFound`, and what [`Queue::enqueue`] refuses.
    pub(crate) fn send_to_device(&self, target: &Target, draft: Draft) -> Result<u64, ServiceError> {
        let cell = self.registry.cell(&target.device)?;
        let mut state = cell.lock();
        let endpoint = state.endpoint(target.module.as_ref())?;
        let first = endpoint.mailbox.is_none();
        endpoint.mailbox.get_or_insert_default();
        let settings = &self.settings.c2d;
        let sent = self.update_queue(&mut state, target, |queue, steps| {
            let sequence = queue.enqueue(draft, target, settings, steps.now, &mut steps.ended)?;
            if let Some(message) = queue.newest() {
                steps.show(message, MessageStep::Queued);
            }
            Ok(sequence)
        })?;
        match sent {
            Some(Ok(sequence)) => {
                self.counters.c2d_sent.add(1);
                self.count(&mut state, Kind::C2d, 1);
                Ok(sequence)
            }
            Some(Err(error)) => {
                if first {
                    state.endpoint(target.module.as_ref())?.mailbox = None;
                }
                Err(error)
            }
            None => Err(super::internal("the queue is gone")),
        }
    }

    /// Hands out the oldest waiting message of a device or module; it has to
    /// be settled within a minute.
    ///
    /// # Errors
    /// `DeviceNotFound`, `ModuleNotFound`.
    pub(crate) fn take_message(&self, target: &Target) -> Result<Option<Delivery>, ServiceError> {
        let cell = self.registry.cell(&target.device)?;
        let mut state = cell.lock();
        state.endpoint(target.module.as_ref())?.connection.last_activity = self.clock.now();
        let delivery = self.update_queue(&mut state, target, |queue, steps| {
            let token = new_token();
            let delivery = queue.take(Holder::ANYONE, token, |_| true, steps.now, &mut steps.ended);
            if let Some(delivery) = &delivery {
                steps.show(&delivery.message, MessageStep::Delivered);
            }
            delivery
        })?;
        let delivery = delivery.flatten();
        self.counters.c2d_delivered.add(u64::from(delivery.is_some()));
        self.count(&mut state, Kind::C2d, usize::from(delivery.is_some()));
        Ok(delivery)
    }

    /// Settles a message that is held under `token`, whoever holds it.
    ///
    /// # Errors
    /// `DeviceNotFound`, `ModuleNotFound`, `DeviceMessageLockLost`.
    pub(crate) fn settle_message(
        &self,
        target: &Target,
        token: LockToken,
        settlement: Settlement,
    ) -> Result<(), ServiceError> {
        let cell = self.registry.cell(&target.device)?;
        let mut state = cell.lock();
        state.endpoint(target.module.as_ref())?.connection.last_activity = self.clock.now();
        self.settle_in(&mut state, target, token, settlement)
    }

    /// Completes the messages that a connection holds and `is_meant` selects.
    pub(super) fn complete_held(
        &self,
        state: &mut DeviceState,
        target: &Target,
        holder: Holder,
        is_meant: impl Fn(&Message, LockToken) -> bool,
    ) {
        let Ok(Endpoint {
            mailbox: Some(mailbox),
            ..
        }) = state.endpoint(target.module.as_ref())
        else {
            return;
        };
        let held = mailbox.queue.held_by(holder);
        let meant = held.filter_map(|(message, token)| is_meant(message, token).then_some(token));
        for token in meant.collect::<Vec<_>>() {
            // A lock that has ended just now is no mistake of the device: the
            // message is delivered again.
            let _ = self.settle_in(state, target, token, Settlement::Complete);
        }
    }

    pub(super) fn settle_in(
        &self,
        state: &mut DeviceState,
        target: &Target,
        token: LockToken,
        settlement: Settlement,
    ) -> Result<(), ServiceError> {
        let settings = &self.settings.c2d;
        let settled = self.update_queue(state, target, |queue, steps| {
            // A hold that is over is not given back.
            queue.advance(steps.now, &mut steps.ended);
            if settlement == Settlement::Abandon
                && let Some(message) = queue.held_under(token)
            {
                steps.show(message, MessageStep::Abandoned);
            }
            queue.settle(token, settlement, settings, steps.now, &mut steps.ended)
        })?;
        // Nothing was ever sent: nothing is held.
        settled.unwrap_or_else(|| Err(lock_lost()))?;
        if settlement == Settlement::Abandon {
            self.counters.c2d_abandoned.add(1);
            self.count(state, Kind::C2d, 1);
        }
        Ok(())
    }

    /// Empties the queue of a device or module and says how many messages were
    /// in it.
    ///
    /// # Errors
    /// `DeviceNotFound`, `ModuleNotFound`.
    pub(crate) fn purge_messages(&self, target: &Target) -> Result<usize, ServiceError> {
        let cell = self.registry.cell(&target.device)?;
        let purged = self.update_queue(&mut cell.lock(), target, |queue, steps| {
            queue.purge(steps.now, &mut steps.ended)
        })?;
        Ok(purged.unwrap_or(0))
    }

    /// Looks at a queue after what its device did to its connection or filters:
    /// delivers what waits, or sees to the expiry of what it has given back.
    pub(super) fn deliver_messages(&self, state: &mut DeviceState, target: &Target) {
        // A device that is gone meanwhile has no messages.
        let _ = self.update_queue(state, target, |queue, steps| {
            queue.advance(steps.now, &mut steps.ended);
        });
    }

    /// The same for the device and all its modules.
    pub(super) fn deliver_all_messages(&self, state: &mut DeviceState) {
        let device = Target::device(state.identity.id.clone());
        let modules: Vec<Target> = state.modules.keys().map(|id| state.module(id)).collect();
        for target in std::iter::once(device).chain(modules) {
            self.deliver_messages(state, &target);
        }
    }

    /// Changes a queue and does what follows from it. `None` when nothing was
    /// ever sent.
    fn update_queue<T>(
        &self,
        state: &mut DeviceState,
        target: &Target,
        change: impl FnOnce(&mut Queue, &mut Steps<'_>) -> T,
    ) -> Result<Option<T>, ServiceError> {
        let now = self.clock.now();
        let endpoint = state.endpoint(target.module.as_ref())?;
        let Some(mut mailbox) = endpoint.mailbox.take() else {
            return Ok(None);
        };
        let mut steps = Steps {
            hub: self,
            target,
            now,
            ended: Vec::new(),
            shown: 0,
        };
        let result = change(&mut mailbox.queue, &mut steps);
        let delivered = mailbox.deliver(endpoint, &mut steps);
        steps.show_ended();
        let ended = steps.ended;
        self.c2d.schedule.note(&mut mailbox, target);
        // At most 50.
        endpoint.connection.queued_messages = u32::try_from(mailbox.queue.len()).unwrap_or(u32::MAX);
        endpoint.mailbox = Some(mailbox);
        self.counters.c2d_delivered.add(delivered as u64);
        self.count(state, Kind::C2d, delivered + ended.len());
        if !ended.is_empty() {
            self.file(state, target, &ended, now);
        }
        Ok(Some(result))
    }

    /// Counts messages that ended, and keeps the feedback that was asked for.
    fn file(&self, state: &DeviceState, target: &Target, ended: &[Ended], now: Timestamp) {
        let generation = match target.module.as_ref().and_then(|id| state.modules.get(id)) {
            Some(module) => &*module.identity.generation_id,
            None => &*state.identity.generation_id,
        };
        for ended in ended {
            match ended.outcome {
                Outcome::Success => self.counters.c2d_completed.add(1),
                Outcome::Rejected => self.counters.c2d_rejected.add(1),
                Outcome::Expired => self.counters.c2d_expired.add(1),
                Outcome::DeliveryCountExceeded | Outcome::Purged => {}
            }
            if let Some(record) = FeedbackRecord::of(ended, target, generation, now) {
                self.c2d.feedback().push(record, now);
                self.c2d.feedback_news.notify_waiters();
            }
        }
    }

    /// Hands out the oldest batch of feedback that nobody holds.
    pub(crate) fn take_feedback(&self) -> Option<FeedbackBatch> {
        self.c2d.feedback().take(new_token(), self.clock.now())
    }

    /// Hands out the oldest batch of feedback that nobody holds, as soon as there
    /// is one. No batch is held when the caller stops waiting.
    pub(crate) async fn next_feedback(&self) -> FeedbackBatch {
        loop {
            // Listening before looking: nothing can come between the two.
            let mut news = pin!(self.c2d.feedback_news.notified());
            news.as_mut().enable();
            if let Some(batch) = self.take_feedback() {
                return batch;
            }
            let next = self.c2d.feedback().next_change();
            tokio::select! {
                () = news => {}
                () = sleep_until(self, next) => {}
            }
        }
    }

    /// Ends a batch of feedback.
    ///
    /// # Errors
    /// `DeviceMessageLockLost`.
    pub(crate) fn complete_feedback(&self, token: LockToken) -> Result<(), ServiceError> {
        self.c2d.feedback().complete(token, self.clock.now())
    }

    /// Gives a batch of feedback back.
    ///
    /// # Errors
    /// `DeviceMessageLockLost`.
    pub(crate) fn abandon_feedback(&self, token: LockToken) -> Result<(), ServiceError> {
        self.c2d.feedback().abandon(token, self.clock.now())?;
        self.c2d.feedback_news.notify_waiters();
        Ok(())
    }
}

/// Looks after the queues whose messages or locks expire, for as long as the
/// hub runs.
pub(crate) async fn keep_time(hub: Arc<HubState>) {
    loop {
        let (due, next) = hub.c2d.schedule.take_due(hub.clock.now());
        for target in &due {
            look_after(&hub, target);
        }
        if due.len() == DUE_AT_ONCE {
            tokio::task::yield_now().await;
            continue;
        }
        tokio::select! {
            () = hub.c2d.schedule.changed.notified() => {}
            () = sleep_until(&hub, next) => {}
        }
    }
}

fn look_after(hub: &HubState, target: &Target) {
    let Some(cell) = hub.registry.find(&target.device) else {
        return;
    };
    let mut state = cell.lock();
    if let Ok(endpoint) = state.endpoint(target.module.as_ref())
        && let Some(mailbox) = &mut endpoint.mailbox
    {
        mailbox.scheduled = None;
    }
    hub.deliver_messages(&mut state, target);
}

pub(super) async fn sleep_until(hub: &HubState, time: Option<Timestamp>) {
    match time {
        Some(time) => hub.clock.sleep_until(time).await,
        None => pending().await,
    }
}

pub(super) fn new_token() -> LockToken {
    LockToken::from_bytes(Uuid::new_v4().into_bytes())
}
