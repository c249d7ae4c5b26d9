//! The running hub: its tasks, its addresses, and the handle that tests hold.

use std::convert::Infallible;
use std::fmt;
#[cfg(feature = "event-tap")]
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hub_core::c2d::Draft;
use hub_core::error::ServiceError;
use hub_core::events::{PartitionInfo, Start};
use hub_core::file_upload::FileNotification;
use hub_core::ids::{DeviceId, Target};
use hub_core::property_bag::MessageProperties;
use hub_core::registry::{DeviceSpec, IfMatch};
use hub_core::routing::{Routing, RoutingError};
use hub_core::time::Timestamp;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use job_service::{EngineSettings, JobEngine};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::builder::HubBuilder;
use crate::http::{self, App, Parts, RequestIds};
use crate::hub::HubState;
use crate::hub::counters::CounterValues;
use crate::hub::events::{EventReader, OpenError};
use crate::hub::outbox::CloseReason;
use crate::hub::settling;
use crate::hub::telemetry::TelemetryMessage;
use crate::import::{ImportError, Imported};
#[cfg(feature = "event-tap")]
use crate::tap::EventTap;
use crate::tls::{ClientCertificate, DeviceCa, DeviceCaError};
use crate::writing::Guarded;
use crate::{amqp, hub, import, listen, mqtt};

/// The well-known key of the default policies, for development only. It may
/// stand in a repository and in connection strings because it protects nothing
/// but a hub on the developer's own machine.
pub const DEVELOPMENT_KEY: &str = "aW90aHViLWVtdWxhdG9yLWRldmVsb3BtZW50LWtleSE=";

/// The policy that may do everything.
pub const OWNER_POLICY: &str = "iothubowner";

/// How long a TLS handshake may take; the emulator's own choice.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// How long an HTTP connection may take from one request to the head of the
/// next, so also how long it may be idle; the emulator's own choice. Longer
/// than the idle times of the SDKs' connection pools, so that they and not the
/// hub close first.
const HTTP_HEADER_DEADLINE: Duration = Duration::from_secs(120);

/// Bytes in flight each way on an in-memory connection.
const DUPLEX_BYTES: usize = 8 * 1024;

/// Bound sockets, by what they accept.
pub(crate) struct Listeners {
    pub(crate) mqtt: Option<TcpListener>,
    pub(crate) mqtts: Option<TcpListener>,
    pub(crate) amqp: Option<TcpListener>,
    pub(crate) amqps: Option<TcpListener>,
    pub(crate) http: Option<TcpListener>,
    pub(crate) https: Option<TcpListener>,
}

/// A running hub.
///
/// Dropping it stops the hub without waiting; [`Hub::shutdown`] waits until
/// everything has ended.
#[must_use = "a hub that is dropped stops"]
pub struct Hub {
    pub(crate) app: App,
    /// The tasks that pass events on, and the end of their time. They end last:
    /// whoever else there is may have events for them.
    sinks: (TaskTracker, CancellationToken),
    addresses: Addresses,
    access_key: String,
    #[cfg(feature = "event-tap")]
    event_tap: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy)]
struct Addresses {
    mqtt: Option<SocketAddr>,
    mqtts: Option<SocketAddr>,
    amqp: Option<SocketAddr>,
    amqps: Option<SocketAddr>,
    http: Option<SocketAddr>,
    https: Option<SocketAddr>,
}

