//! What happened to a fleet, summed up.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::histogram::Latency;
use crate::process::Usage;

/// What happened to a fleet from its start to one moment. Serialises to JSON;
/// `Display` is a table for people.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Seconds since the fleet was started.
    pub elapsed_seconds: f64,
    /// How many devices there are, and how they are.
    pub devices: Devices,
    /// Connections, over all devices.
    pub connections: Connections,
    /// Direct methods, over all devices.
    pub methods: Methods,
    /// Desired and reported properties, over all devices.
    pub twins: Twins,
    /// Telemetry, over all devices.
    pub telemetry: Messages,
    /// Cloud-to-device messages received.
    pub messages_received: u64,
    /// How long things took; only what was measured at all.
    pub latency: Latencies,
    /// What went wrong how often, by cause.
    pub failures: BTreeMap<String, u64>,
    /// What the process has used; unknown on some systems.
    pub process: Option<Usage>,
}

/// Numbers of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Devices {
    /// All devices.
    pub total: usize,
    /// Devices that never connect, by choice.
    pub offline: usize,
    /// Devices whose methods fail, by choice.
    pub failing: usize,
    /// Devices that never answer a method, by choice.
    pub silent: usize,
    /// Devices that are connected and subscribed at this moment.
    pub connected: usize,
}

/// Numbers of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Connections {
    /// Connections that the hub accepted.
    pub opened: u64,
    /// Those among them that were lost.
    pub lost: u64,
    /// Those among them that were closed to renew a token.
    pub renewed: u64,
}

/// Direct methods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Methods {
    /// Calls received.
    pub received: u64,
    /// Calls answered.
    pub answered: u64,
    /// By method name.
    pub by_name: BTreeMap<String, MethodCount>,
}

/// One method's calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MethodCount {
    /// Calls received by all devices together.
    pub calls: u64,
    /// Devices that received at least one.
    pub devices: usize,
}

/// Desired and reported properties.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Twins {
    /// Changes of desired properties received.
    pub desired_changes: u64,
    /// Updates of reported properties sent.
    pub reports_sent: u64,
    /// Those among them that the hub accepted.
    pub reports_accepted: u64,
    /// Which desired properties how many devices have, the most frequent
    /// first; at most 32 different documents.
    pub desired: Vec<DesiredCount>,
}

/// How many devices have the same desired properties.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DesiredCount {
    /// The desired properties without `$version` and `$metadata`; `null` for
    /// devices that have not learnt theirs.
    pub desired: Value,
    /// Number of devices.
    pub devices: usize,
}

/// Messages that are acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Messages {
    /// Messages sent.
    pub sent: u64,
    /// Those among them that the hub acknowledged.
    pub acknowledged: u64,
}

/// Distributions of latencies.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Latencies {
    /// From opening the transport to the last SUBACK.
    pub connect: Option<Latency>,
    /// From sending telemetry to its PUBACK.
    pub telemetry: Option<Latency>,
    /// From a request for the own twin to its response.
    pub twin_read: Option<Latency>,
    /// From an update of reported properties to its response.
    pub twin_report: Option<Latency>,
}

impl Latencies {
    /// What was measured, each with its name in tables and plots.
    pub fn measured(&self) -> impl Iterator<Item = (&'static str, &Latency)> {
        [
            ("connect", &self.connect),
            ("telemetry", &self.telemetry),
            ("twin read", &self.twin_read),
            ("twin report", &self.twin_report),
        ]
        .into_iter()
        .filter_map(|(name, latency)| Some((name, latency.as_ref()?)))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            devices, connections, ..
        } = self;
        let row = |f: &mut fmt::Formatter<'_>, name: &str, text: String| writeln!(f, "{name:<14}{text}");
        row(f, "devices", {
            let mut text = format!("{} connected of {}", devices.connected, devices.total);
            for (number, what) in [
                (devices.offline, "offline"),
                (devices.failing, "failing"),
                (devices.silent, "silent"),
            ] {
                if number > 0 {
                    text.push_str(&format!(", {number} {what} by choice"));
                }
            }
            text
        })?;
        let Connections {
            opened,
            lost,
            renewed,
        } = connections;
        row(
            f,
            "connections",
            format!("{opened} opened, {lost} lost, {renewed} renewed"),
        )?;
        let Methods {
            received,
            answered,
            by_name,
        } = &self.methods;
        row(f, "methods", format!("{received} received, {answered} answered"))?;
        for (name, count) in by_name {
            let text = format!("{name}: {} calls on {} devices", count.calls, count.devices);
            row(f, "", text)?;
        }
        let twins = &self.twins;
        row(
            f,
            "twins",
            format!(
                "{} desired changes, {} reports sent, {} accepted",
                twins.desired_changes, twins.reports_sent, twins.reports_accepted
            ),
        )?;
        for count in twins
            .desired
            .iter()
            .filter(|count| !count.desired.is_null())
            .take(8)
        {
            let document: String = count.desired.to_string().chars().take(70).collect();
            row(f, "", format!("{} devices have {document}", count.devices))?;
        }
        let Messages { sent, acknowledged } = self.telemetry;
        row(
            f,
            "telemetry",
            format!("{sent} sent, {acknowledged} acknowledged"),
        )?;
        if self.messages_received > 0 {
            row(f, "messages", format!("{} received", self.messages_received))?;
        }
        self.fmt_latencies(f)?;
        self.fmt_failures(f)?;
        if let Some(usage) = self.process {
            let text = format!(
                "{:.1} MiB at most, {:.2} s user, {:.2} s system",
                usage.peak_rss_bytes as f64 / (1024.0 * 1024.0),
                usage.user_seconds,
                usage.system_seconds
            );
            row(f, "process", text)?;
        }
        row(f, "elapsed", format!("{:.1} s", self.elapsed_seconds))
    }
}

