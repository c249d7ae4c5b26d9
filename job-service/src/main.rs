//! `job-service`: schedules an action over a fleet of devices, follows it and
//! reports what became of each device.
//!
//! A thin shell: arguments in, calls of the library, text out.

mod cli;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

/// Usage and connection errors; the same status that argument errors end with.
const TROUBLE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    match cli::run(cli::Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            report(&*error);
            ExitCode::from(TROUBLE)
        }
    }
}

/// Writes the error and what caused it, one a line.
fn report(error: &dyn Error) {
    let mut text = format!("error: {error}\n");
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!("  because: {error}\n"));
        source = error.source();
    }
    // Nobody is left to tell when standard error is closed.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
