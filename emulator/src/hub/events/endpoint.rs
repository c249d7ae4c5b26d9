//! One endpoint: its log, and how it is doing.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hub_core::events::{DEFAULT_GROUP, Retention, Start};
use hub_core::limits;
use hub_core::routing::{EVENTS, Endpoint as Settings, EndpointKind};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use super::health::{Health, Report};
use super::{EventReader, EventSettings, EventStream, ReadEnd};

/// An endpoint that events can be routed to.
pub(crate) struct Endpoint {
    /// Nothing for the built-in one.
    settings: Option<Settings>,
    /// The events that it got.
    pub(crate) stream: Arc<EventStream>,
    pub(crate) health: Arc<Health>,
    /// The right to pass on what is in the log: one task has it at a time, so that
    /// events keep their order where one endpoint goes on with the log of another.
    turn: Arc<Semaphore>,
    /// Ends its task.
    pub(super) stop: CancellationToken,
    /// Whether its task was started.
    pub(super) is_running: AtomicBool,
    /// Whether another endpoint goes on with the log.
    is_handed_over: AtomicBool,
}

impl Endpoint {
    pub(super) fn built_in(stream: EventStream) -> Self {
        Self::of(None, stream)
    }

    /// An endpoint of a configuration. Its log counts and tells the time as that
    /// of the built-in one does.
    pub(super) fn custom(settings: Settings, built_in: &EventStream) -> Self {
        let shape = match &settings.kind {
            EndpointKind::Stream(stream) => EventSettings::of_stream(stream),
            // One partition, so that the order over all devices is kept. Time
            // makes nothing old: what cannot be delivered waits as long as it fits.
            EndpointKind::Directory(_) | EndpointKind::Webhook(_) => {
                let mut shape = EventSettings::default().with_partitions(NonZeroUsize::MIN);
                shape.retention = Retention {
                    time: Duration::MAX,
                    bytes: limits::SINK_LOG_BYTES,
                    count: limits::SINK_LOG_EVENTS,
                };
                shape
            }
        };
        let (clock, counters) = (built_in.clock.clone(), built_in.counters.clone());
        let stream = EventStream::new(&settings.name, shape, clock, counters);
        Self::of(Some(settings), stream)
    }

    fn of(settings: Option<Settings>, stream: EventStream) -> Self {
        Self {
            settings,
            stream: Arc::new(stream),
            health: Arc::default(),
            turn: Arc::new(Semaphore::new(1)),
            stop: CancellationToken::new(),
            is_running: AtomicBool::new(false),
            is_handed_over: AtomicBool::new(false),
        }
    }

    /// An endpoint of other settings that goes on with the log of this one, if
    /// only the way is another by which events leave it.
    pub(super) fn with(&self, settings: &Settings) -> Option<Self> {
        use EndpointKind::{Directory, Webhook};
        let is_kind = matches!(
            (self.kind()?, &settings.kind),
            (Directory(_), Directory(_)) | (Webhook(_), Webhook(_))
        );
        let is_same = is_kind && self.name().eq_ignore_ascii_case(&settings.name);
        is_same.then(|| Self {
            settings: Some(settings.clone()),
            stream: self.stream.clone(),
            health: self.health.clone(),
            turn: self.turn.clone(),
            stop: CancellationToken::new(),
            is_running: AtomicBool::new(false),
            is_handed_over: AtomicBool::new(false),
        })
    }

    /// The reader of its task, which goes on where another task of this log has
    /// stopped, once it has; nothing if yet another goes on already. Waiting takes
    /// no longer than the end of a task does.
    pub(super) async fn read(&self) -> Option<(EventReader, SemaphorePermit<'_>)> {
        let turn = self.turn.acquire().await.ok()?;
        if self.is_handed_over() {
            return None;
        }
        // The only reader of its log.
        let mut reader = self.stream.open(DEFAULT_GROUP, 0, Start::Earliest, None).ok()?;
        reader.skip_to(self.health.resume());
        Some((reader, turn))
    }

    /// The name that routes use.
    pub(crate) fn name(&self) -> &str {
        self.settings.as_ref().map_or(EVENTS, |settings| &settings.name)
    }

    /// What it is; nothing for the built-in one.
    pub(crate) fn kind(&self) -> Option<&EndpointKind> {
        self.settings.as_ref().map(|settings| &settings.kind)
    }

    /// How it is doing.
    pub(crate) fn report(&self) -> Report {
        let logs = self.stream.partitions();
        match logs[..] {
            [log] if !self.is_stream() => self.health.report(&log),
            _ => self.health.report_of_stream(&logs),
        }
    }

    /// Whether readers come for its events, rather than a task of the hub's.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.kind(), None | Some(EndpointKind::Stream(_)))
    }

    /// Whether it is what these settings describe.
    pub(super) fn is(&self, settings: &Settings) -> bool {
        self.settings.as_ref() == Some(settings)
    }

    /// Says that its task starts; whether it was not started before.
    pub(super) fn starts(&self) -> bool {
        !self.is_running.swap(true, Ordering::AcqRel)
    }

    /// Ends its readers or its task: the configuration does not have it any more.
    pub(super) fn end(&self, reason: ReadEnd) {
        self.stop.cancel();
        if self.is_stream() {
            let left: u64 = self.stream.partitions().iter().map(|log| log.count).sum();
            if left > 0 {
                tracing::warn!(
                    endpoint = self.name(),
                    left,
                    "the stream ends, and its events with it"
                );
            }
            self.stream.end(reason);
        }
    }

    /// Ends its task, which passes on nothing more but what it is about to:
    /// another endpoint goes on with the log.
    pub(super) fn hand_over(&self) {
        self.is_handed_over.store(true, Ordering::Release);
        self.stop.cancel();
    }

    pub(super) fn is_handed_over(&self) -> bool {
        self.is_handed_over.load(Ordering::Acquire)
    }
}
