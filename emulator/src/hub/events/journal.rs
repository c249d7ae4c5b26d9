//! The journal: what happens in the hub, for those who watch it live.
//!
//! Beside the event stream, which back ends read as in the cloud, people want to
//! see what goes on, things that no route can carry included: method calls and
//! the way of messages to devices. Whoever makes something happen
//! [`record`](Journal::record)s it here. The journal is a ring with bounds
//! ([`limits::JOURNAL_ENTRIES`], [`limits::JOURNAL_BYTES`]) and keeps nothing
//! unless somebody watches, or did until a few minutes ago: then a call costs the
//! load of one flag.
//!
//! A [`Watcher`] has a place of its own in the ring and reads copies of
//! references; nobody waits for it. One that is too slow finds a [`Gap`] that
//! says how much it has missed. An entry is kept as it came, property bag and
//! body, and taken apart by who watches, not by the device that caused it.
//!
//! Watching within the process:
//!
//! ```ignore
//! let mut watcher = hub.events.journal.watch(None, Filter::default())?;
//! while let Some(seen) = watcher.next().await {
//!     match seen {
//!         Seen::Entry(id, entry) => { /* entry.kind, entry.properties(), … */ }
//!         Seen::Gap(gap) => { /* gap.missed entries are gone */ }
//!     }
//! }
//! ```
//!
//! The journal's lock is taken last, after a device's and in place of a
//! partition's, and held for the time of a push.

mod entry;
mod filter;

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hub_core::limits;
use job_service::Clock;
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) use entry::{Entry, Happening, Kind, RouteNames};
pub(crate) use filter::{FILTER_NAMES, Filter};

/// Entries that a watcher takes at once, and their bytes: what a watcher that
/// has stopped reading keeps from being freed.
const TAKEN: usize = 256;
const TAKEN_BYTES: usize = 256 * 1024;

/// Time between two wake-ups of a watcher, so that what happens often does not
/// cost a wake-up each time it does. What happens after a pause is seen at once.
const WAKE_INTERVAL: Duration = Duration::from_millis(10);

/// How long a hub that stops waits for its watchers.
const FAREWELL: Duration = Duration::from_millis(500);

/// The ring. See the module's documentation.
pub(crate) struct Journal {
    clock: Clock,
    /// Whether entries are kept.
    active: AtomicBool,
    ring: Mutex<Ring>,
    news: Notify,
    /// The call to who waits for the last watcher to leave.
    left: Notify,
}

struct Ring {
    entries: VecDeque<Arc<Entry>>,
    /// Memory of the entries.
    bytes: usize,
    /// Id of the next entry; that of the first is `next` less the entries.
    next: u64,
    /// Id of the first entry since the journal keeps entries without a break.
    since: u64,
    watchers: usize,
    /// Gaps that watchers were shown, and the entries that they miss by them.
    gaps: u64,
    missed: u64,
    /// When the last watcher left, by [`Clock::elapsed`].
    idle_since: Duration,
    is_closed: bool,
}

impl Ring {
    /// Id of the oldest entry, or of the next one.
    fn first(&self) -> u64 {
        self.next - self.entries.len() as u64
    }
}

/// As many watch as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} watch the hub's events already, which is the most",
    limits::JOURNAL_WATCHERS
)]
pub(crate) struct TooManyWatchers;

/// What a watcher gets.
#[derive(Debug, Clone)]
pub(crate) enum Seen {
    /// Something happened. Ids grow by one from entry to entry.
    Entry(u64, Arc<Entry>),
    /// Something is missing here.
    Gap(Gap),
}

/// Entries that a watcher does not get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gap {
    /// How many there were, whether the watcher would have wanted them or not;
    /// `None` when the journal did not keep entries meanwhile, so that there may
    /// have been any number.
    pub(crate) missed: Option<u64>,
    /// Id before that of the next entry: where to go on after the gap.
    pub(crate) last: u64,
}

