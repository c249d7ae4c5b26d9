//! What people and programs get to see.

use std::io::{self, Write as _};
use std::time::Duration;

use device_sim::{Event, Fleet, Report};
use hub_core::ids::Target;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::args::Output;

/// How often the progress bar moves.
const REFRESH: Duration = Duration::from_millis(100);

/// Writes a line to standard output. A reader that has gone away is no reason
/// to disconnect devices.
pub(crate) fn line(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Writes a line to standard error.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes one event for a program.
pub(crate) fn event(name: &str, mut members: Value) {
    members["event"] = json!(name);
    line(&members.to_string());
}

/// Writes the report at the end.
pub(crate) fn report(report: &Report, output: Output) {
    match output {
        Output::Table => line(report.to_string().trim_end()),
        Output::Json => line(&json!(report).to_string()),
    }
}

/// A bar that is drawn only if standard error is a terminal.
pub(crate) fn progress(what: &'static str, length: usize) -> ProgressBar {
    let template = "{msg:12} {wide_bar} {pos}/{len} {elapsed}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length as u64)
        .with_style(style)
        .with_message(what)
}

/// Shows how many devices are connected, until it is dropped.
pub(crate) async fn show_connecting(fleet: &Fleet) {
    let bar = progress("connecting", fleet.expected());
    loop {
        bar.set_position(fleet.connected() as u64);
        tokio::time::sleep(REFRESH).await;
    }
}

/// What to do about a failure that every newcomer to a local hub meets.
pub(crate) fn hint(cause: &str) -> &'static str {
    if cause.contains("UnknownIssuer") {
        " (a local hub's own authority has to be given with --ca-file)"
    } else {
        ""
    }
}

/// Tells what happened to a device, in one line; nothing for what people do
/// not ask for.
pub(crate) fn tell(target: &Target, event: &Event<'_>) -> Option<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let told = match event {
        Event::Connected { took } => format!("connected after {} ms", took.as_millis()),
        Event::Method {
            name,
            payload,
            answer,
        } => {
            let answer = match answer {
                None => "not answered".to_owned(),
                Some(answer) if answer.delay.is_zero() => {
                    format!("answered {} {}", answer.status, text(&answer.payload))
                }
                Some(answer) => format!(
                    "to be answered {} {} after {} ms",
                    answer.status,
                    text(&answer.payload),
                    answer.delay.as_millis()
                ),
            };
            format!("method {name} called with {}, {answer}", text(payload))
        }
        Event::TwinRead { desired, .. } => format!("desired properties are {}", json!(desired)),
        Event::DesiredChanged { version, patch } => {
            format!(
                "desired properties changed to version {version}: {}",
                json!(patch)
            )
        }
        Event::ReportSent { patch } => format!("reports {}", text(patch)),
        Event::TelemetrySent { body } => format!("sends {}", text(body)),
        Event::Message { bag, body } => format!("message from the cloud: {} ({bag})", text(body)),
        Event::Failure(failure) => failure.to_string(),
        Event::Disconnected { cause, retry_in } => {
            let seconds = retry_in.as_secs_f64();
            format!("{cause}{}; trying again in {seconds:.1} s", hint(cause))
        }
        Event::MethodAnswered | Event::ReportAccepted { .. } | Event::TelemetryAcknowledged { .. } => {
            return None;
        }
    };
    Some(format!("{target}: {told}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use device_sim::MethodAnswer;
    use hub_core::ids::DeviceId;

    fn told(event: &Event<'_>) -> Option<String> {
        tell(&Target::device(DeviceId::parse("dev1").unwrap()), event)
    }

    #[test]
    fn events_read_like_sentences() {
        let answer = MethodAnswer::new(200, &json!({"ok": true}));
        let method = |answer| Event::Method {
            name: "lockDoor",
            payload: b"{}",
            answer,
        };
        assert_eq!(
            told(&method(Some(&answer))).unwrap(),
            r#"dev1: method lockDoor called with {}, answered 200 {"ok":true}"#
        );
        assert_eq!(
            told(&method(None)).unwrap(),
            "dev1: method lockDoor called with {}, not answered"
        );
        let patch = json!({"building": 43});
        let change = Event::DesiredChanged {
            version: 2,
            patch: patch.as_object().unwrap(),
        };
        assert_eq!(
            told(&change).unwrap(),
            r#"dev1: desired properties changed to version 2: {"building":43}"#
        );
        let lost = Event::Disconnected {
            cause: "connection closed by the hub",
            retry_in: Duration::from_millis(1500),
        };
        assert_eq!(
            told(&lost).unwrap(),
            "dev1: connection closed by the hub; trying again in 1.5 s"
        );
        assert_eq!(told(&Event::MethodAnswered), None);
        let untrusted = Event::Disconnected {
            cause: "cannot connect: invalid peer certificate: UnknownIssuer",
            retry_in: Duration::from_secs(1),
        };
        assert!(told(&untrusted).unwrap().contains("--ca-file"));
    }
}
