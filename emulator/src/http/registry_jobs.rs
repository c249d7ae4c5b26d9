//! `/jobs`: import and export of the whole registry. Scheduled jobs are at
//! `/jobs/v2`, see [`super::jobs`].

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use hub_core::registry_job::RegistryJobRequest;
use hub_core::sas::same_host;

use super::App;
use super::auth::{RegistryReader, RegistryWriter};
use super::error::HttpError;
use super::files::storage_host;
use super::reply::JsonReply;
use super::request::{JsonBody, LastName};

/// Names of the machine itself.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

pub(super) async fn create(
    _: RegistryWriter,
    State(app): State<App>,
    headers: HeaderMap,
    JsonBody(body): JsonBody,
) -> Result<JsonReply, HttpError> {
    let addressed = storage_host(&app, &headers);
    let is_own_host = |host: &str| {
        same_host(host, &addressed)
            || same_host(host, &app.hub.settings.host_name)
            || LOOPBACK.iter().any(|own| host.eq_ignore_ascii_case(own))
    };
    let request = RegistryJobRequest::from_json(&body, is_own_host)?;
    let job = app.hub.accept_registry_job(request).await?;
    let reply = JsonReply::of(&job.record)?;
    let (hub, stop) = (app.hub.clone(), app.stop.clone());
    let run = async move { hub.run_registry_job(job).await };
    app.tasks.spawn(stop.run_until_cancelled_owned(run));
    Ok(reply)
}

/// Newest first.
pub(super) async fn list(_: RegistryReader, State(app): State<App>) -> Result<JsonReply, HttpError> {
    JsonReply::of(&app.hub.registry_jobs.list())
}

pub(super) async fn read(
    _: RegistryReader,
    State(app): State<App>,
    LastName(id): LastName,
) -> Result<JsonReply, HttpError> {
    JsonReply::of(&app.hub.registry_jobs.get(&id)?)
}

/// A job that has ended stays as it is.
pub(super) async fn cancel(
    _: RegistryWriter,
    State(app): State<App>,
    LastName(id): LastName,
) -> Result<StatusCode, HttpError> {
    app.hub.cancel_registry_job(&id)?;
    Ok(StatusCode::NO_CONTENT)
}
