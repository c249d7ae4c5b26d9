//! Events: telemetry and what the hub itself reports of its devices, on their
//! way to the endpoints that back ends read.
//!
//! Whoever accepts a message or changes a device appends here, before the
//! sender is answered; a change of a device appends under that device's lock, so
//! that its events have the order of its changes. [`Events::append`] asks the
//! routing where an event goes and keeps it there: each endpoint is a log of its
//! own ([`stream`]), the built-in one among them, so that no endpoint holds up a
//! device or another endpoint. Streams are read over AMQP at the readers' pace;
//! what directories and webhooks get, tasks of theirs ([`sinks`]) read from their
//! logs. The rules are in `hub_core::events` and `hub_core::routing`; how events
//! travel is for the protocols.

mod endpoint;
mod health;
pub(crate) mod journal;
pub(crate) mod json;
mod presence;
mod reader;
mod routes;
mod settings;
mod sinks;
mod stream;
pub(crate) mod tally;

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use hub_core::events::{ConnectionChange, ConnectionSequence, Notice, Notification, Origin, Source};
use hub_core::ids::Target;
use hub_core::property_bag::Bag;
use hub_core::routing::{Message, Routing, RoutingError, SenderTwin};
use hub_core::time::Timestamp;
use hub_core::twin::Twin;
use job_service::Clock;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use endpoint::Endpoint;
use journal::{Happening, Journal, Kind, RouteNames};
pub(crate) use presence::Presence;
pub use reader::{EventReader, OpenError, ReadEnd};
use routes::Routes;
pub(crate) use routes::check_names;
pub use settings::EventSettings;
pub(crate) use sinks::ORIGIN;
pub(crate) use stream::EventStream;
use tally::Totals;

use super::counters::Counters;
use super::row::SectionsRow;

/// All endpoints, and the way to them.
pub(crate) struct Events {
    hub_name: Box<str>,
    /// Tells this hub from others, on requests to webhooks.
    instance: String,
    clock: Clock,
    counters: Arc<Counters>,
    built_in: Arc<Endpoint>,
    /// What is in force when nobody has changed it.
    initial: Routing,
    routes: RwLock<Arc<Routes>>,
    /// The sources that are wanted, a bit for each, and [`DIRECT`]; follows
    /// `routes`. In one place, so that nobody sees the one of one configuration
    /// and the other of another.
    wanted: AtomicU8,
    connections: Mutex<ConnectionSequence>,
    /// Where the tasks of endpoints run, once the hub does.
    tasks: OnceLock<Tasks>,
    /// What happens, for those who watch.
    pub(crate) journal: Arc<Journal>,
    /// How many events of each kind there were.
    pub(crate) totals: Totals,
}

/// Where tasks run, and how they learn that the hub stops.
#[derive(Clone)]
struct Tasks {
    tracker: TaskTracker,
    /// The hub's, since a configuration may come from a thread that has none.
    runtime: Handle,
    stop: CancellationToken,
}

impl Tasks {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn_on(task, &self.runtime);
    }
}

impl Events {
    /// The endpoints of a routing configuration, without one those of
    /// [`EventSettings::sources`]. [`check_names`] has passed it.
    pub(crate) fn new(
        settings: EventSettings,
        routing: Option<Routing>,
        host_name: &str,
        clock: Clock,
        counters: Arc<Counters>,
    ) -> Self {
        let hub_name = hub_name(host_name);
        let initial = routing.unwrap_or_else(|| settings.routing());
        let stream = EventStream::new(hub_name, settings, clock.clone(), counters.clone());
        let built_in = Arc::new(Endpoint::built_in(stream));
        let (routes, _) = Routes::replace(None, initial.clone(), &built_in);
        let events = Self {
            hub_name: hub_name.into(),
            instance: uuid::Uuid::new_v4().to_string(),
            journal: Arc::new(Journal::new(clock.clone())),
            totals: Totals::default(),
            clock,
            counters,
            built_in,
            initial,
            wanted: AtomicU8::new(0),
            routes: RwLock::new(Arc::new(routes)),
            connections: Mutex::default(),
            tasks: OnceLock::new(),
        };
        events.follow(&events.routes());
        events
    }

    /// Lets the tasks of endpoints run, now and when others are configured. Must
    /// be called on the hub's runtime.
    pub(crate) fn start(&self, tracker: &TaskTracker, stop: &CancellationToken) {
        let tasks = Tasks {
            tracker: tracker.clone(),
            runtime: Handle::current(),
            stop: stop.clone(),
        };
        // A hub starts once.
        let tasks = self.tasks.get_or_init(|| tasks);
        self.run(&self.routes(), tasks);
    }

    /// The hub's name, which is also the Event-Hub-compatible name of the built-in
    /// endpoint: the first label of the host name.
    pub(crate) fn hub_name(&self) -> &str {
        &self.hub_name
    }

