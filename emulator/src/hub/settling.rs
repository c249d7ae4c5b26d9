//! Evaluating the configurations: bringing every twin to what they want of it,
//! and counting what their metrics count.
//!
//! A run goes through the devices in the order of their ids, each under its own
//! lock and for as long as one twin takes; other tasks get a turn after every
//! few devices. A device that has not changed since the last run is only looked
//! at by the metrics: the versions of its twins tell. Without configurations
//! nothing runs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hub_core::configuration::{
    Configuration, ConfigurationStatus, Content, ContentKind, ContentSettings, MetricResults, Overlay,
    Settings, difference,
};
use hub_core::error::{ErrorCode, ServiceError};
use hub_core::ids::{ConfigurationId, ModuleId, Target};
use hub_core::query::{Aggregation, Query, Selection, Source};
use hub_core::registry::{IfMatch, ModuleSpec};
use hub_core::twin::TwinPatch;
use serde_json::{Map, Value, json};

use super::HubState;
use super::cell::{DeviceCell, DeviceState, Endpoint};
use super::configurations::Snapshot;
use super::row::TwinRow;
use super::twins::{TwinWrite, twin_document};

/// Devices looked at before other tasks get a turn.
const CHUNK: usize = 64;

/// What the configurations have made of a twin, and which state of it they have
/// seen.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) overlay: Overlay,
    seen: Seen,
}

/// The state of a twin as far as it matters to configurations.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    version: u64,
    reported_version: u64,
    is_edge: bool,
}

impl Seen {
    fn of(endpoint: &Endpoint, is_edge: bool) -> Self {
        Self {
            version: endpoint.twin.version(),
            reported_version: endpoint.twin.reported().version(),
            is_edge,
        }
    }
}

/// Runs the evaluation when a configuration has changed, and every `period` of
/// the hub's clock while there are configurations; never ends.
pub(crate) async fn keep_settled(hub: Arc<HubState>, period: Duration) {
    loop {
        let changed = hub.configurations.changed.notified();
        if hub.configurations.is_idle() {
            changed.await;
        } else {
            let next = hub.clock.now().saturating_add(period);
            let _ = hub.clock.timeout_at(next, changed).await;
        }
        hub.settle().await;
    }
}

impl HubState {
    /// One run over all devices. Given up when a configuration changes
    /// meanwhile: another run follows.
    async fn settle(&self) {
        let snapshot = self.configurations.snapshot();
        let queries: Vec<_> = snapshot.configurations.iter().map(|c| Queries::of(c)).collect();
        let mut tallies: Vec<_> = queries.iter().map(Queries::tally).collect();
        let mut after = None;
        loop {
            let ids = self.registry.devices_after(after.as_ref(), CHUNK);
            if !self.configurations.is_current(snapshot.revision) {
                return;
            }
            for cell in ids.iter().filter_map(|id| self.registry.find(id)) {
                self.settle_device(&cell, &snapshot);
                count(&cell.lock(), &mut tallies);
            }
            match ids.into_iter().next_back() {
                Some(last) => after = Some(last),
                None => break,
            }
            tokio::task::yield_now().await;
        }
        let results: Vec<_> = tallies.into_iter().map(Tally::finish).collect();
        self.configurations.finish(snapshot.revision, results);
    }

    fn settle_device(&self, cell: &DeviceCell, snapshot: &Snapshot) {
        let missing = {
            let state = cell.lock();
            if state.deleted || (snapshot.is_settled && is_settled(&state)) {
                return;
            }
            missing_modules(&state, &deployments(&state, snapshot))
        };
        for module in missing {
            // The registry's lock comes before a device's, so the device is
            // looked at again afterwards.
            if let Err(error) = self.deploy_module(cell, &module) {
                tracing::debug!(%module, %error, "module of a deployment not created");
            }
        }
        let mut state = cell.lock();
        if !state.deleted {
            self.settle_twins(&mut state, snapshot);
        }
    }

    fn settle_twins(&self, state: &mut DeviceState, snapshot: &Snapshot) {
        let (effective, outranked) = split_deployments(deployments(state, snapshot));
        let mut device = self.overlay(state, None, ContentKind::Device, &[], snapshot);
        let mut applied = BTreeSet::new();
        let modules: Vec<ModuleId> = state.modules.keys().cloned().collect();
        for module in modules {
            let mut overlay = self.overlay(state, Some(&module), ContentKind::Module, &effective, snapshot);
            applied.extend(
                effective
                    .iter()
                    .filter(|c| overlay.status(c.id().as_str()) == Some(ConfigurationStatus::Applied))
                    .map(|c| c.id().clone()),
            );
            if module.is_system() {
                for configuration in &outranked {
                    overlay.note(configuration.id(), ConfigurationStatus::Targeted);
                }
            }
            self.lay_over(state, Some(module), overlay, snapshot);
        }
        for configuration in effective.iter().chain(&outranked) {
            let status = if applied.contains(configuration.id()) {
                ConfigurationStatus::Applied
            } else {
                ConfigurationStatus::Targeted
            };
            device.note(configuration.id(), status);
        }
        self.lay_over(state, None, device, snapshot);
    }

