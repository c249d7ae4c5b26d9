//! Documents of twin properties as a device sees them.

use serde_json::{Map, Value};

/// The properties without what the hub adds at the root, `$version` and
/// `$metadata`.
#[must_use]
pub fn content(section: &Map<String, Value>) -> Map<String, Value> {
    section
        .iter()
        .filter(|(key, _)| !key.starts_with('$'))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Applies a merge patch: objects are merged, `null` removes, anything else
/// replaces. The hub's `$` members of the patch's root are left out.
pub fn merge(document: &mut Map<String, Value>, patch: &Map<String, Value>) {
    // Nesting is bounded by the JSON parser that made both values.
    for (key, change) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        match change {
            Value::Null => {
                document.remove(key);
            }
            Value::Object(change) => {
                let entry = document.entry(key).or_insert_with(|| Value::Object(Map::new()));
                if !entry.is_object() {
                    *entry = Value::Object(Map::new());
                }
                if let Value::Object(inner) = entry {
                    merge(inner, change);
                }
            }
            other => {
                document.insert(key.clone(), other.clone());
            }
        }
    }
}

/// Whether `document` says everything that `part` says: objects may have
/// further members, anything else must be equal.
#[must_use]
pub fn contains(document: &Value, part: &Value) -> bool {
    match (document, part) {
        (Value::Object(document), Value::Object(part)) => part
            .iter()
            .all(|(key, value)| document.get(key).is_some_and(|has| contains(has, value))),
        _ => document == part,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            other => panic!("{other} is not an object"),
        }
    }

    #[test]
    fn merging_follows_the_rules_of_twins() {
        for (document, patch, expected) in [
            (json!({}), json!({"a": 1, "$version": 7}), json!({"a": 1})),
            (json!({"a": {"b": 1}}), json!({"a": {"c": 2}}), json!({"a": {"b": 1, "c": 2}})),
            (json!({"a": {"b": 1}}), json!({"a": {"b": null}}), json!({"a": {}})),
            (json!({"a": 1}), json!({"a": null, "z": null}), json!({})),
            (json!({"a": 1}), json!({"a": {"b": null}}), json!({"a": {}})),
            (json!({"a": {"b": 1}}), json!({"a": [1]}), json!({"a": [1]})),
        ] {
            let mut merged = object(document.clone());
            merge(&mut merged, &object(patch.clone()));
            assert_eq!(Value::Object(merged), expected, "{document} + {patch}");
        }
    }

    #[test]
    fn a_part_may_leave_members_out_but_not_differ() {
        let document = json!({"building": 43, "floor": 3, "at": {"x": 1, "y": 2}});
        for part in [json!({}), json!({"building": 43}), json!({"at": {"y": 2}, "floor": 3})] {
            assert!(contains(&document, &part), "{part}");
        }
        for part in [json!({"building": 44}), json!({"room": 1}), json!({"at": {"x": {}}}), json!([])] {
            assert!(!contains(&document, &part), "{part}");
        }
    }
}
