//! What became of one device in a job, and the sums over all of them.

use std::sync::Arc;

use serde::Serialize;

use crate::error::ErrorCode;
use crate::ids::Target;
use crate::method::MethodResponse;
use crate::time::Timestamp;

/// One device's part of a job.
///
/// A hub keeps up to [`limits::JOB_RECORDS`](crate::limits::JOB_RECORDS) of
/// these, so they carry nothing that the job itself knows, such as its id and
/// when the records were created.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceRecord {
    /// The device or module.
    pub target: Target,
    /// When the operation on the device began; [`Timestamp::NEVER`] before.
    pub started: Timestamp,
    /// When the device reached a final state; [`Timestamp::NEVER`] before.
    pub ended: Timestamp,
    /// Where the device stands.
    pub state: RecordState,
}

/// Where a device stands in a job.
///
/// The service's enumeration also has `scheduled`, for which nothing is known
/// to be used; the emulator never produces it.
#[derive(Debug, Clone, PartialEq)]
pub enum RecordState {
    /// Selected, and nothing done yet.
    Pending,
    /// The operation is under way.
    Running,
    /// The device answered the method, or its twin took the patch.
    Completed(Outcome),
    /// The operation failed.
    Failed(RecordError),
    /// The job was cancelled before the operation was done.
    Canceled,
}

impl RecordState {
    /// The name on the wire.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed(_) => "completed",
            Self::Failed(_) => "failed",
            Self::Canceled => "canceled",
        }
    }

    /// Whether the device is done with; no event changes such a record any more.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }
}

/// How an operation on a device succeeded.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The device answered a method call, with whatever status of its own.
    Method(MethodResponse),
    /// The twin took the patch.
    Twin,
}

/// Why an operation on a device failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordError {
    /// Which of the service's errors it was.
    pub code: ErrorCode,
    /// Text for people. Shared, because the failures of a fleet are mostly alike.
    pub description: Arc<str>,
}

/// How many devices of a job stand where. The four parts always add up to
/// [`Statistics::device_count`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Statistics {
    /// Devices that the query selected.
    pub device_count: usize,
    /// Devices that failed, or whose operation was cancelled: the service's
    /// statistics have no counter of their own for the latter.
    pub failed_count: usize,
    /// Devices whose operation succeeded.
    pub succeeded_count: usize,
    /// Devices whose operation is under way.
    pub running_count: usize,
    /// Devices that wait for their turn.
    pub pending_count: usize,
}

impl Statistics {
    /// `count` devices, all pending.
    pub(super) fn all_pending(count: usize) -> Self {
        Self {
            device_count: count,
            pending_count: count,
            ..Self::default()
        }
    }

    /// Accounts for a device that goes from one state to another.
    pub(super) fn move_device(&mut self, from: &RecordState, to: &RecordState) {
        *self.counter(from) -= 1;
        *self.counter(to) += 1;
    }

    /// Devices that are done with.
    #[must_use]
    pub fn finished_count(&self) -> usize {
        self.failed_count + self.succeeded_count
    }

    fn counter(&mut self, state: &RecordState) -> &mut usize {
        match state {
            RecordState::Pending => &mut self.pending_count,
            RecordState::Running => &mut self.running_count,
            RecordState::Completed(_) => &mut self.succeeded_count,
            RecordState::Failed(_) | RecordState::Canceled => &mut self.failed_count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_small() {
        assert!(
            size_of::<DeviceRecord>() <= 104,
            "{} bytes",
            size_of::<DeviceRecord>()
        );
    }
}
