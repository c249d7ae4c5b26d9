//! A connected device, as seen by the protocol that carries it.
//!
//! A connection task opens a [`Session`] once the device has proved who it is
//! and calls one method per thing that the device asks. Whatever comes back
//! comes through the session's outbox. Other device protocols use the same
//! type: here is no packet, topic or status line.

use std::sync::Arc;

use bytes::Bytes;
use hub_core::c2d::{Holder, LockToken, Message, Settlement};
use hub_core::error::ServiceError;
use hub_core::events::{AuthMethod, ConnectionChange, Origin, Source};
use hub_core::ids::Target;
use hub_core::method::{MethodResponse, RequestId};
use hub_core::property_bag::Bag;
use hub_core::registry::Status;
use hub_core::time::Timestamp;
use hub_core::topic::{Filter, Qos};
use hub_core::twin::{ReportedPatch, TwinChange};

use super::HubState;
use super::access::Denied;
use super::cell::{DeviceCell, DeviceState, Endpoint, Persistence, Subscription, TwinAnswer};
use super::events::Presence;
use super::events::journal::Kind;
use super::outbox::Outbox;
use super::row::SectionsRow;

/// A live connection of a device or module; ends when it is dropped.
pub(crate) struct Session {
    hub: Arc<HubState>,
    cell: Arc<DeviceCell>,
    target: Target,
    generation: u64,
    /// How the device has proved who it is.
    auth: AuthMethod,
    /// The model that it announced.
    model_id: Option<Arc<str>>,
    /// Frames for the device, and the hub's wish to end the connection.
    pub(crate) outbox: Arc<Outbox>,
    /// Whether filters of an earlier connection are in force again.
    pub(crate) resumed: bool,
}

impl Session {
    /// Makes the connection of `target` live, ending the one before it. The
    /// caller has checked the credentials.
    ///
    /// # Errors
    /// When the identity was removed or disabled since that check.
    pub(crate) fn open(
        hub: &Arc<HubState>,
        target: Target,
        persistence: Persistence,
        auth: AuthMethod,
        model_id: Option<&str>,
    ) -> Result<Self, Denied> {
        let model_id = model_id.map(Arc::<str>::from);
        let now = hub.clock.now();
        let cell = hub.registry.find(&target.device).ok_or(Denied::UnknownIdentity)?;
        let (generation, attached) = {
            let mut state = cell.lock();
            if state.identity.status == Status::Disabled {
                return Err(Denied::Disabled);
            }
            let generation = state.next_generation();
            let endpoint = state
                .endpoint(target.module.as_ref())
                .map_err(|_| Denied::UnknownIdentity)?;
            let takes_over = endpoint.is_connected();
            if model_id.is_some() {
                endpoint.twin.set_model_id(model_id.clone());
            }
            let attached = endpoint.attach(generation, persistence, now);
            if takes_over {
                hub.counters.takeovers.add(1);
                hub.show_connection(&mut state, &target, ConnectionChange::Disconnected);
            }
            hub.show_connection(&mut state, &target, ConnectionChange::Connected);
            hub.deliver_messages(&mut state, &target);
            (generation, attached)
        };
        hub.counters.connects_accepted.add(1);
        Ok(Self {
            hub: hub.clone(),
            cell,
            target,
            generation,
            auth,
            model_id,
            outbox: attached.outbox,
            resumed: attached.resumed,
        })
    }

    /// Who is connected.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Runs `change`, which is none that an index is over, on the endpoint, unless
    /// the hub has ended this session meanwhile; then the outbox is closed and
    /// nothing that the device asks takes effect any more.
    fn with<T>(&self, change: impl FnOnce(&mut Endpoint, Timestamp) -> T) -> Option<T> {
        self.with_state(self.cell.lock().unindexed(), change)
    }

    fn with_state<T>(
        &self,
        state: &mut DeviceState,
        change: impl FnOnce(&mut Endpoint, Timestamp) -> T,
    ) -> Option<T> {
        let now = self.hub.clock.now();
        let endpoint = state.endpoint(self.target.module.as_ref()).ok()?;
        if !endpoint.is_live(self.generation) {
            return None;
        }
        endpoint.connection.last_activity = now;
        Some(change(endpoint, now))
    }

