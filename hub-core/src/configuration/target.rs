//! Target conditions: which twins a configuration is for.

use super::content::ContentKind;
use crate::error::{ErrorCode, ServiceError};
use crate::query::{Attribute, Query, Row, Source};

/// Attributes that a condition may look at: what a configuration itself
/// changes is not among them, so that applying one cannot move its target.
const ATTRIBUTES: [Attribute; 4] = [
    Attribute::DeviceId,
    Attribute::ModuleId,
    Attribute::Tags,
    Attribute::Reported,
];

/// Which twins a configuration is for.
#[derive(Debug, Clone)]
pub struct TargetCondition {
    text: Box<str>,
    /// `None` selects nothing.
    query: Option<Query>,
}

impl TargetCondition {
    /// Reads a condition: what follows WHERE in a query over devices, `*` for
    /// all devices, nothing at all for none of them; for the content of modules
    /// a text of the form `FROM devices.modules WHERE …`.
    ///
    /// # Errors
    /// `InvalidConfigurationTargetCondition` for a text that is no condition,
    /// is over another collection than the content, or looks at anything but
    /// ids, tags and reported properties.
    pub fn parse(text: &str, kind: ContentKind) -> Result<Self, ServiceError> {
        let parsed = Self::parse_any(text)?;
        let expected = match kind {
            ContentKind::Device | ContentKind::Edge => Source::Devices,
            ContentKind::Module => Source::Modules,
        };
        match &parsed.query {
            Some(query) if query.source() != expected => Err(refused(format!(
                "a condition for {} must be over {}",
                kind.as_str(),
                expected.as_str()
            ))),
            _ => Ok(parsed),
        }
    }

    /// Reads a condition over devices or modules.
    ///
    /// # Errors
    /// As [`TargetCondition::parse`].
    pub fn parse_any(text: &str) -> Result<Self, ServiceError> {
        let query = match text.trim() {
            "" => None,
            condition => Some(Query::from_condition(condition).map_err(|e| refused(e.to_string()))?),
        };
        let attributes = query.as_ref().map(Query::condition_attributes);
        if let Some(foreign) = attributes
            .iter()
            .flatten()
            .find(|attribute| !ATTRIBUTES.contains(attribute))
        {
            return Err(refused(format!(
                "a target condition may use deviceId, tags and properties.reported, but not {}",
                match foreign {
                    Attribute::Unknown => "other names",
                    known => known.name(),
                }
            )));
        }
        Ok(Self {
            text: text.into(),
            query,
        })
    }

    /// The condition as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the configuration is for this twin.
    #[must_use]
    pub fn matches<R: Row + ?Sized>(&self, row: &R) -> bool {
        self.query.as_ref().is_some_and(|query| query.matches(row))
    }

    /// The query that finds the targets, as the service shows it.
    pub(super) fn query_text(&self, kind: ContentKind) -> String {
        let condition = self.text.trim();
        let devices = "select deviceId from devices";
        match (kind, condition) {
            // Runnable, and selects nothing.
            (_, "") => format!("{devices} where false"),
            (ContentKind::Device, "*") => devices.into(),
            (ContentKind::Edge, "*") => format!("{devices} where capabilities.iotEdge = true"),
            (ContentKind::Device, condition) if starts_with_from(condition) => {
                format!("select deviceId {condition}")
            }
            (ContentKind::Edge, condition) if starts_with_from(condition) => {
                format!("select deviceId {condition}")
            }
            (ContentKind::Device, condition) => format!("{devices} where {condition}"),
            (ContentKind::Edge, condition) => {
                format!("{devices} where capabilities.iotEdge = true and ({condition})")
            }
            (ContentKind::Module, condition) => format!("select deviceId, moduleId {condition}"),
        }
    }
}

fn starts_with_from(condition: &str) -> bool {
    condition
        .split_whitespace()
        .next()
        .is_some_and(|word| word.eq_ignore_ascii_case("from"))
}

fn refused(text: impl Into<String>) -> ServiceError {
    ServiceError::new(ErrorCode::InvalidConfigurationTargetCondition, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn conditions_are_over_ids_tags_and_reported_properties() {
        use ContentKind::{Device, Edge, Module};
        for (text, kind, legal) in [
            ("", Device, true),
            ("", Module, true),
            ("  ", Edge, true),
            ("*", Device, true),
            ("*", Edge, true),
            ("*", Module, false),
            ("deviceId = 'd'", Device, true),
            (
                "tags.environment='test' and properties.reported.a.b > 1",
                Device,
                true,
            ),
            (
                "STARTSWITH(deviceId, 'x') OR is_defined(tags.[[group]])",
                Edge,
                true,
            ),
            ("from devices where tags.a = 1", Device, true),
            ("properties.desired.a = 1", Device, false),
            ("connectionState = 'Connected'", Device, false),
            ("status = 'enabled'", Device, false),
            ("unknown = 1", Device, false),
            ("configurations.[[c]].status = 'Applied'", Device, false),
            ("capabilities.iotEdge = true", Edge, false),
            ("tags.a =", Device, false),
            ("tags.a = 1 GROUP BY tags.a", Device, false),
            ("select * from devices", Device, false),
            ("from devices.modules where moduleId = 'm'", Module, true),
            ("FROM devices.modules", Module, true),
            ("from devices.modules where moduleId = 'm'", Device, false),
            ("tags.a = 1", Module, false),
            ("from devices.jobs where jobId = 'j'", Module, false),
            ("from devices where tags.a = 1", Module, false),
        ] {
            let parsed = TargetCondition::parse(text, kind);
            assert_eq!(parsed.is_ok(), legal, "{text} {kind:?} {parsed:?}");
            match parsed {
                Ok(condition) => {
                    let query = condition.query_text(kind);
                    assert!(Query::parse(&query).is_ok(), "{query}");
                    assert_eq!(condition.as_str(), text);
                }
                Err(error) => assert_eq!(error.code, ErrorCode::InvalidConfigurationTargetCondition),
            }
        }
    }

    #[test]
    fn a_star_means_all_and_nothing_means_none() {
        let row = json!({"deviceId": "d", "tags": {"a": 1}});
        let matches = |text| {
            TargetCondition::parse(text, ContentKind::Device)
                .unwrap()
                .matches(&row)
        };
        assert!(matches("*"));
        assert!(!matches(""));
        assert!(matches("tags.a = 1"));
        assert!(!matches("tags.b = 1"));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".*") {
            let _ = TargetCondition::parse(&text, ContentKind::Device);
        }
    }
}
