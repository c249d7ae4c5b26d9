//! The hub itself, apart from every protocol: devices, their state, and the
//! operations on them.
//!
//! A packet reaches it through a [`session::Session`], a request through a
//! method of [`HubState`], a job through its `Fleet` implementation in
//! [`fleet`]. All three end in a device's cell ([`cell`]), where the rules of
//! `hub-core` change its state, and come back as a reply or as a frame in a
//! device's [`outbox`]. Nothing here knows MQTT or HTTP.

pub(crate) mod access;
pub(crate) mod c2d;
pub(crate) mod cell;
pub(crate) mod configuration_metrics;
pub(crate) mod configurations;
pub(crate) mod counters;
pub(crate) mod deployment;
pub(crate) mod device_cas;
pub(crate) mod digital_twins;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod file_upload;
pub(crate) mod fleet;
pub(crate) mod index;
pub(crate) mod lag;
pub(crate) mod lock;
pub(crate) mod methods;
pub(crate) mod outbox;
pub(crate) mod plan;
pub(crate) mod query;
pub(crate) mod registry;
pub(crate) mod registry_jobs;
pub(crate) mod row;
pub(crate) mod session;
pub(crate) mod settling;
pub(crate) mod showing;
pub(crate) mod telemetry;
pub(crate) mod tier;
pub(crate) mod twins;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hub_core::c2d::Settings as CloudToDeviceSettings;
use hub_core::error::{ErrorCode, ServiceError};
use hub_core::query::Dialect;
use hub_core::routing::Routing;
use hub_core::sas::Key;
use hub_core::tier::Tier;
use job_service::Clock;

use self::access::Policies;
use self::c2d::CloudToDevice;
use self::configurations::Configurations;
use self::counters::Counters;
use self::device_cas::DeviceCas;
use self::events::{EventSettings, Events};
use self::file_upload::FileNotifications;
use self::lag::Lag;
use self::lock::Views;
use self::outbox::CloseReason;
use self::registry::Registry;
use self::registry_jobs::RegistryJobs;
use self::tier::MessageQuota;
use crate::amqp::Farewell;
use crate::blobs::BlobStore;
use crate::server::OWNER_POLICY;
use crate::tls::DeviceCa;

/// What the hub does where the service's reaction is a choice (see
/// `ARCHITECTURE.md`, "Choices").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strictness {
    /// As the service is seen to behave: an unsupported topic filter ends the
    /// connection.
    #[default]
    Strict,
    /// Easier to debug: an unsupported topic filter is refused with SUBACK 0x80.
    Lenient,
}

/// What is decided when a hub is built and stays for its life.
#[derive(Debug, Clone)]
pub(crate) struct HubSettings {
    /// The name that clients address the hub by.
    pub(crate) host_name: String,
    pub(crate) policies: Policies,
    /// Direct methods in flight to one device.
    pub(crate) methods_in_flight: usize,
    /// Partitions, retention and sources of the built-in endpoint.
    pub(crate) events: EventSettings,
    /// The message routing that the hub starts with and goes back to.
    pub(crate) routing: Option<Routing>,
    pub(crate) strictness: Strictness,
    /// How long an MQTT client waits for its CONNACK.
    pub(crate) connack_delay: Duration,
    /// How far queries lag behind; zero for not at all.
    pub(crate) query_lag: Duration,
    /// What queries and the conditions of jobs may be written in.
    pub(crate) query_dialect: Dialect,
    /// Expiry, locks and delivery counts of cloud-to-device messages.
    pub(crate) c2d: CloudToDeviceSettings,
    /// Authorities of devices that a reset does not take away.
    pub(crate) device_cas: Vec<DeviceCa>,
    /// Where the hub's own blob storage is; by default in a directory that goes
    /// with the hub.
    pub(crate) blob_dir: Option<PathBuf>,
    /// Signs the tokens of the hub's own blob storage.
    pub(crate) blob_key: Key,
    /// How long a device may take for a file upload.
    pub(crate) upload_ttl: Duration,
    /// Whose limits the hub keeps; none by default.
    pub(crate) tier: Option<Tier>,
}

#[cfg(test)]
impl HubSettings {
    pub(crate) fn for_tests() -> Self {
        Self {
            host_name: "localhost".into(),
            policies: Policies::new(Key::from_bytes(&[0; 32])),
            methods_in_flight: hub_core::limits::METHODS_IN_FLIGHT,
            events: EventSettings::default(),
            routing: None,
            strictness: Strictness::Strict,
            connack_delay: Duration::ZERO,
            query_lag: Duration::ZERO,
            query_dialect: Dialect::default(),
            c2d: CloudToDeviceSettings::default(),
            device_cas: Vec::new(),
            blob_dir: None,
            blob_key: Key::from_bytes(&[0; 32]),
            upload_ttl: Duration::from_secs(60),
            tier: None,
        }
    }
}

