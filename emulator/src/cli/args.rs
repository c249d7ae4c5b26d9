//! The command line.

use std::net::{IpAddr, Ipv4Addr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use emulator::{DEVELOPMENT_KEY, EventSettings, HubBuilder, Listen, Ports, StartError, Strictness};
use hub_core::c2d;
use hub_core::events::{Retention, Source};
use hub_core::job::{CancelRunning, PartialFailure};
use hub_core::json::check_depth;
use hub_core::query::Dialect;
use hub_core::routing::Routing;
use hub_core::tier::{Sku, Tier};
use hub_core::{duration, limits};
use job_service::EngineSettings;

use super::events::EventsArgs;
use super::ports::PortsArgs;
use super::trust::TrustArgs;

/// The port that SDKs use for REST and WebSockets, and what to take when it
/// cannot be had.
const HTTPS: u16 = 443;
const HTTPS_FALLBACK: u16 = 8443;

/// The ports of AMQP. Other programs serve AMQP as well, so any other port will
/// do when these cannot be had.
const AMQPS: u16 = 5671;
const AMQP: u16 = 5672;

const MIB: usize = 1024 * 1024;
/// Memory for the events of a partition when nothing else is said.
const DEFAULT_EVENT_MIB: u32 = (limits::EVENT_PARTITION_BYTES / MIB) as u32;

/// A local Azure IoT Hub: unmodified SDKs connect to it with a connection
/// string and a CA file.
///
/// Everything is kept in memory and listens on 127.0.0.1 only. Stop it with
/// Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "iothub-emulator", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Port for MQTT over TLS, the one that SDKs use; 0 means any free port
    #[arg(long, value_name = "PORT", default_value_t = 8883)]
    mqtts_port: u16,
    /// Port for MQTT without TLS, for simple tools; 0 means any free port
    #[arg(long, value_name = "PORT", default_value_t = 1883)]
    mqtt_port: u16,
    /// Port for AMQP over TLS, the one that SDKs use; 0 means any free port. If
    /// 5671 cannot be had, any free port is taken and the start message says so
    #[arg(long, value_name = "PORT", default_value_t = AMQPS)]
    pub(crate) amqps_port: u16,
    /// Port for AMQP without TLS, for simple tools; 0 means any free port, which
    /// is also taken if 5672 cannot be had
    #[arg(long, value_name = "PORT", default_value_t = AMQP)]
    amqp_port: u16,
    /// Port for REST and WebSockets over TLS, the one that SDKs use; 0 means
    /// any free port. If 443 cannot be had, 8443 is taken and the start message
    /// says who is affected
    #[arg(long, value_name = "PORT", default_value_t = HTTPS)]
    pub(crate) https_port: u16,
    /// Port for REST and WebSockets without TLS; 0 means any free port
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    http_port: u16,
    /// Show what happens in the hub to MQTT clients on this port of 127.0.0.1; 0
    /// means any free port. `mosquitto_sub -p PORT -t 'hub/#' -v` prints it all;
    /// who reads too slowly misses some
    #[arg(long, value_name = "PORT")]
    event_tap: Option<u16>,
    /// Threads that serve connections [default: half of the processors, because
    /// the clients of a local hub need the others; at least 1]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Name in connection strings and in the server certificate
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    pub(crate) host_name: String,
    /// Address to listen on. Anything but a loopback address opens the hub,
    /// with its admin endpoints that ask for no credentials, to other machines
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub(crate) address: IpAddr,
    /// Directory for the development CA, kept between runs so that clients
    /// need to trust it only once [default: the user's data directory]
    #[arg(long, global = true, value_name = "DIR", env = "IOTHUB_EMULATOR_DATA")]
    data_dir: Option<PathBuf>,
    /// Directory for files that devices upload and jobs export, one directory
    /// per container [default: `blobs` in the data directory]
    #[arg(long, value_name = "DIR")]
    blob_dir: Option<PathBuf>,
    /// Key of the shared access policies (iothubowner and the others), base64
    /// of 16 to 64 bytes
    #[arg(long, value_name = "BASE64", env = "IOTHUB_EMULATOR_KEY", default_value = DEVELOPMENT_KEY, hide_env_values = true)]
    pub(crate) access_key: String,
    /// Trust certificates of devices that the authorities in this PEM file
    /// issued; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) device_ca: Vec<PathBuf>,
    /// Create this device and print its connection string; may be repeated
    #[arg(long, value_name = "ID")]
    pub(crate) device: Vec<String>,
    /// Create the identities in this file that do not exist yet: a JSON array
    /// or one object per line with deviceId and, optionally, moduleId,
    /// authentication, status, tags and properties.desired
    #[arg(long, value_name = "FILE")]
    pub(crate) init_file: Option<PathBuf>,
    /// Once everything is bound, write addresses and connection string to this
    /// file as one JSON object
    #[arg(long, value_name = "FILE")]
    pub(crate) info_file: Option<PathBuf>,
    /// Refuse an unsupported topic filter with SUBACK 0x80 instead of closing
    /// the connection as the service does
    #[arg(long)]
    lenient: bool,
    /// Accept in queries and in the conditions of jobs what the service refuses
    /// with 400: functions that are documented for message routing only, such
    /// as LOWER or IS_STRING, and lists in parentheses, IN ('a', 'b')
    #[arg(long)]
    lenient_queries: bool,
    /// Let MQTT clients wait this long for their CONNACK, such as 250ms, 20s at
    /// most: some clients' reconnect logic races with a hub that answers at once
    #[arg(long, value_name = "TIME", value_parser = connack_delay, default_value = "0s", hide_default_value = true)]
    pub(crate) connack_delay: Duration,
    /// Let queries over devices and modules, and the selection of a job's
    /// devices, lag behind by this time, such as 5s or 2m, as they do in the
    /// cloud: new devices are not found until then, deleted ones still are
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "0s", hide_default_value = true)]
    pub(crate) query_lag: Duration,
    /// Direct methods that may be in flight to one device at once [default: 10]
    #[arg(long, value_name = "N")]
    pub(crate) methods_in_flight: Option<NonZeroUsize>,
    /// How long a cloud-to-device message waits that names no expiry of its
    /// own, 60 to 172800 seconds [default: 3600]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(60..=172_800))]
    c2d_ttl: Option<u64>,
    /// Abandoned deliveries after which a cloud-to-device message is given up,
    /// 1 to 100 [default: 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    c2d_max_delivery_count: Option<u32>,
    /// When failed devices make their job `failed`; otherwise it ends
    /// `completed` and only its statistics and records tell
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = JobFails::All)]
    job_fails: JobFails,
    /// Let running jobs be cancelled, which the service refuses with 412
    #[arg(long)]
    cancel_running_jobs: bool,
    /// Partitions of the event stream, 1 to 32; a device's events stay in one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=32), default_value_t = 4)]
    partitions: u16,
    /// How long events are kept for readers, such as 1h, 7d at most
    #[arg(long, value_name = "TIME", value_parser = event_retention, default_value = "1d")]
    event_retention: Duration,
    /// Memory for the events of each partition in MiB; the oldest go first
    #[arg(long, value_name = "MIB", default_value_t = DEFAULT_EVENT_MIB)]
    event_retention_mib: u32,
    /// Events to keep in each partition [default: as many as fit]
    #[arg(long, value_name = "N")]
    event_retention_count: Option<NonZeroUsize>,
    /// Events to keep beside telemetry, as a route in the cloud would have it
    #[arg(
        long,
        value_enum,
        value_name = "SOURCE",
        value_delimiter = ',',
        conflicts_with = "routing"
    )]
    events: Vec<EventSource>,
    /// Route messages and events by this JSON file: endpoints (streams,
    /// directories, webhooks), routes, fallbackRoute and enrichments, as in the
    /// cloud. Paths in it start from the current directory
    #[arg(long, value_name = "FILE")]
    routing: Option<PathBuf>,
    /// Consumer group to have beside $Default; may be given again
    #[arg(long, value_name = "NAME")]
    consumer_group: Vec<String>,
    /// Seconds between two evaluations of automatic configurations, five minutes
    /// in the service; changes of a configuration are evaluated at once
    /// [default: 1]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) configuration_interval: Option<NonZeroU32>,
    /// Keep the limits of this tier: F1, B1, B2, B3, S1, S2 or S3. Jobs reach as
    /// many devices a second as there, and telemetry ends with the day's quota
    #[arg(long, value_name = "SKU")]
    sku: Option<Sku>,
    /// Units of the tier, 1 to 200 (B3, S3: 10, F1: 1)
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        requires = "sku",
        hide_default_value = true
    )]
    units: u32,
    /// What to log on stderr: error, warn, info, debug or trace, also by
    /// module. At debug, every refused or closed connection says why
    #[arg(
        long,
        value_name = "FILTER",
        env = "IOTHUB_EMULATOR_LOG",
        default_value = "warn"
    )]
    pub(crate) log: String,
}

