//! What a fleet counts: totals without locks, and what each device received.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hub_core::ids::Target;
use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::behaviour::{Behaviour, Conduct, properties};
use crate::event::Event;
use crate::histogram::Histogram;
use crate::process::Usage;
use crate::report::{
    Connections, DesiredCount, Devices, Latencies, Messages, MethodCount, Methods, Report, Twins,
};
use crate::selection::Role;

/// Different method names counted for one device; calls of further ones are
/// only part of the total.
const METHOD_NAMES: usize = 16;
/// Different causes of failure that are told apart.
const CAUSES: usize = 64;
/// What the further causes are counted as.
const OTHER_CAUSES: &str = "other causes";
/// Different documents of desired properties in a report.
const DOCUMENTS: usize = 32;

/// Gets to see every event of every device.
pub(super) type Observer = dyn Fn(&Target, &Event<'_>) + Send + Sync;

/// The numbers of a fleet at one moment, over all devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Devices that are connected and subscribed.
    pub connected: usize,
    /// Connections that the hub accepted.
    pub opened: u64,
    /// Accepted connections that were lost.
    pub lost: u64,
    /// Accepted connections that were closed to renew a token.
    pub renewed: u64,
    /// Direct methods received.
    pub methods_received: u64,
    /// Direct methods answered.
    pub methods_answered: u64,
    /// Changes of desired properties received.
    pub desired_changes: u64,
    /// Updates of reported properties sent.
    pub reports_sent: u64,
    /// Updates of reported properties that the hub accepted.
    pub reports_accepted: u64,
    /// Telemetry messages sent.
    pub telemetry_sent: u64,
    /// Telemetry messages that the hub acknowledged.
    pub telemetry_acknowledged: u64,
    /// Cloud-to-device messages received.
    pub messages_received: u64,
}

/// The counters of a fleet.
pub(super) struct Tally {
    devices: Vec<DeviceTally>,
    /// The names that most calls have, so that devices can share one copy.
    known_methods: Vec<Arc<str>>,
    connected: watch::Sender<usize>,
    totals: Totals,
    latencies: Histograms,
    failures: Mutex<BTreeMap<String, u64>>,
    observer: Option<Box<Observer>>,
}

#[derive(Default)]
struct Totals {
    opened: AtomicU64,
    lost: AtomicU64,
    renewed: AtomicU64,
    methods_received: AtomicU64,
    methods_answered: AtomicU64,
    desired_changes: AtomicU64,
    reports_sent: AtomicU64,
    reports_accepted: AtomicU64,
    telemetry_sent: AtomicU64,
    telemetry_acknowledged: AtomicU64,
    messages_received: AtomicU64,
}

#[derive(Default)]
struct Histograms {
    connect: Histogram,
    telemetry: Histogram,
    twin_read: Histogram,
    twin_report: Histogram,
}

struct DeviceTally {
    target: Target,
    online: bool,
    /// A std mutex, held for microseconds: only the device's own task and
    /// whoever makes a report take it.
    received: Mutex<Received>,
}

/// What one device has received.
#[derive(Default)]
struct Received {
    methods: Vec<(Arc<str>, u64)>,
    /// The desired properties as JSON text, the smallest form that can be
    /// compared; `None` before the device learns them.
    desired: Option<Box<str>>,
}

impl Received {
    fn desired(&self) -> Option<Map<String, Value>> {
        serde_json::from_str(self.desired.as_deref()?).ok()
    }

    fn set_desired(&mut self, document: &Map<String, Value>) {
        self.desired = serde_json::to_string(document).ok().map(String::into_boxed_str);
    }
}

/// Counts a device as connected for as long as it lives.
pub(super) struct Connected<'a>(&'a watch::Sender<usize>);

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|connected| *connected -= 1);
    }
}

impl Tally {
    pub(super) fn new(
        targets: Vec<Target>,
        roles: &[Role],
        behaviour: &Behaviour,
        observer: Option<Box<Observer>>,
    ) -> Self {
        let devices = targets
            .into_iter()
            .zip(roles)
            .map(|(target, role)| DeviceTally {
                target,
                online: *role != Role::Offline,
                received: Mutex::default(),
            })
            .collect();
        Self {
            devices,
            known_methods: behaviour.method_names().cloned().collect(),
            connected: watch::Sender::new(0),
            totals: Totals::default(),
            latencies: Histograms::default(),
            failures: Mutex::default(),
            observer,
        }
    }

