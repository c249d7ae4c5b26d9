//! How queries, jobs and memory grow with the number of devices.
//!
//! Scenario: for each size a process of its own, so that memory and processor
//! time are its own, starts a hub and
//!
//! * registers the devices, each with four tags and a nested desired property,
//!   and asks the service API for pages of 100: by a scan that finds nothing or
//!   the last 100 twins, by an index on a tag, by ids (`queries`);
//! * connects the devices in memory and runs twin and method jobs over all of
//!   them, counted at the devices' end (`jobs`, up to 100,000 devices);
//! * leaves 1,000 jobs waiting for tomorrow, and nothing else to do (`waiting`).
//!
//! It prints tables and keeps nothing: criterion's statistics would have to run
//! a job over 100,000 devices many times over.
//!
//! ```text
//! cargo bench -p benches --bench scale                      # 1,000 to 100,000
//! cargo bench -p benches --bench scale -- 1000 1000000      # sizes of one's own
//! ```

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use benches::rest::RestConnection;
use benches::site::Site;
use benches::{runtime, wait_until};
use bytes::Bytes;
use device_sim::process::Usage;
use emulator::Hub;
use hyper::Method;
use serde_json::{Map, Value, json};

/// Devices that share a value of the tag `site`, so rows that a query by it finds.
const HITS: usize = 100;

/// Devices in one import.
const CHUNK: usize = 10_000;

/// More than this are not connected: two ends of each connection live here.
const MOST_CONNECTED: usize = 100_000;

/// What a child measures.
const PARTS: [&str; 3] = ["queries", "jobs", "waiting"];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, part, devices] = arguments.as_slice()
        && flag == "--child"
    {
        let devices = devices.parse().expect("a number of devices");
        let figures = runtime().block_on(measure(part, devices));
        println!("{figures}");
        return;
    }
    let mut sizes: Vec<usize> = arguments.iter().filter_map(|size| size.parse().ok()).collect();
    if arguments.iter().any(|flag| flag == "--test") {
        sizes = vec![1_000];
    } else if sizes.is_empty() {
        sizes = vec![1_000, 10_000, 100_000];
    }
    assert!(
        sizes.iter().all(|devices| *devices >= 10 * HITS),
        "at least {} devices, or nothing is large enough to be measured",
        10 * HITS
    );
    for part in PARTS {
        let columns: Vec<(usize, Map<String, Value>)> = sizes
            .iter()
            .filter(|devices| part != "jobs" || **devices <= MOST_CONNECTED)
            .map(|devices| (*devices, child(part, *devices)))
            .collect();
        print_table(part, &columns);
    }
}

