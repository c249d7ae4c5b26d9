//! Which job waits for what.
//!
//! Pure bookkeeping: the scheduler asks what is due, the engine enters and
//! looks up. Every job that is kept is in exactly one of `waiting`,
//! `enqueued`, `running` and `ended`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use hub_core::error::{ErrorCode, ServiceError};
use hub_core::ids::JobId;
use hub_core::job::Job;
use hub_core::time::Timestamp;

use super::EngineSettings;
use super::cell::JobCell;

#[derive(Debug)]
pub(super) struct Table {
    by_id: BTreeMap<JobId, Arc<JobCell>>,
    by_number: BTreeMap<u64, Entry>,
    last_number: u64,
    /// Jobs that the scheduler has not seen.
    unplanned: Vec<u64>,
    /// By start time.
    waiting: BTreeSet<(Timestamp, u64)>,
    /// Due, by start time; wait for one of the running jobs to end.
    enqueued: BTreeSet<(Timestamp, u64)>,
    running: BTreeSet<u64>,
    /// By end time.
    ended: BTreeSet<(Timestamp, u64)>,
    /// Sum of the entries' weights.
    weight: usize,
    closed: bool,
    max_running: usize,
    max_active: usize,
    refuse_when_busy: bool,
    max_weight: usize,
    retention: Duration,
}

#[derive(Debug)]
struct Entry {
    cell: Arc<JobCell>,
    /// What it takes of the cap on records: one for the job and one for each device.
    weight: usize,
}

/// What the scheduler has to do.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Jobs to run, in state `running`.
    pub(super) start: Vec<Arc<JobCell>>,
    /// When to look again, if nothing else happens before.
    pub(super) wake_at: Option<Timestamp>,
}

impl Table {
    pub(super) fn new(settings: &EngineSettings) -> Self {
        Self {
            by_id: BTreeMap::new(),
            by_number: BTreeMap::new(),
            last_number: 0,
            unplanned: Vec::new(),
            waiting: BTreeSet::new(),
            enqueued: BTreeSet::new(),
            running: BTreeSet::new(),
            ended: BTreeSet::new(),
            weight: 0,
            closed: false,
            max_running: settings.running_jobs.max(1),
            max_active: settings.active_jobs,
            refuse_when_busy: settings.refuse_when_busy,
            max_weight: settings.records,
            retention: settings.retention,
        }
    }

    /// Enters a new job.
    pub(super) fn insert(&mut self, job: Job, now: Timestamp) -> Result<(), ServiceError> {
        let id = &job.request().id;
        if self.closed {
            return Err(ServiceError::new(
                ErrorCode::ServiceUnavailable,
                "the job service is shutting down",
            ));
        }
        if self.by_id.contains_key(id) {
            return Err(ServiceError::new(
                ErrorCode::JobAlreadyExists,
                format!("job {id} already exists"),
            ));
        }
        // Whoever has seen a job's end may create the next one, also before the
        // job has left its place.
        let active = self.by_id.len() - self.ended.len() - (self.running.len() - self.still_running());
        if active >= self.max_active {
            return Err(too_active(self.max_active));
        }
        if self.refuse_when_busy && job.request().start_time <= now && self.is_busy(now) {
            return Err(too_active(self.max_running));
        }
        self.last_number += 1;
        let number = self.last_number;
        let (id, start_time) = (id.clone(), job.request().start_time);
        let cell = Arc::new(JobCell::new(number, job));
        self.unplanned.push(number);
        self.waiting.insert((start_time, number));
        self.by_id.insert(id, cell.clone());
        self.by_number.insert(number, Entry { cell, weight: 1 });
        self.weight += 1;
        self.evict_to(self.max_weight);
        Ok(())
    }

    /// Moves every job on as far as the time allows.
    pub(super) fn turn(&mut self, now: Timestamp) -> Turn {
        for number in std::mem::take(&mut self.unplanned) {
            if let Some(entry) = self.by_number.get(&number) {
                entry.cell.update(Job::plan);
            }
        }
        while let Some(&due) = self.waiting.first().filter(|(start, _)| *start <= now) {
            self.waiting.remove(&due);
            self.enqueued.insert(due);
            if let Some(entry) = self.by_number.get(&due.1) {
                entry.cell.update(Job::enqueue);
            }
        }
        let mut turn = Turn::default();
        while self.running.len() < self.max_running
            && let Some((_, number)) = self.enqueued.pop_first()
        {
            let Some(Entry { cell, .. }) = self.by_number.get(&number) else {
                continue;
            };
            if cell.update(|job| job.start(now)) {
                self.running.insert(number);
                turn.start.push(cell.clone());
            }
        }
        while let Some(&(ended, number)) = self.ended.first()
            && ended.saturating_add(self.retention) <= now
        {
            self.forget(number, ended);
        }
        let next_start = self.waiting.first().map(|(start, _)| *start);
        let next_expiry = self
            .ended
            .first()
            .map(|(ended, _)| ended.saturating_add(self.retention));
        turn.wake_at = next_start.into_iter().chain(next_expiry).min();
        turn
    }

