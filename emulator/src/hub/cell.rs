//! One device with its modules: everything that is kept about it, behind one
//! lock that is held for microseconds and never across an await.
//!
//! REST reaches offline devices here without waking anything; a connected
//! device's [`Session`] hangs off its [`Endpoint`]. Whatever changes a device's
//! state and whatever it must be told goes through the methods of this file, so
//! that frames enter the outbox in the order of the changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use hub_core::error::{ErrorCode, ServiceError};
use hub_core::events::{AuthMethod, Origin, Sender};
use hub_core::file_upload::Uploads;
use hub_core::ids::{ModuleId, Target};
use hub_core::limits;
use hub_core::method::{self, MethodCall, MethodResponse, PendingCalls, RequestId};
use hub_core::registry::{Connection, ConnectionState, DeviceIdentity, ModuleIdentity, not_found};
use hub_core::time::Timestamp;
use hub_core::topic::{Filter, FilterSet, Qos};
use hub_core::twin::{DesiredChange, Twin};
use tokio::sync::oneshot;

use super::c2d::Mailbox;
use super::events::Presence;
use super::events::tally::Tally;
use super::index::Filed;
use super::lag::Past;
pub(crate) use super::lock::DeviceCell;
use super::outbox::{CloseReason, Outbox, ToDevice};
use super::settling::Settled;

/// What a waiting caller of a direct method receives.
pub(crate) type MethodOutcome = Result<MethodResponse, ServiceError>;

/// A device, its twin, connection and modules.
pub(crate) struct DeviceState {
    pub(crate) identity: DeviceIdentity,
    pub(crate) endpoint: Endpoint,
    pub(crate) modules: BTreeMap<ModuleId, ModuleState>,
    /// Connections of the device and its modules so far. Counted here, so that
    /// a module made anew does not take its predecessor's connection for its own.
    connections: u64,
    /// File uploads that were granted and not finished.
    pub(crate) uploads: Uploads,
    /// Where the indexes have the device.
    pub(super) filed: Filed,
    /// How many events there were of it and its modules.
    pub(crate) tally: Tally,
    /// States that queries which lag behind still see.
    pub(super) past: Past,
    /// Set when the device leaves the registry, for those who still hold its cell.
    pub(crate) deleted: bool,
}

/// A module, its twin and connection.
pub(crate) struct ModuleState {
    pub(crate) identity: ModuleIdentity,
    pub(crate) endpoint: Endpoint,
}

impl DeviceState {
    pub(crate) fn new(identity: DeviceIdentity, now: Timestamp) -> Self {
        Self {
            identity,
            endpoint: Endpoint::new(now),
            modules: BTreeMap::new(),
            connections: 0,
            uploads: Uploads::default(),
            filed: Filed::default(),
            tally: Tally::default(),
            past: Past::default(),
            deleted: false,
        }
    }

    /// The endpoint of the device or of one of its modules.
    ///
    /// # Errors
    /// `DeviceNotFound` for a device deleted meanwhile, `ModuleNotFound`.
    pub(crate) fn endpoint(&mut self, module: Option<&ModuleId>) -> Result<&mut Endpoint, ServiceError> {
        if self.deleted {
            return Err(ServiceError::device_not_found(self.identity.id.as_str()));
        }
        match module {
            None => Ok(&mut self.endpoint),
            Some(id) => match self.modules.get_mut(id) {
                Some(module) => Ok(&mut module.endpoint),
                None => Err(not_found(&Target {
                    device: self.identity.id.clone(),
                    module: Some(id.clone()),
                })),
            },
        }
    }

    /// Whom telemetry of the device or one of its modules is from.
    ///
    /// # Errors
    /// As [`DeviceState::endpoint`].
    pub(crate) fn origin(
        &mut self,
        target: &Target,
        auth: AuthMethod,
        model_id: Option<&Arc<str>>,
    ) -> Result<Arc<Origin>, ServiceError> {
        if let Some(origin) = &self.endpoint(target.module.as_ref())?.origin
            && let Some(sender) = &origin.sender
            && (sender.auth, sender.model_id.as_ref()) == (auth, model_id)
        {
            return Ok(origin.clone());
        }
        let generation_id = match target.module.as_ref().and_then(|id| self.modules.get(id)) {
            Some(module) => module.identity.generation_id.clone(),
            None => self.identity.generation_id.clone(),
        };
        let origin = Arc::new(Origin {
            target: target.clone(),
            sender: Some(Sender {
                generation_id,
                auth,
                model_id: model_id.cloned(),
            }),
        });
        self.endpoint(target.module.as_ref())?.origin = Some(origin.clone());
        Ok(origin)
    }

    /// The name of one of its modules.
    pub(super) fn module(&self, id: &ModuleId) -> Target {
        Target {
            device: self.identity.id.clone(),
            module: Some(id.clone()),
        }
    }

