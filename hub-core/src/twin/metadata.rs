//! `$metadata`: when each property changed last.

use std::num::NonZeroU64;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::merge::Change;
use crate::time::Timestamp;

/// Children up to which a node grows one at a time: most objects of a twin
/// have very few members, and a vector's own first step is four.
const EXACT_GROWTH: usize = 4;

/// When a property changed last, and the same for its members if it is an
/// object. Arrays and empty objects have no members.
///
/// Serializes as `{"$lastUpdated":…,"$lastUpdatedVersion":…,"member":{…}}`.
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata {
    stamp: Stamp,
    // Sorted by key, and a vector because most objects are small.
    children: Vec<(Box<str>, Metadata)>,
}

/// The moment of a write, with the section's new version where the service
/// records it (desired properties).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Stamp {
    pub(super) at: Timestamp,
    pub(super) version: Option<NonZeroU64>,
}

impl Metadata {
    pub(super) fn new(stamp: Stamp) -> Self {
        Self {
            stamp,
            children: Vec::new(),
        }
    }

    /// `$lastUpdated`.
    #[must_use]
    pub fn last_updated(&self) -> Timestamp {
        self.stamp.at
    }

    /// `$lastUpdatedVersion`, which only desired properties have.
    #[must_use]
    pub fn last_updated_version(&self) -> Option<u64> {
        self.stamp.version.map(NonZeroU64::get)
    }

    /// The metadata of a member.
    #[must_use]
    pub fn child(&self, key: &str) -> Option<&Self> {
        let index = self.find(key).ok()?;
        self.children.get(index).map(|(_, child)| child)
    }

    /// Follows a change of the properties.
    pub(super) fn apply(&mut self, change: Change<'_>, stamp: Stamp) {
        match change {
            Change::Merge(patch) => self.merge(patch, stamp),
            Change::Replace(content) => {
                self.children.clear();
                self.merge(content, stamp);
            }
            Change::Clear => {
                self.children.clear();
                self.stamp = stamp;
            }
        }
    }

    /// Stamps what `patch` mentions, and this node as its ancestor.
    fn merge(&mut self, patch: &Map<String, Value>, stamp: Stamp) {
        self.stamp = stamp;
        for (key, value) in patch {
            match value {
                Value::Null => {
                    if let Ok(index) = self.find(key) {
                        self.children.remove(index);
                    }
                }
                Value::Object(members) => self.child_or_insert(key, stamp).merge(members, stamp),
                _ => *self.child_or_insert(key, stamp) = Self::new(stamp),
            }
        }
    }

    fn child_or_insert(&mut self, key: &str, stamp: Stamp) -> &mut Self {
        let index = self.find(key).unwrap_or_else(|index| {
            if self.children.len() < EXACT_GROWTH {
                self.children.reserve_exact(1);
            }
            self.children.insert(index, (key.into(), Self::new(stamp)));
            index
        });
        &mut self.children[index].1
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        self.children.binary_search_by(|(k, _)| (**k).cmp(key))
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("$lastUpdated", &self.stamp.at)?;
        if let Some(version) = self.stamp.version {
            map.serialize_entry("$lastUpdatedVersion", &version)?;
        }
        for (key, child) in &self.children {
            map.serialize_entry(&**key, child)?;
        }
        map.end()
    }
}
