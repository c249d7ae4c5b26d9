//! What a hub's tier and size allow: jobs, their pace, and messages a day.
//!
//! A [`Tier`] is a table with a multiplier, a [`DailyQuota`] what is left of
//! one of its limits. Who enforces them is the hub and the job service; here
//! nothing counts by itself. The service's other throttles (connections,
//! telemetry a second, registry, twins, queries) are out of scope.
//!
//! Sources: the guides about quotas and throttling, about jobs and about
//! choosing a tier.

use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::error::{ErrorCode, ServiceError};
use crate::time::Timestamp;

const DAY_SECONDS: i64 = 24 * 3600;

/// The kinds of hub that can be bought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sku {
    /// Free.
    F1,
    /// Basic: telemetry only, no jobs.
    B1,
    /// Basic, larger.
    B2,
    /// Basic, largest.
    B3,
    /// Standard.
    S1,
    /// Standard, larger.
    S2,
    /// Standard, largest.
    S3,
}

impl Sku {
    /// All of them, by name.
    pub const ALL: [Self; 7] = [
        Self::B1,
        Self::B2,
        Self::B3,
        Self::F1,
        Self::S1,
        Self::S2,
        Self::S3,
    ];

    /// The name that the service uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F1 => "F1",
            Self::B1 => "B1",
            Self::B2 => "B2",
            Self::B3 => "B3",
            Self::S1 => "S1",
            Self::S2 => "S2",
            Self::S3 => "S3",
        }
    }

    /// Units that a hub of this kind may have at most.
    #[must_use]
    pub fn max_units(self) -> u32 {
        match self {
            Self::F1 => 1,
            Self::B1 | Self::B2 | Self::S1 | Self::S2 => 200,
            Self::B3 | Self::S3 => 10,
        }
    }
}

impl FromStr for Sku {
    type Err = TierError;

    /// Reads a name; case does not count.
    fn from_str(text: &str) -> Result<Self, TierError> {
        Self::ALL
            .into_iter()
            .find(|sku| sku.name().eq_ignore_ascii_case(text))
            .ok_or(TierError::Sku)
    }
}

impl Serialize for Sku {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// There is no such tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TierError {
    /// The name is none of [`Sku::ALL`].
    #[error("expected F1, B1, B2, B3, S1, S2 or S3")]
    Sku,
    /// The hub would have no unit, or more than its kind may have.
    #[error("a hub of the kind {} has 1 to {} units", .0.name(), .0.max_units())]
    Units(Sku),
}

/// A kind of hub and its number of units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tier {
    sku: Sku,
    units: u32,
}

impl Tier {
    /// A hub of that kind and size.
    ///
    /// # Errors
    /// [`TierError::Units`] for less than one unit or more than
    /// [`Sku::max_units`].
    pub fn new(sku: Sku, units: u32) -> Result<Self, TierError> {
        if (1..=sku.max_units()).contains(&units) {
            Ok(Self { sku, units })
        } else {
            Err(TierError::Units(sku))
        }
    }

    /// The kind of hub.
    #[must_use]
    pub fn sku(self) -> Sku {
        self.sku
    }

    /// How many units it has.
    #[must_use]
    pub fn units(self) -> u32 {
        self.units
    }

