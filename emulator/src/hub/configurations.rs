//! The hub's automatic configurations: creating, reading and removing them.
//! Evaluating them over the devices is in [`super::settling`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hub_core::configuration::{
    Configuration, ConfigurationSpec, ContentKind, MetricResults, check_delete, check_put, not_found,
};
use hub_core::error::{ErrorCode, ServiceError};
use hub_core::ids::ConfigurationId;
use hub_core::limits;
use hub_core::registry::{IfMatch, Put};
use hub_core::time::Timestamp;
use tokio::sync::Notify;

use super::internal;

/// All configurations. The lock is held briefly and never together with a
/// device's.
#[derive(Default)]
pub(crate) struct Configurations {
    store: Mutex<Store>,
    /// Wakes the evaluation when a configuration has changed.
    pub(super) changed: Notify,
}

#[derive(Default)]
struct Store {
    entries: BTreeMap<ConfigurationId, Entry>,
    /// Configurations created so far.
    created: u64,
    /// Grows with every change of a configuration.
    revision: u64,
    /// The revision that the devices have been brought to.
    settled: u64,
    /// Devices that the metrics have counted.
    devices: usize,
}

struct Entry {
    configuration: Arc<Configuration>,
    results: MetricResults,
}

impl Entry {
    fn reply(&self) -> Result<ConfigurationReply, ServiceError> {
        Ok(ConfigurationReply {
            etag: self.configuration.etag(),
            body: serde_json::to_vec(&self.configuration.document(&self.results)).map_err(internal)?,
        })
    }
}

/// A configuration as a response: the JSON document and its ETag.
pub(crate) struct ConfigurationReply {
    pub(crate) body: Vec<u8>,
    pub(crate) etag: String,
}

/// The configurations at one moment.
pub(super) struct Snapshot {
    /// Strongest first.
    pub(super) configurations: Vec<Arc<Configuration>>,
    pub(super) revision: u64,
    /// Whether the devices have been brought to this revision before.
    pub(super) is_settled: bool,
    /// How many devices the metrics have counted.
    pub(super) devices: usize,
}

impl Configurations {
    fn lock(&self) -> MutexGuard<'_, Store> {
        // Changes of the store are single assignments, so a panic elsewhere
        // has not left it half changed.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates or updates a configuration.
    ///
    /// # Errors
    /// The precondition table of configurations, their quota, a condition that
    /// does not suit the content that exists.
    pub(crate) fn put(
        &self,
        spec: ConfigurationSpec,
        if_match: &IfMatch,
        now: Timestamp,
    ) -> Result<ConfigurationReply, ServiceError> {
        let mut store = self.lock();
        let id = spec.id().clone();
        let existing = store.entries.get(&id);
        let etag = existing.map(|entry| entry.configuration.etag());
        let entry = match (check_put(&id, etag.as_deref(), if_match)?, existing) {
            (Put::Replace, Some(entry)) => Entry {
                configuration: Arc::new(entry.configuration.update(spec, now)?),
                results: entry.results.clone(),
            },
            _ => {
                let configuration = Configuration::create(spec, store.created + 1, now);
                store.check_quota(configuration.content().kind())?;
                store.created += 1;
                Entry {
                    configuration: Arc::new(configuration),
                    results: MetricResults::default(),
                }
            }
        };
        let reply = entry.reply();
        store.entries.insert(id, entry);
        store.revision += 1;
        self.changed.notify_one();
        reply
    }

    /// The document of a configuration.
    ///
    /// # Errors
    /// `ConfigurationNotFound`.
    pub(crate) fn get(&self, id: &ConfigurationId) -> Result<ConfigurationReply, ServiceError> {
        let store = self.lock();
        store.entries.get(id).ok_or_else(|| not_found(id))?.reply()
    }

    /// The documents of all configurations as a JSON array, in the order of
    /// their ids.
    ///
    /// # Errors
    /// None of its own.
    pub(crate) fn list(&self) -> Result<Vec<u8>, ServiceError> {
        let store = self.lock();
        let documents: Vec<_> = store
            .entries
            .values()
            .map(|entry| entry.configuration.document(&entry.results))
            .collect();
        serde_json::to_vec(&documents).map_err(internal)
    }

    /// Removes a configuration; its settings leave the devices at the next
    /// evaluation.
    ///
    /// # Errors
    /// `ConfigurationNotFound`, `PreconditionFailed`.
    pub(crate) fn delete(&self, id: &ConfigurationId, if_match: &IfMatch) -> Result<(), ServiceError> {
        let mut store = self.lock();
        let etag = store.entries.get(id).map(|entry| entry.configuration.etag());
        check_delete(id, etag.as_deref(), if_match)?;
        store.entries.remove(id);
        store.revision += 1;
        self.changed.notify_one();
        Ok(())
    }

    /// Removes all configurations.
    pub(super) fn clear(&self) {
        let mut store = self.lock();
        store.entries.clear();
        store.revision += 1;
        self.changed.notify_one();
    }

    /// Whether there is nothing to evaluate until a configuration changes.
    pub(super) fn is_idle(&self) -> bool {
        let store = self.lock();
        store.entries.is_empty() && store.settled == store.revision
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let store = self.lock();
        let mut configurations: Vec<_> = store
            .entries
            .values()
            .map(|entry| entry.configuration.clone())
            .collect();
        configurations.sort_by_key(|configuration| configuration.precedence());
        Snapshot {
            configurations,
            revision: store.revision,
            is_settled: store.settled == store.revision,
            devices: store.devices,
        }
    }

    /// Whether no configuration has changed since the snapshot `revision`.
    pub(super) fn is_current(&self, revision: u64) -> bool {
        self.lock().revision == revision
    }

    /// Takes over what an evaluation of the snapshot `revision` has counted over
    /// so many devices.
    pub(super) fn finish(
        &self,
        revision: u64,
        devices: usize,
        results: impl IntoIterator<Item = (ConfigurationId, MetricResults)>,
    ) {
        let mut store = self.lock();
        if store.revision != revision {
            return;
        }
        store.settled = revision;
        store.devices = devices;
        for (id, results) in results {
            if let Some(entry) = store.entries.get_mut(&id) {
                entry.results = results;
            }
        }
    }
}

impl Store {
    /// Deployments are counted apart from configurations of devices and modules.
    fn check_quota(&self, kind: ContentKind) -> Result<(), ServiceError> {
        let is_edge = |kind| kind == ContentKind::Edge;
        let count = self
            .entries
            .values()
            .filter(|entry| is_edge(entry.configuration.content().kind()) == is_edge(kind))
            .count();
        if count >= limits::CONFIGURATIONS_PER_HUB {
            return Err(ServiceError::new(
                ErrorCode::ConfigurationCountLimitExceeded,
                format!(
                    "the hub has {} configurations already",
                    limits::CONFIGURATIONS_PER_HUB
                ),
            ));
        }
        Ok(())
    }
}
