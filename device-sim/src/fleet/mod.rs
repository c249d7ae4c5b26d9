//! Many devices at once: connected at a chosen rate, kept connected, counted.
//!
//! A [`FleetBuilder`] says what the fleet is, [`FleetBuilder::start`] gives a
//! [`Fleet`], the handle to wait, read and stop. Every device is a task of its
//! own; what they have in common is in `tally`.

mod device;
mod tally;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use hub_core::ids::{DeviceId, IdError, Target};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::behaviour::Behaviour;
use crate::credentials::Credentials;
use crate::event::Event;
use crate::process;
use crate::report::Report;
use crate::selection::{Role, Shares, SharesError};
use crate::session::SessionSettings;
use crate::transport::Transport;

pub use tally::Counts;

use self::tally::{Observer, Tally};

/// How long devices may take to say goodbye before they are cut off.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// How often a condition is looked at while somebody waits for it.
const POLL: Duration = Duration::from_millis(5);
/// Files that the process needs besides the devices' connections.
const OTHER_FILES: u64 = 32;

/// Why a fleet cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no device.
    #[error("a fleet needs at least one device")]
    Empty,
    /// The prefix makes no legal device ids.
    #[error("the prefix does not make legal device ids")]
    Prefix(#[from] IdError),
    /// More devices are to misbehave than there are.
    #[error(transparent)]
    Shares(#[from] SharesError),
    /// Every connection takes one file descriptor, and there are too few.
    #[error(
        "this process may open only {limit} files, but {needed} are needed; raise the limit first: ulimit -n {needed}"
    )]
    OpenFiles {
        /// Descriptors needed.
        needed: u64,
        /// Descriptors permitted.
        limit: u64,
    },
}

/// Not every device that should be connected is.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{connected} of {expected} devices are connected after {seconds:.1} s{}", reasons(.failures))]
pub struct NotConnected {
    /// Devices that are connected.
    pub connected: usize,
    /// Devices that should be.
    pub expected: usize,
    /// How long was waited, in seconds.
    pub seconds: f64,
    /// What went wrong, with numbers.
    pub failures: Vec<(String, u64)>,
}

fn reasons(failures: &[(String, u64)]) -> String {
    failures
        .iter()
        .map(|(cause, number)| format!("; {number} times: {cause}"))
        .collect()
}

/// Pauses between attempts to connect: the first, doubled up to the last, each
/// shortened by up to half at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// The longest.
    pub last: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            last: Duration::from_secs(60),
        }
    }
}

/// What a fleet is going to be.
pub struct FleetBuilder {
    transport: Transport,
    credentials: Credentials,
    devices: Naming,
    behaviour: Behaviour,
    shares: Shares,
    seed: u64,
    per_second: Option<u32>,
    concurrent: usize,
    backoff: Backoff,
    settings: SessionSettings,
    observer: Option<Box<Observer>>,
}

enum Naming {
    Numbered { prefix: String, count: usize },
    Given(Vec<Target>),
}

impl FleetBuilder {
    /// `count` devices named `{prefix}00000`, `{prefix}00001` and so on; more
    /// digits where five do not suffice.
    #[must_use]
    pub fn numbered(self, prefix: &str, count: usize) -> Self {
        let devices = Naming::Numbered {
            prefix: prefix.to_owned(),
            count,
        };
        Self { devices, ..self }
    }

    /// Exactly these devices or modules.
    #[must_use]
    pub fn targets(self, targets: Vec<Target>) -> Self {
        let devices = Naming::Given(targets);
        Self { devices, ..self }
    }

    /// What the devices do; by default what the tutorials' device does.
    #[must_use]
    pub fn behaviour(self, behaviour: Behaviour) -> Self {
        Self { behaviour, ..self }
    }

    /// Which parts of the fleet misbehave; by default none.
    #[must_use]
    pub fn shares(self, shares: Shares) -> Self {
        Self { shares, ..self }
    }

