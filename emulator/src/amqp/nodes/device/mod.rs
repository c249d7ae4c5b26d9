//! The links of devices and modules: telemetry, messages to them, direct
//! methods, twins.
//!
//! All links of one identity on one connection share an [`Identity`] and with
//! it one `hub::session::Session`, whatever number of identities a connection
//! serves. It opens with the first of them and ends with the last; what the hub
//! has for the device leaves the session's outbox in its order, each frame on
//! the link that it is for. A link of a kind is what a subscription is to MQTT.
//! When another connection takes over, over whatever protocol, or the identity
//! goes, all its links here are detached.

mod c2d;
mod methods;
mod telemetry;
mod twin;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use amqp_wire::Value;
use amqp_wire::engine::{CommandError, DeliveryId, Engine, Event, LinkId, Outgoing};
use amqp_wire::message::{Message, STANDARD_FORMAT};
use amqp_wire::performative::{Attach, DeliveryState, Error, Role, SenderSettleMode, condition};
use bytes::Bytes;
use hub_core::c2d::Settlement;
use hub_core::error::{ErrorCode, ServiceError};
use hub_core::ids::Target;
use hub_core::topic::{Filter, Qos};

use super::{Attached, Ctx, Node, has_room};
use crate::amqp::address::DeviceNode;
use crate::amqp::condition as conditions;
use crate::amqp::inbox::Inbox;
use crate::hub::access::Authorized;
use crate::hub::cell::Persistence;
use crate::hub::outbox::{CloseReason, ToDevice};
use crate::hub::session::Session;

/// Link property by which a device announces its model (the plug and play guide).
const MODEL_ID: &str = "com.microsoft:model-id";

/// What a link is for, by its address and direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The device sends telemetry.
    Telemetry,
    /// A module receives messages to its inputs. None are sent: nothing routes
    /// between modules.
    Inputs,
    /// The device receives cloud-to-device messages.
    Messages,
    /// The device receives method requests.
    MethodRequests,
    /// The device sends answers to them.
    MethodAnswers,
    /// The device sends twin requests.
    TwinRequests,
    /// The device receives their answers, and changes of desired properties.
    TwinAnswers,
}

impl Kind {
    const COUNT: usize = 7;

    fn of(node: DeviceNode, client: Role, target: &Target) -> Option<Self> {
        Some(match (node, client) {
            (DeviceNode::Events, Role::Sender) => Self::Telemetry,
            (DeviceNode::Events, Role::Receiver) if target.module.is_some() => Self::Inputs,
            (DeviceNode::DeviceBound, Role::Receiver) => Self::Messages,
            (DeviceNode::Methods, Role::Receiver) => Self::MethodRequests,
            (DeviceNode::Methods, Role::Sender) => Self::MethodAnswers,
            (DeviceNode::Twin, Role::Sender) => Self::TwinRequests,
            (DeviceNode::Twin, Role::Receiver) => Self::TwinAnswers,
            (DeviceNode::Events, Role::Receiver) | (DeviceNode::DeviceBound, Role::Sender) => return None,
        })
    }

    /// What the session delivers while there is such a link.
    fn filter(self) -> Option<Filter> {
        match self {
            Self::Inputs => Some(Filter::ModuleInputs),
            Self::Messages => Some(Filter::CloudToDevice),
            Self::MethodRequests => Some(Filter::Methods),
            Self::TwinAnswers => Some(Filter::TwinResponses),
            Self::Telemetry | Self::MethodAnswers | Self::TwinRequests => None,
        }
    }
}

/// The identities that a connection has links of.
#[derive(Default)]
pub(crate) struct Identities(BTreeMap<Target, Weak<Identity>>);

