//! What senders learn: records of messages that ended, in batches that back
//! ends take, complete or abandon.
//!
//! As with messages, every operation first brings the queue to its `now`.

use std::sync::Arc;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::{Ended, FeedbackSettings, HoldQueue, LockToken, Outcome};
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
    batches: HoldQueue<Arc<[FeedbackRecord]>>,
}

impl FeedbackQueue {
    /// An empty queue.
    #[must_use]
    pub fn new(settings: FeedbackSettings) -> Self {
        Self {
            settings,
            open: Vec::new(),
            batches: HoldQueue::new(settings, limits::FEEDBACK_BATCHES),
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
        if self.release_due().is_some_and(|due| due <= now) {
            self.release(now);
        }
        self.drop_empty(now);
        let (records, enqueued) = self.batches.take(token, now)?;
        Some(FeedbackBatch {
            token,
            records: records.clone(),
            enqueued,
        })
    }

    /// When a batch can be taken although none can now, if nothing else happens.
    #[must_use]
    pub fn next_change(&self) -> Option<Timestamp> {
        let times = [self.release_due(), self.batches.next_release()];
        times.into_iter().flatten().min()
    }

    /// Ends a batch.
    ///
    /// # Errors
    /// `DeviceMessageLockLost` when none is held under `token`.
    pub fn complete(&mut self, token: LockToken, now: Timestamp) -> Result<(), ServiceError> {
        self.advance(now);
        self.batches.complete(token, now)
    }

    /// Gives a batch back, which is counted: at the maximum it is dropped.
    ///
    /// # Errors
    /// `DeviceMessageLockLost` when none is held under `token`.
    pub fn abandon(&mut self, token: LockToken, now: Timestamp) -> Result<(), ServiceError> {
        self.advance(now);
        self.batches.abandon(token, now)?;
        self.drop_empty(now);
        Ok(())
    }

    /// Drops the records about a device or module that was deleted, about a
    /// device's modules as well.
    pub fn forget(&mut self, gone: &Target) {
        let is_gone = |FeedbackRecord { target, .. }: &FeedbackRecord| {
            target.device == gone.device && (gone.module.is_none() || target.module == gone.module)
        };
        self.open.retain(|record| !is_gone(record));
        self.batches.update(|records| {
            if records.iter().any(is_gone) {
                let others = records.iter().filter(|record| !is_gone(record));
                *records = others.cloned().collect();
            }
            !records.is_empty()
        });
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.open.clear();
        self.batches.clear();
    }

    /// Drops what nobody has read in time of the batch that is being filled.
    fn advance(&mut self, now: Timestamp) {
        let FeedbackSettings { ttl, delay, .. } = self.settings;
        self.open
            .retain(|record| record.time.saturating_add(delay).saturating_add(ttl) > now);
    }

    /// Drops batches whose records have all gone while somebody held them.
    fn drop_empty(&mut self, now: Timestamp) {
        self.batches.advance(now);
        self.batches.update(|records| !records.is_empty());
    }

    /// When the batch that is being filled is released at the latest.
    fn release_due(&self) -> Option<Timestamp> {
        let oldest = self.open.first()?;
        Some(oldest.time.saturating_add(self.settings.delay))
    }

    fn release(&mut self, now: Timestamp) {
        let records = std::mem::take(&mut self.open);
        self.batches.push(records.into(), now);
    }
}