    /// Starts deliveries of a kind.
    pub(crate) fn subscribe(&self, filter: Filter, qos: Qos) {
        let mut state = self.cell.lock();
        let subscribed = self.with_state(&mut state, |endpoint, _| {
            endpoint.subscribe(self.generation, filter, Subscription::Granted(qos));
        });
        if subscribed.is_some() {
            // What brings messages to the device makes it present.
            if matches!(
                filter,
                Filter::CloudToDevice | Filter::ModuleAll | Filter::ModuleInputs
            ) {
                self.announce(&mut state);
            }
            self.hub.deliver_messages(&mut state, &self.target);
        }
    }

    /// Completes the cloud-to-device messages that this connection holds and
    /// `is_meant` selects; none is no mistake, for an acknowledgement may come
    /// late.
    pub(crate) fn complete_messages(&self, is_meant: impl Fn(&Message, LockToken) -> bool) {
        let mut state = self.cell.lock();
        if self.with_state(&mut state, |_, _| ()).is_some() {
            let holder = Holder(self.generation);
            self.hub.complete_held(&mut state, &self.target, holder, is_meant);
        }
    }

    /// Settles a cloud-to-device message that this connection holds. One that it
    /// no longer holds is no mistake: it was too slow, and has the message
    /// again or will have it.
    pub(crate) fn settle_message(&self, token: LockToken, settlement: Settlement) {
        let mut state = self.cell.lock();
        if self.with_state(&mut state, |_, _| ()).is_some() {
            let _ = self.hub.settle_in(&mut state, &self.target, token, settlement);
        }
    }

    /// Says how many cloud-to-device messages the device takes, beyond those
    /// that left the outbox, and delivers as many as wait. Until this is said
    /// for the first time the hub's own bounds count alone.
    pub(crate) fn grant_messages(&self, credit: u32) {
        let mut state = self.cell.lock();
        let generation = self.generation;
        let granted = self.with_state(&mut state, |endpoint, _| endpoint.set_credit(generation, credit));
        if granted.is_some() {
            self.hub.deliver_messages(&mut state, &self.target);
        }
    }

    /// Ends deliveries of cloud-to-device messages; those that the connection
    /// holds wait again.
    pub(crate) fn stop_messages(&self) {
        let mut state = self.cell.lock();
        let generation = self.generation;
        if self
            .with_state(&mut state, |endpoint, _| endpoint.stop_messages(generation))
            .is_some()
        {
            self.hub.deliver_messages(&mut state, &self.target);
        }
    }

    /// Ends deliveries of a kind.
    pub(crate) fn unsubscribe(&self, filter: Filter) {
        self.with(|endpoint, _| endpoint.subscribe(self.generation, filter, Subscription::Removed));
    }