/// What the program does instead of serving.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Trust(TrustArgs),
    Ports(PortsArgs),
    Events(EventsArgs),
}

/// What the hub itself can tell back ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EventSource {
    /// Changes of twins
    Twin,
    /// Identities that are created or deleted
    Lifecycle,
    /// Devices that connect and disconnect
    Connection,
    /// Operations of jobs on devices that begin and end
    Job,
    /// Changes of digital twins: of devices that have announced a model
    DigitalTwin,
}

/// When failed devices make their job fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum JobFails {
    /// When all of its devices have failed
    All,
    /// As soon as one device has failed
    Any,
    /// Never; only a bad condition makes a job fail
    Never,
}

const EXAMPLES: &str = "\
Examples:
  iothub-emulator --device my-device
      starts a hub and prints connection strings for a back end and a device
  iothub-emulator --mqtts-port 0 --mqtt-port 0 --amqps-port 0 --amqp-port 0 --https-port 0 --http-port 0 --info-file hub.json
      for tests: any free ports, written to hub.json when the hub is ready
  iothub-emulator events --device my-device
      shows what happens to a device in a running hub, as it happens";

impl Args {
    pub(crate) fn ports(&self) -> Ports {
        let https = match self.https_port {
            HTTPS => Listen::OnOr(HTTPS, HTTPS_FALLBACK),
            port => Listen::On(port),
        };
        let amqp = |port, usual| match port {
            port if port == usual => Listen::OnOr(usual, 0),
            port => Listen::On(port),
        };
        Ports {
            mqtt: Listen::On(self.mqtt_port),
            mqtts: Listen::On(self.mqtts_port),
            amqp: amqp(self.amqp_port, AMQP),
            amqps: amqp(self.amqps_port, AMQPS),
            http: Listen::On(self.http_port),
            https,
        }
    }

