//! What is behind the addresses: one file for each kind of node.
//!
//! A node is plain data of one link. [`attach`] makes it; the connection then
//! calls [`Node::on_event`] with what happens on the link and [`Node::pump`]
//! when something may have changed: its waker was woken, credit has come, the
//! output has been written. A node must not block, and sends only what the
//! link has credit for.

mod c2d_send;
mod device;
mod management;
mod notices;
mod partition;
mod redirect;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;

use amqp_wire::engine::{AttachReply, Engine, Event, LinkId, SessionId};
use amqp_wire::performative::{Attach, Error, Role};
use hub_core::limits;
use hub_core::time::Timestamp;

use self::notices::Notices;
use self::partition::PartitionReader;
use super::address::{Address, Events, EventsName, EventsNode};
use super::caller::{Caller, Grant, PutError};
use super::inbox::Inbox;
use super::{cbs, condition};
use crate::hub::HubState;

/// A client's own address that is remembered to tell its links apart; the
/// emulator's own bound, far above what SDKs use.
const REPLY_TO_BYTES: usize = 512;

/// What the nodes of a connection share.
pub(crate) struct Shared {
    pub(crate) caller: Caller,
    /// All links that are attached, also those of other nodes.
    pub(crate) links: BTreeMap<LinkId, LinkInfo>,
    /// Links that were attached so far.
    attaches: u64,
    pub(super) inbox: Arc<Inbox>,
    /// The devices and modules that the connection has links of.
    identities: device::Identities,
    /// Links that a node has given up, to be detached.
    closing: Vec<(LinkId, Option<Error>)>,
    /// Whether tokens have come or gone since the connection last looked.
    pub(super) tokens_changed: bool,
}

/// What is known of a link beside its node.
pub(crate) struct LinkInfo {
    pub(crate) address: Address,
    pub(crate) session: SessionId,
    /// The role of the hub's end.
    pub(crate) role: Role,
    /// The client's own end: the target of a link on which it receives. Answers
    /// name it in `reply-to`. None if it is longer than [`REPLY_TO_BYTES`].
    pub(crate) peer_address: Option<Box<str>>,
    /// When the right to it ends; unknown before it is let in.
    pub(crate) until: Timestamp,
    /// Which attach of the connection it was.
    number: u64,
    /// Wakes the link's node; see [`Ctx::waker`].
    waker: Waker,
}

/// What a node works with while it is called.
pub(crate) struct Ctx<'a> {
    pub(crate) hub: &'a Arc<HubState>,
    pub(crate) shared: &'a mut Shared,
}

impl Shared {
    pub(super) fn new(caller: Caller) -> Self {
        Self {
            caller,
            links: BTreeMap::new(),
            attaches: 0,
            inbox: Arc::default(),
            identities: device::Identities::default(),
            closing: Vec::new(),
            tokens_changed: false,
        }
    }

    pub(super) fn add_link(&mut self, link: LinkId, session: SessionId, address: Address, attach: &Attach) {
        self.attaches += 1;
        // Copied: what the client sent is a slice of a whole read.
        let peer_address = match attach.role {
            Role::Receiver => attach.target.as_ref().and_then(|target| target.address.as_str()),
            Role::Sender => attach.source.as_ref().and_then(|source| source.address.as_str()),
        };
        let info = LinkInfo {
            address,
            session,
            role: attach.role.other(),
            peer_address: peer_address
                .filter(|address| address.len() <= REPLY_TO_BYTES)
                .map(Into::into),
            until: Timestamp::MAX,
            number: self.attaches,
            waker: self.inbox.waker(link),
        };
        self.links.insert(link, info);
    }

    /// Takes out the links that nodes have given up.
    pub(super) fn take_closing(&mut self) -> Vec<(LinkId, Option<Error>)> {
        std::mem::take(&mut self.closing)
    }
}

