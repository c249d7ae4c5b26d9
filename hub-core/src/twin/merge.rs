//! Changes of a section's content, and the size that limits it.
//!
//! Expects patches that the `check` module has accepted, which bounds the
//! recursion to the greatest legal nesting.

use serde_json::{Map, Value};

use super::section::SectionName;
use super::tree::{Node, Object};
use crate::error::ServiceError;

/// Size of a number in the service's count, whatever its digits (twins).
const NUMBER_SIZE: usize = 8;
/// Size of a boolean in the service's count (twins).
const BOOLEAN_SIZE: usize = 4;

/// What a write does to a section.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change<'a> {
    /// Merges members in; null removes.
    Merge(&'a Map<String, Value>),
    /// Makes this the content; null members are dropped.
    Replace(&'a Map<String, Value>),
    /// Removes everything.
    Clear,
}

/// A tree of properties that knows its size.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Properties {
    tree: Object,
    size: usize,
}

impl Properties {
    pub(super) fn tree(&self) -> &Object {
        &self.tree
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// The size that `change` would lead to, without changing anything.
    ///
    /// # Errors
    /// When the content would grow, and to more than the section's limit. A
    /// write that makes an oversized section smaller is legal.
    pub(super) fn size_after(
        &self,
        change: Option<Change<'_>>,
        name: SectionName,
    ) -> Result<usize, ServiceError> {
        let size = match change {
            None => self.size,
            Some(Change::Clear) => 0,
            Some(Change::Replace(content)) => size_of(content),
            // Added before subtracted: what a merge removes is part of the size.
            Some(Change::Merge(patch)) => {
                let shift = shift_by(&self.tree, patch);
                (self.size + shift.added).saturating_sub(shift.removed)
            }
        };
        if size > self.size && size > name.limit() {
            return Err(name.too_large(size));
        }
        Ok(size)
    }

    /// Carries out `change`; `size` is what [`Properties::size_after`] said of it.
    pub(super) fn apply(&mut self, change: Change<'_>, size: usize) {
        match change {
            Change::Merge(patch) => self.tree.merge(patch),
            Change::Replace(content) => self.tree = Object::without_nulls(content),
            Change::Clear => self.tree = Object::default(),
        }
        self.size = size;
    }
}

/// How much a merge adds and removes.
#[derive(Default)]
struct Shift {
    added: usize,
    removed: usize,
}

fn shift_by(target: &Object, patch: &Map<String, Value>) -> Shift {
    let mut shift = Shift::default();
    for (key, value) in patch {
        match (value, target.get(key)) {
            (Value::Object(members), Some(Node::Object(inner))) => {
                let inner = shift_by(inner, members);
                shift.added += inner.added;
                shift.removed += inner.removed;
            }
            (value, old) => {
                shift.added += member_size(key, value);
                shift.removed += old.map_or(0, |old| text_size(key) + node_size(old));
            }
        }
    }
    shift
}

/// Size of an object: the sum of its members. Null members count nothing, so
/// that a patch weighs what it will store.
pub(super) fn size_of(members: &Map<String, Value>) -> usize {
    members.iter().map(|(key, value)| member_size(key, value)).sum()
}

fn member_size(key: &str, value: &Value) -> usize {
    match value {
        Value::Null => 0,
        value => text_size(key) + value_size(value),
    }
}

fn value_size(value: &Value) -> usize {
    match value {
        Value::Null => 0,
        Value::Bool(_) => BOOLEAN_SIZE,
        Value::Number(_) => NUMBER_SIZE,
        Value::String(text) => text_size(text),
        Value::Array(items) => items.iter().map(value_size).sum(),
        Value::Object(members) => size_of(members),
    }
}

fn node_size(node: &Node) -> usize {
    match node {
        Node::Bool(_) => BOOLEAN_SIZE,
        Node::Number(_) => NUMBER_SIZE,
        Node::Text(text) => text_size(text),
        Node::Array(items) => items.iter().map(value_size).sum(),
        Node::Object(inner) => inner
            .iter()
            .map(|(name, node)| text_size(name) + node_size(node))
            .sum(),
    }
}

/// Characters of a text, control characters excluded.
fn text_size(text: &str) -> usize {
    text.chars().filter(|c| !c.is_control()).count()
}
