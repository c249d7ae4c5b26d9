//! Digital twins: a device's twin by the conventions of IoT Plug and Play.
//!
//! [`document`] shows desired and reported properties as one tree; what a
//! component is, its marker `"__t": "c"` says. A [`DigitalTwinPatch`] is a JSON
//! patch whose operations become a merge of desired properties. Models are not
//! looked at: nothing here knows which properties a device may have. Source:
//! the guides to digital twins and their conventions.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::error::{ErrorCode, ServiceError};
use crate::ids::DeviceId;
use crate::limits;
use crate::twin::{Twin, TwinPatch};

/// The member that marks an object of a twin as a component, and its value.
const MARKER: &str = "__t";
const COMPONENT: &str = "c";

/// The digital twin of a device: the values that it reports, and beside them in
/// `$metadata` what is desired of it and how far it got.
#[must_use]
pub fn document(device: &DeviceId, twin: &Twin) -> Value {
    let desired = twin.desired().properties().to_json();
    let reported = twin.reported().properties().to_json();
    let mut root = view(twin, None, Some(&desired), Some(&reported));
    let model = twin.model_id().map(|model| ("$model".to_owned(), json!(model)));
    if let Some(Value::Object(metadata)) = root.get_mut("$metadata") {
        metadata.extend(model);
    }
    root.insert("$dtId".into(), json!(device));
    Value::Object(root)
}

/// What a change made of a digital twin, as a JSON patch (RFC 6902) from one
/// [`document`] to the other, in the order of the paths; arrays are replaced
/// whole. Recursion ends at the greatest legal nesting of twins.
#[must_use]
pub fn difference(before: &Value, after: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    differ("", before, after, &mut operations);
    operations
}

fn differ(path: &str, before: &Value, after: &Value, operations: &mut Vec<Value>) {
    let (Value::Object(old), Value::Object(new)) = (before, after) else {
        if before != after {
            operations.push(json!({"op": "replace", "path": path, "value": after}));
        }
        return;
    };
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        // RFC 6901.
        let path = format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"));
        match (old.get(name), new.get(name)) {
            (Some(old), Some(new)) => differ(&path, old, new, operations),
            (Some(_), None) => operations.push(json!({"op": "remove", "path": path})),
            (None, Some(new)) => operations.push(json!({"op": "add", "path": path, "value": new})),
            (None, None) => {}
        }
    }
}

/// The properties of the root, or of a component, with their `$metadata`.
fn view(
    twin: &Twin,
    component: Option<&str>,
    desired: Option<&Map<String, Value>>,
    reported: Option<&Map<String, Value>>,
) -> Map<String, Value> {
    let names: BTreeSet<&String> = [desired, reported]
        .into_iter()
        .flatten()
        .flat_map(Map::keys)
        .collect();
    let (mut members, mut metadata) = (Map::new(), Map::new());
    for name in names {
        let (wanted, told) = (
            desired.and_then(|d| d.get(name)),
            reported.and_then(|r| r.get(name)),
        );
        if name == MARKER {
            continue;
        }
        if component.is_none() && [wanted, told].into_iter().flatten().any(is_component) {
            let as_map = |value: Option<&'_ Value>| value.and_then(Value::as_object).cloned();
            let (wanted, told) = (as_map(wanted), as_map(told));
            let inner = view(twin, Some(name), wanted.as_ref(), told.as_ref());
            members.insert(name.clone(), Value::Object(inner));
            continue;
        }
        let mut facts = Map::new();
        let path: Vec<&str> = component.into_iter().chain([name.as_str()]).collect();
        if let Some(value) = wanted {
            let version = twin.desired().metadata_at(&path).and_then(|(_, version)| version);
            facts.insert("desiredValue".into(), value.clone());
            facts.insert(
                "desiredVersion".into(),
                json!(version.unwrap_or(twin.desired().version())),
            );
        }
        if let Some(value) = told {
            let acknowledged = acknowledgement(value);
            for (fact, member) in [("ackVersion", "av"), ("ackCode", "ac"), ("ackDescription", "ad")] {
                if let Some(value) = acknowledged.and_then(|a| a.get(member)) {
                    facts.insert(fact.into(), value.clone());
                }
            }
            if let Some((updated, _)) = twin.reported().metadata_at(&path) {
                facts.insert("lastUpdateTime".into(), json!(updated));
            }
            let current = acknowledged.and_then(|a| a.get("value")).unwrap_or(value);
            members.insert(name.clone(), current.clone());
        }
        metadata.insert(name.clone(), Value::Object(facts));
    }
    members.insert("$metadata".into(), Value::Object(metadata));
    members
}

