//! Requests to change a twin, parsed and checked once.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

use super::check;
use super::json_bytes;
use super::merge::Change;
use super::section::SectionName;
use super::tree::Object;
use crate::error::ServiceError;
use crate::json;

/// Members of a section that clients send back as they read them.
const READ_ONLY: [&str; 2] = ["$metadata", "$version"];

/// A service's request to change tags or desired properties; PATCH merges it,
/// PUT makes it the content.
///
/// Applying one patch to many twins repeats none of the checks that depend on
/// the patch alone.
#[derive(Debug, Clone, PartialEq)]
pub struct TwinPatch {
    pub(super) tags: Option<SectionPatch>,
    pub(super) desired: Option<DesiredPatch>,
}

impl TwinPatch {
    /// Reads `{"tags":{…}?,"properties":{"desired":{…}?}?}`.
    ///
    /// `null` for a section empties it. `$metadata` and `$version` of a section
    /// and all other members are ignored: clients send back whole twins.
    ///
    /// # Errors
    /// `ArgumentInvalid` when the body, `tags`, `properties` or `desired` is
    /// not an object, or a property breaks a limit.
    pub fn from_json(body: &Value) -> Result<Self, ServiceError> {
        let Value::Object(body) = body else {
            return Err(ServiceError::invalid("the twin must be a JSON object"));
        };
        let tags = body
            .get("tags")
            .map(|tags| SectionPatch::parse(SectionName::Tags, tags))
            .transpose()?;
        let desired = match body.get("properties") {
            None | Some(Value::Null) => None,
            Some(Value::Object(properties)) => properties.get("desired"),
            Some(_) => return Err(ServiceError::invalid("properties must be a JSON object")),
        };
        let desired = desired.map(DesiredPatch::parse).transpose()?;
        Ok(Self { tags, desired })
    }

    /// Whether the request names neither tags nor desired properties.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tags.is_none() && self.desired.is_none()
    }
}

/// What a request says about one section.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum SectionPatch {
    Members(Map<String, Value>),
    /// `null` in place of the section.
    Null,
}

impl SectionPatch {
    fn parse(name: SectionName, section: &Value) -> Result<Self, ServiceError> {
        match section {
            Value::Null => Ok(Self::Null),
            Value::Object(members) => members_to_write(name, members.clone()).map(Self::Members),
            _ => Err(not_an_object(name)),
        }
    }

    /// What PATCH does.
    pub(super) fn merging(&self) -> Change<'_> {
        match self {
            Self::Members(members) => Change::Merge(members),
            Self::Null => Change::Clear,
        }
    }

    /// What PUT does, also to a section that the request leaves out.
    pub(super) fn replacing(section: Option<&Self>) -> Change<'_> {
        match section {
            Some(Self::Members(members)) => Change::Replace(members),
            Some(Self::Null) | None => Change::Clear,
        }
    }
}

/// The desired section of a request, with its notification prepared.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct DesiredPatch {
    pub(super) section: SectionPatch,
    head: Bytes,
}

impl DesiredPatch {
    fn parse(section: &Value) -> Result<Self, ServiceError> {
        let section = SectionPatch::parse(SectionName::Desired, section)?;
        let head = match &section {
            SectionPatch::Members(members) => open_object(members).into(),
            SectionPatch::Null => Bytes::new(),
        };
        Ok(Self { section, head })
    }

    /// What the notification of a merge says before `$version`.
    pub(super) fn notification_head(&self, current: &Object) -> Cow<'_, [u8]> {
        match self.section {
            SectionPatch::Members(_) => Cow::Borrowed(&self.head),
            // Devices merge what they are told into what they know, so each
            // property that goes has to be named.
            SectionPatch::Null => Cow::Owned(open_object(&nulls(current))),
        }
    }
}

/// The patch that removes every member of `current`.
pub(super) fn nulls(current: &Object) -> Map<String, Value> {
    current
        .iter()
        .map(|(name, _)| (name.to_owned(), Value::Null))
        .collect()
}

/// An object's JSON text up to where a further member would follow.
pub(super) fn open_object(members: &impl Serialize) -> Vec<u8> {
    let mut text = json_bytes(members);
    text.pop();
    if text.len() > 1 {
        text.push(b',');
    }
    text
}

/// A device's request to merge into its reported properties.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportedPatch {
    pub(super) properties: Map<String, Value>,
}

impl ReportedPatch {
    /// Reads the body of a reported-properties update; `$metadata` and
    /// `$version` are ignored.
    ///
    /// # Errors
    /// `ArgumentInvalid` when it is not a JSON object or a property breaks a
    /// limit, `GenericRequestEntityTooLarge` when it exceeds the section's size.
    pub fn parse(body: &[u8]) -> Result<Self, ServiceError> {
        json::check_depth(body).map_err(|e| ServiceError::invalid(e.to_string()))?;
        match serde_json::from_slice(body) {
            Ok(Value::Object(members)) => Ok(Self {
                properties: members_to_write(SectionName::Reported, members)?,
            }),
            Ok(_) => Err(not_an_object(SectionName::Reported)),
            Err(e) => Err(ServiceError::invalid(format!("not valid JSON: {e}"))),
        }
    }
}

fn members_to_write(
    name: SectionName,
    mut members: Map<String, Value>,
) -> Result<Map<String, Value>, ServiceError> {
    for key in READ_ONLY {
        members.remove(key);
    }
    check::check(name, &members)?;
    Ok(members)
}

fn not_an_object(name: SectionName) -> ServiceError {
    ServiceError::invalid(format!("{} must be a JSON object", name.path()))
}
