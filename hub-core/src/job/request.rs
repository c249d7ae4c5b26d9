//! What a client asks for when it creates a job.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Action, JobType};
use crate::error::{ErrorCode, ServiceError};
use crate::ids::JobId;
use crate::limits;
use crate::method::MethodCall;
use crate::time::Timestamp;
use crate::twin::TwinPatch;

/// The service's own words for a twin job that is not a forced update.
const FORCE_UPDATE_ONLY: &str = "Missing or invalid etag for job type ScheduleUpdateTwin. ScheduleUpdateTwin job \
                                 type is a force update, which only accepts '*' as the Etag.";

/// A checked request to create a job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRequest {
    /// The id that the client chose.
    pub id: JobId,
    /// What to do to each device.
    pub action: Action,
    /// Which devices: the condition of a query, as sent. Whether it is a legal
    /// condition shows only when the job runs.
    pub condition: Arc<str>,
    /// When to start, as sent; a past time means at once.
    pub start_time: Timestamp,
    /// How long the run may take, counted from its actual start; at least 1 s.
    pub max_execution: Duration,
}

impl JobRequest {
    /// Reads the body of `PUT /jobs/v2/{id_from_url}`. Unknown members are
    /// ignored, as is the object that belongs to the other type of job.
    ///
    /// # Errors
    /// `GenericBadRequest` for a body that is no object or names no known
    /// type; `ArgumentNull` for a missing condition or action;
    /// `ArgumentInvalid` for every other rule, an explicit `null` as a time
    /// included; for a method, whatever [`MethodCall::from_json`] finds.
    pub fn from_json(id_from_url: &str, body: &Value, now: Timestamp) -> Result<Self, ServiceError> {
        let Some(body) = body.as_object() else {
            return Err(bad_request());
        };
        let id = job_id(id_from_url, body)?;
        let job_type = match body.get("type").and_then(Value::as_str) {
            Some("scheduleDeviceMethod") => JobType::DeviceMethod,
            Some("scheduleUpdateTwin") => JobType::UpdateTwin,
            _ => return Err(bad_request()),
        };
        Ok(Self {
            id,
            condition: condition(body.get("queryCondition"))?,
            start_time: start_time(body.get("startTime"), now)?,
            max_execution: max_execution(body.get("maxExecutionTimeInSeconds"))?,
            action: match job_type {
                JobType::DeviceMethod => {
                    Action::Method(MethodCall::from_json(present(body, "cloudToDeviceMethod")?)?)
                }
                JobType::UpdateTwin => Action::Twin(TwinUpdate::from_json(present(body, "updateTwin")?)?),
            },
        })
    }

    /// The request as a body, the inverse of [`JobRequest::from_json`].
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut body = json!({
            "jobId": self.id,
            "type": self.action.job_type(),
            "queryCondition": &*self.condition,
            "startTime": self.start_time,
            "maxExecutionTimeInSeconds": self.max_execution.as_secs(),
        });
        match &self.action {
            Action::Method(call) => body["cloudToDeviceMethod"] = call.to_json(),
            Action::Twin(update) => body["updateTwin"] = update.to_json(),
        }
        body
    }
}

/// The twin patch of a job, kept as it was sent and as it is applied.
#[derive(Debug, Clone, PartialEq)]
pub struct TwinUpdate {
    /// `{"tags": {…}, "properties": {"desired": {…}}}` with at least one of the
    /// two sections and nothing else: the body of a twin `PATCH`.
    pub body: Arc<Value>,
    /// The same patch, checked against the rules of twins once for all devices.
    pub patch: Arc<TwinPatch>,
}