    /// Adds the event tap, if it is wanted.
    ///
    /// # Errors
    /// When the program was built without it.
    pub(crate) fn with_event_tap(&self, builder: HubBuilder) -> Result<HubBuilder, String> {
        match self.event_tap {
            None => Ok(builder),
            #[cfg(feature = "event-tap")]
            Some(port) => Ok(builder.event_tap(port)),
            #[cfg(not(feature = "event-tap"))]
            Some(_) => Err("--event-tap: this program was built without it\n  \
                build it with cargo build --release -p emulator --features event-tap"
                .into()),
        }
    }

    pub(crate) fn strictness(&self) -> Strictness {
        if self.lenient {
            Strictness::Lenient
        } else {
            Strictness::Strict
        }
    }

    pub(crate) fn query_dialect(&self) -> Dialect {
        if self.lenient_queries {
            Dialect::Lenient
        } else {
            Dialect::Service
        }
    }

    pub(crate) fn cloud_to_device(&self) -> c2d::Settings {
        let default = c2d::Settings::default();
        c2d::Settings {
            default_ttl: self.c2d_ttl.map_or(default.default_ttl, Duration::from_secs),
            max_delivery_count: self.c2d_max_delivery_count.unwrap_or(default.max_delivery_count),
            ..default
        }
    }

    pub(crate) fn jobs(&self) -> EngineSettings {
        EngineSettings {
            partial_failure: match self.job_fails {
                JobFails::All => PartialFailure::FailsWhenAllFailed,
                JobFails::Any => PartialFailure::FailsWhenAnyFailed,
                JobFails::Never => PartialFailure::NeverFails,
            },
            cancel_running: if self.cancel_running_jobs {
                CancelRunning::Stops
            } else {
                CancelRunning::Refused
            },
            ..EngineSettings::default()
        }
    }

