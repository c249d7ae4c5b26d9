//! `/twins/…`: reading, merging and replacing twins of devices and modules.

use hub_core::ids::Target;
use hub_core::registry::IfMatch;
use hub_core::twin::TwinPatch;
use serde_json::Value;

use axum::extract::State;

use super::App;
use super::auth::ServiceCaller;
use super::error::HttpError;
use super::reply::JsonReply;
use super::request::{JsonBody, Precondition, TargetPath};
use crate::hub::twins::{TwinReply, TwinWrite};

pub(super) async fn read(
    _: ServiceCaller,
    State(app): State<App>,
    TargetPath(target): TargetPath,
) -> Result<JsonReply, HttpError> {
    Ok(reply(app.hub.twin(&target)?))
}

pub(super) async fn merge(
    _: ServiceCaller,
    State(app): State<App>,
    TargetPath(target): TargetPath,
    Precondition(if_match): Precondition,
    JsonBody(body): JsonBody,
) -> Result<JsonReply, HttpError> {
    write(&app, &target, TwinWrite::Merge, &body, &if_match)
}

pub(super) async fn replace(
    _: ServiceCaller,
    State(app): State<App>,
    TargetPath(target): TargetPath,
    Precondition(if_match): Precondition,
    JsonBody(body): JsonBody,
) -> Result<JsonReply, HttpError> {
    write(&app, &target, TwinWrite::Replace, &body, &if_match)
}

fn write(
    app: &App,
    target: &Target,
    write: TwinWrite,
    body: &Value,
    if_match: &IfMatch,
) -> Result<JsonReply, HttpError> {
    // An unknown device is reported before a bad body.
    app.hub.check_twin(target)?;
    let patch = TwinPatch::from_json(body)?;
    Ok(reply(app.hub.write_twin(target, write, &patch, if_match)?))
}

fn reply(twin: TwinReply) -> JsonReply {
    JsonReply::raw(twin.body).etag(&twin.etag)
}
