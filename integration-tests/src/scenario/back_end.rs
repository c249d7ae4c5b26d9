//! The back end: registers the devices, schedules the jobs and follows them,
//! all over the hub's REST API.

use std::time::Duration;

use device_sim::{Credentials, registration};
use emulator::Hub;
use hub_core::ids::{JobId, Target};
use hub_core::job::JobRequest;
use hub_core::time::Timestamp;
use job_service::rest::{ClientOptions, ServiceClient};
use serde_json::{Map, Value, json};

use crate::Failure;
use crate::args::RunArgs;
use crate::child::targets;
use crate::figures::JobFigures;
use crate::fleet::{desired, service};
use crate::progress::Progress;

/// The tag that the jobs' condition selects by.
const SITE: (&str, &str) = ("site", "building-43");
/// How long a job may run.
const WINDOW_SECONDS: u64 = 300;
/// How often a job's progress is asked for.
const POLL: Duration = Duration::from_millis(50);

pub(crate) struct BackEnd {
    client: ServiceClient,
    connection_string: String,
}

impl BackEnd {
    pub(crate) fn new(hub: &Hub) -> Result<Self, Failure> {
        let http = hub.http_address().ok_or("the hub does not listen for HTTP")?;
        let options = ClientOptions {
            endpoint: Some(format!("http://{http}")),
            ca_pem: None,
        };
        let connection_string = hub.service_connection_string();
        Ok(Self {
            client: ServiceClient::new(&connection_string, &options)?,
            connection_string,
        })
    }

    /// Makes the devices known to the hub, each with a key of its own and the
    /// tag that the jobs look for.
    pub(crate) async fn register(
        &self,
        args: &RunArgs,
        progress: impl FnMut(usize),
    ) -> Result<Vec<Target>, Failure> {
        let targets = targets(args.devices)?;
        let credentials = Credentials::derived(&service(&self.connection_string)?);
        let tags = Map::from_iter([(SITE.0.to_owned(), Value::from(SITE.1))]);
        registration::register(&self.client, &credentials, &targets, &tags, progress).await?;
        Ok(targets)
    }

    pub(crate) async fn schedule_twin_job(&self, start: Timestamp) -> Result<JobId, Failure> {
        let update = json!({ "etag": "*", "properties": { "desired": desired() } });
        self.schedule("scheduleUpdateTwin", "updateTwin", update, start)
            .await
    }

    pub(crate) async fn schedule_method_job(&self, start: Timestamp) -> Result<JobId, Failure> {
        let method = json!({
            "methodName": "lockDoor",
            "payload": { "lockTime": "10m" },
            "responseTimeoutInSeconds": 60,
            "connectTimeoutInSeconds": 0,
        });
        self.schedule("scheduleDeviceMethod", "cloudToDeviceMethod", method, start)
            .await
    }

    async fn schedule(
        &self,
        kind: &str,
        member: &str,
        action: Value,
        start: Timestamp,
    ) -> Result<JobId, Failure> {
        let id = JobId::parse(&format!("scenario-{kind}"))?;
        let mut body = json!({
            "jobId": id,
            "type": kind,
            "queryCondition": format!("tags.{} = '{}'", SITE.0, SITE.1),
            "startTime": start,
            "maxExecutionTimeInSeconds": WINDOW_SECONDS,
        });
        body[member] = action;
        self.client
            .create_job(&JobRequest::from_json(id.as_str(), &body, start)?)
            .await?;
        Ok(id)
    }

    /// Follows a job to its end.
    pub(crate) async fn follow(
        &self,
        id: &JobId,
        progress: &Progress,
        devices: u32,
    ) -> Result<Value, Failure> {
        let bar = progress.bar(id.as_str().trim_start_matches("scenario-"), devices);
        loop {
            let job = self.client.job(id).await?.ok_or("the hub has lost the job")?;
            let count = |name: &str| job["deviceJobStatistics"][name].as_u64().unwrap_or(0);
            bar.set_position(count("succeededCount") + count("failedCount"));
            if matches!(job["status"].as_str(), Some("completed" | "failed" | "cancelled")) {
                bar.finish_and_clear();
                return Ok(job);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Reads the records of a job that has ended and makes figures of them.
    pub(crate) async fn figures(&self, id: &JobId, job: &Value) -> Result<JobFigures, Failure> {
        JobFigures::of(job, &self.client.job_records(id, None).await?)
    }
}
