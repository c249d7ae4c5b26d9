//! A reader of one partition, with a place of its own.

use std::fmt;
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use hub_core::events::{AttachError, Event, OutOfRange, PartitionInfo, ReaderId, Start};
use tokio::sync::futures::OwnedNotified;

use super::EventStream;

/// Reads one partition for a consumer group; made by
/// [`Hub::read_events`](crate::Hub::read_events).
///
/// Events that were cut off before the reader came to them are skipped: their
/// sequence numbers are missing. Dropping it frees its place in the group.
pub struct EventReader {
    events: Arc<EventStream>,
    group: Box<str>,
    partition: usize,
    reader: ReaderId,
    ending: Arc<Ending>,
    next: u64,
    /// The call for news, while it is waited for.
    news: Option<Pin<Box<OwnedNotified>>>,
}

/// Set when the reader has lost its place.
#[derive(Default)]
pub(super) struct Ending(OnceLock<ReadEnd>);

impl Ending {
    pub(super) fn set(&self, end: ReadEnd) {
        // The first reason stays.
        let _ = self.0.set(end);
    }
}

/// Why a reader gets no more events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadEnd {
    /// A reader with an epoch has taken its place (`amqp:link:stolen`).
    #[error("a reader with an epoch has taken the place of this one")]
    Stolen,
    /// Its consumer group was removed.
    #[error("the consumer group was removed")]
    GroupDeleted,
    /// The hub has forgotten all events.
    #[error("the hub was reset")]
    Reset,
    /// Its endpoint has other settings now, and other events.
    #[error("the endpoint was changed")]
    EndpointChanged,
    /// Its endpoint was removed from the routing.
    #[error("the endpoint was removed")]
    EndpointGone,
}

/// Why a reader is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no such partition.
    #[error("there is no partition {partition}; the hub has {count}, from 0")]
    NoSuchPartition {
        /// The partition that was asked for.
        partition: usize,
        /// Partitions of the hub.
        count: usize,
    },
    /// The endpoint was removed from the routing, or has other settings now.
    #[error("the endpoint was removed or changed")]
    EndpointGone,
    /// The consumer group, or its other readers, do not allow it.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The start lies behind the last event.
    #[error(transparent)]
    Start(#[from] OutOfRange),
}

impl EventStream {
    /// Lets a reader in. With an epoch it may take the place of others.
    ///
    /// # Errors
    /// When there is no such partition or group, the start lies behind the last
    /// event, or the partition's other readers do not allow it; nothing has
    /// changed then.
    pub(crate) fn open(
        self: &Arc<Self>,
        group: &str,
        partition: usize,
        start: Start,
        epoch: Option<i64>,
    ) -> Result<EventReader, OpenError> {
        let slot = self.slots.get(partition).ok_or(OpenError::NoSuchPartition {
            partition,
            count: self.slots.len(),
        })?;
        let now = self.clock.now();
        // The places first: a reset takes them before it empties the partitions.
        let mut readers = self.lock_readers();
        if readers.is_closed {
            return Err(OpenError::EndpointGone);
        }
        let next = {
            let mut log = slot.lock();
            log.expire(now);
            log.locate(start)?
        };
        let admitted = readers.groups.attach(group, partition, epoch)?;
        readers.end(&admitted.stolen, ReadEnd::Stolen);
        let ending = Arc::<Ending>::default();
        readers.endings.insert(admitted.reader, ending.clone());
        drop(readers);
        if !admitted.stolen.is_empty() {
            slot.news.notify_waiters();
        }
        Ok(EventReader {
            events: self.clone(),
            group: group.into(),
            partition,
            reader: admitted.reader,
            ending,
            next,
            news: None,
        })
    }

    fn close(&self, reader: &EventReader) {
        let mut readers = self.lock_readers();
        // After a reset another reader may have the number.
        if reader.ending.0.get().is_none() {
            readers
                .groups
                .detach(&reader.group, reader.partition, reader.reader);
            readers.endings.remove(&reader.reader);
        }
    }
}

impl EventReader {
    /// The partition that it reads.
    #[must_use]
    pub fn partition(&self) -> usize {
        self.partition
    }

    /// The ends of its partition.
    #[must_use]
    pub fn partition_info(&self) -> PartitionInfo {
        self.events.slots[self.partition].info(self.events.clock.now())
    }

    /// The next events, up to `max`, without waiting; none when there are none.
    /// Fewer than there are is no sign of an end.
    ///
    /// # Errors
    /// When the reader has lost its place.
    pub fn take(&mut self, max: usize) -> Result<Vec<Event>, ReadEnd> {
        let batch = {
            let mut log = self.events.slots[self.partition].lock();
            // Under the lock: a reset ends readers before new events come.
            if let Some(end) = self.ending.0.get() {
                return Err(*end);
            }
            log.expire(self.events.clock.now());
            log.read(self.next, max)
        };
        let Some(next) = batch.next_sequence() else {
            return Ok(Vec::new());
        };
        self.next = next;
        let events = batch.into_events();
        self.events.counters.events_read.add(events.len() as u64);
        Ok(events)
    }

    /// The next events, at least one and up to `max`, as soon as there are any.
    /// No event is lost when the caller stops waiting.
    ///
    /// # Errors
    /// When the reader has lost its place.
    pub async fn next(&mut self, max: usize) -> Result<Vec<Event>, ReadEnd> {
        loop {
            let events = self.take(max.max(1))?;
            if !events.is_empty() {
                return Ok(events);
            }
            poll_fn(|context| self.poll_news(context, true)).await;
        }
    }

    /// Why there will be no more events, if so.
    pub(crate) fn end(&self) -> Option<ReadEnd> {
        self.ending.0.get().copied()
    }

    /// Ready when the reader has lost its place or, if `wants_events`, there may
    /// be events to [`take`](Self::take). For those who wait for many readers at
    /// once.
    pub(crate) fn poll_news(&mut self, context: &mut Context<'_>, wants_events: bool) -> Poll<()> {
        let slot = &self.events.slots[self.partition];
        loop {
            let is_new = self.news.is_none();
            let news = self
                .news
                .get_or_insert_with(|| Box::pin(slot.news.clone().notified_owned()));
            let is_ready;
            if is_new {
                // Listening before looking: nothing can come between the two.
                news.as_mut().enable();
                let info = slot.lock().info();
                is_ready = wants_events && !info.is_empty() && info.last_sequence >= Some(self.next);
            } else {
                ready!(news.as_mut().poll(context));
                is_ready = wants_events;
                self.news = None;
            }
            if is_ready || self.ending.0.get().is_some() {
                self.news = None;
                return Poll::Ready(());
            }
        }
    }

    /// Goes on with this sequence number, if it has not come so far.
    pub(super) fn skip_to(&mut self, sequence: u64) {
        self.next = self.next.max(sequence);
    }

    /// Goes back to an event that was taken and could not be passed on.
    pub(crate) fn go_back_to(&mut self, event: &Event) {
        self.next = self.next.min(event.sequence);
    }
}

impl Drop for EventReader {
    fn drop(&mut self) {
        self.events.close(self);
    }
}

impl fmt::Debug for EventReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventReader")
            .field("group", &self.group)
            .field("partition", &self.partition)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