    /// Decides which devices misbehave and when telemetry is sent; 0 by default.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Connects at most this many devices a second; 0, the default, means as
    /// fast as the number of concurrent connects lets them.
    #[must_use]
    pub fn ramp(self, per_second: u32) -> Self {
        let per_second = (per_second > 0).then_some(per_second);
        Self { per_second, ..self }
    }

    /// How many devices may be connecting at the same time, 256 by default
    /// and at least 1.
    #[must_use]
    pub fn concurrent_connects(self, concurrent: usize) -> Self {
        let concurrent = concurrent.clamp(1, Semaphore::MAX_PERMITS);
        Self { concurrent, ..self }
    }

    /// Pauses before reconnecting.
    #[must_use]
    pub fn backoff(self, backoff: Backoff) -> Self {
        Self { backoff, ..self }
    }

    /// Keep-alive and the like.
    #[must_use]
    pub fn settings(self, settings: SessionSettings) -> Self {
        Self { settings, ..self }
    }

    /// Calls `observer` for everything that happens to a device, from that
    /// device's task: it must be quick and must not block.
    #[must_use]
    pub fn observer(self, observer: impl Fn(&Target, &Event<'_>) + Send + Sync + 'static) -> Self {
        let observer: Option<Box<Observer>> = Some(Box::new(observer));
        Self { observer, ..self }
    }

    /// The devices in their order, offline ones included: what to register.
    ///
    /// # Errors
    /// When the prefix makes no legal device ids.
    pub fn all_targets(&self) -> Result<Vec<Target>, IdError> {
        match &self.devices {
            Naming::Given(targets) => Ok(targets.clone()),
            Naming::Numbered { prefix, count } => (0..*count)
                .map(|i| DeviceId::parse(&format!("{prefix}{i:05}")).map(Target::device))
                .collect(),
        }
    }

    /// Starts connecting. Has to be called within a tokio runtime.
    ///
    /// # Errors
    /// When the fleet is not possible as described.
    pub fn start(self) -> Result<Fleet, StartError> {
        let targets = self.all_targets()?;
        if targets.is_empty() {
            return Err(StartError::Empty);
        }
        let roles = self.shares.assign(targets.len(), self.seed)?;
        let expected = roles.iter().filter(|role| **role != Role::Offline).count();
        if self.transport.uses_descriptors() {
            check_descriptors(expected as u64, process::open_file_limit())?;
        }
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            tally: Tally::new(targets, &roles, &self.behaviour, self.observer),
            transport: self.transport,
            credentials: self.credentials,
            behaviour: Arc::new(self.behaviour),
            settings: Arc::new(self.settings),
            backoff: self.backoff,
            seed: self.seed,
            connecting: Arc::new(Semaphore::new(self.concurrent)),
            stop: stop.clone(),
        });
        let ramp = tokio::spawn(connect_all(Arc::clone(&shared), roles.clone(), self.per_second));
        Ok(Fleet {
            shared,
            roles,
            expected,
            started: Instant::now(),
            ramp,
            _stop_on_drop: stop.drop_guard(),
        })
    }
}

fn check_descriptors(connections: u64, limit: Option<u64>) -> Result<(), StartError> {
    let needed = connections + OTHER_FILES;
    match limit {
        Some(limit) if limit < needed => Err(StartError::OpenFiles { needed, limit }),
        _ => Ok(()),
    }
}

/// What the tasks of a fleet have in common.
struct Shared {
    tally: Tally,
    transport: Transport,
    credentials: Credentials,
    behaviour: Arc<Behaviour>,
    settings: Arc<SessionSettings>,
    backoff: Backoff,
    seed: u64,
    connecting: Arc<Semaphore>,
    stop: CancellationToken,
}

