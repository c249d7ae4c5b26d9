//! What becomes of a message, and why: for people who try a configuration.

use serde_json::{Map, Value as Json, json};

use super::evaluation::{Evaluation, Slot};
use super::message::Message;
use super::set::{Decision, EndpointId};
use super::{EVENTS, RouteCondition, Routing, enrichment};
use crate::events::Source;
use crate::query::{Condition, Row, Value};

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
    /// The name of its endpoint.
    pub endpoint: String,
    /// Whether it takes the message, or why not.
    pub verdict: Verdict,
}

/// Whether a route takes a message, or why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Matched,
    /// The route is not enabled.
    Disabled,
    /// The route is for another source.
    OtherSource,
    /// The condition is false.
    False,
    /// The condition is neither true nor false.
    Undefined {
        /// The first name in it that has no value, as it is written; `None` when
        /// all have one, but of a type that does not suit.
        reference: Option<String>,
        /// Why it has none, where that is not plain from the name.
        reason: Option<String>,
    },
    /// The fallback route is not asked: another route takes the message.
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
    let routes = routing.routes.iter().enumerate().map(|(place, route)| {
        let verdict = if !route.is_enabled {
            Verdict::Disabled
        } else if route.source != message.source {
            Verdict::OtherSource
        } else {
            let compiled = routing.compiled(message.source).iter();
            compiled
                .filter(|compiled| usize::from(compiled.place) == place)
                .map(|compiled| verdict(&route.condition, &compiled.condition, &evaluation))
                .next()
                .unwrap_or(Verdict::Disabled)
        };
        RouteOutcome {
            name: route.name.to_string(),
            endpoint: routing.endpoint_name(route.endpoint).to_owned(),
            verdict,
        }
    });
    let endpoints = decision.endpoints.iter().map(|endpoint| {
        let enriched = enrichment::values(routing.enrichments_for(endpoint), message, hub_name);
        EndpointOutcome {
            endpoint,
            name: routing.endpoint_name(endpoint).to_owned(),
            is_dropped: routing.enrich(endpoint, message, hub_name).is_err(),
            enrichments: enriched
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
        }
    });
    Explanation {
        decision,
        routes: routes.collect(),
        fallback: RouteOutcome {
            name: routing.fallback.name().to_owned(),
            endpoint: EVENTS.to_owned(),
            verdict: fallback_verdict(routing, message, decision, &evaluation),
        },
        endpoints: endpoints.collect(),
    }
}

fn fallback_verdict(
    routing: &Routing,
    message: &Message<'_>,
    decision: Decision,
    evaluation: &Evaluation<'_>,
) -> Verdict {
    match &routing.compiled_fallback {
        None => Verdict::Disabled,
        _ if message.source != Source::Telemetry => Verdict::OtherSource,
        _ if !decision.routes.is_empty() => Verdict::NotNeeded,
        Some(compiled) => verdict(&routing.fallback.condition, compiled, evaluation),
    }
}

fn verdict(written: &RouteCondition, compiled: &Condition<Slot>, evaluation: &Evaluation<'_>) -> Verdict {
    match compiled.outcome(evaluation) {
        Some(true) => return Verdict::Matched,
        Some(false) => return Verdict::False,
        None => {}
    }
    // The names of both are in the same order.
    let names = written
        .condition
        .references()
        .into_iter()
        .zip(compiled.references());
    let mut undefined = names.filter(|(_, slot)| evaluation.get(slot) == Value::Undefined);
    let first = undefined.next();
    Verdict::Undefined {
        reference: first.map(|(reference, _)| reference.to_string()),
        reason: first.and_then(|(_, slot)| evaluation.why_undefined(slot)),
    }
}

impl Explanation {
    /// The explanation as a dry run shows it: `routes` and `fallbackRoute` with
    /// `name`, `endpoint`, `matched` and, if not, `reason`; `endpoints` with
    /// `name`, the `enrichments` and `dropped`.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let endpoint = |outcome: &EndpointOutcome| {
            let properties = outcome.enrichments.iter();
            let enrichments: Map<String, Json> = properties
                .map(|(key, value)| (key.clone(), json!(value)))
                .collect();
            json!({ "name": outcome.name, "enrichments": enrichments, "dropped": outcome.is_dropped })
        };
        json!({
            "routes": self.routes.iter().map(RouteOutcome::to_json).collect::<Vec<_>>(),
            "fallbackRoute": self.fallback.to_json(),
            "endpoints": self.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        })
    }
}

impl RouteOutcome {
    fn to_json(&self) -> Json {
        let mut outcome = json!({
            "name": self.name,
            "endpoint": self.endpoint,
            "matched": self.verdict == Verdict::Matched,
        });
        if let Some(reason) = self.verdict.reason() {
            outcome["reason"] = reason.into();
        }
        outcome
    }
}

impl Verdict {
    /// Why a route does not take the message, for people; `None` when it does.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        Some(match self {
            Self::Matched => return None,
            Self::Disabled => "the route is not enabled".into(),
            Self::OtherSource => "the route is for another source".into(),
            Self::False => "the condition is false".into(),
            Self::NotNeeded => "another route takes the message".into(),
            Self::Undefined { reference, reason } => {
                let what = match reference {
                    None => "the condition is undefined: operands of different types".into(),
                    Some(name) => format!("the condition is undefined: {name} has no value"),
                };
                match reason {
                    None => what,
                    Some(reason) => format!("{what}, {reason}"),
                }
            }
        })
    }
}
