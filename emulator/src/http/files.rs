//! `/devices/{id}/files…`: file uploads of devices. The file itself goes to
//! the hub's own blob storage, see [`super::blobs`].

use axum::extract::{RawPathParams, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use hub_core::file_upload::{Completion, requested_blob};
use serde_json::json;

use super::App;
use super::auth::DeviceCaller;
use super::error::HttpError;
use super::reply::JsonReply;
use super::request::JsonBody;

/// Grants a place for a file. Its address is
/// `https://{hostName}/{containerName}/{blobName}{sasToken}`.
pub(super) async fn start(
    DeviceCaller(source, _): DeviceCaller,
    State(app): State<App>,
    headers: HeaderMap,
    JsonBody(body): JsonBody,
) -> Result<JsonReply, HttpError> {
    let blob = requested_blob(&body, &source.device)?;
    let host = storage_host(&app, &headers);
    let grant = app.hub.start_upload(&source.device, blob, &host)?;
    JsonReply::of(&json!({
        "correlationId": grant.upload.correlation_id,
        "hostName": host,
        "containerName": grant.container.as_str(),
        "blobName": grant.upload.blob.as_str(),
        "sasToken": grant.sas,
    }))
}

/// Takes the device's word that its upload has ended; which one, the body or
/// the path says.
pub(super) async fn finish(
    DeviceCaller(source, _): DeviceCaller,
    State(app): State<App>,
    params: RawPathParams,
    JsonBody(body): JsonBody,
) -> Result<StatusCode, HttpError> {
    let upload = params.iter().find(|(name, _)| *name == "upload");
    let completion = Completion::from_json(&body, upload.map(|(_, id)| id))?;
    app.hub.finish_upload(&source.device, &completion).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a client reaches the blob storage by, over HTTPS, which is all that
/// storage addresses are made for: the name and port by which it reached the
/// hub, unless that was the port of plain HTTP.
pub(super) fn storage_host(app: &App, headers: &HeaderMap) -> String {
    let authority = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .and_then(|host| host.parse::<Authority>().ok());
    let (name, port) = match &authority {
        Some(authority) => (authority.host(), authority.port_u16()),
        None => (app.hub.settings.host_name.as_str(), app.https_port),
    };
    let port = match port {
        port if port.is_some() && port == app.http_port => app.https_port.or(port),
        port => port,
    };
    match port {
        None | Some(443) => name.to_owned(),
        Some(port) => format!("{name}:{port}"),
    }
}
