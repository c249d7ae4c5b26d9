//! What can be written on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use hub_core::duration;
use hub_core::ids::JobId;
use hub_core::json;
use hub_core::tier::Sku;
use serde_json::Value;

const EXAMPLES: &str = r#"Examples, after `export IOTHUB_CONNECTION_STRING='HostName=…;SharedAccessKeyName=…;SharedAccessKey=…'`:

  Lock the door of one device in 20 seconds:
    job-service method --name lockDoor --payload '{"lockTime":"10m"}' \
        --query "deviceId IN ['myDeviceId']" --delay 20s

  Tell every device of building 43 what it should be, in 10 seconds:
    job-service twin --desired '{"building":43,"floor":3}' \
        --query "tags.building = '43'" --delay 10s

  Against a local hub without TLS:
    job-service --endpoint http://localhost:8080 list

  How long a job over 10,000 devices takes on the smallest paid hub:
    job-service forecast --sku S1 --devices 10000

While a job is followed, its progress is drawn on standard error if that is a
terminal; the result, and nothing else, goes to standard output at the end.

Exit status, with method, twin and watch:
  0  the job completed and every device succeeded
  1  the job failed or was cancelled, or some device failed
  2  wrong arguments, or the hub cannot be reached, refuses, or knows no such job
The other commands end with 0 or 2, whatever they show; so does --detach."#;

/// Runs an action over many devices at a later time, and shows what becomes of it.
///
/// A job selects its devices by a query when it starts, invokes a direct method
/// on each or patches each one's twin, and keeps a result for every device.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Connection string of the hub's policy `service` or `iothubowner`; every
    /// command but forecast needs it
    #[arg(
        long,
        global = true,
        env = "IOTHUB_CONNECTION_STRING",
        hide_env_values = true,
        value_name = "TEXT"
    )]
    pub(super) connection_string: Option<String>,
    /// Certificates (PEM) to trust instead of the machine's own, such as a local hub's CA
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) ca_file: Option<PathBuf>,
    /// Where the hub listens, if not on https:// and the connection string's host
    #[arg(long, value_name = "URL", global = true)]
    pub(super) endpoint: Option<String>,
    /// How results are written
    #[arg(long, value_enum, default_value_t, global = true)]
    pub(super) output: Output,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// Text for people
    #[default]
    Table,
    /// JSON for programs
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    #[command(flatten)]
    OfHub(HubCommand),
    /// Tell what a hub of a tier allows, and how long a job takes on it; asks no hub
    Forecast {
        /// The tier: F1, S1, S2 or S3; B1, B2 and B3 have no jobs
        #[arg(long, value_name = "SKU")]
        sku: Sku,
        /// How many units the hub has
        #[arg(long, default_value_t = 1, value_name = "NUMBER")]
        units: u32,
        /// How many devices the job selects
        #[arg(long, value_name = "NUMBER")]
        devices: u64,
    },
}

/// The commands that need a hub.
#[derive(Debug, Subcommand)]
pub(super) enum HubCommand {
    /// Invoke a direct method on every selected device
    Method {
        /// Name of the method, as the device knows it
        #[arg(long)]
        name: String,
        /// JSON that the method gets
        #[arg(long, value_parser = any_json, default_value = "null", value_name = "JSON")]
        payload: Value,
        /// How long to wait for a device that is offline, up to 5m
        #[arg(long, value_parser = duration::parse, default_value = "0s", value_name = "TIME")]
        connect_timeout: Duration,
        /// How long to wait for a device's answer, 5s to 5m; 30s unless given
        #[arg(long, value_parser = duration::parse, value_name = "TIME")]
        response_timeout: Option<Duration>,
        #[command(flatten)]
        schedule: Schedule,
    },
    /// Patch tags or desired properties of every selected device; needs no connected device
    #[command(group = clap::ArgGroup::new("patch").required(true).multiple(true))]
    Twin {
        /// JSON object to merge into the desired properties; null removes a property
        #[arg(long, value_parser = json_object, value_name = "JSON", group = "patch")]
        desired: Option<Value>,
        /// JSON object to merge into the tags, which devices never see
        #[arg(long, value_parser = json_object, value_name = "JSON", group = "patch")]
        tags: Option<Value>,
        #[command(flatten)]
        schedule: Schedule,
    },
    /// Follow a job of the hub to its end
    Watch {
        /// The job
        #[arg(value_parser = job_id)]
        id: JobId,
    },
    /// List the hub's jobs, newest first
    List {
        /// Only jobs of this type: scheduleDeviceMethod or scheduleUpdateTwin
        #[arg(long = "type", value_name = "TYPE")]
        job_type: Option<String>,
        /// Only jobs with this status, such as running or completed
        #[arg(long)]
        status: Option<String>,
    },
    /// Show what became of each device of a job, and the failures by cause
    Devices {
        /// The job
        #[arg(value_parser = job_id)]
        id: JobId,
    },
    /// Cancel a job that has not started
    Cancel {
        /// The job
        #[arg(value_parser = job_id)]
        id: JobId,
    },
}

