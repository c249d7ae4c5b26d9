//! Device and module twins.
//!
//! A [`Twin`] holds what the service wrote (tags, desired properties) and what
//! the device wrote (reported properties), with versions, times of change and
//! an ETag. A request body is first parsed into a [`TwinPatch`] or
//! [`ReportedPatch`], which checks every limit that does not depend on the
//! current content, once, however many twins the patch is then applied to. A
//! write either happens completely or leaves the twin untouched, and returns
//! what has to be told to the device.
//!
//! Nothing here sends the notification, knows connections or compares
//! permissions. [`TwinDocument`] writes the whole twin as the service prints it.

mod change;
mod check;
mod document;
mod merge;
mod metadata;
mod patch;
mod section;
mod sorted;
#[cfg(test)]
mod tests;
mod tree;

use std::io::Write;
use std::num::NonZeroU64;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;

pub use change::{TwinChange, event_document};
pub use document::{TwinDocument, TwinOwner};
pub use metadata::Metadata;
pub use patch::{ReportedPatch, TwinPatch};
pub use section::Section;
pub use tree::{Node, Object};

use crate::error::ServiceError;
use crate::registry::IfMatch;
use crate::time::Timestamp;
use merge::{Change, Properties};
use metadata::Stamp;
use patch::SectionPatch;
use section::SectionName;

/// `version` of a new twin (developer guide's samples).
const FIRST_VERSION: u64 = 2;
/// ETag counter of a new twin: `AAAAAAAAAAE=`.
const FIRST_ETAG: u64 = 1;

/// The twin of one device or module.
///
/// A fresh twin owns no heap memory: a hub holds many twins that are never
/// written to.
#[derive(Debug, Clone, PartialEq)]
pub struct Twin {
    tags: Properties,
    desired: Section,
    reported: Section,
    version: u64,
    etag: u64,
    // Shared: a fleet usually announces one model.
    model_id: Option<Arc<str>>,
}

/// A change of the desired properties that the device has to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredChange {
    /// `$version` of the desired properties after the change.
    pub version: u64,
    /// The notification as JSON text: the patch with its nulls, or after a
    /// replacement the whole desired section, plus `$version`.
    pub payload: Bytes,
}