    pub(super) fn target(&self, index: usize) -> &Target {
        &self.devices[index].target
    }

    pub(super) fn targets(&self) -> impl Iterator<Item = &Target> {
        self.devices.iter().map(|device| &device.target)
    }

    /// Counts what happened to a device.
    pub(super) fn observe(&self, index: usize, event: &Event<'_>) {
        let totals = &self.totals;
        let count = |counter: &AtomicU64| {
            counter.fetch_add(1, Relaxed);
        };
        match event {
            Event::Connected { .. } => {}
            Event::Method { name, .. } => {
                count(&totals.methods_received);
                self.count_method(index, name);
            }
            Event::MethodAnswered => count(&totals.methods_answered),
            Event::TwinRead { took, desired } => {
                self.latencies.twin_read.record(*took);
                self.received(index).set_desired(&properties::content(desired));
            }
            Event::DesiredChanged { patch, .. } => {
                count(&totals.desired_changes);
                let mut received = self.received(index);
                let mut document = received.desired().unwrap_or_default();
                properties::merge(&mut document, patch);
                received.set_desired(&document);
            }
            Event::ReportSent { .. } => count(&totals.reports_sent),
            Event::ReportAccepted { took } => {
                count(&totals.reports_accepted);
                self.latencies.twin_report.record(*took);
            }
            Event::TelemetrySent { .. } => count(&totals.telemetry_sent),
            Event::TelemetryAcknowledged { took } => {
                count(&totals.telemetry_acknowledged);
                self.latencies.telemetry.record(*took);
            }
            Event::Message { .. } => count(&totals.messages_received),
            Event::Failure(failure) => self.count_failure(failure.to_string()),
            Event::Disconnected { cause, .. } => self.count_failure((*cause).to_owned()),
        }
        if let Some(observer) = &self.observer {
            observer(self.target(index), event);
        }
    }

    pub(super) fn count_opened(&self, took: Duration) {
        self.totals.opened.fetch_add(1, Relaxed);
        self.latencies.connect.record(took);
    }

    pub(super) fn count_lost(&self) {
        self.totals.lost.fetch_add(1, Relaxed);
    }

    pub(super) fn count_renewed(&self) {
        self.totals.renewed.fetch_add(1, Relaxed);
    }

