//! How the event stream is kept.

use std::num::NonZeroUsize;

use hub_core::events::{ConsumerGroups, DEFAULT_GROUP, GroupError, Retention, Source, Sources};
use hub_core::limits;
use hub_core::routing::{EVENTS, Routing, StreamSettings, source_name};
use serde_json::{Value, json};

/// The event stream's shape, for [`HubBuilder::events`](crate::HubBuilder::events).
#[derive(Debug, Clone)]
pub struct EventSettings {
    partitions: NonZeroUsize,
    /// How much of each partition is kept; one day and
    /// [`limits::EVENT_PARTITION_BYTES`] by default.
    pub retention: Retention,
    /// Which events beside telemetry go to the built-in endpoint as long as there
    /// is no routing configuration; none by default, as in the cloud where nothing
    /// routes them.
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

    /// Those of a stream that events are routed to.
    pub(super) fn of_stream(stream: &StreamSettings) -> Self {
        let partitions = NonZeroUsize::new(stream.partitions).unwrap_or(NonZeroUsize::MIN);
        Self {
            retention: stream.retention,
            consumer_groups: stream
                .consumer_groups
                .iter()
                .map(|name| name.to_string())
                .collect(),
            ..Self::default().with_partitions(partitions)
        }
    }

    /// The routing without a configuration: a route to the built-in endpoint for
    /// each source, and the fallback route for telemetry.
    pub(super) fn routing(&self) -> Routing {
        let routed = |source: &&Source| **source != Source::Telemetry && self.sources.contains(**source);
        let route = |source: &Source| {
            json!({
                "name": source.name(),
                "source": source_name(*source),
                "endpointNames": [EVENTS],
            })
        };
        let routes: Vec<Value> = Source::ALL.iter().filter(routed).map(route).collect();
        let fallback = json!({ "isEnabled": true });
        // Names and sources are those of the rules themselves.
        Routing::from_json(&json!({ "routes": routes, "fallbackRoute": fallback })).unwrap_or_default()
    }
}
