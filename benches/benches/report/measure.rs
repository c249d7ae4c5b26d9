//! The figures: what is run, and what it cost.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use benches::rest::{LoadConnection, RestConnection};
use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::broker::{self, Broker, call_all};
use super::child::{Meter, Role};
use super::fleet::seconds;
use super::hub::{Program, RunningHub, service};
use super::{desired_job, device_id, half_a_machine, method_job, progress};

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

/// What was found at one size.
#[derive(Debug, Default)]
pub(crate) struct Column {
    pub(crate) devices: usize,
    pub(crate) costs: Vec<(&'static str, Cost)>,
    /// The longest time in which no device got through while all connected at
    /// once, in seconds.
    pub(crate) stall: f64,
    /// Memory of the hub's process: KiB for each idle device, and MiB in all with
    /// every device connected.
    pub(crate) idle_kib: f64,
    pub(crate) connected_mib: f64,
}

impl Column {
    pub(crate) fn cost(&self, name: &str) -> Option<Cost> {
        self.costs
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, cost)| *cost)
    }
}

/// Everything.
#[derive(Debug)]
pub(crate) struct Report {
    /// Over TCP, with the hub in a process of its own.
    pub(crate) over_tcp: Vec<Column>,
    /// Over memory, hub and devices in one process, whose processor time and
    /// memory are those of both ends.
    pub(crate) in_memory: Vec<Column>,
    /// Connecting over TLS, and idle devices.
    pub(crate) tls: Column,
    /// Seconds until a hub without devices is ready.
    pub(crate) start: f64,
    /// The size of the hub's program in MiB, stripped.
    pub(crate) program_mib: Option<f64>,
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
    mqtt_wire::raise_descriptor_limit();
    let runtime = half_a_machine();
    let program = Program::build();
    let broker = broker::installed();
    let over_tcp = sizes.iter().map(|&devices| {
        progress(&format!("{devices} devices over TCP"));
        let mut column = over_tcp(&runtime, &program, devices, directory);
        // Right behind the hub, so that the machine is as busy as it was.
        column.costs.push((FLOOR, floor(devices)));
        if let Some(broker) = &broker {
            let costs = mosquitto(&runtime, broker, devices, directory);
            column.costs.extend(costs);
        }
        column
    });
    let over_tcp: Vec<Column> = over_tcp.collect();
    let in_memory = in_memory.iter().map(|&devices| {
        progress(&format!("{devices} devices over memory"));
        over_memory(&runtime, devices)
    });
    let tls_devices = sizes.iter().copied().max().unwrap_or(0).min(TLS_DEVICES);
    Report {
        over_tcp,
        in_memory: in_memory.collect(),
        tls: tls(&program, tls_devices, directory),
        start: start(&program, directory),
        program_mib: program.stripped_mib(directory),
        has_broker: broker.is_some(),
    }
}

/// Runs rounds of something that does `count` operations and says how long each
/// took; gives the median, with the processor time that a process spent.
fn rounds(meter: Meter, count: usize, mut round: impl FnMut(usize) -> f64) -> Cost {
    let costs: Vec<(f64, f64)> = (0..ROUNDS)
        .map(|number| {
            let before = meter.cpu();
            let seconds = round(number);
            (seconds, meter.cpu() - before)
        })
        .collect();
    median(&costs, count)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name]
        .as_str()
        .unwrap_or_else(|| panic!("{value} lacks {name}"))
}

/// Starts the program and connects a fleet; `hub` or `hub-tls` is how.
fn connected(kind: &str, program: &Program, devices: usize, directory: &Path) -> (RunningHub, Role, Column) {
    let hub = program.start(devices, directory);
    let meter = hub.process.meter();
    let ports = &hub.info["ports"];
    let address = match kind {
        "hub-tls" => format!("localhost:{}", ports["mqtts"]),
        _ => format!("127.0.0.1:{}", ports["mqtt"]),
    };
    let (cpu, memory) = (meter.cpu(), meter.resident());
    let ca_file = text(&hub.info, "caFile");
    let (fleet, connected) = Role::start(&["fleet", kind, &address, ca_file, &devices.to_string()]);
    let column = column(
        devices,
        &connected,
        meter.cpu() - cpu,
        meter.resident() - memory,
        meter,
    );
    (hub, fleet, column)
}

/// What connecting has shown.
fn column(devices: usize, connected: &Value, cpu: f64, grown_kib: f64, meter: Meter) -> Column {
    let took = seconds(connected);
    let connect = Cost {
        seconds: took,
        rate: devices as f64 / took,
        cpu: cpu * 1e6 / devices as f64,
    };
    Column {
        devices,
        costs: vec![(CONNECT, connect)],
        stall: connected["stall"].as_f64().expect("a fleet says it"),
        idle_kib: grown_kib / devices as f64,
        connected_mib: meter.resident() / 1024.0,
    }
}

