//! What a run measured, as a table for people and as JSON for machines.

use std::fmt;
use std::time::Duration;

use device_sim::histogram::{Cumulative, Histogram};
use emulator::CounterValues;
use hub_core::time::Timestamp;
use serde_json::{Value, json};

use crate::Failure;
use crate::args::Transport;
use crate::fleet::{Connected, ProcessUsage, Seen};

pub(crate) struct Figures {
    pub(crate) devices: u32,
    pub(crate) transport: Transport,
    /// From the builder to bound and ready.
    pub(crate) hub_start: Duration,
    pub(crate) connected: Connected,
    pub(crate) jobs: Vec<JobFigures>,
    pub(crate) seen: Seen,
    pub(crate) hub_counters: CounterValues,
    /// Of the hub's process, which is the only one over memory; up to the end
    /// of the jobs.
    pub(crate) hub_usage: Option<ProcessUsage>,
    pub(crate) fleet_usage: Option<ProcessUsage>,
}

/// One job's figures, from the job and its records as the hub shows them.
pub(crate) struct JobFigures {
    kind: String,
    status: String,
    total: u64,
    succeeded: u64,
    failed: u64,
    /// From the job's start, which is when its first record was made, to its end.
    wall: Duration,
    /// Each device's, from the start of its operation to its end.
    latency: Cumulative,
}

impl JobFigures {
    pub(crate) fn of(job: &Value, records: &[Value]) -> Result<Self, Failure> {
        let time = |value: &Value| Timestamp::parse(value.as_str().unwrap_or_default());
        let took = Histogram::default();
        let mut begun = Timestamp::MAX;
        for record in records {
            begun = begun.min(time(&record["createdDateTimeUtc"])?);
            took.record(time(&record["endTimeUtc"])?.saturating_since(time(&record["startTimeUtc"])?));
        }
        let statistics = &job["deviceJobStatistics"];
        let count = |name: &str| statistics[name].as_u64().unwrap_or(0);
        Ok(Self {
            kind: job["type"].as_str().unwrap_or_default().to_owned(),
            status: job["status"].as_str().unwrap_or_default().to_owned(),
            total: count("deviceCount"),
            succeeded: count("succeededCount"),
            failed: count("failedCount"),
            wall: time(&job["endTime"])?.saturating_since(begun),
            latency: took.cumulative(),
        })
    }

    fn per_second(&self) -> f64 {
        self.total as f64 / self.wall.as_secs_f64().max(1e-6)
    }
}

impl Figures {
    /// What keeps the run from being a success; empty when nothing does.
    pub(crate) fn shortfalls(&self) -> Vec<String> {
        let all = self.devices as usize;
        let mut found = Vec::new();
        let mut expect = |what: &str, got: usize| {
            if got != all {
                found.push(format!("{what}: {got} of {all} devices"));
            }
        };
        expect("connected", self.connected.devices);
        expect("received lockDoor", self.seen.method);
        expect("have the new desired properties", self.seen.desired);
        for job in &self.jobs {
            expect(&format!("{} succeeded", job.kind), job.succeeded as usize);
        }
        found.extend(
            self.jobs
                .iter()
                .filter(|job| job.status != "completed")
                .map(|job| format!("{} is {}", job.kind, job.status)),
        );
        found
    }

    /// Every phase's latencies, each with its name.
    pub(crate) fn latencies(&self) -> impl Iterator<Item = (&str, &Cumulative)> {
        let jobs = self.jobs.iter().map(|job| (job.kind.as_str(), &job.latency));
        std::iter::once(("connect", &self.connected.latency)).chain(jobs)
    }

    /// What was run, in a few words.
    pub(crate) fn title(&self) -> String {
        let transport = match self.transport {
            Transport::Tcp => "TCP",
            Transport::Memory => "memory",
        };
        format!("{} devices over {transport}", self.devices)
    }