impl Ctx<'_> {
    /// Takes a token that the client shows.
    pub(super) fn put_token(&mut self, token: &str) -> Result<(), PutError> {
        self.shared.tokens_changed = true;
        self.shared.caller.put(self.hub, token)
    }

    /// Where an answer to a request goes: the link from the same address whose
    /// other end is called `reply_to`, otherwise the newest in the same session,
    /// otherwise the newest.
    pub(crate) fn reply_link(&self, request: LinkId, reply_to: Option<&str>) -> Option<LinkId> {
        let links = &self.shared.links;
        let asked = links.get(&request)?;
        let candidates = links
            .iter()
            .filter(|(_, info)| info.role == Role::Sender && info.address == asked.address);
        let rank = |info: &LinkInfo| {
            let is_named = reply_to.is_some() && info.peer_address.as_deref() == reply_to;
            (is_named, info.session == asked.session, info.number)
        };
        candidates
            .max_by_key(|(_, info)| rank(info))
            .map(|(link, _)| *link)
    }

    /// Wakes a link's node: [`Node::pump`] is called once the waker is woken.
    /// What a node waits for it polls with this.
    pub(crate) fn waker(&self, link: LinkId) -> Waker {
        let info = self.shared.links.get(&link);
        info.map_or_else(|| Waker::noop().clone(), |info| info.waker.clone())
    }

    /// Has [`Node::pump`] called again, after others have had their turn and
    /// the output has been written as far as it is too much.
    pub(crate) fn wake(&self, link: LinkId) {
        self.shared.inbox.wake(link);
    }

    /// Detaches a link, this node's or another's, once the call has returned.
    pub(crate) fn close(&mut self, link: LinkId, error: Option<Error>) {
        self.shared.closing.push((link, error));
    }
}

/// Whether more may be put into the output; a node for which there is no room
/// stops and [wakes](Ctx::wake) itself.
pub(crate) fn has_room(engine: &Engine) -> bool {
    engine.output_len() < limits::AMQP_UNWRITTEN_BYTES
}

/// The node of one link.
pub(crate) enum Node {
    /// `$cbs`, from the client.
    Cbs,
    /// The client's end of a pair on which the answers of another node are sent.
    Replies,
    /// Messages to devices.
    C2dSend,
    /// Feedback or file notifications.
    Notices(Box<Notices>),
    /// Questions about the event stream, from the client.
    Management,
    /// Events of a partition.
    Partition(Box<PartitionReader>),
    /// A link of a device or module.
    Device(device::DeviceLink),
}

/// A link that is let in.
pub(crate) struct Attached {
    pub(crate) node: Node,
    pub(crate) reply: AttachReply,
    /// Messages that the client may send before they are dealt with; the
    /// connection keeps giving as much. 0 if the node sees to that itself.
    pub(crate) credit: u32,
}

impl Attached {
    /// A node without anything special about its link.
    pub(crate) fn new(node: Node) -> Self {
        Self {
            node,
            reply: AttachReply::default(),
            credit: limits::AMQP_CREDIT,
        }
    }
}

