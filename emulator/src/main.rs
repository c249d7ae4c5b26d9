//! The hub as a program: `iothub-emulator`.
//!
//! Reads its arguments, starts a hub, tells people and machines where it is,
//! and stops it on Ctrl-C or SIGTERM. What a hub is stands in the library.

// A program's output is its product.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod cli {
    pub(crate) mod args;
    pub(crate) mod events;
    pub(crate) mod info;
    pub(crate) mod ports;
    pub(crate) mod trust;
}

use std::io::IsTerminal as _;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser as _;
use emulator::{Hub, HubBuilder};
use mimalloc::MiMalloc;
use tokio::runtime::Builder;

use crate::cli::args::{Args, Command};
use crate::cli::info::{Info, WantedPorts, write_info};
use crate::cli::{events, ports, trust};

// A hub allocates and frees small things on several threads, which the system's
// allocators are slow at; ARCHITECTURE.md has the figures.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let started = Instant::now();
    let args = Args::parse();
    let done = match &args.command {
        Some(Command::Trust(trust)) => Some(trust::run(trust, &args.data_dir())),
        Some(Command::Ports(ports)) => Some(ports::run(ports)),
        Some(Command::Events(events)) => Some(events::run(events)),
        None => None,
    };
    match done {
        Some(Ok(())) => return ExitCode::SUCCESS,
        Some(Err(message)) => return fail(&message),
        None => {}
    }
    tracing_subscriber::fmt()
        // The event tap tells by itself what becomes of its broker.
        .with_env_filter(format!("rumqttd=off,{}", args.log))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    mqtt_wire::raise_descriptor_limit();
    let runtime = match Builder::new_multi_thread()
        .worker_threads(
            args.threads
                .map_or_else(emulator::worker_threads, NonZeroUsize::get),
        )
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}")),
    };
    match runtime.block_on(run(args, started)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => fail(&message),
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("iothub-emulator: {message}");
    ExitCode::FAILURE
}

async fn run(args: Args, started: Instant) -> Result<(), String> {
    let data_dir = args.data_dir();
    let mut builder: HubBuilder = Hub::builder()
        .host_name(args.host_name.clone())
        .access_key(args.access_key.clone())
        .address(args.address)
        .ports(args.ports())
        .strictness(args.strictness())
        .connack_delay(args.connack_delay)
        .query_lag(args.query_lag)
        .query_dialect(args.query_dialect())
        .jobs(args.jobs())
        .cloud_to_device(args.cloud_to_device())
        .events(args.events()?)
        .data_dir(&data_dir)
        .blob_dir(args.blob_dir());
    if let Some(routing) = args.routing()? {
        builder = builder.routing(routing);
    }
    if let Some(cap) = args.methods_in_flight {
        builder = builder.methods_in_flight(cap.get());
    }
    for file in &args.device_ca {
        let pem = std::fs::read(file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
        builder = builder
            .device_ca(pem)
            .map_err(|e| format!("--device-ca {}: {e}", file.display()))?;
    }
    if let Some(seconds) = args.configuration_interval {
        builder = builder.configuration_interval(Duration::from_secs(seconds.get().into()));
    }
    if let Some(tier) = args.tier()? {
        builder = builder.tier(tier);
    }
    builder = args.with_event_tap(builder)?;
    let hub = builder.start().await.map_err(|error| args.explain(&error))?;
    if let Some(file) = &args.init_file {
        let text =
            std::fs::read_to_string(file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
        let imported = hub
            .import(&text)
            .map_err(|e| format!("{}: {e}", file.display()))?;
        println!(
            "{}: {} identities created, {} existed",
            file.display(),
            imported.created,
            imported.existing
        );
    }
    let mut devices = Vec::new();
    for id in &args.device {
        devices.push(hub.create_device(id).map_err(|e| format!("--device {id}: {e}"))?);
    }
    let info = Info::of(&hub, &data_dir);
    if let Some(file) = &args.info_file {
        write_info(file, &info).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    }
    print!(
        "{}",
        info.for_people(
            &devices,
            WantedPorts {
                https: args.https_port,
                amqps: args.amqps_port
            },
            started.elapsed()
        )
    );
    stop_signal()
        .await
        .map_err(|e| format!("cannot wait for signals: {e}"))?;
    println!("\nstopping");
    hub.shutdown().await;
    Ok(())
}

/// Waits for Ctrl-C or, on Unix, SIGTERM.
async fn stop_signal() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            done = tokio::signal::ctrl_c() => done,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}