    /// What it allows its jobs; `None` for the basic tiers, which have no jobs.
    #[must_use]
    pub fn jobs(self) -> Option<JobLimits> {
        let (concurrent, rate) = match self.sku {
            Sku::B1 | Sku::B2 | Sku::B3 => return None,
            Sku::F1 | Sku::S1 => (1, 10),
            Sku::S2 => (5, self.units.max(10)),
            Sku::S3 => (10, self.units.saturating_mul(50)),
        };
        Some(JobLimits {
            concurrent,
            // A tier has a unit, so no rate is zero.
            operations_per_second: NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN),
        })
    }

    /// Refuses jobs on a tier that has none.
    ///
    /// # Errors
    /// `OperationNotAvailableInCurrentTier` for the basic tiers.
    pub fn check_jobs(self) -> Result<JobLimits, ServiceError> {
        self.jobs().ok_or_else(|| {
            ServiceError::new(
                ErrorCode::OperationNotAvailableInCurrentTier,
                format!("jobs are not available in tier {}", self.sku.name()),
            )
        })
    }

    /// Device-to-cloud messages that the hub accepts a day, over all units; a
    /// message counts once for each [`Tier::message_block`] that it has begun.
    #[must_use]
    pub fn messages_per_day(self) -> u64 {
        let per_unit = match self.sku {
            Sku::F1 => 8_000,
            Sku::B1 | Sku::S1 => 400_000,
            Sku::B2 | Sku::S2 => 6_000_000,
            Sku::B3 | Sku::S3 => 300_000_000,
        };
        per_unit * u64::from(self.units)
    }

    /// Bytes that are metered as one message.
    #[must_use]
    pub fn message_block(self) -> usize {
        match self.sku {
            Sku::F1 => 512,
            _ => 4 * 1024,
        }
    }

    /// What a message of `bytes` counts for; one that is empty counts as well.
    #[must_use]
    pub fn metered(self, bytes: usize) -> u64 {
        bytes.div_ceil(self.message_block()).max(1) as u64
    }
}

/// What a tier allows its jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobLimits {
    /// Jobs that run at once.
    pub concurrent: usize,
    /// Operations on devices that all jobs together begin in a second.
    pub operations_per_second: NonZeroU32,
}

impl JobLimits {
    /// How long the only running job needs at least for that many devices.
    #[must_use]
    pub fn duration(self, devices: u64) -> Duration {
        Duration::from_secs(devices.div_ceil(self.operations_per_second.get().into()))
    }
}

/// What has been used of a quota that starts anew at midnight, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DailyQuota {
    /// Days since 1970-01-01.
    day: i64,
    used: u64,
}

impl DailyQuota {
    /// Takes `amount` of the quota `limit`, or nothing if less is left.
    ///
    /// A day other than the last one starts with nothing used, be it later or,
    /// when the clock was set back, earlier.
    ///
    /// # Errors
    /// `IotHubQuotaExceeded`, until midnight.
    pub fn take(&mut self, amount: u64, limit: u64, now: Timestamp) -> Result<(), ServiceError> {
        let used = self.used(now);
        match used.checked_add(amount).filter(|used| *used <= limit) {
            Some(used) => {
                *self = Self {
                    day: day_of(now),
                    used,
                };
                Ok(())
            }
            None => Err(ServiceError::new(
                ErrorCode::IotHubQuotaExceeded,
                format!("the hub has accepted {used} of the {limit} messages of this day"),
            )),
        }
    }

    /// What was used on the day of `now`.
    #[must_use]
    pub fn used(&self, now: Timestamp) -> u64 {
        if self.day == day_of(now) { self.used } else { 0 }
    }
}

/// The next midnight, UTC, after `now`: when a [`DailyQuota`] starts anew.
#[must_use]
pub fn next_midnight(now: Timestamp) -> Timestamp {
    Timestamp::from_unix_seconds((day_of(now) + 1) * DAY_SECONDS)
}

