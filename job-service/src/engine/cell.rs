//! One job, shared between the callers and the task that runs it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hub_core::ids::JobId;
use hub_core::job::{Job, JobRequest, JobStatus, Statistics};
use tokio::sync::{Notify, watch};

/// How far a job has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Where the job stands.
    pub status: JobStatus,
    /// Where its devices stand; all zero before the run.
    pub statistics: Statistics,
}

impl Progress {
    fn of(job: &Job) -> Self {
        Self {
            status: job.status(),
            statistics: job.statistics(),
        }
    }
}

/// A job under its lock, with what never changes beside it.
#[derive(Debug)]
pub(super) struct JobCell {
    number: u64,
    request: Arc<JobRequest>,
    /// Held for a few reads or one batch of outcomes.
    job: Mutex<Job>,
    progress: watch::Sender<Progress>,
    /// Tells the runner that the job was ended by somebody else.
    stop: Notify,
}

impl JobCell {
    pub(super) fn new(number: u64, job: Job) -> Self {
        Self {
            number,
            request: job.request().clone(),
            progress: watch::Sender::new(Progress::of(&job)),
            job: Mutex::new(job),
            stop: Notify::new(),
        }
    }

    /// The job's place in the order of creation.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn id(&self) -> &JobId {
        &self.request.id
    }

    pub(super) fn request(&self) -> &Arc<JobRequest> {
        &self.request
    }

    pub(super) fn read<R>(&self, look: impl FnOnce(&Job) -> R) -> R {
        look(&self.lock())
    }

    /// Changes the job and tells its watchers. They are told under the lock,
    /// so that what they see never goes back.
    pub(super) fn update<R>(&self, change: impl FnOnce(&mut Job) -> R) -> R {
        let mut job = self.lock();
        let result = change(&mut job);
        let progress = Progress::of(&job);
        self.progress.send_if_modified(|last| {
            let modified = *last != progress;
            *last = progress;
            modified
        });
        result
    }

    pub(super) fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Ends the task that runs the job, if there is one.
    pub(super) fn stop_runner(&self) {
        self.stop.notify_one();
    }

    pub(super) async fn stopped(&self) {
        self.stop.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Job> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
