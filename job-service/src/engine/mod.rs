//! The engine: creates, starts, tracks, lists and cancels jobs.
//!
//! ```text
//! create ─► table ─► scheduler (one task) ─► runner (one task a running job) ─► fleet
//!             ▲                                   │ outcomes
//!             └───────────────────────────────────┘
//! ```
//!
//! The `table` knows which job waits for what, `cell` holds one job, the
//! `scheduler` starts jobs at their time, `runner` takes one through its
//! devices, and `pacing` tells it how fast. The order of locks is table, then cell; neither is held across an
//! await.

mod cell;
mod pacing;
mod runner;
mod scheduler;
mod table;
#[cfg(test)]
mod tests;

use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hub_core::error::{ErrorCode, ServiceError};
use hub_core::ids::{JobId, Target};
use hub_core::job::{
    CancelRunning, CreatedJob, Job, JobFilter, JobRequest, JobView, PartialFailure, RecordView,
};
use hub_core::limits;
use hub_core::tier::JobLimits;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;

use crate::{Clock, Fleet};
use cell::JobCell;
pub use cell::Progress;
use pacing::Pacing;
use table::Table;

/// Records that a scan looks at before it lets go of the job's lock.
const SCAN_CHUNK: usize = 1_000;

/// Bounds and choices of an engine.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Operations of one job in flight at once; at least 1. A device that a
    /// method waits to come online for counts as well. The default suits a
    /// fleet in the same process; over a network choose far less.
    pub fan_out: usize,
    /// Jobs running at once; at least 1. Others that are due stay `enqueued`.
    /// The service runs 1 to 10 by tier; the default is higher, so that the
    /// jobs of parallel tests do not wait for each other.
    pub running_jobs: usize,
    /// Jobs that have not ended, whatever they wait for. Creating one more is
    /// refused with `ThrottlingMaxActiveJobCountExceeded`.
    pub active_jobs: usize,
    /// Whether creating a job that is due at once is refused, with the same
    /// error, while as many are due or running as may run. The service does so;
    /// otherwise the job waits as `enqueued`. Jobs for later are never refused
    /// for this, and wait if need be when their time comes.
    pub refuse_when_busy: bool,
    /// Operations on devices that all jobs together begin in a second of the
    /// clock; `None` bounds them by nothing but [`EngineSettings::fan_out`].
    pub operations_per_second: Option<NonZeroU32>,
    /// Records kept over all jobs, each job itself counted as one. Beyond
    /// that, the jobs that ended first are forgotten.
    pub records: usize,
    /// How long an ended job is kept.
    pub retention: Duration,
    /// When failed devices make their job fail.
    pub partial_failure: PartialFailure,
    /// What cancelling a running job does.
    pub cancel_running: CancelRunning,
}

impl EngineSettings {
    /// The same, with as many jobs at once and operations a second as a tier
    /// allows, and with its refusal of more.
    #[must_use]
    pub fn within(self, tier: JobLimits) -> Self {
        Self {
            running_jobs: tier.concurrent,
            refuse_when_busy: true,
            operations_per_second: Some(tier.operations_per_second),
            ..self
        }
    }
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            fan_out: limits::JOB_FAN_OUT,
            running_jobs: 100,
            active_jobs: limits::JOBS_ACTIVE,
            refuse_when_busy: false,
            operations_per_second: None,
            records: limits::JOB_RECORDS,
            retention: limits::JOB_RETENTION,
            partial_failure: PartialFailure::default(),
            cancel_running: CancelRunning::default(),
        }
    }
}

/// Jobs over one fleet. Clones are handles to the same jobs.
///
/// When the last handle goes, running jobs stop where they are. A fleet that
/// holds a handle to the engine keeps both alive; let it hold the hub weakly.
#[derive(Debug)]
pub struct JobEngine<F> {
    handle: Arc<Handle<F>>,
}

