//! How a hub is configured and started.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hub_core::c2d::Settings as CloudToDeviceSettings;
use hub_core::limits;
use hub_core::query::Dialect;
use hub_core::routing::{Routing, RoutingError};
use hub_core::sas::{Key, derive_device_key};
use hub_core::tier::Tier;
use job_service::{Clock, EngineSettings};
use tokio::net::TcpListener;

use crate::hub::access::Policies;
use crate::hub::device_cas;
use crate::hub::events::{self, EventSettings};
use crate::hub::{HubSettings, HubState, Strictness};
use crate::server::{DEVELOPMENT_KEY, Hub, Listeners};
use crate::tls::{Authority, DeviceCa, DeviceCaError, TlsError};
use crate::{listen, server};

/// Time between evaluations of automatic configurations; the emulator's own.
const CONFIGURATION_INTERVAL: Duration = Duration::from_secs(1);
/// The least such time, so that evaluating leaves room for everything else.
const SHORTEST_CONFIGURATION_INTERVAL: Duration = Duration::from_millis(10);

/// Whether and where one kind of connection is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// Not at all.
    Off,
    /// On this port; 0 means any free one.
    On(u16),
    /// On the first port, or on the second when the first cannot be bound.
    OnOr(u16, u16),
}

/// The ports of a hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// MQTT without TLS.
    pub mqtt: Listen,
    /// MQTT over TLS.
    pub mqtts: Listen,
    /// AMQP without TLS.
    pub amqp: Listen,
    /// AMQP over TLS.
    pub amqps: Listen,
    /// REST and WebSockets without TLS.
    pub http: Listen,
    /// REST and WebSockets over TLS.
    pub https: Listen,
}

impl Ports {
    /// Any free port for each, the default of [`Hub::builder`].
    pub const ANY: Self = Self {
        mqtt: Listen::On(0),
        mqtts: Listen::On(0),
        amqp: Listen::On(0),
        amqps: Listen::On(0),
        http: Listen::On(0),
        https: Listen::On(0),
    };
}

/// A hub that is yet to be started; made by [`Hub::builder`].
#[derive(Debug, Clone)]
pub struct HubBuilder {
    host_name: String,
    access_key: String,
    address: IpAddr,
    ports: Ports,
    data_dir: Option<PathBuf>,
    strictness: Strictness,
    connack_delay: Duration,
    query_lag: Duration,
    query_dialect: Dialect,
    methods_in_flight: usize,
    events: EventSettings,
    routing: Option<Routing>,
    jobs: EngineSettings,
    c2d: CloudToDeviceSettings,
    device_cas: Vec<DeviceCa>,
    blob_dir: Option<PathBuf>,
    upload_ttl: Duration,
    configuration_interval: Duration,
    tier: Option<Tier>,
    #[cfg(feature = "event-tap")]
    event_tap: Option<u16>,
}

/// Why a hub did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The access key is not base64 of 16 to 64 bytes.
    #[error("the access key is not usable: {0}")]
    AccessKey(String),
    /// A port cannot be bound.
    #[error("cannot listen for {kind} on {address}: {source}")]
    Bind {
        /// What was to be accepted there.
        kind: &'static str,
        /// The address asked for.
        address: SocketAddr,
        /// What the operating system says.
        source: io::Error,
    },
    /// The certificates cannot be made or read.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The routing has a stream by the hub's own name.
    #[error("the routing cannot be used: {0}")]
    Routing(#[from] RoutingError),
    /// The event tap cannot start.
    #[cfg(feature = "event-tap")]
    #[error("the event tap cannot start: {0}")]
    EventTap(io::Error),
}

impl HubBuilder {
    pub(crate) fn new() -> Self {
        Self {
            host_name: "localhost".into(),
            access_key: DEVELOPMENT_KEY.into(),
            address: Ipv4Addr::LOCALHOST.into(),
            ports: Ports::ANY,
            data_dir: None,
            strictness: Strictness::default(),
            connack_delay: Duration::ZERO,
            query_lag: Duration::ZERO,
            query_dialect: Dialect::default(),
            methods_in_flight: limits::METHODS_IN_FLIGHT,
            events: EventSettings::default(),
            routing: None,
            jobs: EngineSettings::default(),
            c2d: CloudToDeviceSettings::default(),
            device_cas: Vec::new(),
            blob_dir: None,
            upload_ttl: limits::UPLOAD_TTL,
            configuration_interval: CONFIGURATION_INTERVAL,
            tier: None,
            #[cfg(feature = "event-tap")]
            event_tap: None,
        }
    }

    /// The name that clients address the hub by; `localhost` by default. It
    /// stands in connection strings and in the server certificate, beside
    /// `localhost` and the loopback addresses.
    #[must_use]
    pub fn host_name(mut self, name: impl Into<String>) -> Self {
        self.host_name = name.into();
        self
    }

