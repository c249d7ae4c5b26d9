//! An AMQP client: `amqp-wire`'s engine at the client's end of a socket.

use std::collections::VecDeque;
use std::sync::Arc;

use amqp_wire::Value;
use amqp_wire::engine::{Config, DeliveryId, Engine, Event, LinkId, Outgoing, SessionId};
use amqp_wire::message::{Message, Properties};
use amqp_wire::performative::{Attach, DeliveryState, Error, Role, SaslInit, Source, Target};
use bytes::Buf as _;
use emulator::{DEVELOPMENT_KEY, Hub};
use hub_core::sas::{self, Key};
use rustls::version;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::certificates::Holder;
use super::device::{Identity, unix_now};
use super::soon;
use super::transport::{FrameBytes, Socket, TlsClient, WEBSOCKET_PATH, upgrade};

/// The sub-protocol of AMQP in a WebSocket.
pub const AMQP_PROTOCOL: &str = "AMQPWSB10";

/// A way to the hub's AMQP front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AmqpTransport {
    Memory,
    Tcp,
    Tls,
    WebSocket,
    /// The path of clients of Service Bus.
    ServiceBusWebSocketOverTls,
}

impl AmqpTransport {
    pub const ALL: [Self; 5] = [
        Self::Memory,
        Self::Tcp,
        Self::Tls,
        Self::WebSocket,
        Self::ServiceBusWebSocketOverTls,
    ];

    pub async fn open(self, hub: &Hub, holder: Option<&Holder>) -> Box<dyn Socket> {
        match self {
            Self::Memory => Box::new(hub.connect_amqp_in_memory()),
            Self::Tcp => Box::new(TcpStream::connect(hub.amqp_address().unwrap()).await.unwrap()),
            Self::Tls => {
                let client = TlsClient::new(hub, &version::TLS13, holder);
                Box::new(client.connect(hub.amqps_address().unwrap()).await)
            }
            Self::WebSocket => {
                let stream = TcpStream::connect(hub.http_address().unwrap()).await.unwrap();
                let socket = upgrade(stream, WEBSOCKET_PATH, Some(AMQP_PROTOCOL))
                    .await
                    .unwrap();
                Box::new(FrameBytes::new(socket))
            }
            Self::ServiceBusWebSocketOverTls => {
                let client = TlsClient::new(hub, &version::TLS12, holder);
                let stream = client.connect(hub.https_address().unwrap()).await;
                let path = "/$servicebus/websocket/";
                let socket = upgrade(stream, path, Some(AMQP_PROTOCOL)).await.unwrap();
                Box::new(FrameBytes::new(socket))
            }
        }
    }
}

/// A connection of a client. Events that a call does not wait for are kept for
/// a later one.
pub struct AmqpClient {
    pub engine: Engine,
    socket: Box<dyn Socket>,
    events: VecDeque<Event>,
    pub session: Option<SessionId>,
    /// Sender to and receiver from `$cbs`.
    cbs: Option<(LinkId, LinkId)>,
    names: u32,
}

impl AmqpClient {
    /// Opens a connection and a session on it.
    pub async fn connect(hub: &Hub, transport: AmqpTransport, login: Option<SaslInit>) -> Self {
        let mut client = Self::on(transport.open(hub, None).await, login);
        client.begin().await;
        client
    }

    /// As [`connect`](Self::connect), over memory and with a token of this
    /// policy for the whole hub.
    pub async fn of_policy(hub: &Hub, policy: &str) -> Self {
        let mut client = Self::connect(hub, AmqpTransport::Memory, None).await;
        let token = policy_token("localhost", policy, unix_now() + 3600);
        assert_eq!(client.put_token(&token).await, 200);
        client
    }

    /// As [`connect`](Self::connect), over memory and with the token of a device
    /// or module.
    pub async fn of_identity(hub: &Hub, identity: &Identity) -> Self {
        let mut client = Self::connect(hub, AmqpTransport::Memory, None).await;
        assert_eq!(client.put_token(&identity.token(unix_now() + 3600)).await, 200);
        client
    }

    /// A connection on `socket`; nothing has been sent yet.
    pub fn on(socket: Box<dyn Socket>, login: Option<SaslInit>) -> Self {
        Self {
            engine: Engine::client(Arc::new(Config::new("test")), login),
            socket,
            events: VecDeque::new(),
            session: None,
            cbs: None,
            names: 0,
        }
    }

