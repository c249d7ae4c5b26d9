//! Import and export jobs: moving the whole registry through files in blob
//! storage.
//!
//! [`RegistryJobRequest`] is what a caller asks for, [`RegistryJob`] the record
//! that callers see; its methods are the only way from one status to the next.
//! The files, the registry and the one-at-a-time rule belong to the hub. The
//! scheduled jobs of [`crate::job`] are something else. Source: the identity
//! registry guide's pages on import and export.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::blob::{BlobName, ContainerName};
use crate::error::{ErrorCode, ServiceError};
use crate::registry::{ExportKeys, body};
use crate::time::Timestamp;

/// Name of the blob with the failed lines of an import.
pub const ERRORS_BLOB: &str = "importErrors.log";

/// First line of an export without keys; what is no JSON object is no device.
pub const NO_KEYS_NOTICE: &str = "The keys of the devices were excluded from this export.";

/// Name of the blob with the identities when a request gives none.
const DEVICES_BLOB: &str = "devices.txt";

/// A container in the hub's own storage as a request addresses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerAddress {
    /// The container.
    pub container: ContainerName,
    /// The query string with its token; empty if there is none.
    pub sas: String,
}

impl ContainerAddress {
    /// Reads `https://{host}[:{port}]/{container}[?{token}]`. `is_own_host`
    /// says whether a host name is one of the hub's.
    ///
    /// # Errors
    /// `BlobContainerValidationError` when it is not such an address, or one
    /// elsewhere.
    pub fn parse(uri: &str, is_own_host: impl Fn(&str) -> bool) -> Result<Self, ServiceError> {
        let rest = uri
            .strip_prefix("https://")
            .or_else(|| uri.strip_prefix("http://"))
            .ok_or_else(|| bad_container("the container URI must begin with https://"))?;
        let (address, sas) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = address
            .split_once('/')
            .ok_or_else(|| bad_container("the container URI names no container"))?;
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => authority,
        };
        if !is_own_host(host) {
            return Err(bad_container(
                "the container is not in this hub's own storage, which is all that it can reach",
            ));
        }
        let container = path.strip_suffix('/').unwrap_or(path);
        let container = ContainerName::parse(container).map_err(|e| bad_container(&e.to_string()))?;
        Ok(Self {
            container,
            sas: sas.into(),
        })
    }
}

/// The refusal of a container.
#[must_use]
pub fn bad_container(text: &str) -> ServiceError {
    ServiceError::new(ErrorCode::BlobContainerValidationError, text)
}

/// What a job does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryJobKind {
    /// Writes every identity to the output blob.
    Export {
        /// With keys or without.
        keys: ExportKeys,
        /// Name of the blob, `devices.txt` unless the request names another.
        output: BlobName,
    },
    /// Carries out every line of the input blob; failures go to
    /// [`ERRORS_BLOB`] in the output container.
    Import {
        /// Where the input is.
        from: ContainerAddress,
        /// Name of the blob.
        input: BlobName,
    },
}

/// The body of a request for a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryJobRequest {
    /// What to do.
    pub kind: RegistryJobKind,
    /// Where results go.
    pub to: ContainerAddress,
    /// How the service would open the containers; shown, and without effect.
    pub storage_authentication: StorageAuthentication,
}

/// How a job opens its containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum StorageAuthentication {
    /// By the token in the address.
    #[default]
    KeyBased,
    /// As the hub's own identity.
    IdentityBased,
}

impl RegistryJobRequest {
    /// Reads job properties as the SDKs send them; what a caller has no say in,
    /// such as `status`, is ignored.
    ///
    /// # Errors
    /// `ArgumentInvalid` for a type other than `import` and `export` or a
    /// member of the wrong type, `ArgumentNull` without a container,
    /// `BlobContainerValidationError` for one that is not the hub's own.
    pub fn from_json(body: &Value, is_own_host: impl Fn(&str) -> bool) -> Result<Self, ServiceError> {
        let body = body::object(body, "the job")?;
        let container = |name| {
            let uri = body::non_empty_str(body, name)?
                .ok_or_else(|| ServiceError::new(ErrorCode::ArgumentNull, format!("{name} is required")))?;
            ContainerAddress::parse(uri, &is_own_host)
        };
        let blob = |name| {
            BlobName::parse(body::non_empty_str(body, name)?.unwrap_or(DEVICES_BLOB))
                .map_err(|e| ServiceError::invalid(format!("{name}: {e}")))
        };
        let kind = body::non_empty_str(body, "type")?.unwrap_or_default();
        let kind = if kind.eq_ignore_ascii_case("export") {
            let keys = match body::optional_bool(body, "excludeKeysInExport")? {
                Some(true) => ExportKeys::Excluded,
                _ => ExportKeys::Included,
            };
            RegistryJobKind::Export {
                keys,
                output: blob("outputBlobName")?,
            }
        } else if kind.eq_ignore_ascii_case("import") {
            RegistryJobKind::Import {
                from: container("inputBlobContainerUri")?,
                input: blob("inputBlobName")?,
            }
        } else {
            return Err(ServiceError::invalid("type must be import or export"));
        };
        Ok(Self {
            kind,
            to: container("outputBlobContainerUri")?,
            storage_authentication: storage_authentication(body)?,
        })
    }
}

