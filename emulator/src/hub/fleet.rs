//! The hub's own devices as the fleet that the job engine works on.

use hub_core::error::ServiceError;
use hub_core::events::Source;
use hub_core::ids::Target;
use hub_core::job::{RecordView, TwinUpdate};
use hub_core::method::{MethodCall, MethodResponse};
use hub_core::query::Query;
use job_service::Fleet;

use super::HubState;
use super::events::journal::Kind;
use super::twins::LiveTwin;

impl Fleet for HubState {
    async fn query(&self, condition: &str) -> Result<Vec<Target>, ServiceError> {
        let query = Query::from_condition_in(self.settings.query_dialect, condition)?;
        self.matching_targets(&query).await
    }

    async fn update_twin(&self, target: &Target, update: &TwinUpdate) -> Result<(), ServiceError> {
        self.merge_twin(target, &update.patch)
    }

    async fn invoke_method(
        &self,
        target: &Target,
        call: &MethodCall,
    ) -> Result<MethodResponse, ServiceError> {
        HubState::invoke_method(self, target, call).await
    }

    fn record_changed(&self, record: &RecordView<'_>) {
        // Of a device that is gone nobody asks.
        if let Some(cell) = self.registry.find(&record.record.target.device) {
            self.count(cell.lock().unindexed(), Kind::Job, 1);
        }
        if !self.events.wants(Source::DeviceJobLifecycle) {
            return;
        }
        let target = &record.record.target;
        let (now, twin) = (self.clock.now(), LiveTwin { hub: self, target });
        self.events
            .notify(Source::DeviceJobLifecycle, target, &twin, now, |notice| {
                notice.device_job(record)
            });
    }
}