fn over_tcp(runtime: &Runtime, program: &Program, devices: usize, directory: &Path) -> Column {
    let (hub, mut fleet, mut column) = connected("hub", program, devices, directory);
    let http = format!("127.0.0.1:{}", hub.info["ports"]["http"]);
    let costs = operations(runtime, hub.process.meter(), &mut fleet, &http, devices);
    column.costs.extend(costs);
    column
}

fn over_memory(runtime: &Runtime, devices: usize) -> Column {
    let (mut both, ready) = Role::start(&["memory", &devices.to_string()]);
    let meter = both.process.meter();
    // What the process spent before belongs to both ends and to registering.
    let mut column = column(devices, &ready["connected"], f64::NAN, meter.resident(), meter);
    column.costs.clear();
    let costs = operations(runtime, meter, &mut both, text(&ready, "http"), devices);
    column.costs.extend(costs);
    column
}

/// Every operation on a connected fleet.
fn operations(
    runtime: &Runtime,
    meter: Meter,
    fleet: &mut Role,
    http: &str,
    devices: usize,
) -> Vec<(&'static str, Cost)> {
    let service = service("localhost");
    let mut rest = runtime.block_on(RestConnection::to(http, &service));
    let mut costs = Vec::new();
    let mut methods = 0;
    costs.push((
        METHOD_JOB,
        rounds(meter, devices, |round| {
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
        rounds(meter, devices, |round| {
            let begun = Instant::now();
            runtime.block_on(rest.run_job(&format!("t{round}"), &desired_job(round), devices));
            desired += devices;
            fleet.ask(&format!("desired {desired}"));
            begun.elapsed().as_secs_f64()
        }),
    ));

    let mut connections: Vec<LoadConnection> = runtime.block_on(async {
        let mut open = Vec::new();
        for _ in 0..CONNECTIONS {
            open.push(LoadConnection::open(http, &service).await);
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
        rounds(meter, REQUESTS, |_| {
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
        rounds(meter, REQUESTS, |_| read.many(runtime, &mut connections)),
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
        rounds(meter, REQUESTS, |_| patch.many(runtime, &mut connections)),
    ));
    for (name, in_flight) in [(INGEST_1, 1), (INGEST_20, 20)] {
        costs.push((name, ingest(meter, fleet, devices, in_flight)));
    }
    costs
}

fn ingest(meter: Meter, fleet: &mut Role, devices: usize, in_flight: usize) -> Cost {
    // At least one round of a device.
    let each = (MESSAGES / devices).next_multiple_of(in_flight);
    rounds(meter, each * devices, |_| {
        seconds(&fleet.ask(&format!("ingest {each} {in_flight}")))
    })
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
    fn many(&self, runtime: &Runtime, connections: &mut Vec<LoadConnection>) -> f64 {
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
                        connection.call(&method, &path, &body).await;
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
    let (mut fleet, _) = Role::start(&["fleet", "floor", &address, "-", &devices.to_string()]);
    let meter = floor.process.meter();
    let mut echoes = 0;
    let costs: Vec<(f64, f64)> = (0..ROUNDS)
        .map(|_| {
            let before = meter.cpu();
            let took = seconds(&floor.ask(&format!("go {devices}")));
            echoes += devices;
            fleet.ask(&format!("methods {echoes}"));
            (took, meter.cpu() - before)
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
    let (mut fleet, _) = Role::start(&["fleet", "broker", &broker.address, "-", &devices.to_string()]);
    let mut service = runtime.block_on(broker.service());
    let meter = broker.process.meter();
    let mut answered = 0;
    let call = rounds(meter, devices, |_| {
        let begun = Instant::now();
        runtime.block_on(call_all(&mut service, devices));
        let took = begun.elapsed().as_secs_f64();
        answered += devices;
        fleet.ask(&format!("methods {answered}"));
        took
    });
    vec![
        (BROKER_CALL, call),
        (BROKER_INGEST_1, ingest(meter, &mut fleet, devices, 1)),
        (BROKER_INGEST_20, ingest(meter, &mut fleet, devices, 20)),
    ]
}

/// The median of several fleets, each on a hub that was just started.
fn tls(program: &Program, devices: usize, directory: &Path) -> Column {
    let mut columns: Vec<Column> = (0..ROUNDS)
        .map(|_| connected("hub-tls", program, devices, directory).2)
        .collect();
    columns.sort_by(|a, b| a.costs[0].1.cpu.total_cmp(&b.costs[0].1.cpu));
    columns.swap_remove(ROUNDS / 2)
}

/// The median of the seconds that the program takes to be ready.
fn start(program: &Program, directory: &Path) -> f64 {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            drop(program.start(0, directory));
            begun.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
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
