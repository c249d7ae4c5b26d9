//! A hub with devices in one process.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use device_sim::credentials::Login;
use device_sim::{Credentials, Fleet, Transport};
use emulator::{Hub, HubBuilder};
use hub_core::connection_string::{ConnectionString, ServiceConnection};
use hub_core::ids::{DeviceId, Target};
use hub_core::time::Timestamp;
use serde_json::{Value, json};

use crate::DEADLINE;

/// The tags of every device of a [`Site`]; a job's condition selects by them.
pub const CONDITION: &str = "tags.fleet = 'bench'";

/// A hub and the devices that are registered on it, each with a key of its own.
pub struct Site {
    /// The hub.
    pub hub: Arc<Hub>,
    /// The devices, `dev00000` and so on.
    pub targets: Vec<Target>,
    credentials: Credentials,
}

impl Site {
    /// Starts a hub and registers `devices` devices, which carry the tags that
    /// [`CONDITION`] selects.
    ///
    /// # Panics
    /// When the hub does not start or does not take the devices.
    pub async fn start(devices: usize) -> Self {
        Self::with_twins(devices, |_| json!({})).await
    }

    /// As [`Site::start`], with further members for each device's import, such
    /// as `properties`.
    ///
    /// # Panics
    /// When the hub does not start or does not take the devices.
    pub async fn with_twins(devices: usize, twin: impl Fn(usize) -> Value) -> Self {
        Self::on(Hub::builder(), devices, twin).await
    }

    /// As [`Site::with_twins`], on a hub that is not the usual one.
    ///
    /// # Panics
    /// When the hub does not start or does not take the devices.
    pub async fn on(builder: HubBuilder, devices: usize, twin: impl Fn(usize) -> Value) -> Self {
        let hub = builder.start().await.expect("the hub starts");
        let service = service_connection(&hub);
        let credentials = Credentials::derived(&service);
        let targets: Vec<Target> = (0..devices)
            .map(|i| DeviceId::parse(&format!("dev{i:05}")).expect("a legal id"))
            .map(Target::device)
            .collect();
        let lines: Vec<String> = targets
            .iter()
            .enumerate()
            .map(|(i, target)| {
                let key = credentials.device_key(target).expect("a derived key").to_base64();
                let mut entry = twin(i);
                entry["deviceId"] = json!(target.device);
                entry["authentication"] =
                    json!({"type": "sas", "symmetricKey": {"primaryKey": key, "secondaryKey": key}});
                entry["tags"]["fleet"] = json!("bench");
                entry.to_string()
            })
            .collect();
        let imported = hub.import(&lines.join("\n")).expect("the devices are legal");
        assert_eq!(imported.created, devices);
        Self {
            hub: Arc::new(hub),
            targets,
            credentials,
        }
    }

    /// What a device proves itself with, valid for an hour.
    ///
    /// # Panics
    /// When the system's clock stands before 1970.
    #[must_use]
    pub fn login(&self, target: &Target) -> Login {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("a clock that is right");
        let now = Timestamp::from_unix_seconds(i64::try_from(now.as_secs()).expect("a near time"));
        self.credentials.login(target, now)
    }

    /// Connects every device in memory, with the behaviour of the tutorials'
    /// device, and waits until all of them have subscribed and read their twin.
    ///
    /// # Panics
    /// When not every device gets there.
    pub async fn connect_fleet(&self) -> Fleet {
        let hub = self.hub.clone();
        let transport = Transport::memory(move || Ok(hub.connect_in_memory()));
        let fleet = Fleet::builder(transport, self.credentials.clone())
            .targets(self.targets.clone())
            .start()
            .expect("the fleet is possible");
        fleet
            .wait_connected(DEADLINE)
            .await
            .expect("every device connects");
        let settled = fleet
            .wait_for(DEADLINE, |fleet| {
                fleet.devices_with_desired(&json!({})) == fleet.expected()
            })
            .await;
        assert!(settled, "a device did not read its twin");
        fleet
    }
}

/// The hub's service connection string, taken apart.
///
/// # Panics
/// When the hub prints a string that is none.
#[must_use]
pub fn service_connection(hub: &Hub) -> ServiceConnection {
    match ConnectionString::parse(&hub.service_connection_string()) {
        Ok(ConnectionString::Service(service)) => service,
        other => panic!("not a service connection string: {other:?}"),
    }
}

/// Seconds since 1970 at which a token made at this moment expires.
#[must_use]
pub fn token_expiry() -> u64 {
    const HOUR: Duration = Duration::from_secs(3600);
    (SystemTime::now() + HOUR)
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
