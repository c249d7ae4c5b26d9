//! Message routing: which endpoints a message goes to, and what is added to it
//! on the way.
//!
//! ```text
//! JSON --config--> Routing
//!
//! Routing + Message --decide-->   Decision: routes, endpoints
//!                   --enrich-->   the properties for one endpoint
//!                   --explain-->  the same, and why
//! ```
//!
//! A [`Routing`] is checked when it is made; its conditions are compiled once,
//! by [`crate::query`], and grouped by source. A [`Message`] borrows what the
//! hub has at hand when it keeps an event. Body and twin are looked at only if
//! a condition that is evaluated asks for them. Nothing here delivers anything,
//! counts, or knows how endpoints work. Sources: the developer guide's pages on
//! message routing, its query syntax and enrichments, and the REST reference of
//! the hub's resource.
//!
//! # The configuration
//!
//! It has the form of `properties.routing` in the hub's resource and may stand
//! alone, as `{"routing": …}`, or in the whole resource. Only endpoints differ:
//! lists of the cloud's kinds may be there if they are empty. Everything may be
//! left out; an unknown member is refused. Names have 1 to 64 ASCII letters,
//! digits, `.`, `_` or `-`, and are unique whatever their case.
//!
//! | member of `endpoints` | what its items have beside `name` |
//! |---|---|
//! | `streams` | `partitions` (1 to 32, 4), `retention` (1s to 7d, 1d), `retentionBytes` of a partition (64MiB), `retentionCount` of a partition (no bound), `consumerGroups` beside `$Default` |
//! | `directories` | `path`, `maxFileBytes` (1KiB to 1GiB, 10MiB), `maxFiles` (1 to 100,000, 100) |
//! | `webhooks` | `url` (http or https), `batchCount` (1 to 1000, 100), `batchWait` (0 to 1m, 0), `timeout` (10ms to 5m, 10s) |
//!
//! Durations are numbers of seconds or texts such as `250ms` and `1.5h`; sizes
//! are numbers of bytes or texts such as `64KiB`. At most 10 endpoints, and
//! `events` is the built-in one. No stream is called `messages` or `devices`.
//!
//! | member | of an item of `routes` (at most 100) |
//! |---|---|
//! | `name` | its name |
//! | `source` | `DeviceMessages`, `TwinChangeEvents`, `DeviceLifecycleEvents`, `DeviceJobLifecycleEvents`, `DeviceConnectionStateEvents` or `DigitalTwinChangeEvents` |
//! | `condition` | which messages; all of them if it is missing or empty |
//! | `endpointNames` | exactly one name |
//! | `isEnabled` | true if it is missing |
//!
//! `fallbackRoute` has the same members. It takes the `DeviceMessages` that no
//! route takes and leads to `events`. It is on if it is missing, as `isEnabled`
//! is; `{"isEnabled": false}` turns it off.
//!
//! `enrichments` (at most 10) have a `key`, `endpointNames`, and a `value`: a
//! literal, `$iothubname`, `$twin.tags.…`, `$twin.properties.desired.…` or
//! `$twin.properties.reported.…`. What leads to nothing, or to no string, number
//! or boolean, is stamped as it is written. A property that has the key already
//! is overwritten. Events of digital twins are not enriched.
//!
//! ```
//! use hub_core::events::Source;
//! use hub_core::routing::{Routing, Trial};
//! use hub_core::time::Timestamp;
//! use serde_json::json;
//!
//! let routing = Routing::from_json(&json!({
//!     "endpoints": {"streams": [{"name": "alerts", "partitions": 1}]},
//!     "routes": [{
//!         "name": "hot",
//!         "source": "DeviceMessages",
//!         "condition": "level = 'critical' OR $body.temperature > 60",
//!         "endpointNames": ["alerts"],
//!     }],
//!     "fallbackRoute": {"isEnabled": true},
//! }))
//! .unwrap();
//! assert!(!routing.wants(Source::TwinChange));
//!
//! let test = Trial::from_json(&json!({"message": {"body": {"temperature": 61}}})).unwrap();
//! let decision = routing.decide(&test.message(Timestamp::NEVER));
//! let names: Vec<&str> = decision.endpoints.iter().map(|id| routing.endpoint_name(id)).collect();
//! assert_eq!(names, ["alerts"]);
//! ```
//!
//! # Conditions
//!
//! They are a dialect of the query language ([`crate::query::Dialect::Routing`]):
//! `AND`, `OR`, `NOT` (as tight as a minus sign: write `NOT (a = 'x')`),
//! comparisons, arithmetic, `||`, `??` (loosest of all: write `(a ?? 'x') = 'x'`),
//! `/* comments */`, and the functions ABS, AS_NUMBER, CEILING, CONCAT, CONTAINS,
//! ENDS_WITH, EXP, FLOOR, INDEX_OF, IS_ARRAY, IS_BOOL, IS_DEFINED, IS_NULL,
//! IS_NUMBER, IS_OBJECT, IS_PRIMITIVE, IS_STRING, LENGTH, LOWER, POWER, SIGN, SQRT,
//! SQUARE, STARTS_WITH, SUBSTRING, UPPER and, for `TwinChangeEvents`,
//! TWIN_CHANGE_INCLUDES(path).
//!
//! | name | what it stands for |
//! |---|---|
//! | `level` | an application property, always a string; its name has no case |
//! | `$contentType` | a system property ([`SystemReference`](crate::query::SystemReference)), or an application property of that name where the message does not have it |
//! | `{$contentType}` | the system property and nothing else |
//! | `$body.a[0].b` | a place in the body, if content type and content encoding say that it is JSON |
//! | `$twin.tags.a`, `$twin.properties.desired.a`, `$twin.properties.reported.a` | a place in the twin of the sender; a module's own for a module |
//!
//! Only what is true is routed. What compares a property with a number can never
//! be true and is refused, as the service does; the body and the twin have values
//! of any type, and comparing two types there is undefined.

