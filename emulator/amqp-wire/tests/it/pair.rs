//! Two engines whose bytes are carried by hand.

use std::sync::Arc;

use amqp_wire::engine::{AttachReply, Config, Engine, Event, LinkId, SessionId};
use amqp_wire::performative::{Attach, Role, SaslCode, SaslInit, Source, Target};

/// A client and a server. The server accepts every login and every attach.
pub(crate) struct Pair {
    pub(crate) client: Engine,
    pub(crate) server: Engine,
    /// Events that have come and that no test has looked at.
    pub(crate) at_client: Vec<Event>,
    pub(crate) at_server: Vec<Event>,
}

pub(crate) fn config(name: &'static str) -> Config {
    Config::new(name)
}

impl Pair {
    /// A pair that is open, without a SASL layer.
    pub(crate) fn open(client: Config, server: Config) -> Self {
        Self::open_with(client, server, None)
    }

    pub(crate) fn open_with(client: Config, server: Config, login: Option<SaslInit>) -> Self {
        let mut pair = Self {
            client: Engine::client(Arc::new(client), login),
            server: Engine::server(Arc::new(server)),
            at_client: Vec::new(),
            at_server: Vec::new(),
        };
        pair.run();
        assert!(pair.client.is_open() && pair.server.is_open());
        pair.at_client.clear();
        pair.at_server.clear();
        pair
    }

    /// Carries bytes and collects events until nothing moves.
    pub(crate) fn run(&mut self) {
        loop {
            let mut moved = false;
            while let Some(event) = self.server.next_event() {
                match &event {
                    Event::Sasl { .. } => self.server.sasl_outcome(SaslCode::Ok).unwrap(),
                    Event::Attach { link, .. } => {
                        self.server.accept_attach(*link, AttachReply::default()).unwrap();
                    }
                    _ => {}
                }
                self.at_server.push(event);
                moved = true;
            }
            while let Some(event) = self.client.next_event() {
                self.at_client.push(event);
                moved = true;
            }
            let bytes = self.client.take_output();
            self.server.feed(&bytes);
            moved |= !bytes.is_empty();
            let bytes = self.server.take_output();
            self.client.feed(&bytes);
            moved |= !bytes.is_empty();
            if !moved {
                return;
            }
        }
    }

    /// A session of the client's.
    pub(crate) fn begin(&mut self) -> SessionId {
        let session = self.client.begin().unwrap();
        self.run();
        self.at_client.clear();
        self.at_server.clear();
        session
    }

    /// A link of the client's on a session: its ids at the client and at the server.
    pub(crate) fn attach(&mut self, session: SessionId, role: Role) -> (LinkId, LinkId) {
        self.attach_as(
            session,
            Attach::new("link", role, Source::at("a"), Target::at("b")),
        )
    }

    pub(crate) fn attach_as(&mut self, session: SessionId, attach: Attach) -> (LinkId, LinkId) {
        let ours = self.client.attach(session, attach).unwrap();
        self.run();
        let theirs = self.at_server.iter().rev().find_map(|event| match event {
            Event::Attach { link, .. } => Some(*link),
            _ => None,
        });
        self.at_client.clear();
        self.at_server.clear();
        (ours, theirs.unwrap())
    }

    /// What has come to the server, and forgets it.
    pub(crate) fn server_events(&mut self) -> Vec<Event> {
        self.run();
        std::mem::take(&mut self.at_server)
    }

    /// What has come to the client, and forgets it.
    pub(crate) fn client_events(&mut self) -> Vec<Event> {
        self.run();
        std::mem::take(&mut self.at_client)
    }
}
