//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use device_sim::transport::{Endpoint, Scheme};
use device_sim::units::Share;
use hub_core::duration;

const EXAMPLES: &str = "\
Examples:
  One device as in the tutorials; prints every method and desired property it gets:
    device-sim --connection-string 'HostName=my-hub.azure-devices.net;DeviceId=dev1;SharedAccessKey=…'

  The same against a local hub without TLS:
    device-sim --connection-string 'HostName=localhost;DeviceId=dev1;SharedAccessKey=…' --transport tcp

  One device that proves who it is with a certificate:
    device-sim --connection-string 'HostName=my-hub.azure-devices.net;DeviceId=dev1;x509=true' \\
        --certificate dev1.pem --key dev1-key.pem

  Ten thousand devices on a local hub, registered first, 5 % of them offline, telemetry every ten seconds:
    device-sim --connection-string 'HostName=localhost;SharedAccessKeyName=iothubowner;SharedAccessKey=…' \\
        --endpoint http://localhost:8080 --transport tcp --count 10000 --offline 5% --telemetry 10s

  A device with a method of its own that takes half a second, and that reports what is desired of it:
    device-sim … --method 'reboot=202:{\"accepted\":true}:500ms' --reflect

A fleet needs one open file per device. The program raises its own limit as far as the system lets it.";

/// Simulates devices of an Azure IoT hub, cloud or local: one device that
/// tells what happens to it, or a fleet of thousands with a report at the end.
///
/// With a device's connection string it is that device. With a service's
/// connection string (one with a SharedAccessKeyName) it is a fleet: it
/// registers `--count` devices and connects them. Ctrl-C ends both in order.
#[derive(Debug, Parser)]
#[command(name = "device-sim", version, after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The device's or the service's connection string. Without it,
    /// IOTHUB_DEVICE_CONNECTION_STRING or IOTHUB_CONNECTION_STRING from the
    /// environment; the latter first if --count is given
    #[arg(short, long, value_name = "STRING")]
    pub(crate) connection_string: Option<String>,

    #[command(flatten)]
    pub(crate) hub: HubArgs,

    #[command(flatten)]
    pub(crate) fleet: FleetArgs,

    #[command(flatten)]
    pub(crate) behaviour: BehaviourArgs,

    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Where the hub is")]
pub(crate) struct HubArgs {
    /// Where to connect instead of the connection string's host:
    /// mqtt://host:port, mqtts://host:port or host:port
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) mqtt: Option<Endpoint>,

    /// TLS (port 8883), or plain TCP (port 1883), which only local hubs offer
    #[arg(long, value_enum)]
    pub(crate) transport: Option<TransportArg>,

    /// A PEM file with the authority that signed the hub's certificate, for
    /// local hubs; otherwise the system's trust store decides
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,

    /// A PEM file with the certificate of a device whose connection string says
    /// x509=true, followed by those of its issuers as far as the hub needs them
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) certificate: Option<PathBuf>,

    /// A PEM file with that certificate's private key, not encrypted
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub(crate) key: Option<PathBuf>,

    /// Where the hub's REST interface is, for registration on a local hub:
    /// http://host:port or https://host:port
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TransportArg {
    /// Plain TCP.
    Tcp,
    /// TLS.
    Tls,
}

impl From<TransportArg> for Scheme {
    fn from(arg: TransportArg) -> Self {
        match arg {
            TransportArg::Tcp => Self::Tcp,
            TransportArg::Tls => Self::Tls,
        }
    }
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "The fleet (with a service's connection string)")]
pub(crate) struct FleetArgs {
    /// Number of devices [default: 10]
    #[arg(short = 'n', long)]
    pub(crate) count: Option<usize>,

    /// The devices are called PREFIX00000, PREFIX00001 and so on
    #[arg(long, default_value = "sim")]
    pub(crate) prefix: String,

    /// Do not register the devices: they have been registered before
    #[arg(long)]
    pub(crate) no_register: bool,

    /// What devices sign their tokens with
    #[arg(long, value_enum, default_value_t = Keys::Own)]
    pub(crate) keys: Keys,

    /// Tags for the twins of newly registered devices, a JSON object
    #[arg(long, value_name = "JSON")]
    pub(crate) tags: Option<String>,