    /// The mark on the requests to its webhooks, in the header [`ORIGIN`].
    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// The log of the built-in endpoint.
    pub(crate) fn built_in(&self) -> &Arc<EventStream> {
        &self.built_in.stream
    }

    /// The log that readers call by this name, in any case: the hub's name stands
    /// for the built-in endpoint, that of a stream for the stream.
    pub(crate) fn stream(&self, name: &str) -> Option<Arc<EventStream>> {
        if name.eq_ignore_ascii_case(&self.hub_name) {
            return Some(self.built_in().clone());
        }
        self.routes().stream(name).cloned()
    }

    /// Every endpoint, the built-in one first.
    pub(crate) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        let mut all = vec![self.built_in.clone()];
        all.extend(self.routes().endpoints().iter().cloned());
        all
    }

    /// The endpoint of a name that routes use, in any case.
    pub(crate) fn endpoint(&self, name: &str) -> Option<Arc<Endpoint>> {
        let routes = self.routes();
        let id = routes.routing().endpoint_id(name)?;
        routes.endpoint(id).cloned()
    }

    /// The configuration and the endpoints that are in force.
    pub(crate) fn routes(&self) -> Arc<Routes> {
        self.read_routes().clone()
    }

    fn read_routes(&self) -> RwLockReadGuard<'_, Arc<Routes>> {
        self.routes.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a configuration into force. Endpoints that are in both, with the same
    /// settings, go on as they are, and what waits for directories and webhooks
    /// goes where they lead now; readers of others end.
    ///
    /// # Errors
    /// As [`check_names`]; nothing has changed then.
    pub(crate) fn set_routing(&self, routing: Routing) -> Result<(), RoutingError> {
        check_names(&routing, &self.hub_name)?;
        self.replace(Some(routing));
        Ok(())
    }

    /// Puts a configuration into force, or the first one with all of its
    /// endpoints made anew.
    fn replace(&self, routing: Option<Routing>) {
        let (former, routes) = {
            let mut current = self.routes.write().unwrap_or_else(PoisonError::into_inner);
            let former = routing.is_some().then_some(&**current);
            let routing = routing.unwrap_or_else(|| self.initial.clone());
            let (routes, mut gone) = Routes::replace(former, routing, &self.built_in);
            let mut change = ReadEnd::EndpointChanged;
            if former.is_none() {
                gone = current.endpoints().to_vec();
                change = ReadEnd::Reset;
            }
            let routes = Arc::new(routes);
            let former = std::mem::replace(&mut *current, routes.clone());
            // Under the lock, so that the last to replace it is also the one
            // that is followed.
            self.follow(&routes);
            former.leave(gone.into_iter().map(|endpoint| {
                // Readers come back to a stream that still has its name.
                let stays = routes.stream(endpoint.name()).is_some();
                let reason = if stays { change } else { ReadEnd::EndpointGone };
                let ends = !routes.goes_on_with(&endpoint);
                (endpoint, ends.then_some(reason))
            }));
            (former, routes)
        };
        // Outside the lock; whoever still delivers by it is the last to let go.
        drop(former);
        if let Some(tasks) = self.tasks.get() {
            self.run(&routes, tasks);
        }
    }

    /// Starts the tasks of endpoints that have none yet.
    fn run(&self, routes: &Routes, tasks: &Tasks) {
        for endpoint in routes.endpoints() {
            sinks::spawn(endpoint, &self.clock, &self.instance, tasks);
        }
    }

    fn follow(&self, routes: &Routes) {
        let direct = if routes.is_direct() { DIRECT } else { 0 };
        let wanted = Source::ALL
            .iter()
            .filter(|source| routes.routing().wants(**source))
            .fold(direct, |all, source| all | bit(*source));
        self.wanted.store(wanted, Ordering::Release);
    }

    /// Keeps a message wherever it goes and shows it to those who watch. When
    /// this returns, readers can see it. `twin` is the way to the twin of whom it
    /// is from or about. Gives whether it goes anywhere.
    pub(crate) fn append(
        &self,
        source: Source,
        origin: &Arc<Origin>,
        bag: &Bag<'_>,
        body: &[u8],
        now: Timestamp,
        twin: &dyn SenderTwin,
    ) -> bool {
        let (mut names, mut is_taken) = (None, true);
        // Whoever watches is told the routes, which only the long way knows.
        let is_watched = self.journal.is_active();
        let short_way = DIRECT | bit(source);
        if !is_watched && self.wanted.load(Ordering::Acquire) & short_way == short_way {
            self.built_in.stream.append(source, origin, bag, body, now);
        } else {
            let message = Message {
                source,
                origin,
                bag,
                body,
                enqueued: now,
                twin: Some(twin),
            };
            let routes = self.routes();
            let decision = routes.deliver(&message, origin, &self.hub_name);
            is_taken = !decision.endpoints.is_empty();
            if !is_taken {
                self.counters.events_orphaned.add(1);
            }
            if is_watched {
                names = Some(routes.names(&decision));
            }
        }
        self.show(source, origin, bag, body, now, names.as_ref());
        is_taken
    }

    /// Shows a message to those who watch; `routes` are those that it took.
    fn show(
        &self,
        source: Source,
        origin: &Arc<Origin>,
        bag: &Bag<'_>,
        body: &[u8],
        at: Timestamp,
        routes: Option<&RouteNames>,
    ) {
        if source == Source::DeviceConnectionState {
            // Connections are shown as they begin and end.
            return;
        }
        self.journal.record(&Happening {
            kind: Kind::from(source),
            operation: "",
            origin: Some(origin),
            bag,
            body,
            routes,
            at,
        });
    }

    /// Whether a route has events of this source.
    pub(crate) fn keeps(&self, source: Source) -> bool {
        self.wanted.load(Ordering::Acquire) & bit(source) != 0
    }

    /// Whether events of this source are to be made: a route has them, or
    /// somebody watches.
    pub(crate) fn wants(&self, source: Source) -> bool {
        self.keeps(source) || self.journal.is_active()
    }

    /// Keeps an event of the hub itself and shows it to those who watch, as far
    /// as its source is wanted; `make` is called only then. `twin` is the way to
    /// the twin of whom it is about.
    pub(crate) fn notify(
        &self,
        source: Source,
        target: &Target,
        twin: &dyn SenderTwin,
        now: Timestamp,
        make: impl FnOnce(&Notice<'_>) -> Notification,
    ) {
        if !self.wants(source) {
            return;
        }
        let (origin, notification) = self.made(target, now, make);
        let bag = Bag::from(&notification.properties);
        let (source, body) = (notification.source, &notification.body);
        if self.keeps(source) {
            if self.append(source, &origin, &bag, body, now, twin) {
                self.counters.events_emitted.add(1);
            }
        } else {
            self.show(source, &origin, &bag, body, now, None);
        }
    }

    fn made(
        &self,
        target: &Target,
        at: Timestamp,
        make: impl FnOnce(&Notice<'_>) -> Notification,
    ) -> (Arc<Origin>, Notification) {
        let notification = make(&Notice {
            hub_name: &self.hub_name,
            target,
            at,
            correlation_id: &uuid::Uuid::new_v4().to_string(),
        });
        let origin = Arc::new(Origin {
            target: target.clone(),
            sender: None,
        });
        (origin, notification)
    }

    /// Shows those who watch that a connection begins or ends. Connection state
    /// events are for routes only: they have their own rule for when a device is
    /// there, and whether any route wants them may change meanwhile.
    pub(crate) fn show_connection(&self, target: &Target, change: ConnectionChange) {
        if !self.journal.is_active() {
            return;
        }
        let now = self.clock.now();
        let (origin, notification) =
            self.made(target, now, |notice| self.connection_notice(notice, change, now));
        let bag = Bag::from(&notification.properties);
        self.journal.record(&Happening {
            kind: Kind::Connection,
            operation: "",
            origin: Some(&origin),
            bag: &bag,
            body: &notification.body,
            routes: None,
            at: now,
        });
    }

    fn connection_notice(
        &self,
        notice: &Notice<'_>,
        change: ConnectionChange,
        now: Timestamp,
    ) -> Notification {
        let mut numbers = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        notice.connection(change, &numbers.next(now))
    }

    fn notify_connection(&self, target: &Target, twin: &Twin, change: ConnectionChange) {
        if !self.keeps(Source::DeviceConnectionState) {
            return;
        }
        let now = self.clock.now();
        self.notify(
            Source::DeviceConnectionState,
            target,
            &SectionsRow(twin),
            now,
            |notice| self.connection_notice(notice, change, now),
        );
    }

    /// Forgets all events, the consumer groups that were made meanwhile and any
    /// other configuration than the first; readers end.
    pub(crate) fn clear(&self) {
        self.replace(None);
        self.built_in.stream.clear();
        self.built_in.health.clear();
        self.journal.clear();
        self.totals.reset();
    }
}

/// The hub's name: the first label of its host name.
pub(crate) fn hub_name(host_name: &str) -> &str {
    host_name.split('.').next().unwrap_or_default()
}

/// Beside the sources that are wanted: all of them go to the built-in endpoint as
/// they are, and nothing of the routes needs to be looked at.
const DIRECT: u8 = 1 << 7;
const _: () = assert!(Source::ALL.len() < 8, "a bit for each source, and one for DIRECT");

/// A source's place in a set.
fn bit(source: Source) -> u8 {
    1 << source as u8
}

#[cfg(test)]
mod tests;
