//! The devices, wherever they run.

use std::process::Stdio;
use std::time::Duration;

use device_sim::histogram::Cumulative;
use device_sim::{Credentials, process};
use emulator::Hub;
use hub_core::connection_string::{ConnectionString, ServiceConnection};
use hub_core::ids::Target;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::Failure;
use crate::args::RunArgs;

/// What every device's id starts with.
pub(crate) const PREFIX: &str = "scenario-";
/// How long the fleet may take to connect, or to see what it was sent.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// How the fleet connected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Connected {
    pub(crate) devices: usize,
    pub(crate) seconds: f64,
    pub(crate) latency: Cumulative,
}

/// What devices really received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Devices on which `lockDoor` was called.
    pub(crate) method: usize,
    /// Devices that have the new desired properties.
    pub(crate) desired: usize,
}

/// What the fleet's process used.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct ProcessUsage {
    pub(crate) peak_rss_bytes: u64,
    pub(crate) cpu_seconds: f64,
}

impl ProcessUsage {
    pub(crate) fn current() -> Option<Self> {
        let usage = process::Usage::current()?;
        Some(Self {
            peak_rss_bytes: usage.peak_rss_bytes,
            cpu_seconds: usage.user_seconds + usage.system_seconds,
        })
    }
}

/// The desired properties of the tutorial.
pub(crate) fn desired() -> Value {
    json!({ "building": 43, "floor": 3 })
}

/// The connection string's parts, for deriving the devices' keys.
pub(crate) fn service(connection_string: &str) -> Result<ServiceConnection, Failure> {
    match ConnectionString::parse(connection_string)? {
        ConnectionString::Service(service) => Ok(service),
        ConnectionString::Device(_) => Err("not a service connection string".into()),
    }
}

/// The fleet of a scenario.
pub(crate) enum Fleet {
    /// In this process, over memory.
    InProcess(LocalFleet),
    /// In a child process, over TCP.
    InChild(Box<ChildFleet>),
}

impl Fleet {
    pub(crate) fn in_process(hub: &Hub, args: &RunArgs, targets: Vec<Target>) -> Result<Self, Failure> {
        let credentials = Credentials::derived(&service(&hub.service_connection_string())?);
        let connector = hub.memory_connector();
        let transport = device_sim::Transport::memory(move || Ok(connector.connect()));
        debug_assert_eq!(targets.len(), args.devices as usize);
        Ok(Self::InProcess(LocalFleet::start(
            transport,
            credentials,
            targets,
        )?))
    }

    pub(crate) async fn in_child(hub: &Hub, args: &RunArgs) -> Result<Self, Failure> {
        let mqtt = hub.mqtt_address().ok_or("the hub does not listen for MQTT")?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("fleet")
            .arg("--mqtt")
            .arg(mqtt.to_string())
            .arg("--connection-string")
            .arg(hub.service_connection_string())
            .arg("--devices")
            .arg(args.devices.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take().ok_or("the fleet has no standard input")?;
        let stdout = child.stdout.take().ok_or("the fleet has no standard output")?;
        Ok(Self::InChild(Box::new(ChildFleet {
            child,
            stdin,
            lines: BufReader::new(stdout).lines(),
        })))
    }

    /// Waits until every device is connected.
    pub(crate) async fn wait_connected(&mut self) -> Result<Connected, Failure> {
        match self {
            Self::InProcess(fleet) => fleet.wait_connected().await,
            Self::InChild(fleet) => fleet.reply().await,
        }
    }

    /// Waits until every device has received both jobs' work, or the deadline
    /// has passed, and says how many have.
    pub(crate) async fn verify(&mut self) -> Result<Seen, Failure> {
        match self {
            Self::InProcess(fleet) => Ok(fleet.verify().await),
            Self::InChild(fleet) => fleet.ask("verify").await,
        }
    }

    /// Disconnects the devices. Tells what their process used, if it is not this one.
    pub(crate) async fn stop(self) -> Result<Option<ProcessUsage>, Failure> {
        match self {
            Self::InProcess(fleet) => {
                fleet.stop().await;
                Ok(None)
            }
            Self::InChild(mut fleet) => {
                let usage = fleet.ask("stop").await?;
                fleet.child.wait().await?;
                Ok(usage)
            }
        }
    }
}

/// A fleet in this process.
pub(crate) struct LocalFleet(device_sim::Fleet, std::time::Instant);

impl LocalFleet {
    pub(crate) fn start(
        transport: device_sim::Transport,
        credentials: Credentials,
        targets: Vec<Target>,
    ) -> Result<Self, Failure> {
        // The tutorial's device does not read its twin first, and the scenario
        // must see the notification, not a later read.
        let settings = device_sim::SessionSettings {
            read_twin: false,
            ..Default::default()
        };
        let fleet = device_sim::Fleet::builder(transport, credentials)
            .targets(targets)
            .settings(settings)
            .start()?;
        Ok(Self(fleet, std::time::Instant::now()))
    }

    pub(crate) async fn wait_connected(&self) -> Result<Connected, Failure> {
        self.0.wait_connected(DEADLINE).await?;
        let seconds = self.1.elapsed().as_secs_f64();
        let latency = self.0.report().latency.connect;
        Ok(Connected {
            devices: self.0.connected(),
            seconds,
            latency: latency.map(|latency| latency.cumulative).unwrap_or_default(),
        })
    }

    pub(crate) async fn verify(&self) -> Seen {
        let all = self.0.expected();
        let wanted = desired();
        let seen = |fleet: &device_sim::Fleet| Seen {
            method: fleet.devices_with_method("lockDoor"),
            desired: fleet.devices_with_desired(&wanted),
        };
        // Notifications are not acknowledged: the last may still be on its way.
        let complete = |fleet: &device_sim::Fleet| {
            seen(fleet)
                == Seen {
                    method: all,
                    desired: all,
                }
        };
        let _ = self.0.wait_for(DEADLINE, complete).await;
        seen(&self.0)
    }

    pub(crate) async fn stop(self) {
        self.0.stop().await;
    }
}

/// A fleet in a child process, which answers a line with a line.
pub(crate) struct ChildFleet {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl ChildFleet {
    async fn ask<T: for<'de> Deserialize<'de>>(&mut self, question: &str) -> Result<T, Failure> {
        self.stdin.write_all(format!("{question}\n").as_bytes()).await?;
        self.stdin.flush().await?;
        self.reply().await
    }

    async fn reply<T: for<'de> Deserialize<'de>>(&mut self) -> Result<T, Failure> {
        match timeout(DEADLINE + Duration::from_secs(10), self.lines.next_line()).await {
            Ok(line) => Ok(serde_json::from_str(&line?.ok_or("the fleet's process ended")?)?),
            Err(_) => Err("the fleet's process does not answer".into()),
        }
    }
}