mod body;
mod config;
mod endpoint;
mod enrichment;
mod evaluation;
mod explain;
mod message;
mod properties;
mod reader;
mod set;
mod sieve;
mod trial;

use serde_json::Value;

pub use endpoint::{DirectorySettings, Endpoint, EndpointKind, StreamSettings, WebhookSettings};
pub use enrichment::{Enrichment, Oversized};
pub use explain::{EndpointOutcome, Explanation, RouteOutcome, Verdict};
pub use message::{Message, SenderTwin};
pub use set::{Decision, EndpointId, EndpointSet, RouteSet};
pub use trial::Trial;

use crate::error::ServiceError;
use crate::events::Source;
use crate::property_bag::Bag;
use crate::query::{Condition, QueryError};
use evaluation::{Evaluation, Lookups, Slot};
use sieve::Sieve;

/// Name of the built-in endpoint.
pub const EVENTS: &str = "events";

/// A routing configuration that can be acted upon.
///
/// [`Routing::default`] is that of a hub for which nothing was configured:
/// telemetry goes to the built-in endpoint by the fallback route.
#[derive(Debug, Clone)]
pub struct Routing {
    endpoints: Vec<Endpoint>,
    routes: Vec<Route>,
    fallback: Fallback,
    enrichments: Vec<Enrichment>,
    /// The enabled routes of each source, by [`Source`]'s numbers.
    by_source: Box<[(Sieve, Box<[Compiled]>)]>,
    compiled_fallback: Option<Condition<Slot>>,
    lookups: Lookups,
}

/// A route that is enabled, ready to be evaluated.
#[derive(Debug, Clone)]
struct Compiled {
    /// Its place among all routes.
    place: u8,
    endpoint: EndpointId,
    condition: Condition<Slot>,
}

/// A route: which messages go to an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Its name, unique in the hub: 1 to 64 ASCII letters, digits, `.`, `_` or `-`.
    pub name: Box<str>,
    /// Which messages it is for.
    pub source: Source,
    /// Which of these it takes.
    pub condition: RouteCondition,
    /// Where they go.
    pub endpoint: EndpointId,
    /// Whether it is in force.
    pub is_enabled: bool,
}

/// The route of telemetry that no other route takes, to the built-in endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Fallback {
    name: Option<Box<str>>,
    /// Which messages it takes; all of them, if nothing else is said.
    pub condition: RouteCondition,
    /// Whether it is in force.
    pub is_enabled: bool,
}

