//! What senders learn: records of messages that ended, in batches that back
//! ends take, complete or abandon.
//!
//! As with messages, every operation first brings the queue to its `now`.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::{Ended, FeedbackSettings, LockToken, Outcome, lock_lost};
use crate::error::ServiceError;
use crate::ids::Target;
use crate::limits;
use crate::time::Timestamp;

/// That a message has ended. Serializes as the service's feedback record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedbackRecord {
    /// The message's receiver.
    pub target: Target,
    /// The receiver's generation id.
    pub generation: Box<str>,
    /// The sender's id of the message, empty when it had none.
    pub message_id: Box<str>,
    /// How the message ended.
    pub outcome: Outcome,
    /// When it ended.
    pub time: Timestamp,
}

impl FeedbackRecord {
    /// The record that the sender of a message asked for; `None` when it did
    /// not ask to hear of this end.
    #[must_use]
    pub fn of(ended: &Ended, target: &Target, generation: &str, now: Timestamp) -> Option<Self> {
        ended.message.ack.asks_for(ended.outcome).then(|| Self {
            target: target.clone(),
            generation: generation.into(),
            message_id: ended.message.id().into(),
            outcome: ended.outcome,
            time: now,
        })
    }
}

impl Serialize for FeedbackRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(6))?;
        map.serialize_entry("originalMessageId", &self.message_id)?;
        map.serialize_entry("description", self.outcome.as_str())?;
        map.serialize_entry("deviceGenerationId", &self.generation)?;
        map.serialize_entry("deviceId", &self.target.device)?;
        map.serialize_entry("enqueuedTimeUtc", &self.time)?;
        map.serialize_entry("statusCode", self.outcome.as_str())?;
        map.end()
    }
}

/// Records handed to a back end.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedbackBatch {
    /// Names this hold of the batch.
    pub token: LockToken,
    /// The records, oldest first, 1 to 64.
    pub records: Arc<[FeedbackRecord]>,
    /// When the batch was made.
    pub enqueued: Timestamp,
}

/// The feedback of one hub that no back end has completed.
///
/// Holds at most [`limits::FEEDBACK_BATCHES`] batches; the oldest goes first.
#[derive(Debug)]
pub struct FeedbackQueue {
    settings: FeedbackSettings,
    /// Records of the batch that is being filled.
    open: Vec<FeedbackRecord>,
    batches: VecDeque<Batch>,
}

#[derive(Debug)]
struct Batch {
    records: Arc<[FeedbackRecord]>,
    enqueued: Timestamp,
    delivery_count: u32,
    lock: Option<(LockToken, Timestamp)>,
}

impl FeedbackQueue {
    /// An empty queue.
    #[must_use]
    pub fn new(settings: FeedbackSettings) -> Self {
        Self {
            settings,
            open: Vec::new(),
            batches: VecDeque::new(),
        }
    }

    /// Adds a record; a batch that has become full is released.
    pub fn push(&mut self, record: FeedbackRecord, now: Timestamp) {
        self.advance(now);
        self.open.push(record);
        if self.open.len() >= limits::FEEDBACK_BATCH_RECORDS {
            self.release(now);
        }
    }

    /// Hands out the oldest batch that nobody holds. `None` when there is none
    /// yet.
    pub fn take(&mut self, token: LockToken, now: Timestamp) -> Option<FeedbackBatch> {
        self.advance(now);
        let delay = self.settings.delay;
        let oldest = self.open.first();
        if oldest.is_some_and(|record| record.time.saturating_add(delay) <= now) {
            self.release(now);
        }
        let until = now.saturating_add(self.settings.lock);
        let batch = self.batches.iter_mut().find(|batch| batch.lock.is_none())?;
        batch.lock = Some((token, until));
        Some(FeedbackBatch {
            token,
            records: batch.records.clone(),
            enqueued: batch.enqueued,
        })
    }

    /// Ends a batch.
    ///
    /// # Errors
    /// `DeviceMessageLockLost` when none is held under `token`.
    pub fn complete(&mut self, token: LockToken, now: Timestamp) -> Result<(), ServiceError> {
        let at = self.held(token, now)?;
        self.batches.remove(at);
        Ok(())
    }

    /// Gives a batch back, which is counted: at the maximum it is dropped.
    ///
    /// # Errors
    /// `DeviceMessageLockLost` when none is held under `token`.
    pub fn abandon(&mut self, token: LockToken, now: Timestamp) -> Result<(), ServiceError> {
        let at = self.held(token, now)?;
        let batch = &mut self.batches[at];
        batch.lock = None;
        batch.delivery_count += 1;
        if batch.delivery_count >= self.settings.max_delivery_count || batch.records.is_empty() {
            self.batches.remove(at);
        }
        Ok(())
    }

    /// Drops the records about a device or module that was deleted, about a
    /// device's modules as well.
    pub fn forget(&mut self, gone: &Target) {
        let is_gone = |FeedbackRecord { target, .. }: &FeedbackRecord| {
            target.device == gone.device && (gone.module.is_none() || target.module == gone.module)
        };
        self.open.retain(|record| !is_gone(record));
        for batch in &mut self.batches {
            if batch.records.iter().any(is_gone) {
                let others = batch.records.iter().filter(|record| !is_gone(record));
                batch.records = others.cloned().collect();
            }
        }
        // A batch that is held stays for its holder to complete.
        self.batches
            .retain(|batch| batch.lock.is_some() || !batch.records.is_empty());
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.open.clear();
        self.batches.clear();
    }

    fn held(&mut self, token: LockToken, now: Timestamp) -> Result<usize, ServiceError> {
        self.advance(now);
        let held = |batch: &Batch| batch.lock.is_some_and(|(known, _)| known == token);
        self.batches.iter().position(held).ok_or_else(lock_lost)
    }

    /// Ends holds that are over, then what nobody has read in time: batches,
    /// and single records of the one that is being filled.
    fn advance(&mut self, now: Timestamp) {
        let FeedbackSettings { ttl, delay, .. } = self.settings;
        self.batches.retain_mut(|batch| {
            batch.lock.take_if(|(_, until)| *until <= now);
            let live = batch.enqueued.saturating_add(ttl) > now && !batch.records.is_empty();
            batch.lock.is_some() || live
        });
        self.open
            .retain(|record| record.time.saturating_add(delay).saturating_add(ttl) > now);
    }

    fn release(&mut self, now: Timestamp) {
        if self.batches.len() >= limits::FEEDBACK_BATCHES {
            self.batches.pop_front();
        }
        self.batches.push_back(Batch {
            records: std::mem::take(&mut self.open).into(),
            enqueued: now,
            delivery_count: 0,
            lock: None,
        });
    }
}
