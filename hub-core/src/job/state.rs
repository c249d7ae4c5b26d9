//! The state machine of a job and of its devices.
//!
//! The job service reports what happened; a transition either changes the
//! state or, when it does not apply, leaves everything as it is. So an answer
//! that arrives after the window has closed is lost without harm, and a final
//! state stays final whatever comes.

use std::sync::Arc;

use super::record::{DeviceRecord, Outcome, RecordError, RecordState, Statistics};
use super::view::{CreatedJob, JobView, RecordView};
use super::{JobRequest, JobStatus};
use crate::error::{ErrorCode, ServiceError};
use crate::ids::Target;
use crate::time::Timestamp;

/// What failed devices mean for the result of their job.
///
/// The service's documentation does not say. A client that waits for
/// `completed` and nothing else would wait forever if single failures made a
/// job fail, hence the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PartialFailure {
    /// The job fails when every one of its devices failed.
    #[default]
    FailsWhenAllFailed,
    /// The job fails when at least one device failed.
    FailsWhenAnyFailed,
    /// The job completes whatever its devices did.
    NeverFails,
}

/// What cancelling a running job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CancelRunning {
    /// It is refused, as the service does.
    #[default]
    Refused,
    /// The job ends at once and its unfinished devices become `canceled`.
    Stops,
}

/// A job and the records of its devices.
#[derive(Debug)]
pub struct Job {
    request: Arc<JobRequest>,
    partial_failure: PartialFailure,
    status: JobStatus,
    created: Timestamp,
    /// When the run began.
    started: Option<Timestamp>,
    ended: Option<Timestamp>,
    failure_reason: Option<Arc<str>>,
    /// Whether the query has answered; until then a run has no devices.
    selected: bool,
    statistics: Statistics,
    /// Ordered by target, fixed once the query has answered.
    records: Vec<DeviceRecord>,
    /// Numbers of the records that have changed since they were last taken.
    changed: Vec<usize>,
    /// The description of the latest failure, shared with the next one if it
    /// says the same.
    last_description: Arc<str>,
}

impl Job {
    /// A new job, `queued`.
    #[must_use]
    pub fn new(request: JobRequest, partial_failure: PartialFailure, now: Timestamp) -> Self {
        Self {
            request: Arc::new(request),
            partial_failure,
            status: JobStatus::Queued,
            created: now,
            started: None,
            ended: None,
            failure_reason: None,
            selected: false,
            statistics: Statistics::default(),
            records: Vec::new(),
            changed: Vec::new(),
            last_description: "".into(),
        }
    }

    /// What the client asked for.
    #[must_use]
    pub fn request(&self) -> &Arc<JobRequest> {
        &self.request
    }

    /// Where the job stands.
    #[must_use]
    pub fn status(&self) -> JobStatus {
        self.status
    }

    /// Where its devices stand; all zero before the run.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// The devices' records, ordered by target; empty before the run.
    #[must_use]
    pub fn records(&self) -> &[DeviceRecord] {
        &self.records
    }

    /// When the job ended.
    #[must_use]
    pub fn ended(&self) -> Option<Timestamp> {
        self.ended
    }

    /// The reply to the call that created the job.
    #[must_use]
    pub fn created_view(&self) -> CreatedJob {
        CreatedJob {
            request: self.request.clone(),
        }
    }

    /// The job as a client sees it.
    #[must_use]
    pub fn view(&self) -> JobView {
        JobView {
            request: self.request.clone(),
            status: self.status,
            created: self.created,
            ended: self.ended,
            failure_reason: self.failure_reason.clone(),
            statistics: self.started.map(|_| self.statistics),
        }
    }

