//! Whole configurations.

use serde_json::json;

use super::*;

#[test]
fn without_configuration_telemetry_goes_to_the_built_in_endpoint() {
    let routing = Routing::default();
    assert!(routing.wants(Source::Telemetry) && !routing.wants(Source::TwinChange));
    let trial = Trial::from_json(&json!({})).unwrap();
    let decision = routing.decide(&trial.message(crate::time::Timestamp::NEVER));
    assert!(decision.fallback);
    assert_eq!(decision.endpoints, EndpointSet::EVENTS);
}
