//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;

/// Runs the tutorial "schedule and broadcast jobs" at scale, without Azure: a
/// hub, a fleet of devices, a job that changes desired properties and a job
/// that calls a direct method.
///
/// Exit status 0 means that every device really received both.
#[derive(Debug, Parser)]
#[command(name = "scenario", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// Number of devices
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) devices: u32,
    /// How the devices connect: over TCP from a process of their own, or in
    /// memory within this process
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    pub(crate) transport: Transport,
    /// The twin job starts after one such delay, the method job after two; in
    /// seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = delay)]
    pub(crate) delay: f64,
    /// Print one JSON object of the figures instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Draw the distributions of the latencies into this SVG file
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    /// Real sockets; the fleet is a child process.
    Tcp,
    /// In-memory streams; everything is one process.
    Memory,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The fleet of a scenario over TCP; started by the scenario itself.
    #[command(hide = true)]
    Fleet(FleetArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct FleetArgs {
    #[arg(long)]
    pub(crate) mqtt: SocketAddr,
    #[arg(long)]
    pub(crate) connection_string: String,
    #[arg(long)]
    pub(crate) devices: u32,
}

fn delay(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0 to 86400".into()),
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