/// Starts serving on `listeners`.
pub(crate) fn start(
    state: Arc<HubState>,
    jobs: EngineSettings,
    configuration_interval: Duration,
    listeners: Listeners,
    tls: Arc<ServerConfig>,
    ca_pem: String,
    access_key: String,
) -> Hub {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let Listeners {
        mqtt,
        mqtts,
        amqp,
        amqps,
        http,
        https,
    } = listeners;
    let address = |listener: &Option<TcpListener>| listener.as_ref().and_then(|l| l.local_addr().ok());
    let addresses = Addresses {
        mqtt: address(&mqtt),
        mqtts: address(&mqtts),
        amqp: address(&amqp),
        amqps: address(&amqps),
        http: address(&http),
        https: address(&https),
    };
    if let Some(address) = addresses.amqps {
        state.set_amqps_port(address.port());
    }
    let app = App::new(Parts {
        jobs: Arc::new(JobEngine::new(state.clone(), state.clock.clone(), jobs)),
        hub: state,
        tasks: tasks.clone(),
        stop: stop.clone(),
        request_ids: RequestIds::new(),
        http_port: addresses.http.map(|address| address.port()),
        https_port: addresses.https.map(|address| address.port()),
        ca_pem: ca_pem.into(),
    });
    let sinks = (TaskTracker::new(), CancellationToken::new());
    app.hub.events.start(&sinks.0, &sinks.1);
    let settling = settling::keep_settled(app.hub.clone(), configuration_interval);
    tasks.spawn(stop.clone().run_until_cancelled_owned(settling));
    let acceptor = TlsAcceptor::from(tls);
    let router = http::router(app.clone());

    let timekeeper = hub::c2d::keep_time(app.hub.clone());
    tasks.spawn(stop.clone().run_until_cancelled_owned(timekeeper));
    let hub = app.hub.clone();
    spawn(mqtt, &tasks, &stop, move |stream| {
        mqtt::serve(stream, hub.clone(), None)
    });
    let (hub, tls) = (app.hub.clone(), acceptor.clone());
    spawn(mqtts, &tasks, &stop, move |stream| {
        let (hub, tls) = (hub.clone(), tls.clone());
        async move {
            if let Some(stream) = handshake(&tls, stream).await {
                let certificate = ClientCertificate::of(stream.get_ref().1);
                mqtt::serve(stream, hub, certificate).await;
            }
        }
    });
    let hub = app.hub.clone();
    spawn(amqp, &tasks, &stop, move |stream| {
        amqp::serve(stream, hub.clone(), None)
    });
    let (hub, tls) = (app.hub.clone(), acceptor.clone());
    spawn(amqps, &tasks, &stop, move |stream| {
        let (hub, tls) = (hub.clone(), tls.clone());
        async move {
            if let Some(stream) = handshake(&tls, stream).await {
                let certificate = ClientCertificate::of(stream.get_ref().1);
                amqp::serve(stream, hub, certificate).await;
            }
        }
    });
    let (of_plain, plain) = (app.clone(), router.clone());
    spawn(http, &tasks, &stop, move |stream| {
        serve_http(Guarded::new(stream), of_plain.clone(), plain.clone(), None)
    });
    let of_tls = app.clone();
    spawn(https, &tasks, &stop, move |stream| {
        let (app, router, tls) = (of_tls.clone(), router.clone(), acceptor.clone());
        async move {
            // Under TLS, which keeps what the peer does not read.
            if let Some(stream) = handshake(&tls, Guarded::new(stream)).await {
                let certificate = ClientCertificate::of(stream.get_ref().1);
                serve_http(stream, app, router, certificate).await;
            }
        }
    });
    Hub {
        app,
        sinks,
        addresses,
        access_key,
        #[cfg(feature = "event-tap")]
        event_tap: None,
    }
}

fn spawn<F>(
    listener: Option<TcpListener>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
    serve: impl Fn(tokio::net::TcpStream) -> F + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    if let Some(listener) = listener {
        tasks.spawn(listen::accept(listener, tasks.clone(), stop.clone(), serve));
    }
}

/// The TLS handshake, in the connection's own task and with a deadline. Boxed,
/// so that its state is gone once the connection is up.
async fn handshake<S>(tls: &TlsAcceptor, stream: S) -> Option<Box<tokio_rustls::server::TlsStream<S>>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match timeout(HANDSHAKE_DEADLINE, Box::pin(tls.accept(stream))).await {
        Ok(Ok(stream)) => Some(Box::new(stream)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!("TLS handshake took too long");
            None
        }
    }
}

