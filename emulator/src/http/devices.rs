//! `/devices/…` and `/statistics/…`: identities of devices and modules.

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use hub_core::error::ServiceError;
use hub_core::ids::{ModuleId, Target};
use hub_core::limits;
use hub_core::registry::{
    BulkResult, DeviceSpec, KeyRegeneration, ModuleSpec, Put, RegenerationResult, Status, not_found,
    not_regenerated, parse_bulk,
};
use serde_json::json;

use super::App;
use super::auth::{ModuleReader, ModuleWriter, RegistryReader, RegistryWriter};
use super::error::HttpError;
use super::reply::JsonReply;
use super::request::{JsonBody, Precondition, TargetPath, query_parameter};
use crate::hub::cell::DeviceState;
use crate::hub::internal;
use crate::hub::query::JsonRows;

pub(super) async fn read(
    _: RegistryReader,
    State(app): State<App>,
    TargetPath(target): TargetPath,
) -> Result<JsonReply, HttpError> {
    let cell = app.hub.registry.cell(&target.device)?;
    let state = cell.lock();
    Ok(JsonReply::raw(device(&state)?).etag(&state.identity.etag))
}

pub(super) async fn write(
    _: RegistryWriter,
    State(app): State<App>,
    TargetPath(target): TargetPath,
    Precondition(if_match): Precondition,
    JsonBody(body): JsonBody,
) -> Result<JsonReply, HttpError> {
    let spec = DeviceSpec::from_json(&body, &target.device)?;
    let (body, etag) = app.hub.put_device(spec, &if_match, |state, _| {
        (device(state), state.identity.etag.clone())
    })?;
    Ok(JsonReply::raw(body?).etag(&etag))
}

pub(super) async fn remove(
    _: RegistryWriter,
    State(app): State<App>,
    TargetPath(target): TargetPath,
    Precondition(if_match): Precondition,
) -> Result<StatusCode, HttpError> {
    app.hub.delete_device(&target.device, &if_match)?;
    Ok(StatusCode::NO_CONTENT)
}

/// At most `top` devices; anything outside 1 to 1000 means 1000.
pub(super) async fn list(
    _: RegistryReader,
    State(app): State<App>,
    RawQuery(query): RawQuery,
) -> Result<JsonReply, HttpError> {
    let top = query_parameter(query.as_deref(), "top")
        .and_then(|top| top.parse().ok())
        .filter(|top| (1..=limits::LIST_TOP).contains(top))
        .unwrap_or(limits::LIST_TOP);
    let mut rows = JsonRows::new();
    for id in app.hub.registry.devices_after(None, top) {
        if let Some(cell) = app.hub.registry.find(&id) {
            let state = cell.lock();
            rows.push(&state.identity.document(&state.endpoint.connection))?;
        }
    }
    Ok(JsonReply::raw(rows.finish()))
}

/// Entries are independent of each other; one that fails makes the answer 400
/// with the same body, and the others stay done.
pub(super) async fn bulk(
    _: RegistryWriter,
    State(app): State<App>,
    JsonBody(body): JsonBody,
) -> Result<JsonReply, HttpError> {
    let mut errors = Vec::new();
    for entry in parse_bulk(&body)? {
        let done = entry.and_then(|entry| app.hub.apply_bulk(&entry).map_err(|error| entry.failed(&error)));
        if let Err(error) = done {
            errors.push(error);
        }
    }
    let status = if errors.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::BAD_REQUEST
    };
    Ok(JsonReply::of(&BulkResult::from(errors))?.status(status))
}