impl TwinUpdate {
    /// Reads the member `updateTwin` of a job request: `tags` and
    /// `properties.desired`, and the `etag` that must be `*`.
    ///
    /// The service documents `*` only, yet a sample of its own sends an
    /// explicit `null`; the emulator takes both. Sections that are `null`
    /// count as absent: clients that send a whole twin mean no change by them.
    ///
    /// # Errors
    /// `ArgumentInvalid` for any other ETag, a section that is no object, no
    /// section at all, or a patch that breaks the rules of twins.
    pub fn from_json(twin: &Value) -> Result<Self, ServiceError> {
        let Some(twin) = twin.as_object() else {
            return Err(ServiceError::invalid("updateTwin must be a JSON object"));
        };
        match twin.get("etag") {
            Some(Value::Null) => {}
            Some(Value::String(etag)) if etag == "*" => {}
            _ => return Err(ServiceError::invalid(FORCE_UPDATE_ONLY)),
        }
        let properties = section(twin, "properties")?;
        let desired = properties.map_or(Ok(None), |p| section(p, "desired"))?;
        let mut body = Map::new();
        if let Some(tags) = section(twin, "tags")? {
            body.insert("tags".into(), Value::Object(tags.clone()));
        }
        if let Some(desired) = desired {
            body.insert("properties".into(), json!({ "desired": desired }));
        }
        if body.is_empty() {
            return Err(ServiceError::invalid(
                "updateTwin must contain tags or properties.desired",
            ));
        }
        let body = Value::Object(body);
        Ok(Self {
            patch: Arc::new(TwinPatch::from_json(&body)?),
            body: Arc::new(body),
        })
    }

    /// The update as the service shows it: the patch and `"etag": "*"`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut twin = (*self.body).clone();
        twin["etag"] = "*".into();
        twin
    }
}

fn bad_request() -> ServiceError {
    ServiceError::new(ErrorCode::GenericBadRequest, "BadRequest")
}

fn missing(name: &str) -> ServiceError {
    ServiceError::new(ErrorCode::ArgumentNull, format!("{name} is required"))
}

fn present<'a>(body: &'a Map<String, Value>, name: &str) -> Result<&'a Value, ServiceError> {
    body.get(name)
        .filter(|value| !value.is_null())
        .ok_or_else(|| missing(name))
}

fn section<'a>(
    object: &'a Map<String, Value>,
    name: &str,
) -> Result<Option<&'a Map<String, Value>>, ServiceError> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(section)) => Ok(Some(section)),
        Some(_) => Err(ServiceError::invalid(format!(
            "{name} of updateTwin must be a JSON object"
        ))),
    }
}

fn job_id(from_url: &str, body: &Map<String, Value>) -> Result<JobId, ServiceError> {
    let id = JobId::parse(from_url).map_err(|e| ServiceError::invalid(format!("jobId: {e}")))?;
    match body.get("jobId") {
        None | Some(Value::Null) => Ok(id),
        Some(Value::String(in_body)) if in_body == from_url => Ok(id),
        Some(_) => Err(ServiceError::invalid(
            "the jobId in the body differs from the one in the URL",
        )),
    }
}

fn condition(value: Option<&Value>) -> Result<Arc<str>, ServiceError> {
    match value {
        None | Some(Value::Null) => Err(missing("queryCondition")),
        Some(Value::String(text)) if text.trim().is_empty() => Err(missing("queryCondition")),
        Some(Value::String(text)) if text.chars().count() > limits::QUERY_CHARS => {
            Err(ServiceError::invalid(format!(
                "queryCondition is longer than {} characters",
                limits::QUERY_CHARS
            )))
        }
        Some(Value::String(text)) => Ok(text.as_str().into()),
        Some(_) => Err(ServiceError::invalid("queryCondition must be a string")),
    }
}

fn start_time(value: Option<&Value>, now: Timestamp) -> Result<Timestamp, ServiceError> {
    match value {
        None => Ok(now),
        // Some tools send an empty text where others leave the member out.
        Some(Value::String(text)) if text.is_empty() => Ok(now),
        Some(Value::String(text)) => {
            Timestamp::parse(text).map_err(|e| ServiceError::invalid(format!("startTime: {e}")))
        }
        Some(_) => Err(ServiceError::invalid("startTime must be an ISO 8601 time")),
    }
}