    /// What the configurations of a kind, and these deployments, want of a twin.
    fn overlay(
        &self,
        state: &DeviceState,
        module: Option<&ModuleId>,
        kind: ContentKind,
        deployments: &[&Configuration],
        snapshot: &Snapshot,
    ) -> Overlay {
        let target = Target {
            device: state.identity.id.clone(),
            module: module.cloned(),
        };
        let Ok(document) = twin_document(state, &target) else {
            return Overlay::default();
        };
        let row = TwinRow(document);
        Overlay::of(snapshot.configurations.iter().filter_map(|configuration| {
            let content = configuration.content();
            let settings = match content.settings() {
                ContentSettings::Device(settings) | ContentSettings::Module(settings) => {
                    (content.kind() == kind && configuration.target().matches(&row)).then_some(settings)?
                }
                ContentSettings::Edge(modules) => {
                    let is_deployed = deployments.iter().any(|d| d.id() == configuration.id());
                    modules.get(module?).filter(|_| is_deployed)?
                }
            };
            Some((configuration.id(), settings))
        }))
    }

    /// Brings a twin to what `overlay` wants of it.
    fn lay_over(
        &self,
        state: &mut DeviceState,
        module: Option<ModuleId>,
        overlay: Overlay,
        snapshot: &Snapshot,
    ) {
        let target = Target {
            device: state.identity.id.clone(),
            module,
        };
        let is_edge = state.identity.capabilities.iot_edge;
        let Ok(endpoint) = state.endpoint(target.module.as_ref()) else {
            return;
        };
        let before = endpoint.settled.take().map(|s| s.overlay).unwrap_or_default();
        let written = match overlay.patch(&before, endpoint.twin.desired().properties()) {
            None => Ok(()),
            Some(members) => self.write_desired(state, &target, members),
        };
        let overlay = match written {
            Ok(()) => overlay,
            Err(error) => {
                tracing::debug!(%target, %error, "configurations cannot be applied");
                overlay.refused(&before)
            }
        };
        if let Ok(endpoint) = state.endpoint(target.module.as_ref())
            && !snapshot.configurations.is_empty()
        {
            let seen = Seen::of(endpoint, is_edge);
            endpoint.settled = Some(Box::new(Settled { overlay, seen }));
        }
    }

    fn write_desired(
        &self,
        state: &mut DeviceState,
        target: &Target,
        members: Map<String, Value>,
    ) -> Result<(), ServiceError> {
        let patch = desired_patch(members)?;
        self.apply(state, target, TwinWrite::Merge, &patch, &IfMatch::Any)
    }

    /// Creates a module identity that a deployment asks for.
    fn deploy_module(&self, cell: &DeviceCell, module: &ModuleId) -> Result<(), ServiceError> {
        let device = cell.lock().identity.id.clone();
        let spec = ModuleSpec::from_json(&json!({ "managedBy": "iotEdge" }), &device, module)?;
        match self.put_module(spec, &IfMatch::Absent, |_, _| ()) {
            // Somebody else was faster.
            Err(error) if error.code == ErrorCode::ModuleAlreadyExistsOnDevice => Ok(()),
            result => result,
        }
    }

    /// Applies a content to one Edge device, once: creates the modules that it
    /// names and sets desired properties. Settings for a whole section replace
    /// it.
    ///
    /// # Errors
    /// `DeviceNotFound`; `ArgumentInvalid` when the device is no Edge device or
    /// a twin would break a limit; `InvalidConfigurationContent` for the
    /// content of no particular module; too many modules. Nothing has been
    /// written then.
    pub(crate) fn apply_content(&self, target: &Target, content: &Content) -> Result<(), ServiceError> {
        let cell = self.registry.cell(&target.device)?;
        let missing = {
            let mut state = cell.lock();
            state.endpoint(None)?;
            if !state.identity.capabilities.iot_edge {
                return Err(ServiceError::invalid(format!(
                    "device {} is not an Edge device",
                    target.device
                )));
            }
            let missing = missing_in(&state, content);
            if state.modules.len() + missing.len() > hub_core::limits::MODULES_PER_DEVICE {
                return Err(ServiceError::new(
                    ErrorCode::TooManyModulesOnDevice,
                    format!("device {} cannot have so many modules", target.device),
                ));
            }
            check_content(&mut state, content, self.clock.now())?;
            missing
        };
        for module in &missing {
            self.deploy_module(&cell, module)?;
        }
        let mut state = cell.lock();
        for (module, settings) in parts(content) {
            let current = state.endpoint(module)?.twin.desired().properties();
            let members = wanted(settings, current);
            let target = Target {
                device: target.device.clone(),
                module: module.cloned(),
            };
            if !members.is_empty() {
                self.write_desired(&mut state, &target, members)?;
            }
        }
        Ok(())
    }
}