impl Identities {
    /// The identity of a link that is being attached; its session opens if this
    /// is its first.
    fn open(
        &mut self,
        target: &Target,
        authorized: Authorized,
        attach: &Attach,
        hub: &Arc<crate::hub::HubState>,
        inbox: &Arc<Inbox>,
    ) -> Result<Arc<Identity>, Error> {
        // One that the hub has closed makes room for a new one; its links are on
        // their way out.
        if let Some(identity) = self.0.get(target).and_then(Weak::upgrade)
            && identity.session.outbox.closed().is_none()
        {
            return Ok(identity);
        }
        self.0.retain(|_, identity| identity.strong_count() > 0);
        let model_id = attach.properties.get(MODEL_ID).and_then(Value::as_str);
        let session = Session::open(
            hub,
            target.clone(),
            // What MQTT remembers for a device between its connections has no
            // meaning here.
            Persistence::Transient,
            authorized.method,
            model_id,
        )
        .map_err(|denied| conditions::unauthorized(&denied))?;
        let identity = Arc::new(Identity {
            session,
            correlation: methods::Correlation::new(),
            inbox: inbox.clone(),
            links: Mutex::default(),
        });
        self.0.insert(target.clone(), Arc::downgrade(&identity));
        Ok(identity)
    }
}

/// A device or module on this connection.
struct Identity {
    session: Session,
    correlation: methods::Correlation,
    inbox: Arc<Inbox>,
    /// The link of each kind.
    links: Mutex<[Option<LinkId>; Kind::COUNT]>,
}

impl Identity {
    /// Held for the length of a copy; the connection's task alone takes it.
    fn links(&self) -> MutexGuard<'_, [Option<LinkId>; Kind::COUNT]> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self, kind: Kind) -> Option<LinkId> {
        self.links()[kind as usize]
    }

    /// Sends what the hub has for the device, or detaches its links when the
    /// hub has ended the session. `waker` is woken when there is more.
    fn pump(&self, waker: &Waker, engine: &mut Engine, ctx: &mut Ctx<'_>) {
        let mut cx = Context::from_waker(waker);
        loop {
            if !has_room(engine) {
                waker.wake_by_ref();
                return;
            }
            match self.session.outbox.poll_take(&mut cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(frames)) => {
                    for frame in frames {
                        self.send(frame, engine, ctx);
                    }
                }
                Poll::Ready(Err(reason)) => {
                    let error = closed(reason, self.session.target(), ctx);
                    let links = *self.links();
                    for link in links.into_iter().flatten() {
                        ctx.close(link, Some(error.clone()));
                    }
                    return;
                }
            }
        }
    }

    /// Sends a frame on the link that it is for. One for a link that is gone
    /// meanwhile is lost, as for a device that has unsubscribed.
    fn send(&self, frame: ToDevice, engine: &mut Engine, ctx: &mut Ctx<'_>) {
        let (kind, message) = match frame {
            ToDevice::MethodRequest { id, name, payload } => (
                Kind::MethodRequests,
                methods::request(self.correlation, id, &name, &payload),
            ),
            ToDevice::TwinResponse {
                rid,
                status,
                version,
                body,
            } => (Kind::TwinAnswers, twin::answer(&rid, status, version, body)),
            ToDevice::DesiredChanged(change) => (Kind::TwinAnswers, twin::desired_changed(change)),
            ToDevice::Message {
                message,
                token,
                qos,
                delivery_count,
                ..
            } => {
                let Some(link) = self.link(Kind::Messages) else {
                    return;
                };
                let outgoing = Outgoing {
                    tag: Some(c2d::tag(token)),
                    ..Outgoing::unsettled(c2d::message(&message, delivery_count).to_bytes())
                };
                let settlement = match (engine.send(link, outgoing), qos) {
                    (Ok(_), Qos::AtLeastOnce) => return,
                    // Nobody will settle it.
                    (Ok(_), Qos::AtMostOnce) => Settlement::Complete,
                    // As if the device had found it too large itself.
                    (Err(CommandError::TooLarge), _) => Settlement::Reject,
                    (Err(_), _) => Settlement::Abandon,
                };
                self.session.settle_message(token, settlement);
                return;
            }
        };
        let Some(link) = self.link(kind) else { return };
        if let Err(error) = engine.send(link, Outgoing::settled(message.to_bytes())) {
            let name = match error {
                CommandError::TooLarge => condition::MESSAGE_SIZE_EXCEEDED,
                _ => condition::RESOURCE_LIMIT_EXCEEDED,
            };
            ctx.close(link, Some(Error::new(name, error.to_string())));
        }
    }
}

