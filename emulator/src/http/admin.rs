//! `/_emulator/…`: what a local hub can do and the cloud cannot. These paths
//! are never an Azure path, need no credentials (the hub listens on loopback
//! unless asked otherwise) and answer plain JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hub_core::blob::ContainerName;
use hub_core::c2d::Draft;
use hub_core::error::ServiceError;
use hub_core::file_upload::FileNotification;
use hub_core::ids::{DeviceId, IdError, ModuleId, Target};
use hub_core::property_bag::{MessageProperties, SystemProperty};
use hub_core::sas::blob::{BlobResource, sign};
use hub_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::App;
use super::error::HttpError;
use super::files::storage_host;
use super::reply::JsonReply;
use super::request::{JsonBody, LastName, query_parameter};
use crate::blobs::StoreError;
use crate::hub::counters::CounterValues;
use crate::hub::internal;
use crate::hub::telemetry::TelemetryMessage;

pub(super) async fn health(State(app): State<App>) -> Result<JsonReply, HttpError> {
    JsonReply::of(&json!({ "status": "ok", "hostName": app.hub.settings.host_name }))
}

/// Everything that is counted, and what is connected at this moment.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CountersReply {
    devices: usize,
    connected: usize,
    #[serde(flatten)]
    since_start: CounterValues,
}

pub(super) async fn counters(State(app): State<App>) -> Result<JsonReply, HttpError> {
    JsonReply::of(&CountersReply {
        devices: app.hub.registry.len(),
        connected: app.hub.connected_count(),
        since_start: app.hub.counters.values(),
    })
}

/// The kept telemetry after the position `?after=` (default: 0), 10,000 messages
/// at most: ask again after the last one for more.
pub(super) async fn telemetry(
    State(app): State<App>,
    RawQuery(query): RawQuery,
) -> Result<JsonReply, HttpError> {
    let after = position(query.as_deref())?;
    // Before the messages: none is counted that is not listed.
    let total = app.hub.counters.values().telemetry_messages;
    let messages: Vec<Value> = app
        .hub
        .telemetry_after(after)
        .iter()
        .map(|m| {
            json!({
                "sequence": m.sequence,
                "deviceId": m.source.device,
                "moduleId": m.source.module,
                "enqueuedTimeUtc": m.enqueued,
                "systemProperties": system_properties(m),
                "properties": m.properties.application,
                // Bodies are bytes; those that are not UTF-8 show replacement characters.
                "body": String::from_utf8_lossy(&m.body),
            })
        })
        .collect();
    JsonReply::of(&json!({ "total": total, "messages": messages }))
}

/// The kept notifications of uploaded files after the position `?after=`
/// (default: all of them), in the service's form and with their position.
pub(super) async fn file_notifications(
    State(app): State<App>,
    RawQuery(query): RawQuery,
) -> Result<JsonReply, HttpError> {
    #[derive(Serialize)]
    struct Positioned<'a> {
        sequence: u64,
        #[serde(flatten)]
        notification: &'a FileNotification,
    }
    let kept = app.hub.file_notifications.after(position(query.as_deref())?);
    let notifications: Vec<_> = kept
        .iter()
        .map(|notification| Positioned {
            sequence: notification.sequence,
            notification,
        })
        .collect();
    JsonReply::of(&json!({ "notifications": notifications }))
}

/// Makes a container in the hub's own blob storage, if it is not there, and
/// gives its address with a token that opens it.
pub(super) async fn create_container(
    State(app): State<App>,
    LastName(name): LastName,
    headers: HeaderMap,
) -> Result<JsonReply, HttpError> {
    let container =
        ContainerName::parse(&name).map_err(|e| ServiceError::invalid(format!("{name:?} is {e}")))?;
    app.hub
        .blobs
        .create_container(&container)
        .await
        .map_err(|error| match error {
            StoreError::TooManyContainers => ServiceError::invalid(error.to_string()),
            error => internal(error),
        })?;
    let expires = app.hub.clock.now().saturating_add(CONTAINER_TTL);
    let sas = sign(
        BlobResource::Container(&container),
        "rwdl",
        expires,
        &app.hub.settings.blob_key,
    );
    let host = storage_host(&app, &headers);
    JsonReply::of(&json!({ "containerUri": format!("https://{host}/{container}{sas}") }))
}

/// How long a container's token opens it.
const CONTAINER_TTL: Duration = Duration::from_secs(24 * 3600);

/// The position after which a listing starts: `?after=`, by default the first.
fn position(query: Option<&str>) -> Result<u64, ServiceError> {
    match query_parameter(query, "after") {
        None => Ok(0),
        Some(text) => text
            .parse()
            .map_err(|_| ServiceError::invalid(format!("after={text:?} is not a position"))),
    }
}

/// System properties by the names that they have in topics.
fn system_properties(message: &TelemetryMessage) -> BTreeMap<&str, &str> {
    message
        .properties
        .system
        .iter()
        .map(|(property, value)| (property.key(), value.as_str()))
        .collect()
}

