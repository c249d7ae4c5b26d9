//! What the metrics of configurations count, device by device.

use std::collections::HashMap;

use hub_core::configuration::{Configuration, ConfigurationStatus, ContentKind, MetricResults, Overlay};
use hub_core::ids::{ConfigurationId, Target};
use hub_core::query::{Aggregation, Attribute, Query, Selection, Source};
use hub_core::registry::Connection;

use super::cell::{DeviceState, Endpoint};
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

    /// Whether a custom metric may look at more than twins: at the identity or
    /// the connection.
    pub(super) fn are_beyond_twins(&self) -> bool {
        use Attribute::{Configurations, Desired, DeviceId, ModuleId, Reported, Tags};
        let of_twins = [Configurations, Desired, DeviceId, ModuleId, Reported, Tags];
        let mut queries = self.configuration.metrics().values().map(|metric| &metric.query);
        queries.any(|query| {
            let is_grouped = matches!(query.selection(), Selection::Groups(_));
            let attributes = query.condition_attributes();
            is_grouped || attributes.iter().any(|attribute| !of_twins.contains(attribute))
        })
    }

    fn tally(&'a self) -> Tally<'a> {
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
struct Tally<'a> {
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
        for counted in &mut self.reported {
            counted.look(row, source);
        }
        for (_, counted) in &mut self.custom {
            counted.look(row, source);
        }
    }

    fn finish(self) -> (ConfigurationId, MetricResults) {
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

/// What has been counted so far.
pub(super) struct Tallies<'a> {
    tallies: Vec<Tally<'a>>,
    /// Places in `tallies` by the ids of configurations.
    places: HashMap<&'a ConfigurationId, usize>,
    devices: usize,
}

impl<'a> Tallies<'a> {
    pub(super) fn of(queries: &'a [Queries<'a>]) -> Self {
        let tallies: Vec<_> = queries.iter().map(Queries::tally).collect();
        let places = tallies.iter().enumerate().map(|(place, tally)| (tally.id, place));
        Self {
            places: places.collect(),
            tallies,
            devices: 0,
        }
    }

    /// Counts a device and its modules in. A device deleted meanwhile is none.
    pub(super) fn count(&mut self, state: &mut DeviceState) {
        if state.deleted {
            return;
        }
        self.devices += 1;
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
            if let Ok(document) = twin_document(state, &target) {
                self.look(&TwinRow(document), source);
            }
        }
        for (endpoint, etag) in endpoints(state) {
            let facts = Facts::of(endpoint, etag);
            if let Some(settled) = &mut endpoint.settled {
                settled.counted = Some(facts);
            }
        }
    }

    fn look(&mut self, row: &TwinRow<'_>, source: Source) {
        let statuses = row.0.configurations.into_iter().flat_map(Overlay::statuses);
        for (id, status) in statuses {
            if let Some(tally) = self.places.get(id).and_then(|place| self.tallies.get_mut(*place))
                && tally.is_for_modules == (source == Source::Modules)
            {
                tally.targeted += 1;
                tally.applied += u64::from(status == ConfigurationStatus::Applied);
            }
        }
        for tally in &mut self.tallies {
            tally.look(row, source);
        }
    }

    /// How many devices were counted, and the results of each configuration.
    pub(super) fn finish(self) -> (usize, Vec<(ConfigurationId, MetricResults)>) {
        (
            self.devices,
            self.tallies.into_iter().map(Tally::finish).collect(),
        )
    }
}

/// What metrics may look at beside the twin, as it was when they were counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    connection: Connection,
    identity: Box<str>,
}

impl Facts {
    fn of(endpoint: &Endpoint, etag: &str) -> Self {
        Self {
            connection: endpoint.connection,
            identity: etag.into(),
        }
    }
}

/// Whether metrics have seen the device's identities and connections as they
/// are.
pub(super) fn is_counted(state: &mut DeviceState) -> bool {
    state.deleted
        || endpoints(state).all(|(endpoint, etag)| {
            let counted = endpoint
                .settled
                .as_ref()
                .and_then(|settled| settled.counted.as_ref());
            counted.is_some_and(|facts| facts.connection == endpoint.connection && *facts.identity == *etag)
        })
}

/// The endpoints of a device and its modules with the ETags of their identities.
fn endpoints(state: &mut DeviceState) -> impl Iterator<Item = (&mut Endpoint, &str)> {
    let modules = state.modules.values_mut();
    std::iter::once((&mut state.endpoint, &*state.identity.etag))
        .chain(modules.map(|module| (&mut module.endpoint, &*module.identity.etag)))
}