    /// Connect this many devices a second; 0 is as fast as possible
    #[arg(long, default_value_t = 0, value_name = "PER_SECOND")]
    pub(crate) ramp: u32,

    /// Devices that may be connecting at the same time
    #[arg(long, default_value = "256", value_name = "N")]
    pub(crate) concurrent_connects: NonZeroUsize,

    /// Decides which devices are offline, failing or silent, and when each
    /// sends telemetry
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,

    /// Share of the devices that never connect, such as 5%
    #[arg(long, default_value = "0%", value_name = "SHARE")]
    pub(crate) offline: Share,

    /// Share of the devices that answer every method with status 500
    #[arg(long, default_value = "0%", value_name = "SHARE")]
    pub(crate) failing: Share,

    /// Share of the devices that never answer a method
    #[arg(long, default_value = "0%", value_name = "SHARE")]
    pub(crate) silent: Share,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Keys {
    /// Each its own key, derived from the connection string's and registered
    /// with the device.
    Own,
    /// The connection string's key; its policy must permit DeviceConnect.
    Policy,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What a device does")]
pub(crate) struct BehaviourArgs {
    /// A JSON file with methods, telemetry and whether to reflect, such as
    /// {"methods":{"lockDoor":{"status":200,"payload":{},"delay":"1s"}},
    /// "reflectDesired":true,"telemetry":{"interval":"10s","payload":{}}}
    #[arg(long, value_name = "FILE")]
    pub(crate) behaviour: Option<PathBuf>,

    /// Adds a method: name=status, name=status:json or name=status:json:delay;
    /// may be repeated. Without any the device has the tutorial's lockDoor
    #[arg(long, value_name = "METHOD")]
    pub(crate) method: Vec<String>,

    /// Report every desired property back as a reported one
    #[arg(long)]
    pub(crate) reflect: bool,

    /// Send telemetry at this interval, such as 10s
    #[arg(long, value_parser = duration::parse, value_name = "INTERVAL")]
    pub(crate) telemetry: Option<Duration>,

    /// Do not read the twin after connecting
    #[arg(long)]
    pub(crate) no_twin: bool,

    /// Seconds without a packet after which the device pings; 0 is never
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub(crate) keep_alive: u16,

    /// How long tokens are valid; devices reconnect with a new one in time
    #[arg(long, value_parser = duration::parse, default_value = "1h", value_name = "DURATION")]
    pub(crate) token_lifetime: Duration,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "How long, and what is printed")]
pub(crate) struct RunArgs {
    /// End after this time, counted from when all devices are connected
    #[arg(long, value_parser = duration::parse)]
    pub(crate) duration: Option<Duration>,

    /// How long connecting the fleet may take before it counts as failed
    #[arg(long, value_parser = duration::parse, default_value = "5m", value_name = "DURATION")]
    pub(crate) ready_timeout: Duration,

    /// Form of the report at the end
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,

    /// Draw the distributions of the latencies into this SVG file at the end
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,

    /// Print every event of every device of a fleet, too
    #[arg(short, long)]
    pub(crate) verbose: bool,

    /// For programs: one JSON object per line on standard output, with the
    /// member "event": registered, connected, notConnected, report, stopped or
    /// error. Lines on standard input are commands: report, stop. The end of
    /// standard input is stop
    #[arg(long)]
    pub(crate) control_stdio: bool,

    /// Threads that serve the devices; one is the most efficient
    #[arg(long, default_value = "1", value_name = "N")]
    pub(crate) threads: NonZeroUsize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn values_with_units_are_read() {
        let args = Args::try_parse_from([
            "device-sim",
            "--count=10000",
            "--offline=5%",
            "--telemetry=10s",
            "--mqtt=mqtt://localhost:1883",
            "--method=a=200:{\"b\":1}:5ms",
        ])
        .unwrap();
        assert_eq!(args.fleet.offline.of(10_000), 500);
        assert_eq!(args.behaviour.telemetry, Some(Duration::from_secs(10)));
        assert_eq!(args.hub.mqtt.unwrap().scheme, Some(Scheme::Tcp));
        for wrong in [
            "--offline=200%",
            "--telemetry=soon",
            "--mqtt=http://x",
            "--threads=0",
        ] {
            assert!(Args::try_parse_from(["device-sim", wrong]).is_err(), "{wrong}");
        }
    }
}
