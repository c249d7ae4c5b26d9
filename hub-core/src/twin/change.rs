//! What a write to a twin tells readers of twin change events.

use serde_json::{Map, Value, json};

use super::patch::{SectionPatch, nulls};
use super::{Object, ReportedPatch, Twin, TwinPatch, json_bytes};
use crate::ids::Target;
use crate::time::Timestamp;

/// What a merge writes, noted before the twin changes: emptying a section
/// removes every member, and each is named.
#[derive(Debug)]
pub struct TwinChange {
    tags: Option<Map<String, Value>>,
    desired: Option<Map<String, Value>>,
    reported: Option<Map<String, Value>>,
}

impl TwinChange {
    /// What merging `patch` into `twin` will write.
    #[must_use]
    pub fn of_merge(patch: &TwinPatch, twin: &Twin) -> Self {
        let members = |section: &SectionPatch, current: &Object| match section {
            SectionPatch::Members(members) => members.clone(),
            SectionPatch::Null => nulls(current),
        };
        Self {
            tags: patch.tags.as_ref().map(|section| members(section, twin.tags())),
            desired: patch
                .desired
                .as_ref()
                .map(|patch| members(&patch.section, twin.desired().properties())),
            reported: None,
        }
    }

    /// What a device reports.
    #[must_use]
    pub fn of_report(patch: &ReportedPatch) -> Self {
        Self {
            tags: None,
            desired: None,
            reported: Some(patch.properties.clone()),
        }
    }

    /// The body of the event once `twin` has changed, at `now`: what the write
    /// names, removed members as nulls, with the metadata of just that.
    #[must_use]
    pub fn body(self, twin: &Twin, now: Timestamp) -> Vec<u8> {
        let mut body = Map::from_iter([("version".to_owned(), twin.version().into())]);
        if let Some(tags) = self.tags {
            body.insert("tags".into(), tags.into());
        }
        let mut properties = Map::new();
        if let Some(mut members) = self.desired {
            let version = twin.desired().version();
            members.insert("$metadata".into(), metadata(&members, now, Some(version)));
            members.insert("$version".into(), version.into());
            properties.insert("desired".into(), members.into());
        }
        if let Some(mut members) = self.reported {
            members.insert("$metadata".into(), metadata(&members, now, None));
            members.insert("$version".into(), twin.reported().version().into());
            properties.insert("reported".into(), members.into());
        }
        if !properties.is_empty() {
            body.insert("properties".into(), properties.into());
        }
        json_bytes(&body)
    }
}

/// The metadata of what a write names. Recursion ends at the greatest legal
/// nesting, which patches are checked for.
fn metadata(members: &Map<String, Value>, now: Timestamp, version: Option<u64>) -> Value {
    let mut node = Map::from_iter([("$lastUpdated".to_owned(), now.to_string().into())]);
    if let Some(version) = version {
        node.insert("$lastUpdatedVersion".into(), version.into());
    }
    for (key, value) in members {
        let child = match value {
            Value::Null => continue,
            Value::Object(members) => metadata(members, now, version),
            _ => metadata(&Map::new(), now, version),
        };
        node.insert(key.clone(), child);
    }
    node.into()
}

/// The members of a twin that events show: the document without what belongs to
/// the identity or the connection.
#[must_use]
pub fn event_document(target: &Target, twin: &Twin) -> Vec<u8> {
    let mut body = json!({ "deviceId": target.device });
    if let Some(module) = &target.module {
        body["moduleId"] = module.as_str().into();
    }
    body["etag"] = twin.etag().into();
    body["version"] = twin.version().into();
    if !twin.tags().is_empty() {
        body["tags"] = twin.tags().to_json().into();
    }
    body["properties"] = json!({ "desired": twin.desired(), "reported": twin.reported() });
    json_bytes(&body)
}