fn is_component(value: &Value) -> bool {
    value.get(MARKER).is_some_and(|marker| marker == COMPONENT)
}

/// What a device reports of a writable property: its value and how the desired
/// one was taken.
fn acknowledgement(value: &Value) -> Option<&Map<String, Value>> {
    let members = value.as_object()?;
    (members.contains_key("value") && members.contains_key("ac")).then_some(members)
}

/// A JSON patch of a digital twin: components and properties that are to be
/// added, replaced or removed.
#[derive(Debug, Clone, PartialEq)]
pub struct DigitalTwinPatch {
    operations: Vec<Operation>,
}

#[derive(Debug, Clone, PartialEq)]
struct Operation {
    /// A root property or a component.
    name: String,
    /// A property of that component.
    property: Option<String>,
    /// What it becomes; `None` removes it.
    value: Option<Value>,
}

impl DigitalTwinPatch {
    /// Reads a JSON patch with the operations `add`, `replace` and `remove`;
    /// `add` and `replace` mean the same. A value with a member `$metadata` is a
    /// component.
    ///
    /// # Errors
    /// `InvalidDigitalTwinJsonPatch` when it is no array of such operations or
    /// has more than [`limits::DIGITAL_TWIN_OPERATIONS`];
    /// `InvalidDigitalTwinPatchPath` for a path that is not `/property`,
    /// `/component` or `/component/property` with names of DTDL;
    /// `InvalidDigitalTwinPayload` for a missing value, null or an array.
    pub fn from_json(body: &Value) -> Result<Self, ServiceError> {
        let operations = body
            .as_array()
            .ok_or_else(|| bad_patch("the patch must be a JSON array"))?;
        if operations.len() > limits::DIGITAL_TWIN_OPERATIONS {
            return Err(bad_patch(format!(
                "the patch must not have more than {} operations",
                limits::DIGITAL_TWIN_OPERATIONS
            )));
        }
        let operations = operations
            .iter()
            .map(Operation::parse)
            .collect::<Result<_, _>>()?;
        Ok(Self { operations })
    }

    /// The merge of desired properties that the patch means for this twin.
    /// Removing what is not there is no error.
    ///
    /// # Errors
    /// `ArgumentInvalid` when a path takes a property for a component or the
    /// other way round; `InvalidDigitalTwinPayload` when a value breaks a limit
    /// of twins.
    pub fn to_twin_patch(&self, twin: &Twin) -> Result<TwinPatch, ServiceError> {
        let current = twin.desired().properties().to_json();
        let reported = twin.reported().properties().to_json();
        let mut wanted = current.clone();
        for operation in &self.operations {
            operation.check_kind(&wanted, &reported)?;
            operation.apply(&mut wanted);
        }
        let members: Map<String, Value> = self
            .operations
            .iter()
            .map(|operation| {
                let name = &operation.name;
                (name.clone(), rewritten(current.get(name), wanted.get(name)))
            })
            .collect();
        TwinPatch::from_json(&json!({ "properties": { "desired": members } }))
            .map_err(|e| bad_value(e.message))
    }
}

/// What has to be merged so that `wanted` stands in the place of `current`.
fn rewritten(current: Option<&Value>, wanted: Option<&Value>) -> Value {
    match (current, wanted) {
        (_, None) => Value::Null,
        (Some(Value::Object(current)), Some(Value::Object(wanted))) => {
            let gone = current.keys().filter(|key| !wanted.contains_key(*key));
            let members = wanted
                .keys()
                .chain(gone)
                .map(|key| (key.clone(), rewritten(current.get(key), wanted.get(key))));
            Value::Object(members.collect())
        }
        (_, Some(wanted)) => wanted.clone(),
    }
}

