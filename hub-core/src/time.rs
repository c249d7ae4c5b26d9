//! Points in time as the service writes and reads them.
//!
//! The hub's clock lives in the shells; here a time is only a value.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};
use time::format_description::well_known::Iso8601;
use time::{OffsetDateTime, PrimitiveDateTime};

/// Hundred-nanosecond ticks in a second, the service's own resolution: its
/// times carry seven fractional digits.
const TICKS_PER_SECOND: i64 = 10_000_000;

/// A point in time, UTC, in steps of 100 ns.
///
/// Written as `2026-01-02T03:04:05.1234567Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// How the service writes "never": `0001-01-01T00:00:00Z`.
    pub const NEVER: Self = Self(-62_135_596_800 * TICKS_PER_SECOND);
    /// Last representable moment, the end of the year 9999.
    pub const MAX: Self = Self(253_402_300_799 * TICKS_PER_SECOND + TICKS_PER_SECOND - 1);

    /// A time given in 100 ns ticks since 1970-01-01, clamped to the years 1 to 9999.
    #[must_use]
    pub fn from_unix_ticks(ticks: i64) -> Self {
        Self(ticks.clamp(Self::NEVER.0, Self::MAX.0))
    }

    /// A time given in whole seconds since 1970-01-01, clamped to the years 1 to 9999.
    #[must_use]
    pub fn from_unix_seconds(seconds: i64) -> Self {
        Self::from_unix_ticks(seconds.saturating_mul(TICKS_PER_SECOND))
    }

    /// 100 ns ticks since 1970-01-01.
    #[must_use]
    pub fn unix_ticks(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970-01-01, rounded towards the past.
    #[must_use]
    pub fn unix_seconds(self) -> i64 {
        self.0.div_euclid(TICKS_PER_SECOND)
    }

    /// Ticks since the year 1, the number that generation ids are made of.
    #[must_use]
    pub fn ticks_since_year_one(self) -> u64 {
        (self.0 - Self::NEVER.0).unsigned_abs()
    }

    /// Reads an ISO 8601 date and time; any length of fraction, any offset, and
    /// no zone at all means UTC.
    ///
    /// # Errors
    /// When the text is not such a time.
    pub fn parse(text: &str) -> Result<Self, TimeError> {
        let offset = OffsetDateTime::parse(text, &Iso8601::DEFAULT)
            .or_else(|_| PrimitiveDateTime::parse(text, &Iso8601::DEFAULT).map(PrimitiveDateTime::assume_utc))
            .map_err(|_| TimeError {
                text: text.chars().take(64).collect(),
            })?;
        let ticks = offset.unix_timestamp_nanos() / 100;
        i64::try_from(ticks)
            .map(Self::from_unix_ticks)
            .map_err(|_| TimeError { text: text.into() })
    }

    /// This time plus `duration`, at most [`Timestamp::MAX`].
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        let ticks = i64::try_from(duration.as_nanos() / 100).unwrap_or(i64::MAX);
        Self::from_unix_ticks(self.0.saturating_add(ticks))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    #[must_use]
    pub fn saturating_since(self, earlier: Self) -> Duration {
        let ticks = u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0);
        Duration::from_nanos(ticks.saturating_mul(100))
    }
}

/// A text that should have been an ISO 8601 time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an ISO 8601 date and time")]
pub struct TimeError {
    /// The text, cut to 64 characters.
    pub text: String,
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.unix_seconds();
        let ticks = self.0.rem_euclid(TICKS_PER_SECOND);
        // Every `Timestamp` is within the years 1 to 9999, which `time` covers.
        let t = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
            t.year(),
            u8::from(t.month()),
            t.day(),
            t.hour(),
            t.minute(),
            t.second()
        )?;
        if ticks != 0 {
            write!(f, ".{ticks:07}")?;
        }
        f.write_str("Z")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn never_and_fractions_are_written_as_the_service_does() {
        assert_eq!(Timestamp::NEVER.to_string(), "0001-01-01T00:00:00Z");
        let t = Timestamp::from_unix_ticks(16_203_486_380_543_092);
        assert_eq!(t.to_string(), "2021-05-07T00:50:38.0543092Z");
    }

    #[test]
    fn every_spelling_clients_use_is_read() {
        let expected = Timestamp::from_unix_ticks(17_673_230_456_780_000);
        for text in [
            "2026-01-02T03:04:05.678Z",
            "2026-01-02T03:04:05.678",
            "2026-01-02T03:04:05.6780000Z",
            "2026-01-02T03:04:05.678000000+00:00",
            "2026-01-02T04:04:05.678+01:00",
        ] {
            assert_eq!(Timestamp::parse(text), Ok(expected), "{text}");
        }
        assert_eq!(
            Timestamp::parse("2026-01-02T03:04:05Z").unwrap().unix_seconds(),
            1_767_323_045
        );
        assert_eq!(Timestamp::parse("0001-01-01T00:00:00"), Ok(Timestamp::NEVER));
        for text in ["", "now", "2026-13-02T03:04:05Z", "12:00"] {
            assert!(Timestamp::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(ticks in Timestamp::NEVER.0..=Timestamp::MAX.0) {
            let t = Timestamp::from_unix_ticks(ticks);
            prop_assert_eq!(Timestamp::parse(&t.to_string()), Ok(t));
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".*") {
            let _ = Timestamp::parse(&text);
        }
    }
}
