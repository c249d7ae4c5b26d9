//! The HTTP front of the hub: the REST API of the service, the WebSocket door
//! for devices, and the admin endpoints.
//!
//! A request passes `path` (one spelling for each route), the version check of
//! this file, an extractor of `auth` (who is asking), a thin handler that calls
//! `hub` or the job engine, and leaves through `reply` or `error`. Handlers
//! parse and render; they decide nothing.

mod admin;
mod auth;
mod blobs;
mod c2d;
mod configurations;
mod device_cas;
mod devices;
mod digital_twins;
mod error;
mod events;
mod feedback;
mod files;
mod jobs;
mod live;
mod message_headers;
mod methods;
mod path;
mod query;
mod registry_jobs;
mod reply;
mod request;
mod routing;
mod telemetry;
mod twins;
mod websocket;

use std::ops::Deref;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, post, put};
use hub_core::error::{ErrorCode, ServiceError};
use hub_core::limits;
use job_service::JobEngine;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use self::error::HttpError;
use crate::hub::HubState;
use crate::hub::events::ORIGIN;

/// What handlers work with. One pointer: the router copies it several times for
/// each request.
#[derive(Clone)]
pub(crate) struct App(Arc<Parts>);

/// What an [`App`] holds.
pub(crate) struct Parts {
    pub(crate) hub: Arc<HubState>,
    pub(crate) jobs: Arc<JobEngine<HubState>>,
    /// For connections that outlive their request.
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    /// Ports of the HTTP and HTTPS listeners.
    pub(crate) http_port: Option<u16>,
    pub(crate) https_port: Option<u16>,
    /// PEM of the CA that signed the hub's certificate.
    pub(crate) ca_pem: Arc<str>,
}

impl App {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }
}

impl Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// The route table.
///
/// Keywords are lower case: `path` brings requests to this form. A path that
/// is not here answers 404, a method that is not here 405. Where GET takes
/// something out of a queue, HEAD is refused: nobody would see what was taken.
pub(crate) fn router(app: App) -> Router {
    let service = Router::new()
        .route("/devices", get(devices::list).post(devices::bulk))
        .route("/devices/query", post(query::run))
        .route("/devices/keys/regenerate", post(devices::regenerate_keys))
        .route(
            "/devices/{device}",
            get(devices::read).put(devices::write).delete(devices::remove),
        )
        .route("/devices/{device}/modules", get(devices::list_modules))
        .route(
            "/devices/{device}/modules/{module}",
            get(devices::read_module)
                .put(devices::write_module)
                .delete(devices::remove_module),
        )
        .route(
            "/devices/{device}/messages/devicebound",
            get(c2d::receive).post(c2d::send).head(unknown_method),
        )
        .route(
            "/devices/{device}/messages/devicebound/{token}",
            delete(c2d::settle),
        )
        .route(
            "/devices/{device}/messages/devicebound/{token}/abandon",
            post(c2d::abandon),
        )
        .route("/devices/{device}/commands", delete(c2d::purge))
        .route(
            "/devices/{device}/modules/{module}/messages/devicebound",
            post(c2d::send),
        )
        .route("/devices/{device}/modules/{module}/commands", delete(c2d::purge))
        .route(
            "/messages/servicebound/feedback",
            get(feedback::receive).head(unknown_method),
        )
        .route(
            "/messages/servicebound/feedback/{token}",
            delete(feedback::complete),
        )
        .route(
            "/messages/servicebound/feedback/{token}/abandon",
            post(feedback::abandon),
        )
        .route("/devices/{device}/messages/events", post(telemetry::send))
        .route(
            "/devices/{device}/modules/{module}/messages/events",
            post(telemetry::send),
        )
        .route("/devices/{device}/files", post(files::start))
        .route("/devices/{device}/files/notifications", post(files::finish))
        .route(
            "/devices/{device}/files/notifications/{upload}",
            post(files::finish),
        )
        .route("/statistics/devices", get(devices::registry_statistics))
        .route("/statistics/service", get(devices::service_statistics))
        .route(
            "/twins/{device}",
            get(twins::read).patch(twins::merge).put(twins::replace),
        )
        .route("/twins/{device}/methods", post(methods::invoke))
        .route(
            "/twins/{device}/modules/{module}",
            get(twins::read).patch(twins::merge).put(twins::replace),
        )
        .route("/twins/{device}/modules/{module}/methods", post(methods::invoke))
        .route("/jobs", get(registry_jobs::list))
        .route("/jobs/create", post(registry_jobs::create))
        .route(
            "/jobs/{job}",
            get(registry_jobs::read).delete(registry_jobs::cancel),
        )
        .route("/jobs/v2/query", get(jobs::list))
        .route("/jobs/v2/{job}", put(jobs::create).get(jobs::read))
        .route("/jobs/v2/{job}/cancel", post(jobs::cancel))
        .route("/configurations", get(configurations::list))
        .route("/configurations/testqueries", post(configurations::try_queries))
        .route(
            "/configurations/{configuration}",
            get(configurations::read)
                .put(configurations::write)
                .delete(configurations::remove),
        )
        .route(
            "/devices/{device}/applyconfigurationcontent",
            post(configurations::apply_content),
        )
        .route(
            "/digitaltwins/{device}",
            get(digital_twins::read).patch(digital_twins::update),
        )
        .route(
            "/digitaltwins/{device}/commands/{command}",
            post(digital_twins::invoke),
        )
        .route(
            "/digitaltwins/{device}/components/{component}/commands/{command}",
            post(digital_twins::invoke),
        )
        .layer(from_fn_with_state(app.clone(), check_version))
        .layer(from_fn(refuse_head));
    let admin = Router::new()
        .route("/_emulator/health", get(admin::health))
        .route("/_emulator/counters", get(admin::counters))
        .route("/_emulator/telemetry", get(admin::telemetry))
        .route("/_emulator/events", get(events::list_or_watch))
        .route("/_emulator/events/counters", get(events::counters))
        .route("/_emulator/events/partitions", get(events::partitions))
        .route(
            "/_emulator/consumer-groups/{group}",
            put(events::create_group).delete(events::remove_group),
        )
        .route("/_emulator/routing", get(routing::read).put(routing::write))
        .route("/_emulator/routing/test", post(routing::test))
        .route("/_emulator/routing/endpoints", get(routing::endpoints))
        .route("/_emulator/c2d", post(admin::send_to_device))
        .route("/_emulator/file-notifications", get(admin::file_notifications))
        .route("/_emulator/containers/{container}", put(admin::create_container))
        .route("/_emulator/query/explain", post(query::explain))
        .route("/_emulator/tier", get(admin::tier))
        .route("/_emulator/clock", get(admin::clock))
        .route("/_emulator/clock/advance", post(admin::advance_clock))
        .route("/_emulator/state", delete(admin::reset))
        .route("/_emulator/ca.pem", get(admin::ca))
        .route(
            "/_emulator/device-cas",
            get(device_cas::list).post(device_cas::add),
        )
        .route("/_emulator/device-cas/{thumbprint}", delete(device_cas::remove));
    service
        .merge(admin)
        .route("/$iothub/websocket", get(websocket::upgrade))
        .route("/$servicebus/websocket", get(websocket::upgrade_amqp))
        .fallback(blob_or_unknown)
        .method_not_allowed_fallback(unknown_method)
        .layer(DefaultBodyLimit::max(limits::HTTP_BODY_BYTES))
        .layer(from_fn_with_state(app.clone(), every_request))
        .with_state(app)
}