    pub(crate) fn to_json(&self) -> Value {
        let jobs: Vec<Value> = self
            .jobs
            .iter()
            .map(|job| {
                json!({
                    "type": job.kind,
                    "status": job.status,
                    "devices": job.total,
                    "succeeded": job.succeeded,
                    "failed": job.failed,
                    "wallSeconds": job.wall.as_secs_f64(),
                    "devicesPerSecond": job.per_second(),
                    "p50Ms": job.latency.quantile_ms(0.5),
                    "p99Ms": job.latency.quantile_ms(0.99),
                })
            })
            .collect();
        json!({
            "ok": self.shortfalls().is_empty(),
            "devices": self.devices,
            "transport": self.transport,
            "hubStartMs": ms(self.hub_start),
            "connect": {
                "devices": self.connected.devices,
                "wallSeconds": self.connected.seconds,
                "devicesPerSecond": self.connected.devices as f64 / self.connected.seconds.max(1e-6),
                "p50Ms": self.connected.latency.quantile_ms(0.5),
                "p99Ms": self.connected.latency.quantile_ms(0.99),
            },
            "jobs": jobs,
            "devicesThatReceivedMethod": self.seen.method,
            "devicesWithDesired": self.seen.desired,
            "hubCounters": self.hub_counters,
            "hubPeakBytes": self.hub_usage.map(|usage| usage.peak_rss_bytes),
            "hubCpuSeconds": self.hub_usage.map(|usage| usage.cpu_seconds),
            "fleetPeakBytes": self.fleet_usage.map(|usage| usage.peak_rss_bytes),
            "fleetCpuSeconds": self.fleet_usage.map(|usage| usage.cpu_seconds),
        })
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connect = &self.connected;
        writeln!(
            f,
            "{}; the hub was ready in {:.1} ms\n",
            self.title(),
            ms(self.hub_start)
        )?;
        writeln!(
            f,
            "{:<22} {:>9} {:>7} {:>9} {:>11} {:>9} {:>9}",
            "", "succeeded", "failed", "wall s", "devices/s", "p50 ms", "p99 ms"
        )?;
        let mut row = |name: &str, good: u64, bad: u64, wall: f64, latency: &Cumulative| {
            let (p50, p99) = (latency.quantile_ms(0.5), latency.quantile_ms(0.99));
            let rate = (good + bad) as f64 / wall.max(1e-6);
            writeln!(
                f,
                "{name:<22} {good:>9} {bad:>7} {wall:>9.3} {rate:>11.0} {p50:>9.2} {p99:>9.2}"
            )
        };
        let missing = u64::from(self.devices).saturating_sub(connect.devices as u64);
        row(
            "connect",
            connect.devices as u64,
            missing,
            connect.seconds,
            &connect.latency,
        )?;
        for job in &self.jobs {
            row(
                &job.kind,
                job.succeeded,
                job.failed,
                job.wall.as_secs_f64(),
                &job.latency,
            )?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "{:<42} {:>9}",
            "devices that received lockDoor", self.seen.method
        )?;
        writeln!(
            f,
            "{:<42} {:>9}",
            "devices with the new desired properties", self.seen.desired
        )?;
        let mut usage = |who: &str, used: Option<(u64, f64)>| match used {
            Some((bytes, cpu)) => {
                let mib = bytes as f64 / (1024.0 * 1024.0);
                writeln!(f, "{who:<42} {mib:>9.1} MiB peak, {cpu:.2} s CPU")
            }
            None => Ok(()),
        };
        let hub = self.hub_usage.map(|u| (u.peak_rss_bytes, u.cpu_seconds));
        match self.transport {
            Transport::Tcp => usage("hub and back end", hub)?,
            Transport::Memory => usage("hub, back end and fleet in one process", hub)?,
        }
        usage(
            "fleet",
            self.fleet_usage.map(|u| (u.peak_rss_bytes, u.cpu_seconds)),
        )
    }
}