/// The part that the handles share and the tasks do not: dropping it drops
/// `stop`, which ends the scheduler.
#[derive(Debug)]
struct Handle<F> {
    shared: Arc<Shared<F>>,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    scheduler: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

/// What the tasks work with.
#[derive(Debug)]
struct Shared<F> {
    fleet: Arc<F>,
    clock: Clock,
    settings: EngineSettings,
    table: Mutex<Table>,
    pacing: Pacing,
    /// Tells the scheduler to look at the table again.
    changed: Notify,
}

impl<F> Shared<F> {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: Fleet> Shared<F> {
    /// Changes a job, and tells the fleet which records changed.
    fn update<R>(&self, cell: &JobCell, change: impl FnOnce(&mut Job) -> R) -> R {
        cell.update(|job| {
            let result = change(job);
            job.take_changed(|record| self.fleet.record_changed(record));
            result
        })
    }
}

impl<F> Clone for JobEngine<F> {
    fn clone(&self) -> Self {
        Self {
            handle: self.handle.clone(),
        }
    }
}

impl<F: Fleet> JobEngine<F> {
    /// An engine without jobs, with its scheduler running.
    ///
    /// # Panics
    /// Outside a Tokio runtime with timers.
    #[must_use]
    pub fn new(fleet: Arc<F>, clock: Clock, settings: EngineSettings) -> Self {
        let shared = Arc::new(Shared {
            fleet,
            clock,
            table: Mutex::new(Table::new(&settings)),
            pacing: Pacing::new(settings.operations_per_second),
            settings,
            changed: Notify::new(),
        });
        let (stop, stopped) = oneshot::channel();
        let scheduler = tokio::spawn(scheduler::run(shared.clone(), stopped));
        Self {
            handle: Arc::new(Handle {
                shared,
                stop: Mutex::new(Some(stop)),
                scheduler: tokio::sync::Mutex::new(Some(scheduler)),
            }),
        }
    }

    /// Takes a job in. It starts at its start time, which may be past.
    ///
    /// # Errors
    /// `JobAlreadyExists` when the id was ever used and is still remembered,
    /// `ThrottlingMaxActiveJobCountExceeded` when too many jobs are active,
    /// `ServiceUnavailable` after [`JobEngine::shutdown`].
    pub fn create(&self, request: JobRequest) -> Result<CreatedJob, ServiceError> {
        let now = self.shared().clock.now();
        let job = Job::new(request, self.shared().settings.partial_failure, now);
        let created = job.created_view();
        self.table().insert(job, now)?;
        self.shared().changed.notify_one();
        Ok(created)
    }

    /// The job as it stands; `None` when the id is unknown.
    #[must_use]
    pub fn get(&self, id: &JobId) -> Option<JobView> {
        self.cell(id).map(|cell| cell.read(Job::view))
    }

    /// Cancels a job and gives it back as it stands then.
    ///
    /// # Errors
    /// `JobNotFound`; `JobRunPreconditionFailed` for a job that has ended, or
    /// runs and may not be stopped ([`EngineSettings::cancel_running`]).
    pub fn cancel(&self, id: &JobId) -> Result<JobView, ServiceError> {
        let now = self.shared().clock.now();
        let mut table = self.table();
        let Some(cell) = table.get(id) else {
            return Err(ServiceError::new(
                ErrorCode::JobNotFound,
                format!("job {id} does not exist"),
            ));
        };
        let running = self.shared().settings.cancel_running;
        self.shared().update(&cell, |job| job.cancel(running, now))?;
        table.retire(&cell, now);
        drop(table);
        cell.stop_runner();
        self.shared().changed.notify_one();
        Ok(cell.read(Job::view))
    }

    /// A page of jobs, newest first: at most `max` (at least 1), from the one
    /// after `after` on, which is the [`JobPage::next`] of the page before.
    #[must_use]
    pub fn list(&self, filter: &JobFilter, after: Option<u64>, max: usize) -> JobPage {
        let table = self.table();
        let mut admitted = table.older_than(after).filter_map(|cell| {
            let view = cell.read(Job::view);
            filter.admits(&view).then(|| (cell.number(), view))
        });
        let (numbers, jobs): (Vec<u64>, Vec<JobView>) = admitted.by_ref().take(max.max(1)).unzip();
        JobPage {
            jobs,
            next: numbers.last().copied().filter(|_| admitted.next().is_some()),
        }
    }

