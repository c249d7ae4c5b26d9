//! JSON text that is passed through rather than looked into.
//!
//! A method payload goes from a caller to a device and back without the hub
//! caring what it says. [`JsonText`] has been checked once and is then only
//! bytes: cloning it for ten thousand devices copies nothing.

use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::limits;

/// Why bytes are not acceptable JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// The bytes are not JSON; says what and where.
    #[error("not valid JSON: {reason}")]
    Malformed {
        /// The parser's complaint with line and column.
        reason: String,
    },
    /// Arrays and objects are nested deeper than [`limits::JSON_DEPTH`].
    #[error("JSON is nested deeper than {} levels", limits::JSON_DEPTH)]
    TooDeep,
}

/// One valid JSON value in its textual form, cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonText(Bytes);

impl JsonText {
    /// The JSON value `null`.
    pub const NULL: Self = Self(Bytes::from_static(b"null"));

    /// Checks that `bytes` are exactly one JSON value of bounded depth.
    ///
    /// The bytes are kept as they are; copy them first if they are a slice of
    /// a larger buffer that should not stay alive.
    ///
    /// # Errors
    /// When they are not UTF-8, not JSON, or nested too deeply.
    pub fn parse(bytes: Bytes) -> Result<Self, JsonError> {
        check_depth(&bytes)?;
        serde_json::from_slice::<&RawValue>(&bytes).map_err(|e| JsonError::Malformed {
            reason: e.to_string(),
        })?;
        Ok(Self(bytes))
    }

    /// The text of a parsed value.
    #[must_use]
    pub fn from_value(value: &Value) -> Self {
        Self(Bytes::from(value.to_string()))
    }

    /// The JSON text.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Number of bytes of the text.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// The value, parsed.
    #[must_use]
    pub fn to_value(&self) -> Value {
        // The text was checked when this was made, so it parses.
        serde_json::from_slice(&self.0).unwrap_or(Value::Null)
    }
}

/// Serializes as the JSON value itself, not as a string.
impl Serialize for JsonText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::from_slice::<&RawValue>(&self.0)
            .map_err(serde::ser::Error::custom)?
            .serialize(serializer)
    }
}

/// Refuses JSON text that nests arrays and objects deeper than
/// [`limits::JSON_DEPTH`], without parsing it.
///
/// # Errors
/// [`JsonError::TooDeep`].
pub fn check_depth(text: &[u8]) -> Result<(), JsonError> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > limits::JSON_DEPTH {
                    return Err(JsonError::TooDeep);
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_one_whole_value_is_json() {
        for good in ["null", " {\"a\":[1,2.5e3,\"\\\"]\"]} ", "\"x\"", "0"] {
            assert!(
                JsonText::parse(Bytes::from_static(good.as_bytes())).is_ok(),
                "{good}"
            );
        }
        for bad in ["", "nul", "{", "1 2", "{\"a\":}", "'x'", "\u{0}"] {
            assert!(
                matches!(
                    JsonText::parse(Bytes::from(bad)),
                    Err(JsonError::Malformed { .. })
                ),
                "{bad}"
            );
        }
        assert!(JsonText::parse(Bytes::from_static(b"\"\xff\"")).is_err());
    }

    #[test]
    fn depth_is_bounded_and_brackets_in_strings_do_not_count() {
        let nested = |n: usize| Bytes::from(format!("{}{}", "[".repeat(n), "]".repeat(n)));
        assert!(JsonText::parse(nested(limits::JSON_DEPTH)).is_ok());
        assert_eq!(
            JsonText::parse(nested(limits::JSON_DEPTH + 1)),
            Err(JsonError::TooDeep)
        );
        assert_eq!(JsonText::parse(nested(1_000_000)), Err(JsonError::TooDeep));
        let text = format!("\"{}\"", "[".repeat(1000));
        assert!(JsonText::parse(Bytes::from(text)).is_ok());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = JsonText::parse(Bytes::from(bytes));
        }
    }
}
