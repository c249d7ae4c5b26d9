//! Import and export jobs: the list of them, and how they run.
//!
//! A job runs in a task of its own, reads or writes the registry a stretch at
//! a time and gives others a turn in between. One is active at a time, as in
//! every tier of the service.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hub_core::blob::{BlobName, ContainerName};
use hub_core::error::{ErrorCode, ServiceError};
use hub_core::limits;
use hub_core::registry::{
    BulkAction, BulkEntry, BulkError, ExportKeys, ExportLine, IfMatch, parse_import_line,
};
use hub_core::registry_job::{
    ContainerAddress, ERRORS_BLOB, NO_KEYS_NOTICE, RegistryJob, RegistryJobKind, RegistryJobRequest,
    bad_container,
};
use hub_core::sas::blob::check;
use serde_json::json;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::cell::DeviceState;
use super::twins::TwinWrite;
use super::{HubState, internal};
use crate::blobs::{Condition, Staged, StoreError};

/// Devices exported, and lines imported, before other tasks get a turn.
const CHUNK: usize = 64;

/// The latest jobs. The oldest that has ended goes first.
#[derive(Default)]
pub(crate) struct RegistryJobs(Mutex<VecDeque<Entry>>);

struct Entry {
    record: RegistryJob,
    stop: CancellationToken,
}

/// A job that was accepted and is yet to be run.
pub(crate) struct AcceptedJob {
    pub(crate) record: RegistryJob,
    request: RegistryJobRequest,
    stop: CancellationToken,
}

impl RegistryJobs {
    /// All kept jobs, newest first.
    pub(crate) fn list(&self) -> Vec<RegistryJob> {
        self.lock()
            .iter()
            .rev()
            .map(|entry| entry.record.clone())
            .collect()
    }

    /// The job of that id.
    ///
    /// # Errors
    /// `JobNotFound`.
    pub(crate) fn get(&self, id: &str) -> Result<RegistryJob, ServiceError> {
        let jobs = self.lock();
        let entry = jobs.iter().find(|entry| entry.record.id() == id);
        entry
            .map(|entry| entry.record.clone())
            .ok_or_else(|| unknown_job(id))
    }

    fn push(&self, entry: Entry) -> Result<(), ServiceError> {
        let mut jobs = self.lock();
        if jobs.iter().any(|entry| entry.record.is_active()) {
            return Err(ServiceError::new(
                ErrorCode::JobQuotaExceeded,
                "an import or export job is active already",
            ));
        }
        // None is active, so the oldest has ended.
        if jobs.len() >= limits::REGISTRY_JOBS {
            jobs.pop_front();
        }
        jobs.push_back(entry);
        Ok(())
    }

    fn with(&self, id: &str, change: impl FnOnce(&mut RegistryJob)) {
        let mut jobs = self.lock();
        if let Some(entry) = jobs.iter_mut().find(|entry| entry.record.id() == id) {
            change(&mut entry.record);
        }
    }

    /// Does a part of the job's work, unless the job has ended: once a
    /// cancellation has been answered, or the hub been reset, the job changes
    /// nothing any more.
    fn while_active<T>(&self, id: &str, work: impl FnOnce() -> T) -> Option<T> {
        let jobs = self.lock();
        let entry = jobs.iter().rev().find(|entry| entry.record.id() == id);
        entry.filter(|entry| entry.record.is_active()).map(|_| work())
    }

