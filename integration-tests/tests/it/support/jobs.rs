//! Jobs as a back end makes and follows them.

use serde_json::{Value, json};

use super::rest::Rest;
use super::wait_for;

/// The body of a job that calls the method `m`; members of `more` come on top.
pub fn method_job(condition: &str, more: Value) -> Value {
    with(
        json!({
            "type": "scheduleDeviceMethod",
            "cloudToDeviceMethod": {"methodName": "m"},
            "queryCondition": condition,
        }),
        more,
    )
}

/// The body of a job that patches twins; members of `more` come on top.
pub fn twin_job(condition: &str, more: Value) -> Value {
    with(
        json!({
            "type": "scheduleUpdateTwin",
            "updateTwin": {"etag": "*", "tags": {"patched": true}},
            "queryCondition": condition,
        }),
        more,
    )
}

fn with(mut body: Value, more: Value) -> Value {
    let Value::Object(more) = more else {
        panic!("{more} is no object");
    };
    body.as_object_mut().unwrap().extend(more);
    body
}

/// Creates a job, which must be taken.
pub async fn create(rest: &Rest, id: &str, body: &Value) {
    rest.put(&format!("/jobs/v2/{id}"), body).await.ok();
}

/// A job as it stands.
pub async fn job(rest: &Rest, id: &str) -> Value {
    rest.get(&format!("/jobs/v2/{id}")).await.ok()
}

/// Waits until a job has a status.
pub async fn has_status(rest: &Rest, id: &str, status: &str) -> Value {
    wait_for(&format!("job {id} becoming {status}"), async || {
        let job = job(rest, id).await;
        if job["status"] == status {
            Ok(job)
        } else {
            Err(job)
        }
    })
    .await
}

/// Waits for the end of a job.
pub async fn ended(rest: &Rest, id: &str) -> Value {
    wait_for(&format!("the end of job {id}"), async || {
        let job = job(rest, id).await;
        match job["status"].as_str() {
            Some("completed" | "failed" | "cancelled") => Ok(job),
            _ => Err(job),
        }
    })
    .await
}

/// The records of a job's devices, ordered by device.
pub async fn records(rest: &Rest, id: &str) -> Vec<Value> {
    let query = format!("SELECT * FROM devices.jobs WHERE devices.jobs.jobId = '{id}'");
    match rest.query(&query).await.ok() {
        Value::Array(records) => records,
        other => panic!("{other} is no array"),
    }
}

/// `deviceJobStatistics` in the order device, failed, succeeded, running, pending.
pub fn statistics([device, failed, succeeded, running, pending]: [usize; 5]) -> Value {
    json!({
        "deviceCount": device,
        "failedCount": failed,
        "succeededCount": succeeded,
        "runningCount": running,
        "pendingCount": pending,
    })
}

/// A method job that gives its devices `connect` seconds to come and `respond`
/// seconds to answer, and itself `window` seconds for all.
pub fn patient_job(condition: &str, connect: u64, respond: u64, window: u64) -> Value {
    method_job(
        condition,
        json!({
            "cloudToDeviceMethod": {"methodName": "m", "connectTimeoutInSeconds": connect,
                                    "responseTimeoutInSeconds": respond},
            "maxExecutionTimeInSeconds": window,
        }),
    )
}

/// The error of a record.
pub fn failure(code: &str, description: &str) -> Value {
    json!({"code": code, "description": description})
}

/// The error of a device that was not connected.
pub fn not_online() -> Value {
    failure("DeviceNotOnline", "Timed out waiting for device to connect.")
}

/// The error of a device that was not done when the window ended.
pub fn timed_out() -> Value {
    failure(
        "JobTimedOut",
        "the job's execution window ended before the device was done",
    )
}

/// What became of each device or module of a job: its error or else its status.
pub async fn outcomes(rest: &Rest, id: &str) -> Vec<(String, Value)> {
    let outcome = |record: &Value| {
        let target = match record.get("moduleId") {
            None => record["deviceId"].as_str().unwrap().to_owned(),
            Some(module) => format!(
                "{}/{}",
                record["deviceId"].as_str().unwrap(),
                module.as_str().unwrap()
            ),
        };
        let state = match record.get("error") {
            None => record["status"].clone(),
            Some(error) => {
                assert_eq!(record["status"], "failed");
                error.clone()
            }
        };
        (target, state)
    };
    records(rest, id).await.iter().map(outcome).collect()
}

/// The same, as a test writes it.
pub fn expected(outcomes: &[(&str, Value)]) -> Vec<(String, Value)> {
    outcomes
        .iter()
        .map(|(target, state)| ((*target).to_owned(), state.clone()))
        .collect()
}
