//! Which jobs a listing shows.

use super::view::JobView;
use super::{JobStatus, JobType};
use crate::error::ServiceError;

/// The filters `jobType` and `jobStatus` of `GET /jobs/v2/query`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JobFilter {
    job_type: Wanted<JobType>,
    status: Wanted<JobStatus>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Wanted<T> {
    #[default]
    Any,
    Only(T),
    /// A legal value that no scheduled job ever has.
    Nothing,
}

impl<T: PartialEq> Wanted<T> {
    fn admits(&self, value: &T) -> bool {
        match self {
            Self::Any => true,
            Self::Only(wanted) => wanted == value,
            Self::Nothing => false,
        }
    }
}

impl JobFilter {
    /// Reads both filters; absent and empty ones admit everything.
    ///
    /// Values are names on the wire or those of the .NET enumerations, so case
    /// does not count.
    ///
    /// # Errors
    /// `ArgumentInvalid` for a name of neither.
    pub fn parse(job_type: Option<&str>, job_status: Option<&str>) -> Result<Self, ServiceError> {
        Ok(Self {
            job_type: wanted("jobType", job_type, |name| {
                Some(match name {
                    "scheduledevicemethod" => Wanted::Only(JobType::DeviceMethod),
                    "scheduleupdatetwin" => Wanted::Only(JobType::UpdateTwin),
                    "unknown" | "export" | "import" | "exportdevices" | "importdevices" => Wanted::Nothing,
                    _ => return None,
                })
            })?,
            status: wanted("jobStatus", job_status, |name| {
                Some(Wanted::Only(match name {
                    "queued" => JobStatus::Queued,
                    "scheduled" => JobStatus::Scheduled,
                    "enqueued" => JobStatus::Enqueued,
                    "running" => JobStatus::Running,
                    "completed" => JobStatus::Completed,
                    "failed" => JobStatus::Failed,
                    "cancelled" | "canceled" => JobStatus::Cancelled,
                    "unknown" => return Some(Wanted::Nothing),
                    _ => return None,
                }))
            })?,
        })
    }

    /// Whether the listing shows this job.
    #[must_use]
    pub fn admits(&self, job: &JobView) -> bool {
        self.job_type.admits(&job.request.action.job_type()) && self.status.admits(&job.status)
    }
}

fn wanted<T>(
    parameter: &str,
    value: Option<&str>,
    read: impl Fn(&str) -> Option<Wanted<T>>,
) -> Result<Wanted<T>, ServiceError> {
    match value {
        None | Some("") => Ok(Wanted::Any),
        Some(name) => read(&name.to_ascii_lowercase())
            .ok_or_else(|| ServiceError::invalid(format!("{parameter} {name:?} is not known"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    #[test]
    fn names_are_those_of_the_wire_and_of_dotnet_in_any_case() {
        let parse = |job_type: &str, status: &str| JobFilter::parse(Some(job_type), Some(status));
        for (name, wanted) in [
            ("scheduleDeviceMethod", Wanted::Only(JobType::DeviceMethod)),
            ("ScheduleDeviceMethod", Wanted::Only(JobType::DeviceMethod)),
            ("SCHEDULEUPDATETWIN", Wanted::Only(JobType::UpdateTwin)),
            ("ExportDevices", Wanted::Nothing),
            ("ImportDevices", Wanted::Nothing),
            ("export", Wanted::Nothing),
            ("import", Wanted::Nothing),
            ("Unknown", Wanted::Nothing),
            ("", Wanted::Any),
        ] {
            assert_eq!(parse(name, "").unwrap().job_type, wanted, "{name}");
        }
        for status in [
            JobStatus::Queued,
            JobStatus::Scheduled,
            JobStatus::Enqueued,
            JobStatus::Running,
            JobStatus::Completed,
            JobStatus::Failed,
            JobStatus::Cancelled,
        ] {
            for name in [
                status.name().to_owned(),
                status.name().to_uppercase(),
                format!("{status:?}"),
            ] {
                assert_eq!(parse("", &name).unwrap().status, Wanted::Only(status), "{name}");
            }
        }
        assert_eq!(
            parse("", "canceled").unwrap().status,
            Wanted::Only(JobStatus::Cancelled)
        );
        assert_eq!(JobFilter::parse(None, None).unwrap(), JobFilter::default());
    }

    #[test]
    fn other_names_are_refused() {
        for (job_type, status) in [
            (Some("scheduleTwinUpdate"), None),
            (None, Some("done")),
            (Some(" "), None),
        ] {
            let error = JobFilter::parse(job_type, status).unwrap_err();
            assert_eq!(error.code, ErrorCode::ArgumentInvalid);
        }
    }
}