    /// Shows the records of some jobs, or of all, to `visit` until it breaks
    /// off: job by job, each ordered by target, from the one after `after` on.
    ///
    /// Some jobs are given sorted by their ids, each once; those that do not
    /// exist have no records. All jobs are looked at in the same order.
    ///
    /// `visit` runs under the lock of the job it sees a record of, so it must
    /// be quick and must not call the engine. Jobs that come or go meanwhile
    /// may or may not be seen; every record of the others is seen once.
    pub fn for_each_record(
        &self,
        jobs: Option<&[JobId]>,
        after: Option<&RecordKey>,
        mut visit: impl FnMut(&RecordView<'_>) -> ControlFlow<()>,
    ) {
        let mut visit_job = |cell: &JobCell| {
            let begin = match after {
                Some(key) if key.job > *cell.id() => return ControlFlow::Continue(()),
                Some(key) if key.job == *cell.id() => cell.read(|job| position_after(job, &key.target)),
                _ => 0,
            };
            visit_records(cell, begin, &mut visit)
        };
        if let Some(ids) = jobs {
            for cell in ids.iter().filter_map(|id| self.cell(id)) {
                if visit_job(&cell).is_break() {
                    return;
                }
            }
            return;
        }
        let mut next = match after {
            Some(key) => self.table().at_or_after(&key.job),
            None => self.table().first(),
        };
        while let Some(cell) = next {
            if visit_job(&cell).is_break() {
                return;
            }
            next = self.table().after(cell.id());
        }
    }

    /// Follows a job's progress; `None` when the id is unknown.
    ///
    /// The receiver sees the latest state, not every step, and its channel
    /// closes when the job is forgotten.
    #[must_use]
    pub fn watch(&self, id: &JobId) -> Option<watch::Receiver<Progress>> {
        self.cell(id).map(|cell| cell.watch())
    }

    /// Forgets every job; running ones stop where they are.
    pub fn reset(&self) {
        let now = self.shared().clock.now();
        let cells = self.table().clear();
        for cell in cells {
            // An ended job refuses, which is as good here.
            let _ = self
                .shared()
                .update(&cell, |job| job.cancel(CancelRunning::Stops, now));
            cell.stop_runner();
        }
        self.shared().changed.notify_one();
    }

    /// Stops the scheduler and every running job, and waits until they have.
    /// What was recorded can still be read; new jobs are refused.
    pub async fn shutdown(&self) {
        self.table().close();
        self.handle
            .stop
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // Later callers wait here until the first is done.
        if let Some(scheduler) = self.handle.scheduler.lock().await.take()
            && let Err(error) = scheduler.await
        {
            tracing::error!(%error, "the job scheduler ended abnormally");
        }
    }

    fn shared(&self) -> &Shared<F> {
        &self.handle.shared
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.shared().table()
    }

    fn cell(&self, id: &JobId) -> Option<Arc<JobCell>> {
        self.table().get(id)
    }
}

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JobPage {
    /// The jobs, newest first.
    pub jobs: Vec<JobView>,
    /// Where the next page begins; `None` when this is the last one.
    pub next: Option<u64>,
}

/// Names a record, to go on after it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordKey {
    /// The job.
    pub job: JobId,
    /// The device or module.
    pub target: Target,
}

impl RecordKey {
    /// The key of a record.
    #[must_use]
    pub fn of(view: &RecordView<'_>) -> Self {
        Self {
            job: view.request.id.clone(),
            target: view.record.target.clone(),
        }
    }
}

fn position_after(job: &Job, target: &Target) -> usize {
    job.records().partition_point(|record| record.target <= *target)
}

fn visit_records(
    cell: &JobCell,
    begin: usize,
    visit: &mut impl FnMut(&RecordView<'_>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut number = begin;
    loop {
        let more = cell.read(|job| {
            for _ in 0..SCAN_CHUNK {
                let Some(view) = job.record_view(number) else {
                    return ControlFlow::Continue(false);
                };
                visit(&view)?;
                number += 1;
            }
            ControlFlow::Continue(true)
        })?;
        if !more {
            return ControlFlow::Continue(());
        }
    }
}
