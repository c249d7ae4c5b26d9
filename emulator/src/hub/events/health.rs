//! How an endpoint is doing, in the service's words for it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hub_core::events::{Event, PartitionInfo};
use hub_core::time::Timestamp;

/// Characters of an error that are kept; the emulator's own.
const ERROR_CHARS: usize = 500;

/// What an endpoint has done and how that went. Numbers are since the endpoint
/// was made.
#[derive(Debug, Default)]
pub(crate) struct Health {
    delivered: AtomicU64,
    dropped: AtomicU64,
    retries: AtomicU64,
    /// Sequence number after the last event that its task took from the log, and
    /// after the last that it passed on.
    taken: AtomicU64,
    passed_on: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    status: Status,
    last_error: Option<(Timestamp, String)>,
}

/// The service's words (guide on message routing, endpoint health).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Status {
    /// Nothing was tried yet.
    #[default]
    Unknown,
    /// It takes what it gets.
    Healthy,
    /// It takes events again and has not caught up yet.
    Degraded,
    /// It does not take events; the hub tries again.
    Unhealthy,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// An endpoint's health at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) status: Status,
    /// Events that it took.
    pub(crate) delivered: u64,
    /// Events that wait for it.
    pub(crate) backlog: u64,
    /// Events that were lost on the way to it: older than its log reaches back,
    /// too large with their enrichments, or refused for good.
    pub(crate) dropped: u64,
    /// Attempts beyond the first.
    pub(crate) retries: u64,
    /// What went wrong last, and when.
    pub(crate) last_error: Option<(Timestamp, String)>,
}

impl Health {
    /// The endpoint's task has taken the events from `first` on, before `next`;
    /// gives how many were missed since the last that it took.
    pub(super) fn taken(&self, first: u64, next: u64) -> u64 {
        first.saturating_sub(self.taken.swap(next, Ordering::Relaxed))
    }

    /// Another task goes on with the log: gives the sequence number after the
    /// last event that was passed on. What was only taken is taken again.
    pub(super) fn resume(&self) -> u64 {
        let next = self.passed_on.load(Ordering::Relaxed);
        self.taken.store(next, Ordering::Relaxed);
        next
    }

    /// Events were passed on; `caught_up` if none is left.
    pub(super) fn delivered(&self, events: &[Event], caught_up: bool) {
        self.delivered.fetch_add(events.len() as u64, Ordering::Relaxed);
        if let Some(last) = events.last() {
            self.passed_on.store(last.sequence + 1, Ordering::Relaxed);
        }
        let mut state = self.lock();
        state.status = match state.status {
            Status::Unhealthy | Status::Degraded if !caught_up => Status::Degraded,
            _ => Status::Healthy,
        };
    }

    /// An event that is not acceptable was dropped; the next is passed on.
    pub(super) fn passed_over(&self, event: &Event, now: Timestamp, reason: &dyn fmt::Display) {
        self.passed_on.store(event.sequence + 1, Ordering::Relaxed);
        self.lost(1, now, reason);
    }

    /// Events were lost.
    pub(super) fn lost(&self, events: u64, now: Timestamp, reason: &dyn fmt::Display) {
        self.dropped.fetch_add(events, Ordering::Relaxed);
        self.lock().last_error = Some((now, shortened(reason)));
    }

    /// An attempt has failed and will be repeated.
    pub(super) fn failed(&self, now: Timestamp, reason: &dyn fmt::Display) {
        let mut state = self.lock();
        state.status = Status::Unhealthy;
        state.last_error = Some((now, shortened(reason)));
    }

    /// What has failed is tried again.
    pub(super) fn retries(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// The health of an endpoint whose task reads a log with these ends.
    pub(crate) fn report(&self, log: &PartitionInfo) -> Report {
        let state = self.lock();
        let next = log.last_sequence.map_or(0, |last| last + 1);
        // What the log has lost before the task could take it, and the task does
        // not know of yet.
        let lost = log
            .begin_sequence
            .saturating_sub(self.taken.load(Ordering::Relaxed));
        let open = next.saturating_sub(self.passed_on.load(Ordering::Relaxed));
        Report {
            status: state.status,
            delivered: self.delivered.load(Ordering::Relaxed),
            backlog: open.saturating_sub(lost),
            dropped: self.dropped.load(Ordering::Relaxed) + lost,
            retries: self.retries.load(Ordering::Relaxed),
            last_error: state.last_error.clone(),
        }
    }

    /// The health of an endpoint that others read: it takes whatever it gets.
    pub(crate) fn report_of_stream(&self, logs: &[PartitionInfo]) -> Report {
        let taken = logs.iter().filter_map(|log| Some(log.last_sequence? + 1)).sum();
        Report {
            status: Status::Healthy,
            delivered: taken,
            backlog: 0,
            dropped: self.dropped.load(Ordering::Relaxed),
            retries: 0,
            last_error: self.lock().last_error.clone(),
        }
    }

    pub(super) fn clear(&self) {
        let mut state = self.lock();
        *state = State::default();
        for counter in [&self.delivered, &self.dropped, &self.retries] {
            counter.store(0, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shortened(reason: &dyn fmt::Display) -> String {
    let text = reason.to_string();
    match text.char_indices().nth(ERROR_CHARS) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