/// How it goes with those who watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Figures {
    /// How many watch at this moment.
    pub(crate) watchers: usize,
    /// Gaps that watchers have come upon since the hub started or was reset.
    pub(crate) gaps: u64,
    /// Entries that they have missed by them, each watcher's counted, as far as
    /// it is known how many there were.
    pub(crate) missed: u64,
}

impl Journal {
    pub(crate) fn new(clock: Clock) -> Self {
        // From the time on, in microseconds, so that ids grow from one hub to
        // the next too, as far as clocks do: who comes back with an id of an
        // earlier hub is told of a gap. JSON's numbers hold them.
        let next = u64::try_from(Clock::system_now().unix_ticks() / 10)
            .unwrap_or(0)
            .max(1);
        Self {
            clock,
            active: AtomicBool::new(false),
            ring: Mutex::new(Ring {
                entries: VecDeque::new(),
                bytes: 0,
                next,
                since: next,
                watchers: 0,
                gaps: 0,
                missed: 0,
                idle_since: Duration::ZERO,
                is_closed: false,
            }),
            news: Notify::new(),
            left: Notify::new(),
        }
    }

    /// Whether entries are kept. Callers ask before they make anything for an
    /// entry.
    pub(crate) fn is_active(&self) -> bool {
        // What happens while the first watcher comes may be seen or not.
        self.active.load(Ordering::Relaxed)
    }

    /// Keeps an entry, if the journal is active. When this returns, watchers can
    /// see it.
    pub(crate) fn record(&self, happening: &Happening<'_>) {
        if !self.is_active() {
            return;
        }
        let entry = Arc::new(Entry::of(happening));
        let size = entry.size();
        // Freed when the ring is free again.
        let mut evicted = Vec::new();
        let mut ring = self.lock();
        if ring.watchers == 0 && self.clock.elapsed().saturating_sub(ring.idle_since) > limits::JOURNAL_LINGER
        {
            self.active.store(false, Ordering::Relaxed);
            ring.bytes = 0;
            let entries = std::mem::take(&mut ring.entries);
            drop(ring);
            drop(entries);
            return;
        }
        while ring.entries.len() >= limits::JOURNAL_ENTRIES
            || !ring.entries.is_empty() && ring.bytes + size > limits::JOURNAL_BYTES
        {
            let Some(oldest) = ring.entries.pop_front() else {
                break;
            };
            ring.bytes -= oldest.size();
            evicted.push(oldest);
        }
        ring.entries.push_back(entry);
        ring.bytes += size;
        ring.next += 1;
        drop(ring);
        drop(evicted);
        self.news.notify_waiters();
    }

    /// Begins to watch: what happens from now on, or what has happened since the
    /// entry with the id `after`, as far as it is kept; 0 means everything that
    /// is. If entries behind `after` are gone, or it is no id of this journal,
    /// the first thing to see is a [`Gap`]. `filter` says what is wanted.
    ///
    /// # Errors
    /// When [`limits::JOURNAL_WATCHERS`] watch already.
    pub(crate) fn watch(
        self: &Arc<Self>,
        after: Option<u64>,
        filter: Filter,
    ) -> Result<Watcher, TooManyWatchers> {
        let mut ring = self.lock();
        if ring.watchers >= limits::JOURNAL_WATCHERS {
            return Err(TooManyWatchers);
        }
        ring.watchers += 1;
        if !self.active.swap(true, Ordering::Relaxed) {
            // An id is left out, so that nobody takes the break for none.
            ring.next += 1;
            ring.since = ring.next;
        }
        let next = match after {
            None => ring.next,
            Some(0) => ring.first(),
            Some(after) => after.saturating_add(1),
        };
        drop(ring);
        Ok(Watcher {
            journal: self.clone(),
            filter,
            next,
            taken: VecDeque::new(),
            woken: None,
        })
    }

    /// How it goes with the watchers.
    pub(crate) fn figures(&self) -> Figures {
        let ring = self.lock();
        Figures {
            watchers: ring.watchers,
            gaps: ring.gaps,
            missed: ring.missed,
        }
    }

