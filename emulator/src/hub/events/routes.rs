//! A routing configuration in force: where an event goes, and the endpoints
//! that keep it.

use std::sync::{Arc, Mutex, PoisonError};

use hub_core::events::Origin;
use hub_core::routing::{Decision, EndpointId, Message, Routing, RoutingError};

use super::endpoint::Endpoint;
use super::journal::RouteNames;
use super::{EventStream, ReadEnd};

/// A configuration with its endpoints. It never changes: another one takes its
/// place.
pub(crate) struct Routes {
    routing: Routing,
    /// The names of its routes, in their order, and of the fallback route.
    names: Box<[Arc<str>]>,
    built_in: Arc<Endpoint>,
    /// In the places that they have in the configuration.
    endpoints: Vec<Arc<Endpoint>>,
    /// What ends with this configuration, and why (nothing where another endpoint
    /// goes on with the log): once nobody delivers by it any
    /// more, so that what was accepted under it is not lost between two.
    leaving: Mutex<Vec<(Arc<Endpoint>, Option<ReadEnd>)>>,
}

impl Drop for Routes {
    fn drop(&mut self) {
        let leaving = self.leaving.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (endpoint, reason) in leaving.drain(..) {
            match reason {
                Some(reason) => endpoint.end(reason),
                None => endpoint.hand_over(),
            }
        }
    }
}

/// Checks what the rules of a configuration cannot know: readers call the
/// built-in endpoint by the hub's name.
///
/// # Errors
/// Names the stream that has this name.
pub(crate) fn check_names(routing: &Routing, hub_name: &str) -> Result<(), RoutingError> {
    let taken = |endpoint: &&hub_core::routing::Endpoint| endpoint.name.eq_ignore_ascii_case(hub_name);
    match routing.endpoints().iter().find(taken) {
        None => Ok(()),
        Some(endpoint) => Err(RoutingError {
            place: format!("endpoints, {:?}", endpoint.name),
            reason: "the hub's own name is that of the built-in endpoint for its readers".into(),
            condition: None,
        }),
    }
}

impl Routes {
    /// A configuration, with the endpoints of a former one that are the same in
    /// this, and others that go on with the logs of former ones; also gives the
    /// former one's that are not in this.
    pub(super) fn replace(
        former: Option<&Self>,
        routing: Routing,
        built_in: &Arc<Endpoint>,
    ) -> (Self, Vec<Arc<Endpoint>>) {
        let mut gone = former.map_or_else(Vec::new, |former| former.endpoints.clone());
        let endpoints = routing
            .endpoints()
            .iter()
            .map(
                |settings| match gone.iter().position(|endpoint| endpoint.is(settings)) {
                    Some(at) => gone.swap_remove(at),
                    None => Arc::new(
                        gone.iter()
                            .find_map(|endpoint| endpoint.with(settings))
                            .unwrap_or_else(|| Endpoint::custom(settings.clone(), &built_in.stream)),
                    ),
                },
            )
            .collect();
        let fallback = routing.fallback().name();
        let names = routing.routes().iter().map(|route| &*route.name);
        let routes = Self {
            names: names.chain([fallback]).map(Arc::from).collect(),
            routing,
            built_in: built_in.clone(),
            endpoints,
            leaving: Mutex::default(),
        };
        (routes, gone)
    }

    /// Another configuration has taken the place of this: these endpoints end
    /// with it.
    pub(super) fn leave(&self, endpoints: impl Iterator<Item = (Arc<Endpoint>, Option<ReadEnd>)>) {
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        leaving.extend(endpoints);
    }

    pub(crate) fn routing(&self) -> &Routing {
        &self.routing
    }

    /// The endpoints beside the built-in one.
    pub(crate) fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    pub(crate) fn endpoint(&self, id: EndpointId) -> Option<&Arc<Endpoint>> {
        match id.place() {
            None => Some(&self.built_in),
            Some(place) => self.endpoints.get(place),
        }
    }

    /// The log of a stream by its name, in any case.
    pub(crate) fn stream(&self, name: &str) -> Option<&Arc<EventStream>> {
        let endpoint = self
            .endpoints
            .iter()
            .find(|endpoint| endpoint.is_stream() && endpoint.name().eq_ignore_ascii_case(name))?;
        Some(&endpoint.stream)
    }

    /// Whether all events that are wanted go to the built-in endpoint as they are.
    pub(super) fn is_direct(&self) -> bool {
        let mut enabled = self.routing.routes().iter().filter(|route| route.is_enabled);
        let fallback = self.routing.fallback();
        self.routing.enrichments().is_empty()
            && fallback.is_enabled
            && fallback.condition.is_always()
            && enabled.all(|route| route.endpoint == EndpointId::EVENTS && route.condition.is_always())
    }

    /// Whether an endpoint of this goes on with the log of another one.
    pub(super) fn goes_on_with(&self, former: &Endpoint) -> bool {
        let mut endpoints = self.endpoints.iter();
        endpoints.any(|endpoint| Arc::ptr_eq(&endpoint.stream, &former.stream))
    }

    /// The names of the routes that took a message.
    pub(super) fn names(&self, decision: &Decision) -> RouteNames {
        let fallback = decision.fallback.then_some(self.routing.routes().len());
        let places = decision.routes.iter().chain(fallback);
        places
            .filter_map(|place| self.names.get(place).cloned())
            .collect()
    }

    /// Decides where a message goes and keeps it there, with the enrichments of
    /// each endpoint.
    pub(super) fn deliver(&self, message: &Message<'_>, origin: &Arc<Origin>, hub_name: &str) -> Decision {
        let decision = self.routing.decide(message);
        for id in decision.endpoints.iter() {
            let Some(endpoint) = self.endpoint(id) else {
                continue;
            };
            let &Message {
                source,
                bag,
                body,
                enqueued,
                ..
            } = message;
            match self.routing.enrich(id, message, hub_name) {
                Ok(None) => endpoint.stream.append(source, origin, bag, body, enqueued),
                Ok(Some(bag)) => endpoint.stream.append(source, origin, &bag, body, enqueued),
                Err(oversized) => endpoint.health.lost(1, enqueued, &oversized),
            }
        }
        decision
    }
}