    /// Waits until the connection is open, and begins a session.
    pub async fn begin(&mut self) -> SessionId {
        if !self.engine.is_open() {
            self.wait("the open", |event| match event {
                Event::Open(_) => Some(()),
                Event::Closed { error, .. } => panic!("closed instead of opened: {error:?}"),
                _ => None,
            })
            .await;
        }
        let session = self.engine.begin().unwrap();
        self.wait("the begin", |event| {
            matches!(event, Event::Begun { session: begun } if *begun == session).then_some(())
        })
        .await;
        self.session.get_or_insert(session);
        session
    }

    /// The next event that `choose` takes; the others wait.
    pub async fn wait<T>(&mut self, what: &str, mut choose: impl FnMut(&Event) -> Option<T>) -> T {
        let mut seen = 0;
        soon(what, async {
            loop {
                while let Some(event) = self.events.get(seen) {
                    if let Some(chosen) = choose(event) {
                        self.events.remove(seen);
                        return chosen;
                    }
                    seen += 1;
                }
                assert!(self.step().await, "the stream ended; left: {:?}", self.events);
            }
        })
        .await
    }

    /// Writes what there is and reads once; false at the end of the stream.
    async fn step(&mut self) -> bool {
        let before = self.events.len();
        while let Some(event) = self.engine.next_event() {
            self.events.push_back(event);
        }
        self.flush().await;
        if self.events.len() > before {
            return true;
        }
        let mut bytes = vec![0; 16 * 1024];
        let read = self.socket.read(&mut bytes).await.unwrap_or(0);
        self.engine.feed(&bytes[..read]);
        while let Some(event) = self.engine.next_event() {
            self.events.push_back(event);
        }
        self.flush().await;
        read > 0
    }

    /// Writes what there is.
    pub async fn flush(&mut self) {
        loop {
            let mut out = self.engine.take_output();
            if out.is_empty() {
                break;
            }
            while out.has_remaining() {
                // A hub that has closed does not read.
                if self.socket.write_buf(&mut out).await.is_err() {
                    return;
                }
            }
        }
        let _ = self.socket.flush().await;
    }

    /// Ends the client's half of the stream.
    pub async fn half_close(&mut self) {
        self.flush().await;
        self.socket.shutdown().await.unwrap();
    }

    /// Everything sent so far has been handled when this returns.
    pub async fn round_trip(&mut self) {
        let session = self.begin().await;
        self.engine.end(session, None).unwrap();
        self.flush().await;
    }

    /// Attaches a link as a sender or receiver, with more than an address if
    /// `attach` is changed.
    ///
    /// # Errors
    /// Why the hub refused.
    pub async fn attach(
        &mut self,
        role: Role,
        address: &str,
        change: impl FnOnce(&mut Attach),
    ) -> Result<LinkId, Error> {
        self.names += 1;
        let name = format!("link-{}", self.names);
        let (source, target) = match role {
            Role::Sender => (Source::at(name.clone()), Target::at(address)),
            Role::Receiver => (Source::at(address), Target::at(name.clone())),
        };
        let mut attach = Attach::new(name, role, source, target);
        change(&mut attach);
        let link = self.engine.attach(self.session.unwrap(), attach).unwrap();
        self.wait("the attach", |event| {
            matches!(event, Event::Attached { link: attached, .. } if *attached == link).then_some(())
        })
        .await;
        self.round_trip().await;
        match self.detached(link) {
            Some(error) => Err(error.expect("a reason")),
            None => Ok(link),
        }
    }

    /// Attaches a link that sends to `address`.
    pub async fn sender(&mut self, address: &str) -> Result<LinkId, Error> {
        self.attach(Role::Sender, address, |_| {}).await
    }

    /// Attaches a link that receives from `address`, with credit.
    pub async fn receiver(&mut self, address: &str, credit: u32) -> Result<LinkId, Error> {
        let link = self.attach(Role::Receiver, address, |_| {}).await?;
        self.engine.grant(link, credit).unwrap();
        self.flush().await;
        Ok(link)
    }

    /// Whether the hub has been seen to detach a link, and why.
    pub fn detached(&mut self, link: LinkId) -> Option<Option<Error>> {
        let at = self
            .events
            .iter()
            .position(|event| matches!(event, Event::Detached { link: gone, .. } if *gone == link))?;
        match self.events.remove(at) {
            Some(Event::Detached { error, .. }) => Some(error),
            _ => None,
        }
    }

    /// Whether there is an event that nobody has taken.
    pub fn has(&self, is_it: impl FnMut(&Event) -> bool) -> bool {
        self.events.iter().any(is_it)
    }