    /// Forgets all entries; watchers that have not seen them find a gap. What was
    /// missed until now is forgotten as well.
    pub(crate) fn clear(&self) {
        let entries = {
            let mut ring = self.lock();
            ring.bytes = 0;
            (ring.gaps, ring.missed) = (0, 0);
            std::mem::take(&mut ring.entries)
        };
        drop(entries);
        self.news.notify_waiters();
    }

    /// Ends all watchers because the hub stops, and waits until they have seen
    /// everything and left; those that do not read are not waited for long.
    pub(crate) async fn close(&self) {
        let mut left = pin!(self.left.notified());
        left.as_mut().enable();
        let watchers = {
            let mut ring = self.lock();
            ring.is_closed = true;
            ring.watchers
        };
        self.news.notify_waiters();
        if watchers > 0 {
            let _ = tokio::time::timeout(FAREWELL, left).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        // A panic cannot leave the ring half changed.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches the journal; made by [`Journal::watch`]. Dropping it gives its place
/// to others.
pub(crate) struct Watcher {
    journal: Arc<Journal>,
    filter: Filter,
    /// Id of the next entry to take out of the ring.
    next: u64,
    /// Taken out and not yet given, with their ids.
    taken: VecDeque<(u64, Arc<Entry>)>,
    /// When news last came.
    woken: Option<Instant>,
}

/// What a look at the ring has brought.
enum Look {
    Gap(Gap),
    Taken,
    Nothing,
    Closed,
}

impl Watcher {
    /// The next entry that is wanted, or gap, as soon as there is one; `None`
    /// when the hub stops. Nothing is lost when the caller stops waiting.
    pub(crate) async fn next(&mut self) -> Option<Seen> {
        let journal = self.journal.clone();
        loop {
            while let Some((id, entry)) = self.taken.pop_front() {
                if self.filter.accepts(&entry) {
                    return Some(Seen::Entry(id, entry));
                }
            }
            // Listening before looking: nothing can come between the two.
            let mut news = pin!(journal.news.notified());
            news.as_mut().enable();
            match self.look() {
                Look::Gap(gap) => return Some(Seen::Gap(gap)),
                Look::Closed => return None,
                // Filtering and writing so many is work: devices have a turn.
                Look::Taken => tokio::task::yield_now().await,
                Look::Nothing => {
                    news.await;
                    if let Some(woken) = self.woken {
                        tokio::time::sleep_until(woken + WAKE_INTERVAL).await;
                    }
                    self.woken = Some(Instant::now());
                }
            }
        }
    }

    /// Id of the last entry that the watcher has looked at, wanted or not: where
    /// to go on later.
    pub(crate) fn position(&self) -> u64 {
        self.taken.front().map_or(self.next, |(id, _)| *id) - 1
    }

    fn look(&mut self) -> Look {
        let mut ring = self.journal.lock();
        let first = ring.first();
        if self.next < first || self.next > ring.next {
            let missed = (ring.since..first)
                .contains(&self.next)
                .then(|| first - self.next);
            ring.gaps += 1;
            ring.missed += missed.unwrap_or(0);
            self.next = first;
            return Look::Gap(Gap {
                missed,
                last: first - 1,
            });
        }
        let mut bytes = 0;
        // Both are small: the ring holds what lies between.
        for entry in ring.entries.iter().skip((self.next - first) as usize).take(TAKEN) {
            bytes += entry.size();
            if bytes > TAKEN_BYTES && !self.taken.is_empty() {
                break;
            }
            self.taken.push_back((self.next, entry.clone()));
            self.next += 1;
        }
        match (self.taken.is_empty(), ring.is_closed) {
            (false, _) => Look::Taken,
            (true, true) => Look::Closed,
            (true, false) => Look::Nothing,
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut ring = self.journal.lock();
        ring.watchers -= 1;
        if ring.watchers == 0 {
            ring.idle_since = self.journal.clock.elapsed();
            self.journal.left.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests;
