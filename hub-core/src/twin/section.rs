//! A section of a twin that is versioned and knows when each part changed:
//! the desired or the reported properties.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::merge::{Change, Properties};
use super::metadata::{Metadata, Stamp};
use super::tree::Object;
use crate::error::{ErrorCode, ServiceError};
use crate::limits;
use crate::time::Timestamp;

/// `$version` of a section that was never written to (developer guide's samples).
const FIRST_VERSION: u64 = 1;

/// Desired or reported properties with `$metadata` and `$version`.
///
/// Serializes as the service prints the section, `$metadata` and `$version`
/// included.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    properties: Properties,
    metadata: Metadata,
    version: u64,
}

impl Section {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            properties: Properties::default(),
            metadata: Metadata::new(Stamp {
                at: now,
                version: None,
            }),
            version: FIRST_VERSION,
        }
    }

    /// The properties without `$metadata` and `$version`.
    #[must_use]
    pub fn properties(&self) -> &Object {
        self.properties.tree()
    }

    /// `$version`: starts at 1 and grows by one with each accepted write.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// `$metadata`, a mirror of the properties.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// When the property at `path` changed last and, for desired properties
    /// that were written to, in which version. The empty path is the section.
    #[must_use]
    pub fn metadata_at(&self, path: &[impl AsRef<str>]) -> Option<(Timestamp, Option<u64>)> {
        let node = path
            .iter()
            .try_fold(&self.metadata, |node, key| node.child(key.as_ref()))?;
        Some((node.last_updated(), node.last_updated_version()))
    }

    /// Size of the properties as the service counts it, see [`limits::TWIN_PROPERTIES_SIZE`].
    #[must_use]
    pub fn size(&self) -> usize {
        self.properties.size()
    }

    pub(super) fn size_after(
        &self,
        change: Option<Change<'_>>,
        name: SectionName,
    ) -> Result<usize, ServiceError> {
        self.properties.size_after(change, name)
    }

    /// Carries out a change whose resulting `size` has been checked.
    pub(super) fn write(&mut self, change: Change<'_>, size: usize, stamp: Stamp) {
        self.properties.apply(change, size);
        self.metadata.apply(change, stamp);
        self.version += 1;
    }

    /// The form that devices read: no `$metadata`.
    pub(super) fn versioned(&self) -> Versioned<'_> {
        Versioned(self)
    }
}

impl Serialize for Section {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.properties().len() + 2))?;
        self.properties().serialize_into(&mut map)?;
        map.serialize_entry("$metadata", &self.metadata)?;
        map.serialize_entry("$version", &self.version)?;
        map.end()
    }
}

/// A section as devices read it.
pub(super) struct Versioned<'a>(&'a Section);

impl Serialize for Versioned<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(section) = self;
        let mut map = serializer.serialize_map(Some(section.properties().len() + 1))?;
        section.properties().serialize_into(&mut map)?;
        map.serialize_entry("$version", &section.version)?;
        map.end()
    }
}

/// Which part of a twin a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SectionName {
    Tags,
    Desired,
    Reported,
}

impl SectionName {
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Tags => "tags",
            Self::Desired => "properties.desired",
            Self::Reported => "properties.reported",
        }
    }

    pub(super) fn limit(self) -> usize {
        match self {
            Self::Tags => limits::TWIN_TAGS_SIZE,
            Self::Desired | Self::Reported => limits::TWIN_PROPERTIES_SIZE,
        }
    }

    /// The refusal of a write after which the section would have `size`.
    pub(super) fn too_large(self, size: usize) -> ServiceError {
        let code = match self {
            // REST answers 400, devices get 413.
            Self::Tags | Self::Desired => ErrorCode::ArgumentInvalid,
            Self::Reported => ErrorCode::GenericRequestEntityTooLarge,
        };
        let (path, limit) = (self.path(), self.limit());
        ServiceError::new(
            code,
            format!("the size of {path} would be {size}, which exceeds the limit of {limit}"),
        )
    }
}