/// A message to a device as the admin endpoint takes it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MessageToDevice {
    device_id: String,
    module_id: Option<String>,
    /// The body as text; or, below, as base64 of any bytes.
    body: Option<String>,
    body_base64: Option<String>,
    message_id: Option<String>,
    correlation_id: Option<String>,
    user_id: Option<String>,
    content_type: Option<String>,
    content_encoding: Option<String>,
    expiry_time_utc: Option<String>,
    ack: Option<String>,
    #[serde(default)]
    properties: BTreeMap<String, String>,
}

/// Sends a message to a device or module, as a back end does over AMQP.
pub(super) async fn send_to_device(
    State(app): State<App>,
    JsonBody(body): JsonBody,
) -> Result<JsonReply, HttpError> {
    let message: MessageToDevice = serde_json::from_value(body)
        .map_err(|e| ServiceError::invalid(format!("the body is not a message: {e}")))?;
    let (target, draft) = message.parse()?;
    let sequence = app.hub.send_to_device(&target, draft)?;
    JsonReply::of(&json!({ "sequenceNumber": sequence }))
}

impl MessageToDevice {
    fn parse(self) -> Result<(Target, Draft), ServiceError> {
        let bad_id = |e: IdError| ServiceError::invalid(format!("bad id: {e}"));
        let target = Target {
            device: DeviceId::parse(&self.device_id).map_err(bad_id)?,
            module: self
                .module_id
                .map(|id| ModuleId::parse(&id).map_err(bad_id))
                .transpose()?,
        };
        let body = match (self.body, self.body_base64) {
            (Some(_), Some(_)) => return Err(ServiceError::invalid("give either body or bodyBase64")),
            (None, Some(base64)) => STANDARD
                .decode(base64)
                .map_err(|e| ServiceError::invalid(format!("bodyBase64: {e}")))?,
            (text, None) => text.unwrap_or_default().into_bytes(),
        };
        if let Some(name) = self
            .properties
            .keys()
            .find(|name| SystemProperty::from_key(name).is_some())
        {
            return Err(ServiceError::invalid(format!(
                "{name} is no application property, it has a member of its own"
            )));
        }
        let system = [
            (SystemProperty::MessageId, self.message_id),
            (SystemProperty::CorrelationId, self.correlation_id),
            (SystemProperty::UserId, self.user_id),
            (SystemProperty::ContentType, self.content_type),
            (SystemProperty::ContentEncoding, self.content_encoding),
            (SystemProperty::Expiry, self.expiry_time_utc),
            (SystemProperty::Ack, self.ack),
        ];
        let properties = MessageProperties {
            system: system
                .into_iter()
                .filter_map(|(property, value)| Some((property, value?)))
                .collect(),
            application: self.properties,
        };
        Ok((target, Draft::new(properties, body.into())?))
    }
}

/// The limits of the hub's tier, what is left of the day's messages, and with
/// `?devices=` how long a job over that many devices takes.
pub(super) async fn tier(State(app): State<App>, RawQuery(query): RawQuery) -> Result<JsonReply, HttpError> {
    let devices = match query_parameter(query.as_deref(), "devices") {
        None => app.hub.registry.len() as u64,
        Some(text) => text
            .parse()
            .map_err(|_| ServiceError::invalid(format!("devices={text:?} is not a number of devices")))?,
    };
    JsonReply::of(&app.hub.tier_report(devices))
}

pub(super) async fn clock(State(app): State<App>) -> Result<JsonReply, HttpError> {
    JsonReply::of(&json!({ "now": app.hub.clock.now() }))
}

/// Moves the hub's clock forward: `{"seconds": 3600}` or `{"to": "2026-01-02T03:04:05Z"}`.
pub(super) async fn advance_clock(
    State(app): State<App>,
    JsonBody(body): JsonBody,
) -> Result<JsonReply, HttpError> {
    let now = app.hub.clock.now();
    let by = match (body.get("seconds"), body.get("to")) {
        (Some(seconds), None) => seconds
            .as_f64()
            .and_then(|s| Duration::try_from_secs_f64(s).ok())
            .ok_or_else(|| ServiceError::invalid("seconds must be a number that is not negative"))?,
        (None, Some(to)) => {
            let to = to.as_str().unwrap_or_default();
            let to = Timestamp::parse(to).map_err(|e| ServiceError::invalid(format!("to: {e}")))?;
            if to < now {
                return Err(
                    ServiceError::invalid(format!("the clock is at {now} and moves only forward")).into(),
                );
            }
            to.saturating_since(now)
        }
        _ => return Err(ServiceError::invalid("give either seconds or to").into()),
    };
    app.hub.clock.advance(by);
    JsonReply::of(&json!({ "now": app.hub.clock.now() }))
}

/// Forgets everything: devices, jobs, configurations, telemetry, file
/// notifications, counts, the clock's offset, authorities for devices that the
/// hub was not started with. Files in the blob storage stay.
pub(super) async fn reset(State(app): State<App>) -> StatusCode {
    app.jobs.reset();
    app.hub.reset();
    StatusCode::NO_CONTENT
}

/// The CA certificate that clients have to trust.
pub(super) async fn ca(State(app): State<App>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "application/x-pem-file")],
        app.ca_pem.to_string(),
    )
}