impl Twin {
    /// The twin of an identity that is created at `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
            tags: Properties::default(),
            desired: Section::new(now),
            reported: Section::new(now),
            version: FIRST_VERSION,
            etag: FIRST_ETAG,
            model_id: None,
        }
    }

    /// The tags, which only the service sees.
    #[must_use]
    pub fn tags(&self) -> &Object {
        self.tags.tree()
    }

    /// What the service wants of the device.
    #[must_use]
    pub fn desired(&self) -> &Section {
        &self.desired
    }

    /// What the device says of itself.
    #[must_use]
    pub fn reported(&self) -> &Section {
        &self.reported
    }

    /// Number that grows by one with each write to tags or desired properties; starts at 2.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The ETag without quotes: base64 of an 8-byte counter that grows with
    /// [`Twin::version`].
    #[must_use]
    pub fn etag(&self) -> String {
        STANDARD.encode(self.etag.to_be_bytes())
    }

    /// The model that the device announced when it connected, if any.
    #[must_use]
    pub fn model_id(&self) -> Option<&str> {
        self.model_id.as_deref()
    }

    /// Takes over the model id of a new connection; neither version nor ETag change.
    pub fn set_model_id(&mut self, model_id: Option<Arc<str>>) {
        self.model_id = model_id;
    }

    /// Checks a service request's precondition against this twin's ETag.
    ///
    /// # Errors
    /// `PreconditionFailed` when `if_match` names another ETag.
    pub fn check(&self, if_match: &IfMatch) -> Result<(), ServiceError> {
        match if_match {
            IfMatch::Absent | IfMatch::Any => Ok(()),
            IfMatch::ETag(etag) if *etag == self.etag() => Ok(()),
            IfMatch::ETag(_) => Err(ServiceError::stale_etag()),
        }
    }

    /// Merges `patch` into tags and desired properties (PATCH).
    ///
    /// Returns the desired change, if the patch has a desired section. A patch
    /// without any section changes nothing, not even the version.
    ///
    /// # Errors
    /// `ArgumentInvalid` when a section would grow beyond its limit; the twin
    /// is then as before.
    pub fn patch(
        &mut self,
        patch: &TwinPatch,
        now: Timestamp,
    ) -> Result<Option<DesiredChange>, ServiceError> {
        let tags = patch.tags.as_ref().map(SectionPatch::merging);
        let desired = patch.desired.as_ref().map(|p| p.section.merging());
        if tags.is_none() && desired.is_none() {
            return Ok(None);
        }
        // Both sizes are known to be good before either section changes.
        let tags_size = self.tags.size_after(tags, SectionName::Tags)?;
        let desired_size = self.desired.size_after(desired, SectionName::Desired)?;
        if let Some(change) = tags {
            self.tags.apply(change, tags_size);
        }
        let notification = match (&patch.desired, desired) {
            (Some(patch), Some(change)) => {
                let head = patch.notification_head(self.desired.properties());
                self.write_desired(change, desired_size, now);
                Some(self.desired_change(&head))
            }
            _ => None,
        };
        self.count_write();
        Ok(notification)
    }

    /// Replaces tags and desired properties by those of `patch` (PUT). A
    /// section that the patch lacks is emptied; reported properties stay.
    ///
    /// # Errors
    /// `ArgumentInvalid` when a section would grow beyond its limit; the twin
    /// is then as before.
    pub fn replace(
        &mut self,
        patch: &TwinPatch,
        now: Timestamp,
    ) -> Result<Option<DesiredChange>, ServiceError> {
        let tags = SectionPatch::replacing(patch.tags.as_ref());
        let desired = SectionPatch::replacing(patch.desired.as_ref().map(|p| &p.section));
        let tags_size = self.tags.size_after(Some(tags), SectionName::Tags)?;
        let desired_size = self.desired.size_after(Some(desired), SectionName::Desired)?;
        self.tags.apply(tags, tags_size);
        self.write_desired(desired, desired_size, now);
        self.count_write();
        let head = patch::open_object(self.desired.properties());
        Ok(Some(self.desired_change(&head)))
    }

    /// Merges what the device reports. Returns the new version of the reported
    /// properties; version and ETag of the twin stay.
    ///
    /// `expected_version` is the version that the device believes to change.
    ///
    /// # Errors
    /// `PreconditionFailed` when `expected_version` is not the current version,
    /// `GenericRequestEntityTooLarge` when the section would grow beyond its
    /// limit; the twin is then as before.
    pub fn patch_reported(
        &mut self,
        patch: &ReportedPatch,
        expected_version: Option<u64>,
        now: Timestamp,
    ) -> Result<u64, ServiceError> {
        if expected_version.is_some_and(|expected| expected != self.reported.version()) {
            return Err(ServiceError::stale_etag());
        }
        let change = Change::Merge(&patch.properties);
        let size = self.reported.size_after(Some(change), SectionName::Reported)?;
        self.reported.write(
            change,
            size,
            Stamp {
                at: now,
                version: None,
            },
        );
        Ok(self.reported.version())
    }

    /// What the device reads of its own twin, as JSON text:
    /// `{"desired":{…,"$version":n},"reported":{…,"$version":m}}`.
    #[must_use]
    pub fn device_view(&self) -> Bytes {
        #[derive(Serialize)]
        struct DeviceView<'a> {
            desired: section::Versioned<'a>,
            reported: section::Versioned<'a>,
        }
        json_bytes(&DeviceView {
            desired: self.desired.versioned(),
            reported: self.reported.versioned(),
        })
        .into()
    }

    fn write_desired(&mut self, change: Change<'_>, size: usize, now: Timestamp) {
        let version = NonZeroU64::new(self.desired.version() + 1);
        self.desired.write(change, size, Stamp { at: now, version });
    }

    fn count_write(&mut self) {
        self.version += 1;
        self.etag += 1;
    }

    /// The notification of the current desired version; `head` is everything
    /// that goes before the `$version` member.
    fn desired_change(&self, head: &[u8]) -> DesiredChange {
        const MEMBER: &str = "\"$version\":";
        let version = self.desired.version();
        let digits = version.checked_ilog10().unwrap_or(0) as usize + 1;
        // Exact, so that turning the buffer into `Bytes` allocates nothing more.
        let mut payload = Vec::with_capacity(head.len() + MEMBER.len() + digits + 1);
        payload.extend_from_slice(head);
        // Writing to memory does not fail.
        let _ = write!(payload, "{MEMBER}{version}}}");
        DesiredChange {
            version,
            payload: payload.into(),
        }
    }
}

pub(crate) fn json_bytes(value: &impl Serialize) -> Vec<u8> {
    // Writing to memory fails only for maps whose keys are not strings, which
    // twins do not have.
    serde_json::to_vec(value).unwrap_or_default()
}
