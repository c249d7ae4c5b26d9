//! What waits for a back end: taken, then completed or abandoned.

use std::collections::VecDeque;

use super::{FeedbackSettings, LockToken, lock_lost};
use crate::error::ServiceError;
use crate::time::Timestamp;

/// Things that wait for whichever back end takes them first.
///
/// Every operation first brings the queue to its `now`: holds that are over
/// end, and what nobody has read in time goes.
#[derive(Debug)]
pub struct HoldQueue<T> {
    settings: FeedbackSettings,
    capacity: usize,
    items: VecDeque<Item<T>>,
}

#[derive(Debug)]
struct Item<T> {
    value: T,
    enqueued: Timestamp,
    delivery_count: u32,
    lock: Option<(LockToken, Timestamp)>,
}

impl<T> HoldQueue<T> {
    /// An empty queue of at most `capacity` things; the oldest goes first.
    #[must_use]
    pub fn new(settings: FeedbackSettings, capacity: usize) -> Self {
        Self {
            settings,
            capacity,
            items: VecDeque::new(),
        }
    }

    /// Adds a thing.
    pub fn push(&mut self, value: T, now: Timestamp) {
        self.advance(now);
        if self.items.len() >= self.capacity {
            self.items.pop_front();
        }
        self.items.push_back(Item {
            value,
            enqueued: now,
            delivery_count: 0,
            lock: None,
        });
    }

    /// Hands out the oldest thing that nobody holds, under `token`, with the
    /// time at which it was added.
    pub fn take(&mut self, token: LockToken, now: Timestamp) -> Option<(&T, Timestamp)> {
        self.advance(now);
        let until = now.saturating_add(self.settings.lock);
        let item = self.items.iter_mut().find(|item| item.lock.is_none())?;
        item.lock = Some((token, until));
        Some((&item.value, item.enqueued))
    }

    /// Ends a thing.
    ///
    /// # Errors
    /// `DeviceMessageLockLost` when none is held under `token`.
    pub fn complete(&mut self, token: LockToken, now: Timestamp) -> Result<(), ServiceError> {
        let at = self.held(token, now)?;
        self.items.remove(at);
        Ok(())
    }

    /// Gives a thing back, which is counted: at the maximum it is dropped.
    ///
    /// # Errors
    /// `DeviceMessageLockLost` when none is held under `token`.
    pub fn abandon(&mut self, token: LockToken, now: Timestamp) -> Result<(), ServiceError> {
        let at = self.held(token, now)?;
        let item = &mut self.items[at];
        item.lock = None;
        item.delivery_count += 1;
        if item.delivery_count >= self.settings.max_delivery_count {
            self.items.remove(at);
        }
        Ok(())
    }

    /// When the first hold ends, if nothing else happens: something can be
    /// taken again then.
    #[must_use]
    pub fn next_release(&self) -> Option<Timestamp> {
        let holds = self.items.iter().filter_map(|item| item.lock);
        holds.map(|(_, until)| until).min()
    }

    /// Changes every thing; what `change` gives up is dropped unless somebody
    /// holds it, who may still complete it.
    pub fn update(&mut self, mut change: impl FnMut(&mut T) -> bool) {
        self.items
            .retain_mut(|item| change(&mut item.value) || item.lock.is_some());
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.items.clear();
    }

    fn held(&mut self, token: LockToken, now: Timestamp) -> Result<usize, ServiceError> {
        self.advance(now);
        let held = |item: &Item<T>| item.lock.is_some_and(|(known, _)| known == token);
        self.items.iter().position(held).ok_or_else(lock_lost)
    }

    /// Brings the queue to `now`; every other operation that is told the time
    /// does so itself.
    pub fn advance(&mut self, now: Timestamp) {
        let ttl = self.settings.ttl;
        self.items.retain_mut(|item| {
            item.lock.take_if(|(_, until)| *until <= now);
            item.lock.is_some() || item.enqueued.saturating_add(ttl) > now
        });
    }
}