/// Why the hub has ended a session, as its links are told.
fn closed(reason: CloseReason, target: &Target, ctx: &Ctx<'_>) -> Error {
    match reason {
        CloseReason::Takeover => Error::new(
            conditions::DETACH_FORCED,
            "the identity has connected again elsewhere",
        ),
        CloseReason::IdentityChanged if ctx.hub.is_registered(target) => {
            Error::new(conditions::UNAUTHORIZED, "Unauthorized")
        }
        CloseReason::IdentityChanged => Error::new(conditions::NOT_FOUND, "the identity is gone"),
        CloseReason::SlowReader => Error::new(
            condition::RESOURCE_LIMIT_EXCEEDED,
            "the device does not take what it is sent",
        ),
        CloseReason::Shutdown => Error::new(conditions::DETACH_FORCED, "the hub closes the connection"),
    }
}

/// The node of one link of a device or module.
pub(crate) struct DeviceLink {
    kind: Kind,
    link: LinkId,
    waker: Waker,
    identity: Arc<Identity>,
}

/// Lets a link of a device or module in, in place of one of the same kind.
///
/// # Errors
/// `amqp:not-allowed` if messages do not go this way at the address;
/// `amqp:unauthorized-access` if the identity has gone since the caller was
/// found to have the right.
pub(super) fn attach(
    link: LinkId,
    (target, node): (&Target, DeviceNode),
    authorized: Authorized,
    attach: &Attach,
    ctx: &mut Ctx<'_>,
) -> Result<Attached, Error> {
    let kind = Kind::of(node, attach.role, target).ok_or_else(conditions::wrong_role)?;
    let inbox = ctx.shared.inbox.clone();
    let identity = ctx
        .shared
        .identities
        .open(target, authorized, attach, ctx.hub, &inbox)?;
    let older = identity.links()[kind as usize].replace(link);
    if let Some(older) = older {
        let error = Error::new(conditions::DETACH_FORCED, "the link was attached again");
        ctx.close(older, Some(error));
    }
    let qos = match attach.snd_settle_mode {
        SenderSettleMode::Settled => Qos::AtMostOnce,
        SenderSettleMode::Unsettled | SenderSettleMode::Mixed => Qos::AtLeastOnce,
    };
    if kind == Kind::Messages {
        // What an older link held goes back first; nothing may be sent before
        // there is credit.
        if older.is_some() {
            identity.session.stop_messages();
        }
        identity.session.grant_messages(0);
    }
    if let Some(filter) = kind.filter() {
        identity.session.subscribe(filter, qos);
    }
    let waker = ctx.waker(link);
    Ok(Attached::new(Node::Device(DeviceLink {
        kind,
        link,
        waker,
        identity,
    })))
}

