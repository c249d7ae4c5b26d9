//! Jobs and device records in the service's JSON.

use std::sync::Arc;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::record::{DeviceRecord, Outcome, RecordState, Statistics};
use super::{Action, JobRequest, JobStatus};
use crate::json::JsonText;
use crate::method::{MethodCall, MethodResponse};
use crate::query::{Attribute, Path, Row, Value};
use crate::time::Timestamp;

/// The reply to the creation of a job: `{"jobId","type","status":"queued"}`
/// and nothing else. Clients insist on that status, also for a job that is due
/// at once.
#[derive(Debug, Clone, PartialEq)]
pub struct CreatedJob {
    /// What was asked for.
    pub request: Arc<JobRequest>,
}

impl Serialize for CreatedJob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("jobId", &self.request.id)?;
        map.serialize_entry("type", &self.request.action.job_type())?;
        map.serialize_entry("status", &JobStatus::Queued)?;
        map.end()
    }
}

/// The answer to a question about a job that does not exist, which the service
/// gives with status 200.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownJob<'a> {
    /// The id that was asked for, whatever it looks like.
    pub id: &'a str,
}

impl Serialize for UnknownJob<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("jobId", self.id)?;
        map.serialize_entry("type", "unknown")?;
        map.serialize_entry("status", "unknown")?;
        map.end()
    }
}

/// A job at one moment. Serializes as the service's JobResponse.
#[derive(Debug, Clone, PartialEq)]
pub struct JobView {
    /// What was asked for.
    pub request: Arc<JobRequest>,
    /// Where the job stands.
    pub status: JobStatus,
    /// When it was created.
    pub created: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Why it failed.
    pub failure_reason: Option<Arc<str>>,
    /// Where its devices stand, from the start of the run on.
    pub statistics: Option<Statistics>,
}

impl Serialize for JobView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let request = &*self.request;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("jobId", &request.id)?;
        map.serialize_entry("queryCondition", &*request.condition)?;
        map.serialize_entry("createdTime", &self.created)?;
        map.serialize_entry("startTime", &request.start_time)?;
        // Absent rather than null before the end.
        if let Some(ended) = &self.ended {
            map.serialize_entry("endTime", ended)?;
        }
        map.serialize_entry("maxExecutionTimeInSeconds", &request.max_execution.as_secs())?;
        map.serialize_entry("type", &request.action.job_type())?;
        match &request.action {
            Action::Method(call) => map.serialize_entry("cloudToDeviceMethod", &MethodCallView::of(call))?,
            Action::Twin(update) => map.serialize_entry("updateTwin", &update.to_json())?,
        }
        map.serialize_entry("status", &self.status)?;
        if let Some(reason) = &self.failure_reason {
            map.serialize_entry("failureReason", &**reason)?;
        }
        if let Some(statistics) = &self.statistics {
            map.serialize_entry("deviceJobStatistics", statistics)?;
        }
        map.end()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MethodCallView<'a> {
    method_name: &'a str,
    payload: &'a JsonText,
    response_timeout_in_seconds: u64,
    connect_timeout_in_seconds: u64,
}

impl<'a> MethodCallView<'a> {
    fn of(call: &'a MethodCall) -> Self {
        Self {
            method_name: &call.name,
            payload: &call.payload,
            response_timeout_in_seconds: call.response_timeout.as_secs(),
            connect_timeout_in_seconds: call.connect_timeout.as_secs(),
        }
    }
}

/// A device's record together with what its job knows. Serializes as a row of
/// `devices.jobs`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RecordView<'a> {
    /// What was asked for.
    pub request: &'a JobRequest,
    /// When the job's records were created: at the start of its run.
    pub created: Timestamp,
    /// What became of the device.
    pub record: &'a DeviceRecord,
}

impl RecordView<'_> {
    /// When the record changed last.
    #[must_use]
    pub fn last_updated(&self) -> Timestamp {
        // Times that are not known yet are in the distant past.
        self.created.max(self.record.started).max(self.record.ended)
    }
}

/// A record as a row of `devices.jobs`.
impl Row for RecordView<'_> {
    fn get(&self, path: &Path) -> Value<'_> {
        if !path.keys().is_empty() {
            return Value::Undefined;
        }
        match path.attribute() {
            Attribute::DeviceId => Value::from(self.record.target.device.as_str()),
            Attribute::ModuleId => match &self.record.target.module {
                Some(module) => Value::from(module.as_str()),
                None => Value::Undefined,
            },
            Attribute::JobId => Value::from(self.request.id.as_str()),
            Attribute::JobType => Value::from(self.request.action.job_type().name()),
            Attribute::Status => Value::from(self.record.state.name()),
            Attribute::StartTimeUtc => Value::from(self.record.started.to_string()),
            Attribute::EndTimeUtc => Value::from(self.record.ended.to_string()),
            Attribute::CreatedDateTimeUtc => Value::from(self.created.to_string()),
            Attribute::LastUpdatedDateTimeUtc => Value::from(self.last_updated().to_string()),
            _ => Value::Undefined,
        }
    }
}

/// Clients whose types have no room for a missing time throw on `null`, so
/// unknown times are written as [`Timestamp::NEVER`].
impl Serialize for RecordView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = self.record;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("deviceId", &record.target.device)?;
        if let Some(module) = &record.target.module {
            map.serialize_entry("moduleId", module)?;
        }
        map.serialize_entry("jobId", &self.request.id)?;
        map.serialize_entry("jobType", &self.request.action.job_type())?;
        map.serialize_entry("status", record.state.name())?;
        map.serialize_entry("startTimeUtc", &record.started)?;
        map.serialize_entry("endTimeUtc", &record.ended)?;
        map.serialize_entry("createdDateTimeUtc", &self.created)?;
        map.serialize_entry("lastUpdatedDateTimeUtc", &self.last_updated())?;
        match &record.state {
            RecordState::Completed(outcome) => map.serialize_entry("outcome", &OutcomeView::of(outcome))?,
            RecordState::Failed(error) => {
                let view = ErrorView {
                    code: error.code.name(),
                    description: &error.description,
                };
                map.serialize_entry("error", &view)?;
            }
            RecordState::Pending | RecordState::Running | RecordState::Canceled => {}
        }
        map.end()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OutcomeView<'a> {
    device_method_response: Option<&'a MethodResponse>,
}

impl<'a> OutcomeView<'a> {
    fn of(outcome: &'a Outcome) -> Self {
        Self {
            device_method_response: match outcome {
                Outcome::Method(response) => Some(response),
                Outcome::Twin => None,
            },
        }
    }
}

#[derive(Serialize)]
struct ErrorView<'a> {
    code: &'static str,
    description: &'a str,
}
