//! One AMQP connection from its first byte to its last.
//!
//! The task handles what a read brought, and what its links were woken for,
//! then writes everything at once. While the peer does not read, nothing more
//! is read from it and no node is asked for more, so what waits to be written
//! is bounded.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use amqp_wire::engine::{Config, Engine, Event, LinkId, SessionId};
use amqp_wire::performative::condition::CONNECTION_FORCED;
use amqp_wire::performative::{Attach, Error};
use bytes::BytesMut;
use hub_core::limits;
use job_service::Clock;
use mqtt_wire::fill_with;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};

use super::address::Address;
use super::caller::Caller;
use super::nodes::{self, Attached, Ctx, Node, Shared, has_room};
use super::{condition, sasl};
use crate::hub::HubState;
use crate::hub::access::deadline;
use crate::tls::ClientCertificate;
use crate::writing::{self, Unwritten, shut_down};

/// What all connections say of themselves.
static CONFIG: LazyLock<Arc<Config>> = LazyLock::new(|| {
    let mut config = Config::new("iothub");
    config.mechanisms = sasl::MECHANISMS.map(bytestring::ByteString::from_static).to_vec();
    config.limits.output_bytes = limits::AMQP_UNWRITTEN_BYTES;
    Arc::new(config)
});

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ending {
    #[error("the connection was closed: {0:?}")]
    Closed(Option<Error>),
    #[error("the peer ended the stream")]
    PeerClosed,
    #[error("the peer did not open the connection in time")]
    NotOpened,
    #[error("the hub stops")]
    Stopped,
    #[error("the peer does not read what it is sent")]
    WriteStalled,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Serves a connection until it ends. Never fails: a bad peer is closed.
/// `certificate` is what the client presented in the TLS handshake, if there
/// was one.
pub(crate) async fn serve<S>(mut stream: S, hub: Arc<HubState>, certificate: Option<ClientCertificate>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let _entered = hub.farewell.enter();
    let mut connection = Box::new(Connection::new(hub, certificate));
    let ending = match connection.run(&mut stream).await {
        Ok(never) => match never {},
        Err(ending) => ending,
    };
    tracing::debug!(%ending, "AMQP connection ended");
    // What its links hold goes back before the peer is told of the end.
    drop(connection);
    Box::pin(shut_down(&mut stream)).await;
}

struct Connection {
    hub: Arc<HubState>,
    engine: Engine,
    shared: Shared,
    nodes: BTreeMap<LinkId, Entry>,
    /// Why the connection was closed, once it is.
    closed: Option<Option<Error>>,
    /// Whether the timer is not set for what is due next.
    timer_is_stale: bool,
}

/// A link's node, and the credit that it always has.
struct Entry {
    node: Node,
    credit: u32,
}

/// Whether there is more to do at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Done,
    MoreAfterWriting,
}

impl Connection {
    fn new(hub: Arc<HubState>, certificate: Option<ClientCertificate>) -> Self {
        Self {
            hub,
            engine: Engine::server(CONFIG.clone()),
            shared: Shared::new(Caller::new(certificate)),
            nodes: BTreeMap::new(),
            closed: None,
            timer_is_stale: false,
        }
    }