fn storage_authentication(body: &Map<String, Value>) -> Result<StorageAuthentication, ServiceError> {
    // Case is not significant: SDKs spell enumerations in various ways.
    match body::non_empty_str(body, "storageAuthenticationType")? {
        None => Ok(StorageAuthentication::KeyBased),
        Some(kind) if kind.eq_ignore_ascii_case("keyBased") => Ok(StorageAuthentication::KeyBased),
        Some(kind) if kind.eq_ignore_ascii_case("identityBased") => Ok(StorageAuthentication::IdentityBased),
        Some(_) => Err(ServiceError::invalid(
            "storageAuthenticationType must be keyBased or identityBased",
        )),
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RegistryJobStatus {
    /// Accepted.
    Enqueued,
    /// Under way.
    Running,
    /// Done, whatever became of single lines.
    Completed,
    /// Ended by an error of the job as a whole.
    Failed,
    /// Ended by a caller.
    Cancelled,
}

/// A job as callers see it; serializes as the service's job properties.
/// Addresses of containers are not shown: they may hold tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RegistryJob {
    job_id: Box<str>,
    #[serde(rename = "type")]
    kind: &'static str,
    status: RegistryJobStatus,
    /// Percent.
    progress: u8,
    start_time_utc: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_time_utc: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_blob_name: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_blob_name: Option<Box<str>>,
    exclude_keys_in_export: bool,
    storage_authentication_type: StorageAuthentication,
    failure_reason: Option<Box<str>>,
}

impl RegistryJob {
    /// The record of a job that was accepted.
    #[must_use]
    pub fn new(id: &str, request: &RegistryJobRequest, now: Timestamp) -> Self {
        let (name, input, output, keys) = match &request.kind {
            RegistryJobKind::Export { keys, output } => ("export", None, Some(output), *keys),
            RegistryJobKind::Import { input, .. } => ("import", Some(input), None, ExportKeys::Included),
        };
        let text = |blob: Option<&BlobName>| blob.map(|blob| blob.as_str().into());
        Self {
            job_id: id.into(),
            kind: name,
            status: RegistryJobStatus::Enqueued,
            progress: 0,
            start_time_utc: now,
            end_time_utc: None,
            input_blob_name: text(input),
            output_blob_name: text(output),
            exclude_keys_in_export: keys == ExportKeys::Excluded,
            storage_authentication_type: request.storage_authentication,
            failure_reason: None,
        }
    }

    /// The job's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.job_id
    }

    /// Whether the job has not ended.
    #[must_use]
    pub fn is_active(&self) -> bool {
        matches!(
            self.status,
            RegistryJobStatus::Enqueued | RegistryJobStatus::Running
        )
    }

    /// Says that `done` of `all` is done; nothing for a job that has ended.
    pub fn advance(&mut self, done: u64, all: u64) {
        if self.is_active() {
            self.status = RegistryJobStatus::Running;
            // Hundred is for the end.
            let percent = done.saturating_mul(100) / all.max(1);
            self.progress = self.progress.max(u8::try_from(percent).unwrap_or(99).min(99));
        }
    }

    /// Ends the job, with the reason if it failed; nothing for one that has
    /// ended.
    pub fn finish(&mut self, outcome: Result<(), ServiceError>, now: Timestamp) {
        if !self.is_active() {
            return;
        }
        self.end_time_utc = Some(now);
        match outcome {
            Ok(()) => {
                self.status = RegistryJobStatus::Completed;
                self.progress = 100;
            }
            Err(error) => {
                self.status = RegistryJobStatus::Failed;
                self.failure_reason = Some(error.message.into());
            }
        }
    }

    /// Ends the job on a caller's wish; nothing for one that has ended.
    pub fn cancel(&mut self, now: Timestamp) {
        if self.is_active() {
            self.status = RegistryJobStatus::Cancelled;
            self.end_time_utc = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn own(host: &str) -> bool {
        host == "localhost" || host == "[::1]"
    }

    #[test]
    fn containers_are_the_hubs_own() {
        for (uri, sas) in [
            ("https://localhost/files?sv=1&sig=a%2F", "sv=1&sig=a%2F"),
            ("https://localhost:8443/files/", ""),
            ("http://[::1]:8080/files", ""),
            ("http://[::1]/files", ""),
        ] {
            let address = ContainerAddress::parse(uri, own).unwrap();
            assert_eq!((address.container.as_str(), &*address.sas), ("files", sas));
        }
        for uri in [
            "",
            "files",
            "file:///files",
            "https://localhost",
            "https://localhost/",
            "https://localhost/Files",
            "https://localhost/files/more",
            "https://localhost/../etc",
            "https://acct.blob.core.windows.net/files",
            "https://localhost@elsewhere/files",
            "https://elsewhere?localhost/files",
        ] {
            let error = ContainerAddress::parse(uri, own).unwrap_err();
            assert_eq!(error.code, ErrorCode::BlobContainerValidationError, "{uri}");
        }
    }

    #[test]
    fn requests_have_defaults() {
        let uri = "https://localhost/files";
        let read = |body: Value| RegistryJobRequest::from_json(&body, own);
        let job = read(json!({"type": "Export", "outputBlobContainerUri": uri, "excludeKeysInExport": true}));
        let output = BlobName::parse("devices.txt").unwrap();
        assert_eq!(
            job.unwrap().kind,
            RegistryJobKind::Export {
                keys: ExportKeys::Excluded,
                output
            }
        );
        let job = read(
            json!({"type": "import", "inputBlobContainerUri": uri, "outputBlobContainerUri": uri, "inputBlobName": "a/b"}),
        );
        assert!(
            matches!(job.unwrap().kind, RegistryJobKind::Import { input, .. } if input.as_str() == "a/b")
        );
        for (body, code) in [
            (json!([]), ErrorCode::ArgumentInvalid),
            (json!({}), ErrorCode::ArgumentInvalid),
            (json!({"type": 1}), ErrorCode::ArgumentInvalid),
            (json!({"type": "export"}), ErrorCode::ArgumentNull),
            (
                json!({"type": "export", "outputBlobContainerUri": ""}),
                ErrorCode::ArgumentNull,
            ),
            (
                json!({"type": "export", "outputBlobContainerUri": 1}),
                ErrorCode::ArgumentInvalid,
            ),
            (
                json!({"type": "export", "outputBlobContainerUri": uri, "storageAuthenticationType": "no"}),
                ErrorCode::ArgumentInvalid,
            ),
            (
                json!({"type": "export", "outputBlobContainerUri": uri, "excludeKeysInExport": 1}),
                ErrorCode::ArgumentInvalid,
            ),
            (
                json!({"type": "export", "outputBlobContainerUri": uri, "outputBlobName": "\0"}),
                ErrorCode::ArgumentInvalid,
            ),
            (
                json!({"type": "import", "outputBlobContainerUri": uri}),
                ErrorCode::ArgumentNull,
            ),
        ] {
            assert_eq!(read(body.clone()).unwrap_err().code, code, "{body}");
        }
    }

    #[test]
    fn a_job_ends_once() {
        let now = Timestamp::from_unix_seconds(0);
        let body = json!({"type": "export", "outputBlobContainerUri": "https://localhost/container"});
        let request = RegistryJobRequest::from_json(&body, |_| true).unwrap();
        let mut job = RegistryJob::new("j", &request, now);
        job.advance(0, 0);
        job.advance(5, 10);
        assert_eq!((job.status, job.progress), (RegistryJobStatus::Running, 50));
        job.advance(20, 10);
        assert_eq!(job.progress, 99);
        let mut cancelled = job.clone();
        cancelled.cancel(now);
        cancelled.finish(Ok(()), now);
        cancelled.advance(1, 1);
        assert_eq!(cancelled.status, RegistryJobStatus::Cancelled);
        let mut failed = job.clone();
        failed.finish(Err(ServiceError::invalid("why")), now);
        assert_eq!(failed.failure_reason.as_deref(), Some("why"));
        job.finish(Ok(()), now);
        job.cancel(now);
        assert_eq!((job.status, job.progress), (RegistryJobStatus::Completed, 100));
    }
}
