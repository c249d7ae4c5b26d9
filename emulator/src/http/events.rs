//! `/_emulator/events…`: a look at the log of an endpoint, and its consumer
//! groups. `?endpoint=` names one of the routing's, without it is the built-in one.
//!
//! Back ends of the service read events over AMQP; this is for people and tests.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use hub_core::error::ServiceError;
use hub_core::events::{GroupError, PartitionInfo};
use hub_core::ids::DeviceId;
use hub_core::routing::EVENTS;
use serde_json::{Value, json};

use super::App;
use super::error::HttpError;
use super::live;
use super::reply::JsonReply;
use super::request::{LastName, query_pairs, query_parameter};
use crate::hub::events::Endpoint;
use crate::hub::events::json::event_json;

/// Events of one reply: when nothing else is said, and at most.
const LISTED: usize = 100;
const MOST_LISTED: usize = 1_000;

/// The ends of every partition, how much is kept, and the consumer groups.
pub(super) async fn partitions(
    State(app): State<App>,
    RawQuery(query): RawQuery,
) -> Result<JsonReply, HttpError> {
    let events = &endpoint(&app, query.as_deref())?.stream;
    let partitions: Vec<Value> = events
        .partitions()
        .iter()
        .enumerate()
        .map(|(partition, info)| partition_json(partition, info))
        .collect();
    JsonReply::of(&json!({
        "createdTimeUtc": events.created(),
        "partitions": partitions,
        "consumerGroups": events.consumer_groups(),
    }))
}

/// The endpoint that a request is about.
fn endpoint(app: &App, query: Option<&str>) -> Result<Arc<Endpoint>, ServiceError> {
    let name = query_parameter(query, "endpoint");
    let name = name.as_deref().unwrap_or(EVENTS);
    app.hub
        .events
        .endpoint(name)
        .ok_or_else(|| ServiceError::invalid(format!("there is no endpoint {name:?}")))
}

fn partition_json(partition: usize, info: &PartitionInfo) -> Value {
    json!({
        "partition": partition,
        "beginSequenceNumber": info.begin_sequence,
        // As Event Hubs shows that there was none.
        "lastSequenceNumber": info.last_sequence.map_or(json!(-1), Value::from),
        "lastOffset": info.last_offset.map_or_else(|| "-1".to_owned(), |offset| offset.to_string()),
        "lastEnqueuedTimeUtc": info.last_enqueued,
        "isEmpty": info.is_empty(),
        "count": info.count,
        "bytes": info.bytes,
    })
}

/// A list of events, or what happens from now on for a client that accepts
/// `text/event-stream`.
pub(super) async fn list_or_watch(
    State(app): State<App>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, HttpError> {
    if live::is_wanted(&headers) {
        return Ok(live::watch(&app, &headers, query.as_deref())?);
    }
    list(&app, query.as_deref()).map(JsonReply::into_response)
}

/// The events of `?partition=` from sequence number `?from=` (0) on, `?max=`
/// (100) of them; those that are kept no more are skipped.
fn list(app: &App, query: Option<&str>) -> Result<JsonReply, HttpError> {
    for (name, _) in query_pairs(query) {
        if !["endpoint", "partition", "from", "max", "api-version"]
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known))
        {
            return Err(ServiceError::invalid(format!(
                "{name:?} is no parameter here; there are endpoint, partition, from and max, and others with \
                 Accept: text/event-stream"
            ))
            .into());
        }
    }
    let number = |name: &str, default: u64| match query_parameter(query, name) {
        None => Ok(default),
        Some(text) => text
            .parse::<u64>()
            .map_err(|_| ServiceError::invalid(format!("{name}={text:?} is not a number"))),
    };
    let (partition, from) = (number("partition", 0)?, number("from", 0)?);
    let max = number("max", LISTED as u64)?.min(MOST_LISTED as u64);
    let endpoint = endpoint(app, query)?;
    let events = usize::try_from(partition)
        .ok()
        .and_then(|partition| endpoint.stream.peek(partition, from, max as usize))
        .ok_or_else(|| ServiceError::invalid(format!("there is no partition {partition}")))?;
    let events: Vec<Value> = events.iter().map(event_json).collect();
    JsonReply::of(&json!({ "events": events }))
}

/// How many events of each kind there were, in all and of each device that did
/// something, [`MOST_LISTED`] devices behind `?after=` in the order of their ids;
/// with `?device=` of one device, or of those whose ids begin with what is before
/// a `*`.
pub(super) async fn counters(
    State(app): State<App>,
    RawQuery(query): RawQuery,
) -> Result<JsonReply, HttpError> {
    let id = |name: &str| {
        let id = query_parameter(query.as_deref(), name).map(|text| DeviceId::parse(&text));
        id.transpose()
            .map_err(|e| ServiceError::invalid(format!("{name}: {e}")))
    };
    let (device, after) = (id("device")?, id("after")?);
    let tallies = app.hub.tallies(device.as_ref(), after.as_ref(), MOST_LISTED);
    let (tallies, next) = tallies.await?;
    let devices: Vec<Value> = tallies
        .into_iter()
        .map(|(device, mut counts)| {
            counts.insert("deviceId".to_owned(), json!(device));
            Value::Object(counts)
        })
        .collect();
    let figures = app.hub.events.journal.figures();
    JsonReply::of(&json!({
        "watchers": figures.watchers,
        "gaps": figures.gaps,
        "missed": figures.missed,
        "totals": app.hub.events.totals.json(),
        "devices": devices,
        "next": next,
    }))
}

/// Makes a consumer group, if it is not there.
pub(super) async fn create_group(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    LastName(name): LastName,
) -> Result<StatusCode, HttpError> {
    endpoint(&app, query.as_deref())?
        .stream
        .create_consumer_group(&name)
        .map_err(refuse_group)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a consumer group, if it is there; its readers end.
pub(super) async fn remove_group(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    LastName(name): LastName,
) -> Result<StatusCode, HttpError> {
    match endpoint(&app, query.as_deref())?
        .stream
        .delete_consumer_group(&name)
    {
        Ok(()) | Err(GroupError::NotFound) => Ok(StatusCode::NO_CONTENT),
        Err(error) => Err(refuse_group(error).into()),
    }
}

fn refuse_group(error: GroupError) -> ServiceError {
    ServiceError::invalid(error.to_string())
}
