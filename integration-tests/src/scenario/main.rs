//! The whole story in one command: a hub, a fleet of devices, and the two jobs
//! of the tutorial over all of them.
//!
//! The hub runs in this process and serves real REST and MQTT. Over TCP the
//! fleet runs in a child process, because a process may not have descriptors
//! for both ends of ten thousand connections; over memory it runs in this one.
//! A twin job sets `{"building":43,"floor":3}` after one delay, a method job
//! calls `lockDoor` after two; both are scheduled through `/jobs/v2` on a
//! condition over tags. The run fails unless every device really received both.

// A program's output is its product.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod back_end;
mod child;
mod figures;
mod fleet;
mod progress;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser as _;
use device_sim::plot;
use emulator::{Hub, Listen, Ports};
use mimalloc::MiMalloc;
use tokio::runtime::Builder;

use self::args::{Args, Command, RunArgs, Transport};
use self::back_end::BackEnd;
use self::figures::Figures;
use self::fleet::{Fleet, ProcessUsage};
use self::progress::Progress;

/// Anything that keeps the scenario from its end, in words.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

// The allocator of the hub's own program.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    mqtt_wire::raise_descriptor_limit();
    let runtime = Builder::new_multi_thread()
        .worker_threads(emulator::worker_threads())
        .enable_all()
        .build();
    let done = runtime.map_err(Failure::from).and_then(|runtime| {
        runtime.block_on(async {
            match args.command {
                Some(Command::Fleet(fleet)) => child::run(fleet).await.map(|()| ExitCode::SUCCESS),
                None => run(&args.run).await,
            }
        })
    });
    done.unwrap_or_else(|failure| {
        eprint!("scenario: {failure}");
        let mut cause = failure.source();
        while let Some(error) = cause {
            eprint!(": {error}");
            cause = error.source();
        }
        eprintln!();
        ExitCode::FAILURE
    })
}

async fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    let progress = Progress::new(args.json);
    let ports = Ports {
        mqtt: Listen::On(0),
        mqtts: Listen::Off,
        amqp: Listen::Off,
        amqps: Listen::Off,
        http: Listen::On(0),
        https: Listen::Off,
    };
    let started = Instant::now();
    let hub = Hub::builder().ports(ports).start().await?;
    let hub_start = started.elapsed();

    let back_end = BackEnd::new(&hub)?;
    let bar = progress.bar("registering", args.devices);
    let targets = back_end
        .register(args, |done| bar.set_position(done as u64))
        .await?;
    bar.finish_and_clear();

    let bar = progress.bar("connecting", args.devices);
    let watch_connects = progress.follow(bar, || hub.connected_count());
    let mut fleet = match args.transport {
        Transport::Tcp => Fleet::in_child(&hub, args).await?,
        Transport::Memory => Fleet::in_process(&hub, args, targets)?,
    };
    let connected = watch_connects.during(fleet.wait_connected()).await?;

    // As in the tutorial: first the properties, then the doors.
    let delay = Duration::from_secs_f64(args.delay);
    let start = hub.now().saturating_add(delay);
    let twin = back_end.schedule_twin_job(start).await?;
    let method = back_end.schedule_method_job(start.saturating_add(delay)).await?;
    let twin_done = back_end.follow(&twin, &progress, args.devices).await?;
    let method_done = back_end.follow(&method, &progress, args.devices).await?;
    // Before the records of both jobs are read into this process.
    let hub_usage = ProcessUsage::current();

    let seen = fleet.verify().await?;
    let fleet_usage = fleet.stop().await?;
    let twin = back_end.figures(&twin, &twin_done).await?;
    let method = back_end.figures(&method, &method_done).await?;
    let hub_counters = hub.counters();
    hub.shutdown().await;

    let figures = Figures {
        devices: args.devices,
        transport: args.transport,
        hub_start,
        connected,
        jobs: vec![twin, method],
        seen,
        hub_counters,
        hub_usage,
        fleet_usage,
    };
    if args.json {
        println!("{}", figures.to_json());
    } else {
        print!("{figures}");
    }
    let shortfalls = figures.shortfalls();
    for shortfall in &shortfalls {
        eprintln!("scenario: {shortfall}");
    }
    if let Some(path) = &args.plot {
        plot::write(
            path,
            &format!("Latencies of {}", figures.title()),
            figures.latencies(),
        )?;
    }
    Ok(if shortfalls.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