    /// The number of a connection that starts.
    pub(super) fn next_generation(&mut self) -> u64 {
        self.connections += 1;
        self.connections
    }

    /// What queries see of the device, for a time when it has changed.
    pub(super) fn snapshot(&self) -> Self {
        let modules = self.modules.iter().map(|(id, module)| {
            let module = ModuleState {
                identity: module.identity.clone(),
                endpoint: module.endpoint.snapshot(),
            };
            (id.clone(), module)
        });
        Self {
            modules: modules.collect(),
            endpoint: self.endpoint.snapshot(),
            identity: self.identity.clone(),
            connections: self.connections,
            uploads: Uploads::default(),
            filed: Filed::default(),
            tally: Tally::default(),
            past: Past::default(),
            deleted: self.deleted,
        }
    }

    /// Ends the connections of the device and of all its modules; says whose
    /// there were.
    pub(super) fn disconnect_all(&mut self, reason: CloseReason, now: Timestamp) -> Vec<Target> {
        let device = &self.identity.id;
        let mut ended = Vec::new();
        if self.endpoint.disconnect(reason, now) {
            ended.push(Target::device(device.clone()));
        }
        for (id, module) in &mut self.modules {
            if module.endpoint.disconnect(reason, now) {
                ended.push(Target {
                    device: device.clone(),
                    module: Some(id.clone()),
                });
            }
        }
        ended
    }
}

/// What a device and a module have in common: a twin, at most one live
/// session, and the filters that a persistent session remembers.
pub(crate) struct Endpoint {
    pub(crate) twin: Twin,
    pub(crate) connection: Connection,
    session: Option<Box<Session>>,
    /// Filters of the persistent session, kept while the device is away.
    remembered: Option<FilterSet>,
    /// Cloud-to-device messages, once one was sent.
    pub(super) mailbox: Option<Box<Mailbox>>,
    /// What the configurations have made of the twin; `None` until they have
    /// seen it.
    pub(crate) settled: Option<Box<Settled>>,
    /// Whom its last telemetry was from, shared with the event stream: the next
    /// is mostly from the same.
    origin: Option<Arc<Origin>>,
    /// Callers that wait for this endpoint to accept methods.
    waiting: Vec<oneshot::Sender<()>>,
}

/// A live connection's part of the state.
struct Session {
    generation: u64,
    outbox: Arc<Outbox>,
    filters: FilterSet,
    persistence: Persistence,
    calls: PendingCalls<oneshot::Sender<MethodOutcome>>,
    /// Cloud-to-device messages that may still be sent, where the device says
    /// how many it takes.
    credit: Option<u32>,
    /// That back ends were told of the connection; ends with it.
    presence: Option<Presence>,
}

/// Whether a session's filters outlive its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// Clean session: nothing was taken over, nothing stays.
    Transient,
    /// Filters are remembered for the next connection.
    Persistent,
}

/// What a new session is told.
pub(crate) struct Attached {
    pub(crate) outbox: Arc<Outbox>,
    /// Whether a remembered session was taken up.
    pub(crate) resumed: bool,
}

/// A connection that listens for cloud-to-device messages.
pub(super) struct Receiver<'a> {
    pub(super) generation: u64,
    pub(super) qos: Qos,
    pub(super) outbox: &'a Outbox,
    /// What it may be sent beyond what it holds; `None` where the device does
    /// not say.
    pub(super) credit: Option<&'a mut u32>,
}

/// The first step of a method call.
pub(crate) enum CallStep {
    /// The request is on its way; the outcome will arrive here.
    Sent {
        id: RequestId,
        generation: u64,
        outcome: oneshot::Receiver<MethodOutcome>,
    },
    /// The device does not accept methods at the moment; this tells when to try again.
    Offline(oneshot::Receiver<()>),
}