impl Report {
    fn fmt_latencies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let measured: Vec<_> = self.latency.measured().collect();
        if measured.is_empty() {
            return Ok(());
        }
        let head = ["count", "mean", "p50", "p90", "p99", "max"];
        write!(f, "{:<14}", "latency (ms)")?;
        for title in head {
            write!(f, "{title:>10}")?;
        }
        writeln!(f)?;
        for (name, l) in measured {
            write!(f, "  {name:<12}{:>10}", l.count)?;
            for value in [l.mean_ms, l.p50_ms, l.p90_ms, l.p99_ms, l.max_ms] {
                write!(f, "{value:>10.2}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }

    fn fmt_failures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.failures.is_empty() {
            return writeln!(f, "{:<14}none", "failures");
        }
        writeln!(f, "failures")?;
        let mut failures: Vec<_> = self.failures.iter().collect();
        failures.sort_by_key(|(_, number)| std::cmp::Reverse(**number));
        for (cause, number) in failures {
            writeln!(f, "  {number:>10}  {cause}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sample() -> Report {
        let latency = Latency {
            count: 10_000,
            mean_ms: 1.25,
            p50_ms: 1.0,
            p90_ms: 2.0,
            p99_ms: 3.5,
            max_ms: 1234.5,
            cumulative: Default::default(),
        };
        Report {
            elapsed_seconds: 12.34,
            devices: Devices {
                total: 10_000,
                offline: 500,
                failing: 0,
                silent: 1,
                connected: 9500,
            },
            connections: Connections {
                opened: 9501,
                lost: 1,
                renewed: 0,
            },
            methods: Methods {
                received: 9500,
                answered: 9499,
                by_name: BTreeMap::from([(
                    "lockDoor".to_owned(),
                    MethodCount {
                        calls: 9500,
                        devices: 9500,
                    },
                )]),
            },
            twins: Twins {
                desired_changes: 9500,
                reports_sent: 2,
                reports_accepted: 1,
                desired: vec![DesiredCount {
                    desired: json!({"building": 43, "floor": 3}),
                    devices: 9500,
                }],
            },
            telemetry: Messages {
                sent: 0,
                acknowledged: 0,
            },
            messages_received: 0,
            latency: Latencies {
                connect: Some(latency),
                telemetry: None,
                twin_read: None,
                twin_report: None,
            },
            failures: BTreeMap::from([
                ("a rare thing".to_owned(), 1),
                ("connection closed by the hub".to_owned(), 12),
            ]),
            process: None,
        }
    }

    #[test]
    fn the_table_is_for_people() {
        let expected = r#"
devices       9500 connected of 10000, 500 offline by choice, 1 silent by choice
connections   9501 opened, 1 lost, 0 renewed
methods       9500 received, 9499 answered
              lockDoor: 9500 calls on 9500 devices
twins         9500 desired changes, 2 reports sent, 1 accepted
              9500 devices have {"building":43,"floor":3}
telemetry     0 sent, 0 acknowledged
latency (ms)       count      mean       p50       p90       p99       max
  connect          10000      1.25      1.00      2.00      3.50   1234.50
failures
          12  connection closed by the hub
           1  a rare thing
elapsed       12.3 s
"#;
        assert_eq!(format!("\n{}", sample()), expected);
    }

    #[test]
    fn the_json_is_for_programs() {
        let json = serde_json::to_value(sample()).unwrap();
        assert_eq!(json["methods"]["byName"]["lockDoor"]["devices"], 9500);
        assert_eq!(json["twins"]["desired"][0]["desired"]["floor"], 3);
        assert_eq!(json["latency"]["connect"]["p99Ms"], 3.5);
        assert_eq!(json["latency"]["telemetry"], Value::Null);
        assert_eq!(json["failures"]["a rare thing"], 1);
    }
}
