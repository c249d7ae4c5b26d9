//! The figures: what is run, and what it cost.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use benches::rest::RestConnection;
use benches::runtime;
use bytes::Bytes;
use hub_core::connection_string::{ConnectionString, ServiceConnection};
use hyper::Method;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::broker::{self, Broker, call_all};
use super::child::{Process, Role};
use super::fleet::seconds;
use super::{desired_job, device_id, method_job};

/// Rounds of a figure; the first warms up, the median of the others counts.
const ROUNDS: usize = 6;

/// Requests over REST in a round, and how many are under way at a time.
const REQUESTS: usize = 20_000;
const CONNECTIONS: usize = 64;

/// Messages of telemetry in a round, of all devices together.
const MESSAGES: usize = 200_000;

/// Devices that connect over TLS; each handshake costs both ends about a
/// millisecond.
const TLS_DEVICES: usize = 2_000;

/// One figure of one fleet size.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    /// How long a round took, in seconds.
    pub(crate) seconds: f64,
    /// Operations a second.
    pub(crate) rate: f64,
    /// Processor time of the server for each, in µs.
    pub(crate) cpu: f64,
}

/// What was found at one size, over TCP.
#[derive(Debug, Default)]
pub(crate) struct Column {
    pub(crate) devices: usize,
    pub(crate) costs: Vec<(&'static str, Cost)>,
    /// Memory of the hub's process: KiB for each idle device, and MiB in all with
    /// every device connected.
    pub(crate) idle_kib: f64,
    pub(crate) connected_mib: f64,
    /// The longest that one device took to connect, in seconds.
    pub(crate) longest_connect: f64,
}

impl Column {
    pub(crate) fn cost(&self, name: &str) -> Option<Cost> {
        self.costs
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, cost)| *cost)
    }
}

/// What was found over memory at one size; processor time is that of hub and
/// devices.
#[derive(Debug)]
pub(crate) struct InMemory {
    pub(crate) devices: usize,
    pub(crate) method: Cost,
    pub(crate) twin: Cost,
}

/// Everything.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) columns: Vec<Column>,
    pub(crate) in_memory: Vec<InMemory>,
    /// A device over TLS: connecting, its memory in KiB, the longest that one took.
    pub(crate) tls: (Cost, f64, f64),
    /// Seconds until a hub is ready, and the size of its program in MiB, stripped.
    pub(crate) start: Option<(f64, f64)>,
    /// Whether mosquitto is installed.
    pub(crate) has_broker: bool,
}

/// Names of the figures, in their order.
pub(crate) const CONNECT: &str = "connect and subscribe, SAS verified";
pub(crate) const METHOD_JOB: &str = "method job";
pub(crate) const TWIN_JOB: &str = "twin job";
pub(crate) const METHODS: &str = "REST method call, 64 in flight";
pub(crate) const TWIN_READ: &str = "REST twin read, 64 in flight";
pub(crate) const TWIN_PATCH: &str = "REST twin patch, 64 in flight";
pub(crate) const INGEST_1: &str = "telemetry QoS 1, 1 in flight";
pub(crate) const INGEST_20: &str = "telemetry QoS 1, 20 in flight";
pub(crate) const FLOOR: &str = "floor: a write and a read";
pub(crate) const BROKER_CALL: &str = "mosquitto: request and response";
pub(crate) const BROKER_INGEST_1: &str = "mosquitto: telemetry, 1 in flight";
pub(crate) const BROKER_INGEST_20: &str = "mosquitto: telemetry, 20 in flight";

/// Takes all figures; `directory` is for the processes' own files.
pub(crate) fn all(sizes: &[usize], in_memory: &[usize], directory: &Path) -> Report {
    let runtime = runtime();
    let program = broker::installed();
    let columns = sizes
        .iter()
        .map(|&devices| {
            let mut column = hub(&runtime, devices, directory);
            // Right behind the hub, so that the machine is as busy as it was.
            column.costs.push((FLOOR, floor(devices)));
            if let Some(program) = &program {
                column
                    .costs
                    .extend(mosquitto(&runtime, program, devices, directory));
            }
            column
        })
        .collect();
    let tls_devices = sizes.iter().copied().max().unwrap_or(0).min(TLS_DEVICES);
    Report {
        columns,
        in_memory: in_memory.iter().map(|&devices| memory(devices)).collect(),
        tls: tls(tls_devices, directory),
        start: program_of_the_hub(directory),
        has_broker: program.is_some(),
    }
}