impl Fallback {
    /// Its name, `$fallback` if it was given none.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("$fallback")
    }
}

/// A route's condition: the text as it was written, and what it means.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteCondition {
    text: Box<str>,
    condition: Condition,
}

impl RouteCondition {
    /// Reads the condition of a route with this source; an empty text is true.
    ///
    /// # Errors
    /// Those of [`Condition::parse`].
    pub fn parse(text: &str, source: Source) -> Result<Self, QueryError> {
        Ok(Self {
            text: text.into(),
            condition: Condition::parse(text, source)?,
        })
    }

    /// The text as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it is the constant `true`, however that is written.
    #[must_use]
    pub fn is_always(&self) -> bool {
        self.condition.is_always()
    }
}

/// Why a configuration, or a message to try it with, is refused, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct RoutingError {
    /// Where in the configuration, as `routes[2] "alerts"`.
    pub place: String,
    /// What is wrong there.
    pub reason: String,
    /// The fault of a condition, with its line and column.
    pub condition: Option<QueryError>,
}

impl RoutingError {
    fn new(place: String, reason: &str) -> Self {
        Self {
            place,
            reason: reason.to_owned(),
            condition: None,
        }
    }
}

/// A refused configuration is the caller's invalid argument.
impl From<RoutingError> for ServiceError {
    fn from(error: RoutingError) -> Self {
        Self::invalid(error.to_string())
    }
}

/// A source by the name that routes have for it, in any case.
fn source_from_name(name: &str) -> Option<Source> {
    Source::ALL
        .iter()
        .copied()
        .find(|source| source_name(*source).eq_ignore_ascii_case(name))
}

/// The name that routes have for a source.
#[must_use]
pub fn source_name(source: Source) -> &'static str {
    match source {
        Source::Telemetry => "DeviceMessages",
        Source::TwinChange => "TwinChangeEvents",
        Source::DeviceLifecycle => "DeviceLifecycleEvents",
        Source::DeviceJobLifecycle => "DeviceJobLifecycleEvents",
        Source::DeviceConnectionState => "DeviceConnectionStateEvents",
        Source::DigitalTwinChange => "DigitalTwinChangeEvents",
    }
}

impl Default for Fallback {
    /// In force for all telemetry: what a configuration does not mention is not
    /// taken away.
    fn default() -> Self {
        Self {
            name: None,
            condition: RouteCondition {
                text: "true".into(),
                condition: Condition::always(),
            },
            is_enabled: true,
        }
    }
}

impl Default for Routing {
    fn default() -> Self {
        Self::new(Vec::new(), Vec::new(), Fallback::default(), Vec::new())
    }
}

impl Routing {
    /// Reads a configuration, alone or as `{"routing": …}` or
    /// `{"properties": {"routing": …}}`.
    ///
    /// # Errors
    /// Says what is wrong and where: unknown members, wrong types, names that are
    /// illegal, doubled or of nothing, conditions that cannot be parsed, and what
    /// exceeds [`limits`](crate::limits).
    pub fn from_json(value: &Value) -> Result<Self, RoutingError> {
        config::read(value)
    }

    /// The configuration as `{"endpoints": …, "routes": …, "fallbackRoute": …,
    /// "enrichments": …}`, everything written out.
    #[must_use]
    pub fn to_json(&self) -> Value {
        config::write(self)
    }

    fn new(
        endpoints: Vec<Endpoint>,
        routes: Vec<Route>,
        fallback: Fallback,
        enrichments: Vec<Enrichment>,
    ) -> Self {
        let mut lookups = Lookups::default();
        let mut by_source: Vec<Vec<Compiled>> = Source::ALL.iter().map(|_| Vec::new()).collect();
        for (place, route) in routes.iter().enumerate().filter(|(_, route)| route.is_enabled) {
            let group = by_source.get_mut(route.source as usize);
            if let (Some(group), Ok(place)) = (group, u8::try_from(place)) {
                group.push(Compiled {
                    place,
                    endpoint: route.endpoint,
                    condition: lookups.compile(&route.condition.condition),
                });
            }
        }
        let compiled_fallback = fallback
            .is_enabled
            .then(|| lookups.compile(&fallback.condition.condition));
        Self {
            endpoints,
            routes,
            fallback,
            enrichments,
            by_source: by_source
                .into_iter()
                .map(|routes| (Sieve::new(&routes), routes.into_boxed_slice()))
                .collect(),
            compiled_fallback,
            lookups,
        }
    }

