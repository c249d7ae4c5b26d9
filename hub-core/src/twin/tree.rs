//! The properties of a section as a twin keeps them: JSON without nulls, in as
//! little memory as will do.
//!
//! A hub holds a tree for every section of every twin, most of them with a
//! handful of members. The JSON library's own map takes over 600 bytes for the
//! first of them; here a member takes 40 and its text.

use std::fmt;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Number, Value};

use super::sorted::{Fate, Sorted};

/// An object of a twin: members sorted by name.
#[derive(Clone, Default, PartialEq)]
pub struct Object {
    members: Sorted<Node>,
}

/// A value of a twin.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// True or false.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A string.
    Text(Box<str>),
    /// An array, which a twin replaces as a whole and never looks into.
    Array(Box<[Value]>),
    /// An object, which a twin merges into.
    Object(Object),
}

impl Object {
    /// Number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.len() == 0
    }

    /// The members, sorted by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Node)> {
        self.members.iter()
    }

    /// The member `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.members.get(name)
    }

    /// What `keys` lead to, outermost first; nothing for no keys at all.
    #[must_use]
    pub fn at(&self, keys: &[impl AsRef<str>]) -> Option<&Node> {
        let (first, rest) = keys.split_first()?;
        rest.iter()
            .try_fold(self.get(first.as_ref())?, |node, key| match node {
                Node::Object(inner) => inner.get(key.as_ref()),
                _ => None,
            })
    }

    /// The object as the JSON library has it.
    #[must_use]
    pub fn to_json(&self) -> Map<String, Value> {
        self.iter()
            .map(|(name, node)| (name.to_owned(), node.to_json()))
            .collect()
    }

    /// The object that holds `members`; members that are null are left out.
    pub(super) fn without_nulls(members: &Map<String, Value>) -> Self {
        let kept = members.values().filter(|value| !value.is_null()).count();
        let stored =
            |(name, value): (&String, &Value)| Some((Box::from(name.as_str()), Node::stored(value)?));
        Self {
            // The map is sorted as members are.
            members: Sorted::of_sorted(kept, members.iter().filter_map(stored)),
        }
    }

    /// Merges `patch` in: null removes, objects merge, everything else replaces.
    /// Recursion ends at the greatest legal nesting, which patches are checked for.
    pub(super) fn merge(&mut self, patch: &Map<String, Value>) {
        self.members
            .merge(patch.iter(), |value, node| match (value, node) {
                (Value::Null, _) => Fate::Removed,
                (Value::Object(members), Some(Node::Object(inner))) => {
                    inner.merge(members);
                    Fate::Kept
                }
                (value, node) => match (Node::stored(value), node) {
                    (Some(new), Some(node)) => {
                        *node = new;
                        Fate::Kept
                    }
                    (new, _) => new.map_or(Fate::Kept, Fate::Added),
                },
            });
    }
}

impl Node {
    /// The value as the JSON library has it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Bool(b) => Value::Bool(*b),
            Self::Number(n) => Value::Number(n.clone()),
            Self::Text(text) => Value::String(text.to_string()),
            Self::Array(items) => Value::Array(items.to_vec()),
            Self::Object(inner) => Value::Object(inner.to_json()),
        }
    }

    /// A value as it is stored where there is nothing to merge with; null is not.
    fn stored(value: &Value) -> Option<Self> {
        Some(match value {
            Value::Null => return None,
            Value::Bool(b) => Self::Bool(*b),
            Value::Number(n) => Self::Number(n.clone()),
            Value::String(text) => Self::Text(text.as_str().into()),
            // Opaque, and checked to hold no nulls.
            Value::Array(items) => Self::Array(items.as_slice().into()),
            Value::Object(members) => Self::Object(Object::without_nulls(members)),
        })
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl Object {
    /// Writes the members into an object that has further ones.
    pub(super) fn serialize_into<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        self.iter()
            .try_for_each(|(name, node)| map.serialize_entry(name, node))
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bool(b) => b.serialize(serializer),
            Self::Number(n) => n.serialize(serializer),
            Self::Text(text) => text.serialize(serializer),
            Self::Array(items) => items.serialize(serializer),
            Self::Object(inner) => inner.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(json: &Value) -> Object {
        Object::without_nulls(json.as_object().expect("an object"))
    }

    /// What a million twins are made of.
    #[test]
    fn a_member_is_small() {
        assert_eq!(size_of::<(Box<str>, Node)>(), 40);
    }

    #[test]
    fn it_is_written_and_read_as_the_json_it_came_from() {
        let json = json!({"b": [1, {"x": null}], "a": {"z": 1.5, "y": "t", "n": null}, "c": true, "n": null});
        let tree = object(&json);
        let kept = json!({"a": {"y": "t", "z": 1.5}, "b": [1, {"x": null}], "c": true});
        assert_eq!(Value::Object(tree.to_json()), kept);
        assert_eq!(serde_json::to_string(&tree).unwrap(), kept.to_string());
        assert_eq!(tree.len(), 3);
    }

    #[test]
    fn keys_lead_into_objects_only() {
        let tree = object(&json!({"a": {"b": {"c": 1}}, "t": "text", "l": [1]}));
        let at = |keys: &[&str]| tree.at(keys).map(Node::to_json);
        assert_eq!(at(&["a", "b", "c"]), Some(json!(1)));
        assert_eq!(at(&["a", "b"]), Some(json!({"c": 1})));
        for keys in [
            &[][..],
            &["x"],
            &["a", "x"],
            &["t", "x"],
            &["l", "0"],
            &["a", "b", "c", "d"],
        ] {
            assert_eq!(at(keys), None, "{keys:?}");
        }
    }

    /// Thousands of members come, change and go in one patch.
    #[test]
    fn large_patches_merge_as_small_ones_do() {
        let name = |i: u32| format!("n{i:05}");
        let mut tree = Object::default();
        let first: Map<String, Value> = (0..9_000).map(|i| (name(i), json!(i))).collect();
        tree.merge(&first);
        let second: Map<String, Value> = (0..18_000)
            .filter(|i| i % 3 != 1)
            .map(|i| (name(i), if i % 3 == 0 { Value::Null } else { json!("new") }))
            .collect();
        tree.merge(&second);
        let expected: Map<String, Value> = (0..18_000)
            .filter_map(|i| match i % 3 {
                1 if i < 9_000 => Some((name(i), json!(i))),
                2 => Some((name(i), json!("new"))),
                _ => None,
            })
            .collect();
        assert_eq!(tree.to_json(), expected);
        assert_eq!(tree.get(&name(1)), Some(&Node::Number(1.into())));
        assert_eq!(tree.get(&name(3)), None);
    }
}