/// Runs rounds of something that does `count` operations and says how long each
/// took; gives the median, with the processor time that `process` spent.
fn rounds(process: impl Fn() -> f64, count: usize, mut round: impl FnMut(usize) -> f64) -> Cost {
    let costs: Vec<(f64, f64)> = (0..ROUNDS)
        .map(|number| {
            let before = process();
            let seconds = round(number);
            (seconds, process() - before)
        })
        .collect();
    median(&costs, count)
}

struct HubAndFleet {
    hub: Role,
    fleet: Role,
    ready: Value,
    connect: Cost,
    idle_kib: f64,
    longest: f64,
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name]
        .as_str()
        .unwrap_or_else(|| panic!("{value} lacks {name}"))
}

impl HubAndFleet {
    fn start(kind: &str, devices: usize, directory: &Path) -> Self {
        let count = devices.to_string();
        let data = directory.join("hub");
        let (hub, ready) = Role::start(&["hub", &count, &data.to_string_lossy()]);
        let host = match kind {
            "hub-tls" => text(&ready, "connection").replacen(
                &format!("HostName={}", host_of(&ready)),
                &format!("HostName=localhost:{}", ready["mqttsPort"]),
                1,
            ),
            _ => text(&ready, "connection").to_owned(),
        };
        let (cpu, memory) = (hub.process.cpu(), hub.process.resident());
        let (fleet, connected) = Role::start(&[
            "fleet",
            kind,
            &host,
            text(&ready, "mqtt"),
            text(&ready, "caFile"),
            &count,
        ]);
        let took = seconds(&connected);
        Self {
            connect: Cost {
                seconds: took,
                rate: devices as f64 / took,
                cpu: (hub.process.cpu() - cpu) * 1e6 / devices as f64,
            },
            idle_kib: (hub.process.resident() - memory) / devices as f64,
            longest: connected["longest"].as_f64().unwrap_or(0.0),
            hub,
            fleet,
            ready,
        }
    }
}

fn host_of(ready: &Value) -> String {
    let connection = text(ready, "connection");
    let host = connection
        .strip_prefix("HostName=")
        .and_then(|rest| rest.split(';').next());
    host.expect("a connection string begins with the host").to_owned()
}

fn service(ready: &Value) -> ServiceConnection {
    match ConnectionString::parse(text(ready, "connection")) {
        Ok(ConnectionString::Service(service)) => service,
        other => panic!("not a service connection string: {other:?}"),
    }
}

