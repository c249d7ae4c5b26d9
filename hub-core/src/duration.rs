//! Durations as people write them on command lines and in files: `250ms`,
//! `10s`, `1.5m`, `7d`.
//!
//! Every program of the project reads them here, so that they all mean the
//! same. What the service itself writes as seconds or ISO 8601 is read where
//! it occurs.

use std::time::Duration;

const UNITS: [(&str, f64); 5] = [
    ("ms", 0.001),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
    ("d", 24.0 * 3600.0),
];
const YEAR: f64 = 366.0 * 24.0 * 3600.0;

/// The text is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a duration such as 250ms, 10s, 5m, 1h or 7d")]
pub struct DurationError;

/// Reads a duration: a decimal number with `ms`, `s`, `m`, `h` or `d`; without
/// a unit it is seconds. At most a year.
///
/// # Errors
/// When the text is something else.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let text = text.trim();
    let (number, unit) = UNITS
        .iter()
        .find_map(|(name, seconds)| Some((text.strip_suffix(name)?, *seconds)))
        .unwrap_or((text, 1.0));
    // The standard parser would also take `inf`, exponents and signs.
    if !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(DurationError);
    }
    let seconds = number.parse::<f64>().map_err(|_| DurationError)? * unit;
    if seconds > YEAR {
        return Err(DurationError);
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| DurationError)
}

/// Writes a duration so that [`parse`] reads the same, up to weeks: a whole number of the
/// greatest unit that leaves no rest. Fractions of a millisecond are cut off.
#[must_use]
pub fn text(duration: Duration) -> String {
    let millis = duration.as_millis();
    let (unit, length) = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)]
        .into_iter()
        .find(|(_, length)| millis.is_multiple_of(*length) && millis > 0)
        .unwrap_or(("ms", 1));
    format!("{}{unit}", millis / length)
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
            ("7d", 604_800_000),
            (" 7 ", 7000),
            ("0", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "", "s", "-1s", "1w", "inf", "1e3", "nan", "9000h", "1 s", "..1", "1ss",
        ] {
            assert_eq!(parse(text), Err(DurationError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(millis in 0_u64..=7 * 86_400_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse(&text(duration)), Ok(duration));
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".*") {
            let _ = parse(&text);
        }
    }
}
