//! The devices of the hub: a concurrent map for the hot path and an ordered
//! index beside it for listings and paged queries.
//!
//! Creating and deleting take the index lock first and so happen one at a
//! time; looking a device up takes only its shard of the map.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use dashmap::DashMap;
use hub_core::error::{ErrorCode, ServiceError};
use hub_core::ids::{DeviceId, ModuleId, Target};
use hub_core::limits;
use hub_core::registry::{
    DeviceIdentity, DeviceSpec, Fresh, IfMatch, ModuleIdentity, ModuleSpec, check_delete_device, check_delete_module,
    check_put_device, check_put_module,
};

use super::HubState;
use super::cell::{DeviceCell, DeviceState, Endpoint, ModuleState, module_not_found};
use super::outbox::CloseReason;

/// All devices.
#[derive(Default)]
pub(crate) struct Registry {
    cells: DashMap<DeviceId, Arc<DeviceCell>>,
    order: RwLock<Order>,
}

#[derive(Default)]
struct Order {
    devices: BTreeSet<DeviceId>,
    /// Devices and modules, which share one quota.
    identities: usize,
}

impl Registry {
    /// The cell of a device.
    ///
    /// # Errors
    /// `DeviceNotFound`.
    pub(crate) fn cell(&self, id: &DeviceId) -> Result<Arc<DeviceCell>, ServiceError> {
        self.find(id).ok_or_else(|| ServiceError::device_not_found(id.as_str()))
    }

    pub(crate) fn find(&self, id: &DeviceId) -> Option<Arc<DeviceCell>> {
        self.cells.get(id).map(|cell| cell.clone())
    }

    /// Up to `count` devices in the order of their ids, starting after `after`.
    pub(crate) fn devices_after(&self, after: Option<&DeviceId>, count: usize) -> Vec<DeviceId> {
        let order = self.order.read().unwrap_or_else(PoisonError::into_inner);
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        order.devices.range::<DeviceId, _>((start, Bound::Unbounded)).take(count).cloned().collect()
    }

    /// Number of devices.
    pub(crate) fn len(&self) -> usize {
        self.order.read().unwrap_or_else(PoisonError::into_inner).devices.len()
    }

    /// Runs `look` on every device, in the order of their ids.
    pub(crate) fn for_each(&self, mut look: impl FnMut(&mut DeviceState)) {
        const CHUNK: usize = 256;
        let mut after = None;
        loop {
            let ids = self.devices_after(after.as_ref(), CHUNK);
            for id in &ids {
                if let Some(cell) = self.find(id) {
                    look(&mut cell.lock());
                }
            }
            match ids.into_iter().next_back() {
                Some(last) => after = Some(last),
                None => return,
            }
        }
    }

