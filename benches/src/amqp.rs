//! A minimal AMQP client: one connection, one session, the links that a bench
//! asks for.

use std::collections::VecDeque;
use std::sync::Arc;

use amqp_wire::engine::{Config, Engine, Event, LinkId, SessionId};
use amqp_wire::performative::{Attach, Role, SaslInit, Source, Target};
use bytes::BytesMut;
use emulator::Hub;
use hub_core::sas;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use crate::site::{service_connection, token_expiry};

/// Bytes that one read may bring.
const READ_BYTES: usize = 256 * 1024;

/// A back end's connection to a hub in the same process, with the rights of the
/// hub's service connection string.
pub struct AmqpPeer {
    /// The connection's state: for granting credit and sending, between events.
    pub engine: Engine,
    stream: DuplexStream,
    session: SessionId,
    buffer: BytesMut,
    /// Events that arrived while an attach was waited for.
    early: VecDeque<Event>,
}

impl AmqpPeer {
    /// Connects, proves who it is, and begins a session.
    ///
    /// # Panics
    /// When the hub refuses.
    pub async fn open(hub: &Hub) -> Self {
        let service = service_connection(hub);
        let (host, policy) = (service.host.name(), Some(service.policy.as_str()));
        let token = sas::sign(host, &service.key, token_expiry(), policy);
        let login = SaslInit::plain(&format!("{}@sas.root.localhost", service.policy), &token);
        let mut engine = Engine::client(Arc::new(Config::new("bench")), Some(login));
        let mut stream = hub.connect_amqp_in_memory();
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        let session = loop {
            match next(&mut engine, &mut stream, &mut buffer).await {
                Event::Open(_) => drop(engine.begin().expect("the connection is open")),
                Event::Begun { session } => break session,
                _ => {}
            }
        };
        Self {
            engine,
            stream,
            session,
            buffer,
            early: VecDeque::new(),
        }
    }

    /// Attaches a link that receives from, or sends to, an address.
    ///
    /// # Panics
    /// When the hub refuses it.
    pub async fn attach(&mut self, role: Role, address: &str) -> LinkId {
        let (source, target) = match role {
            Role::Receiver => (Source::at(address), Target::at("bench")),
            Role::Sender => (Source::at("bench"), Target::at(address)),
        };
        let attach = Attach::new(address, role, source, target);
        let wanted = self.engine.attach(self.session, attach).expect("room for a link");
        loop {
            match next(&mut self.engine, &mut self.stream, &mut self.buffer).await {
                Event::Attached { link, .. } if link == wanted => return link,
                event => self.early.push_back(event),
            }
        }
    }

    /// What happens next; what is to be sent is sent first.
    ///
    /// # Panics
    /// When the hub ends a link or the connection.
    pub async fn event(&mut self) -> Event {
        match self.early.pop_front() {
            Some(event) => event,
            None => next(&mut self.engine, &mut self.stream, &mut self.buffer).await,
        }
    }
}

async fn next(engine: &mut Engine, stream: &mut DuplexStream, buffer: &mut BytesMut) -> Event {
    loop {
        match engine.next_event() {
            Some(Event::Detached { error, .. } | Event::Closed { error, .. }) => {
                panic!("the hub ended it: {error:?}")
            }
            Some(event) => return event,
            None => {
                let mut out = engine.take_output();
                let written = stream.write_all_buf(&mut out).await;
                written.expect("the connection stays");
                buffer.clear();
                let read = stream.read_buf(buffer).await.expect("the connection stays");
                assert!(read > 0, "the hub closed the stream");
                engine.feed(buffer);
            }
        }
    }
}
