//! What the body of a PUT asks for.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::content::Content;
use super::target::TargetCondition;
use crate::error::{ErrorCode, ServiceError};
use crate::ids::ConfigurationId;
use crate::limits;
use crate::query::{Query, Source};
use crate::registry::body;

/// `schemaVersion` of a body that names none.
const SCHEMA_VERSION: &str = "1.0";
/// Greatest length of a schema version; the emulator's own.
const SCHEMA_VERSION_CHARS: usize = 32;

/// What the body of a PUT asks for; everything but the content has a default.
#[derive(Debug, Clone)]
pub struct ConfigurationSpec {
    pub(super) id: ConfigurationId,
    pub(super) schema_version: Box<str>,
    pub(super) labels: BTreeMap<Box<str>, Box<str>>,
    pub(super) content: Content,
    pub(super) target: TargetCondition,
    pub(super) priority: u32,
    pub(super) metrics: BTreeMap<Box<str>, Metric>,
}

/// A custom metric: the number of rows of a query.
#[derive(Debug, Clone)]
pub struct Metric {
    /// The query as it was written.
    pub text: Box<str>,
    /// The query, over devices or modules.
    pub query: Query,
}

impl ConfigurationSpec {
    /// Reads a configuration document; `id` is the one in the request's path.
    /// Read-only members (ETag, times, results of metrics, system metrics) and
    /// unknown ones are ignored.
    ///
    /// # Errors
    /// `ArgumentInvalid` when the body is not an object, names another id, or a
    /// member has the wrong type or size; the errors of [`Content::parse`] and
    /// [`TargetCondition::parse`]; `InvalidConfigurationCustomMetricsQuery` for
    /// more than five metrics or one whose query cannot be run.
    pub fn from_json(body: &Value, id: &ConfigurationId) -> Result<Self, ServiceError> {
        let members = body::object(body, "the configuration")?;
        body::same_id(members, "id", id.as_str())?;
        let content = Content::parse(members.get("content").unwrap_or(&Value::Null))?;
        let target = body::optional_str(members, "targetCondition")?.unwrap_or_default();
        Ok(Self {
            id: id.clone(),
            schema_version: schema_version(members)?,
            labels: labels(members)?,
            target: TargetCondition::parse(target, content.kind())?,
            priority: priority(members)?,
            metrics: metrics(members)?,
            content,
        })
    }

    /// The id that the spec is for.
    #[must_use]
    pub fn id(&self) -> &ConfigurationId {
        &self.id
    }
}

fn schema_version(members: &Map<String, Value>) -> Result<Box<str>, ServiceError> {
    let version = body::non_empty_str(members, "schemaVersion")?.unwrap_or(SCHEMA_VERSION);
    if version.chars().count() > SCHEMA_VERSION_CHARS {
        return Err(ServiceError::invalid(format!(
            "schemaVersion must not be longer than {SCHEMA_VERSION_CHARS} characters"
        )));
    }
    Ok(version.into())
}

fn labels(members: &Map<String, Value>) -> Result<BTreeMap<Box<str>, Box<str>>, ServiceError> {
    let mut labels = BTreeMap::new();
    let mut size = 0;
    for (name, value) in body::optional_object(members, "labels")?.into_iter().flatten() {
        let Some(value) = value.as_str() else {
            return Err(ServiceError::invalid("labels must be strings"));
        };
        size += name.chars().count() + value.chars().count();
        labels.insert(name.as_str().into(), value.into());
    }
    if size > limits::CONFIGURATION_LABELS_CHARS {
        return Err(ServiceError::invalid(format!(
            "labels must not have more than {} characters altogether",
            limits::CONFIGURATION_LABELS_CHARS
        )));
    }
    Ok(labels)
}

fn priority(members: &Map<String, Value>) -> Result<u32, ServiceError> {
    match members.get("priority") {
        None | Some(Value::Null) => Ok(0),
        Some(value) => value
            .as_u64()
            .and_then(|priority| u32::try_from(priority).ok())
            .ok_or_else(|| {
                ServiceError::invalid(format!("priority must be an integer within [0; {}]", u32::MAX))
            }),
    }
}

fn metrics(members: &Map<String, Value>) -> Result<BTreeMap<Box<str>, Metric>, ServiceError> {
    let Some(metrics) = body::optional_object(members, "metrics")? else {
        return Ok(BTreeMap::new());
    };
    let queries = body::optional_object(metrics, "queries")?;
    if queries.is_some_and(|queries| queries.len() > limits::CONFIGURATION_METRICS) {
        return Err(bad_metric(format!(
            "there must not be more than {} custom metrics",
            limits::CONFIGURATION_METRICS
        )));
    }
    queries
        .into_iter()
        .flatten()
        .map(|(name, text)| Ok((metric_name(name)?.into(), Metric::parse(name, text)?)))
        .collect()
}

fn metric_name(name: &str) -> Result<&str, ServiceError> {
    let chars = name.chars().count();
    if chars == 0 || chars > limits::CONFIGURATION_METRIC_NAME_CHARS {
        return Err(bad_metric(format!(
            "the name of a metric must have 1 to {} characters",
            limits::CONFIGURATION_METRIC_NAME_CHARS
        )));
    }
    Ok(name)
}

impl Metric {
    fn parse(name: &str, text: &Value) -> Result<Self, ServiceError> {
        let Some(text) = text.as_str() else {
            return Err(bad_metric(format!("the query of metric {name} must be a string")));
        };
        let query = Query::parse(text).map_err(|e| bad_metric(e.to_string()))?;
        if query.source() == Source::Jobs {
            return Err(bad_metric("a metric is over devices or devices.modules"));
        }
        Ok(Self {
            text: text.into(),
            query,
        })
    }
}

fn bad_metric(text: impl Into<String>) -> ServiceError {
    ServiceError::new(ErrorCode::InvalidConfigurationCustomMetricsQuery, text)
}

/// Whether a condition and queries would be accepted; prints as the service
/// answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueryVerdicts {
    /// Why the condition is refused; `None` when it is not.
    pub target_condition_error: Option<String>,
    /// Why queries are refused, by their names; good ones are not named.
    pub custom_metric_query_errors: BTreeMap<String, String>,
}

/// Tries `targetCondition` and `customMetricQueries` of a request without
/// creating anything.
///
/// # Errors
/// `ArgumentInvalid` when the body is not an object or a member has the wrong
/// type.
pub fn test_queries(body: &Value) -> Result<QueryVerdicts, ServiceError> {
    let members = body::object(body, "the request")?;
    let condition = body::optional_str(members, "targetCondition")?.unwrap_or_default();
    let queries = body::optional_object(members, "customMetricQueries")?;
    Ok(QueryVerdicts {
        target_condition_error: TargetCondition::parse_any(condition).err().map(|e| e.message),
        custom_metric_query_errors: queries
            .into_iter()
            .flatten()
            .filter_map(|(name, text)| Some((name.clone(), Metric::parse(name, text).err()?.message)))
            .collect(),
    })
}
