//! The command line.

use std::net::{IpAddr, Ipv4Addr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use emulator::{DEVELOPMENT_KEY, Listen, Ports, StartError, Strictness};
use hub_core::job::{CancelRunning, PartialFailure};
use job_service::EngineSettings;

/// The port that SDKs use for REST and WebSockets, and what to take when it
/// cannot be had.
const HTTPS: u16 = 443;
const HTTPS_FALLBACK: u16 = 8443;

/// A local Azure IoT Hub: unmodified SDKs connect to it with a connection
/// string and a CA file.
///
/// Everything is kept in memory and listens on 127.0.0.1 only. Stop it with
/// Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "iothub-emulator", version, after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Port for MQTT over TLS, the one that SDKs use; 0 means any free port
    #[arg(long, value_name = "PORT", default_value_t = 8883)]
    mqtts_port: u16,
    /// Port for MQTT without TLS, for simple tools; 0 means any free port
    #[arg(long, value_name = "PORT", default_value_t = 1883)]
    mqtt_port: u16,
    /// Port for REST and WebSockets over TLS, the one that SDKs use; 0 means
    /// any free port. If 443 cannot be had, 8443 is taken and the start message
    /// says who is affected
    #[arg(long, value_name = "PORT", default_value_t = HTTPS)]
    pub(crate) https_port: u16,
    /// Port for REST and WebSockets without TLS; 0 means any free port
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    http_port: u16,
    /// Name in connection strings and in the server certificate
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    pub(crate) host_name: String,
    /// Address to listen on. Anything but a loopback address opens the hub,
    /// with its admin endpoints that ask for no credentials, to other machines
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub(crate) address: IpAddr,
    /// Directory for the development CA, kept between runs so that clients
    /// need to trust it only once [default: the user's data directory]
    #[arg(long, value_name = "DIR", env = "IOTHUB_EMULATOR_DATA")]
    data_dir: Option<PathBuf>,
    /// Key of the shared access policies (iothubowner and the others), base64
    /// of 16 to 64 bytes
    #[arg(long, value_name = "BASE64", env = "IOTHUB_EMULATOR_KEY", default_value = DEVELOPMENT_KEY, hide_env_values = true)]
    pub(crate) access_key: String,
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
    /// Direct methods that may be in flight to one device at once [default: 10]
    #[arg(long, value_name = "N")]
    pub(crate) methods_in_flight: Option<NonZeroUsize>,
    /// When failed devices make their job `failed`; otherwise it ends
    /// `completed` and only its statistics and records tell
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = JobFails::All)]
    job_fails: JobFails,
    /// Let running jobs be cancelled, which the service refuses with 412
    #[arg(long)]
    cancel_running_jobs: bool,
    /// Seconds between two evaluations of automatic configurations, five minutes
    /// in the service; changes of a configuration are evaluated at once
    /// [default: 1]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) configuration_interval: Option<NonZeroU32>,
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
  iothub-emulator --mqtts-port 0 --mqtt-port 0 --https-port 0 --http-port 0 --info-file hub.json
      for tests: any free ports, written to hub.json when the hub is ready";

impl Args {
    pub(crate) fn ports(&self) -> Ports {
        let https = match self.https_port {
            HTTPS => Listen::OnOr(HTTPS, HTTPS_FALLBACK),
            port => Listen::On(port),
        };
        Ports {
            mqtt: Listen::On(self.mqtt_port),
            mqtts: Listen::On(self.mqtts_port),
            http: Listen::On(self.http_port),
            https,
        }
    }

    pub(crate) fn strictness(&self) -> Strictness {
        if self.lenient {
            Strictness::Lenient
        } else {
            Strictness::Strict
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

    /// A start error with what to do about it.
    pub(crate) fn explain(&self, error: &StartError) -> String {
        let hint = match error {
            StartError::Bind { kind: "MQTT", .. } => "choose another port with --mqtt-port",
            StartError::Bind {
                kind: "MQTT over TLS",
                ..
            } => "choose another port with --mqtts-port; most SDKs can only use 8883",
            StartError::Bind { kind: "HTTP", .. } => "choose another port with --http-port",
            StartError::Bind { kind: "HTTPS", .. } => {
                "choose another port with --https-port; most SDKs can only use 443"
            }
            StartError::AccessKey(_) => "--access-key takes base64 of 16 to 64 bytes",
            _ => return error.to_string(),
        };
        format!("{error}\n  {hint}")
    }
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
