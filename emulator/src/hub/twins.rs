//! Twin operations of the service side; the device side is in `session`.

use hub_core::error::ServiceError;
use hub_core::events::Source;
use hub_core::ids::Target;
use hub_core::query::Row;
use hub_core::registry::IfMatch;
use hub_core::routing::SenderTwin;
use hub_core::twin::{TwinChange, TwinDocument, TwinOwner, TwinPatch};

use super::HubState;
use super::cell::DeviceState;
use super::events::journal::Kind;
use super::row::SectionsRow;

/// Whether a write merges into the twin or replaces its sections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TwinWrite {
    /// PATCH: merge.
    Merge,
    /// PUT: replace.
    Replace,
}

/// A twin as a response: the JSON document and its ETag.
pub(crate) struct TwinReply {
    pub(crate) body: Vec<u8>,
    pub(crate) etag: String,
}

/// The way to the twin of a device or module that nobody has locked.
pub(crate) struct LiveTwin<'a> {
    pub(crate) hub: &'a HubState,
    pub(crate) target: &'a Target,
}

impl SenderTwin for LiveTwin<'_> {
    fn look(&self, look: &mut dyn FnMut(&dyn Row)) {
        let Some(cell) = self.hub.registry.find(&self.target.device) else {
            return;
        };
        let state = cell.lock();
        let endpoint = match &self.target.module {
            None => Some(&state.endpoint),
            Some(id) => state.modules.get(id).map(|module| &module.endpoint),
        };
        if let Some(endpoint) = endpoint {
            look(&SectionsRow(&endpoint.twin));
        }
    }
}

impl HubState {
    /// The full twin document.
    ///
    /// # Errors
    /// `DeviceNotFound`, `ModuleNotFound`.
    pub(crate) fn twin(&self, target: &Target) -> Result<TwinReply, ServiceError> {
        let cell = self.registry.cell(&target.device)?;
        let state = cell.lock();
        twin_reply(&state, target)
    }

    /// Whether there is such a twin.
    ///
    /// # Errors
    /// As [`HubState::twin`].
    pub(crate) fn check_twin(&self, target: &Target) -> Result<(), ServiceError> {
        let cell = self.registry.cell(&target.device)?;
        let state = cell.lock();
        twin_document(&state, target).map(|_| ())
    }

    /// Changes tags and desired properties; connected subscribers are told.
    ///
    /// # Errors
    /// `DeviceNotFound`, `ModuleNotFound`, `PreconditionFailed`, `ArgumentInvalid` for a limit.
    pub(crate) fn write_twin(
        &self,
        target: &Target,
        write: TwinWrite,
        patch: &TwinPatch,
        if_match: &IfMatch,
    ) -> Result<TwinReply, ServiceError> {
        let cell = self.registry.cell(&target.device)?;
        let mut state = cell.lock();
        self.apply(&mut state, target, write, patch, if_match)?;
        twin_reply(&state, target)
    }

    /// As [`HubState::write_twin`] with a merge, for a job: no document is made.
    ///
    /// # Errors
    /// The same.
    pub(crate) fn merge_twin(&self, target: &Target, patch: &TwinPatch) -> Result<(), ServiceError> {
        let cell = self.registry.cell(&target.device)?;
        let mut state = cell.lock();
        self.apply(&mut state, target, TwinWrite::Merge, patch, &IfMatch::Any)
    }

    /// One write to a twin of a device that the caller has locked.
    ///
    /// # Errors
    /// As [`HubState::write_twin`].
    pub(super) fn apply(
        &self,
        state: &mut DeviceState,
        target: &Target,
        write: TwinWrite,
        patch: &TwinPatch,
        if_match: &IfMatch,
    ) -> Result<(), ServiceError> {
        let now = self.clock.now();
        let endpoint = state.endpoint(target.module.as_ref())?;
        endpoint.twin.check(if_match)?;
        let twin = &mut endpoint.twin;
        let digital_twin = self.before_change(target, twin);
        let tells = self.events.wants(Source::TwinChange);
        let change = match write {
            TwinWrite::Merge => {
                let told = (tells && !patch.is_empty()).then(|| TwinChange::of_merge(patch, twin));
                let change = twin.patch(patch, now)?;
                if let Some(told) = told {
                    self.events
                        .notify(Source::TwinChange, target, &SectionsRow(twin), now, |notice| {
                            notice.twin_updated(told, twin)
                        });
                }
                change
            }
            TwinWrite::Replace => {
                let change = twin.replace(patch, now)?;
                self.events
                    .notify(Source::TwinChange, target, &SectionsRow(twin), now, |notice| {
                        notice.twin_replaced(twin)
                    });
                change
            }
        };
        self.after_change(digital_twin, target, twin, now);
        self.counters.twin_writes.add(1);
        if let Some(change) = change {
            endpoint.notify_desired(change);
        }
        // A merge of nothing is no event.
        let is_event = write == TwinWrite::Replace || !patch.is_empty();
        self.count(state, Kind::Twin, usize::from(is_event));
        Ok(())
    }
}

fn twin_reply(state: &DeviceState, target: &Target) -> Result<TwinReply, ServiceError> {
    let document = TwinDocument {
        configurations: None,
        ..twin_document(state, target)?
    };
    Ok(TwinReply {
        etag: document.twin.etag(),
        body: serde_json::to_vec(&document).map_err(super::internal)?,
    })
}

/// The document of a device's or module's twin.
///
/// # Errors
/// `DeviceNotFound` for a device deleted meanwhile, `ModuleNotFound`.
pub(crate) fn twin_document<'a>(
    state: &'a DeviceState,
    target: &Target,
) -> Result<TwinDocument<'a>, ServiceError> {
    if state.deleted {
        return Err(ServiceError::device_not_found(target.device.as_str()));
    }
    let (owner, endpoint) = match &target.module {
        None => (TwinOwner::from(&state.identity), &state.endpoint),
        Some(id) => match state.modules.get(id) {
            Some(module) => (TwinOwner::from(&module.identity), &module.endpoint),
            // A missing module twin is reported as the service does it:
            // DeviceNotFound, unlike a missing module identity.
            None => return Err(ServiceError::device_not_found(&target.to_string())),
        },
    };
    Ok(TwinDocument {
        owner,
        connection: &endpoint.connection,
        twin: &endpoint.twin,
        configurations: endpoint
            .settled
            .as_ref()
            .map(|settled| &settled.overlay)
            .filter(|overlay| !overlay.is_empty()),
    })
}