fn day_of(now: Timestamp) -> i64 {
    now.unix_seconds().div_euclid(DAY_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tier(sku: Sku, units: u32) -> Tier {
        Tier::new(sku, units).unwrap()
    }

    #[test]
    fn the_limits_are_those_of_the_table() {
        for (sku, units, concurrent, rate, messages) in [
            (Sku::F1, 1, 1, 10, 8_000),
            (Sku::S1, 1, 1, 10, 400_000),
            (Sku::S1, 200, 1, 10, 80_000_000),
            (Sku::S2, 1, 5, 10, 6_000_000),
            (Sku::S2, 11, 5, 11, 66_000_000),
            (Sku::S2, 200, 5, 200, 1_200_000_000),
            (Sku::S3, 1, 10, 50, 300_000_000),
            (Sku::S3, 10, 10, 500, 3_000_000_000),
        ] {
            let tier = tier(sku, units);
            let jobs = tier.check_jobs().unwrap();
            assert_eq!(
                (jobs.concurrent, jobs.operations_per_second.get()),
                (concurrent, rate),
                "{tier:?}"
            );
            assert_eq!(tier.messages_per_day(), messages, "{tier:?}");
        }
        for (sku, messages) in [(Sku::B1, 400_000), (Sku::B2, 6_000_000), (Sku::B3, 300_000_000)] {
            let error = tier(sku, 1).check_jobs().unwrap_err();
            assert_eq!(error.code, ErrorCode::OperationNotAvailableInCurrentTier);
            assert_eq!(tier(sku, 1).messages_per_day(), messages);
        }
    }

    #[test]
    fn kinds_are_known_by_name_and_have_a_greatest_size() {
        for sku in Sku::ALL {
            assert_eq!(sku.name().parse(), Ok(sku));
            assert_eq!(sku.name().to_lowercase().parse(), Ok(sku));
            assert!(Tier::new(sku, 1).is_ok() && Tier::new(sku, sku.max_units()).is_ok());
            for units in [0, sku.max_units() + 1, u32::MAX] {
                assert_eq!(Tier::new(sku, units), Err(TierError::Units(sku)));
            }
        }
        assert_eq!("S4".parse::<Sku>(), Err(TierError::Sku));
        assert_eq!(
            TierError::Units(Sku::S3).to_string(),
            "a hub of the kind S3 has 1 to 10 units"
        );
    }

    #[test]
    fn ten_thousand_devices_take_a_thousand_seconds_on_the_smallest_hub() {
        let duration = |sku, units, devices| tier(sku, units).jobs().unwrap().duration(devices).as_secs();
        assert_eq!(duration(Sku::S1, 1, 10_000), 1_000);
        assert_eq!(duration(Sku::S3, 4, 10_000), 50);
        assert_eq!(duration(Sku::S1, 1, 11), 2);
        assert_eq!(duration(Sku::S1, 1, 0), 0);
    }

    #[test]
    fn messages_count_by_blocks() {
        for (bytes, free, standard) in [(0, 1, 1), (512, 1, 1), (513, 2, 1), (4096, 8, 1), (4097, 9, 2)] {
            assert_eq!(tier(Sku::F1, 1).metered(bytes), free, "{bytes}");
            assert_eq!(tier(Sku::S1, 1).metered(bytes), standard, "{bytes}");
        }
    }

    #[test]
    fn a_quota_lasts_until_midnight() {
        let at = |text: &str| Timestamp::parse(text).unwrap();
        let (noon, last) = (at("2026-01-02T12:00:00Z"), at("2026-01-02T23:59:59.9999999Z"));
        let mut quota = DailyQuota::default();
        quota.take(2, 3, noon).unwrap();
        let error = quota.take(2, 3, noon).unwrap_err();
        assert_eq!(error.code, ErrorCode::IotHubQuotaExceeded);
        assert_eq!(quota.used(noon), 2, "what is refused takes nothing");
        quota.take(1, 3, noon).unwrap();
        assert!(quota.take(1, 3, last).is_err());
        assert_eq!(next_midnight(noon), at("2026-01-03T00:00:00Z"));
        quota.take(3, 3, next_midnight(last)).unwrap();
        assert_eq!(quota.used(noon), 0, "a clock that was set back");
        quota.take(3, 3, noon).unwrap();
        assert!(quota.take(u64::MAX, u64::MAX, noon).is_err());
        assert!(quota.take(1, u64::MAX, Timestamp::NEVER).is_ok());
        assert!(next_midnight(Timestamp::MAX) == Timestamp::MAX);
    }
}
