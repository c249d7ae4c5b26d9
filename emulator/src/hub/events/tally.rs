//! How many events of each kind there were: of the hub since it started or was
//! reset, and of each device since it was created.
//!
//! Kinds are those of the journal, and what is counted is what it shows, whether
//! somebody watches or not; a method call counts when it begins. Two kinds differ:
//! identities that come and go are in the hub's counts only, and so are changes of
//! digital twins, which nobody knows of unless somebody wants them. A device's
//! counts are part of its state and changed under its lock; one that does nothing
//! has none.

use serde_json::{Map, Value};

use super::journal::Kind;
use crate::hub::counters::Counter;

const KINDS: usize = Kind::ALL.len();

/// The counts of one device and its modules.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally(Option<Box<[u32; KINDS]>>);

impl Tally {
    pub(crate) fn add(&mut self, kind: Kind, count: usize) {
        if count > 0 {
            let counts = self.0.get_or_insert_default();
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            counts[kind as usize] = counts[kind as usize].saturating_add(count);
        }
    }

    /// The counts that are not zero, by the names of their kinds; `None` for a
    /// device that did nothing.
    pub(crate) fn json(&self) -> Option<Map<String, Value>> {
        let counts = self.0.as_deref()?;
        let named = Kind::ALL.iter().zip(counts).filter(|(_, count)| **count > 0);
        Some(
            named
                .map(|(kind, count)| (kind.name().to_owned(), (*count).into()))
                .collect(),
        )
    }
}

/// The counts of the hub.
#[derive(Debug, Default)]
pub(crate) struct Totals([Counter; KINDS]);

impl Totals {
    pub(crate) fn add(&self, kind: Kind, count: usize) {
        self.0[kind as usize].add(count as u64);
    }

    pub(crate) fn reset(&self) {
        self.0.iter().for_each(Counter::reset);
    }

    /// All counts, by the names of their kinds.
    pub(crate) fn json(&self) -> Map<String, Value> {
        Kind::ALL
            .iter()
            .zip(&self.0)
            .map(|(kind, count)| (kind.name().to_owned(), count.get().into()))
            .collect()
    }
}
