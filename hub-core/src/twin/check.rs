//! The rules that a patch must keep whatever the twin it is applied to.
//!
//! Limits are those of the twin guide and the quotas article; the wording of
//! the refusals follows the service's.

use std::fmt;

use serde_json::{Map, Number, Value};

use super::merge;
use super::section::SectionName;
use crate::error::ServiceError;
use crate::limits;

/// Characters of a key that a message quotes.
const QUOTED_KEY_CHARS: usize = 64;

/// Checks the members that a request wants to write into a section.
///
/// # Errors
/// Names the first property that breaks a rule, by its path.
pub(super) fn check(section: SectionName, members: &Map<String, Value>) -> Result<(), ServiceError> {
    let root = Path {
        parent: None,
        key: section.path(),
    };
    check_members(
        members,
        &root,
        Position {
            depth: 0,
            in_array: false,
        },
    )?;
    // Whatever the twin holds, it will hold at least this much afterwards.
    let size = merge::size_of(members);
    if size > section.limit() {
        return Err(section.too_large(size));
    }
    Ok(())
}

/// Where in a section a value stands.
#[derive(Clone, Copy)]
struct Position {
    /// Objects and arrays between the section's root and the value.
    depth: usize,
    in_array: bool,
}

fn check_members(
    members: &Map<String, Value>,
    parent: &Path<'_>,
    position: Position,
) -> Result<(), ServiceError> {
    for (key, value) in members {
        let path = Path {
            parent: Some(parent),
            key,
        };
        check_key(key, &path)?;
        check_value(value, &path, position)?;
    }
    Ok(())
}

fn check_key(key: &str, path: &Path<'_>) -> Result<(), ServiceError> {
    if key.len() > limits::TWIN_KEY_BYTES {
        return Err(ServiceError::invalid(format!(
            "property name of {path} exceeds maximum length of {}",
            limits::TWIN_KEY_BYTES
        )));
    }
    let illegal = |c: char| matches!(c, '.' | '$' | '#') || c.is_whitespace() || c.is_control();
    if key.contains(illegal) {
        return Err(ServiceError::invalid(format!(
            "property name of {path} contains an invalid character"
        )));
    }
    Ok(())
}

fn check_value(value: &Value, path: &Path<'_>, position: Position) -> Result<(), ServiceError> {
    match value {
        Value::Null if position.in_array => Err(ServiceError::invalid(format!(
            "{path}: arrays cannot contain null"
        ))),
        Value::Null | Value::Bool(_) => Ok(()),
        Value::Number(number) => check_number(number, path),
        Value::String(text) if text.len() > limits::TWIN_STRING_BYTES => Err(ServiceError::invalid(format!(
            "value of {path} exceeds maximum length of {}",
            limits::TWIN_STRING_BYTES
        ))),
        Value::String(_) => Ok(()),
        Value::Object(members) => {
            let depth = deeper(position, path)?;
            check_members(members, path, Position { depth, ..position })
        }
        Value::Array(items) => {
            let depth = deeper(position, path)?;
            items.iter().try_for_each(|item| {
                check_value(
                    item,
                    path,
                    Position {
                        depth,
                        in_array: true,
                    },
                )
            })
        }
    }
}

fn deeper(position: Position, path: &Path<'_>) -> Result<usize, ServiceError> {
    if position.depth >= limits::TWIN_DEPTH {
        return Err(ServiceError::invalid(format!(
            "nested depth of {path} exceeds {}",
            limits::TWIN_DEPTH
        )));
    }
    Ok(position.depth + 1)
}

fn check_number(number: &Number, path: &Path<'_>) -> Result<(), ServiceError> {
    // Only integers have bounds; the parser has read anything else as a double.
    let legal = match number.as_i64() {
        Some(integer) => limits::TWIN_INTEGERS.contains(&integer),
        None => number.is_f64(),
    };
    if legal {
        return Ok(());
    }
    Err(ServiceError::invalid(format!(
        "value of {path} is out of bounds: integers must be within [{}; {}]",
        limits::TWIN_INTEGERS.start(),
        limits::TWIN_INTEGERS.end()
    )))
}

