//! Reading members of a request body. Absent and `null` mean the same
//! throughout: clients write out members that they have no value for.

use serde_json::{Map, Value};

use crate::error::ServiceError;

/// The body itself, which must be an object; `what` names it in the refusal.
pub(crate) fn object<'a>(body: &'a Value, what: &str) -> Result<&'a Map<String, Value>, ServiceError> {
    body.as_object()
        .ok_or_else(|| ServiceError::invalid(format!("{what} must be a JSON object")))
}

pub(crate) fn optional_object<'a>(
    body: &'a Map<String, Value>,
    name: &str,
) -> Result<Option<&'a Map<String, Value>>, ServiceError> {
    present(body, name).map(|value| object(value, name)).transpose()
}

pub(crate) fn optional_str<'a>(
    body: &'a Map<String, Value>,
    name: &str,
) -> Result<Option<&'a str>, ServiceError> {
    match present(body, name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(ServiceError::invalid(format!("{name} must be a string"))),
    }
}

/// Like [`optional_str`], with at most `max` characters.
pub(crate) fn short_str<'a>(
    body: &'a Map<String, Value>,
    name: &str,
    max: usize,
) -> Result<Option<&'a str>, ServiceError> {
    let text = optional_str(body, name)?;
    if text.is_some_and(|text| text.chars().count() > max) {
        return Err(ServiceError::invalid(format!(
            "{name} must not be longer than {max} characters"
        )));
    }
    Ok(text)
}

/// Like [`optional_str`]; an empty text, too, means that there is no value.
pub(crate) fn non_empty_str<'a>(
    body: &'a Map<String, Value>,
    name: &str,
) -> Result<Option<&'a str>, ServiceError> {
    Ok(optional_str(body, name)?.filter(|text| !text.is_empty()))
}

pub(crate) fn optional_bool(body: &Map<String, Value>, name: &str) -> Result<Option<bool>, ServiceError> {
    match present(body, name) {
        None => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(_) => Err(ServiceError::invalid(format!("{name} must be true or false"))),
    }
}

pub(crate) fn optional_array<'a>(
    body: &'a Map<String, Value>,
    name: &str,
) -> Result<&'a [Value], ServiceError> {
    match present(body, name) {
        None => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(ServiceError::invalid(format!("{name} must be an array"))),
    }
}

/// Refuses a body that names another id than the one it was sent to.
pub(crate) fn same_id(body: &Map<String, Value>, name: &str, id: &str) -> Result<(), ServiceError> {
    match optional_str(body, name)? {
        Some(other) if other != id => Err(ServiceError::invalid(format!(
            "{name} in the body does not match the id {id}"
        ))),
        _ => Ok(()),
    }
}

fn present<'a>(body: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    body.get(name).filter(|value| !value.is_null())
}
