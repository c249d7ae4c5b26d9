//! The devices of the hub: a concurrent map for the hot path and an ordered
//! index beside it for listings and paged queries.
//!
//! Creating and deleting take the index lock first and so happen one at a
//! time; looking a device up takes only its shard of the map.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use dashmap::DashMap;
use hub_core::error::{ErrorCode, ServiceError};
use hub_core::events::{ConnectionChange, Lifecycle, Source};
use hub_core::file_upload::Uploads;
use hub_core::ids::{DeviceId, ModuleId, Target};
use hub_core::limits;
use hub_core::registry::{
    BulkAction, BulkEntry, DeviceIdentity, DeviceSpec, Fresh, IdentitySpec, IfMatch, ModuleIdentity,
    ModuleSpec, PolicyKey, Put, RotatedKey, Status, check_delete, check_put, not_found, scope_owner,
    unknown_scope,
};
use hub_core::time::Timestamp;

use super::HubState;
use super::cell::{DeviceCell, DeviceState, Endpoint, ModuleState};
use super::events::journal::Kind;
use super::outbox::CloseReason;
use super::row::SectionsRow;
use super::twins::TwinWrite;

/// All devices.
#[derive(Default)]
pub(crate) struct Registry {
    cells: DashMap<DeviceId, Arc<DeviceCell>>,
    order: RwLock<Order>,
}

#[derive(Default)]
struct Order {
    devices: BTreeMap<DeviceId, Arc<DeviceCell>>,
    /// Devices and modules, which share one quota.
    identities: usize,
}

impl Registry {
    /// The cell of a device.
    ///
    /// # Errors
    /// `DeviceNotFound`.
    pub(crate) fn cell(&self, id: &DeviceId) -> Result<Arc<DeviceCell>, ServiceError> {
        self.find(id)
            .ok_or_else(|| ServiceError::device_not_found(id.as_str()))
    }

    pub(crate) fn find(&self, id: &DeviceId) -> Option<Arc<DeviceCell>> {
        self.cells.get(id).map(|cell| cell.clone())
    }

    /// Up to `count` devices in the order of their ids, starting after `after`.
    pub(crate) fn devices_after(&self, after: Option<&DeviceId>, count: usize) -> Vec<DeviceId> {
        self.ids_from(after.map_or(Bound::Unbounded, Bound::Excluded), count)
    }

