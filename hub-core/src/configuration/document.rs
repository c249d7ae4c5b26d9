//! A configuration that exists, and how the service prints it.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::content::{Content, ContentKind};
use super::spec::{ConfigurationSpec, Metric};
use super::target::TargetCondition;
use crate::error::ServiceError;
use crate::ids::ConfigurationId;
use crate::time::Timestamp;

/// A configuration that exists.
#[derive(Debug, Clone)]
pub struct Configuration {
    spec: ConfigurationSpec,
    created: Timestamp,
    updated: Timestamp,
    /// Tells which of two configurations was created later.
    number: u64,
    /// Updates so far, of which the ETag is made.
    updates: u64,
}

impl Configuration {
    /// A configuration that did not exist; `number` must grow from one to the
    /// next.
    #[must_use]
    pub fn create(spec: ConfigurationSpec, number: u64, now: Timestamp) -> Self {
        Self {
            spec,
            created: now,
            updated: now,
            number,
            updates: 0,
        }
    }

    /// The successor of this configuration under `spec`, which must be for the
    /// same id. The content stays, whatever the spec says: the service ignores
    /// another one without an error.
    ///
    /// # Errors
    /// `InvalidConfigurationTargetCondition` when the condition does not suit
    /// the content that stays.
    pub fn update(&self, spec: ConfigurationSpec, now: Timestamp) -> Result<Self, ServiceError> {
        let target = TargetCondition::parse(spec.target.as_str(), self.spec.content.kind())?;
        Ok(Self {
            spec: ConfigurationSpec {
                content: self.spec.content.clone(),
                target,
                ..spec
            },
            updated: now,
            updates: self.updates + 1,
            ..*self
        })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &ConfigurationId {
        &self.spec.id
    }

    /// What it sets.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.spec.content
    }

    /// Which twins it is for.
    #[must_use]
    pub fn target(&self) -> &TargetCondition {
        &self.spec.target
    }

    /// The custom metrics by their names.
    #[must_use]
    pub fn metrics(&self) -> &BTreeMap<Box<str>, Metric> {
        &self.spec.metrics
    }

    /// The ETag without quotes: base64 of the number of updates, `MA==` at first.
    #[must_use]
    pub fn etag(&self) -> String {
        STANDARD.encode(self.updates.to_string())
    }

    /// Sorts the stronger of two configurations first: the one with the higher
    /// priority, of equal ones the one created later.
    #[must_use]
    pub fn precedence(&self) -> impl Ord + use<> {
        Reverse((self.spec.priority, self.number))
    }

    /// The system metrics with the queries that give their results.
    #[must_use]
    pub fn system_metrics(&self) -> Vec<(&'static str, String)> {
        let (id, kind) = (&self.spec.id, self.spec.content.kind());
        let applied = format!("configurations.[[{id}]].status = 'Applied'");
        let agent =
            format!("select deviceId from devices.modules where moduleId = '$edgeAgent' and {applied}");
        let mut metrics = vec![
            (TARGETED, self.spec.target.query_text(kind)),
            (
                APPLIED,
                match kind {
                    ContentKind::Device => format!("select deviceId from devices where {applied}"),
                    ContentKind::Module => {
                        format!("select deviceId, moduleId from devices.modules where {applied}")
                    }
                    ContentKind::Edge => agent.clone(),
                },
            ),
        ];
        if kind == ContentKind::Edge {
            // What the Edge agent reports of the deployment that it was given last.
            let reported =
                format!("{agent} and properties.desired.$version = properties.reported.lastDesiredVersion");
            let code = "properties.reported.lastDesiredStatus.code";
            metrics.push((REPORTED_SUCCESSFUL, format!("{reported} and {code} = 200")));
            metrics.push((REPORTED_FAILED, format!("{reported} and {code} >= 400")));
        }
        metrics
    }

    /// The configuration as the service prints it.
    #[must_use]
    pub fn document<'a>(&'a self, results: &'a MetricResults) -> ConfigurationDocument<'a> {
        ConfigurationDocument {
            configuration: self,
            results,
        }
    }
}

const TARGETED: &str = "targetedCount";
const APPLIED: &str = "appliedCount";
const REPORTED_SUCCESSFUL: &str = "reportedSuccessfulCount";
const REPORTED_FAILED: &str = "reportedFailedCount";

/// What the last evaluation counted; all zero before the first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MetricResults {
    /// Twins that the condition selects; devices, for a deployment.
    pub targeted: u64,
    /// Those of them on which the configuration is applied.
    pub applied: u64,
    /// Edge devices that report success of their deployment.
    pub reported_successful: u64,
    /// Edge devices that report failure of their deployment.
    pub reported_failed: u64,
    /// Rows of each custom metric.
    pub custom: BTreeMap<Box<str>, u64>,
}

/// A configuration as the service prints it; serializes in the service's order
/// of members.
#[derive(Debug, Clone, Copy)]
pub struct ConfigurationDocument<'a> {
    configuration: &'a Configuration,
    results: &'a MetricResults,
}

impl Serialize for ConfigurationDocument<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Members<'a> {
            id: &'a str,
            schema_version: &'a str,
            labels: &'a BTreeMap<Box<str>, Box<str>>,
            content: &'a Content,
            target_condition: &'a str,
            created_time_utc: Timestamp,
            last_updated_time_utc: Timestamp,
            priority: u32,
            system_metrics: Metrics<BTreeMap<&'static str, u64>, BTreeMap<&'static str, String>>,
            metrics: Metrics<&'a BTreeMap<Box<str>, u64>, BTreeMap<&'a str, &'a str>>,
            etag: String,
        }
        #[derive(Serialize)]
        struct Metrics<R, Q> {
            results: R,
            queries: Q,
        }
        let Self {
            configuration,
            results,
        } = self;
        let queries: BTreeMap<_, _> = configuration.system_metrics().into_iter().collect();
        let counts = [
            (TARGETED, results.targeted),
            (APPLIED, results.applied),
            (REPORTED_SUCCESSFUL, results.reported_successful),
            (REPORTED_FAILED, results.reported_failed),
        ];
        let spec = &configuration.spec;
        Members {
            id: spec.id.as_str(),
            schema_version: &spec.schema_version,
            labels: &spec.labels,
            content: &spec.content,
            target_condition: spec.target.as_str(),
            created_time_utc: configuration.created,
            last_updated_time_utc: configuration.updated,
            priority: spec.priority,
            system_metrics: Metrics {
                results: counts
                    .into_iter()
                    .filter(|(name, _)| queries.contains_key(name))
                    .collect(),
                queries,
            },
            metrics: Metrics {
                results: &results.custom,
                queries: spec
                    .metrics
                    .iter()
                    .map(|(name, metric)| (&**name, &*metric.text))
                    .collect(),
            },
            etag: configuration.etag(),
        }
        .serialize(serializer)
    }
}