fn hub(runtime: &Runtime, devices: usize, directory: &Path) -> Column {
    let mut at = HubAndFleet::start("hub", devices, directory);
    let connected_mib = at.hub.process.resident() / 1024.0;
    let service = service(&at.ready);
    let http = text(&at.ready, "http").to_owned();
    let mut rest = runtime.block_on(RestConnection::to(&http, &service));
    let mut costs = vec![(CONNECT, at.connect)];

    let (process, fleet) = (&at.hub.process, &mut at.fleet);
    let cpu = || process.cpu();
    let mut methods = 0;
    costs.push((
        METHOD_JOB,
        rounds(cpu, devices, |round| {
            let begun = Instant::now();
            runtime.block_on(rest.run_job(&format!("m{round}"), &method_job(), devices));
            methods += devices;
            fleet.ask(&format!("methods {methods}"));
            begun.elapsed().as_secs_f64()
        }),
    ));
    let mut desired = 0;
    costs.push((
        TWIN_JOB,
        rounds(cpu, devices, |round| {
            let begun = Instant::now();
            runtime.block_on(rest.run_job(&format!("t{round}"), &desired_job(round), devices));
            desired += devices;
            fleet.ask(&format!("desired {desired}"));
            begun.elapsed().as_secs_f64()
        }),
    ));

    let mut connections: Vec<RestConnection> = runtime.block_on(async {
        let mut open = Vec::new();
        for _ in 0..CONNECTIONS {
            open.push(RestConnection::to(&http, &service).await);
        }
        open
    });
    let call = Request {
        method: Method::POST,
        suffix: "/methods",
        body: Bytes::from_static(br#"{"methodName":"lockDoor","payload":{"lockTime":"10m"}}"#),
        devices,
    };
    costs.push((
        METHODS,
        rounds(cpu, REQUESTS, |_| {
            let took = call.many(runtime, &mut connections);
            methods += REQUESTS;
            fleet.ask(&format!("methods {methods}"));
            took
        }),
    ));
    let read = Request {
        method: Method::GET,
        suffix: "",
        body: Bytes::new(),
        devices,
    };
    costs.push((
        TWIN_READ,
        rounds(cpu, REQUESTS, |_| read.many(runtime, &mut connections)),
    ));
    // Tags: a desired property would be told to the device as well.
    let patch = Request {
        method: Method::PATCH,
        suffix: "",
        body: Bytes::from_static(br#"{"tags":{"room":7}}"#),
        devices,
    };
    costs.push((
        TWIN_PATCH,
        rounds(cpu, REQUESTS, |_| patch.many(runtime, &mut connections)),
    ));
    for (name, in_flight) in [(INGEST_1, 1), (INGEST_20, 20)] {
        costs.push((name, ingest(process, fleet, devices, in_flight)));
    }
    Column {
        devices,
        costs,
        idle_kib: at.idle_kib,
        connected_mib,
        longest_connect: at.longest,
    }
}

fn ingest(process: &Process, fleet: &mut Role, devices: usize, in_flight: usize) -> Cost {
    // At least one round of a device.
    let each = (MESSAGES / devices).next_multiple_of(in_flight);
    rounds(
        || process.cpu(),
        each * devices,
        |_| seconds(&fleet.ask(&format!("ingest {each} {in_flight}"))),
    )
}

/// A request to one device's twin after the other.
struct Request {
    method: Method,
    suffix: &'static str,
    body: Bytes,
    devices: usize,
}

impl Request {
    /// Makes [`REQUESTS`] of it, one at a time on each connection; gives how long
    /// all took.
    fn many(&self, runtime: &Runtime, connections: &mut Vec<RestConnection>) -> f64 {
        let next = Arc::new(AtomicUsize::new(0));
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for mut connection in connections.drain(..) {
            let (next, method, body) = (next.clone(), self.method.clone(), self.body.clone());
            let (suffix, devices) = (self.suffix, self.devices);
            tasks.spawn_on(
                async move {
                    loop {
                        let number = next.fetch_add(1, Relaxed);
                        if number >= REQUESTS {
                            return connection;
                        }
                        let path = format!("/twins/{}{suffix}", device_id(number % devices));
                        let reply = connection.call(method.clone(), &path, body.clone()).await;
                        assert!(reply.status.is_success(), "{}: {:?}", reply.status, reply.body);
                    }
                },
                runtime.handle(),
            );
        }
        connections.extend(runtime.block_on(tasks.join_all()));
        begun.elapsed().as_secs_f64()
    }
}

fn floor(devices: usize) -> Cost {
    let (mut floor, ready) = Role::start(&["floor"]);
    let address = text(&ready, "address").to_owned();
    let (mut fleet, _) = Role::start(&["fleet", "floor", "-", &address, "-", &devices.to_string()]);
    let mut echoes = 0;
    let costs: Vec<(f64, f64)> = (0..ROUNDS)
        .map(|_| {
            let before = floor.process.cpu();
            let took = seconds(&floor.ask(&format!("go {devices}")));
            echoes += devices;
            fleet.ask(&format!("methods {echoes}"));
            (took, floor.process.cpu() - before)
        })
        .collect();
    median(&costs, devices)
}

/// The median of rounds of `count` operations, of which the first warms up: how
/// long each took, and the server's processor time, both in seconds.
fn median(rounds: &[(f64, f64)], count: usize) -> Cost {
    let (mut times, mut cpus): (Vec<f64>, Vec<f64>) = rounds[1..].iter().copied().unzip();
    times.sort_by(f64::total_cmp);
    cpus.sort_by(f64::total_cmp);
    let seconds = times[times.len() / 2];
    Cost {
        seconds,
        rate: count as f64 / seconds,
        cpu: cpus[cpus.len() / 2] * 1e6 / count as f64,
    }
}

fn mosquitto(
    runtime: &Runtime,
    program: &Path,
    devices: usize,
    directory: &Path,
) -> Vec<(&'static str, Cost)> {
    let broker = Broker::start(program, directory);
    let (mut fleet, _) = Role::start(&["fleet", "broker", "-", &broker.address, "-", &devices.to_string()]);
    let mut service = runtime.block_on(broker.service());
    let cpu = || broker.process.cpu();
    let mut answered = 0;
    let call = rounds(cpu, devices, |_| {
        let begun = Instant::now();
        runtime.block_on(call_all(&mut service, devices));
        let took = begun.elapsed().as_secs_f64();
        answered += devices;
        fleet.ask(&format!("methods {answered}"));
        took
    });
    vec![
        (BROKER_CALL, call),
        (BROKER_INGEST_1, ingest(&broker.process, &mut fleet, devices, 1)),
        (BROKER_INGEST_20, ingest(&broker.process, &mut fleet, devices, 20)),
    ]
}

fn tls(devices: usize, directory: &Path) -> (Cost, f64, f64) {
    let at = HubAndFleet::start("hub-tls", devices, directory);
    (at.connect, at.idle_kib, at.longest)
}

fn memory(devices: usize) -> InMemory {
    let (_role, figures) = Role::start(&["memory", &devices.to_string()]);
    let figure = |name: &str| figures[name].as_f64().expect("a figure");
    let cost = |kind: &str| {
        let seconds = figure(&format!("{kind}Seconds"));
        Cost {
            seconds,
            rate: devices as f64 / seconds,
            cpu: figure(&format!("{kind}Cpu")),
        }
    };
    InMemory {
        devices,
        method: cost("method"),
        twin: cost("twin"),
    }
}

/// Builds the hub's program as it is released, starts it, and strips a copy of
/// it. Nothing where there is no `strip`.
fn program_of_the_hub(directory: &Path) -> Option<(f64, f64)> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = Command::new(cargo)
        .args([
            "build",
            "--release",
            "--locked",
            "--quiet",
            "-p",
            "emulator",
            "--bin",
            "iothub-emulator",
        ])
        .current_dir(&workspace)
        .status();
    if !build.is_ok_and(|status| status.success()) {
        return None;
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), Into::into);
    let program = target.join("release/iothub-emulator");
    let stripped = directory.join("iothub-emulator");
    let strip = Command::new("strip")
        .arg("-o")
        .arg(&stripped)
        .arg(&program)
        .status();
    let size = strip
        .ok()
        .filter(std::process::ExitStatus::success)
        .and_then(|_| std::fs::metadata(&stripped).ok())?
        .len();
    let info = directory.join("info.json");
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            // A missing file is what is waited for.
            let _ = std::fs::remove_file(&info);
            let begun = Instant::now();
            let mut command = Command::new(&program);
            command.args([
                "--mqtt-port",
                "0",
                "--mqtts-port",
                "0",
                "--amqp-port",
                "0",
                "--amqps-port",
                "0",
            ]);
            command.args(["--http-port", "0", "--https-port", "0", "--data-dir"]);
            command.arg(directory.join("hub")).arg("--info-file").arg(&info);
            let _hub = Process::start(&mut command).expect("the hub starts");
            while !info.exists() {
                assert!(
                    begun.elapsed() < Duration::from_secs(10),
                    "the hub does not start"
                );
                std::thread::sleep(Duration::from_micros(200));
            }
            begun.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    Some((times[times.len() / 2], size as f64 / f64::from(1 << 20)))
}

/// The machine, as far as the system tells.
pub(crate) fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    json!({
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "model": model.unwrap_or("unknown"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
    })
}
