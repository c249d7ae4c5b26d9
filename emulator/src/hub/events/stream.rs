//! The log of one endpoint: events in partitions, and who reads them.
//!
//! Readers ([`reader`](super::reader)) take copies at their own pace and are
//! woken when there is something new. A partition's lock is the last that is
//! taken, and held to copy bytes only. What enters is decided in front of it.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hub_core::events::{
    ConsumerGroups, Draft, Event, GroupError, Origin, Partition, PartitionInfo, ReaderId, Source,
    partition_of,
};
use hub_core::property_bag::Bag;
use hub_core::time::Timestamp;
use job_service::Clock;
use tokio::sync::Notify;

use super::EventSettings;
use super::reader::{Ending, ReadEnd};
use crate::hub::counters::Counters;

/// The log.
pub(crate) struct EventStream {
    name: Box<str>,
    settings: EventSettings,
    pub(super) clock: Clock,
    pub(super) counters: Arc<Counters>,
    created: Timestamp,
    pub(super) slots: Box<[Slot]>,
    /// Events so far. Grows under the lock of the partition that the event goes
    /// to: whoever reads it and then locks a partition finds all up to it.
    positions: AtomicU64,
    readers: Mutex<Readers>,
}

/// A partition, and the call to those who wait for its next event.
pub(super) struct Slot {
    log: Mutex<Partition>,
    pub(super) news: Arc<Notify>,
}

#[derive(Default)]
pub(super) struct Readers {
    pub(super) groups: ConsumerGroups,
    pub(super) endings: BTreeMap<ReaderId, Arc<Ending>>,
    /// Whether nobody is let in any more.
    pub(super) is_closed: bool,
}

impl Readers {
    fn new(settings: &EventSettings) -> Self {
        let mut groups = ConsumerGroups::default();
        for name in settings.consumer_groups() {
            // They were checked when they were set.
            let _ = groups.create(name);
        }
        Self {
            groups,
            endings: BTreeMap::new(),
            is_closed: false,
        }
    }

    /// Ends readers; they find out when they read next.
    pub(super) fn end(&mut self, readers: &[ReaderId], end: ReadEnd) {
        for reader in readers {
            if let Some(ending) = self.endings.remove(reader) {
                ending.set(end);
            }
        }
    }
}

impl EventStream {
    /// A log without events. Its name is what readers call it.
    pub(crate) fn new(name: &str, settings: EventSettings, clock: Clock, counters: Arc<Counters>) -> Self {
        let slot = || Slot {
            log: Mutex::new(Partition::new(settings.retention)),
            news: Arc::default(),
        };
        Self {
            name: name.into(),
            created: clock.now(),
            slots: std::iter::repeat_with(slot)
                .take(settings.partitions().get())
                .collect(),
            positions: AtomicU64::new(0),
            readers: Mutex::new(Readers::new(&settings)),
            settings,
            clock,
            counters,
        }
    }

    /// What readers call it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// When the stream was made.
    pub(crate) fn created(&self) -> Timestamp {
        self.created
    }

    /// Keeps an event. When this returns, readers can see it.
    pub(crate) fn append(
        &self,
        source: Source,
        origin: &Arc<Origin>,
        bag: &Bag<'_>,
        body: &[u8],
        now: Timestamp,
    ) {
        let partitions = NonZeroUsize::new(self.slots.len()).unwrap_or(NonZeroUsize::MIN);
        let Some(slot) = self.slots.get(partition_of(&origin.target.device, partitions)) else {
            return;
        };
        {
            let mut log = slot.lock();
            let draft = Draft {
                source,
                position: self.positions.fetch_add(1, Ordering::AcqRel) + 1,
                origin,
                bag,
                body,
            };
            log.append(&draft, now);
        }
        slot.news.notify_waiters();
    }

    /// The ends of every partition, in their order.
    pub(crate) fn partitions(&self) -> Vec<PartitionInfo> {
        let now = self.clock.now();
        self.slots.iter().map(|slot| slot.info(now)).collect()
    }

