//! The messages of one device or module that have not ended yet.
//!
//! ```text
//! enqueue ─► waiting ──take──► held ──complete──► Success
//!               │ ▲             │ ├───reject────► Rejected
//!    expiry ◄───┘ └─ release, ──┘ └───abandon───► waiting, or DeliveryCountExceeded
//!    Expired         lock ends
//! ```
//!
//! The state at a moment follows from the operations and the times at which
//! they happened. Nothing has to be called when a lock or a message expires:
//! every operation first brings the queue to its `now`.

use std::sync::Arc;

use super::{Draft, Message, Outcome, Settings, Settlement, address, lock_lost};
use crate::c2d::LockToken;
use crate::error::{ErrorCode, ServiceError};
use crate::ids::Target;
use crate::limits;
use crate::property_bag::SystemProperty;
use crate::time::Timestamp;

/// Who holds a message: the connection of that number, or whoever shows the
/// token ([`Holder::ANYONE`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder(pub u64);

impl Holder {
    /// A receiver without a connection, such as an HTTP client.
    pub const ANYONE: Self = Self(0);
}

/// A message that has ended, and how. Each message ends exactly once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The message.
    pub message: Arc<Message>,
    /// How it ended.
    pub outcome: Outcome,
}

/// A message handed to a receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The message.
    pub message: Arc<Message>,
    /// Names this hold of it.
    pub token: LockToken,
    /// How often it was abandoned before.
    pub delivery_count: u32,
    /// Who held it last, when it was handed out before.
    pub held_before: Option<Holder>,
}

/// The messages of one receiver, oldest first, at most
/// [`limits::C2D_QUEUE_DEPTH`].
#[derive(Debug, Default)]
pub struct Queue {
    last_sequence: u64,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    message: Arc<Message>,
    delivery_count: u32,
    lock: Option<Lock>,
    last_holder: Option<Holder>,
}

#[derive(Debug, Clone, Copy)]
struct Lock {
    token: LockToken,
    holder: Holder,
    until: Timestamp,
}

impl Queue {
    /// Appends a message for `target` and gives its sequence number.
    ///
    /// # Errors
    /// `InvalidMessageExpiryTime` for an expiry that is over or more than two
    /// days ahead; `DeviceMaximumQueueDepthExceeded` when 50 messages wait or
    /// are held.
    pub fn enqueue(
        &mut self,
        draft: Draft,
        target: &Target,
        settings: &Settings,
        now: Timestamp,
        ended: &mut Vec<Ended>,
    ) -> Result<u64, ServiceError> {
        self.advance(now, ended);
        let Draft {
            mut properties,
            body,
            ack,
            expiry,
        } = draft;
        let expiry = expiry.unwrap_or(now.saturating_add(settings.default_ttl));
        if expiry <= now || expiry.saturating_since(now) > limits::C2D_TTL_MAX {
            return Err(ServiceError::new(
                ErrorCode::InvalidMessageExpiryTime,
                "the expiry must be in the future, by at most two days",
            ));
        }
        if self.entries.len() >= limits::C2D_QUEUE_DEPTH {
            return Err(ServiceError::new(
                ErrorCode::DeviceMaximumQueueDepthExceeded,
                format!(
                    "Device Queue depth cannot exceed {} messages",
                    limits::C2D_QUEUE_DEPTH
                ),
            ));
        }
        // Clients split topics at this property and fail without it.
        properties
            .system
            .entry(SystemProperty::To)
            .or_insert_with(|| address(target));
        self.last_sequence += 1;
        self.entries.push(Entry {
            message: Arc::new(Message {
                sequence: self.last_sequence,
                enqueued: now,
                expiry,
                ack,
                properties,
                body,
            }),
            delivery_count: 0,
            lock: None,
            last_holder: None,
        });
        Ok(self.last_sequence)
    }

