//! How the event stream is kept.

use std::num::NonZeroUsize;

use hub_core::events::{ConsumerGroups, DEFAULT_GROUP, GroupError, Retention, Sources};
use hub_core::limits;

/// The event stream's shape, for [`HubBuilder::events`](crate::HubBuilder::events).
#[derive(Debug, Clone)]
pub struct EventSettings {
    partitions: NonZeroUsize,
    /// How much of each partition is kept; one day and
    /// [`limits::EVENT_PARTITION_BYTES`] by default.
    pub retention: Retention,
    /// Which events beside telemetry are kept; none by default, as in the cloud
    /// where nothing routes them.
    pub sources: Sources,
    consumer_groups: Vec<String>,
}

impl Default for EventSettings {
    fn default() -> Self {
        Self {
            partitions: NonZeroUsize::new(limits::EVENT_PARTITIONS_DEFAULT).unwrap_or(NonZeroUsize::MIN),
            retention: Retention::default(),
            sources: Sources::default(),
            consumer_groups: Vec::new(),
        }
    }
}

impl EventSettings {
    /// Into how many partitions events are spread by their devices; four by
    /// default, at most the end of [`limits::EVENT_PARTITIONS`].
    #[must_use]
    pub fn with_partitions(mut self, partitions: NonZeroUsize) -> Self {
        let most = NonZeroUsize::new(*limits::EVENT_PARTITIONS.end()).unwrap_or(NonZeroUsize::MIN);
        self.partitions = partitions.min(most);
        self
    }

    /// Number of partitions.
    #[must_use]
    pub fn partitions(&self) -> NonZeroUsize {
        self.partitions
    }

    /// Adds a consumer group beside `$Default`; a reset keeps it.
    ///
    /// # Errors
    /// For a name that is not legal, or one group too many.
    pub fn with_consumer_group(mut self, name: &str) -> Result<Self, GroupError> {
        let mut groups = ConsumerGroups::default();
        for group in self.consumer_groups.iter().map(String::as_str).chain([name]) {
            groups.create(group)?;
        }
        self.consumer_groups = groups
            .names()
            .filter(|name| *name != DEFAULT_GROUP)
            .map(str::to_owned)
            .collect();
        Ok(self)
    }

    pub(super) fn consumer_groups(&self) -> &[String] {
        &self.consumer_groups
    }
}