    fn write(&self) -> RwLockWriteGuard<'_, Order> {
        self.order.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HubState {
    /// Creates or replaces a device identity and returns what `view` makes of
    /// the result. A device that is disabled loses its connections at once.
    ///
    /// # Errors
    /// The precondition table of the identity registry; the quota of identities.
    pub(crate) fn put_device<T>(
        &self,
        spec: &DeviceSpec,
        if_match: &IfMatch,
        view: impl FnOnce(&DeviceState) -> T,
    ) -> Result<T, ServiceError> {
        let now = self.clock.now();
        let mut random = super::random_bytes;
        let mut fresh = Fresh { now, random: &mut random };
        let mut order = self.registry.write();
        if let Some(cell) = self.registry.find(&spec.id) {
            let mut state = cell.lock();
            check_put_device(&spec.id, Some(&state.identity), if_match)?;
            let was_edge = state.identity.capabilities.iot_edge;
            state.identity = state.identity.replace(spec, &mut fresh)?;
            if !was_edge && state.identity.capabilities.iot_edge {
                order.identities += add_edge_modules(&mut state, &mut fresh)?;
            }
            if !state.identity.is_enabled() {
                state.disconnect_all(CloseReason::IdentityChanged, now);
            }
            return Ok(view(&state));
        }
        check_put_device(&spec.id, None, if_match)?;
        order.check_quota()?;
        let identity = DeviceIdentity::create(spec, &mut fresh)?;
        let mut state = DeviceState::new(identity, now);
        order.identities += 1;
        if state.identity.capabilities.iot_edge {
            order.identities += add_edge_modules(&mut state, &mut fresh)?;
        }
        let result = view(&state);
        self.registry.cells.insert(spec.id.clone(), Arc::new(DeviceCell::new(state)));
        order.devices.insert(spec.id.clone());
        Ok(result)
    }

    /// Removes a device with its twin, modules and connections.
    ///
    /// # Errors
    /// `DeviceNotFound`, `PreconditionFailed`.
    pub(crate) fn delete_device(&self, id: &DeviceId, if_match: &IfMatch) -> Result<(), ServiceError> {
        let mut order = self.registry.write();
        let cell = self.registry.find(id);
        {
            let mut state = cell.as_ref().map(|cell| cell.lock());
            check_delete_device(id, state.as_ref().map(|s| &s.identity), if_match)?;
            if let Some(state) = &mut state {
                state.disconnect_all(CloseReason::IdentityChanged, self.clock.now());
                state.deleted = true;
                order.identities -= 1 + state.modules.len();
            }
        }
        self.registry.cells.remove(id);
        order.devices.remove(id);
        Ok(())
    }

    /// Creates or replaces a module identity.
    ///
    /// # Errors
    /// As [`HubState::put_device`], and at most 50 modules per device.
    pub(crate) fn put_module<T>(
        &self,
        device: &DeviceId,
        spec: &ModuleSpec,
        if_match: &IfMatch,
        view: impl FnOnce(&DeviceState, &ModuleState) -> T,
    ) -> Result<T, ServiceError> {
        let now = self.clock.now();
        let mut random = super::random_bytes;
        let mut fresh = Fresh { now, random: &mut random };
        let mut order = self.registry.write();
        let cell = self.registry.cell(device)?;
        let mut state = cell.lock();
        let state = &mut *state;
        check_put_module(&spec.id, state.modules.get(&spec.id).map(|m| &m.identity), if_match)?;
        match state.modules.get_mut(&spec.id) {
            Some(module) => module.identity = module.identity.replace(spec, &mut fresh)?,
            None => {
                order.check_quota()?;
                if state.modules.len() >= limits::MODULES_PER_DEVICE {
                    return Err(ServiceError::new(
                        ErrorCode::TooManyModulesOnDevice,
                        format!("device {device} has {} modules already", limits::MODULES_PER_DEVICE),
                    ));
                }
                let identity = ModuleIdentity::create(device, spec, &mut fresh)?;
                state.modules.insert(spec.id.clone(), ModuleState { identity, endpoint: Endpoint::new(now) });
                order.identities += 1;
            }
        }
        match state.modules.get(&spec.id) {
            Some(module) => Ok(view(state, module)),
            None => Err(module_not_found(&state.identity, &spec.id)),
        }
    }

    /// Removes a module with its twin and connection.
    ///
    /// # Errors
    /// `DeviceNotFound`, `ModuleNotFound`, `PreconditionFailed`.
    pub(crate) fn delete_module(&self, device: &DeviceId, id: &ModuleId, if_match: &IfMatch) -> Result<(), ServiceError> {
        let mut order = self.registry.write();
        let cell = self.registry.cell(device)?;
        let mut state = cell.lock();
        check_delete_module(id, state.modules.get(id).map(|m| &m.identity), if_match)?;
        if let Some(mut module) = state.modules.remove(id) {
            module.endpoint.disconnect(CloseReason::IdentityChanged, self.clock.now());
            order.identities -= 1;
        }
        Ok(())
    }

    /// Removes every device, ending all connections.
    pub(crate) fn clear_registry(&self, reason: CloseReason) {
        let now = self.clock.now();
        let mut order = self.registry.write();
        *order = Order::default();
        for entry in &self.registry.cells {
            let mut state = entry.value().lock();
            state.disconnect_all(reason, now);
            state.deleted = true;
        }
        self.registry.cells.clear();
    }

    /// Ends every connection; the registry stays.
    pub(crate) fn disconnect_all(&self, reason: CloseReason) {
        let now = self.clock.now();
        self.registry.for_each(|state| state.disconnect_all(reason, now));
    }

    /// Whether the target is registered.
    ///
    /// # Errors
    /// `DeviceNotFound`, `ModuleNotFound`.
    pub(crate) fn check_exists(&self, target: &Target) -> Result<(), ServiceError> {
        self.registry.cell(&target.device)?.lock().endpoint(target.module.as_ref()).map(|_| ())
    }
}

impl Order {
    fn check_quota(&self) -> Result<(), ServiceError> {
        if self.identities >= limits::IDENTITIES_PER_HUB {
            return Err(ServiceError::new(
                ErrorCode::IotHubQuotaExceeded,
                format!("Total number of devices on IotHub exceeded the allocated quota of {}", limits::IDENTITIES_PER_HUB),
            ));
        }
        Ok(())
    }
}

/// Gives an Edge device the two modules that the hub owns; says how many were added.
fn add_edge_modules(state: &mut DeviceState, fresh: &mut Fresh<'_>) -> Result<usize, ServiceError> {
    let mut added = 0;
    for identity in ModuleIdentity::edge_modules(&state.identity.id, fresh)? {
        if !state.modules.contains_key(&identity.id) {
            let endpoint = Endpoint::new(fresh.now);
            state.modules.insert(identity.id.clone(), ModuleState { identity, endpoint });
            added += 1;
        }
    }
    Ok(added)
}