    /// Waits until the hub detaches a link, and says why.
    pub async fn expect_detached(&mut self, link: LinkId) -> Error {
        self.wait("the detach", |event| match event {
            Event::Detached {
                link: gone, error, ..
            } if *gone == link => Some(error.clone().expect("a reason")),
            _ => None,
        })
        .await
    }

    /// Waits until the hub closes the connection, and says why.
    pub async fn expect_closed(&mut self) -> Option<Error> {
        self.wait("the close", |event| match event {
            Event::Closed { error, .. } => Some(error.clone()),
            _ => None,
        })
        .await
    }

    /// Sends a message and waits for what becomes of it.
    pub async fn send(&mut self, link: LinkId, message: &Message) -> DeliveryState {
        let sent = self
            .engine
            .send(link, Outgoing::unsettled(message.to_bytes()))
            .unwrap();
        self.flush().await;
        self.wait("the outcome", |event| match event {
            Event::Outcome { delivery, state, .. } if *delivery == sent => {
                Some(state.clone().expect("a state"))
            }
            Event::Detached {
                link: gone, error, ..
            } if *gone == link => panic!("detached: {error:?}"),
            _ => None,
        })
        .await
    }

    /// The next message of a link, not settled yet, and its tag.
    pub async fn receive(&mut self, link: LinkId) -> (DeliveryId, Vec<u8>, Message) {
        self.wait("a message", |event| match event {
            Event::Message {
                link: from,
                delivery,
                tag,
                payload,
                ..
            } if *from == link => Some((*delivery, tag.to_vec(), Message::decode(payload).unwrap())),
            Event::Detached {
                link: gone, error, ..
            } if *gone == link => panic!("detached: {error:?}"),
            _ => None,
        })
        .await
    }

    /// Messages of a link that have arrived and that nobody has looked at.
    pub fn waiting(&self, link: LinkId) -> usize {
        let of_link = |event: &&Event| matches!(event, Event::Message { link: from, .. } if *from == link);
        self.events.iter().filter(of_link).count()
    }

    /// Settles a message.
    pub async fn settle(&mut self, link: LinkId, delivery: DeliveryId, state: DeliveryState) {
        self.engine.settle(link, delivery, state).unwrap();
        self.flush().await;
    }

    /// Shows a token; gives the status of the answer.
    pub async fn put_token(&mut self, token: &str) -> i64 {
        self.put_token_of_type("servicebus.windows.net:sastoken", token)
            .await
    }

    /// Shows a token that claims to be of some type. The request comes before the
    /// credit for its answer, as from real clients.
    pub async fn put_token_of_type(&mut self, kind: &str, token: &str) -> i64 {
        let (sender, receiver) = match self.cbs {
            Some(links) => links,
            None => {
                let sender = self.sender("$cbs").await.unwrap();
                let receiver = self.attach(Role::Receiver, "$cbs", |_| {}).await.unwrap();
                self.cbs = Some((sender, receiver));
                (sender, receiver)
            }
        };
        self.names += 1;
        let id = Value::Ulong(self.names.into());
        let text = |text: &str| Value::String(text.into());
        let request = Message {
            properties: Some(Box::new(Properties {
                message_id: id.clone(),
                reply_to: Some("cbs".into()),
                ..Properties::default()
            })),
            application_properties: vec![
                (text("operation"), text("put-token")),
                (text("type"), text(kind)),
                (text("name"), text("anything")),
            ],
            ..Message::with_value(text(token))
        };
        assert_eq!(self.send(sender, &request).await, DeliveryState::Accepted);
        self.engine.grant(receiver, 10).unwrap();
        let (_, _, reply) = self.receive(receiver).await;
        assert_eq!(reply.properties.unwrap().correlation_id, id);
        let Some(Value::Int(status)) = amqp_wire::value::find(&reply.application_properties, "status-code")
        else {
            panic!("no status: {:?}", reply.application_properties);
        };
        i64::from(*status)
    }
}

/// A token of a policy for a resource, which is signed as it is written.
pub fn policy_token(resource: &str, policy: &str, expiry: u64) -> String {
    let key = Key::from_base64(DEVELOPMENT_KEY).unwrap();
    sas::sign(resource, &key, expiry, Some(policy))
}

/// The same as clients of Event Hubs make it, from the key's text.
pub fn event_hub_token(resource: &str, policy: &str, expiry: u64) -> String {
    let key = Key::from_bytes(DEVELOPMENT_KEY.as_bytes());
    sas::sign(resource, &key, expiry, Some(policy))
}
