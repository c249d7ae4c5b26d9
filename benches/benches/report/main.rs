//! The scale report: what an operation costs the hub, as the fleet grows.
//!
//! Scenario: the hub is the released program in a process of its own, its devices
//! are in another, and this one is the back end, so that the processor time of the
//! hub's process is the hub's alone. At 1,000 and 10,000 devices over TCP: all
//! connect at once, jobs of both kinds, methods and twins over REST, telemetry; in
//! the same run the floor (one write and one read on each of as many connections,
//! in a task each, with as many threads as the hub) and mosquitto, if it is
//! installed. At 1,000, 10,000 and 50,000 devices over memory, hub and devices in
//! one process, because many systems allow a process 20,000 descriptors and fewer:
//! the same operations. Every operation is counted at the devices' end; one that is
//! lost or comes twice ends the report with an error.
//!
//! ```text
//! cargo bench -p benches --bench report                     # report.md and report.svg in target/report
//! cargo bench -p benches --bench report -- --out DIRECTORY
//! cargo bench -p benches --bench report -- --quick          # 100 and 1,000 devices, to see that it works
//! ```

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints its figures, and how far it is"
)]

mod broker;
mod child;
mod fleet;
mod floor;
mod hub;
mod measure;
mod page;

use std::io::IsTerminal as _;
use std::path::PathBuf;

use mimalloc::MiMalloc;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

// The allocator of the hub's own program.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Bytes of a message of the floor: about those of a method and its answer.
const FRAME: usize = 100;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, role, rest @ ..] = arguments.as_slice()
        && flag == "--role"
    {
        match role.as_str() {
            "memory" => hub::run_in_memory(rest),
            "fleet" => fleet::run(rest),
            "floor" => floor::run(),
            other => panic!("no role {other}"),
        }
        return;
    }
    let is_quick = arguments.iter().any(|a| a == "--quick" || a == "--test");
    let out = arguments.iter().position(|a| a == "--out");
    let out = out.and_then(|at| arguments.get(at + 1)).map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/report"),
        PathBuf::from,
    );
    std::fs::create_dir_all(&out).expect("the directory can be made");
    let (sizes, in_memory) = if is_quick {
        (vec![100, 1_000], vec![100, 1_000])
    } else {
        (vec![1_000, 10_000], vec![1_000, 10_000, 50_000])
    };
    let report = measure::all(&sizes, &in_memory, &out);
    let text = page::markdown(&report);
    println!("{text}");
    for (name, content) in [("report.md", text), ("report.svg", page::svg(&report))] {
        let path = out.join(name);
        std::fs::write(&path, content).expect("the directory can be written to");
        println!("written: {}", path.display());
    }
}

/// Tells whoever waits what is measured next.
fn progress(text: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("{text} ...");
    }
}

/// A runtime that leaves the other half of the machine to the other end.
fn half_a_machine() -> Runtime {
    mqtt_wire::raise_descriptor_limit();
    Builder::new_multi_thread()
        .worker_threads(emulator::worker_threads())
        .enable_all()
        .build()
        .expect("a runtime starts")
}

fn device_id(number: usize) -> String {
    format!("dev{number:05}")
}

fn method_job() -> Value {
    json!({"type": "scheduleDeviceMethod", "cloudToDeviceMethod":
        {"methodName": "lockDoor", "payload": {"lockTime": "10m"}, "responseTimeoutInSeconds": 30}})
}

fn desired_job(round: usize) -> Value {
    json!({"type": "scheduleUpdateTwin",
        "updateTwin": {"etag": "*", "properties": {"desired": {"round": round}}}})
}