    /// A device's record as a client sees it; `None` beyond the last one.
    #[must_use]
    pub fn record_view(&self, number: usize) -> Option<RecordView<'_>> {
        Some(RecordView {
            request: &self.request,
            created: self.started?,
            record: self.records.get(number)?,
        })
    }

    /// The records whose operation has begun or ended since this was last asked,
    /// each as it is now, in the order of the changes. One that has changed
    /// twice meanwhile comes twice.
    pub fn take_changed(&mut self, mut each: impl FnMut(&RecordView<'_>)) {
        let mut changed = std::mem::take(&mut self.changed);
        for number in changed.drain(..) {
            if let Some(view) = self.record_view(number) {
                each(&view);
            }
        }
        // Empty, with its room for the next ones.
        self.changed = changed;
    }

    /// The service has planned the job: `queued` becomes `scheduled`.
    pub fn plan(&mut self) {
        if self.status == JobStatus::Queued {
            self.status = JobStatus::Scheduled;
        }
    }

    /// The start time has come: the job becomes `enqueued`.
    pub fn enqueue(&mut self) {
        if matches!(self.status, JobStatus::Queued | JobStatus::Scheduled) {
            self.status = JobStatus::Enqueued;
        }
    }

    /// The job service has taken up the job: `enqueued` becomes `running`, and
    /// the execution window opens. Returns whether the job runs now.
    pub fn start(&mut self, now: Timestamp) -> bool {
        if self.status == JobStatus::Enqueued {
            self.status = JobStatus::Running;
            self.started = Some(now);
            true
        } else {
            false
        }
    }

    /// The query has answered: each distinct target gets a record, `pending`.
    /// A job without targets ends here.
    ///
    /// Returns the targets in the order of their record numbers; none when the
    /// job was not waiting for them.
    pub fn select(&mut self, mut targets: Vec<Target>, now: Timestamp) -> Vec<Target> {
        if self.status != JobStatus::Running || self.selected {
            return Vec::new();
        }
        targets.sort_unstable();
        targets.dedup();
        self.selected = true;
        self.statistics = Statistics::all_pending(targets.len());
        self.records = targets
            .iter()
            .map(|target| DeviceRecord {
                target: target.clone(),
                started: Timestamp::NEVER,
                ended: Timestamp::NEVER,
                state: RecordState::Pending,
            })
            .collect();
        self.finish_if_done(now);
        targets
    }

    /// The operation on a device begins. Returns whether it should: not when
    /// the record is no longer pending.
    pub fn begin(&mut self, number: usize, now: Timestamp) -> bool {
        match self.records.get_mut(number) {
            Some(record) if record.state == RecordState::Pending => {
                record.started = now;
                self.move_to(number, RecordState::Running, now);
                true
            }
            _ => false,
        }
    }

    /// The operation on a device has ended. The job ends with its last device.
    pub fn settle(&mut self, number: usize, result: Result<Outcome, ServiceError>, now: Timestamp) {
        let state = match result {
            Ok(outcome) => RecordState::Completed(outcome),
            Err(error) => RecordState::Failed(self.record_error(error.code, &error.message)),
        };
        self.move_to(number, state, now);
        self.finish_if_done(now);
    }

    /// The execution window has closed: what is unfinished has failed.
    pub fn close_window(&mut self, now: Timestamp) {
        if self.status != JobStatus::Running {
            return;
        }
        if !self.selected {
            return self.fail(
                "the query condition was not evaluated within the execution window",
                now,
            );
        }
        let error = self.record_error(
            ErrorCode::JobTimedOut,
            "the job's execution window ended before the device was done",
        );
        self.end_records(&RecordState::Failed(error), now);
        self.finish_if_done(now);
    }

    /// The job as a whole cannot go on, as with a condition that is no query.
    pub fn fail(&mut self, reason: &str, now: Timestamp) {
        if self.status.is_final() {
            return;
        }
        let error = self.record_error(ErrorCode::ServerError, reason);
        self.end_records(&RecordState::Failed(error), now);
        self.end(JobStatus::Failed, now);
        self.failure_reason = Some(reason.into());
    }

    /// A client cancels the job.
    ///
    /// # Errors
    /// `JobRunPreconditionFailed` for a job that has ended, and for one that
    /// runs unless `running` allows it. The service does not document its own
    /// answer.
    pub fn cancel(&mut self, running: CancelRunning, now: Timestamp) -> Result<(), ServiceError> {
        let refusal = match self.status {
            JobStatus::Running if running == CancelRunning::Refused => {
                "the job is running and can no longer be cancelled"
            }
            status if status.is_final() => "the job has ended already",
            _ => {
                self.end_records(&RecordState::Canceled, now);
                self.end(JobStatus::Cancelled, now);
                return Ok(());
            }
        };
        Err(ServiceError::new(ErrorCode::JobRunPreconditionFailed, refusal))
    }

    fn record_error(&mut self, code: ErrorCode, description: &str) -> RecordError {
        if *self.last_description != *description {
            self.last_description = description.into();
        }
        RecordError {
            code,
            description: self.last_description.clone(),
        }
    }

    fn end_records(&mut self, state: &RecordState, now: Timestamp) {
        for number in 0..self.records.len() {
            self.move_to(number, state.clone(), now);
        }
    }

    /// The one place where a record changes its state: a final one never does.
    fn move_to(&mut self, number: usize, state: RecordState, now: Timestamp) {
        let Some(record) = self.records.get_mut(number) else {
            return;
        };
        if record.state.is_final() {
            return;
        }
        self.statistics.move_device(&record.state, &state);
        if state.is_final() {
            record.ended = now;
        }
        record.state = state;
        self.changed.push(number);
    }

    fn finish_if_done(&mut self, now: Timestamp) {
        let Statistics {
            device_count,
            failed_count,
            ..
        } = self.statistics;
        let unfinished = !self.selected || self.statistics.finished_count() < device_count;
        if self.status != JobStatus::Running || unfinished {
            return;
        }
        let failed = match self.partial_failure {
            PartialFailure::FailsWhenAllFailed => device_count > 0 && failed_count == device_count,
            PartialFailure::FailsWhenAnyFailed => failed_count > 0,
            PartialFailure::NeverFails => false,
        };
        if failed {
            self.failure_reason = Some(self.device_failures().into());
            self.end(JobStatus::Failed, now);
        } else {
            self.end(JobStatus::Completed, now);
        }
    }

    fn end(&mut self, status: JobStatus, now: Timestamp) {
        self.status = status;
        self.ended = Some(now);
    }

    fn device_failures(&self) -> String {
        let Statistics {
            device_count,
            failed_count,
            ..
        } = self.statistics;
        let first = self.records.iter().find_map(|record| match &record.state {
            RecordState::Failed(error) => Some((&record.target, error)),
            _ => None,
        });
        let example = first.map_or_else(String::new, |(target, error)| {
            format!(
                "; the first is {target}: {}, {}",
                error.code.name(),
                error.description
            )
        });
        format!("{failed_count} of {device_count} devices failed{example}")
    }
}