pub(crate) use self::path::canonical_uri;

/// What is no route may still be a blob.
async fn blob_or_unknown(State(app): State<App>, request: Request) -> Response {
    blobs::serve(&app, request).await.unwrap_or_else(|request| {
        let text = format!("there is no resource at {}", request.uri().path());
        HttpError::from(ServiceError::new(ErrorCode::GenericNotFound, text)).into_response()
    })
}

async fn unknown_method(method: Method, request: Request) -> HttpError {
    let text = format!("{method} is not supported at {}", request.uri().path());
    HttpError::from(ServiceError::new(ErrorCode::GenericMethodNotAllowed, text))
}

/// Refuses HEAD, which the service does not know: the router would take it for
/// GET, which takes a message out of its queue.
async fn refuse_head(request: Request, next: Next) -> Response {
    if request.method() == Method::HEAD {
        return unknown_method(Method::HEAD, request).await.into_response();
    }
    next.run(request).await
}

/// Counts the request and adds the headers that every answer carries.
async fn every_request(State(app): State<App>, request: Request, next: Next) -> Response {
    app.hub.counters.http_requests.add(1);
    let mut response = match check_origin(&app, &request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    if response.status().is_client_error() || response.status().is_server_error() {
        app.hub.counters.http_errors.add(1);
    }
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&Uuid::new_v4().to_string()) {
        headers.insert(HeaderName::from_static("x-ms-request-id"), id);
    }
    headers.insert(header::SERVER, HeaderValue::from_static("Microsoft-HTTPAPI/2.0"));
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    response
}

/// Refuses what the hub itself has sent: a webhook of its routing that leads back
/// into it, so that messages could go in circles.
fn check_origin(app: &App, request: &Request) -> Result<(), HttpError> {
    let origin = request.headers().get(ORIGIN);
    if origin.is_none_or(|origin| origin.as_bytes() != app.hub.events.instance().as_bytes()) {
        return Ok(());
    }
    let text =
        "the request comes from a webhook of this hub's own routing, which must not lead back into the hub";
    Err(ServiceError::new(ErrorCode::InvalidOperation, text).into())
}

/// Refuses service requests without an `api-version` of the form `YYYY-MM-DD`
/// or `YYYY-MM-DD-preview`. Which version it is makes no difference: the hub
/// behaves like 2021-04-12.
async fn check_version(State(_): State<App>, request: Request, next: Next) -> Response {
    let version = request.uri().query().and_then(|query| {
        query.split('&').find_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            name.eq_ignore_ascii_case("api-version").then_some(value)
        })
    });
    match version {
        Some(version) if is_version(version) => next.run(request).await,
        _ => {
            let text = match version {
                None => "the query parameter api-version is missing".to_owned(),
                Some(version) => format!("the api-version {version:?} is not a date"),
            };
            HttpError::from(ServiceError::new(ErrorCode::InvalidProtocolVersion, text)).into_response()
        }
    }
}

fn is_version(text: &str) -> bool {
    let date = text.strip_suffix("-preview").unwrap_or(text).as_bytes();
    date.len() == 10
        && date.iter().enumerate().all(|(i, b)| {
            if i == 4 || i == 7 {
                *b == b'-'
            } else {
                b.is_ascii_digit()
            }
        })
}

#[cfg(test)]
mod tests {
    use super::is_version;

    #[test]
    fn versions_are_dates() {
        for good in ["2021-04-12", "2020-05-31-preview"] {
            assert!(is_version(good), "{good}");
        }
        for bad in ["", "2021", "2021-4-12", "2021-04-12-beta", "latest-----"] {
            assert!(!is_version(bad), "{bad}");
        }
    }
}
