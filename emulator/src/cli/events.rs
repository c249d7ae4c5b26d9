//! `iothub-emulator events`: what happens in a running hub, line by line, as it
//! happens.

mod line;
mod stream;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use hyper::Uri;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use self::line::Style;
use self::stream::{Failure, Stream};

/// Pause before the hub is looked for again once it has gone.
const RETRY: Duration = Duration::from_millis(500);

/// Shows what happens in a running hub, as it happens
///
/// Telemetry, changes of twins, devices that come and go, method calls with
/// their outcome, messages to devices: one line each, or JSON lines where the
/// output is no terminal. When the hub stops, waits for it to come back.
///
/// Exit status: 0 when it was ended by Ctrl-C or nobody reads its output any
/// more, 1 when the hub cannot be reached or refuses or its output cannot be
/// written, 2 for wrong arguments.
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Where the hub serves HTTP without TLS
    #[arg(
        long,
        value_name = "URL",
        env = "IOTHUB_EMULATOR_URL",
        default_value = "http://127.0.0.1:8080"
    )]
    url: Uri,
    /// Find the hub by the file that it wrote (its --info-file), whatever the URL
    #[arg(long, value_name = "FILE")]
    info_file: Option<PathBuf>,
    /// Only of this device; with * at the end, of all whose ids begin so. May
    /// be given again
    #[arg(long, value_name = "ID")]
    device: Vec<String>,
    /// Only of this kind: telemetry, twin, lifecycle, connection, job,
    /// digital-twin, method or c2d. May be given again
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    kind: Vec<String>,
    /// Only what took this route. May be given again
    #[arg(long, value_name = "NAME")]
    route: Vec<String>,
    /// Begin behind the event with this id, as far as the hub has it; 0 is
    /// everything that it has
    #[arg(long, value_name = "ID")]
    after: Option<u64>,
    /// How events are written [default: text for a terminal, otherwise json]
    #[arg(long, value_enum)]
    output: Option<Output>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A line for people
    Text,
    /// A JSON object in a line
    Json,
}

/// Shows events until it is ended.
///
/// # Errors
/// In words: the hub cannot be reached, or refuses.
pub(crate) fn run(args: &EventsArgs) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(async {
        tokio::select! {
            done = show(args) => done,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    })
}

async fn show(args: &EventsArgs) -> Result<(), String> {
    let printer = Printer::new(args.output);
    let mut after = args.after;
    let mut has_connected = false;
    loop {
        // Read again each time: a hub on free ports comes back on others.
        let url = match &args.info_file {
            Some(file) => url_of(file),
            None => Ok(args.url.clone()),
        };
        let opened = match url {
            Ok(url) => Stream::open(&url, &args.query(), after).await,
            Err(failure) => Err(failure),
        };
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(Failure::Unreachable(_) | Failure::Busy(_)) if has_connected => {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            Err(failure) => return Err(failure.to_string()),
        };
        if has_connected {
            printer.note("the hub is back");
        }
        has_connected = true;
        let ended = loop {
            match stream.next().await {
                Ok(Some(event)) => {
                    match printer.print(&event) {
                        Ok(()) => {}
                        // Nobody reads any more.
                        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                        Err(error) => return Err(format!("cannot write: {error}")),
                    }
                }
                Ok(None) => break "the hub has stopped".to_owned(),
                Err(failure) => break failure.to_string(),
            }
        };
        after = stream.position().or(after);
        printer.note(&format!("{ended}; waiting for it to come back, Ctrl-C ends"));
        tokio::time::sleep(RETRY).await;
    }
}

impl EventsArgs {
    /// What is wanted, as a query.
    fn query(&self) -> String {
        let wishes = [
            ("device", &self.device),
            ("kind", &self.kind),
            ("route", &self.route),
        ];
        let pairs = wishes.into_iter().flat_map(|(name, values)| {
            values
                .iter()
                .map(move |value| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
        });
        pairs.collect::<Vec<_>>().join("&")
    }
}

/// Where the hub of an info file is.
fn url_of(file: &Path) -> Result<Uri, Failure> {
    let unreadable = |error: String| Failure::Unreachable(format!("cannot read {}: {error}", file.display()));
    let text = std::fs::read(file).map_err(|error| unreadable(error.to_string()))?;
    let info: Value = serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
    let port = info["ports"]["http"]
        .as_u64()
        .ok_or_else(|| unreadable("it names no port for HTTP".into()))?;
    format!("http://127.0.0.1:{port}")
        .parse()
        .map_err(|_| unreadable("its port for HTTP is no port".into()))
}

/// Writes events to standard output.
struct Printer {
    output: Output,
    style: Style,
}

impl Printer {
    fn new(output: Option<Output>) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            output: output.unwrap_or(if is_terminal { Output::Text } else { Output::Json }),
            style: if is_terminal && !no_color {
                Style::Coloured
            } else {
                Style::Plain
            },
        }
    }

    /// # Errors
    /// `BrokenPipe` when nobody reads, others when it cannot be written.
    fn print(&self, event: &stream::Event) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match self.output {
            Output::Json => writeln!(out, "{}", line::json(&event.data))?,
            Output::Text => match serde_json::from_str::<Value>(&event.data) {
                Ok(data) => writeln!(out, "{}", line::of(&data, self.style))?,
                Err(_) => writeln!(out, "{}", line::json(&event.data))?,
            },
        }
        out.flush()
    }

    /// Tells people how things are, beside the events.
    fn note(&self, text: &str) {
        // Nobody is left to tell when standard error is closed.
        let _ = writeln!(io::stderr(), "iothub-emulator: {text}");
    }
}