/// Starts the devices' tasks one after the other, then waits for their end.
async fn connect_all(shared: Arc<Shared>, roles: Vec<Role>, per_second: Option<u32>) {
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    let online = roles.into_iter().enumerate().filter_map(|(index, role)| match role {
        Role::Offline => None,
        Role::Online(conduct) => Some((index, conduct)),
    });
    for ((index, conduct), place) in online.zip(0_u32..) {
        let permit = async {
            if let Some(per_second) = per_second {
                sleep_until(start + Duration::from_secs(1) * place / per_second).await;
            }
            Arc::clone(&shared.connecting).acquire_owned().await
        };
        let permit = tokio::select! {
            Ok(permit) = permit => permit,
            () = shared.stop.cancelled() => break,
        };
        tasks.spawn(device::run(Arc::clone(&shared), index, conduct, permit));
    }
    shared.stop.cancelled().await;
    let all_gone = async { while tasks.join_next().await.is_some() {} };
    if timeout(STOP_GRACE, all_gone).await.is_err() {
        tracing::debug!(left = tasks.len(), "devices did not end in time");
        tasks.shutdown().await;
    }
}

/// A running fleet. Dropping it disconnects the devices without waiting.
pub struct Fleet {
    shared: Arc<Shared>,
    roles: Vec<Role>,
    expected: usize,
    started: Instant,
    ramp: JoinHandle<()>,
    _stop_on_drop: DropGuard,
}

impl Fleet {
    /// A fleet of no devices yet.
    #[must_use]
    pub fn builder(transport: Transport, credentials: Credentials) -> FleetBuilder {
        FleetBuilder {
            transport,
            credentials,
            devices: Naming::Given(Vec::new()),
            behaviour: Behaviour::default(),
            shares: Shares::default(),
            seed: 0,
            per_second: None,
            concurrent: 256,
            backoff: Backoff::default(),
            settings: SessionSettings::default(),
            observer: None,
        }
    }

    /// Number of devices that should be connected: all but the offline ones.
    #[must_use]
    pub fn expected(&self) -> usize {
        self.expected
    }

    /// Number of devices that are connected and subscribed at this moment.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.shared.tally.connected()
    }

    /// The devices and what was decided for each, in their order.
    pub fn devices(&self) -> impl Iterator<Item = (&Target, Role)> {
        self.shared.tally.targets().zip(self.roles.iter().copied())
    }

    /// The numbers of everything so far; cheap.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.tally.counts()
    }

    /// Number of devices that received at least one call of this method.
    #[must_use]
    pub fn devices_with_method(&self, name: &str) -> usize {
        self.shared.tally.devices_with_method(name)
    }

    /// Number of devices whose desired properties say everything that `part`
    /// says, as in `{"building": 43, "floor": 3}`.
    #[must_use]
    pub fn devices_with_desired(&self, part: &Value) -> usize {
        self.shared.tally.devices_with_desired(part)
    }

    /// Returns as soon as every device that should be connected is.
    ///
    /// # Errors
    /// When that has not happened after `deadline`.
    pub async fn wait_connected(&self, deadline: Duration) -> Result<(), NotConnected> {
        let started = Instant::now();
        let all = self.shared.tally.wait_connected(self.expected);
        timeout(deadline, all).await.map_err(|_| NotConnected {
            connected: self.connected(),
            expected: self.expected,
            seconds: started.elapsed().as_secs_f64(),
            failures: self.shared.tally.failures().into_iter().collect(),
        })
    }

    /// Returns `true` as soon as `condition` holds and `false` if it does not
    /// by `deadline`.
    #[must_use = "the condition may not hold"]
    pub async fn wait_for(&self, deadline: Duration, mut condition: impl FnMut(&Self) -> bool) -> bool {
        let end = Instant::now() + deadline;
        loop {
            if condition(self) {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            sleep(POLL).await;
        }
    }

    /// What has happened so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.shared.tally.report(self.started.elapsed(), &self.roles)
    }

    /// Disconnects every device in order and returns the report as of before.
    pub async fn stop(self) -> Report {
        let report = self.report();
        self.shared.stop.cancel();
        // The task ends by itself; a panic in it has been reported already.
        let _ = self.ramp.await;
        report
    }
}