    /// Makes room for a running job's records; the jobs that ended first go.
    pub(super) fn reserve(&mut self, cell: &JobCell, records: usize) -> Result<(), ServiceError> {
        let Some(room) = self.max_weight.checked_sub(records) else {
            return Err(too_many(records));
        };
        self.evict_to(room);
        let Some(entry) = self
            .by_number
            .get_mut(&cell.number())
            .filter(|_| self.weight <= room)
        else {
            return Err(too_many(records));
        };
        entry.weight += records;
        self.weight += records;
        Ok(())
    }

    /// A job has ended. Does nothing for one that is not kept, or was retired before.
    pub(super) fn retire(&mut self, cell: &JobCell, now: Timestamp) {
        let number = cell.number();
        if !self.by_number.contains_key(&number) {
            return;
        }
        let place = (cell.request().start_time, number);
        self.waiting.remove(&place);
        self.enqueued.remove(&place);
        self.running.remove(&number);
        self.ended.insert((cell.read(Job::ended).unwrap_or(now), number));
    }

    /// Takes out every job.
    pub(super) fn clear(&mut self) -> Vec<Arc<JobCell>> {
        self.unplanned.clear();
        self.waiting.clear();
        self.enqueued.clear();
        self.running.clear();
        self.ended.clear();
        self.by_id.clear();
        self.weight = 0;
        std::mem::take(&mut self.by_number)
            .into_values()
            .map(|entry| entry.cell)
            .collect()
    }

    /// Refuses jobs from here on.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    pub(super) fn get(&self, id: &JobId) -> Option<Arc<JobCell>> {
        self.by_id.get(id).cloned()
    }

    /// The job with the smallest id.
    pub(super) fn first(&self) -> Option<Arc<JobCell>> {
        self.by_id.values().next().cloned()
    }

    /// The job with that id, or else the next larger one.
    pub(super) fn at_or_after(&self, id: &JobId) -> Option<Arc<JobCell>> {
        self.by_id
            .range::<JobId, _>(id..)
            .next()
            .map(|(_, cell)| cell.clone())
    }

    /// The job with the next larger id.
    pub(super) fn after(&self, id: &JobId) -> Option<Arc<JobCell>> {
        let range = (Bound::Excluded(id), Bound::Unbounded);
        self.by_id
            .range::<JobId, _>(range)
            .next()
            .map(|(_, cell)| cell.clone())
    }

    /// The jobs created before the one with that number, newest first; all without one.
    pub(super) fn older_than(&self, number: Option<u64>) -> impl Iterator<Item = &Arc<JobCell>> {
        self.by_number
            .range(..number.unwrap_or(u64::MAX))
            .rev()
            .map(|(_, entry)| &entry.cell)
    }

    /// Whether as many jobs run, or should by this time, as may run at once.
    fn is_busy(&self, now: Timestamp) -> bool {
        let due = self.waiting.iter().take_while(|(start, _)| *start <= now);
        let active = self.still_running() + self.enqueued.len();
        active + due.take(self.max_running).count() >= self.max_running
    }

    /// Running jobs that have not come to their end; one that has frees its
    /// place a moment later.
    fn still_running(&self) -> usize {
        let running = self
            .running
            .iter()
            .filter_map(|number| self.by_number.get(number));
        running
            .filter(|entry| entry.cell.read(|job| !job.status().is_final()))
            .count()
    }

    fn evict_to(&mut self, weight: usize) {
        while self.weight > weight
            && let Some(&(ended, number)) = self.ended.first()
        {
            self.forget(number, ended);
        }
    }

    fn forget(&mut self, number: u64, ended: Timestamp) {
        self.ended.remove(&(ended, number));
        if let Some(entry) = self.by_number.remove(&number) {
            self.weight -= entry.weight;
            self.by_id.remove(entry.cell.id());
        }
    }
}

fn too_active(jobs: usize) -> ServiceError {
    ServiceError::new(
        ErrorCode::ThrottlingMaxActiveJobCountExceeded,
        format!("as many jobs are active as may be: {jobs}"),
    )
}

fn too_many(records: usize) -> ServiceError {
    ServiceError::new(
        ErrorCode::IotHubQuotaExceeded,
        format!("there is no room for the records of {records} devices"),
    )
}
