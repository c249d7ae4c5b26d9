//! Reading the members of a configuration, with the place of each in refusals.
//!
//! Unlike request bodies, which SDKs write, configurations are written by
//! people: an unknown member is a mistake and refused.

use std::time::Duration;

use serde_json::{Map, Value};

use super::RoutingError;
use crate::duration;

/// An object of the configuration and where it stands.
pub(super) struct Members<'a> {
    pub(super) place: String,
    members: &'a Map<String, Value>,
}

impl<'a> Members<'a> {
    /// Takes a value that must be an object with no other members than `known`.
    pub(super) fn of(value: &'a Value, place: String, known: &[&str]) -> Result<Self, RoutingError> {
        let Value::Object(members) = value else {
            return Err(RoutingError::new(place, "must be an object"));
        };
        let found = Self { place, members };
        match members.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(found),
            Some(unknown) => Err(found.fault(&format!(
                "unknown member {unknown:?}; known are {}",
                known.join(", ")
            ))),
        }
    }

    pub(super) fn fault(&self, reason: &str) -> RoutingError {
        RoutingError::new(self.place.clone(), reason)
    }

    /// Adds the object's name to its place, for the refusals that follow.
    pub(super) fn called(&mut self, name: &str) {
        self.place = format!("{} {name:?}", self.place);
    }

    /// A member that is there and not null.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.members.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, RoutingError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.fault(&format!("{name} must be a string"))),
        }
    }

    pub(super) fn required_text(&self, name: &str) -> Result<&'a str, RoutingError> {
        match self.text(name)? {
            Some(text) if !text.is_empty() => Ok(text),
            _ => Err(self.fault(&format!("{name} is missing"))),
        }
    }

    pub(super) fn flag(&self, name: &str, otherwise: bool) -> Result<bool, RoutingError> {
        match self.get(name) {
            None => Ok(otherwise),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.fault(&format!("{name} must be true or false"))),
        }
    }

    pub(super) fn array(&self, name: &str) -> Result<&'a [Value], RoutingError> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Value::Array(items)) => Ok(items),
            Some(_) => Err(self.fault(&format!("{name} must be an array"))),
        }
    }

    /// The strings of an array.
    pub(super) fn texts(&self, name: &str) -> Result<Vec<&'a str>, RoutingError> {
        let text = |value: &'a Value| {
            value
                .as_str()
                .ok_or_else(|| self.fault(&format!("{name} must be an array of strings")))
        };
        self.array(name)?.iter().map(text).collect()
    }

    /// A whole number within bounds.
    pub(super) fn count(
        &self,
        name: &str,
        bounds: std::ops::RangeInclusive<usize>,
        otherwise: usize,
    ) -> Result<usize, RoutingError> {
        let Some(value) = self.get(name) else {
            return Ok(otherwise);
        };
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
        count.filter(|count| bounds.contains(count)).ok_or_else(|| {
            self.fault(&format!(
                "{name} must be an integer within [{}; {}]",
                bounds.start(),
                bounds.end()
            ))
        })
    }

    /// A size in bytes: a whole number, or one with a unit, as `64MiB`.
    pub(super) fn bytes(
        &self,
        name: &str,
        bounds: std::ops::RangeInclusive<u64>,
        otherwise: u64,
    ) -> Result<u64, RoutingError> {
        let bytes = match self.get(name) {
            None => return Ok(otherwise),
            Some(Value::String(text)) => byte_size(text),
            Some(value) => value.as_u64(),
        };
        bytes.filter(|bytes| bounds.contains(bytes)).ok_or_else(|| {
            self.fault(&format!(
                "{name} must be a size within [{}; {}] bytes, such as 65536 or 64KiB",
                bounds.start(),
                bounds.end()
            ))
        })
    }

    /// A duration: a number of seconds, or a text as on the command line.
    pub(super) fn duration(
        &self,
        name: &str,
        bounds: std::ops::RangeInclusive<Duration>,
        otherwise: Duration,
    ) -> Result<Duration, RoutingError> {
        let found = match self.get(name) {
            None => return Ok(otherwise),
            Some(Value::String(text)) => duration::parse(text).ok(),
            Some(Value::Number(number)) => duration::parse(&number.to_string()).ok(),
            Some(_) => None,
        };
        found.filter(|found| bounds.contains(found)).ok_or_else(|| {
            self.fault(&format!(
                "{name} must be a duration within [{}; {}], such as 250ms, 10s, 5m, 1h or 7d",
                duration::text(*bounds.start()),
                duration::text(*bounds.end())
            ))
        })
    }
}

/// `64KiB`, `10MiB`, `1GiB`, or bytes without a unit.
fn byte_size(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 3] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let text = text.trim();
    let (digits, unit) = UNITS
        .iter()
        .find_map(|(name, bytes)| Some((text.strip_suffix(name)?.trim_end(), *bytes)))
        .unwrap_or((text, 1));
    // The standard parser would also take a plus sign.
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("65536", Some(65536)),
            ("64KiB", Some(65536)),
            (" 2 MiB ", Some(2 << 20)),
            ("1GiB", Some(1 << 30)),
            ("1KB", None),
            ("+1", None),
            ("", None),
            ("KiB", None),
            ("99999999999999999999", None),
            ("18446744073709551615GiB", None),
        ] {
            assert_eq!(byte_size(text), bytes, "{text}");
        }
    }
}
