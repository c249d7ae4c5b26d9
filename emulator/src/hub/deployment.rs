//! Contents as the desired properties and modules of one device: what the
//! evaluation writes for a configuration, and what a request applies to an Edge
//! device once.

use std::collections::BTreeSet;

use hub_core::configuration::{Content, ContentKind, ContentSettings, Settings, difference};
use hub_core::error::{ErrorCode, ServiceError};
use hub_core::ids::{ModuleId, Target};
use hub_core::limits;
use hub_core::registry::{IfMatch, ModuleSpec};
use hub_core::time::Timestamp;
use hub_core::twin::TwinPatch;
use serde_json::{Map, Value, json};

use super::HubState;
use super::cell::{DeviceCell, DeviceState};
use super::twins::TwinWrite;

impl HubState {
    /// Merges desired properties into a twin of a device that the caller has
    /// locked.
    ///
    /// # Errors
    /// As any write to a twin.
    pub(super) fn write_desired(
        &self,
        state: &mut DeviceState,
        target: &Target,
        members: &Map<String, Value>,
    ) -> Result<(), ServiceError> {
        let patch = desired_patch(members)?;
        self.apply(state, target, TwinWrite::Merge, &patch, &IfMatch::Any)
    }

    /// Creates a module identity that a deployment asks for.
    pub(super) fn deploy_module(&self, cell: &DeviceCell, module: &ModuleId) -> Result<(), ServiceError> {
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
            if state.modules.len() + missing.len() > limits::MODULES_PER_DEVICE {
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
            let current = state.endpoint(module)?.twin.desired().properties().to_json();
            let members = wanted(settings, &current);
            let target = Target {
                device: target.device.clone(),
                module: module.cloned(),
            };
            if !members.is_empty() {
                self.write_desired(&mut state, &target, &members)?;
            }
        }
        Ok(())
    }
}

/// The modules of a deployment that do not exist yet.
pub(super) fn missing_in(state: &DeviceState, content: &Content) -> BTreeSet<ModuleId> {
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

fn desired_patch(members: &Map<String, Value>) -> Result<TwinPatch, ServiceError> {
    TwinPatch::from_json(&json!({ "properties": { "desired": members } }))
}

/// Tries a content on copies of the twins, so that applying it cannot fail half
/// way.
fn check_content(state: &mut DeviceState, content: &Content, now: Timestamp) -> Result<(), ServiceError> {
    if content.kind() == ContentKind::Module {
        return Err(ServiceError::new(
            ErrorCode::InvalidConfigurationContent,
            "moduleContent does not say which module of the device is meant",
        ));
    }
    for (module, settings) in parts(content) {
        // A module that is yet to be created holds nothing and takes all; one
        // that only the hub creates is not there.
        if module.is_some_and(|id| !id.is_system() && !state.modules.contains_key(id)) {
            continue;
        }
        let mut twin = state.endpoint(module)?.twin.clone();
        let patch = desired_patch(&wanted(settings, &twin.desired().properties().to_json()))?;
        twin.patch(&patch, now)?;
    }
    Ok(())
}
