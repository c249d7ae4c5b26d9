//! `$management`: what Event Hubs clients ask about a stream before they read.
//!
//! A request is a message with application properties: `operation` is `READ`,
//! `type` says of what. The answer's body is a map. Source: what the clients
//! send and look for.

use std::sync::Arc;

use amqp_wire::Value;
use amqp_wire::engine::{Engine, Event};
use amqp_wire::message::{Body, Message};
use amqp_wire::value::Array;
use hub_core::events::PartitionInfo;

use super::Ctx;
use super::partition::{last_enqueued, last_offset, last_sequence};
use crate::amqp::address::{Address, Events, EventsName, EventsNode};
use crate::amqp::condition;
use crate::amqp::reply::{self, Reply};
use crate::hub::HubState;
use crate::hub::events::EventStream;

const HUB: &str = "com.microsoft:eventhub";
const PARTITION: &str = "com.microsoft:partition";

/// Why a request is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refusal {
    status: i32,
    condition: &'static str,
    description: String,
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        Self {
            condition: Some(refusal.condition),
            // Clients read the body before they look at the status.
            body: Body::Value(Value::Map(Vec::new())),
            ..Self::new(refusal.status, refusal.description)
        }
    }
}

/// Takes a request and answers it.
pub(super) fn on_event(event: Event, engine: &mut Engine, ctx: &mut Ctx<'_>) {
    let link = match &event {
        Event::Message { link, .. } => Some(*link),
        _ => None,
    };
    reply::on_event(event, engine, ctx, |request, ctx| {
        let address = link.and_then(|link| Some(&ctx.shared.links.get(&link)?.address));
        let entity = match address {
            Some(Address::Events(events)) => events.name.entity(),
            _ => None,
        };
        stream_of(ctx.hub, entity, request)
            .and_then(|stream| {
                check_right(ctx, stream.name(), request)?;
                read(&stream, request)
            })
            .map_or_else(Reply::from, |body| Reply {
                body: Body::Value(body),
                ..Reply::new(200, "OK")
            })
    });
}

/// The stream that a request is about: what it names, otherwise what its link is
/// attached to, which without a name is the built-in one.
fn stream_of(hub: &HubState, entity: Option<&str>, request: &Message) -> Result<Arc<EventStream>, Refusal> {
    let named = request.application_property("name").and_then(Value::as_str);
    let is_other = |name: &str| entity.is_some_and(|entity| !entity.eq_ignore_ascii_case(name));
    match named {
        Some(name) if is_other(name) => None,
        Some(name) => hub.events.stream(name),
        None => match entity {
            Some(entity) => hub.events.stream(entity),
            None => Some(hub.events.built_in().clone()),
        },
    }
    .ok_or_else(|| {
        let name: String = named.or(entity).unwrap_or_default().chars().take(120).collect();
        not_found(format!("there is no {name:?}"))
    })
}

/// Clients show their token again with every request. One that does not has
/// shown it to the connection.
fn check_right(ctx: &Ctx<'_>, entity: &str, request: &Message) -> Result<(), Refusal> {
    let token = match request.application_property("security_token") {
        None | Some(Value::Null) => None,
        Some(Value::Binary(bytes)) => Some(std::str::from_utf8(bytes).ok()),
        Some(other) => Some(other.as_str()),
    };
    let node = EventsNode::Management;
    let may = match token {
        Some(token) => {
            let paths = ctx.hub.event_paths(Some(entity), &node.path());
            token.is_some_and(|token| ctx.hub.authorize_events(token, &paths).is_ok())
        }
        None => {
            let name = EventsName::EventHub(entity.into());
            let address = Address::Events(Events { name, node });
            ctx.shared.caller.may(ctx.hub, &address).is_ok()
        }
    };
    if may {
        return Ok(());
    }
    Err(Refusal {
        status: 401,
        condition: condition::UNAUTHORIZED,
        description: "Unauthorized".into(),
    })
}

fn read(events: &EventStream, request: &Message) -> Result<Value, Refusal> {
    let entity = events.name();
    let text = |name| request.application_property(name).and_then(Value::as_str);
    if text("operation") != Some("READ") {
        return Err(bad_request("the operation is not READ".into()));
    }
    match text("type") {
        Some(HUB) => Ok(hub(events, entity)),
        Some(PARTITION) => partition(events, entity, request.application_property("partition")),
        _ => Err(bad_request(format!("the type is neither {HUB} nor {PARTITION}"))),
    }
}

fn bad_request(description: String) -> Refusal {
    Refusal {
        status: 400,
        condition: condition::ARGUMENT,
        description,
    }
}

fn not_found(reason: String) -> Refusal {
    Refusal {
        status: 404,
        condition: condition::NOT_FOUND,
        description: condition::no_such_entity_text(reason),
    }
}

fn hub(events: &EventStream, entity: &str) -> Value {
    let count = events.partitions().len();
    let created = Value::Timestamp(events.created().unix_milliseconds());
    map([
        ("name", Value::string(entity)),
        ("type", Value::from(HUB)),
        ("created_at", created),
        (
            "partition_count",
            Value::Int(i32::try_from(count).unwrap_or(i32::MAX)),
        ),
        (
            "partition_ids",
            Value::Array(Array::of_strings((0..count).map(|number| number.to_string()))),
        ),
    ])
}

fn partition(events: &EventStream, entity: &str, number: Option<&Value>) -> Result<Value, Refusal> {
    let all = events.partitions();
    // Clients send it as a text; a number is as good.
    let number = match number {
        Some(Value::String(text) | Value::Symbol(text)) => text.parse().ok(),
        Some(other) => other.as_i64().and_then(|number| usize::try_from(number).ok()),
        None => return Err(bad_request("there is no partition in the request".into())),
    };
    let found: Option<(usize, &PartitionInfo)> = number.and_then(|number| Some((number, all.get(number)?)));
    let Some((number, info)) = found else {
        let count = all.len();
        return Err(not_found(format!(
            "there is no such partition; the hub has {count}, from 0"
        )));
    };
    let begin = i64::try_from(info.begin_sequence).unwrap_or(i64::MAX);
    Ok(map([
        ("name", Value::string(entity)),
        ("type", Value::from(PARTITION)),
        ("partition", Value::string(number.to_string())),
        ("begin_sequence_number", Value::Long(begin)),
        ("last_enqueued_sequence_number", last_sequence(info)),
        ("last_enqueued_offset", last_offset(info)),
        ("last_enqueued_time_utc", last_enqueued(info)),
        ("is_partition_empty", Value::Bool(info.is_empty())),
    ]))
}

fn map<const N: usize>(entries: [(&'static str, Value); N]) -> Value {
    Value::Map(entries.map(|(name, value)| (Value::from(name), value)).into())
}

#[cfg(test)]
mod tests;
