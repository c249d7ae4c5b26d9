//! Shares as people write them on a command line.

use std::fmt;
use std::str::FromStr;

/// The text is not a percentage from 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a share from 0% to 100%, such as 5% or 0.05")]
pub struct ShareError;

/// A part of a whole, from 0 to 1. Read from `5%` or `0.05`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
pub struct Share(f64);

impl Share {
    /// Nothing.
    pub const NONE: Self = Self(0.0);

    /// A share given as a number from 0 to 1.
    ///
    /// # Errors
    /// Outside that range.
    pub fn new(part: f64) -> Result<Self, ShareError> {
        if (0.0..=1.0).contains(&part) {
            Ok(Self(part))
        } else {
            Err(ShareError)
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
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Self, ShareError> {
        let text = text.trim();
        let part = match text.strip_suffix('%') {
            Some(percent) => decimal(percent.trim_end()).map(|n| n / 100.0),
            None => decimal(text),
        };
        Self::new(part.ok_or(ShareError)?)
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
    fn shares_are_percentages_or_fractions() {
        for (text, of_1000) in [
            ("5%", 50),
            ("0.05", 50),
            ("100%", 1000),
            ("0", 0),
            ("1", 1000),
            ("0.04%", 0),
        ] {
            assert_eq!(text.parse::<Share>().unwrap().of(1000), of_1000, "{text}");
        }
        for text in ["", "%", "101%", "1.1", "-1%", "5 percent"] {
            assert_eq!(text.parse::<Share>(), Err(ShareError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".*") {
            let _ = text.parse::<Share>();
        }
    }
}