/// Everything that a hub knows.
pub(crate) struct HubState {
    pub(crate) settings: HubSettings,
    pub(crate) clock: Clock,
    pub(crate) registry: Registry,
    pub(crate) views: Arc<Views>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) events: Arc<Events>,
    pub(crate) message_quota: MessageQuota,
    pub(crate) c2d: CloudToDevice,
    pub(crate) device_cas: DeviceCas,
    pub(crate) blobs: Arc<BlobStore>,
    pub(crate) file_notifications: FileNotifications,
    pub(crate) configurations: Configurations,
    pub(crate) registry_jobs: RegistryJobs,
    pub(crate) farewell: Farewell,
    /// Where AMQP over TLS is accepted, once it is.
    amqps_port: OnceLock<u16>,
}

impl HubState {
    pub(crate) fn new(settings: HubSettings, clock: Clock) -> Self {
        let counters = Arc::<Counters>::default();
        Self {
            events: Arc::new(Events::new(
                settings.events.clone(),
                settings.routing.clone(),
                &settings.host_name,
                clock.clone(),
                counters.clone(),
            )),
            c2d: CloudToDevice::new(settings.c2d.feedback),
            device_cas: DeviceCas::new(settings.device_cas.clone()),
            blobs: Arc::new(BlobStore::new(settings.blob_dir.clone())),
            views: Arc::new(Views {
                lag: (!settings.query_lag.is_zero()).then(|| Lag::new(settings.query_lag, clock.clone())),
                ..Views::default()
            }),
            file_notifications: FileNotifications::new(settings.c2d.feedback),
            settings,
            clock,
            registry: Registry::default(),
            counters,
            message_quota: MessageQuota::default(),
            configurations: Configurations::default(),
            registry_jobs: RegistryJobs::default(),
            farewell: Farewell::default(),
            amqps_port: OnceLock::new(),
        }
    }

    /// A hub that nobody serves, whose clock stands still.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self::new(
            HubSettings::for_tests(),
            Clock::manual(hub_core::time::Timestamp::NEVER),
        )
    }

    /// Says where AMQP over TLS is accepted.
    pub(crate) fn set_amqps_port(&self, port: u16) {
        // A hub listens once.
        let _ = self.amqps_port.set(port);
    }

    /// The port of AMQP over TLS; the standard one if the hub does not listen.
    pub(crate) fn amqps_port(&self) -> u16 {
        self.amqps_port.get().copied().unwrap_or(5671)
    }

    /// What clients of Event Hubs reach the event stream of this name with; `None`
    /// when AMQP over TLS is not accepted. The port is part of it unless it is 5671.
    pub(crate) fn event_hub_connection_string(&self, stream: &str) -> Option<String> {
        let host = match self.amqps_port.get()? {
            5671 => self.settings.host_name.clone(),
            port => format!("{}:{port}", self.settings.host_name),
        };
        let key = self.settings.policies.key();
        Some(format!(
            "Endpoint=sb://{host}/;SharedAccessKeyName={OWNER_POLICY};SharedAccessKey={key};EntityPath={stream}"
        ))
    }

    /// Forgets all devices, configurations, events, notifications, counts
    /// and the authorities that were added since the start, and sets the clock
    /// back to the system's. Blobs stay.
    pub(crate) fn reset(&self) {
        // Taken apart so that a new field cannot be forgotten here.
        let Self {
            settings: _,
            clock,
            registry: _,
            views,
            counters,
            events,
            message_quota,
            c2d,
            device_cas,
            blobs,
            file_notifications,
            registry_jobs,
            configurations,
            farewell: _,
            amqps_port: _,
        } = self;
        registry_jobs.clear();
        // Before the devices, so that no new one meets an old configuration.
        configurations.clear();
        views.indexes.clear();
        self.clear_registry(CloseReason::Shutdown);
        if let Some(lag) = &views.lag {
            lag.clear();
        }
        c2d.clear();
        events.clear();
        message_quota.clear();
        device_cas.reset();
        blobs.forget_blocks();
        file_notifications.clear();
        counters.reset();
        clock.reset();
    }
}

/// 32 bytes from the operating system, for keys and generation ids.
pub(crate) fn random_bytes() -> [u8; 32] {
    let mut bytes = [0; 32];
    if getrandom::fill(&mut bytes).is_err() {
        // Without the system's random source (which modern systems always
        // have) v4 ids still differ; keys of a development hub need no more.
        bytes[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        bytes[16..].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    }
    bytes
}

/// A failure of the hub itself, which should not happen.
pub(crate) fn internal(error: impl std::fmt::Display) -> ServiceError {
    tracing::error!(%error, "internal error");
    ServiceError::new(ErrorCode::ServerError, "the hub failed to write its answer")
}
