//! `$metadata`: when each property changed last.

use std::num::NonZeroU64;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::merge::Change;
use super::sorted::{Fate, Sorted};
use crate::time::Timestamp;

/// When a property changed last, and the same for its members if it is an
/// object. Arrays and empty objects have no members.
///
/// Serializes as `{"$lastUpdated":…,"$lastUpdatedVersion":…,"member":{…}}`.
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata {
    stamp: Stamp,
    children: Sorted<Metadata>,
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
            children: Sorted::new(),
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
        self.children.get(key)
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
        self.children
            .merge(patch.iter(), |value, child| match (value, child) {
                (Value::Null, _) => Fate::Removed,
                (Value::Object(members), Some(child)) => {
                    child.merge(members, stamp);
                    Fate::Kept
                }
                (Value::Object(members), None) => {
                    let mut child = Self::new(stamp);
                    child.merge(members, stamp);
                    Fate::Added(child)
                }
                (_, Some(child)) => {
                    *child = Self::new(stamp);
                    Fate::Kept
                }
                (_, None) => Fate::Added(Self::new(stamp)),
            });
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("$lastUpdated", &self.stamp.at)?;
        if let Some(version) = self.stamp.version {
            map.serialize_entry("$lastUpdatedVersion", &version)?;
        }
        for (key, child) in self.children.iter() {
            map.serialize_entry(key, child)?;
        }
        map.end()
    }
}