/// Whether nothing has changed since the last run.
fn is_settled(state: &DeviceState) -> bool {
    let is_edge = state.identity.capabilities.iot_edge;
    let modules = state.modules.values().map(|module| &module.endpoint);
    std::iter::once(&state.endpoint).chain(modules).all(|endpoint| {
        endpoint
            .settled
            .as_ref()
            .is_some_and(|settled| settled.seen == Seen::of(endpoint, is_edge))
    })
}

/// The deployments that select an Edge device, strongest first.
fn deployments<'a>(state: &DeviceState, snapshot: &'a Snapshot) -> Vec<&'a Configuration> {
    if !state.identity.capabilities.iot_edge {
        return Vec::new();
    }
    let Ok(document) = twin_document(state, &Target::device(state.identity.id.clone())) else {
        return Vec::new();
    };
    let row = TwinRow(document);
    snapshot
        .configurations
        .iter()
        .map(|configuration| &**configuration)
        .filter(|c| c.content().kind() == ContentKind::Edge && c.target().matches(&row))
        .collect()
}

/// Parts the deployments that count, the strongest complete one and the layers
/// above it, from those below.
fn split_deployments(deployments: Vec<&Configuration>) -> (Vec<&Configuration>, Vec<&Configuration>) {
    let base = deployments
        .iter()
        .position(|deployment| deployment.content().is_base_deployment());
    let mut effective = deployments;
    let outranked = effective.split_off(base.map_or(effective.len(), |base| base + 1));
    (effective, outranked)
}

/// The modules that the deployments ask for and that do not exist yet.
fn missing_modules(state: &DeviceState, deployments: &[&Configuration]) -> BTreeSet<ModuleId> {
    deployments
        .iter()
        .flat_map(|deployment| missing_in(state, deployment.content()))
        .collect()
}

fn missing_in(state: &DeviceState, content: &Content) -> BTreeSet<ModuleId> {
    let mut modules = content.deployed_modules();
    modules.retain(|module| !state.modules.contains_key(module));
    modules
}

/// The settings of a content for the twins of an Edge device.
fn parts(content: &Content) -> Vec<(Option<&ModuleId>, &Settings)> {
    match content.settings() {
        ContentSettings::Device(settings) => vec![(None, settings)],
        ContentSettings::Edge(modules) => modules.iter().map(|(id, s)| (Some(id), s)).collect(),
        ContentSettings::Module(_) => Vec::new(),
    }
}

/// What has to be merged so that the settings are in force.
fn wanted(settings: &Settings, current: &Map<String, Value>) -> Map<String, Value> {
    let none = Map::new();
    let owned = if settings.is_whole() { current } else { &none };
    difference(current, owned, settings.tree())
}

fn desired_patch(members: Map<String, Value>) -> Result<TwinPatch, ServiceError> {
    TwinPatch::from_json(&json!({ "properties": { "desired": members } }))
}

/// Tries a content on copies of the twins, so that applying it cannot fail half
/// way.
fn check_content(
    state: &mut DeviceState,
    content: &Content,
    now: hub_core::time::Timestamp,
) -> Result<(), ServiceError> {
    if content.kind() == ContentKind::Module {
        return Err(ServiceError::new(
            ErrorCode::InvalidConfigurationContent,
            "moduleContent does not say which module of the device is meant",
        ));
    }
    for (module, settings) in parts(content) {
        // A module that is yet to be created holds nothing and takes all.
        if module.is_some_and(|id| !state.modules.contains_key(id)) {
            continue;
        }
        let mut twin = state.endpoint(module)?.twin.clone();
        let patch = desired_patch(wanted(settings, twin.desired().properties()))?;
        twin.patch(&patch, now)?;
    }
    Ok(())
}

/// The queries behind the metrics of a configuration, ready to run.
struct Queries<'a> {
    configuration: &'a Configuration,
    /// Those of a deployment: success, failure.
    reported: Vec<Query>,
}

impl<'a> Queries<'a> {
    fn of(configuration: &'a Configuration) -> Self {
        // Targeted and applied are counted without a query.
        let reported = configuration.system_metrics();
        let reported = reported.iter().skip(2).filter_map(|(_, q)| Query::parse(q).ok());
        Self {
            configuration,
            reported: reported.collect(),
        }
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

/// Counts a device and its modules in.
fn count(state: &DeviceState, tallies: &mut [Tally<'_>]) {
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