impl Endpoint {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            twin: Twin::new(now),
            connection: Connection::default(),
            session: None,
            remembered: None,
            mailbox: None,
            settled: None,
            origin: None,
            waiting: Vec::new(),
        }
    }

    /// The endpoint without anything that lives.
    fn snapshot(&self) -> Self {
        Self {
            twin: self.twin.clone(),
            connection: self.connection,
            session: None,
            remembered: None,
            mailbox: None,
            settled: self.settled.clone(),
            origin: None,
            waiting: Vec::new(),
        }
    }

    /// Puts the new connection `generation` in place, ending the one before it.
    pub(crate) fn attach(&mut self, generation: u64, persistence: Persistence, now: Timestamp) -> Attached {
        self.end_session(CloseReason::Takeover);
        let resumed = persistence == Persistence::Persistent && self.remembered.is_some();
        let filters = match persistence {
            Persistence::Persistent => *self.remembered.get_or_insert_default(),
            Persistence::Transient => {
                self.remembered = None;
                FilterSet::default()
            }
        };
        if let Some(mailbox) = &mut self.mailbox {
            mailbox.connected(generation, resumed);
        }
        let outbox = Arc::new(Outbox::default());
        self.session = Some(Box::new(Session {
            generation,
            outbox: outbox.clone(),
            filters,
            persistence,
            calls: PendingCalls::default(),
            credit: None,
            presence: None,
        }));
        self.connection.state = ConnectionState::Connected;
        self.connection.state_updated = now;
        self.connection.last_activity = now;
        self.wake_if_callable();
        Attached { outbox, resumed }
    }

    /// Takes a connection out that has ended by itself. Does nothing when
    /// another one has taken its place: the generation tells.
    pub(crate) fn detach(&mut self, generation: u64, now: Timestamp) -> bool {
        if !self.is_live(generation) {
            return false;
        }
        if let Some(mut session) = self.take_session() {
            for call in session.calls.drain() {
                let _ = call.send(Err(method::connection_lost()));
            }
        }
        self.release_messages(generation);
        self.connection.state = ConnectionState::Disconnected;
        self.connection.state_updated = now;
        true
    }

    /// Ends the live connection, if any, from the hub's side, and lets those
    /// who wait for one look again at whether it can still come. Says whether
    /// there was one.
    pub(super) fn disconnect(&mut self, reason: CloseReason, now: Timestamp) -> bool {
        self.waiting.clear();
        let was_connected = self.end_session(reason);
        if was_connected {
            self.connection.state = ConnectionState::Disconnected;
            self.connection.state_updated = now;
        }
        was_connected
    }

    /// Takes the live connection out and tells back ends, if they know of it.
    fn take_session(&mut self) -> Option<Box<Session>> {
        let mut session = self.session.take()?;
        if let Some(presence) = session.presence.take() {
            presence.end(&self.twin);
        }
        Some(session)
    }

    fn end_session(&mut self, reason: CloseReason) -> bool {
        let Some(mut session) = self.take_session() else {
            return false;
        };
        session.outbox.close(reason);
        self.release_messages(session.generation);
        for call in session.calls.drain() {
            let error = match reason {
                CloseReason::Takeover => ServiceError::new(
                    ErrorCode::ConnectionForcefullyClosedOnNewConnection,
                    "The device connected again before it answered.",
                ),
                _ => method::connection_lost(),
            };
            let _ = call.send(Err(error));
        }
        true
    }

    /// What an ended connection had not acknowledged waits again.
    fn release_messages(&mut self, generation: u64) {
        if let Some(mailbox) = &mut self.mailbox {
            mailbox.disconnected(generation);
        }
    }

    /// The connection that cloud-to-device messages go to, if there is one that
    /// listens for them.
    pub(super) fn receiver(&mut self) -> Option<Receiver<'_>> {
        let session = self.session.as_deref_mut()?;
        Some(Receiver {
            generation: session.generation,
            qos: session.filters.cloud_to_device()?,
            outbox: &session.outbox,
            credit: session.credit.as_mut(),
        })
    }

    /// Sets how many cloud-to-device messages the connection `generation` may
    /// be sent beyond those that it was.
    pub(crate) fn set_credit(&mut self, generation: u64, credit: u32) {
        if let Some(session) = self.session(generation) {
            // What has not left the outbox is not sent, yet counted.
            let waiting = u32::try_from(session.outbox.waiting_messages()).unwrap_or(u32::MAX);
            session.credit = Some(credit.saturating_sub(waiting));
        }
    }

    /// Takes back the cloud-to-device messages that the connection `generation`
    /// holds, which listens for them no more.
    pub(crate) fn stop_messages(&mut self, generation: u64) {
        self.subscribe(generation, Filter::CloudToDevice, Subscription::Removed);
        self.release_messages(generation);
    }

    /// Notes that back ends were told of the connection, if they were not
    /// before; `report` tells them.
    pub(super) fn announce(&mut self, generation: u64, report: impl FnOnce(&Twin) -> Presence) {
        if let Some(session) = self.session.as_deref_mut().filter(|s| s.generation == generation) {
            session.presence.get_or_insert_with(|| report(&self.twin));
        }
    }

    /// Whether a connection is live.
    pub(crate) fn is_connected(&self) -> bool {
        self.session.is_some()
    }

    /// Whether the connection `generation` is the live one.
    pub(crate) fn is_live(&self, generation: u64) -> bool {
        self.session.as_ref().is_some_and(|s| s.generation == generation)
    }

    fn session(&mut self, generation: u64) -> Option<&mut Session> {
        self.session.as_deref_mut().filter(|s| s.generation == generation)
    }

    /// Adds or removes a filter of the connection `generation`.
    pub(crate) fn subscribe(&mut self, generation: u64, filter: Filter, wanted: Subscription) {
        let Some(session) = self.session(generation) else {
            return;
        };
        match wanted {
            Subscription::Granted(qos) => session.filters.insert(filter, qos),
            Subscription::Removed => session.filters.remove(filter),
        }
        if session.persistence == Persistence::Persistent {
            self.remembered = Some(session.filters);
        }
        self.wake_if_callable();
    }

    fn accepts_methods(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|s| s.filters.contains(Filter::Methods))
    }

    fn wake_if_callable(&mut self) {
        if self.accepts_methods() {
            for waiting in std::mem::take(&mut self.waiting) {
                let _ = waiting.send(());
            }
        }
    }

    /// Sends a method request if the endpoint accepts methods.
    ///
    /// # Errors
    /// `DeviceNotOnline` when it does not and the caller does not wait. Too many
    /// calls in flight, or too many callers waiting for the device.
    pub(crate) fn begin_call(&mut self, call: &MethodCall, cap: usize) -> Result<CallStep, ServiceError> {
        let Some(session) = self
            .session
            .as_deref_mut()
            .filter(|s| s.filters.contains(Filter::Methods))
        else {
            if call.connect_timeout.is_zero() {
                return Err(method::not_online(call.connect_timeout));
            }
            self.waiting.retain(|w| !w.is_closed());
            if self.waiting.len() >= limits::METHODS_WAITING {
                return Err(ServiceError::new(
                    ErrorCode::DeviceMaximumInflightMethodExceeded,
                    format!(
                        "{} callers wait for the device to connect already",
                        limits::METHODS_WAITING
                    ),
                ));
            }
            let (waker, wait) = oneshot::channel();
            self.waiting.push(waker);
            return Ok(CallStep::Offline(wait));
        };
        let (answer, outcome) = oneshot::channel();
        let id = session.calls.begin(answer, cap)?;
        session.outbox.push(ToDevice::MethodRequest {
            id,
            name: call.name.clone(),
            payload: call.payload.clone(),
        });
        Ok(CallStep::Sent {
            id,
            generation: session.generation,
            outcome,
        })
    }

    /// Hands a device's answer to the caller that waits for it; a late answer
    /// finds nobody and is dropped.
    pub(crate) fn finish_call(
        &mut self,
        generation: u64,
        id: RequestId,
        outcome: MethodOutcome,
        now: Timestamp,
    ) {
        self.connection.last_activity = now;
        if let Some(call) = self.session(generation).and_then(|s| s.calls.finish(id)) {
            let _ = call.send(outcome);
        }
    }

    /// Forgets a call whose caller has stopped waiting.
    pub(crate) fn abandon_call(&mut self, generation: u64, id: RequestId) {
        if let Some(session) = self.session(generation) {
            session.calls.finish(id);
        }
    }

    /// Tells the connected device of new desired properties, if it listens.
    pub(crate) fn notify_desired(&mut self, change: DesiredChange) {
        if let Some(session) = self
            .session
            .as_deref()
            .filter(|s| s.filters.contains(Filter::DesiredChanges))
        {
            session.outbox.push(ToDevice::DesiredChanged(change));
        }
    }

    /// Answers a twin request of the connection `generation`. Without the
    /// response filter the answer is dropped, as the service does.
    pub(crate) fn answer_twin(&mut self, generation: u64, rid: &str, answer: TwinAnswer) {
        let Some(session) = self.session(generation) else {
            return;
        };
        if !session.filters.contains(Filter::TwinResponses) {
            return;
        }
        let TwinAnswer {
            status,
            version,
            body,
        } = answer;
        session.outbox.push(ToDevice::TwinResponse {
            rid: rid.into(),
            status,
            version,
            body,
        });
    }
}

/// What becomes of a filter.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subscription {
    /// Subscribed with this quality of service.
    Granted(Qos),
    /// Unsubscribed.
    Removed,
}

/// The hub's answer to a device's twin request.
pub(crate) struct TwinAnswer {
    pub(crate) status: u16,
    pub(crate) version: Option<u64>,
    pub(crate) body: Bytes,
}

/// A call in flight; dropping it, for whatever reason the caller stops
/// waiting, frees its place in the device's table.
pub(crate) struct CallGuard {
    pub(crate) cell: Arc<DeviceCell>,
    pub(crate) target: Target,
    pub(crate) generation: u64,
    pub(crate) id: RequestId,
    /// Whether the call has ended by itself.
    pub(crate) is_over: bool,
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let mut guard = self.cell.lock();
        if let Ok(endpoint) = guard.unindexed().endpoint(self.target.module.as_ref()) {
            endpoint.abandon_call(self.generation, self.id);
        }
    }
}