    pub(super) fn enter_connected(&self) -> Connected<'_> {
        self.connected.send_modify(|connected| *connected += 1);
        Connected(&self.connected)
    }

    fn count_method(&self, index: usize, name: &str) {
        let mut received = self.received(index);
        if let Some((_, calls)) = received.methods.iter_mut().find(|(known, _)| **known == *name) {
            *calls += 1;
        } else if received.methods.len() < METHOD_NAMES {
            let shared = self.known_methods.iter().find(|known| ***known == *name);
            let name = shared.cloned().unwrap_or_else(|| name.into());
            received.methods.push((name, 1));
        }
    }

    fn count_failure(&self, cause: String) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let cause = if failures.len() >= CAUSES && !failures.contains_key(&cause) {
            OTHER_CAUSES.to_owned()
        } else {
            cause
        };
        *failures.entry(cause).or_default() += 1;
    }

    fn received(&self, index: usize) -> MutexGuard<'_, Received> {
        lock(&self.devices[index])
    }

    pub(super) fn connected(&self) -> usize {
        *self.connected.borrow()
    }

    /// Waits until at least `number` devices are connected.
    pub(super) async fn wait_connected(&self, number: usize) {
        let mut connected = self.connected.subscribe();
        // The sender lives as long as `self`.
        let _ = connected.wait_for(|connected| *connected >= number).await;
    }

    pub(super) fn counts(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        let totals = &self.totals;
        Counts {
            connected: self.connected(),
            opened: get(&totals.opened),
            lost: get(&totals.lost),
            renewed: get(&totals.renewed),
            methods_received: get(&totals.methods_received),
            methods_answered: get(&totals.methods_answered),
            desired_changes: get(&totals.desired_changes),
            reports_sent: get(&totals.reports_sent),
            reports_accepted: get(&totals.reports_accepted),
            telemetry_sent: get(&totals.telemetry_sent),
            telemetry_acknowledged: get(&totals.telemetry_acknowledged),
            messages_received: get(&totals.messages_received),
        }
    }

    pub(super) fn failures(&self) -> BTreeMap<String, u64> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.clone()
    }

    pub(super) fn devices_with_method(&self, name: &str) -> usize {
        self.devices
            .iter()
            .filter(|device| lock(device).methods.iter().any(|(known, _)| **known == *name))
            .count()
    }

    pub(super) fn devices_with_desired(&self, part: &Value) -> usize {
        // Thousands of devices have the same few documents: each is read once.
        self.desired_documents()
            .into_iter()
            .filter(|(document, _)| {
                let document = document.as_deref().and_then(|text| serde_json::from_str(text).ok());
                document.is_some_and(|document: Value| properties::contains(&document, part))
            })
            .map(|(_, devices)| devices)
            .sum()
    }

    fn desired_documents(&self) -> BTreeMap<Option<Box<str>>, usize> {
        let mut documents = BTreeMap::new();
        for device in self.devices.iter().filter(|device| device.online) {
            let received = lock(device);
            match documents.get_mut(&received.desired) {
                Some(devices) => *devices += 1,
                None => {
                    documents.insert(received.desired.clone(), 1);
                }
            }
        }
        documents
    }

    pub(super) fn report(&self, elapsed: Duration, roles: &[Role]) -> Report {
        let counts = self.counts();
        let with_role = |role| roles.iter().filter(|r| **r == role).count();
        let latencies = &self.latencies;
        Report {
            elapsed_seconds: elapsed.as_secs_f64(),
            devices: Devices {
                total: self.devices.len(),
                offline: with_role(Role::Offline),
                failing: with_role(Role::Online(Conduct::Failing)),
                silent: with_role(Role::Online(Conduct::Silent)),
                connected: counts.connected,
            },
            connections: Connections {
                opened: counts.opened,
                lost: counts.lost,
                renewed: counts.renewed,
            },
            methods: Methods {
                received: counts.methods_received,
                answered: counts.methods_answered,
                by_name: self.methods_by_name(),
            },
            twins: Twins {
                desired_changes: counts.desired_changes,
                reports_sent: counts.reports_sent,
                reports_accepted: counts.reports_accepted,
                desired: self.desired_counts(),
            },
            telemetry: Messages {
                sent: counts.telemetry_sent,
                acknowledged: counts.telemetry_acknowledged,
            },
            messages_received: counts.messages_received,
            latency: Latencies {
                connect: latencies.connect.summary(),
                telemetry: latencies.telemetry.summary(),
                twin_read: latencies.twin_read.summary(),
                twin_report: latencies.twin_report.summary(),
            },
            failures: self.failures(),
            process: Usage::current(),
        }
    }

    fn methods_by_name(&self) -> BTreeMap<String, MethodCount> {
        let mut by_name: BTreeMap<String, MethodCount> = BTreeMap::new();
        for device in &self.devices {
            for (name, calls) in &lock(device).methods {
                match by_name.get_mut(&**name) {
                    Some(count) => {
                        count.calls += calls;
                        count.devices += 1;
                    }
                    None => {
                        let (calls, devices) = (*calls, 1);
                        by_name.insert(name.to_string(), MethodCount { calls, devices });
                    }
                }
            }
        }
        by_name
    }

    fn desired_counts(&self) -> Vec<DesiredCount> {
        let mut documents: Vec<_> = self.desired_documents().into_iter().collect();
        documents.sort_by_key(|(_, devices)| std::cmp::Reverse(*devices));
        let value = |text: Option<Box<str>>| serde_json::from_str(text.as_deref()?).ok();
        documents
            .into_iter()
            .take(DOCUMENTS)
            .map(|(text, devices)| DesiredCount {
                desired: value(text).unwrap_or(Value::Null),
                devices,
            })
            .collect()
    }
}

fn lock(device: &DeviceTally) -> MutexGuard<'_, Received> {
    device.received.lock().unwrap_or_else(PoisonError::into_inner)
}