    /// Hands the oldest waiting message to `holder`, who has a minute to
    /// settle it under `token`. `None` when nothing waits, or when `accept`
    /// declines the message: then it goes on waiting.
    pub fn take(
        &mut self,
        holder: Holder,
        token: LockToken,
        accept: impl FnOnce(&Message) -> bool,
        now: Timestamp,
        ended: &mut Vec<Ended>,
    ) -> Option<Delivery> {
        self.advance(now, ended);
        let entry = self.entries.iter_mut().find(|entry| entry.lock.is_none())?;
        if !accept(&entry.message) {
            return None;
        }
        entry.lock = Some(Lock {
            token,
            holder,
            until: now.saturating_add(limits::C2D_LOCK),
        });
        Some(Delivery {
            message: entry.message.clone(),
            token,
            delivery_count: entry.delivery_count,
            held_before: entry.last_holder.replace(holder),
        })
    }

    /// Ends a hold as its holder wishes.
    ///
    /// # Errors
    /// `DeviceMessageLockLost` when nothing is held under `token`.
    pub fn settle(
        &mut self,
        token: LockToken,
        settlement: Settlement,
        settings: &Settings,
        now: Timestamp,
        ended: &mut Vec<Ended>,
    ) -> Result<(), ServiceError> {
        self.advance(now, ended);
        let held = |entry: &Entry| entry.lock.is_some_and(|lock| lock.token == token);
        let at = self.entries.iter().position(held).ok_or_else(lock_lost)?;
        let outcome = match settlement {
            Settlement::Complete => Outcome::Success,
            Settlement::Reject => Outcome::Rejected,
            Settlement::Abandon => {
                let entry = &mut self.entries[at];
                entry.lock = None;
                entry.delivery_count += 1;
                if entry.delivery_count < settings.max_delivery_count {
                    return Ok(());
                }
                Outcome::DeliveryCountExceeded
            }
        };
        let message = self.entries.remove(at).message;
        ended.push(Ended { message, outcome });
        Ok(())
    }

    /// Takes back everything that `holder` holds, for a connection that ended.
    /// Only abandoning is counted, so this is not.
    pub fn release(&mut self, holder: Holder) {
        for entry in &mut self.entries {
            entry.lock.take_if(|lock| lock.holder == holder);
        }
    }

    /// Ends every message, held or not, and says how many there were.
    pub fn purge(&mut self, now: Timestamp, ended: &mut Vec<Ended>) -> usize {
        self.advance(now, ended);
        let purged = self.entries.len();
        ended.extend(self.entries.drain(..).map(|entry| Ended {
            message: entry.message,
            outcome: Outcome::Purged,
        }));
        purged
    }

    /// Brings the queue to `now`: holds that are over end, then waiting
    /// messages that have expired. A message that is held may outlive its
    /// expiry until its hold ends.
    pub fn advance(&mut self, now: Timestamp, ended: &mut Vec<Ended>) {
        self.entries.retain_mut(|entry| {
            entry.lock.take_if(|lock| lock.until <= now);
            let live = entry.lock.is_some() || entry.message.expiry > now;
            if !live {
                ended.push(Ended {
                    message: entry.message.clone(),
                    outcome: Outcome::Expired,
                });
            }
            live
        });
    }

    /// When [`Queue::advance`] will have something to do; `None` when the
    /// queue is empty.
    #[must_use]
    pub fn next_change(&self) -> Option<Timestamp> {
        let change = |entry: &Entry| entry.lock.map_or(entry.message.expiry, |lock| lock.until);
        self.entries.iter().map(change).min()
    }

    /// The messages that `holder` holds, oldest first, with their tokens.
    pub fn held_by(&self, holder: Holder) -> impl Iterator<Item = (&Message, LockToken)> {
        self.entries.iter().filter_map(move |entry| {
            let lock = entry.lock.filter(|lock| lock.holder == holder)?;
            Some((&*entry.message, lock.token))
        })
    }

    /// The message that is held under `token`, if it is.
    #[must_use]
    pub fn held_under(&self, token: LockToken) -> Option<&Message> {
        let mut held = self.entries.iter();
        let entry = held.find(|entry| entry.lock.is_some_and(|lock| lock.token == token));
        entry.map(|entry| &*entry.message)
    }

    /// The message that was enqueued last, if it is still there.
    #[must_use]
    pub fn newest(&self) -> Option<&Message> {
        let newest = self.entries.last().map(|entry| &*entry.message);
        newest.filter(|message| message.sequence == self.last_sequence)
    }

    /// Whether a message waits to be taken.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        self.entries.iter().any(|entry| entry.lock.is_none())
    }

    /// Number of messages, waiting or held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