    /// Accepts device-to-cloud messages, all or none. When this returns they
    /// are kept, or the outbox is closed.
    ///
    /// # Errors
    /// `IotHubQuotaExceeded` when the messages of the day are used up.
    pub(crate) fn telemetry(&self, messages: &[(Bag<'_>, &[u8])]) -> Result<(), ServiceError> {
        let (now, origin) = {
            let mut guard = self.cell.lock();
            let state = guard.unindexed();
            let Some(now) = self.with_state(state, |_, now| now) else {
                return Ok(());
            };
            self.announce(state);
            (now, self.accept(state, now, messages)?)
        };
        self.keep(now, &origin, messages);
        Ok(())
    }

    /// Tells back ends, if they want to know, that the device is there.
    fn announce(&self, state: &mut DeviceState) {
        if self.hub.events.keeps(Source::DeviceConnectionState)
            && let Ok(endpoint) = state.endpoint(self.target.module.as_ref())
        {
            endpoint.announce(self.generation, |twin| {
                Presence::report(&self.hub.events, &self.target, twin)
            });
        }
    }

    /// Takes messages against the quota and counts them; says whom they are from.
    fn accept(
        &self,
        state: &mut DeviceState,
        now: Timestamp,
        messages: &[(Bag<'_>, &[u8])],
    ) -> Result<Arc<Origin>, ServiceError> {
        let origin = state.origin(&self.target, self.auth, self.model_id.as_ref())?;
        let sizes = messages
            .iter()
            .map(|(bag, body)| bag.decode().size() + body.len());
        self.hub.take_quota(now, sizes)?;
        self.hub.count(state, Kind::Telemetry, messages.len());
        Ok(origin)
    }

    /// Accepts the message that the device left for the case that its
    /// connection breaks, whoever broke it; not of an identity that is gone,
    /// nor beyond the quota of the day.
    pub(crate) fn will(&self, bag: &Bag<'_>, body: &[u8]) {
        let (now, messages) = (self.hub.clock.now(), [(bag.clone(), body)]);
        let origin = self.accept(self.cell.lock().unindexed(), now, &messages);
        match origin {
            Ok(origin) => self.keep(now, &origin, &messages),
            Err(error) => tracing::debug!(target = %self.target, %error, "the will is dropped"),
        }
    }

    fn keep(&self, now: Timestamp, origin: &Arc<Origin>, messages: &[(Bag<'_>, &[u8])]) {
        for (bag, body) in messages {
            self.hub.keep_telemetry(origin, now, bag, body);
        }
    }

    /// Answers the device's request for its own twin.
    pub(crate) fn read_twin(&self, rid: &str) {
        self.hub.counters.device_twin_reads.add(1);
        self.with(|endpoint, _| {
            let body = endpoint.twin.device_view();
            endpoint.answer_twin(
                self.generation,
                rid,
                TwinAnswer {
                    status: 200,
                    version: None,
                    body,
                },
            );
        });
    }

    /// Answers a twin request that needs nothing but to be confirmed.
    pub(crate) fn confirm(&self, rid: &str) {
        let answer = TwinAnswer {
            status: 200,
            version: None,
            body: Bytes::new(),
        };
        self.with(|endpoint, _| endpoint.answer_twin(self.generation, rid, answer));
    }

    /// Answers a twin request that is no such thing.
    pub(crate) fn refuse(&self, rid: &str, error: &ServiceError) {
        self.with(|endpoint, now| {
            endpoint.answer_twin(self.generation, rid, TwinAnswer::refusal(error, now));
        });
    }

    /// Merges reported properties and answers with their new version.
    pub(crate) fn update_reported(&self, rid: &str, expected_version: Option<u64>, patch: &[u8]) {
        self.hub.counters.reported_updates.add(1);
        let patch = ReportedPatch::parse(patch);
        let mut state = self.cell.lock();
        let changed = self.with_state(&mut state, |endpoint, now| {
            let updated = patch.and_then(|patch| {
                let digital_twin = self.hub.before_change(&self.target, &endpoint.twin);
                let version = endpoint.twin.patch_reported(&patch, expected_version, now)?;
                let twin = &endpoint.twin;
                self.hub.events.notify(
                    Source::TwinChange,
                    &self.target,
                    &SectionsRow(twin),
                    now,
                    |notice| notice.twin_updated(TwinChange::of_report(&patch), twin),
                );
                self.hub
                    .after_change(digital_twin, &self.target, &endpoint.twin, now);
                Ok(version)
            });
            let is_changed = updated.is_ok();
            let answer = match updated {
                Ok(version) => TwinAnswer {
                    status: 204,
                    version: Some(version),
                    body: Bytes::new(),
                },
                Err(error) => TwinAnswer::refusal(&error, now),
            };
            endpoint.answer_twin(self.generation, rid, answer);
            usize::from(is_changed)
        });
        self.hub.count(&mut state, Kind::Twin, changed.unwrap_or(0));
    }

    /// Hands a method's answer to its caller.
    pub(crate) fn method_response(&self, id: RequestId, status: i32, body: &[u8]) {
        self.hub.counters.method_responses.add(1);
        let outcome = MethodResponse::from_device(status, body);
        self.with(|endpoint, now| endpoint.finish_call(self.generation, id, outcome, now));
    }
}

/// Ends the session, however its connection's task came to an end. Does
/// nothing when another connection has taken over.
impl Drop for Session {
    fn drop(&mut self) {
        let now = self.hub.clock.now();
        let mut state = self.cell.lock();
        let has_left = match state.endpoint(self.target.module.as_ref()) {
            Ok(endpoint) => endpoint.detach(self.generation, now),
            Err(_) => false,
        };
        // Whoever has ended the session before has shown that.
        if has_left {
            self.hub
                .show_connection(&mut state, &self.target, ConnectionChange::Disconnected);
            self.hub.deliver_messages(&mut state, &self.target);
        }
    }
}

impl TwinAnswer {
    /// The answer to a request that is refused, in the service's detailed form.
    fn refusal(error: &ServiceError, now: Timestamp) -> Self {
        let body = serde_json::json!({
            "errorCode": error.code.number(),
            "trackingId": crate::tracking::id(now),
            "message": error.message,
            "timestampUtc": now,
        });
        Self {
            status: error.code.status(),
            version: None,
            body: Bytes::from(body.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hub_core::events::AuthScope;
    use hub_core::ids::{DeviceId, ModuleId};
    use hub_core::registry::{DeviceSpec, IfMatch, ModuleSpec};

    const AUTH: AuthMethod = AuthMethod::Sas(AuthScope::Device);

    fn hub_with_device() -> (Arc<HubState>, Target) {
        let hub = Arc::new(HubState::for_tests());
        let id = DeviceId::parse("d").unwrap();
        let spec = DeviceSpec::from_json(&serde_json::json!({}), &id).unwrap();
        hub.put_device(spec, &IfMatch::Absent, |_, _| ()).unwrap();
        (hub, Target::device(id))
    }

    #[test]
    fn a_session_ends_with_the_task_that_holds_it() {
        let (hub, target) = hub_with_device();
        let open = || Session::open(&hub, target.clone(), Persistence::Persistent, AUTH, None).unwrap();
        let first = open();
        let second = open();
        drop(first);
        assert_eq!(hub.connected_count(), 1);
        drop(second);
        assert_eq!(hub.connected_count(), 0);
    }

    #[test]
    fn what_waits_in_the_outbox_has_had_its_credit() {
        let (hub, target) = hub_with_device();
        for _ in 0..4 {
            let draft = hub_core::c2d::Draft::new(Default::default(), Bytes::new()).unwrap();
            hub.send_to_device(&target, draft).unwrap();
        }
        let session = Session::open(&hub, target, Persistence::Transient, AUTH, None).unwrap();
        session.grant_messages(0);
        session.subscribe(Filter::CloudToDevice, Qos::AtLeastOnce);
        let outbox = &session.outbox;
        assert_eq!(outbox.waiting_messages(), 0);
        for credit in [2, 2, 1] {
            session.grant_messages(credit);
            assert_eq!(outbox.waiting_messages(), 2, "{credit}");
        }
        assert_eq!(outbox.take_now().unwrap().len(), 2);
        session.grant_messages(1);
        assert_eq!(outbox.take_now().unwrap().len(), 1);
        // Three are held, and come again first.
        session.stop_messages();
        session.subscribe(Filter::CloudToDevice, Qos::AtLeastOnce);
        session.grant_messages(50);
        let sequences: Vec<u64> = outbox
            .take_now()
            .unwrap()
            .iter()
            .map(|frame| match frame {
                crate::hub::outbox::ToDevice::Message { message, .. } => message.sequence,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(sequences, [1, 2, 3, 4]);
    }

    #[test]
    fn the_session_of_a_deleted_module_does_not_touch_its_successor() {
        let (hub, Target { device, .. }) = hub_with_device();
        let id = ModuleId::parse("m").unwrap();
        let open = || {
            let spec = ModuleSpec::from_json(&serde_json::json!({}), &device, &id).unwrap();
            hub.put_module(spec, &IfMatch::Absent, |_, _| ()).unwrap();
            let target = Target {
                device: device.clone(),
                module: Some(id.clone()),
            };
            Session::open(&hub, target, Persistence::Persistent, AUTH, None).unwrap()
        };
        let first = open();
        hub.delete_module(&device, &id, &IfMatch::Any).unwrap();
        let _second = open();
        let _ = first.telemetry(&[(Bag::default(), b"")]);
        assert!(hub.telemetry_after(0).is_empty());
        drop(first);
        assert_eq!(hub.connected_count(), 1);
    }
}
