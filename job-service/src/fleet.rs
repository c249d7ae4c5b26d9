//! The devices that a job acts on, as far as a job needs to know them.

use std::future::Future;

use hub_core::error::ServiceError;
use hub_core::ids::Target;
use hub_core::job::{RecordView, TwinUpdate};
use hub_core::method::{MethodCall, MethodResponse};

/// Whatever can select devices and act on one of them.
///
/// The engine drops the future of an operation that is no longer wanted, when
/// the job's window closes for instance; an implementation must bear that at
/// every await.
pub trait Fleet: Send + Sync + 'static {
    /// Selects the devices or modules that a job's condition names. See
    /// [`hub_core::job::query_text`] for the query that it stands for.
    ///
    /// # Errors
    /// When the condition is not a legal one, or the fleet cannot be asked;
    /// the job then fails with the error's text.
    fn query(&self, condition: &str) -> impl Future<Output = Result<Vec<Target>, ServiceError>> + Send;

    /// Applies a twin patch without regard to the twin's ETag.
    ///
    /// # Errors
    /// When the target is unknown or its twin refuses the patch.
    fn update_twin(
        &self,
        target: &Target,
        update: &TwinUpdate,
    ) -> impl Future<Output = Result<(), ServiceError>> + Send;

    /// Invokes a direct method, waiting at most the call's two timeouts.
    ///
    /// # Errors
    /// When the target is unknown, not online or does not answer in time.
    fn invoke_method(
        &self,
        target: &Target,
        call: &MethodCall,
    ) -> impl Future<Output = Result<MethodResponse, ServiceError>> + Send;

    /// A device's record has changed: the operation on the device has begun or
    /// ended, or its job has. Called under the job's lock in the order of the
    /// changes, so it must be quick and not call the engine; does nothing unless
    /// the fleet cares.
    fn record_changed(&self, record: &RecordView<'_>) {
        let _ = record;
    }
}
