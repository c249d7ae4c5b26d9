//! What the hub's tier allows: jobs at all, and messages a day.
//!
//! The limits are [`Tier`]'s; here is the count of the day. A hub without a
//! tier counts and refuses nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hub_core::error::ServiceError;
use hub_core::tier::{DailyQuota, Tier, next_midnight};
use hub_core::time::Timestamp;
use serde::Serialize;

use super::HubState;

/// Device-to-cloud messages of the day.
#[derive(Debug, Default)]
pub(crate) struct MessageQuota(Mutex<DailyQuota>);

impl MessageQuota {
    pub(crate) fn clear(&self) {
        *self.lock() = DailyQuota::default();
    }

    fn lock(&self) -> MutexGuard<'_, DailyQuota> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tier's limits and how far they are used. Without a tier every member is
/// null.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TierReport {
    sku: Option<&'static str>,
    units: Option<u32>,
    /// Null for tiers without jobs, too.
    concurrent_jobs: Option<usize>,
    job_device_operations_per_second: Option<u32>,
    messages_per_day: Option<u64>,
    message_block_bytes: Option<usize>,
    messages_today: Option<u64>,
    quota_resets: Option<Timestamp>,
    forecast: Forecast,
}

/// How long a job takes at least that runs alone.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Forecast {
    devices: u64,
    /// Null where nothing limits a job, or there are no jobs.
    seconds: Option<u64>,
}

impl HubState {
    /// Refuses what a tier without jobs does not have.
    ///
    /// # Errors
    /// `OperationNotAvailableInCurrentTier`.
    pub(crate) fn check_jobs_available(&self) -> Result<(), ServiceError> {
        self.settings
            .tier
            .map_or(Ok(()), |tier| tier.check_jobs().map(drop))
    }

    /// Counts messages of these sizes against the quota of the day: all of them
    /// or, if it does not suffice, none. Without a tier no size is asked for.
    ///
    /// # Errors
    /// `IotHubQuotaExceeded`.
    pub(super) fn take_quota(
        &self,
        now: Timestamp,
        sizes: impl IntoIterator<Item = usize>,
    ) -> Result<(), ServiceError> {
        let Some(tier) = self.settings.tier else {
            return Ok(());
        };
        let amount = sizes.into_iter().map(|size| tier.metered(size)).sum();
        self.message_quota
            .lock()
            .take(amount, tier.messages_per_day(), now)
    }

    /// The tier's limits, and what a job over `devices` devices takes.
    pub(crate) fn tier_report(&self, devices: u64) -> TierReport {
        let forecast = Forecast {
            devices,
            seconds: self
                .settings
                .tier
                .and_then(Tier::jobs)
                .map(|jobs| jobs.duration(devices).as_secs()),
        };
        let Some(tier) = self.settings.tier else {
            return TierReport {
                forecast,
                ..TierReport::default()
            };
        };
        let (now, jobs) = (self.clock.now(), tier.jobs());
        TierReport {
            sku: Some(tier.sku().name()),
            units: Some(tier.units()),
            concurrent_jobs: jobs.map(|jobs| jobs.concurrent),
            job_device_operations_per_second: jobs.map(|jobs| jobs.operations_per_second.get()),
            messages_per_day: Some(tier.messages_per_day()),
            message_block_bytes: Some(tier.message_block()),
            messages_today: Some(self.message_quota.lock().used(now)),
            quota_resets: Some(next_midnight(now)),
            forecast,
        }
    }
}
