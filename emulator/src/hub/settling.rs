//! Evaluating the configurations: bringing every twin to what they want of it,
//! and counting what their metrics count.
//!
//! A run goes through the devices in the order of their ids, each under its own
//! lock and for as long as one twin takes; other tasks get a turn after every
//! few devices. A device that has not changed since the last run is passed over:
//! the versions of its twins tell. Metrics are counted again only when a device
//! has changed, come or gone. Without configurations nothing runs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hub_core::configuration::{Configuration, ConfigurationStatus, ContentKind, ContentSettings, Overlay};
use hub_core::error::ServiceError;
use hub_core::ids::{ModuleId, Target};

use super::HubState;
use super::cell::{DeviceCell, DeviceState, Endpoint};
use super::configuration_metrics::{Facts, Queries, Tallies, is_counted};
use super::configurations::Snapshot;
use super::deployment::missing_in;
use super::row::TwinRow;
use super::twins::twin_document;

/// Devices looked at before other tasks get a turn.
const CHUNK: usize = 16;

/// What the configurations have made of a twin, and which state of it they have
/// seen.
#[derive(Debug, Clone)]
pub(crate) struct Settled {
    pub(crate) overlay: Overlay,
    seen: Seen,
    /// What metrics have seen beside the twin.
    pub(super) counted: Option<Facts>,
}

/// The state of a twin as far as it matters to configurations.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    version: u64,
    reported_version: u64,
    is_edge: bool,
    /// How many modules the device has: one that a deployment brought may have
    /// been deleted.
    modules: usize,
}

impl Seen {
    fn of(endpoint: &Endpoint, is_edge: bool, modules: usize) -> Self {
        Self {
            version: endpoint.twin.version(),
            reported_version: endpoint.twin.reported().version(),
            is_edge,
            modules,
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
            let next = hub.clock.elapsed().saturating_add(period);
            let _ = hub.clock.timeout_at(next, changed).await;
        }
        hub.settle().await;
    }
}

impl HubState {
    /// One run over all devices, and one to count them if anything has changed.
    /// Given up when a configuration changes meanwhile: another run follows.
    async fn settle(&self) {
        let snapshot = self.configurations.snapshot();
        let queries: Vec<_> = snapshot.configurations.iter().map(|c| Queries::of(c)).collect();
        let are_beyond_twins = queries.iter().any(Queries::are_beyond_twins);
        let (mut devices, mut has_changed) = (0, !snapshot.is_settled);
        let is_complete = self.visit(&snapshot, |cell| {
            let was_settled = self.settle_device(cell, &snapshot);
            has_changed |= !was_settled || (are_beyond_twins && !is_counted(&mut cell.lock()));
            devices += 1;
        });
        if !is_complete.await || !(has_changed || devices != snapshot.devices) {
            return;
        }
        let mut tallies = Tallies::of(&queries);
        if self
            .visit(&snapshot, |cell| tallies.count(&mut cell.lock()))
            .await
        {
            let (devices, results) = tallies.finish();
            self.configurations.finish(snapshot.revision, devices, results);
        }
    }

    /// Looks at every device, unless a configuration changes meanwhile; says
    /// whether that was not so.
    async fn visit(&self, snapshot: &Snapshot, mut look: impl FnMut(&DeviceCell)) -> bool {
        let mut after = None;
        loop {
            let ids = self.registry.devices_after(after.as_ref(), CHUNK);
            if !self.configurations.is_current(snapshot.revision) {
                return false;
            }
            for cell in ids.iter().filter_map(|id| self.registry.find(id)) {
                look(&cell);
            }
            match ids.into_iter().next_back() {
                Some(last) => after = Some(last),
                None => return true,
            }
            tokio::task::yield_now().await;
        }
    }

    /// Brings a device to what the configurations want of it; says whether the
    /// last run left it so.
    fn settle_device(&self, cell: &DeviceCell, snapshot: &Snapshot) -> bool {
        let missing = {
            let state = cell.lock();
            if state.deleted || (snapshot.is_settled && is_settled(&state)) {
                return true;
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
        false
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
        let (is_edge, modules) = (state.identity.capabilities.iot_edge, state.modules.len());
        let Ok(endpoint) = state.endpoint(target.module.as_ref()) else {
            return;
        };
        let before = endpoint.settled.take().map(|s| s.overlay).unwrap_or_default();
        let overlay = match self.write_overlay(state, &target, &overlay, &before) {
            Ok(()) => overlay,
            Err(error) => {
                tracing::debug!(%target, %error, "configurations cannot be applied");
                let reduced = overlay.reduced(&before);
                match self.write_overlay(state, &target, &reduced, &before) {
                    Ok(()) => reduced,
                    Err(_) => overlay.refused(&before),
                }
            }
        };
        if let Ok(endpoint) = state.endpoint(target.module.as_ref())
            && !snapshot.configurations.is_empty()
        {
            let seen = Seen::of(endpoint, is_edge, modules);
            let counted = None;
            endpoint.settled = Some(Box::new(Settled {
                overlay,
                seen,
                counted,
            }));
        }
    }

    fn write_overlay(
        &self,
        state: &mut DeviceState,
        target: &Target,
        overlay: &Overlay,
        before: &Overlay,
    ) -> Result<(), ServiceError> {
        let desired = state.endpoint(target.module.as_ref())?.twin.desired();
        match overlay.patch(before, &desired.properties().to_json()) {
            None => Ok(()),
            Some(members) => self.write_desired(state, target, &members),
        }
    }
}

/// Whether nothing has changed since the last run.
fn is_settled(state: &DeviceState) -> bool {
    let (is_edge, modules) = (state.identity.capabilities.iot_edge, state.modules.len());
    let endpoints = state.modules.values().map(|module| &module.endpoint);
    std::iter::once(&state.endpoint).chain(endpoints).all(|endpoint| {
        endpoint
            .settled
            .as_ref()
            .is_some_and(|settled| settled.seen == Seen::of(endpoint, is_edge, modules))
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