    /// The ids of up to `count` devices in their order, starting at `from`.
    pub(super) fn ids_from(&self, from: Bound<&DeviceId>, count: usize) -> Vec<DeviceId> {
        let order = self.order.read().unwrap_or_else(PoisonError::into_inner);
        order
            .devices
            .range::<DeviceId, _>((from, Bound::Unbounded))
            .take(count)
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// The cells of up to `count` devices in the order of their ids, starting at
    /// `from`, and the last of the ids.
    pub(super) fn cells_from(
        &self,
        from: Bound<&DeviceId>,
        count: usize,
    ) -> (Vec<Arc<DeviceCell>>, Option<DeviceId>) {
        let mut last = None;
        let order = self.order.read().unwrap_or_else(PoisonError::into_inner);
        let cells = order
            .devices
            .range::<DeviceId, _>((from, Bound::Unbounded))
            .take(count)
            .map(|(id, cell)| {
                last = Some(id);
                cell.clone()
            })
            .collect();
        (cells, last.cloned())
    }

    /// Number of devices.
    pub(crate) fn len(&self) -> usize {
        self.order
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .devices
            .len()
    }

    /// Runs `look` on every device, in the order of their ids.
    pub(crate) fn for_each(&self, mut look: impl FnMut(&mut DeviceState)) {
        const CHUNK: usize = 256;
        let mut after = None;
        loop {
            let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let (cells, last) = self.cells_from(from, CHUNK);
            for cell in cells {
                look(&mut cell.lock());
            }
            match last {
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
    /// Whether the hub has a device or module of that name.
    pub(crate) fn is_registered(&self, target: &Target) -> bool {
        self.registry.find(&target.device).is_some_and(|cell| {
            let mut state = cell.lock();
            state.endpoint(target.module.as_ref()).is_ok()
        })
    }

    /// Creates or replaces a device identity and returns what `view` makes of
    /// the result. A device that is disabled loses its connections at once.
    ///
    /// # Errors
    /// The precondition table of the identity registry, the quota of
    /// identities, a parent scope that no Edge device has.
    pub(crate) fn put_device<T>(
        &self,
        spec: DeviceSpec,
        if_match: &IfMatch,
        view: impl FnOnce(&mut DeviceState, Put) -> T,
    ) -> Result<T, ServiceError> {
        let now = self.clock.now();
        let mut fresh = Fresh {
            now,
            random: &mut super::random_bytes,
        };
        let target = Target::device(spec.id().clone());
        let mut order = self.registry.write();
        let cell = self.registry.find(&target.device);
        let mut state = cell.as_ref().map(|cell| cell.lock());
        let etag = state.as_ref().map(|state| &*state.identity.etag);
        match (check_put(&target, etag, if_match)?, &mut state) {
            (Put::Replace, Some(state)) => {
                let identity = state.identity.replace(spec, &mut fresh);
                self.check_parent(&identity)?;
                state.identity = identity;
                order.identities += add_system_modules(state, &mut fresh);
                if state.identity.status == Status::Disabled {
                    self.end_connections(state, CloseReason::IdentityChanged, now);
                    self.deliver_all_messages(state);
                }
                Ok(view(state, Put::Replace))
            }
            _ => {
                order.check_quota()?;
                let identity = DeviceIdentity::create(spec, &mut fresh);
                self.check_parent(&identity)?;
                let mut state = DeviceState::new(identity, now);
                order.identities += 1 + add_system_modules(&mut state, &mut fresh);
                let result = view(&mut state, Put::Create);
                // Before anybody can change it.
                self.tell(Lifecycle::Created, &target, &state.endpoint, now);
                if let Some(lag) = &self.views.lag {
                    lag.create(&mut state);
                }
                let cell = Arc::new(DeviceCell::new(state, self.views.clone()));
                self.registry.cells.insert(target.device.clone(), cell.clone());
                order.devices.insert(target.device, cell.clone());
                // In this order: an index whose builder has not seen the device
                // is already known to the one who files it.
                cell.file();
                Ok(result)
            }
        }
    }

    /// Removes a device with its twin, modules and connections.
    ///
    /// # Errors
    /// `DeviceNotFound`, `PreconditionFailed`.
    pub(crate) fn delete_device(&self, id: &DeviceId, if_match: &IfMatch) -> Result<(), ServiceError> {
        let mut order = self.registry.write();
        let cell = self.registry.find(id);
        let mut state = cell.as_ref().map(|cell| cell.lock());
        let etag = state.as_ref().map(|state| &*state.identity.etag);
        check_delete(&Target::device(id.clone()), etag, if_match)?;
        if let Some(state) = &mut state {
            order.identities -= 1 + state.modules.len();
            self.c2d.forget_device(state);
            if let Some(lag) = &self.views.lag {
                lag.bury(state);
            }
            let now = self.clock.now();
            self.end_connections(state, CloseReason::IdentityChanged, now);
            self.tell(
                Lifecycle::Deleted,
                &Target::device(id.clone()),
                &state.endpoint,
                now,
            );
            bury(state, now);
        }
        self.registry.cells.remove(id);
        order.devices.remove(id);
        Ok(())
    }

    /// Creates or replaces a module identity and returns what `view` makes of
    /// its device.
    ///
    /// # Errors
    /// As [`HubState::put_device`], and at most 50 modules per device.
    pub(crate) fn put_module<T>(
        &self,
        spec: ModuleSpec,
        if_match: &IfMatch,
        view: impl FnOnce(&mut DeviceState, Put) -> T,
    ) -> Result<T, ServiceError> {
        let now = self.clock.now();
        let mut fresh = Fresh {
            now,
            random: &mut super::random_bytes,
        };
        let (device, id) = (spec.device().clone(), spec.id().clone());
        let target = Target {
            device,
            module: Some(id.clone()),
        };
        let mut order = self.registry.write();
        let cell = self.registry.cell(&target.device)?;
        let mut state = cell.lock();
        let etag = state.modules.get(&id).map(|module| &*module.identity.etag);
        let put = check_put(&target, etag, if_match)?;
        match state.modules.get_mut(&id) {
            Some(module) => module.identity = module.identity.replace(spec, &mut fresh),
            None => {
                order.check_quota()?;
                if state.modules.len() >= limits::MODULES_PER_DEVICE {
                    return Err(ServiceError::new(
                        ErrorCode::TooManyModulesOnDevice,
                        format!(
                            "device {} has {} modules already",
                            target.device,
                            limits::MODULES_PER_DEVICE
                        ),
                    ));
                }
                let identity = ModuleIdentity::create(spec, &mut fresh);
                state.modules.insert(
                    id,
                    ModuleState {
                        identity,
                        endpoint: Endpoint::new(now),
                    },
                );
                order.identities += 1;
            }
        }
        let result = view(&mut state, put);
        if put == Put::Create
            && let Ok(endpoint) = state.endpoint(target.module.as_ref())
        {
            self.tell(Lifecycle::Created, &target, endpoint, now);
        }
        Ok(result)
    }

    /// Removes a module with its twin and connection.
    ///
    /// # Errors
    /// `DeviceNotFound`, `ModuleNotFound`, `PreconditionFailed`.
    pub(crate) fn delete_module(
        &self,
        device: &DeviceId,
        id: &ModuleId,
        if_match: &IfMatch,
    ) -> Result<(), ServiceError> {
        let mut order = self.registry.write();
        let cell = self.registry.cell(device)?;
        let mut state = cell.lock();
        let target = Target {
            device: device.clone(),
            module: Some(id.clone()),
        };
        let etag = state.modules.get(id).map(|module| &*module.identity.etag);
        check_delete(&target, etag, if_match)?;
        if let Some(mut module) = state.modules.remove(id) {
            self.c2d.forget_module(&target, &module.endpoint);
            let now = self.clock.now();
            if module.endpoint.disconnect(CloseReason::IdentityChanged, now) {
                self.show_connection(&mut state, &target, ConnectionChange::Disconnected);
            }
            self.tell(Lifecycle::Deleted, &target, &module.endpoint, now);
            order.identities -= 1;
        }
        Ok(())
    }

    /// Makes one key of an identity anew. Live connections stay; tokens signed
    /// with the old key are refused from now on.
    ///
    /// # Errors
    /// `DeviceNotFound`, `ModuleNotFound`, `InvalidOperation` without such keys.
    pub(crate) fn regenerate_key(&self, target: &Target, key: PolicyKey) -> Result<RotatedKey, ServiceError> {
        let mut fresh = Fresh {
            now: self.clock.now(),
            random: &mut super::random_bytes,
        };
        let cell = self.registry.cell(&target.device)?;
        let mut state = cell.lock();
        // An identity that was deleted meanwhile gets no new key.
        state.endpoint(target.module.as_ref())?;
        match &target.module {
            None => state.identity.regenerate_key(key, &mut fresh),
            Some(id) => match state.modules.get_mut(id) {
                Some(module) => module.identity.regenerate_key(key, &mut fresh),
                None => Err(not_found(target)),
            },
        }
    }

    /// Carries out one entry of a bulk request.
    ///
    /// # Errors
    /// What the single request would be refused for.
    pub(crate) fn apply_bulk(&self, entry: &BulkEntry) -> Result<(), ServiceError> {
        let target = &entry.target;
        match &entry.action {
            BulkAction::Put { identity, twin } => {
                let now = self.clock.now();
                // Tags and desired properties are for the start of a new twin
                // only; an existing one is changed by the twin modes.
                let start_twin = |state: &mut DeviceState, put| match put {
                    Put::Create => state
                        .endpoint(target.module.as_ref())?
                        .twin
                        .patch(twin, now)
                        .map(|_| ()),
                    Put::Replace => Ok(()),
                };
                match identity.clone() {
                    IdentitySpec::Device(spec) => self.put_device(spec, &entry.if_match, start_twin)?,
                    IdentitySpec::Module(spec) => self.put_module(spec, &entry.if_match, start_twin)?,
                }
            }
            BulkAction::Delete => match &target.module {
                None => self.delete_device(&target.device, &entry.if_match),
                Some(module) => self.delete_module(&target.device, module, &entry.if_match),
            },
            BulkAction::PatchTwin(patch) => self
                .write_twin(target, TwinWrite::Merge, patch, &entry.if_match)
                .map(|_| ()),
        }
    }

    /// A parent must be an Edge device that exists.
    fn check_parent(&self, identity: &DeviceIdentity) -> Result<(), ServiceError> {
        let Some(scope) = identity.parent_scope() else {
            return Ok(());
        };
        let parent = scope_owner(scope)
            .filter(|id| *id != identity.id)
            .and_then(|id| self.registry.find(&id));
        match parent {
            Some(parent) if parent.lock().identity.edge_scope() == Some(scope) => Ok(()),
            _ => Err(unknown_scope(scope)),
        }
    }

    /// Tells back ends, if they want to know, of an identity. The modules that
    /// the hub gives an Edge device come and go in silence.
    fn tell(&self, change: Lifecycle, target: &Target, endpoint: &Endpoint, now: Timestamp) {
        self.events.totals.add(Kind::Lifecycle, 1);
        self.events.notify(
            Source::DeviceLifecycle,
            target,
            &SectionsRow(&endpoint.twin),
            now,
            |notice| notice.lifecycle(change, &endpoint.twin),
        );
    }

    /// Removes every device, ending all connections.
    pub(crate) fn clear_registry(&self, reason: CloseReason) {
        let now = self.clock.now();
        let mut order = self.registry.write();
        *order = Order::default();
        for entry in &self.registry.cells {
            let mut state = entry.value().lock();
            self.end_connections(&mut state, reason, now);
            bury(&mut state, now);
        }
        self.registry.cells.clear();
    }

    /// Ends every connection; the registry stays.
    pub(crate) fn disconnect_all(&self, reason: CloseReason) {
        let now = self.clock.now();
        self.registry
            .for_each(|state| self.end_connections(state, reason, now));
    }

    /// Ends the connections of a device and of all its modules.
    fn end_connections(&self, state: &mut DeviceState, reason: CloseReason, now: Timestamp) {
        for target in state.disconnect_all(reason, now) {
            self.show_connection(state, &target, ConnectionChange::Disconnected);
        }
    }

    /// Devices and modules that are connected at this moment.
    pub(crate) fn connected_count(&self) -> usize {
        let mut connected = 0;
        self.registry.for_each(|state| {
            connected += usize::from(state.endpoint.is_connected());
            connected += state
                .modules
                .values()
                .filter(|module| module.endpoint.is_connected())
                .count();
        });
        connected
    }

    /// Whether the target is registered.
    ///
    /// # Errors
    /// `DeviceNotFound`, `ModuleNotFound`.
    pub(crate) fn check_exists(&self, target: &Target) -> Result<(), ServiceError> {
        self.registry
            .cell(&target.device)?
            .lock()
            .endpoint(target.module.as_ref())
            .map(|_| ())
    }
}

impl Order {
    fn check_quota(&self) -> Result<(), ServiceError> {
        if self.identities >= limits::IDENTITIES_PER_HUB {
            return Err(ServiceError::new(
                ErrorCode::IotHubQuotaExceeded,
                format!(
                    "Total number of devices on IotHub exceeded the allocated quota of {}",
                    limits::IDENTITIES_PER_HUB
                ),
            ));
        }
        Ok(())
    }
}

/// Ends what hangs off a device that leaves the registry, whose connections have
/// ended. Somebody may hold its cell for a while yet: whoever waits for the device
/// to connect is woken by the end of its endpoint, and finds it deleted.
fn bury(state: &mut DeviceState, now: Timestamp) {
    state.deleted = true;
    state.endpoint = Endpoint::new(now);
    state.modules.clear();
    state.uploads = Uploads::default();
}

/// Gives an Edge device the modules that the hub owns; says how many were added.
fn add_system_modules(state: &mut DeviceState, fresh: &mut Fresh<'_>) -> usize {
    let mut added = 0;
    for identity in state.identity.system_modules(fresh) {
        if !state.modules.contains_key(&identity.id) {
            let endpoint = Endpoint::new(fresh.now);
            state
                .modules
                .insert(identity.id.clone(), ModuleState { identity, endpoint });
            added += 1;
        }
    }
    added
}