    /// Up to `max` events of a partition from `sequence` on; `None` when there
    /// is no such partition. For a look at the stream: readers have their places.
    pub(crate) fn peek(&self, partition: usize, sequence: u64, max: usize) -> Option<Vec<Event>> {
        let slot = self.slots.get(partition)?;
        slot.lock().expire(self.clock.now());
        Some(slot.read_to(sequence, max, u64::MAX, |_| true))
    }

    /// Up to `max` events of a source behind `position` in the whole hub's events,
    /// of all partitions and in the order of their positions.
    pub(crate) fn after_position(&self, source: Source, position: u64, max: usize) -> Vec<Event> {
        // An event in one partition must not hide a smaller one that is about
        // to enter another.
        let last = self.positions.load(Ordering::Acquire);
        let (now, mut events) = (self.clock.now(), Vec::new());
        for slot in &self.slots {
            let from = {
                let mut log = slot.lock();
                log.expire(now);
                log.after_position(position)
            };
            events.extend(slot.read_to(from, max, last, |event| event.source == source));
        }
        events.sort_unstable_by_key(|event| event.position);
        events.truncate(max);
        events
    }

    /// Names of the consumer groups.
    pub(crate) fn consumer_groups(&self) -> Vec<String> {
        self.lock_readers().groups.names().map(str::to_owned).collect()
    }

    /// Makes a consumer group, if it is not there.
    ///
    /// # Errors
    /// For a name that is not legal, or one group too many.
    pub(crate) fn create_consumer_group(&self, name: &str) -> Result<bool, GroupError> {
        self.lock_readers().groups.create(name)
    }

    /// Removes a consumer group; its readers end.
    ///
    /// # Errors
    /// When there is no such group, or it is `$Default`.
    pub(crate) fn delete_consumer_group(&self, name: &str) -> Result<(), GroupError> {
        {
            let mut readers = self.lock_readers();
            let gone = readers.groups.delete(name)?;
            readers.end(&gone, ReadEnd::GroupDeleted);
        }
        self.wake_all();
        Ok(())
    }

    /// Forgets all events and the consumer groups that were made meanwhile;
    /// readers end.
    pub(crate) fn clear(&self) {
        self.empty(ReadEnd::Reset, false);
    }

    /// Forgets all events; readers end, and nobody is let in any more.
    pub(super) fn end(&self, end: ReadEnd) {
        self.empty(end, true);
    }

    fn empty(&self, end: ReadEnd, is_closed: bool) {
        {
            let mut readers = self.lock_readers();
            let former = std::mem::replace(&mut *readers, Readers::new(&self.settings));
            readers.is_closed = is_closed;
            for ending in former.endings.into_values() {
                ending.set(end);
            }
            // All at once, so that no event enters with a position from before.
            let mut logs: Vec<_> = self.slots.iter().map(Slot::lock).collect();
            for log in &mut logs {
                **log = Partition::new(self.settings.retention);
            }
            self.positions.store(0, Ordering::Release);
        }
        self.wake_all();
    }

    fn wake_all(&self) {
        for slot in &self.slots {
            slot.news.notify_waiters();
        }
    }

    pub(super) fn lock_readers(&self) -> MutexGuard<'_, Readers> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    pub(super) fn lock(&self) -> MutexGuard<'_, Partition> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn info(&self, now: Timestamp) -> PartitionInfo {
        let mut log = self.lock();
        log.expire(now);
        log.info()
    }

    /// Up to `max` events from `sequence` on that are wanted, none behind the
    /// position `last`. The partition is free between one copy and the next.
    fn read_to(
        &self,
        mut sequence: u64,
        max: usize,
        last: u64,
        is_wanted: impl Fn(&Event) -> bool,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let batch = self.lock().read(sequence, max - events.len());
            let Some(next) = batch.next_sequence() else {
                return events;
            };
            sequence = next;
            for event in batch.into_events() {
                if event.position > last {
                    return events;
                }
                if is_wanted(&event) {
                    events.push(event);
                }
            }
        }
    }
}