    /// Forgets all jobs and stops the active one.
    pub(crate) fn clear(&self) {
        for entry in self.lock().drain(..) {
            entry.stop.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unknown_job(id: &str) -> ServiceError {
    ServiceError::new(ErrorCode::JobNotFound, format!("job {id} does not exist"))
}

impl HubState {
    /// Accepts a job; [`HubState::run_registry_job`] then runs it.
    ///
    /// # Errors
    /// `BlobContainerValidationError` for a container that does not exist or
    /// whose token does not open it, `JobQuotaExceeded` while a job is active.
    pub(crate) async fn accept_registry_job(
        &self,
        request: RegistryJobRequest,
    ) -> Result<AcceptedJob, ServiceError> {
        self.check_container(&request.to, "wc").await?;
        if let RegistryJobKind::Import { from, .. } = &request.kind {
            self.check_container(from, "r").await?;
        }
        let id = Uuid::new_v4().to_string();
        let record = RegistryJob::new(&id, &request, self.clock.now());
        let stop = CancellationToken::new();
        self.registry_jobs.push(Entry {
            record: record.clone(),
            stop: stop.clone(),
        })?;
        Ok(AcceptedJob {
            record,
            request,
            stop,
        })
    }

    /// A token may be left out: the caller may write the whole registry.
    async fn check_container(&self, address: &ContainerAddress, wanted: &str) -> Result<(), ServiceError> {
        let ContainerAddress { container, sas } = address;
        if !self.blobs.has_container(container).await {
            return Err(bad_container(&format!("there is no container {container}")));
        }
        if sas.is_empty() {
            return Ok(());
        }
        let (now, key) = (self.clock.now(), &self.settings.blob_key);
        check(sas, container, None, wanted, now, key).map_err(|e| bad_container(&e.to_string()))
    }

    /// Ends a job that is active.
    ///
    /// # Errors
    /// `JobNotFound`.
    pub(crate) fn cancel_registry_job(&self, id: &str) -> Result<(), ServiceError> {
        let mut jobs = self.registry_jobs.lock();
        let entry = jobs.iter_mut().find(|entry| entry.record.id() == id);
        let entry = entry.ok_or_else(|| unknown_job(id))?;
        entry.record.cancel(self.clock.now());
        entry.stop.cancel();
        Ok(())
    }

    /// Runs a job to its end.
    pub(crate) async fn run_registry_job(&self, job: AcceptedJob) {
        let AcceptedJob {
            record,
            request,
            stop,
        } = job;
        let id = record.id();
        let work = async {
            match &request.kind {
                RegistryJobKind::Export { keys, output } => {
                    self.export(id, *keys, &request.to.container, output).await
                }
                RegistryJobKind::Import { from, input } => {
                    self.import(id, &from.container, input, &request.to.container)
                        .await
                }
            }
        };
        // Dropped in the middle, a job leaves no blob; what an import has
        // changed stays.
        if let Some(outcome) = stop.run_until_cancelled(work).await {
            let now = self.clock.now();
            let outcome = outcome.map_err(|error| match error {
                JobError::Input(blob) => ServiceError::invalid(format!("there is no blob {blob}")),
                JobError::Store(error) => internal(error),
            });
            self.registry_jobs.with(id, |job| job.finish(outcome, now));
        }
    }

    async fn export(
        &self,
        id: &str,
        keys: ExportKeys,
        to: &ContainerName,
        output: &BlobName,
    ) -> Result<(), JobError> {
        let mut file = self.blobs.stage().await?;
        let mut lines = Vec::new();
        if keys == ExportKeys::Excluded {
            lines.extend_from_slice(NO_KEYS_NOTICE.as_bytes());
            lines.push(b'\n');
        }
        let (mut after, mut done) = (None, 0);
        loop {
            let ids = self.registry.devices_after(after.as_ref(), CHUNK);
            for id in &ids {
                if let Some(cell) = self.registry.find(id) {
                    export_device(&cell.lock(), keys, &mut lines)?;
                }
                // At once: with 50 modules a device may have megabytes.
                file.write(&lines).await?;
                lines.clear();
            }
            done += ids.len();
            let all = self.registry.len();
            self.registry_jobs
                .with(id, |job| job.advance(done as u64, all as u64));
            match ids.into_iter().next_back() {
                Some(last) => after = Some(last),
                None => break,
            }
            tokio::task::yield_now().await;
        }
        self.blobs.commit(file, to, output, Condition::Always).await?;
        Ok(())
    }

    async fn import(
        &self,
        id: &str,
        from: &ContainerName,
        input: &BlobName,
        to: &ContainerName,
    ) -> Result<(), JobError> {
        let (file, info) = self.blobs.open(from, input).await.map_err(|error| match error {
            StoreError::NoBlob => JobError::Input(input.clone()),
            error => error.into(),
        })?;
        let mut file = BufReader::new(file);
        let mut errors = self.blobs.stage().await?;
        let (mut line, mut read) = (Vec::new(), 0);
        for number in 1_usize.. {
            let length = read_line(&mut file, &mut line).await?;
            if length == 0 {
                break;
            }
            read += length;
            let imported = self
                .registry_jobs
                .while_active(id, || self.import_line(&line, number));
            match imported {
                Some(Ok(())) => {}
                Some(Err(error)) => write_error(&mut errors, &error).await?,
                None => return Ok(()),
            }
            if number % CHUNK == 0 {
                self.registry_jobs
                    .with(id, |job| job.advance(read as u64, info.size));
                tokio::task::yield_now().await;
            }
        }
        // Written even without errors, so that none of an earlier job stay.
        let blob = BlobName::parse(ERRORS_BLOB).map_err(|e| StoreError::Io(std::io::Error::other(e)))?;
        self.blobs.commit(errors, to, &blob, Condition::Always).await?;
        Ok(())
    }

    fn import_line(&self, line: &[u8], number: usize) -> Result<(), BulkError> {
        // Some editors begin a file with a byte order mark.
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line).trim_ascii();
        // The notice of an export without keys is no device.
        if line.is_empty() || (number == 1 && !line.starts_with(b"{")) {
            return Ok(());
        }
        let entry = parse_import_line(line)?;
        self.import_entry(entry.clone())
            .map_err(|error| entry.failed(&error))
    }

    fn import_entry(&self, mut entry: BulkEntry) -> Result<(), ServiceError> {
        if !entry.mode.creates_or_updates() {
            return self.apply_bulk(&entry);
        }
        if self.check_exists(&entry.target).is_err() {
            entry.if_match = IfMatch::Absent;
            return self.apply_bulk(&entry);
        }
        self.apply_bulk(&entry)?;
        // Unlike single requests, an import also changes the twin of a device
        // that exists.
        match &entry.action {
            BulkAction::Put { twin, .. } if !twin.is_empty() => self
                .write_twin(&entry.target, TwinWrite::Merge, twin, &IfMatch::Any)
                .map(|_| ()),
            _ => Ok(()),
        }
    }
}

/// Why a job as a whole fails.
#[derive(Debug, thiserror::Error)]
enum JobError {
    #[error("there is no blob {0}")]
    Input(BlobName),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<std::io::Error> for JobError {
    fn from(error: std::io::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Writes the lines of a device and its modules; not of those that the hub
/// gives every Edge device, because it would give them to an imported one.
fn export_device(state: &DeviceState, keys: ExportKeys, lines: &mut Vec<u8>) -> std::io::Result<()> {
    if state.deleted {
        return Ok(());
    }
    let mut write = |line: ExportLine<'_>| {
        serde_json::to_writer(&mut *lines, &line)?;
        lines.push(b'\n');
        Ok::<(), std::io::Error>(())
    };
    let device = &state.identity;
    write(ExportLine::device(device, &state.endpoint.twin, keys))?;
    for module in state.modules.values() {
        if !module.identity.id.is_system() {
            let (identity, twin) = (&module.identity, &module.endpoint.twin);
            write(ExportLine::module(identity, device.status, twin, keys))?;
        }
    }
    Ok(())
}

/// Reads a line and says how many bytes it took; none at the end. Of a line
/// that is too long only the beginning is kept, which is no JSON.
async fn read_line(file: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> std::io::Result<usize> {
    line.clear();
    let mut total = (&mut *file)
        .take(limits::IMPORT_LINE_BYTES as u64)
        .read_until(b'\n', line)
        .await?;
    let mut ended = line.last() == Some(&b'\n');
    let mut rest = Vec::new();
    while !ended && total > 0 {
        rest.clear();
        let more = (&mut *file)
            .take(limits::IMPORT_LINE_BYTES as u64)
            .read_until(b'\n', &mut rest)
            .await?;
        total += more;
        ended = more == 0 || rest.last() == Some(&b'\n');
    }
    Ok(total)
}

async fn write_error(file: &mut Staged, error: &BulkError) -> std::io::Result<()> {
    let mut line = json!({
        "deviceId": error.device_id,
        "errorCode": error.error_code,
        "errorStatus": error.error_status,
    });
    if let Some(module) = &error.module_id {
        line["moduleId"] = module.as_str().into();
    }
    file.write(format!("{line}\n").as_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_job_that_was_cancelled_or_forgotten_changes_nothing_more() {
        let hub = HubState::for_tests();
        let uri = "https://localhost/device-uploads";
        let body = json!({"type": "import", "inputBlobContainerUri": uri, "outputBlobContainerUri": uri});
        let (container, blob) = (ContainerName::uploads(), BlobName::parse("devices.txt").unwrap());
        let mut file = hub.blobs.stage().await.unwrap();
        file.write(b"{\"id\":\"d\",\"status\":\"enabled\"}\n")
            .await
            .unwrap();
        let always = Condition::Always;
        hub.blobs.commit(file, &container, &blob, always).await.unwrap();
        for end in [
            |hub: &HubState, id: &str| hub.cancel_registry_job(id).unwrap(),
            |hub: &HubState, _: &str| hub.reset(),
        ] {
            let request = RegistryJobRequest::from_json(&body, |_| true).unwrap();
            let job = hub.accept_registry_job(request).await.unwrap();
            let id = job.record.id().to_owned();
            end(&hub, &id);
            // As far as a job may get before it hears of its end.
            hub.import(&id, &container, &blob, &container).await.unwrap();
            assert_eq!(hub.registry.len(), 0);
        }
        let request = RegistryJobRequest::from_json(&body, |_| true).unwrap();
        let job = hub.accept_registry_job(request).await.unwrap();
        hub.run_registry_job(job).await;
        assert_eq!(hub.registry.len(), 1);
    }

    #[tokio::test]
    async fn lines_are_bounded_and_none_is_lost() {
        let long = "x".repeat(3 * limits::IMPORT_LINE_BYTES);
        let text = format!("a\n\n{long}\nb");
        let mut file = text.as_bytes();
        let mut line = Vec::new();
        let mut lines = Vec::new();
        while read_line(&mut file, &mut line).await.unwrap() > 0 {
            lines.push(line.len());
        }
        assert_eq!(lines, [2, 1, limits::IMPORT_LINE_BYTES, 1]);
    }
}