impl DeviceLink {
    /// Takes what has happened on the link.
    ///
    /// # Errors
    /// What the link is to be detached with: a message that was settled by its
    /// sender cannot be refused in another way.
    pub(super) fn on_event(
        &mut self,
        event: Event,
        engine: &mut Engine,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), Error> {
        match event {
            Event::Message {
                delivery,
                settled,
                format,
                payload,
                ..
            } => {
                let taken = self.take(format, &payload);
                if self.identity.session.outbox.closed().is_some() {
                    // Nothing was done, nor refused: the links are detached.
                    self.pump(engine, ctx);
                    return Ok(());
                }
                self.answer(delivery, settled, taken, engine)
            }
            Event::Credit { credit, drain, .. } if self.kind == Kind::Messages => {
                self.identity.session.grant_messages(credit);
                if drain {
                    self.pump(engine, ctx);
                    self.identity.session.grant_messages(0);
                }
                Ok(())
            }
            Event::Outcome { tag, state, .. } if self.kind == Kind::Messages => {
                if let Some(token) = c2d::token(&tag) {
                    let settlement = c2d::settlement(state.as_ref());
                    self.identity.session.settle_message(token, settlement);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Sends what the hub has for the device.
    pub(super) fn pump(&mut self, engine: &mut Engine, ctx: &mut Ctx<'_>) {
        self.identity.pump(&self.waker, engine, ctx);
    }

    fn take(&self, format: u32, payload: &Bytes) -> Result<(), ServiceError> {
        let session = &self.identity.session;
        if self.kind == Kind::Telemetry {
            return telemetry::take(session, format, payload);
        }
        if format != STANDARD_FORMAT {
            return Err(ServiceError::invalid("messages come one by one here"));
        }
        let message = Message::decode(payload).map_err(undecodable)?;
        match self.kind {
            Kind::MethodAnswers => {
                let answer = methods::answer(self.identity.correlation, &message)?;
                // An answer to a call that is not there is late.
                if let Some(call) = answer.call {
                    session.method_response(call, answer.status, &answer.body);
                }
                Ok(())
            }
            Kind::TwinRequests => {
                let rid = twin::Rid::of(&message)?;
                match twin::request(&message) {
                    Ok(twin::Request::Read) => session.read_twin(rid.as_str()),
                    Ok(twin::Request::PatchReported { version, patch }) => {
                        session.update_reported(rid.as_str(), version, &patch);
                    }
                    Ok(twin::Request::Subscribe) => {
                        session.subscribe(Filter::DesiredChanges, Qos::AtMostOnce);
                        session.confirm(rid.as_str());
                    }
                    Ok(twin::Request::Unsubscribe) => {
                        session.unsubscribe(Filter::DesiredChanges);
                        session.confirm(rid.as_str());
                    }
                    Err(error) => session.refuse(rid.as_str(), &error),
                }
                Ok(())
            }
            // The engine lets nothing in on links that the device receives from.
            _ => Ok(()),
        }
    }

    fn answer(
        &self,
        delivery: DeliveryId,
        settled: bool,
        taken: Result<(), ServiceError>,
        engine: &mut Engine,
    ) -> Result<(), Error> {
        let outcome = match taken {
            Ok(()) => DeliveryState::Accepted,
            Err(error) if settled => return Err(conditions::of(&error)),
            Err(error) => DeliveryState::Rejected {
                error: Some(conditions::of(&error)),
            },
        };
        if !settled {
            // The link may have been detached in the same read.
            let _ = engine.settle(self.link, delivery, outcome);
        }
        Ok(())
    }
}

fn undecodable(error: impl std::fmt::Display) -> ServiceError {
    ServiceError::new(ErrorCode::IotHubFormatError, format!("the message: {error}"))
}

/// What comes by this link comes no more, unless another has taken its place.
impl Drop for DeviceLink {
    fn drop(&mut self) {
        let left = {
            let mut links = self.identity.links();
            let own = &mut links[self.kind as usize];
            if *own == Some(self.link) {
                *own = None;
                Some(links.iter().flatten().next().copied())
            } else {
                None
            }
        };
        let Some(other) = left else { return };
        let session = &self.identity.session;
        match self.kind {
            Kind::Messages => session.stop_messages(),
            Kind::TwinAnswers => {
                session.unsubscribe(Filter::TwinResponses);
                session.unsubscribe(Filter::DesiredChanges);
            }
            kind => {
                if let Some(filter) = kind.filter() {
                    session.unsubscribe(filter);
                }
            }
        }
        // The outbox may have been waiting for the waker of this link.
        if let Some(other) = other {
            self.identity.inbox.wake(other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hub_core::ids::{DeviceId, ModuleId};

    #[test]
    fn every_kind_has_a_place_of_its_own() {
        let device = Target::device(DeviceId::parse("d").unwrap());
        let module = Target {
            module: Some(ModuleId::parse("m").unwrap()),
            ..device.clone()
        };
        let nodes = [
            DeviceNode::Events,
            DeviceNode::DeviceBound,
            DeviceNode::Methods,
            DeviceNode::Twin,
        ];
        let kinds = |target: &Target| {
            let both = nodes
                .iter()
                .flat_map(|node| [(*node, Role::Sender), (*node, Role::Receiver)]);
            both.filter_map(|(node, role)| Kind::of(node, role, target))
                .map(|kind| kind as usize)
                .collect::<Vec<_>>()
        };
        let mut of_module = kinds(&module);
        of_module.sort_unstable();
        assert_eq!(of_module, (0..Kind::COUNT).collect::<Vec<_>>());
        assert_eq!(kinds(&device).len(), Kind::COUNT - 1);
    }
}
