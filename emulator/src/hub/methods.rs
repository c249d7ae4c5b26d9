//! Direct methods: waiting for the device, sending the request, waiting for
//! the answer. The states are kept in the device's cell; here is the time.

use std::time::Duration;

use hub_core::error::{ErrorCode, ServiceError};
use hub_core::ids::Target;
use hub_core::method::{self, MethodCall, MethodResponse};
use hub_core::registry::Status;

use super::HubState;
use super::cell::{CallGuard, CallStep};
use super::events::journal::Kind;
use super::showing::MethodEnd;

/// A call that is shown to those who watch when it has come to an end, also when
/// the caller does not wait for that.
struct ShownAtEnd<'a> {
    hub: &'a HubState,
    target: &'a Target,
    call: &'a MethodCall,
    begun: Duration,
    is_over: bool,
}

impl ShownAtEnd<'_> {
    fn over(&mut self, end: MethodEnd<'_>) {
        self.is_over = true;
        let duration = self.hub.clock.elapsed().saturating_sub(self.begun);
        self.hub.show_method(self.target, self.call, end, duration);
    }
}

impl Drop for ShownAtEnd<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.over(MethodEnd::Canceled);
        }
    }
}

impl HubState {
    /// Invokes a method on a device or module and waits for its answer.
    ///
    /// # Errors
    /// `DeviceNotFound` (also when disabled), `ModuleNotFound`,
    /// `DeviceNotOnline` after the connect timeout, `GatewayTimeout` after the
    /// response timeout, and what the device's answer itself is refused for.
    pub(crate) async fn invoke_method(
        &self,
        target: &Target,
        call: &MethodCall,
    ) -> Result<MethodResponse, ServiceError> {
        self.counters.methods_invoked.add(1);
        let mut shown = ShownAtEnd {
            hub: self,
            target,
            call,
            begun: self.clock.elapsed(),
            is_over: false,
        };
        let outcome = self.call(target, call).await;
        shown.over(MethodEnd::of(&outcome));
        outcome
    }

    async fn call(&self, target: &Target, call: &MethodCall) -> Result<MethodResponse, ServiceError> {
        let cell = self.registry.cell(&target.device)?;
        let connect_deadline = self.clock.elapsed().saturating_add(call.connect_timeout);
        let mut is_counted = false;
        let (mut under_way, outcome) = loop {
            let step = {
                let mut guard = cell.lock();
                let state = guard.unindexed();
                if state.identity.status == Status::Disabled {
                    return Err(ServiceError::new(
                        ErrorCode::DeviceNotFound,
                        format!("Device {} is disabled", target.device),
                    ));
                }
                if !std::mem::replace(&mut is_counted, true) {
                    self.count(state, Kind::Method, 1);
                }
                state
                    .endpoint(target.module.as_ref())?
                    .begin_call(call, self.settings.methods_in_flight)?
            };
            match step {
                CallStep::Sent {
                    id,
                    generation,
                    outcome,
                } => {
                    break (
                        CallGuard {
                            cell,
                            target: target.clone(),
                            generation,
                            id,
                            is_over: false,
                        },
                        outcome,
                    );
                }
                CallStep::Offline(online) => {
                    if self.clock.timeout_at(connect_deadline, online).await.is_err() {
                        return Err(method::not_online(call.connect_timeout));
                    }
                }
            }
        };
        let response_deadline = self.clock.elapsed().saturating_add(call.response_timeout);
        let answer = self.clock.timeout_at(response_deadline, outcome).await;
        // Whoever sent the outcome, or let go of it, has ended the call.
        under_way.is_over = answer.is_ok();
        drop(under_way);
        match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(method::connection_lost()),
            Err(_) => Err(method::no_response()),
        }
    }
}