/// Runs one part in a process of its own and gives its figures.
fn child(part: &str, devices: usize) -> Map<String, Value> {
    let program = std::env::current_exe().expect("this program has a path");
    let output = Command::new(program)
        .args(["--child", part, &devices.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .expect("this program starts");
    assert!(output.status.success(), "{part} of {devices} devices failed");
    serde_json::from_slice(&output.stdout).expect("a child prints its figures")
}

/// Sizes side by side, a line per figure.
fn print_table(part: &str, columns: &[(usize, Map<String, Value>)]) {
    let Some((_, first)) = columns.first() else {
        return;
    };
    let heads: String = columns
        .iter()
        .map(|(devices, _)| format!("{devices:>12}"))
        .collect();
    println!("\n{part:<44}{heads}");
    for name in first.keys() {
        let cells: String = columns
            .iter()
            .map(|(_, figures)| match figures.get(name).and_then(Value::as_f64) {
                Some(figure) if figure < 10.0 => format!("{figure:>12.3}"),
                Some(figure) => format!("{figure:>12.1}"),
                None => format!("{:>12}", "-"),
            })
            .collect();
        println!("{name:<44}{cells}");
    }
}

async fn measure(part: &str, devices: usize) -> Value {
    match part {
        "queries" => queries(devices).await,
        "jobs" => jobs(devices).await,
        "waiting" => waiting(devices).await,
        other => panic!("no part {other}"),
    }
}

fn usage() -> Usage {
    Usage::current().expect("a system with /proc")
}

fn cpu_seconds() -> f64 {
    let usage = usage();
    usage.user_seconds + usage.system_seconds
}

fn id(device: usize) -> String {
    format!("dev{device:07}")
}

/// Registers `devices` devices with twins, and gives the hub.
async fn registered(devices: usize) -> Hub {
    let hub = Hub::builder().start().await.expect("the hub starts");
    for start in (0..devices).step_by(CHUNK) {
        let lines: Vec<String> = (start..devices.min(start + CHUNK))
            .map(|i| {
                let region = ["EU", "US", "AP"][i % 3];
                json!({
                    "deviceId": id(i),
                    "tags": {"site": i / HITS, "floor": i % 7, "region": region, "fleet": "bench"},
                    "properties": {"desired": {"telemetry": {"interval": 30, "unit": "s"}}},
                })
                .to_string()
            })
            .collect();
        let imported = hub.import(&lines.join("\n")).expect("legal devices");
        assert_eq!(imported.created, lines.len());
    }
    hub
}

async fn queries(devices: usize) -> Value {
    let before = usage();
    let begin = (Instant::now(), cpu_seconds());
    let hub = registered(devices).await;
    let each = |seconds: f64| seconds * 1e6 / devices as f64;
    let mut figures = Map::new();
    let mut note = |name: &str, figure: f64| {
        figures.insert(name.into(), figure.into());
    };
    note("registered, us CPU a device", each(cpu_seconds() - begin.1));
    let bytes = usage().peak_rss_bytes - before.peak_rss_bytes;
    note("memory, bytes a device", bytes as f64 / devices as f64);
    note(
        "memory, MiB of the process",
        usage().peak_rss_bytes as f64 / 1_048_576.0,
    );

    let mut rest = RestConnection::open(&hub).await;
    let last = devices / HITS - 1;
    let mut ask = async |condition: String, select: &str, rows: usize, times: usize| {
        let text = format!("SELECT {select} FROM devices WHERE {condition}");
        let body = Bytes::from(json!({ "query": text }).to_string());
        let mut took = Vec::new();
        for _ in 0..times {
            let start = Instant::now();
            let reply = rest.call(Method::POST, "/devices/query", body.clone()).await;
            took.push(start.elapsed().as_secs_f64() * 1e3);
            assert_eq!(reply.json().as_array().map(Vec::len), Some(rows), "{text}");
        }
        took.sort_by(f64::total_cmp);
        (took[took.len() / 2], took[took.len() - 1])
    };
    let times = (2_000_000 / devices).clamp(5, 50);
    let (median, _) = ask("tags.site < 0".into(), "*", 0, times).await;
    note("scan that finds nothing, ms", median);
    let (median, _) = ask(format!("tags.site >= {last}"), "*", HITS, times).await;
    note("scan that finds 100 whole twins, ms", median);
    let (median, _) = ask("tags.floor >= 2".into(), "COUNT() AS n", 1, times).await;
    note("count by a scan, ms", median);
    // The third question over 1,000 devices and more builds the index.
    let (_, slowest) = ask(format!("tags.site = {last}"), "*", HITS, 3).await;
    note("the question that builds an index, ms", slowest);
    let (median, _) = ask(format!("tags.site = {last}"), "*", HITS, 200).await;
    note("index, 100 whole twins, ms", median);
    let (median, _) = ask(format!("tags.site = {last}"), "deviceId", HITS, 200).await;
    note("index, 100 ids, ms", median);
    let (median, _) = ask(format!("tags.site = {}", devices), "*", 0, 200).await;
    note("index, nothing found, ms", median);
    let ids: Vec<String> = (0..HITS)
        .map(|i| format!("'{}'", id(i * (devices / HITS))))
        .collect();
    let (median, _) = ask(format!("deviceId IN [{}]", ids.join(",")), "deviceId", HITS, 200).await;
    note("by 100 ids, ms", median);
    note(
        "memory with an index, MiB",
        usage().peak_rss_bytes as f64 / 1_048_576.0,
    );
    hub.shutdown().await;
    Value::Object(figures)
}

async fn jobs(devices: usize) -> Value {
    let site = Site::start(devices).await;
    let fleet = site.connect_fleet().await;
    let mut rest = RestConnection::open(&site.hub).await;
    let rounds = (100_000 / devices).clamp(3, 50);
    let mut figures = Map::new();
    for kind in ["twin", "method"] {
        let (start, cpu) = (Instant::now(), cpu_seconds());
        for round in 0..rounds {
            let counts = fleet.counts();
            let desired = json!({"building": "43", "run": round});
            let action = if kind == "twin" {
                json!({"type": "scheduleUpdateTwin", "updateTwin": {"etag": "*", "properties": {"desired": desired}}})
            } else {
                json!({"type": "scheduleDeviceMethod",
                       "cloudToDeviceMethod": {"methodName": "lockDoor", "payload": {"lockTime": "10m"}}})
            };
            rest.run_job(&format!("{kind}{round}"), &action, devices).await;
            let all = devices as u64;
            wait_until("every device has taken part", || {
                let now = fleet.counts();
                match kind {
                    "twin" => now.desired_changes == counts.desired_changes + all,
                    _ => now.methods_answered == counts.methods_answered + all,
                }
            })
            .await;
        }
        let operations = (rounds * devices) as f64;
        let wall = start.elapsed().as_secs_f64();
        figures.insert(format!("{kind} job, s"), (wall / rounds as f64).into());
        figures.insert(
            format!("{kind} job, us wall a device"),
            (wall * 1e6 / operations).into(),
        );
        let cpu = (cpu_seconds() - cpu) * 1e6 / operations;
        figures.insert(format!("{kind} job, us CPU a device, both ends"), cpu.into());
    }
    figures.insert(
        "memory, MiB, both ends".into(),
        (usage().peak_rss_bytes as f64 / 1_048_576.0).into(),
    );
    tokio::time::timeout(benches::DEADLINE, fleet.stop())
        .await
        .expect("the fleet stops");
    Value::Object(figures)
}

async fn waiting(devices: usize) -> Value {
    const JOBS: usize = 1_000;
    const IDLE: Duration = Duration::from_secs(10);
    let hub = registered(devices).await;
    let mut rest = RestConnection::open(&hub).await;
    let idle = async || {
        let cpu = cpu_seconds();
        tokio::time::sleep(IDLE).await;
        (cpu_seconds() - cpu) * 1e3 / IDLE.as_secs_f64()
    };
    let without = idle().await;
    let start = Instant::now();
    for job in 0..JOBS {
        let body = json!({
            "type": "scheduleUpdateTwin",
            "updateTwin": {"etag": "*", "tags": {"seen": true}},
            "queryCondition": "*",
            "startTime": hub.now().saturating_add(Duration::from_secs(86_400)).to_string(),
        });
        let path = format!("/jobs/v2/waiting{job}");
        let reply = rest.call(Method::PUT, &path, Bytes::from(body.to_string())).await;
        let _ = reply.json();
    }
    let created = start.elapsed().as_secs_f64() * 1e6 / JOBS as f64;
    let with = idle().await;
    hub.shutdown().await;
    json!({
        "create a job, us": created,
        "idle without jobs, ms CPU a second": without,
        "idle with 1,000 waiting jobs, ms CPU a second": with,
    })
}
