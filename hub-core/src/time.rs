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
const TICKS_PER_MILLISECOND: i64 = TICKS_PER_SECOND / 1_000;

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

    /// A time given in milliseconds since 1970-01-01, clamped to the years 1 to 9999.
    #[must_use]
    pub fn from_unix_milliseconds(milliseconds: i64) -> Self {
        Self::from_unix_ticks(milliseconds.saturating_mul(TICKS_PER_MILLISECOND))
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

    /// Whole milliseconds since 1970-01-01, rounded towards the past.
    #[must_use]
    pub fn unix_milliseconds(self) -> i64 {
        self.0.div_euclid(TICKS_PER_MILLISECOND)
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
        f.write_str(Text::of(*self).as_str())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(Text::of(*self).as_str())
    }
}

/// A time as text. Written digit by digit because a page of twins has thousands
/// of times, on which the formatting machinery would spend a fifth of the page.
struct Text {
    bytes: [u8; Text::LONGEST],
    len: usize,
}

impl Text {
    /// `2026-01-02T03:04:05.1234567Z`
    const LONGEST: usize = 28;
    /// The same without a fraction, its `Z` included.
    const SHORTEST: usize = 20;

    fn of(time: Timestamp) -> Self {
        const SECONDS_PER_DAY: i64 = 24 * 3600;
        let seconds = time.unix_seconds();
        let (year, month, day) = civil_date(seconds.div_euclid(SECONDS_PER_DAY));
        let second_of_day = seconds.rem_euclid(SECONDS_PER_DAY).unsigned_abs();
        let fraction = time.0.rem_euclid(TICKS_PER_SECOND).unsigned_abs();
        let mut bytes = *b"0000-00-00T00:00:00.0000000Z";
        write_digits(&mut bytes[0..4], year);
        write_digits(&mut bytes[5..7], month);
        write_digits(&mut bytes[8..10], day);
        write_digits(&mut bytes[11..13], second_of_day / 3600);
        write_digits(&mut bytes[14..16], second_of_day / 60 % 60);
        write_digits(&mut bytes[17..19], second_of_day % 60);
        let len = if fraction == 0 {
            bytes[Self::SHORTEST - 1] = b'Z';
            Self::SHORTEST
        } else {
            write_digits(&mut bytes[20..27], fraction);
            Self::LONGEST
        };
        Self { bytes, len }
    }

    fn as_str(&self) -> &str {
        // ASCII by construction.
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

/// Fills `place` with the last digits of `number`.
fn write_digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic
/// Gregorian calendar; not before the year 0.
///
/// The arithmetic takes years to start in March, so that the leap day is a
/// year's last, and counts them in eras of 400 years, which have the same
/// number of days each.
fn civil_date(day: i64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097;
    /// Days from March 1 of the year 0 to 1970-01-01.
    const EPOCH: i64 = 719_468;
    // The year 1 starts in era 0 but for January and February of the year 1,
    // which still belong to the year 0 by this count.
    let day = day.saturating_add(EPOCH).max(0).unsigned_abs();
    let (era, day_of_era) = (day / DAYS_PER_ERA, day % DAYS_PER_ERA);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + 400 * era + u64::from(month <= 2);
    (year, month, day_of_month)
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
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-31T23:59:59.9999999Z");
        for text in [
            "2000-02-29T00:00:00Z",
            "1900-03-01T00:00:00Z",
            "1969-12-31T23:59:59.0000001Z",
        ] {
            assert_eq!(Timestamp::parse(text).unwrap().to_string(), text);
        }
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
        fn dates_are_those_of_the_calendar(seconds in Timestamp::NEVER.unix_seconds()..=Timestamp::MAX.unix_seconds()) {
            let t = OffsetDateTime::from_unix_timestamp(seconds).unwrap();
            let expected = format!(
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
                t.year(), u8::from(t.month()), t.day(), t.hour(), t.minute(), t.second()
            );
            prop_assert_eq!(Timestamp::from_unix_seconds(seconds).to_string(), expected);
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".*") {
            let _ = Timestamp::parse(&text);
        }
    }
}
