//! The command line tool: one device that tells what happens to it, or a fleet.

mod args;
mod console;
mod setup;

use std::future::{Future, pending};
use std::io::{BufRead as _, IsTerminal as _};
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use device_sim::fleet::NotConnected;
use device_sim::registration::{Registered, register};
use device_sim::{Fleet, FleetBuilder, plot};
use mimalloc::MiMalloc;
use serde_json::{Value, json};
use tokio::runtime;
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

use self::args::{Args, RunArgs};
use self::setup::{Kind, Plan, Registration};

/// Commands of a parent process that may wait to be carried out.
const COMMANDS: usize = 16;

// Thousands of devices allocate and free small things all the time.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn")))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    mqtt_wire::raise_descriptor_limit();
    match block_on(args.run.threads.get(), run(&args)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            if args.run.control_stdio {
                console::event("error", json!({ "message": format!("{error:#}") }));
            }
            console::note(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn block_on(threads: usize, task: impl Future<Output = Result<bool>>) -> Result<bool> {
    let mut builder = match threads {
        1 => runtime::Builder::new_current_thread(),
        _ => runtime::Builder::new_multi_thread(),
    };
    let runtime = builder
        .worker_threads(threads)
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(task)
}

/// Returns whether all devices were connected.
async fn run(args: &Args) -> Result<bool> {
    let end = signals()?;
    tokio::pin!(end);
    let Plan {
        builder,
        kind,
        destination,
    } = setup::plan(args)?;
    let fleet = tokio::select! {
        fleet = start(args, builder, kind) => fleet?,
        // Nothing has been connected yet.
        () = &mut end => return Ok(false),
    };
    if !args.run.control_stdio {
        console::note(&format!(
            "connecting {} devices to {destination}; Ctrl-C ends",
            fleet.expected()
        ));
    }
    let all_connected = serve(&fleet, &args.run, end).await;
    let report = fleet.stop().await;
    if args.run.control_stdio {
        console::event("stopped", json!({ "report": report }));
    } else {
        console::report(&report, args.run.output);
    }
    if let Some(path) = &args.run.plot {
        let title = format!("Latencies of {} devices", report.devices.total);
        let curves = report.latency.measured();
        plot::write(
            path,
            &title,
            curves.map(|(name, latency)| (name, &latency.cumulative)),
        )?;
    }
    Ok(all_connected)
}

/// Lets the fleet run until the time is up, somebody ends it or the parent
/// stops it; returns whether all devices were connected.
async fn serve(fleet: &Fleet, args: &RunArgs, mut end: Pin<&mut impl Future<Output = ()>>) -> bool {
    let mut commands = args.control_stdio.then(commands);
    // One device tells it all in words.
    let show_bar = fleet.expected() > 1 && !args.verbose && !args.control_stdio;

    let ready = async {
        tokio::select! {
            ready = fleet.wait_connected(args.ready_timeout) => ready,
            () = console::show_connecting(fleet), if show_bar => pending().await,
        }
    };
    tokio::pin!(ready);
    let mut connected = None;
    let time_is_up = tokio::time::sleep(Duration::MAX);
    tokio::pin!(time_is_up);
    loop {
        tokio::select! {
            result = &mut ready, if connected.is_none() => {
                connected = Some(result.is_ok());
                tell_readiness(fleet, result, args);
                if let Some(duration) = args.duration {
                    time_is_up.as_mut().reset(tokio::time::Instant::now() + duration);
                }
            }
            command = next_command(&mut commands) => match command.as_deref().map(str::trim) {
                None | Some("stop") => break,
                Some("report") => console::event("report", json!({ "report": fleet.report() })),
                Some("") => {}
                Some(other) => {
                    let message = format!("unknown command {other:?}; there are report and stop");
                    console::event("error", json!({ "message": message }));
                }
            },
            () = &mut time_is_up => break,
            () = end.as_mut() => break,
        }
    }
    connected == Some(true)
}

async fn start(args: &Args, builder: FleetBuilder, kind: Kind) -> Result<Fleet> {
    let single = match kind {
        Kind::Single => true,
        Kind::Fleet { registration } => {
            if let Some(registration) = registration {
                announce(&register_all(&registration).await?, args.run.control_stdio);
            }
            false
        }
    };
    let builder = if (single || args.run.verbose) && !args.run.control_stdio {
        builder.observer(|target, event| {
            if let Some(told) = console::tell(target, event) {
                console::line(&told);
            }
        })
    } else {
        builder
    };
    Ok(builder.start()?)
}

async fn register_all(registration: &Registration) -> Result<Registered> {
    let Registration {
        client,
        credentials,
        targets,
        tags,
    } = registration;
    let bar = console::progress("registering", targets.len());
    let progress = |done: usize| bar.set_position(done as u64);
    Ok(register(client, credentials, targets, tags, progress).await?)
}

fn announce(registered: &Registered, for_programs: bool) {
    let Registered { created, existing } = registered;
    if for_programs {
        console::event("registered", json!({ "created": created, "existing": existing }));
    } else {
        console::note(&format!(
            "registered {created} devices, {existing} were there before"
        ));
    }
}

fn tell_readiness(fleet: &Fleet, ready: Result<(), NotConnected>, args: &RunArgs) {
    let seconds = fleet.report().elapsed_seconds;
    match ready {
        Ok(()) if args.control_stdio => {
            let number = fleet.expected();
            let members = json!({ "connected": number, "expected": number, "seconds": seconds });
            console::event("connected", members);
        }
        Ok(()) => console::note(&format!(
            "all {} devices are connected after {seconds:.1} s",
            fleet.expected()
        )),
        Err(failed) if args.control_stdio => {
            let failures: Value = failed.failures.iter().cloned().collect();
            let members = json!({
                "connected": failed.connected,
                "expected": failed.expected,
                "seconds": seconds,
                "failures": failures,
            });
            console::event("notConnected", members);
        }
        Err(failed) => {
            let text = failed.to_string();
            console::note(&format!("{text}{}; still trying", console::hint(&text)));
        }
    }
}

/// Completes when the user or the system asks the process to end.
fn signals() -> Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .context("cannot listen for signals")?;
    Ok(async move {
        #[cfg(unix)]
        let terminated = terminate.recv();
        #[cfg(not(unix))]
        let terminated = pending::<Option<()>>();
        // Where Ctrl-C cannot be heard, the system ends the process.
        let interrupted = async {
            if tokio::signal::ctrl_c().await.is_err() {
                pending::<()>().await;
            }
        };
        tokio::select! {
            () = interrupted => {}
            _ = terminated => {}
        }
    })
}

/// Reads the parent's commands, line by line, on a thread of its own: a read
/// from standard input cannot be called off, and must not delay the end.
fn commands() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(COMMANDS);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The next command; `None` after the last. Waits forever where there is no
/// parent to give any.
async fn next_command(commands: &mut Option<mpsc::Receiver<String>>) -> Option<String> {
    match commands {
        Some(commands) => commands.recv().await,
        None => pending().await,
    }
}