/// `certificate` is what the client presented in the TLS handshake; requests
/// carry it as an extension.
async fn serve_http<S>(stream: S, app: App, router: axum::Router, certificate: Option<ClientCertificate>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(|mut request: hyper::Request<hyper::body::Incoming>| {
        if let Some(certificate) = &certificate {
            request.extensions_mut().insert(certificate.clone());
        }
        let (app, router) = (&app, &router);
        async move { Ok::<_, Infallible>(http::serve(app, router, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HTTP_HEADER_DEADLINE)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%error, "HTTP connection failed");
    }
}

impl Hub {
    /// A hub with its defaults: host name `localhost`, the development key,
    /// loopback, any free ports, a CA in memory.
    #[must_use]
    pub fn builder() -> HubBuilder {
        HubBuilder::new()
    }

    /// Where MQTT without TLS is accepted, if it is.
    #[must_use]
    pub fn mqtt_address(&self) -> Option<SocketAddr> {
        self.addresses.mqtt
    }

    /// Where MQTT over TLS is accepted, if it is.
    #[must_use]
    pub fn mqtts_address(&self) -> Option<SocketAddr> {
        self.addresses.mqtts
    }

    /// Where AMQP without TLS is accepted, if it is.
    #[must_use]
    pub fn amqp_address(&self) -> Option<SocketAddr> {
        self.addresses.amqp
    }

    /// Where AMQP over TLS is accepted, if it is.
    #[must_use]
    pub fn amqps_address(&self) -> Option<SocketAddr> {
        self.addresses.amqps
    }

    /// Where REST and WebSockets without TLS are accepted, if they are.
    #[must_use]
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.addresses.http
    }

    /// Where REST and WebSockets over TLS are accepted, if they are.
    #[must_use]
    pub fn https_address(&self) -> Option<SocketAddr> {
        self.addresses.https
    }

    /// Where the event tap accepts MQTT clients, if there is one.
    #[cfg(feature = "event-tap")]
    #[must_use]
    pub fn event_tap_address(&self) -> Option<SocketAddr> {
        self.event_tap
    }

    /// Starts the event tap; the hub's tasks end after it.
    #[cfg(feature = "event-tap")]
    pub(crate) fn with_event_tap(mut self, listener: TcpListener) -> io::Result<Self> {
        let journal = self.app.hub.events.journal.clone();
        let tap = EventTap::start(listener, journal, self.app.stop.clone())?;
        self.event_tap = Some(tap.address);
        let stop = self.app.stop.clone();
        self.app.tasks.spawn(async move {
            stop.cancelled().await;
            tap.ended().await;
        });
        Ok(self)
    }

    /// The name that clients address the hub by.
    #[must_use]
    pub fn host_name(&self) -> &str {
        &self.app.hub.settings.host_name
    }

    /// PEM of the CA certificate that clients have to trust for TLS.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.app.ca_pem
    }

    /// A service connection string of the policy that may do everything. The
    /// HTTPS port is part of it unless it is 443: some SDKs can use another
    /// port, none can guess it.
    #[must_use]
    pub fn service_connection_string(&self) -> String {
        let host = match self.addresses.https {
            Some(address) if address.port() != 443 => format!("{}:{}", self.host_name(), address.port()),
            _ => self.host_name().to_owned(),
        };
        format!(
            "HostName={host};SharedAccessKeyName={OWNER_POLICY};SharedAccessKey={}",
            self.access_key
        )
    }

    /// The connection string of the Event-Hub-compatible endpoint, for clients of
    /// Event Hubs that read the event stream; `None` when AMQP over TLS is not
    /// accepted. The port is part of it unless it is 5671.
    #[must_use]
    pub fn event_hub_connection_string(&self) -> Option<String> {
        self.app
            .hub
            .event_hub_connection_string(self.app.hub.events.hub_name())
    }

    /// As [`Hub::event_hub_connection_string`], for each stream of the message
    /// routing that is in force, with the streams' names.
    #[must_use]
    pub fn stream_connection_strings(&self) -> Vec<(String, String)> {
        let endpoints = self.app.hub.events.endpoints();
        let streams = endpoints.iter().skip(1).filter(|endpoint| endpoint.is_stream());
        streams
            .filter_map(|endpoint| {
                let name = endpoint.name();
                Some((name.to_owned(), self.app.hub.event_hub_connection_string(name)?))
            })
            .collect()
    }

    /// Registers a device with fresh keys and returns its connection string;
    /// a device that exists is kept as it is.
    ///
    /// # Errors
    /// When the id is not legal, or the device does not use symmetric keys.
    pub fn create_device(&self, id: &str) -> Result<String, ServiceError> {
        let id = DeviceId::parse(id).map_err(|e| ServiceError::invalid(e.to_string()))?;
        if self.app.hub.registry.find(&id).is_none() {
            let spec = DeviceSpec::from_json(&serde_json::json!({}), &id)?;
            self.app.hub.put_device(spec, &IfMatch::Absent, |_, _| ())?;
        }
        let cell = self.app.hub.registry.cell(&id)?;
        let state = cell.lock();
        let keys = state
            .identity
            .authentication
            .keys()
            .ok_or_else(|| ServiceError::invalid(format!("device {id} does not use symmetric keys")))?;
        Ok(format!(
            "HostName={};DeviceId={id};SharedAccessKey={}",
            self.host_name(),
            keys.primary.as_str()
        ))
    }

    /// Creates the identities that `text` describes and that do not exist yet:
    /// a JSON array, or one JSON object per line, each with a `deviceId`,
    /// possibly a `moduleId`, the members of an identity document, `tags` and
    /// `properties.desired`. Importing the same text again changes nothing.
    ///
    /// # Errors
    /// Names the line or the identity that is not acceptable.
    pub fn import(&self, text: &str) -> Result<Imported, ImportError> {
        import::import(&self.app.hub, text)
    }

    /// Sends a message to a device or module and gives its sequence number. It
    /// waits there, at most until its expiry ([`SystemProperty::Expiry`],
    /// otherwise the hub's default), until the device has completed it.
    /// [`SystemProperty::Ack`] asks for feedback.
    ///
    /// [`SystemProperty::Expiry`]: hub_core::property_bag::SystemProperty::Expiry
    /// [`SystemProperty::Ack`]: hub_core::property_bag::SystemProperty::Ack
    ///
    /// # Errors
    /// When the receiver does not exist, 50 messages wait for it already, or
    /// the message is too large or has a property that is not acceptable.
    pub fn send_to_device(
        &self,
        target: &Target,
        properties: MessageProperties,
        body: impl Into<Bytes>,
    ) -> Result<u64, ServiceError> {
        let draft = Draft::new(properties, body.into())?;
        self.app.hub.send_to_device(target, draft)
    }

    /// Registers the authorities in a PEM text, which may then issue
    /// certificates of devices and modules with the authentication type
    /// `certificateAuthority`. Those that are registered already change nothing.
    ///
    /// # Errors
    /// When the text is not made of certificates of authorities, or there would
    /// be more than [`limits::DEVICE_AUTHORITIES`](hub_core::limits::DEVICE_AUTHORITIES);
    /// nothing is registered then.
    pub fn add_device_ca(&self, pem: impl AsRef<[u8]>) -> Result<(), DeviceCaError> {
        self.app.hub.device_cas.add(DeviceCa::parse(pem.as_ref())?)
    }

    /// Opens an in-memory connection to the hub's MQTT front.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    #[must_use]
    pub fn connect_in_memory(&self) -> DuplexStream {
        self.memory_connector().connect()
    }

    /// Opens an in-memory connection to the hub's AMQP front.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    #[must_use]
    pub fn connect_amqp_in_memory(&self) -> DuplexStream {
        let (client, hub) = tokio::io::duplex(DUPLEX_BYTES);
        let serve = amqp::serve(hub, self.app.hub.clone(), None);
        self.app
            .tasks
            .spawn(self.app.stop.clone().run_until_cancelled_owned(serve));
        client
    }

    /// Opens in-memory connections for whoever does not hold the hub: a fleet
    /// that would need more descriptors than a process may have.
    #[must_use]
    pub fn memory_connector(&self) -> MemoryConnector {
        MemoryConnector {
            app: self.app.clone(),
        }
    }

    /// The hub's time: the system's plus whatever it was advanced by.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.app.hub.clock.now()
    }

    /// Moves the hub's clock forward. Jobs that are due by then start, time-outs
    /// that lie before it fire. Tokens and keep-alives follow real time and are
    /// not affected.
    pub fn advance_clock(&self, by: Duration) {
        self.app.hub.clock.advance(by);
    }

    /// Forgets everything: devices (their connections are closed), jobs,
    /// configurations, telemetry, file notifications, counts, the clock's
    /// offset, authorities for devices that the hub was not started with. Files
    /// in the hub's blob storage stay.
    pub fn reset(&self) {
        self.app.jobs.reset();
        self.app.hub.reset();
    }

    /// What the hub has counted since it started or was reset.
    #[must_use]
    pub fn counters(&self) -> CounterValues {
        self.app.hub.counters.values()
    }

    /// Devices and modules that are connected at this moment.
    #[must_use]
    pub fn connected_count(&self) -> usize {
        self.app.hub.connected_count()
    }

    /// The kept device-to-cloud messages after position `sequence` (0: all), oldest
    /// first, at most 10,000: ask again after the last one's for more.
    #[must_use]
    pub fn telemetry_after(&self, sequence: u64) -> Vec<TelemetryMessage> {
        self.app.hub.telemetry_after(sequence)
    }

    /// Reads the events of one partition from `start` on, as a member of a
    /// consumer group (`$Default` is always there). A reader with an epoch is
    /// alone in its group's partition and takes the place of lower ones.
    ///
    /// # Errors
    /// When there is no such partition or group, the start lies behind the last
    /// event, or the group's other readers do not allow it.
    pub fn read_events(
        &self,
        group: &str,
        partition: usize,
        start: Start,
        epoch: Option<i64>,
    ) -> Result<EventReader, OpenError> {
        self.app
            .hub
            .events
            .built_in()
            .open(group, partition, start, epoch)
    }

    /// Puts another configuration of message routing into force. Endpoints that
    /// are in both, with the same settings, keep their events and their readers;
    /// directories and webhooks that are in both keep their events in any case.
    ///
    /// # Errors
    /// When a stream has the hub's own name; nothing has changed then.
    pub fn set_routing(&self, routing: Routing) -> Result<(), RoutingError> {
        self.app.hub.events.set_routing(routing)
    }

    /// The ends of the event stream's partitions, in their order.
    #[must_use]
    pub fn event_partitions(&self) -> Vec<PartitionInfo> {
        self.app.hub.events.built_in().partitions()
    }

    /// The kept notifications of files that devices uploaded, after position
    /// `sequence` (0: all), oldest first.
    #[must_use]
    pub fn file_notifications_after(&self, sequence: u64) -> Vec<FileNotification> {
        self.app.hub.file_notifications.after(sequence)
    }

    /// Stops the hub. First the jobs: new ones are refused, and those that run
    /// stop where they are. What has been recorded of a device stays and can be
    /// read for as long as there is a connection; an operation in flight is
    /// given up, though its device may still carry it out. Then AMQP connections
    /// are closed with a reason, which their peers have a second to answer;
    /// devices are disconnected and nothing new is accepted. Then directories and
    /// webhooks get what was accepted for them, as far as they take it within two
    /// seconds. When this returns no task of
    /// the hub is left and its ports are free; nothing outlives it, since a hub
    /// keeps its state in memory.
    pub async fn shutdown(self) {
        self.app.jobs.shutdown().await;
        self.app.hub.farewell.say().await;
        self.app.hub.disconnect_all(CloseReason::Shutdown);
        self.app.hub.events.journal.close().await;
        self.app.stop.cancel();
        self.app.tasks.close();
        self.app.tasks.wait().await;
        let (sinks, stop) = &self.sinks;
        stop.cancel();
        sinks.close();
        sinks.wait().await;
    }
}

/// Opens in-memory connections to a hub's MQTT front; clones reach the same
/// hub. Once the hub has stopped, a connection is closed as soon as it is made.
#[derive(Clone)]
pub struct MemoryConnector {
    app: App,
}

impl MemoryConnector {
    /// A connection's near end; the hub serves the far one.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    #[must_use]
    pub fn connect(&self) -> DuplexStream {
        let (device, hub) = tokio::io::duplex(DUPLEX_BYTES);
        let serve = Box::pin(mqtt::serve(hub, self.app.hub.clone(), None));
        self.app
            .tasks
            .spawn(self.app.stop.clone().run_until_cancelled_owned(serve));
        device
    }
}

impl fmt::Debug for MemoryConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryConnector").finish_non_exhaustive()
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.app.stop.cancel();
        self.app.tasks.close();
        self.sinks.1.cancel();
        self.sinks.0.close();
    }
}

#[cfg(test)]
mod tests;