/// Makes one key of each identity anew; entries are independent of each other,
/// and the answer says which failed.
pub(super) async fn regenerate_keys(
    _: RegistryWriter,
    State(app): State<App>,
    JsonBody(body): JsonBody,
) -> Result<JsonReply, HttpError> {
    let request = KeyRegeneration::from_json(&body)?;
    let mut result = RegenerationResult {
        policy_key: request.key,
        rotated_keys: Vec::new(),
        errors: Vec::new(),
    };
    for target in request.targets {
        let rotated = target.and_then(|target| {
            app.hub
                .regenerate_key(&target, request.key)
                .map_err(|error| not_regenerated(&target, &error))
        });
        match rotated {
            Ok(rotated) => result.rotated_keys.push(rotated),
            Err(error) => result.errors.push(error),
        }
    }
    JsonReply::of(&result)
}

pub(super) async fn list_modules(
    _: ModuleReader,
    State(app): State<App>,
    TargetPath(target): TargetPath,
) -> Result<JsonReply, HttpError> {
    let cell = app.hub.registry.cell(&target.device)?;
    let state = cell.lock();
    let mut rows = JsonRows::new();
    for module in state.modules.values() {
        rows.push(&module.identity.document(&module.endpoint.connection))?;
    }
    Ok(JsonReply::raw(rows.finish()))
}

pub(super) async fn read_module(
    _: ModuleReader,
    State(app): State<App>,
    TargetPath(target): TargetPath,
) -> Result<JsonReply, HttpError> {
    let cell = app.hub.registry.cell(&target.device)?;
    let state = cell.lock();
    let (body, etag) = module(&state, module_id(&target)?)?;
    Ok(JsonReply::raw(body).etag(&etag))
}

pub(super) async fn write_module(
    _: ModuleWriter,
    State(app): State<App>,
    TargetPath(target): TargetPath,
    Precondition(if_match): Precondition,
    JsonBody(body): JsonBody,
) -> Result<JsonReply, HttpError> {
    let id = module_id(&target)?;
    let spec = ModuleSpec::from_json(&body, &target.device, id)?;
    let view = |state: &mut DeviceState, _: Put| module(state, id);
    let (body, etag) = app.hub.put_module(spec, &if_match, view)??;
    Ok(JsonReply::raw(body).etag(&etag))
}

pub(super) async fn remove_module(
    _: ModuleWriter,
    State(app): State<App>,
    TargetPath(target): TargetPath,
    Precondition(if_match): Precondition,
) -> Result<StatusCode, HttpError> {
    app.hub
        .delete_module(&target.device, module_id(&target)?, &if_match)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn registry_statistics(
    _: RegistryReader,
    State(app): State<App>,
) -> Result<JsonReply, HttpError> {
    let (mut total, mut enabled) = (0_u64, 0_u64);
    app.hub.registry.for_each(|state| {
        total += 1;
        enabled += u64::from(state.identity.status == Status::Enabled);
    });
    JsonReply::of(&json!({
        "totalDeviceCount": total,
        "enabledDeviceCount": enabled,
        "disabledDeviceCount": total - enabled,
    }))
}

pub(super) async fn service_statistics(
    _: RegistryReader,
    State(app): State<App>,
) -> Result<JsonReply, HttpError> {
    let mut connected = 0_u64;
    app.hub
        .registry
        .for_each(|state| connected += u64::from(state.endpoint.is_connected()));
    JsonReply::of(&json!({ "connectedDeviceCount": connected }))
}

fn device(state: &DeviceState) -> Result<Vec<u8>, ServiceError> {
    serde_json::to_vec(&state.identity.document(&state.endpoint.connection)).map_err(internal)
}

fn module(state: &DeviceState, id: &ModuleId) -> Result<(Vec<u8>, Box<str>), ServiceError> {
    let module = state.modules.get(id).ok_or_else(|| {
        not_found(&Target {
            device: state.identity.id.clone(),
            module: Some(id.clone()),
        })
    })?;
    let body =
        serde_json::to_vec(&module.identity.document(&module.endpoint.connection)).map_err(internal)?;
    Ok((body, module.identity.etag.clone()))
}

fn module_id(target: &Target) -> Result<&ModuleId, ServiceError> {
    target
        .module
        .as_ref()
        .ok_or_else(|| ServiceError::invalid("the path names no module"))
}
