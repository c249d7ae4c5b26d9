//! What the metrics of configurations count, device by device.

use hub_core::configuration::{Configuration, ConfigurationStatus, ContentKind, MetricResults};
use hub_core::ids::{ConfigurationId, Target};
use hub_core::query::{Aggregation, Query, Selection, Source};

use super::cell::DeviceState;
use super::row::TwinRow;
use super::twins::twin_document;

/// The queries behind the metrics of a configuration, ready to run.
pub(super) struct Queries<'a> {
    configuration: &'a Configuration,
    /// Those of a deployment: success, failure.
    reported: Vec<Query>,
}

impl<'a> Queries<'a> {
    pub(super) fn of(configuration: &'a Configuration) -> Self {
        // Targeted and applied are counted without a query.
        let reported = configuration.system_metrics();
        let reported = reported.iter().skip(2).filter_map(|(_, q)| Query::parse(q).ok());
        Self {
            configuration,
            reported: reported.collect(),
        }
    }

    pub(super) fn tally(&'a self) -> Tally<'a> {
        Tally {
            id: self.configuration.id(),
            is_for_modules: self.configuration.content().kind() == ContentKind::Module,
            targeted: 0,
            applied: 0,
            reported: self.reported.iter().map(Counted::new).collect(),
            custom: self
                .configuration
                .metrics()
                .iter()
                .map(|(name, metric)| (&**name, Counted::new(&metric.query)))
                .collect(),
        }
    }
}

/// What has been counted for a configuration so far.
pub(super) struct Tally<'a> {
    id: &'a ConfigurationId,
    is_for_modules: bool,
    targeted: u64,
    applied: u64,
    reported: Vec<Counted<'a>>,
    custom: Vec<(&'a str, Counted<'a>)>,
}

/// The rows of a query so far.
struct Counted<'a> {
    query: &'a Query,
    rows: u64,
    groups: Option<Aggregation<'a>>,
}

impl<'a> Counted<'a> {
    fn new(query: &'a Query) -> Self {
        Self {
            query,
            rows: 0,
            groups: match query.selection() {
                Selection::Groups(grouping) => Some(grouping.aggregate()),
                _ => None,
            },
        }
    }

    fn look(&mut self, row: &TwinRow<'_>, source: Source) {
        if self.query.source() != source || !self.query.matches(row) {
            return;
        }
        match &mut self.groups {
            Some(groups) => groups.add(row),
            None => self.rows += 1,
        }
    }

    fn finish(self) -> u64 {
        match self.groups {
            Some(groups) => groups.finish().len() as u64,
            None => self.rows.min(self.query.top().unwrap_or(u64::MAX)),
        }
    }
}

impl Tally<'_> {
    fn look(&mut self, row: &TwinRow<'_>, source: Source) {
        let status = row.0.configurations.and_then(|c| c.status(self.id.as_str()));
        if self.is_for_modules == (source == Source::Modules)
            && let Some(status) = status
        {
            self.targeted += 1;
            self.applied += u64::from(status == ConfigurationStatus::Applied);
        }
        for counted in &mut self.reported {
            counted.look(row, source);
        }
        for (_, counted) in &mut self.custom {
            counted.look(row, source);
        }
    }

    pub(super) fn finish(self) -> (ConfigurationId, MetricResults) {
        let mut reported = self.reported.into_iter().map(Counted::finish);
        let results = MetricResults {
            targeted: self.targeted,
            applied: self.applied,
            reported_successful: reported.next().unwrap_or(0),
            reported_failed: reported.next().unwrap_or(0),
            custom: self
                .custom
                .into_iter()
                .map(|(name, counted)| (name.into(), counted.finish()))
                .collect(),
        };
        (self.id.clone(), results)
    }
}

/// Counts a device and its modules in.
pub(super) fn count(state: &DeviceState, tallies: &mut [Tally<'_>]) {
    let device = &state.identity.id;
    let modules = state.modules.keys().cloned().map(Some);
    for module in std::iter::once(None).chain(modules) {
        let source = if module.is_none() {
            Source::Devices
        } else {
            Source::Modules
        };
        let target = Target {
            device: device.clone(),
            module,
        };
        // A device deleted meanwhile is no row.
        if let Ok(document) = twin_document(state, &target) {
            let row = TwinRow(document);
            for tally in &mut *tallies {
                tally.look(&row, source);
            }
        }
    }
}