    /// The key of the hub's shared access policies, base64 of 16 to 64 bytes;
    /// [`DEVELOPMENT_KEY`] by default.
    #[must_use]
    pub fn access_key(mut self, base64: impl Into<String>) -> Self {
        self.access_key = base64.into();
        self
    }

    /// The address to listen on; 127.0.0.1 by default. Anything else opens the
    /// hub, with its unauthenticated admin endpoints, to other machines.
    #[must_use]
    pub fn address(mut self, address: IpAddr) -> Self {
        self.address = address;
        self
    }

    /// The ports to listen on; [`Ports::ANY`] by default.
    #[must_use]
    pub fn ports(mut self, ports: Ports) -> Self {
        self.ports = ports;
        self
    }

    /// Where the development CA is kept. By default there is no such place:
    /// the CA lives in memory and ends with the hub.
    #[must_use]
    pub fn data_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(directory.into());
        self
    }

    /// What the hub does where the service's reaction is a choice.
    #[must_use]
    pub fn strictness(mut self, strictness: Strictness) -> Self {
        self.strictness = strictness;
        self
    }

    /// How long an MQTT client waits for its CONNACK; none by default. The
    /// cloud is never as near as a loopback, and the reconnect logic of some
    /// clients races with an answer that comes in microseconds. At most
    /// [`limits::MQTT_CONNACK_DELAY`]: clients give up waiting.
    #[must_use]
    pub fn connack_delay(mut self, delay: Duration) -> Self {
        self.connack_delay = delay.min(limits::MQTT_CONNACK_DELAY);
        self
    }

    /// By how much of the hub's time queries over devices and modules, and the
    /// selection of a job's targets, lag behind; not at all by default. In the
    /// cloud it is seconds, and the query guide asks to expect minutes. New
    /// devices are not found until then, deleted ones still are, and twins and
    /// connection states are old ones. Reading by id, job records, metrics and
    /// target conditions of configurations are always up to date.
    ///
    /// Every device that changes is kept in up to 17 former states for that
    /// long, and no index helps queries.
    #[must_use]
    pub fn query_lag(mut self, lag: Duration) -> Self {
        self.query_lag = lag;
        self
    }

    /// What queries and the conditions of jobs may be written in: what the
    /// service accepts by default. Target conditions and metrics of
    /// configurations are always the service's.
    #[must_use]
    pub fn query_dialect(mut self, dialect: Dialect) -> Self {
        self.query_dialect = dialect;
        self
    }

    /// Direct methods that may be in flight to one device;
    /// [`limits::METHODS_IN_FLIGHT`] by default. The service has such a cap but
    /// does not document it.
    #[must_use]
    pub fn methods_in_flight(mut self, cap: usize) -> Self {
        self.methods_in_flight = cap;
        self
    }

    /// Partitions, retention and consumer groups of the built-in endpoint, and
    /// what it gets beside telemetry while there is no [routing](Self::routing).
    #[must_use]
    pub fn events(mut self, settings: EventSettings) -> Self {
        self.events = settings;
        self
    }

    /// Which messages and events go to which endpoints. Without a configuration
    /// telemetry goes to the built-in one, and what [`EventSettings::sources`]
    /// names. It can be replaced while the hub runs ([`Hub::set_routing`]); a reset
    /// goes back to this one.
    #[must_use]
    pub fn routing(mut self, routing: Routing) -> Self {
        self.routing = Some(routing);
        self
    }

    /// How jobs are run.
    #[must_use]
    pub fn jobs(mut self, settings: EngineSettings) -> Self {
        self.jobs = settings;
        self
    }

    /// How cloud-to-device messages and their feedback are kept.
    #[must_use]
    pub fn cloud_to_device(mut self, settings: CloudToDeviceSettings) -> Self {
        self.c2d = settings;
        self
    }

    /// Authorities that may issue certificates of devices, a PEM text; may be
    /// called again for more. Others can be registered while the hub runs
    /// ([`Hub::add_device_ca`]); a reset keeps only those from here.
    ///
    /// # Errors
    /// When the text is not made of certificates of authorities, or there are
    /// more than [`limits::DEVICE_AUTHORITIES`].
    pub fn device_ca(mut self, pem: impl AsRef<[u8]>) -> Result<Self, DeviceCaError> {
        device_cas::merge(&mut self.device_cas, DeviceCa::parse(pem.as_ref())?)?;
        Ok(self)
    }

    /// Where the hub's own blob storage keeps uploaded and exported files: a
    /// directory for each container. By default a temporary directory, made
    /// when it is needed and removed with the hub.
    #[must_use]
    pub fn blob_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.blob_dir = Some(directory.into());
        self
    }

    /// How long a device may take for a file upload; [`limits::UPLOAD_TTL`] by
    /// default. The service accepts 1 minute to 24 hours.
    #[must_use]
    pub fn upload_ttl(mut self, ttl: Duration) -> Self {
        self.upload_ttl = ttl;
        self
    }

    /// How much time of the hub's clock passes between two evaluations of
    /// automatic configurations; one second by default, five minutes in the
    /// service. A configuration that is created, changed or removed is evaluated
    /// at once.
    #[must_use]
    pub fn configuration_interval(mut self, interval: Duration) -> Self {
        self.configuration_interval = interval;
        self
    }

    /// Keeps the limits of a tier; none by default. Jobs run as few at once and
    /// reach their devices as slowly, by the hub's clock, as the tier says,
    /// whatever [`HubBuilder::jobs`] allows; basic tiers refuse jobs; messages
    /// beyond the quota of the day (UTC, by the hub's clock) are refused over
    /// HTTP and close an MQTT connection. The service's other throttles are not
    /// imitated.
    #[must_use]
    pub fn tier(mut self, tier: Tier) -> Self {
        self.tier = Some(tier);
        self
    }

    /// Shows what happens in the hub to MQTT clients on this port of 127.0.0.1,
    /// whatever the hub's address is; 0 means any free one. Off by default. Who
    /// subscribes to `hub/#` gets each event as one JSON object under
    /// `hub/{device}/{kind}`; who is too slow misses some. Up to
    /// [`limits::EVENT_TAP_CLIENTS`] clients, none of which needs credentials.
    #[cfg(feature = "event-tap")]
    #[must_use]
    pub fn event_tap(mut self, port: u16) -> Self {
        self.event_tap = Some(port);
        self
    }

    /// Binds all ports and starts serving. When this returns, clients can connect.
    ///
    /// # Errors
    /// When a port cannot be bound, the key is not usable, or the certificates
    /// cannot be made or read. Nothing is left running then.
    pub async fn start(self) -> Result<Hub, StartError> {
        if let Some(routing) = &self.routing {
            events::check_names(routing, events::hub_name(&self.host_name))?;
        }
        let key = Key::from_base64(&self.access_key).map_err(|e| StartError::AccessKey(e.to_string()))?;
        let authority = match &self.data_dir {
            Some(directory) => Authority::load_or_create(directory)?,
            None => Authority::in_memory()?,
        };
        let tls = authority.server_config(&self.host_name)?;
        let listeners = Listeners {
            mqtt: self.bind("MQTT", self.ports.mqtt)?,
            mqtts: self.bind("MQTT over TLS", self.ports.mqtts)?,
            amqp: self.bind("AMQP", self.ports.amqp)?,
            amqps: self.bind("AMQP over TLS", self.ports.amqps)?,
            http: self.bind("HTTP", self.ports.http)?,
            https: self.bind("HTTPS", self.ports.https)?,
        };
        #[cfg(feature = "event-tap")]
        let event_tap = match self.event_tap {
            Some(port) => Some(bind(
                "the event tap",
                SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
            )?),
            None => None,
        };
        let jobs = match self.tier.and_then(Tier::jobs) {
            Some(limits) => self.jobs.within(limits),
            None => self.jobs,
        };
        let clock = Clock::system();
        let state = Arc::new(HubState::new(
            HubSettings {
                host_name: self.host_name,
                blob_key: derive_device_key(&key, "blob storage"),
                blob_dir: self.blob_dir,
                upload_ttl: self.upload_ttl,
                policies: Policies::new(key),
                methods_in_flight: self.methods_in_flight,
                events: self.events,
                routing: self.routing,
                strictness: self.strictness,
                connack_delay: self.connack_delay,
                query_lag: self.query_lag,
                query_dialect: self.query_dialect,
                c2d: self.c2d,
                device_cas: self.device_cas,
                tier: self.tier,
            },
            clock,
        ));
        let hub = server::start(
            state,
            jobs,
            self.configuration_interval.max(SHORTEST_CONFIGURATION_INTERVAL),
            listeners,
            tls,
            authority.pem,
            self.access_key,
        );
        #[cfg(feature = "event-tap")]
        let hub = match event_tap {
            Some(listener) => hub.with_event_tap(listener).map_err(StartError::EventTap)?,
            None => hub,
        };
        Ok(hub)
    }

    fn bind(&self, kind: &'static str, listen: Listen) -> Result<Option<TcpListener>, StartError> {
        let bind = |port| bind(kind, SocketAddr::new(self.address, port));
        match listen {
            Listen::Off => Ok(None),
            Listen::On(port) => bind(port).map(Some),
            Listen::OnOr(port, second) => bind(port).or_else(|_| bind(second)).map(Some),
        }
    }
}

fn bind(kind: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    listen::bind(address).map_err(|source| StartError::Bind {
        kind,
        address,
        source,
    })
}
