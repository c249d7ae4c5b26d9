//! Digital twins of the service side; the rules are in `hub_core::digital_twin`.

use hub_core::digital_twin::{self, DigitalTwinPatch};
use hub_core::error::ServiceError;
use hub_core::events::Source;
use hub_core::ids::Target;
use hub_core::registry::IfMatch;
use hub_core::time::Timestamp;
use hub_core::twin::Twin;
use serde_json::Value;

use super::HubState;
use super::events::journal::Kind;
use super::row::SectionsRow;
use super::twins::{TwinReply, TwinWrite, twin_document};

impl HubState {
    /// The digital twin document. Its ETag is that of the twin.
    ///
    /// # Errors
    /// `DeviceNotFound`.
    pub(crate) fn digital_twin(&self, target: &Target) -> Result<TwinReply, ServiceError> {
        let cell = self.registry.cell(&target.device)?;
        let state = cell.lock();
        let twin = twin_document(&state, target)?.twin;
        Ok(TwinReply {
            etag: twin.etag(),
            body: serde_json::to_vec(&digital_twin::document(&target.device, twin))
                .map_err(super::internal)?,
        })
    }

    /// Changes desired properties by a patch of the digital twin; gives the new
    /// ETag.
    ///
    /// # Errors
    /// `DeviceNotFound`, `PreconditionFailed`, and what the patch is refused for.
    pub(crate) fn update_digital_twin(
        &self,
        target: &Target,
        patch: &DigitalTwinPatch,
        if_match: &IfMatch,
    ) -> Result<String, ServiceError> {
        let cell = self.registry.cell(&target.device)?;
        let mut state = cell.lock();
        let twin = &state.endpoint(None)?.twin;
        twin.check(if_match)?;
        let patch = patch.to_twin_patch(twin)?;
        self.apply(&mut state, target, TwinWrite::Merge, &patch, &IfMatch::Any)?;
        Ok(state.endpoint(None)?.twin.etag())
    }

    /// The digital twin before a write to `twin`, if its changes are wanted.
    /// Only a device that has announced a model has one.
    pub(super) fn before_change(&self, target: &Target, twin: &Twin) -> Option<Value> {
        let tells = self.events.wants(Source::DigitalTwinChange)
            && target.module.is_none()
            && twin.model_id().is_some();
        tells.then(|| digital_twin::document(&target.device, twin))
    }

    /// Tells how the digital twin has changed since [`HubState::before_change`].
    pub(super) fn after_change(&self, before: Option<Value>, target: &Target, twin: &Twin, now: Timestamp) {
        let Some(before) = before else { return };
        let after = digital_twin::document(&target.device, twin);
        let operations = digital_twin::difference(&before, &after);
        if !operations.is_empty() {
            self.events.totals.add(Kind::DigitalTwin, 1);
            self.events.notify(
                Source::DigitalTwinChange,
                target,
                &SectionsRow(twin),
                now,
                |notice| notice.digital_twin(&operations),
            );
        }
    }
}
