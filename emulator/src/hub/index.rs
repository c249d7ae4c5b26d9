//! Indexes over the values that queries ask for again and again: which devices
//! have a row whose value at a path has a certain key.
//!
//! Nobody declares them. A path that several scans over a large registry asked
//! for gets one; the least recently used one goes when there are too many. From
//! the moment at which an index is in the set, whoever changes a device files it
//! anew under the device's lock, and the builder files those that nobody
//! changes. So an index that is ready holds every device that a scan would find
//! at that moment. It may hold more: the reader evaluates the condition again.
//!
//! Locks are taken in this order: a device's, the set of indexes, one index.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use hub_core::ids::{DeviceId, Target};
use hub_core::query::{Equality, Path, Row as _, Source, ValueKey};

use super::cell::DeviceState;
use super::row::{TwinRow, is_indexable};
use super::twins::twin_document;

/// Indexes at the same time.
const MOST_INDEXES: usize = 16;
/// Entries of all indexes together, each of some 40 bytes.
const MOST_ENTRIES: i64 = 4_000_000;
/// Paths whose questions are counted.
const MOST_COUNTED: usize = 64;
/// Values of one path that a query may ask for through an index.
const MOST_KEYS: usize = 100;
/// Candidates beyond which a scan answers: they are counted for every page.
const MOST_CANDIDATES: usize = 50_000;

/// When a path is worth an index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Worth {
    /// Devices below which a scan is cheap enough.
    pub(crate) devices: usize,
    /// Scans that ask for the path; the last of them builds the index.
    pub(crate) scans: u32,
    /// An index answers when it leaves at most one device of so many to look at.
    pub(crate) one_of: usize,
}

impl Default for Worth {
    fn default() -> Self {
        Self {
            devices: 1_000,
            scans: 3,
            one_of: 4,
        }
    }
}

/// What an index is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) source: Source,
    pub(crate) path: Path,
}

/// The indexes of a hub.
#[derive(Default)]
pub(crate) struct Indexes {
    pub(crate) worth: Worth,
    /// Whether the set is not empty, all that a change must know when it is.
    exist: AtomicBool,
    set: RwLock<Arc<[Arc<Index>]>>,
    asked: Mutex<VecDeque<Asked>>,
    /// Of all indexes; a little late, so that it may even be negative.
    entries: AtomicI64,
    /// Counts uses and indexes.
    ticks: AtomicU64,
}

/// A path without an index and the scans that asked for it.
struct Asked {
    subject: Subject,
    scans: u32,
}

/// An index: sorted by key and device, so that candidates come in the order of
/// pages and from any device on.
pub(crate) struct Index {
    /// Never used again by another index.
    id: u64,
    pub(crate) subject: Subject,
    used: AtomicU64,
    filed: Mutex<FiledDevices>,
}

struct FiledDevices {
    stage: Stage,
    /// No device sorts before all devices.
    entries: BTreeSet<(ValueKey, Option<DeviceId>)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not all devices have been filed yet.
    Building,
    Ready,
    /// Changes are filed no more.
    Retired,
}

/// Where a device is filed: its entries in all indexes.
#[derive(Debug, Default)]
pub(crate) struct Filed(Box<[Entry]>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    index: u64,
    key: ValueKey,
}

/// An index that can answer a query, and what to ask of it.
pub(crate) struct Lookup {
    pub(crate) index: Arc<Index>,
    keys: Vec<ValueKey>,
    /// Devices to look at; counted up to a bound.
    pub(crate) candidates: usize,
}

impl Indexes {
    #[cfg(test)]
    pub(super) fn new(worth: Worth) -> Self {
        Self {
            worth,
            ..Self::default()
        }
    }

    /// Whether there is any index.
    pub(super) fn exist(&self) -> bool {
        // Whoever filed a device for a new index did so under the device's lock
        // after setting this, so the next one to lock the device sees it.
        self.exist.load(Ordering::Relaxed)
    }

    /// Brings the entries of a device in all indexes to its state.
    pub(super) fn file(&self, state: &mut DeviceState) {
        let set = self.set();
        let mut seen = 0;
        let mut same = true;
        for_each_entry(&set, state, |entry| {
            same &= state.filed.0.get(seen) == Some(&entry);
            seen += 1;
        });
        if same && seen == state.filed.0.len() {
            return;
        }
        let mut new = Vec::with_capacity(seen);
        for_each_entry(&set, state, |entry| new.push(entry));
        for index in &*set {
            let added = index.replace(&state.identity.id, &state.filed.0, &new);
            self.entries.fetch_add(added, Ordering::Relaxed);
        }
        state.filed = Filed(new.into());
    }

