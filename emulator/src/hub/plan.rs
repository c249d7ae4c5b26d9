//! Which devices a query has to look at: those that it names, those that an
//! index knows, or all of them.

use std::ops::Bound;

use hub_core::ids::DeviceId;
use hub_core::query::Query;

use super::HubState;
use super::index::{Lookup, Subject, usable};

/// Devices filed before other tasks get a turn.
const CHUNK: usize = 256;

/// How a query over devices or modules finds its rows.
pub(crate) enum Plan {
    /// The condition names these devices, sorted.
    Devices(Vec<DeviceId>),
    /// An index knows which devices can match.
    Index(Lookup),
    /// All devices are looked at.
    Scan(NoIndex),
}

/// Why a query looks at all devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoIndex {
    /// There is no equality that an index could answer.
    NoEquality,
    /// There are so few devices that a scan is as fast.
    FewDevices,
    /// No index over any of the paths, they have not been asked for often.
    NotAskedOften,
    /// The index leaves too many devices to look at.
    TooManyCandidates,
    /// Queries lag behind, and indexes know the present only.
    Lag,
    /// The index that was used has made place for another one.
    Gone,
}

impl HubState {
    /// The plan for a query, as it stands.
    pub(crate) fn existing_plan(&self, query: &Query) -> Plan {
        // A condition that names its devices is answered from them alone.
        if let Some(ids) = query.device_ids() {
            let ids = ids.into_iter().filter_map(|id| DeviceId::parse(id).ok());
            return Plan::Devices(ids.collect());
        }
        let terms = query.equalities();
        if usable(query.source(), &terms).next().is_none() {
            return Plan::Scan(NoIndex::NoEquality);
        }
        if self.views.lag.is_some() {
            return Plan::Scan(NoIndex::Lag);
        }
        let devices = self.registry.len();
        match self.views.indexes.best(query.source(), &terms, devices) {
            Some(lookup) if self.views.indexes.is_worth(lookup.candidates, devices) => Plan::Index(lookup),
            Some(_) => Plan::Scan(NoIndex::TooManyCandidates),
            None if devices < self.views.indexes.worth.devices => Plan::Scan(NoIndex::FewDevices),
            None => Plan::Scan(NoIndex::NotAskedOften),
        }
    }

    /// The plan by which a query is run. A path that has been asked for often
    /// enough gets its index first, which takes about as long as the scan would.
    pub(super) async fn plan(&self, query: &Query) -> Plan {
        let mut plan = self.existing_plan(query);
        if let Plan::Scan(NoIndex::NotAskedOften) = plan {
            let wanted = self.views.indexes.ask(query.source(), &query.equalities());
            if !wanted.is_empty() {
                for subject in wanted {
                    self.build_index(subject).await;
                }
                plan = self.existing_plan(query);
            }
        }
        if let Plan::Index(lookup) = &plan {
            self.views.indexes.touch(&lookup.index);
        }
        plan
    }

    async fn build_index(&self, subject: Subject) {
        let Some(unfinished) = self.views.indexes.begin(subject) else {
            return;
        };
        let mut from = Bound::Unbounded;
        loop {
            let (cells, last) = self.registry.cells_from(from.as_ref(), CHUNK);
            for cell in &cells {
                cell.file();
            }
            match last {
                Some(last) => from = Bound::Excluded(last),
                None => break,
            }
            if self.views.indexes.are_full() {
                return;
            }
            tokio::task::yield_now().await;
        }
        unfinished.finish();
    }
}

#[cfg(test)]
mod concurrent_tests;
#[cfg(test)]
mod tests;
