//! Scheduled jobs: one operation over a fleet, chosen by a query at start time.
//!
//! ```text
//! create ─► queued ─► scheduled ─► enqueued ─► running ─► completed | failed
//!              └──────────┴───────────┴─► cancelled
//! ```
//!
//! A [`JobRequest`] is read from the service's JSON, a [`Job`] takes it through
//! the states above and holds one [`DeviceRecord`] for each selected device, and
//! the views write both back in the service's JSON. Everything that takes time
//! (waiting for the start, evaluating the query, reaching devices) happens in
//! the job service, which reports events here together with the current time.
//!
//! Source: the jobs guide; choices of the emulator's own are marked.

mod filter;
mod pace;
mod record;
mod request;
mod state;
mod view;

#[cfg(test)]
mod state_tests;

pub use filter::JobFilter;
pub use pace::Pace;
pub use record::{DeviceRecord, Outcome, RecordError, RecordState, Statistics};
pub use request::{JobRequest, TwinUpdate};
pub use state::{CancelRunning, Job, PartialFailure};
pub use view::{CreatedJob, JobView, RecordView, UnknownJob};

use serde::{Serialize, Serializer};

use crate::method::MethodCall;

/// What a job does to each device.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Invokes a direct method.
    Method(MethodCall),
    /// Patches tags and desired properties, without regard to the twin's ETag.
    Twin(TwinUpdate),
}

impl Action {
    /// The kind of job that carries out this action.
    #[must_use]
    pub fn job_type(&self) -> JobType {
        match self {
            Self::Method(_) => JobType::DeviceMethod,
            Self::Twin(_) => JobType::UpdateTwin,
        }
    }
}

/// The kinds of job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobType {
    /// `scheduleDeviceMethod`.
    DeviceMethod,
    /// `scheduleUpdateTwin`.
    UpdateTwin,
}

impl JobType {
    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DeviceMethod => "scheduleDeviceMethod",
            Self::UpdateTwin => "scheduleUpdateTwin",
        }
    }
}

impl Serialize for JobType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobStatus {
    /// Accepted and not yet planned; what the creating call answers.
    Queued,
    /// Waits for its start time.
    Scheduled,
    /// Its start time has passed; waits for the job service to take it up.
    Enqueued,
    /// The query is being evaluated or devices are being processed.
    Running,
    /// The run ended; single devices may have failed.
    Completed,
    /// The job could not run, or its devices failed.
    Failed,
    /// Cancelled before the run, or during it where [`CancelRunning`] allows that.
    Cancelled,
}

impl JobStatus {
    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Scheduled => "scheduled",
            Self::Enqueued => "enqueued",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the job has ended; no event changes such a job any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

impl Serialize for JobStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The whole query that a job's condition stands for, with `columns` as its
/// `SELECT` list.
///
/// `*` selects every device, a text that starts with `FROM` brings its own
/// collection (`FROM devices.modules WHERE …`), and anything else is a
/// condition over `devices`. The condition itself is not looked into: a bad
/// one is the query language's to refuse, in a text that counts columns from
/// the start of this query.
#[must_use]
pub fn query_text(columns: &str, condition: &str) -> String {
    let condition = condition.trim();
    if condition == "*" {
        format!("SELECT {columns} FROM devices")
    } else if selects_modules(condition) || starts_with_word(condition, "from") {
        format!("SELECT {columns} {condition}")
    } else {
        format!("SELECT {columns} FROM devices WHERE {condition}")
    }
}

/// Whether a job's condition selects modules rather than devices.
#[must_use]
pub fn selects_modules(condition: &str) -> bool {
    let mut words = condition.split_whitespace();
    let mut is = |word: &str| words.next().is_some_and(|w| w.eq_ignore_ascii_case(word));
    is("from") && is("devices.modules")
}

fn starts_with_word(text: &str, word: &str) -> bool {
    text.split_whitespace()
        .next()
        .is_some_and(|first| first.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_becomes_a_whole_query() {
        for (condition, query) in [
            ("*", "SELECT * FROM devices"),
            (
                " deviceId IN ['a'] ",
                "SELECT * FROM devices WHERE deviceId IN ['a']",
            ),
            ("from_site = 1", "SELECT * FROM devices WHERE from_site = 1"),
            (
                "FROM devices.modules WHERE moduleId='m'",
                "SELECT * FROM devices.modules WHERE moduleId='m'",
            ),
            ("from devices", "SELECT * from devices"),
            (
                "SELECT * FROM devices",
                "SELECT * FROM devices WHERE SELECT * FROM devices",
            ),
        ] {
            assert_eq!(query_text("*", condition), query);
        }
        assert!(selects_modules("from  devices.MODULES"));
        assert!(!selects_modules("FROM devices"));
        assert!(!selects_modules("*"));
    }
}