fn max_execution(value: Option<&Value>) -> Result<Duration, ServiceError> {
    match value {
        None => Ok(limits::JOB_MAX_EXECUTION_DEFAULT),
        Some(value) => match value.as_u64() {
            Some(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
            _ => Err(ServiceError::invalid(
                "maxExecutionTimeInSeconds must be a positive integer",
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: &str = "2026-01-02T03:04:05Z";

    fn read(body: &Value) -> Result<JobRequest, ServiceError> {
        JobRequest::from_json("job01", body, Timestamp::parse(NOW).unwrap())
    }

    fn method_body() -> Value {
        json!({"jobId":"job01","type":"scheduleDeviceMethod",
               "cloudToDeviceMethod":{"methodName":"lockDoor","payload":{"lockTime":"10m"},
                                      "responseTimeoutInSeconds":30,"connectTimeoutInSeconds":0},
               "updateTwin":null,
               "queryCondition":"deviceId IN ['d1','d2']",
               "startTime":"2026-01-02T03:04:05.678Z","maxExecutionTimeInSeconds":60})
    }

    fn twin_body() -> Value {
        json!({"type":"scheduleUpdateTwin","queryCondition":"*",
               "updateTwin":{"etag":"*","tags":{},"properties":{"desired":{"building":"43","floor":3}}}})
    }

    /// `body` with `name` set to `value`.
    fn with(mut body: Value, name: &str, value: Value) -> Value {
        body[name] = value;
        body
    }

    fn without(mut body: Value, name: &str) -> Value {
        body.as_object_mut().unwrap().remove(name);
        body
    }

    #[test]
    fn both_documented_requests_are_read_and_written_back() {
        let method = read(&method_body()).unwrap();
        assert_eq!(method.id.as_str(), "job01");
        assert_eq!(&*method.condition, "deviceId IN ['d1','d2']");
        assert_eq!(method.max_execution, Duration::from_secs(60));
        assert_eq!(method.action.job_type(), JobType::DeviceMethod);
        assert_eq!(read(&method.to_json()).unwrap(), method);

        let twin = read(&twin_body()).unwrap();
        assert_eq!(
            twin.start_time,
            Timestamp::parse(NOW).unwrap(),
            "absent means now"
        );
        assert_eq!(twin.max_execution, Duration::from_secs(3600));
        assert_eq!(read(&twin.to_json()).unwrap(), twin);
        assert_eq!(twin.to_json()["updateTwin"], twin_body()["updateTwin"]);
    }

    #[test]
    fn every_spelling_of_the_start_time_is_read() {
        for text in [
            "2030-01-01T00:00:00",
            "2030-01-01T00:00:00.0000000Z",
            "2030-01-01T02:00:00+02:00",
        ] {
            let request = read(&with(method_body(), "startTime", text.into())).unwrap();
            assert_eq!(request.start_time.to_string(), "2030-01-01T00:00:00Z", "{text}");
        }
        let past = read(&with(
            method_body(),
            "startTime",
            "1970-01-01T00:00:00.000Z".into(),
        ))
        .unwrap();
        assert_eq!(past.start_time.unix_seconds(), 0);
    }

    #[test]
    fn each_broken_rule_has_its_code() {
        use ErrorCode::{ArgumentInvalid, ArgumentNull, GenericBadRequest};
        let method = method_body;
        for (body, code) in [
            (json!([]), GenericBadRequest),
            (without(method(), "type"), GenericBadRequest),
            (
                with(method(), "type", "scheduleDirectMethod".into()),
                GenericBadRequest,
            ),
            (
                with(method(), "type", "ScheduleDeviceMethod".into()),
                GenericBadRequest,
            ),
            (with(method(), "type", 1.into()), GenericBadRequest),
            (with(method(), "jobId", "job02".into()), ArgumentInvalid),
            (with(method(), "jobId", 1.into()), ArgumentInvalid),
            (without(method(), "queryCondition"), ArgumentNull),
            (with(method(), "queryCondition", Value::Null), ArgumentNull),
            (with(method(), "queryCondition", " ".into()), ArgumentNull),
            (with(method(), "queryCondition", 1.into()), ArgumentInvalid),
            (
                with(method(), "queryCondition", "x".repeat(8193).into()),
                ArgumentInvalid,
            ),
            (with(method(), "startTime", Value::Null), ArgumentInvalid),
            (with(method(), "startTime", "tomorrow".into()), ArgumentInvalid),
            (with(method(), "startTime", 1.into()), ArgumentInvalid),
            (
                with(method(), "maxExecutionTimeInSeconds", Value::Null),
                ArgumentInvalid,
            ),
            (
                with(method(), "maxExecutionTimeInSeconds", 0.into()),
                ArgumentInvalid,
            ),
            (
                with(method(), "maxExecutionTimeInSeconds", (-1).into()),
                ArgumentInvalid,
            ),
            (
                with(method(), "maxExecutionTimeInSeconds", 1.5.into()),
                ArgumentInvalid,
            ),
            (with(method(), "cloudToDeviceMethod", Value::Null), ArgumentNull),
            (with(method(), "cloudToDeviceMethod", json!({})), ArgumentNull),
            (with(twin_body(), "updateTwin", Value::Null), ArgumentNull),
            (with(twin_body(), "updateTwin", 1.into()), ArgumentInvalid),
            (
                with(twin_body(), "updateTwin", json!({"etag":"*"})),
                ArgumentInvalid,
            ),
            (
                with(twin_body(), "updateTwin", json!({"etag":"*","tags":1})),
                ArgumentInvalid,
            ),
            (
                with(
                    twin_body(),
                    "updateTwin",
                    json!({"etag":"*","desired":{"old":"tutorial"}}),
                ),
                ArgumentInvalid,
            ),
        ] {
            assert_eq!(read(&body).unwrap_err().code, code, "{body}");
        }
        for id in ["", "job 1", "job_1"] {
            let error = JobRequest::from_json(id, &twin_body(), Timestamp::NEVER).unwrap_err();
            assert_eq!(error.code, ArgumentInvalid, "{id:?}");
        }
    }

    #[test]
    fn the_twin_etag_is_a_star_or_an_explicit_null() {
        for (twin, accepted) in [
            (json!({"etag":"*","tags":{}}), true),
            (json!({"etag":null,"tags":{}}), true),
            (json!({"tags":{}}), false),
            (json!({"etag":"AAAAAAAAAAE=","tags":{}}), false),
            (json!({"etag":1,"tags":{}}), false),
        ] {
            let result = TwinUpdate::from_json(&twin);
            assert_eq!(result.is_ok(), accepted, "{twin}");
            if let Err(error) = result {
                assert_eq!(error.message, FORCE_UPDATE_ONLY);
            }
        }
    }

    #[test]
    fn of_a_whole_twin_only_tags_and_desired_count() {
        let update = TwinUpdate::from_json(&json!({
            "deviceId":null,"etag":null,"version":null,"tags":null,
            "properties":{"desired":{"a":1,"$metadata":{}},"reported":{"b":2}}}))
        .unwrap();
        assert_eq!(
            *update.body,
            json!({"properties":{"desired":{"a":1,"$metadata":{}}}})
        );
    }

    proptest! {
        #[test]
        fn arbitrary_members_never_panic(id in ".{0,70}", kind in 0..3_u8, text in ".*", number: i64) {
            let kind = ["scheduleDeviceMethod", "scheduleUpdateTwin", "x"][usize::from(kind)];
            let _ = JobRequest::from_json(&id, &json!({
                "type": kind, "queryCondition": text, "startTime": text,
                "maxExecutionTimeInSeconds": number,
                "cloudToDeviceMethod": {"methodName": text, "connectTimeoutInSeconds": number},
                "updateTwin": {"etag": text, "tags": {"x": number}},
            }), Timestamp::MAX);
        }
    }
}
