//! Watching a job until it is over, with a progress bar.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hub_core::ids::JobId;
use hub_core::job::RecordState;
use hub_core::time::Timestamp;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use job_service::rest::{ClientError, RestFleet, ServiceClient};
use job_service::{Clock, JobEngine};
use serde_json::{Value, json};

use super::Outcome;

/// Between two looks at a job of a hub. A hub of the smallest tier allows 100
/// job calls a minute.
const HUB_PERIOD: Duration = Duration::from_secs(1);
const HERE_PERIOD: Duration = Duration::from_millis(100);
/// Failed looks in a row after which watching is given up.
const FAILED_LOOKS: u32 = 5;

/// Who runs the job and can tell about it.
pub(super) enum Source {
    Hub(Arc<ServiceClient>),
    Here(JobEngine<RestFleet>),
}

impl Source {
    /// The job in the service's JSON; `None` when it is unknown.
    pub(super) async fn job(&self, id: &JobId) -> Result<Option<Value>, ClientError> {
        match self {
            Self::Hub(client) => client.job(id).await,
            Self::Here(engine) => Ok(engine.get(id).map(|job| json!(job))),
        }
    }

    /// The records of the devices that failed.
    pub(super) async fn failed_records(&self, id: &JobId) -> Result<Vec<Value>, ClientError> {
        match self {
            Self::Hub(client) => client.job_records(id, Some("failed")).await,
            Self::Here(engine) => {
                let mut records = Vec::new();
                engine.for_each_record(Some(std::slice::from_ref(id)), None, |view| {
                    if matches!(view.record.state, RecordState::Failed(_)) {
                        records.push(json!(view));
                    }
                    ControlFlow::Continue(())
                });
                Ok(records)
            }
        }
    }

    fn period(&self) -> Duration {
        match self {
            Self::Hub(_) => HUB_PERIOD,
            Self::Here(_) => HERE_PERIOD,
        }
    }
}

/// Watches a job until it is completed, failed or cancelled; gives it as it is then.
pub(super) async fn to_the_end(source: &Source, id: &JobId) -> Outcome<Value> {
    let mut bar = Bar::new(id);
    let mut failed_looks = 0;
    loop {
        match source.job(id).await {
            Ok(Some(job)) => {
                failed_looks = 0;
                bar.show(&job);
                if matches!(job["status"].as_str(), Some("completed" | "failed" | "cancelled")) {
                    bar.finish();
                    return Ok(job);
                }
            }
            Ok(None) => return Err(format!("job {id} has disappeared").into()),
            // A job outlives a hub's hiccup, and so should whoever watches it.
            Err(error) if error.is_transient() && failed_looks + 1 < FAILED_LOOKS => failed_looks += 1,
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(source.period()).await;
    }
}

/// A progress bar on standard error; invisible unless that is a terminal.
struct Bar {
    bar: ProgressBar,
    /// When devices were first seen, and how many were done by then: the rate
    /// counts from there. What was done before took an unknown time.
    first: Option<(Instant, u64)>,
}

impl Bar {
    fn new(id: &JobId) -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        // First: without a style, the prefix would be drawn as an empty bar.
        bar.set_style(style("{prefix}  {msg}"));
        bar.set_prefix(id.to_string());
        Self { bar, first: None }
    }

    fn show(&mut self, job: &Value) {
        let statistics = &job["deviceJobStatistics"];
        let count = |name: &str| statistics[name].as_u64().unwrap_or(0);
        let total = count("deviceCount");
        if total == 0 {
            self.bar.set_message(waiting(job, Clock::system().now()));
            self.bar.tick();
            return;
        }
        let failed = count("failedCount");
        let done = count("succeededCount") + failed;
        let (since, done_before) = *self.first.get_or_insert_with(|| {
            self.bar.set_length(total);
            self.bar.set_style(style("{prefix}  {wide_bar} {pos}/{len}{msg}"));
            (Instant::now(), done)
        });
        let mut message = pace(
            done.saturating_sub(done_before),
            since.elapsed(),
            total.saturating_sub(done),
        );
        if failed > 0 {
            message.push_str(&format!("  {failed} failed"));
        }
        self.bar.set_message(message);
        self.bar.set_position(done);
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// How fast `done` devices in `time` are, and how long `left` more will take;
/// empty before there is anything to tell it by.
fn pace(done: u64, time: Duration, left: u64) -> String {
    if done == 0 || time < Duration::from_secs(1) {
        return String::new();
    }
    let rate = done as f64 / time.as_secs_f64();
    let decimals = usize::from(rate < 10.0);
    let seconds = (left as f64 / rate).ceil() as u64;
    let eta = match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h", seconds.div_ceil(3_600)),
    };
    format!("  {rate:.decimals$}/s, {eta} left")
}

/// What to say about a job that has no devices yet.
fn waiting(job: &Value, now: Timestamp) -> String {
    let status = job["status"].as_str().unwrap_or("unknown");
    let start = job["startTime"].as_str().map(Timestamp::parse);
    match start {
        Some(Ok(start)) if start > now => {
            format!(
                "{status}, starts in {} s",
                start.saturating_since(now).as_secs() + 1
            )
        }
        _ => status.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_is_told_as_soon_as_there_is_one() {
        let seconds = Duration::from_secs;
        assert_eq!(pace(0, seconds(10), 5), "");
        assert_eq!(pace(500, Duration::from_millis(900), 5), "");
        assert_eq!(pace(100, seconds(10), 9_000), "  10/s, 15 min left");
        assert_eq!(pace(15, seconds(10), 10), "  1.5/s, 7 s left");
        assert_eq!(pace(10, seconds(100), 1_000), "  0.1/s, 3 h left");
        assert_eq!(pace(50_000, seconds(2), 0), "  25000/s, 0 s left");
    }

    #[test]
    fn a_waiting_job_tells_when_it_starts() {
        let job = json!({"status":"scheduled","startTime":"2026-01-02T03:04:05.5Z"});
        let at = |text: &str| Timestamp::parse(text).unwrap();
        assert_eq!(
            waiting(&job, at("2026-01-02T03:03:45.5Z")),
            "scheduled, starts in 21 s"
        );
        assert_eq!(waiting(&job, at("2026-01-02T03:05:00Z")), "scheduled");
        assert_eq!(waiting(&json!({}), at("2026-01-02T03:05:00Z")), "unknown");
    }
}
