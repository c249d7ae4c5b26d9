//! The HTTP front of the hub: the REST API of the service, the WebSocket door
//! for devices, and the admin endpoints.
//!
//! A request passes [`serve`] (what all have in common), `path` (one spelling
//! for each route), an extractor of `auth` (whether the service is asked in a way
//! that it knows, and by whom), a thin handler that calls `hub` or the job engine,
//! and leaves through `reply` or `error`. Handlers parse and render; they decide
//! nothing.

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
mod request_id;
mod routing;
mod telemetry;
mod twins;
mod version;
mod websocket;

use std::ops::Deref;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, post, put};
use hub_core::error::{ErrorCode, ServiceError};
use hyper::body::Incoming;
use job_service::JobEngine;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use self::error::HttpError;
use self::path::canonical_uri;
pub(crate) use self::request_id::RequestIds;
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
    pub(crate) request_ids: RequestIds,
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
        );
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
        .with_state(app)
}

/// What is no route may still be a blob.
async fn blob_or_unknown(State(app): State<App>, request: Request) -> Response {
    blobs::serve(&app, request).await.unwrap_or_else(|request| {
        let text = format!("there is no resource at {}", request.uri().path());
        HttpError::from(ServiceError::new(ErrorCode::GenericNotFound, text)).into_response()
    })
}

async fn unknown_method(method: Method, request: Request) -> HttpError {
    unknown_method_at(&method, request.uri().path())
}

fn unknown_method_at(method: &Method, path: &str) -> HttpError {
    let text = format!("{method} is not supported at {path}");
    HttpError::from(ServiceError::new(ErrorCode::GenericMethodNotAllowed, text))
}

/// Answers a request: brings its path to the route table's spelling, counts it,
/// and adds the headers that every answer carries.
///
/// Not a layer of the router, which would copy all that is below a layer for
/// each request.
pub(crate) async fn serve(app: &App, router: &Router, mut request: hyper::Request<Incoming>) -> Response {
    app.hub.counters.http_requests.add(1);
    *request.uri_mut() = canonical_uri(std::mem::take(request.uri_mut()));
    let mut response = match check_origin(app, request.headers()) {
        Ok(()) => match router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
        Err(error) => error.into_response(),
    };
    if response.status().is_client_error() || response.status().is_server_error() {
        app.hub.counters.http_errors.add(1);
    }
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static("x-ms-request-id"), app.request_ids.next());
    headers.insert(header::SERVER, HeaderValue::from_static("Microsoft-HTTPAPI/2.0"));
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    response
}

/// Refuses what the hub itself has sent: a webhook of its routing that leads back
/// into it, so that messages could go in circles.
fn check_origin(app: &App, headers: &HeaderMap) -> Result<(), HttpError> {
    let origin = headers.get(ORIGIN);
    if origin.is_none_or(|origin| origin.as_bytes() != app.hub.events.instance().as_bytes()) {
        return Ok(());
    }
    let text =
        "the request comes from a webhook of this hub's own routing, which must not lead back into the hub";
    Err(ServiceError::new(ErrorCode::InvalidOperation, text).into())
}