    async fn run<S>(&mut self, stream: &mut S) -> Result<Infallible, Ending>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let inbox = self.shared.inbox.clone();
        let hub = self.hub.clone();
        let mut is_stopping = false;
        let timer = sleep_until(Instant::now() + limits::AMQP_OPEN_DEADLINE);
        tokio::pin!(timer);
        loop {
            let work = self.work();
            if self.engine.has_output() {
                write_all(stream, self.engine.take_output()).await?;
                continue;
            }
            if let Some(reason) = self.closed.take() {
                return Err(Ending::Closed(reason));
            }
            if self.engine.is_closed() {
                return Err(Ending::Closed(None));
            }
            if work == Work::MoreAfterWriting {
                continue;
            }
            if std::mem::take(&mut self.timer_is_stale) {
                timer.as_mut().reset(self.next_due());
                if self.engine.has_output() {
                    continue;
                }
            }
            let engine = &mut self.engine;
            tokio::select! {
                read = fill_with(stream, |bytes| engine.feed(bytes)) => {
                    if read? == 0 {
                        return Err(Ending::PeerClosed);
                    }
                }
                () = poll_fn(|cx| inbox.poll(cx)) => {}
                () = hub.farewell.stopping(), if !is_stopping => {
                    is_stopping = true;
                    if !self.engine.is_open() {
                        return Err(Ending::Stopped);
                    }
                    let error = Error::new(CONNECTION_FORCED, "the hub stops");
                    // Its peer may have closed it already.
                    let _ = self.engine.close(Some(error));
                    self.forget_links();
                }
                () = &mut timer => {
                    if !self.engine.is_open() {
                        return Err(Ending::NotOpened);
                    }
                    self.end_tokens();
                    self.timer_is_stale = true;
                }
            }
        }
    }

    /// Does what is due by the engine's clock, and says when to come again. A
    /// link's token that has ended is not looked at here.
    fn next_due(&mut self) -> Instant {
        let now = Instant::now();
        let engine = self.engine.tick(now.into_std()).map(Instant::from_std);
        let token = self.shared.caller.next_end().and_then(deadline);
        // Nothing is due for a connection that closes: its peer may take as long
        // as for opening it.
        let idle = now + limits::AMQP_OPEN_DEADLINE;
        [engine, token].into_iter().flatten().min().unwrap_or(idle)
    }

    /// Handles what has arrived and what links were woken for, until nothing is
    /// left or too much waits to be written.
    fn work(&mut self) -> Work {
        loop {
            if !has_room(&self.engine) {
                return Work::MoreAfterWriting;
            }
            if let Some(event) = self.engine.next_event() {
                self.on_event(event);
            } else if let Some(link) = self.shared.inbox.take() {
                self.with_node(link, |node, engine, ctx| node.pump(link, engine, ctx));
            } else {
                return Work::Done;
            }
            if std::mem::take(&mut self.shared.tokens_changed) {
                self.timer_is_stale |= self.engine.is_open();
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Sasl {
                mechanism, response, ..
            } => {
                let code = sasl::decide(&self.hub, &mut self.shared.caller, &mechanism, &response);
                let decided = self.engine.sasl_outcome(code);
                debug_assert!(decided.is_ok(), "the engine waits for the decision");
            }
            Event::Open(open) => {
                tracing::debug!(container = %open.container_id, "AMQP connection opened");
                self.timer_is_stale = true;
            }
            Event::Begun { .. } | Event::Attached { .. } => {}
            Event::Attach {
                link,
                session,
                attach,
            } => self.attach(link, session, &attach),
            Event::Message { link, .. } => {
                self.with_node(link, |node, engine, ctx| node.on_event(event, engine, ctx));
                self.refill(link);
            }
            Event::Credit { link, .. } => {
                self.with_node(link, |node, engine, ctx| {
                    node.on_event(event, engine, ctx)?;
                    node.pump(link, engine, ctx)
                });
            }
            Event::Outcome { link, .. } => {
                self.with_node(link, |node, engine, ctx| {
                    node.on_event(event, engine, ctx)?;
                    node.pump(link, engine, ctx)
                });
            }
            Event::Detached { link, .. } => self.forget(link),
            Event::Ended { links, .. } => links.into_iter().for_each(|link| self.forget(link)),
            Event::Closed { error, .. } => {
                self.forget_links();
                self.closed = Some(error);
            }
        }
    }

    fn attach(&mut self, link: LinkId, session: SessionId, attach: &Attach) {
        let Some(address) = attach.address().and_then(Address::parse) else {
            self.refuse(link, attach, condition::not_found());
            return;
        };
        let address = address.meant(|target| self.hub.registry.find(&target.device).is_some());
        self.shared.add_link(link, session, address.clone(), attach);
        let mut ctx = Ctx {
            hub: &self.hub,
            shared: &mut self.shared,
        };
        match nodes::attach(link, &address, attach, &mut ctx) {
            Ok(Attached { node, reply, credit }) => {
                let is_source = self.engine.role(link) == Ok(amqp_wire::performative::Role::Sender);
                let credit = if is_source { 0 } else { credit };
                self.nodes.insert(link, Entry { node, credit });
                if self.engine.accept_attach(link, reply).is_err() {
                    self.forget(link);
                }
                if credit > 0 {
                    let _ = self.engine.grant(link, credit);
                }
                self.close_links();
                self.shared.inbox.wake(link);
            }
            Err(error) => {
                self.forget(link);
                self.refuse(link, attach, error);
            }
        }
    }

    fn refuse(&mut self, link: LinkId, attach: &Attach, error: Error) {
        tracing::debug!(address = ?attach.address(), %error.condition, "attach refused");
        let _ = self.engine.refuse_attach(link, error);
    }

    /// Calls the node of a link; detaches the link if that fails.
    fn with_node(
        &mut self,
        link: LinkId,
        call: impl FnOnce(&mut Node, &mut Engine, &mut Ctx<'_>) -> Result<(), Error>,
    ) {
        let Some(entry) = self.nodes.get_mut(&link) else {
            return;
        };
        let mut ctx = Ctx {
            hub: &self.hub,
            shared: &mut self.shared,
        };
        let called = call(&mut entry.node, &mut self.engine, &mut ctx);
        if let Err(error) = called {
            self.detach(link, Some(error));
        }
        self.close_links();
    }

    fn close_links(&mut self) {
        for (link, error) in self.shared.take_closing() {
            self.detach(link, error);
        }
    }

    fn detach(&mut self, link: LinkId, error: Option<Error>) {
        self.forget(link);
        // It may be gone already.
        let _ = self.engine.detach(link, true, error);
    }

    fn forget(&mut self, link: LinkId) {
        self.nodes.remove(&link);
        self.shared.links.remove(&link);
    }

    fn forget_links(&mut self) {
        self.nodes.clear();
        self.shared.links.clear();
    }

    /// Gives the client the credit again that it has used up.
    fn refill(&mut self, link: LinkId) {
        let Some(entry) = self.nodes.get(&link) else {
            return;
        };
        if entry.credit > 0
            && self
                .engine
                .credit(link)
                .is_ok_and(|left| left <= entry.credit / 2)
        {
            let _ = self.engine.grant(link, entry.credit);
        }
    }

    /// Detaches the links that no token allows any more. Another token than that
    /// which has ended may allow a link.
    fn end_tokens(&mut self) {
        if !self.shared.caller.drop_ended() {
            return;
        }
        let now = Clock::system_now();
        let Shared { caller, links, .. } = &mut self.shared;
        let mut ended = Vec::new();
        for (link, info) in links.iter_mut().filter(|(_, info)| info.until <= now) {
            match caller.may(&self.hub, &info.address) {
                Ok(grant) => info.until = grant.until,
                Err(denied) => ended.push((*link, condition::unauthorized(&denied))),
            }
        }
        for (link, error) in ended {
            self.detach(link, Some(error));
        }
    }
}

/// Writes and flushes all of `out`, unless the peer stops reading.
async fn write_all<S: AsyncWrite + Unpin>(stream: &mut S, mut out: BytesMut) -> Result<(), Ending> {
    let never = |_: &mut Context<'_>| Poll::<Infallible>::Pending;
    writing::write_all(stream, &mut out, None, never)
        .await
        .map_err(|unwritten| match unwritten {
            Unwritten::Io(error) => error.into(),
            Unwritten::Late => Ending::WriteStalled,
            Unwritten::Interrupted(never) => match never {},
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Many of these wait at once; a field too many shows in megabytes.
    #[test]
    fn a_connection_that_waits_is_small() {
        let (_, stream) = tokio::io::duplex(1);
        let hub = Arc::new(HubState::for_tests());
        let connection = serve(stream, hub.clone(), None);
        let bytes = size_of_val(&connection) + size_of_val(&Connection::new(hub, None));
        assert!(bytes <= 1_500, "{bytes} bytes");
    }
}
