//! Requests to the hub that wait for its answer.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// A request about the own twin, by its request id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TwinRequest {
    /// Reads the twin.
    Read(u32),
    /// Updates the reported properties.
    Report(u32),
}

impl TwinRequest {
    /// Whether the hub's text names this request.
    pub(super) fn has_rid(&self, text: &str) -> bool {
        let (Self::Read(rid) | Self::Report(rid)) = self;
        text.parse() == Ok(*rid)
    }
}

/// Requests of one connection in the order in which they were sent. Holds no
/// memory until there is one.
#[derive(Debug)]
pub(super) struct Requests<K> {
    last_id: u32,
    waiting: VecDeque<(K, Instant)>,
}

impl<K> Default for Requests<K> {
    fn default() -> Self {
        Self {
            last_id: 0,
            waiting: VecDeque::new(),
        }
    }
}

impl<K> Requests<K> {
    /// An id for a new request, counted from 1.
    pub(super) fn next_id(&mut self) -> u32 {
        self.last_id = self.last_id.wrapping_add(1);
        self.last_id
    }

    /// Remembers a request that is being sent.
    pub(super) fn begin(&mut self, key: K, now: Instant) {
        self.waiting.push_back((key, now));
    }

    /// Takes out the first request that fits, with the time since it was sent.
    pub(super) fn finish(&mut self, fits: impl Fn(&K) -> bool, now: Instant) -> Option<(K, Duration)> {
        let index = self.waiting.iter().position(|(key, _)| fits(key))?;
        let (key, sent) = self.waiting.remove(index)?;
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
        Some((key, now - sent))
    }

    /// Takes out the oldest request if it has waited for `timeout`.
    pub(super) fn take_older(&mut self, now: Instant, timeout: Duration) -> Option<K> {
        let (_, sent) = self.waiting.front()?;
        if *sent + timeout > now {
            return None;
        }
        self.waiting.pop_front().map(|(key, _)| key)
    }

    /// When the oldest request was sent.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.waiting.front().map(|(_, sent)| *sent)
    }

    /// Number of requests that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}