/// Lets a link in, or says why not. The connection answers the client.
pub(super) fn attach(
    link: LinkId,
    address: &Address,
    attach: &Attach,
    ctx: &mut Ctx<'_>,
) -> Result<Attached, Error> {
    let Grant { until, authorized } = ctx
        .shared
        .caller
        .may(ctx.hub, address)
        .map_err(|denied| condition::unauthorized(&denied))?;
    if let Some(info) = ctx.shared.links.get_mut(&link) {
        info.until = until;
    }
    match (address, attach.role) {
        (Address::Cbs, Role::Sender) => Ok(Attached {
            reply: AttachReply {
                max_message_size: Some(limits::AMQP_TOKEN_MESSAGE_BYTES),
                ..AttachReply::default()
            },
            ..Attached::new(Node::Cbs)
        }),
        (Address::Cbs, Role::Receiver) => Ok(Attached::new(Node::Replies)),
        (Address::CloudToDevice, Role::Sender) => Ok(Attached::new(Node::C2dSend)),
        (Address::CloudToDevice, Role::Receiver) => Err(condition::wrong_role()),
        (Address::Events(events), _) => attach_events(events, attach, ctx),
        (Address::Feedback, Role::Receiver) => {
            let node = Notices::new(ctx.hub, notices::Kind::Feedback, attach);
            Ok(Attached::new(Node::Notices(node)))
        }
        (Address::FileNotifications, Role::Receiver) => {
            let node = Notices::new(ctx.hub, notices::Kind::Files, attach);
            Ok(Attached::new(Node::Notices(node)))
        }
        (Address::Feedback | Address::FileNotifications, Role::Sender) => Err(condition::wrong_role()),
        (Address::Device(target, node), _) => {
            // Only a right to an identity opens its links.
            let authorized = authorized.ok_or_else(condition::not_found)?;
            device::attach(link, (target, *node), authorized, attach, ctx)
        }
    }
}

/// Lets a link to an event stream in. Readers of the hub's own name for it are
/// sent to the Event-Hub-compatible one, unless they know of partitions.
fn attach_events(events: &Events, attach: &Attach, ctx: &mut Ctx<'_>) -> Result<Attached, Error> {
    let stream = match &events.name {
        EventsName::EventHub(name) => ctx.hub.events.stream(name).ok_or_else(condition::not_found)?,
        EventsName::Messages if !matches!(events.node, EventsNode::Partition { .. }) => {
            return Err(redirect::to_event_hub(ctx.hub, &events.node));
        }
        EventsName::Messages | EventsName::None => ctx.hub.events.built_in().clone(),
    };
    match (&events.node, attach.role) {
        (EventsNode::Management, Role::Sender) => Ok(Attached::new(Node::Management)),
        (EventsNode::Management, Role::Receiver) => Ok(Attached::new(Node::Replies)),
        (EventsNode::Partition { group, partition }, Role::Receiver) => {
            let (reader, reply) = PartitionReader::attach(&stream, group, partition, attach)?;
            Ok(Attached {
                reply,
                ..Attached::new(Node::Partition(Box::new(reader)))
            })
        }
        // Events come from devices alone: no policy of a hub can send here.
        (_, Role::Sender) => Err(Error::new(
            condition::UNAUTHORIZED,
            "'Send' claims are required, which no policy of a hub holds",
        )),
        (EventsNode::Root, Role::Receiver) => Err(condition::not_found()),
    }
}

impl Node {
    /// Takes what has happened on its link: a message, credit, an outcome.
    ///
    /// # Errors
    /// What the link is to be detached with.
    pub(super) fn on_event(
        &mut self,
        event: Event,
        engine: &mut Engine,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), Error> {
        match self {
            Self::Cbs => cbs::on_event(event, engine, ctx),
            Self::Management => management::on_event(event, engine, ctx),
            Self::C2dSend => return c2d_send::on_event(event, engine, ctx),
            Self::Notices(node) => node.on_event(&event),
            Self::Device(node) => return node.on_event(event, engine, ctx),
            Self::Replies | Self::Partition(_) => {}
        }
        Ok(())
    }

    /// Looks at what the node waits for, and sends what it may.
    ///
    /// # Errors
    /// What the link is to be detached with.
    pub(super) fn pump(&mut self, link: LinkId, engine: &mut Engine, ctx: &mut Ctx<'_>) -> Result<(), Error> {
        match self {
            Self::Partition(reader) => reader.pump(link, engine, ctx),
            Self::Notices(node) => node.pump(link, engine, ctx),
            Self::Device(node) => {
                node.pump(engine, ctx);
                Ok(())
            }
            Self::Cbs | Self::Replies | Self::C2dSend | Self::Management => Ok(()),
        }
    }
}
