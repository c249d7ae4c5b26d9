//! How an endpoint is doing, in the service's words for it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    /// Events that were lost on the way to it: older than its log reaches back,
    /// or too large with their enrichments.
    pub(crate) dropped: u64,
    /// Attempts beyond the first.
    pub(crate) retries: u64,
    /// What went wrong last, and when.
    pub(crate) last_error: Option<(Timestamp, String)>,
}

impl Health {
    /// Events were taken; `caught_up` if none is left.
    pub(super) fn delivered(&self, events: u64, caught_up: bool) {
        self.delivered.fetch_add(events, Ordering::Relaxed);
        let mut state = self.lock();
        state.status = match state.status {
            Status::Unhealthy | Status::Degraded if !caught_up => Status::Degraded,
            _ => Status::Healthy,
        };
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

    /// Something has gone wrong that does not keep events from being delivered.
    pub(super) fn noted(&self, now: Timestamp, reason: &dyn fmt::Display) {
        self.lock().last_error = Some((now, shortened(reason)));
    }

    /// What has failed is tried again.
    pub(super) fn retries(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn report(&self) -> Report {
        let state = self.lock();
        Report {
            status: state.status,
            delivered: self.delivered.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            last_error: state.last_error.clone(),
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