    /// Whether looking at so many of all devices takes less than a scan.
    pub(super) fn is_worth(&self, candidates: usize, devices: usize) -> bool {
        candidates <= self.most_candidates(devices)
    }

    fn most_candidates(&self, devices: usize) -> usize {
        (devices / self.worth.one_of.max(1)).min(MOST_CANDIDATES)
    }

    /// The index that leaves the fewest of `devices` devices to look at. It may
    /// still not be worth it.
    pub(super) fn best(&self, source: Source, terms: &[Equality<'_>], devices: usize) -> Option<Lookup> {
        let set = self.set();
        let enough = self.most_candidates(devices) + 1;
        usable(source, terms)
            .filter_map(|term| {
                let index = set.iter().find(|index| index.subject.is(source, term.path))?;
                Some(Lookup {
                    candidates: index.count(&term.keys, enough)?,
                    keys: term.keys.clone(),
                    index: index.clone(),
                })
            })
            .min_by_key(|lookup| lookup.candidates)
    }

    /// Notes that a query is answered by an index.
    pub(super) fn touch(&self, index: &Index) {
        index.used.store(self.tick(), Ordering::Relaxed);
    }

    /// Notes that a scan asked for these paths, and says which of them have been
    /// asked for often enough to be indexed.
    pub(super) fn ask(&self, source: Source, terms: &[Equality<'_>]) -> Vec<Subject> {
        let set = self.set();
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wanted = Vec::new();
        for term in usable(source, terms) {
            if set.iter().any(|index| index.subject.is(source, term.path)) {
                continue;
            }
            let known = asked.iter().position(|a| a.subject.is(source, term.path));
            let mut entry = known.and_then(|i| asked.remove(i)).unwrap_or_else(|| Asked {
                subject: Subject {
                    source,
                    path: term.path.clone(),
                },
                scans: 0,
            });
            entry.scans += 1;
            if entry.scans >= self.worth.scans {
                wanted.push(entry.subject);
                continue;
            }
            if asked.len() >= MOST_COUNTED {
                asked.pop_front();
            }
            asked.push_back(entry);
        }
        wanted
    }

    /// Puts a new index into the set, where changes keep it from now on; `None`
    /// when there is one already. It answers once the caller, having filed every
    /// device, finishes it, and is gone if the caller does not.
    pub(super) fn begin(self: &Arc<Self>, subject: Subject) -> Option<Unfinished> {
        let index = Arc::new(Index {
            id: self.tick(),
            subject,
            used: AtomicU64::new(self.tick()),
            filed: Mutex::new(FiledDevices {
                stage: Stage::Building,
                entries: BTreeSet::new(),
            }),
        });
        let mut set = self.set.write().unwrap_or_else(PoisonError::into_inner);
        let mut indexes = set.to_vec();
        if indexes.iter().any(|other| other.subject == index.subject) {
            return None;
        }
        while indexes.len() >= MOST_INDEXES || self.are_full() {
            let used = |index: &Arc<Index>| index.used.load(Ordering::Relaxed);
            let Some(oldest) = indexes.iter().map(used).min() else {
                break;
            };
            let (kept, gone) = indexes.into_iter().partition(|index| used(index) > oldest);
            indexes = kept;
            gone.iter().for_each(|index: &Arc<Index>| self.retire(index));
        }
        indexes.push(index.clone());
        self.exist.store(true, Ordering::Relaxed);
        *set = indexes.into();
        Some(Unfinished {
            indexes: self.clone(),
            index: Some(index),
        })
    }

    /// Whether the indexes have grown too large for another entry.
    pub(super) fn are_full(&self) -> bool {
        self.entries.load(Ordering::Relaxed) > MOST_ENTRIES
    }

    /// Removes every index and forgets what was asked for.
    pub(crate) fn clear(&self) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.keep(|_| false);
    }

    /// Removes the indexes that `is_kept` does not want.
    fn keep(&self, is_kept: impl Fn(&Index) -> bool) {
        let mut set = self.set.write().unwrap_or_else(PoisonError::into_inner);
        let (kept, gone): (Vec<_>, Vec<_>) = set.iter().cloned().partition(|index| is_kept(index));
        gone.iter().for_each(|index| self.retire(index));
        self.exist.store(!kept.is_empty(), Ordering::Relaxed);
        *set = kept.into();
    }

    /// Before the index leaves the set, so that no reader takes it for current
    /// when changes are no longer filed.
    fn retire(&self, index: &Index) {
        let mut filed = index.lock();
        filed.stage = Stage::Retired;
        let entries = std::mem::take(&mut filed.entries).len();
        self.entries
            .fetch_sub(i64::try_from(entries).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    fn set(&self) -> Arc<[Arc<Index>]> {
        self.set.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::Relaxed)
    }
}

/// The terms of a query that an index can serve.
pub(super) fn usable<'t, 'q>(
    source: Source,
    terms: &'t [Equality<'q>],
) -> impl Iterator<Item = &'t Equality<'q>> {
    terms
        .iter()
        .filter(move |term| term.keys.len() <= MOST_KEYS && is_indexable(source, term.path))
}

impl Subject {
    fn is(&self, source: Source, path: &Path) -> bool {
        self.source == source && self.path == *path
    }
}

impl Index {
    fn lock(&self) -> MutexGuard<'_, FiledDevices> {
        self.filed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces a device's entries; returns how many more there are then. A
    /// reader sees the device all the time if both have an entry that it wants.
    fn replace(&self, device: &DeviceId, old: &[Entry], new: &[Entry]) -> i64 {
        let mut filed = self.lock();
        if filed.stage == Stage::Retired {
            return 0;
        }
        let is_mine = |entry: &&Entry| entry.index == self.id;
        let mut added = 0;
        for entry in old.iter().filter(is_mine).filter(|entry| !new.contains(entry)) {
            added -= i64::from(filed.entries.remove(&(entry.key, Some(device.clone()))));
        }
        for entry in new.iter().filter(is_mine) {
            added += i64::from(filed.entries.insert((entry.key, Some(device.clone()))));
        }
        added
    }