    /// The endpoints beside the built-in one.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The routes in their order, without the fallback route.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// The fallback route.
    #[must_use]
    pub fn fallback(&self) -> &Fallback {
        &self.fallback
    }

    /// The enrichments in their order.
    #[must_use]
    pub fn enrichments(&self) -> &[Enrichment] {
        &self.enrichments
    }

    /// The name of an endpoint; empty for one that this configuration does not have.
    #[must_use]
    pub fn endpoint_name(&self, endpoint: EndpointId) -> &str {
        match endpoint.place() {
            None => EVENTS,
            Some(place) => self.endpoints.get(place).map_or("", |endpoint| &endpoint.name),
        }
    }

    /// The endpoint of a name, in any case.
    #[must_use]
    pub fn endpoint_id(&self, name: &str) -> Option<EndpointId> {
        if name.eq_ignore_ascii_case(EVENTS) {
            return Some(EndpointId::EVENTS);
        }
        let place = self
            .endpoints
            .iter()
            .position(|endpoint| endpoint.name.eq_ignore_ascii_case(name))?;
        EndpointId::custom(place)
    }

    /// Whether a message of this source can go anywhere: an enabled route has it,
    /// or the fallback route, which is for telemetry.
    #[must_use]
    pub fn wants(&self, source: Source) -> bool {
        let is_routed = !self.compiled(source).is_empty();
        is_routed || source == Source::Telemetry && self.fallback.is_enabled
    }

    /// The enabled routes of a source.
    fn compiled(&self, source: Source) -> &[Compiled] {
        self.by_source
            .get(source as usize)
            .map_or(&[], |(_, routes)| routes)
    }

    /// Where a message goes. Each enabled route of its source is evaluated, unless
    /// it plainly cannot hold; the fallback route takes telemetry that none of them takes.
    #[must_use]
    pub fn decide(&self, message: &Message<'_>) -> Decision {
        let evaluation = Evaluation::new(&self.lookups, message);
        let mut decision = Decision::default();
        if let Some((sieve, routes)) = self.by_source.get(message.source as usize) {
            let mut candidates = sieve.candidates(&evaluation);
            while let Some(route) = routes.get(candidates.trailing_zeros() as usize) {
                candidates &= candidates - 1;
                if route.condition.outcome(&evaluation) == Some(true) {
                    decision.routes.insert(route.place);
                    decision.endpoints.insert(route.endpoint);
                }
            }
        }
        if let (Source::Telemetry, true, Some(fallback)) = (
            message.source,
            decision.routes.is_empty(),
            &self.compiled_fallback,
        ) && fallback.outcome(&evaluation) == Some(true)
        {
            decision.endpoints = EndpointSet::EVENTS;
            decision.fallback = true;
        }
        decision
    }

    /// The enrichments of messages to an endpoint.
    pub fn enrichments_for(&self, endpoint: EndpointId) -> impl Iterator<Item = &Enrichment> {
        self.enrichments
            .iter()
            .filter(move |enrichment| enrichment.endpoints.contains(endpoint))
    }

    /// The properties of a message on its way to an endpoint, if that adds any;
    /// `None` means that the message goes as it is.
    ///
    /// # Errors
    /// When the message would exceed the greatest size: it is dropped for this
    /// endpoint.
    pub fn enrich(
        &self,
        endpoint: EndpointId,
        message: &Message<'_>,
        hub_name: &str,
    ) -> Result<Option<Bag<'static>>, Oversized> {
        enrichment::enrich(self.enrichments_for(endpoint), message, hub_name)
    }

    /// What [`Routing::decide`] and [`Routing::enrich`] would do with a message,
    /// and why.
    #[must_use]
    pub fn explain(&self, message: &Message<'_>, hub_name: &str) -> Explanation {
        explain::explain(self, message, hub_name)
    }
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
