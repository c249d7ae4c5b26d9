//! `/_emulator/routing…`: where messages and events go. In the cloud this is a
//! part of the hub's resource, changed through the management API.

use axum::extract::State;
use hub_core::error::ServiceError;
use hub_core::ids::{DeviceId, ModuleId, Target};
use hub_core::routing::{EndpointKind, Routing, Trial};
use serde_json::{Map, Value, json};

use super::App;
use super::error::HttpError;
use super::reply::JsonReply;
use super::request::JsonBody;
use crate::hub::events::Endpoint;
use crate::hub::twins::LiveTwin;

/// The configuration that is in force.
pub(super) async fn read(State(app): State<App>) -> Result<JsonReply, HttpError> {
    JsonReply::of(&app.hub.events.routes().routing().to_json())
}

/// Puts a configuration into force, as a whole or not at all. Its directories are
/// written to wherever the process may write, its webhooks are called from where
/// the hub is: as all of `/_emulator` it is for whoever may be asked to run a
/// program here, and listens on the loopback address unless it is told otherwise.
pub(super) async fn write(State(app): State<App>, JsonBody(body): JsonBody) -> Result<JsonReply, HttpError> {
    let routing = Routing::from_json(&body).map_err(ServiceError::from)?;
    let written = routing.to_json();
    app.hub.events.set_routing(routing).map_err(ServiceError::from)?;
    JsonReply::of(&written)
}

/// What would become of a message, and why. With `deviceId` (and `moduleId`) it
/// is from or about that device, as it is now, twin included; with `routing` it is tried with that
/// configuration instead of the one in force. Nothing is kept anywhere.
pub(super) async fn test(State(app): State<App>, JsonBody(body): JsonBody) -> Result<JsonReply, HttpError> {
    let Value::Object(mut trial) = body else {
        return Err(ServiceError::invalid("the body must be an object").into());
    };
    let routes = app.hub.events.routes();
    let other = trial
        .remove("routing")
        .map(|routing| Routing::from_json(&routing).map_err(ServiceError::from))
        .transpose()?;
    let target = take_target(&mut trial)?;
    if target.is_some() && trial.contains_key("twin") {
        return Err(ServiceError::invalid("give either deviceId or twin").into());
    }
    let origin = target
        .as_ref()
        .map(|target| app.hub.expected_origin(target))
        .transpose()?;
    let trial = Value::Object(trial);
    let trial = match origin {
        None => Trial::from_json(&trial),
        Some(origin) => Trial::of(origin, &trial),
    };
    let trial = trial.map_err(ServiceError::from)?;
    let mut message = trial.message(app.hub.clock.now());
    // Looked at as the hub looks at it.
    let twin = target.as_ref().map(|target| LiveTwin {
        hub: &app.hub,
        target,
    });
    if let Some(twin) = &twin {
        message.twin = Some(twin);
    }
    let routing = other.as_ref().unwrap_or_else(|| routes.routing());
    let explanation = routing.explain(&message, app.hub.events.hub_name());
    JsonReply::of(&explanation.to_json())
}

fn take_target(trial: &mut Map<String, Value>) -> Result<Option<Target>, ServiceError> {
    let mut id = |name: &str| match trial.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(id)) => Ok(Some(id)),
        Some(_) => Err(ServiceError::invalid(format!("{name} must be a string"))),
    };
    let (device, module) = (id("deviceId")?, id("moduleId")?);
    let bad = |error| ServiceError::invalid(format!("bad id: {error}"));
    match (device, module) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(ServiceError::invalid("moduleId stands only beside deviceId")),
        (Some(device), module) => Ok(Some(Target {
            device: DeviceId::parse(&device).map_err(bad)?,
            module: module.map(|id| ModuleId::parse(&id).map_err(bad)).transpose()?,
        })),
    }
}

/// Every endpoint and how it is doing, the built-in one first. No connection
/// strings: whoever may ask this need not have the key that is in them.
pub(super) async fn endpoints(State(app): State<App>) -> Result<JsonReply, HttpError> {
    let endpoints = app.hub.events.endpoints();
    let endpoints: Vec<Value> = endpoints.iter().map(|endpoint| endpoint_json(endpoint)).collect();
    JsonReply::of(&json!({ "endpoints": endpoints }))
}

fn endpoint_json(endpoint: &Endpoint) -> Value {
    let report = endpoint.report();
    let kind = match endpoint.kind() {
        None => "builtIn",
        Some(EndpointKind::Stream(_)) => "stream",
        Some(EndpointKind::Directory(_)) => "directory",
        Some(EndpointKind::Webhook(_)) => "webhook",
    };
    let last_error = report
        .last_error
        .map(|(time, text)| json!({ "timeUtc": time, "text": text }));
    json!({
        "name": endpoint.name(),
        "kind": kind,
        "health": report.status.name(),
        "delivered": report.delivered,
        "backlog": report.backlog,
        "dropped": report.dropped,
        "retries": report.retries,
        "lastError": last_error,
    })
}
