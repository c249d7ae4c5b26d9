//! Durations and shares as people write them on a command line and in the
//! behaviour file.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Why a text is not a duration or a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a number with one of the known units.
    #[error("expected a duration such as 250ms, 10s, 5m or 1h")]
    Duration,
    /// Not a percentage from 0 to 100.
    #[error("expected a share from 0% to 100%, such as 5% or 0.05")]
    Share,
}

/// Reads a duration: a decimal number with `ms`, `s`, `m` or `h`; without a
/// unit it is seconds. At most a year.
///
/// # Errors
/// [`UnitError::Duration`].
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    const UNITS: [(&str, f64); 4] = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    const YEAR: f64 = 366.0 * 24.0 * 3600.0;

    let text = text.trim();
    let (number, unit) = UNITS
        .iter()
        .find_map(|(name, seconds)| Some((text.strip_suffix(name)?, *seconds)))
        .unwrap_or((text, 1.0));
    let seconds = decimal(number).ok_or(UnitError::Duration)? * unit;
    if seconds > YEAR {
        return Err(UnitError::Duration);
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| UnitError::Duration)
}

/// A part of a whole, from 0 to 1. Read from `5%` or `0.05`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
pub struct Share(f64);

impl Share {
    /// Nothing.
    pub const NONE: Self = Self(0.0);

    /// A share given as a number from 0 to 1.
    ///
    /// # Errors
    /// [`UnitError::Share`] outside that range.
    pub fn new(part: f64) -> Result<Self, UnitError> {
        if (0.0..=1.0).contains(&part) {
            Ok(Self(part))
        } else {
            Err(UnitError::Share)
        }
    }

    /// This share of `count` things, rounded to the nearest whole number.
    #[must_use]
    pub fn of(self, count: usize) -> usize {
        // The product is within 0..=count, so the conversion keeps it.
        (self.0 * count as f64).round() as usize
    }
}

impl FromStr for Share {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let text = text.trim();
        let part = match text.strip_suffix('%') {
            Some(percent) => decimal(percent.trim_end()).map(|n| n / 100.0),
            None => decimal(text),
        };
        Self::new(part.ok_or(UnitError::Share)?)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0 * 100.0)
    }
}

/// Digits with perhaps a point; the standard parser would also take `inf`,
/// exponents and signs.
fn decimal(text: &str) -> Option<f64> {
    if !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_have_units_and_default_to_seconds() {
        for (text, millis) in [
            ("250ms", 250),
            ("10s", 10_000),
            ("1.5s", 1500),
            ("2m", 120_000),
            ("1h", 3_600_000),
            (" 7 ", 7000),
            ("0", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1s", "1d", "inf", "1e3", "nan", "9000h", "1 s", "..1"] {
            assert_eq!(parse_duration(text), Err(UnitError::Duration), "{text}");
        }
    }

    #[test]
    fn shares_are_percentages_or_fractions() {
        for (text, of_1000) in [("5%", 50), ("0.05", 50), ("100%", 1000), ("0", 0), ("1", 1000), ("0.04%", 0)] {
            assert_eq!(text.parse::<Share>().unwrap().of(1000), of_1000, "{text}");
        }
        for text in ["", "%", "101%", "1.1", "-1%", "5 percent"] {
            assert_eq!(text.parse::<Share>(), Err(UnitError::Share), "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".*") {
            let _ = parse_duration(&text);
            let _ = text.parse::<Share>();
        }
    }
}