/// The way to a property, spelled out only in messages.
struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    key: &'a str,
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            write!(f, "{parent}.")?;
        }
        for c in self.key.chars().take(QUOTED_KEY_CHARS) {
            write!(f, "{}", c.escape_debug())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::needless_pass_by_value,
        reason = "JSON literals read better without a reference"
    )]

    use super::*;
    use crate::error::ErrorCode;
    use serde_json::json;

    fn verdict(value: Value) -> Result<(), String> {
        let members = value.as_object().unwrap();
        check(SectionName::Desired, members).map_err(|e| {
            assert_eq!(e.code, ErrorCode::ArgumentInvalid);
            e.message
        })
    }

    #[test]
    fn keys_exclude_what_paths_and_topics_need() {
        for key in ["a", "ä-_@[]", "x:y", "", &"k".repeat(1024)] {
            assert_eq!(verdict(json!({ key: 1 })), Ok(()), "{key:?}");
        }
        for key in ["a.b", "$a", "a b", "a#", "a\tb", "a\u{7}", "\u{85}", "\u{2003}"] {
            let expected = format!(
                "property name of properties.desired.{} contains an invalid character",
                key.escape_debug()
            );
            assert_eq!(verdict(json!({ key: null })), Err(expected), "{key:?}");
        }
        let long = verdict(json!({ "é".repeat(513): 1 })).unwrap_err();
        assert!(long.ends_with("exceeds maximum length of 1024"), "{long}");
        assert!(long.len() < 300);
        // Objects inside arrays keep the same rules.
        assert!(verdict(json!({"a":[{"b.c":1}]})).is_err());
    }

    #[test]
    fn values_keep_their_bounds() {
        let (least, greatest) = limits::TWIN_INTEGERS.into_inner();
        for value in [
            json!(true),
            json!(1e300),
            json!(least),
            json!(greatest),
            json!("x".repeat(4096)),
            json!([]),
            json!([1, [2, {"a": "b"}]]),
            json!(null),
        ] {
            assert_eq!(verdict(json!({"v": value})), Ok(()));
        }
        let range = "is out of bounds: integers must be within [-4503599627370496; 4503599627370495]";
        let length = "exceeds maximum length of 4096";
        for (value, reason) in [
            (json!(least - 1), range),
            (json!(greatest + 1), range),
            (json!(u64::MAX), range),
            (json!("x".repeat(4097)), length),
            (json!("é".repeat(2049)), length),
        ] {
            let expected = format!("value of properties.desired.v {reason}");
            assert_eq!(verdict(json!({"v": value})), Err(expected));
        }
        for value in [json!([null]), json!([[null]]), json!([{"a": null}])] {
            let message = verdict(json!({"v": value})).unwrap_err();
            assert!(message.ends_with("arrays cannot contain null"), "{message}");
        }
    }

    #[test]
    fn ten_objects_may_nest_and_arrays_count_as_one() {
        let nest = |levels: usize, inner: Value| {
            let tree = (0..levels).fold(inner, |inner, _| json!({ "o": inner }));
            verdict(json!({ "top": tree }))
        };
        // `top` itself is the tenth level's holder: top.o.o…o.
        assert_eq!(nest(10, json!(1)), Ok(()));
        assert_eq!(nest(9, json!([1])), Ok(()));
        for (levels, inner) in [(11, json!(1)), (10, json!({})), (10, json!([])), (9, json!([[]]))] {
            let message = nest(levels, inner).unwrap_err();
            assert!(message.ends_with("exceeds 10"), "{message}");
        }
    }

    #[test]
    fn a_patch_larger_than_its_section_is_refused_at_once() {
        let tags = |n: usize| {
            let members: Map<_, _> = (0..n)
                .map(|i| (format!("{i:04}"), json!("x".repeat(1020))))
                .collect();
            check(SectionName::Tags, &members)
        };
        assert_eq!(tags(8), Ok(()));
        assert_eq!(
            tags(9).unwrap_err().message,
            "the size of tags would be 9216, which exceeds the limit of 8192"
        );
    }
}