/// When, where and over what a job runs.
#[derive(Debug, Args)]
pub(super) struct Schedule {
    /// Which devices: a condition such as "tags.building = '43'" or
    /// "deviceId IN ['a','b']", or * for all; evaluated when the job starts
    #[arg(long, value_name = "CONDITION")]
    pub(super) query: String,
    /// How long from now the job starts: 20s, 10m, 2h, 7d
    #[arg(long, value_parser = duration::parse, default_value = "0s", value_name = "TIME")]
    pub(super) delay: Duration,
    /// How long the job may run; devices that are not done by then have failed
    #[arg(long, value_parser = duration::parse, default_value = "1h", value_name = "TIME")]
    pub(super) window: Duration,
    /// Name of the job, letters, digits and hyphens; made up unless given
    #[arg(long, value_parser = job_id)]
    pub(super) id: Option<JobId>,
    /// Who runs the job
    #[arg(long, value_enum, default_value_t)]
    pub(super) run: Place,
    /// Devices that are worked on at once, with --run here
    #[arg(long, default_value_t = 100, value_name = "NUMBER")]
    pub(super) fan_out: usize,
    /// Return as soon as the hub has taken the job
    #[arg(long)]
    pub(super) detach: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Place {
    /// The hub, which goes on when this program ends
    #[default]
    Hub,
    /// This program, device by device over the service API; ends with it
    Here,
}

fn job_id(text: &str) -> Result<JobId, String> {
    JobId::parse(text).map_err(|error| error.to_string())
}

fn any_json(text: &str) -> Result<Value, String> {
    json::check_depth(text.as_bytes()).map_err(|error| error.to_string())?;
    serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))
}

fn json_object(text: &str) -> Result<Value, String> {
    any_json(text).and_then(|value| match value {
        Value::Object(_) => Ok(value),
        _ => Err("not a JSON object".into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_tutorials_commands_are_understood() {
        let parse = |line: &[&str]| {
            let head = ["job-service", "--connection-string", "x"];
            Arguments::try_parse_from(head.iter().chain(line))
        };
        let method = parse(&[
            "method",
            "--name",
            "lockDoor",
            "--payload",
            r#"{"lockTime":"10m"}"#,
            "--query",
            "*",
            "--delay",
            "20s",
            "--output",
            "json",
        ])
        .unwrap();
        assert_eq!(method.output, Output::Json);
        let Command::OfHub(HubCommand::Method {
            payload, schedule, ..
        }) = method.command
        else {
            panic!("not a method");
        };
        assert_eq!(payload["lockTime"], "10m");
        assert_eq!(schedule.delay, Duration::from_secs(20));
        assert_eq!(schedule.run, Place::Hub);
        assert!(parse(&["forecast", "--sku", "s3", "--units", "4", "--devices", "10000"]).is_ok());
        assert!(
            parse(&[
                "twin",
                "--desired",
                r#"{"building":43,"floor":3}"#,
                "--query",
                "*"
            ])
            .is_ok()
        );
        for wrong in [
            &["twin", "--query", "*"][..],
            &["twin", "--query", "*", "--tags", "[]"],
            &["method", "--name", "m"],
            &["method", "--name", "m", "--query", "*", "--payload", "{"],
            &["watch", "a b"],
            &["forecast", "--sku", "S4", "--devices", "1"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