    /// How the event stream is kept.
    ///
    /// # Errors
    /// When a consumer group's name is not legal.
    pub(crate) fn events(&self) -> Result<EventSettings, String> {
        let partitions = NonZeroUsize::new(self.partitions.into()).unwrap_or(NonZeroUsize::MIN);
        let mut settings = EventSettings::default().with_partitions(partitions);
        settings.retention = Retention {
            time: self.event_retention,
            bytes: usize::try_from(self.event_retention_mib)
                .unwrap_or(usize::MAX)
                .saturating_mul(MIB),
            count: self.event_retention_count.map_or(usize::MAX, NonZeroUsize::get),
        };
        for source in &self.events {
            settings.sources = settings.sources.with(match source {
                EventSource::Twin => Source::TwinChange,
                EventSource::Lifecycle => Source::DeviceLifecycle,
                EventSource::Connection => Source::DeviceConnectionState,
                EventSource::Job => Source::DeviceJobLifecycle,
                EventSource::DigitalTwin => Source::DigitalTwinChange,
            });
        }
        for name in &self.consumer_group {
            settings = settings
                .with_consumer_group(name)
                .map_err(|e| format!("--consumer-group {name}: {e}"))?;
        }
        Ok(settings)
    }

    /// The message routing to start with.
    ///
    /// # Errors
    /// Says what is wrong with the file, and where.
    pub(crate) fn routing(&self) -> Result<Option<Routing>, String> {
        let Some(file) = &self.routing else {
            return Ok(None);
        };
        let text = std::fs::read(file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
        let fault = |e: &dyn std::fmt::Display| format!("--routing {}: {e}", file.display());
        check_depth(&text).map_err(|e| fault(&e))?;
        let json: serde_json::Value = serde_json::from_slice(&text).map_err(|e| fault(&e))?;
        Routing::from_json(&json).map(Some).map_err(|e| fault(&e))
    }

    /// The tier whose limits the hub keeps.
    ///
    /// # Errors
    /// When there are no hubs of that size.
    pub(crate) fn tier(&self) -> Result<Option<Tier>, String> {
        let tier = self.sku.map(|sku| Tier::new(sku, self.units)).transpose();
        tier.map_err(|e| format!("--units {}: {e}", self.units))
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        let from = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        self.data_dir
            .clone()
            .or_else(|| from("XDG_DATA_HOME").map(|dir| dir.join("iothub-emulator")))
            .or_else(|| from("LOCALAPPDATA").map(|dir| dir.join("iothub-emulator")))
            .or_else(|| from("HOME").map(|dir| dir.join(".local/share/iothub-emulator")))
            .unwrap_or_else(|| ".iothub-emulator".into())
    }

    pub(crate) fn blob_dir(&self) -> PathBuf {
        self.blob_dir
            .clone()
            .unwrap_or_else(|| self.data_dir().join("blobs"))
    }

    /// A start error with what to do about it.
    pub(crate) fn explain(&self, error: &StartError) -> String {
        let hint = match error {
            StartError::Bind { kind: "MQTT", .. } => "choose another port with --mqtt-port",
            StartError::Bind {
                kind: "MQTT over TLS",
                ..
            } => "choose another port with --mqtts-port; most SDKs can only use 8883",
            StartError::Bind { kind: "AMQP", .. } => "choose another port with --amqp-port",
            StartError::Bind {
                kind: "AMQP over TLS",
                ..
            } => "choose another port with --amqps-port; most SDKs can only use 5671",
            StartError::Bind { kind: "HTTP", .. } => "choose another port with --http-port",
            StartError::Bind { kind: "HTTPS", .. } => {
                "choose another port with --https-port; most SDKs can only use 443"
            }
            StartError::Bind {
                kind: "the event tap",
                ..
            } => "choose another port with --event-tap",
            StartError::AccessKey(_) => "--access-key takes base64 of 16 to 64 bytes",
            _ => return error.to_string(),
        };
        format!("{error}\n  {hint}")
    }
}

fn event_retention(text: &str) -> Result<Duration, String> {
    let time = duration::parse(text).map_err(|e| e.to_string())?;
    if time > limits::EVENT_RETENTION_MAX {
        return Err("at most 7d".into());
    }
    Ok(time)
}

fn connack_delay(text: &str) -> Result<Duration, String> {
    let delay = duration::parse(text).map_err(|e| e.to_string())?;
    if delay > limits::MQTT_CONNACK_DELAY {
        return Err(format!("at most {} s", limits::MQTT_CONNACK_DELAY.as_secs()));
    }
    Ok(delay)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
