//! `/configurations…` and `/devices/…/applyConfigurationContent`: automatic
//! configurations and Edge deployments.

use axum::extract::State;
use axum::http::StatusCode;
use hub_core::configuration::{ConfigurationSpec, Content, test_queries};

use super::App;
use super::auth::{ConfigurationWriter, RegistryReader};
use super::error::HttpError;
use super::reply::JsonReply;
use super::request::{ConfigurationPath, JsonBody, QuotedPrecondition, TargetPath};
use crate::hub::configurations::ConfigurationReply;

pub(super) async fn read(
    _: RegistryReader,
    State(app): State<App>,
    ConfigurationPath(id): ConfigurationPath,
) -> Result<JsonReply, HttpError> {
    Ok(reply(app.hub.configurations.get(&id)?))
}

pub(super) async fn write(
    _: ConfigurationWriter,
    State(app): State<App>,
    ConfigurationPath(id): ConfigurationPath,
    QuotedPrecondition(if_match): QuotedPrecondition,
    JsonBody(body): JsonBody,
) -> Result<JsonReply, HttpError> {
    let spec = ConfigurationSpec::from_json(&body, &id)?;
    let now = app.hub.clock.now();
    Ok(reply(app.hub.configurations.put(spec, &if_match, now)?))
}

pub(super) async fn remove(
    _: ConfigurationWriter,
    State(app): State<App>,
    ConfigurationPath(id): ConfigurationPath,
    QuotedPrecondition(if_match): QuotedPrecondition,
) -> Result<StatusCode, HttpError> {
    app.hub.configurations.delete(&id, &if_match)?;
    Ok(StatusCode::NO_CONTENT)
}

/// All of them: like the service, whatever `top` asks for.
pub(super) async fn list(_: RegistryReader, State(app): State<App>) -> Result<JsonReply, HttpError> {
    Ok(JsonReply::raw(app.hub.configurations.list()?))
}

/// Answers 200 whether the queries are good or not.
pub(super) async fn try_queries(
    _: RegistryReader,
    State(_): State<App>,
    JsonBody(body): JsonBody,
) -> Result<JsonReply, HttpError> {
    JsonReply::of(&test_queries(&body)?)
}

pub(super) async fn apply_content(
    _: ConfigurationWriter,
    State(app): State<App>,
    TargetPath(target): TargetPath,
    JsonBody(body): JsonBody,
) -> Result<StatusCode, HttpError> {
    // An unknown device is reported before a bad body.
    app.hub.check_exists(&target)?;
    let content = Content::parse_part(&body)?;
    app.hub.apply_content(&target, &content)?;
    Ok(StatusCode::NO_CONTENT)
}

fn reply(configuration: ConfigurationReply) -> JsonReply {
    JsonReply::raw(configuration.body).etag(&configuration.etag)
}