impl Operation {
    fn parse(operation: &Value) -> Result<Self, ServiceError> {
        let text = |member: &str| operation.get(member).and_then(Value::as_str);
        let path = text("path").ok_or_else(|| bad_patch("an operation must have a path"))?;
        let value = match text("op") {
            Some("add" | "replace") => Some(value_of(operation, path)?),
            Some("remove") => None,
            _ => return Err(bad_patch("op must be add, replace or remove")),
        };
        let mut names = path
            .strip_prefix('/')
            .into_iter()
            .flat_map(|names| names.split('/'));
        let (Some(name), property, None) = (names.next(), names.next(), names.next()) else {
            return Err(bad_path(path));
        };
        if !is_name(name) || !property.is_none_or(is_name) {
            return Err(bad_path(path));
        }
        Ok(Self {
            name: name.into(),
            property: property.map(Into::into),
            value,
        })
    }

    /// Whether the value makes a component.
    fn sets_component(&self) -> bool {
        self.property.is_none() && self.value.as_ref().is_some_and(|v| v.get("$metadata").is_some())
    }

    /// Refuses to take a property for a component and the other way round.
    fn check_kind(
        &self,
        desired: &Map<String, Value>,
        reported: &Map<String, Value>,
    ) -> Result<(), ServiceError> {
        let name = self.name.as_str();
        let known: Vec<&Value> = [desired.get(name), reported.get(name)]
            .into_iter()
            .flatten()
            .collect();
        let is_one = known.iter().any(|value| is_component(value));
        if (self.property.is_some() || self.sets_component()) && !is_one && !known.is_empty() {
            return Err(ServiceError::invalid(format!(
                "'{name}' exists within the device twin and is not digital twin conformant property. \
                 Please refer to aka.ms/dtpatch to update this to be conformant."
            )));
        }
        if is_one && self.property.is_none() && self.value.is_some() && !self.sets_component() {
            return Err(bad_value(format!(
                "'{name}' is a component: its value must have the empty object $metadata"
            )));
        }
        Ok(())
    }

    fn apply(&self, desired: &mut Map<String, Value>) {
        let name = &self.name;
        match (&self.property, &self.value) {
            (None, None) => {
                desired.remove(name);
            }
            (None, Some(value)) => {
                let mut value = value.clone();
                if let Value::Object(members) = &mut value
                    && members.remove("$metadata").is_some()
                {
                    members.insert(MARKER.into(), json!(COMPONENT));
                }
                desired.insert(name.clone(), value);
            }
            (Some(property), Some(value)) => {
                let component = desired
                    .entry(name.clone())
                    .or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(members) = component {
                    members.insert(MARKER.into(), json!(COMPONENT));
                    members.insert(property.clone(), value.clone());
                }
            }
            (Some(property), None) => {
                if let Some(Value::Object(members)) = desired.get_mut(name) {
                    members.remove(property);
                    // With its last property a component goes, too.
                    if members.keys().all(|key| key == MARKER) {
                        desired.remove(name);
                    }
                }
            }
        }
    }
}

fn value_of(operation: &Value, path: &str) -> Result<Value, ServiceError> {
    match operation.get("value") {
        None | Some(Value::Null) => Err(bad_value(format!("the value for {} is missing", shorten(path)))),
        Some(value) if holds_array(value) => Err(bad_value("digital twins do not support arrays")),
        Some(value) => Ok(value.clone()),
    }
}

/// Requests are checked for their depth before, which bounds the recursion.
fn holds_array(value: &Value) -> bool {
    match value {
        Value::Array(_) => true,
        Value::Object(members) => members.values().any(holds_array),
        _ => false,
    }
}

/// A name of DTDL: letters, digits and `_`, beginning with a letter and not
/// ending with `_`.
fn is_name(name: &str) -> bool {
    name.len() <= limits::DIGITAL_TWIN_NAME_CHARS
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && !name.ends_with('_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}

fn bad_patch(text: impl Into<String>) -> ServiceError {
    ServiceError::new(ErrorCode::InvalidDigitalTwinJsonPatch, text)
}

fn bad_path(path: &str) -> ServiceError {
    ServiceError::new(
        ErrorCode::InvalidDigitalTwinPatchPath,
        format!("the path {:?} names no component or property", shorten(path)),
    )
}

fn bad_value(text: impl Into<String>) -> ServiceError {
    ServiceError::new(ErrorCode::InvalidDigitalTwinPayload, text)
}

#[cfg(test)]
mod tests;
