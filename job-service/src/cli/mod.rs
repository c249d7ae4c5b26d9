//! The commands.

mod arguments;
mod follow;
mod report;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use hub_core::ids::JobId;
use hub_core::job::JobRequest;
use hub_core::tier::Tier;
use job_service::rest::{ClientOptions, RestFleet, ServiceClient};
use job_service::{Clock, EngineSettings, JobEngine};
use serde_json::{Value, json};

pub(crate) use arguments::Arguments;
use arguments::{Command, HubCommand, Output, Place, Schedule};
use follow::Source;

/// A command fails with whatever stood in its way.
type Outcome<T> = Result<T, Box<dyn Error>>;

/// Some device failed, or the job did.
const FAILURES: u8 = 1;

/// Carries out the command.
pub(crate) async fn run(arguments: Arguments) -> Outcome<ExitCode> {
    let output = arguments.output;
    let command = match arguments.command {
        Command::OfHub(command) => command,
        Command::Forecast { sku, units, devices } => {
            let tier = Tier::new(sku, units)?;
            print(&match output {
                Output::Table => report::forecast(tier, devices),
                Output::Json => report::json(&report::forecast_json(tier, devices)),
            })?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let Some(connection_string) = arguments.connection_string else {
        return Err("no hub: give --connection-string or set IOTHUB_CONNECTION_STRING".into());
    };
    let ca_pem = arguments.ca_file.as_ref().map(|file| {
        std::fs::read(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))
    });
    let options = ClientOptions {
        endpoint: arguments.endpoint,
        ca_pem: ca_pem.transpose()?,
    };
    let client = Arc::new(ServiceClient::new(&connection_string, &options)?);
    match command {
        HubCommand::Method {
            name,
            payload,
            connect_timeout,
            response_timeout,
            schedule,
        } => {
            let mut call = json!({"methodName": name, "payload": payload,
                                  "connectTimeoutInSeconds": connect_timeout.as_secs()});
            if let Some(timeout) = response_timeout {
                call["responseTimeoutInSeconds"] = timeout.as_secs().into();
            }
            let action = json!({"type": "scheduleDeviceMethod", "cloudToDeviceMethod": call});
            start(client, &schedule, action, output).await
        }
        HubCommand::Twin {
            desired,
            tags,
            schedule,
        } => {
            let mut update = json!({"etag": "*"});
            if let Some(desired) = desired {
                update["properties"] = json!({ "desired": desired });
            }
            if let Some(tags) = tags {
                update["tags"] = tags;
            }
            let action = json!({"type": "scheduleUpdateTwin", "updateTwin": update});
            start(client, &schedule, action, output).await
        }
        HubCommand::Watch { id } => {
            if client.job(&id).await?.is_none() {
                return Err(no_such_job(&id));
            }
            follow_to_the_end(&Source::Hub(client), &id, output).await
        }
        HubCommand::List { job_type, status } => {
            list(&client, job_type.as_deref(), status.as_deref(), output).await
        }
        HubCommand::Devices { id } => {
            if client.job(&id).await?.is_none() {
                return Err(no_such_job(&id));
            }
            let records = client.job_records(&id, None).await?;
            print(&match output {
                Output::Table => report::devices(&records),
                Output::Json => report::json(&Value::Array(records)),
            })?;
            Ok(ExitCode::SUCCESS)
        }
        HubCommand::Cancel { id } => {
            let job = client.cancel_job(&id).await?;
            print(&match output {
                Output::Table => report::job(&job, &[]),
                Output::Json => report::json(&job),
            })?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Creates a job on the hub or here, and follows it.
async fn start(
    client: Arc<ServiceClient>,
    schedule: &Schedule,
    mut body: Value,
    output: Output,
) -> Outcome<ExitCode> {
    if schedule.detach && schedule.run == Place::Here {
        return Err("--detach needs --run hub: a job that runs here ends with this program".into());
    }
    let now = Clock::system().now();
    let id = match &schedule.id {
        Some(id) => id.to_string(),
        None => format!("job-{:x}", now.unix_ticks()),
    };
    body["queryCondition"] = schedule.query.as_str().into();
    body["startTime"] = json!(now.saturating_add(schedule.delay));
    body["maxExecutionTimeInSeconds"] = schedule.window.as_secs().into();
    // The same check that the hub makes: mistakes are reported before anything is sent.
    let request = JobRequest::from_json(&id, &body, now)?;
    let id = request.id.clone();
    let source = match schedule.run {
        Place::Hub => {
            client.create_job(&request).await?;
            Source::Hub(client)
        }
        Place::Here => {
            let settings = EngineSettings {
                fan_out: schedule.fan_out,
                ..EngineSettings::default()
            };
            let fleet = Arc::new(RestFleet::new(client));
            let engine = JobEngine::new(fleet, Clock::system(), settings);
            engine.create(request)?;
            Source::Here(engine)
        }
    };
    if schedule.detach {
        let job = source.job(&id).await?.ok_or_else(|| no_such_job(&id))?;
        print(&match output {
            Output::Table => report::job(&job, &[]),
            Output::Json => report::json(&job),
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    follow_to_the_end(&source, &id, output).await
}

async fn follow_to_the_end(source: &Source, id: &JobId, output: Output) -> Outcome<ExitCode> {
    let mut job = follow::to_the_end(source, id).await?;
    let failed = job["deviceJobStatistics"]["failedCount"].as_u64().unwrap_or(0);
    let records = if failed > 0 {
        source.failed_records(id).await?
    } else {
        Vec::new()
    };
    print(&match output {
        Output::Table => report::job(&job, &records),
        Output::Json => {
            job["failures"] = report::failures(&records).iter().map(|f| f.to_json()).collect();
            report::json(&job)
        }
    })?;
    let succeeded = job["status"] == "completed" && failed == 0;
    Ok(if succeeded {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILURES)
    })
}

async fn list(
    client: &ServiceClient,
    job_type: Option<&str>,
    status: Option<&str>,
    output: Output,
) -> Outcome<ExitCode> {
    let mut jobs = Vec::new();
    let mut continuation = None;
    loop {
        let page = client
            .jobs_page(job_type, status, continuation.as_deref())
            .await?;
        jobs.extend(page.rows);
        continuation = page.continuation;
        if continuation.is_none() {
            break;
        }
    }
    print(&match output {
        Output::Table => report::jobs(&jobs),
        Output::Json => report::json(&Value::Array(jobs)),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn no_such_job(id: &JobId) -> Box<dyn Error> {
    format!("the hub knows no job {id}").into()
}

fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        // The reader had enough, as in `| head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