    /// How many devices have an entry with one of the keys, counted up to
    /// `enough`; `None` while the index does not answer.
    fn count(&self, keys: &[ValueKey], enough: usize) -> Option<usize> {
        let filed = self.lock();
        (filed.stage == Stage::Ready).then(|| {
            let each = keys.iter().flat_map(|key| filed.with_key(*key, Bound::Unbounded));
            each.take(enough).count()
        })
    }
}

impl FiledDevices {
    fn with_key(&self, key: ValueKey, from: Bound<&DeviceId>) -> impl Iterator<Item = &DeviceId> {
        let start = match from {
            Bound::Unbounded => Bound::Excluded((key, None)),
            Bound::Included(id) => Bound::Included((key, Some(id.clone()))),
            Bound::Excluded(id) => Bound::Excluded((key, Some(id.clone()))),
        };
        self.entries
            .range((start, Bound::Unbounded))
            .take_while(move |(other, _)| *other == key)
            .filter_map(|(_, id)| id.as_ref())
    }
}

impl Lookup {
    /// Up to `count` candidates in order, starting at `from`; `None` when the
    /// index is gone.
    pub(super) fn next(&self, from: Bound<&DeviceId>, count: usize) -> Option<Vec<DeviceId>> {
        // All keys under one lock: a device that changes from one value to
        // another is in the entries of one of them.
        let filed = self.index.lock();
        if filed.stage != Stage::Ready {
            return None;
        }
        let mut ids: Vec<DeviceId> = Vec::new();
        for key in &self.keys {
            ids.extend(filed.with_key(*key, from).take(count).cloned());
        }
        drop(filed);
        ids.sort_unstable();
        ids.dedup();
        ids.truncate(count);
        Some(ids)
    }
}

/// An index that is being built.
pub(super) struct Unfinished {
    indexes: Arc<Indexes>,
    index: Option<Arc<Index>>,
}

impl Unfinished {
    /// All devices have been filed.
    pub(super) fn finish(mut self) {
        if let Some(index) = self.index.take() {
            let mut filed = index.lock();
            if filed.stage == Stage::Building {
                filed.stage = Stage::Ready;
            }
        }
    }
}

/// The build was given up.
impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(index) = &self.index {
            self.indexes.keep(|other| other.id != index.id);
        }
    }
}

/// The entries that a device ought to have.
fn for_each_entry(set: &[Arc<Index>], state: &DeviceState, mut see: impl FnMut(Entry)) {
    for index in set {
        for_each_row(state, index.subject.source, |row| {
            if let Some(key) = row.get(&index.subject.path).key() {
                see(Entry { index: index.id, key });
            }
        });
    }
}

fn for_each_row(state: &DeviceState, source: Source, mut see: impl FnMut(&TwinRow<'_>)) {
    let mut target = Target::device(state.identity.id.clone());
    match source {
        Source::Devices => {
            if let Ok(document) = twin_document(state, &target) {
                see(&TwinRow(document));
            }
        }
        Source::Modules => {
            for module in state.modules.keys() {
                target.module = Some(module.clone());
                if let Ok(document) = twin_document(state, &target) {
                    see(&TwinRow(document));
                }
            }
        }
        Source::Jobs => {}
    }
}
