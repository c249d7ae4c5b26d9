//! Reads a routing configuration and writes it back.

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::endpoint::{DirectorySettings, Endpoint, EndpointKind, StreamSettings, WebhookSettings};
use super::enrichment::Enrichment;
use super::reader::Members;
use super::{
    EVENTS, EndpointId, EndpointSet, Fallback, Route, RouteCondition, Routing, RoutingError,
    source_from_name, source_name,
};
use crate::duration;
use crate::events::{ConsumerGroups, DEFAULT_GROUP, Retention, Source};
use crate::limits;

/// Names that no endpoint of one's own may have.
const RESERVED: [&str; 3] = [EVENTS, "fileNotifications", "$default"];

/// Names that no stream may have: addresses of links that begin with them are
/// those of the hub's own queues and of its devices.
const ADDRESSES: [&str; 2] = ["messages", "devices"];

/// Kinds of endpoints that only the cloud has. A configuration that was read
/// there has an empty list of each.
const CLOUD_KINDS: [&str; 5] = [
    "eventHubs",
    "serviceBusQueues",
    "serviceBusTopics",
    "storageContainers",
    "cosmosDBSqlContainers",
];

pub(super) fn read(value: &Value) -> Result<Routing, RoutingError> {
    let members = Members::of(
        unwrap(value),
        "routing".into(),
        &["endpoints", "routes", "fallbackRoute", "enrichments"],
    )?;
    let endpoints = match members.get("endpoints") {
        None => Vec::new(),
        Some(value) => endpoints(value)?,
    };
    let names = Names(&endpoints);
    let routes = routes(members.array("routes")?, names)?;
    let fallback = match members.get("fallbackRoute") {
        None => Fallback::default(),
        Some(value) => fallback(value)?,
    };
    let enrichments = enrichments(members.array("enrichments")?, names)?;
    Ok(Routing::new(endpoints, routes, fallback, enrichments))
}

/// The routing itself, whether it stands alone or in the hub's resource.
fn unwrap(value: &Value) -> &Value {
    let member = |value: &'_ Value, name: &str| value.as_object().and_then(|o| o.get(name)).is_some();
    let inner = if member(value, "properties") {
        &value["properties"]
    } else {
        value
    };
    if member(inner, "routing") {
        &inner["routing"]
    } else {
        value
    }
}

/// The endpoints that routes and enrichments can name.
#[derive(Clone, Copy)]
struct Names<'a>(&'a [Endpoint]);

impl Names<'_> {
    fn find(self, name: &str, members: &Members<'_>) -> Result<EndpointId, RoutingError> {
        if name.eq_ignore_ascii_case(EVENTS) {
            return Ok(EndpointId::EVENTS);
        }
        self.0
            .iter()
            .position(|endpoint| endpoint.name.eq_ignore_ascii_case(name))
            .and_then(EndpointId::custom)
            .ok_or_else(|| members.fault(&format!("there is no endpoint {name:?}")))
    }
}

fn endpoints(value: &Value) -> Result<Vec<Endpoint>, RoutingError> {
    const KINDS: [&str; 3] = ["streams", "directories", "webhooks"];
    let known: Vec<&str> = KINDS.into_iter().chain(CLOUD_KINDS).collect();
    let members = Members::of(value, "endpoints".into(), &known)?;
    for kind in CLOUD_KINDS {
        if !members.array(kind)?.is_empty() {
            return Err(members.fault(&format!(
                "{kind} are of the cloud; a local hub has streams, directories and webhooks"
            )));
        }
    }
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for kind in KINDS {
        for (index, value) in members.array(kind)?.iter().enumerate() {
            if endpoints.len() == limits::ROUTING_ENDPOINTS {
                return Err(members.fault(&format!(
                    "there must not be more than {} endpoints beside the built-in one",
                    limits::ROUTING_ENDPOINTS
                )));
            }
            let place = format!("endpoints.{kind}[{index}]");
            let endpoint = match kind {
                "streams" => stream(value, place.clone()),
                "directories" => directory(value, place.clone()),
                _ => webhook(value, place.clone()),
            }?;
            if endpoints
                .iter()
                .any(|other| other.name.eq_ignore_ascii_case(&endpoint.name))
            {
                let reason = format!("there is another endpoint {:?}", endpoint.name);
                return Err(RoutingError::new(place, &reason));
            }
            endpoints.push(endpoint);
        }
    }
    Ok(endpoints)
}

/// Checks the name of an endpoint or route and notes it in the place.
fn name(members: &mut Members<'_>) -> Result<Box<str>, RoutingError> {
    let name = members.required_text("name")?;
    let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.chars().count() > limits::ROUTING_NAME_CHARS || !name.chars().all(is_legal) {
        return Err(members.fault(&format!(
            "name must have 1 to {} ASCII letters, digits, '.', '_' or '-'",
            limits::ROUTING_NAME_CHARS
        )));
    }
    members.called(name);
    Ok(name.into())
}

fn endpoint_name(members: &mut Members<'_>) -> Result<Box<str>, RoutingError> {
    let name = name(members)?;
    if RESERVED
        .iter()
        .any(|reserved| reserved.eq_ignore_ascii_case(&name))
    {
        return Err(members.fault("the name is reserved"));
    }
    Ok(name)
}

fn stream(value: &Value, place: String) -> Result<Endpoint, RoutingError> {
    let known = [
        "name",
        "partitions",
        "retention",
        "retentionBytes",
        "retentionCount",
        "consumerGroups",
    ];
    let mut members = Members::of(value, place, &known)?;
    let name = endpoint_name(&mut members)?;
    if ADDRESSES.iter().any(|taken| taken.eq_ignore_ascii_case(&name)) {
        return Err(members.fault("the name is reserved: readers could not call a stream so"));
    }
    let otherwise = Retention::default();
    let mut groups = ConsumerGroups::default();
    for group in members.texts("consumerGroups")? {
        groups
            .create(group)
            .map_err(|e| members.fault(&format!("consumer group {group:?}: {e}")))?;
    }
    let partitions = members.count(
        "partitions",
        limits::EVENT_PARTITIONS,
        limits::EVENT_PARTITIONS_DEFAULT,
    )?;
    let retention = Retention {
        time: members.duration(
            "retention",
            Duration::from_secs(1)..=limits::EVENT_RETENTION_MAX,
            otherwise.time,
        )?,
        bytes: usize::try_from(members.bytes("retentionBytes", 1..=1 << 40, otherwise.bytes as u64)?)
            .unwrap_or(usize::MAX),
        count: members.count("retentionCount", 1..=usize::MAX, otherwise.count)?,
    };
    Ok(Endpoint {
        name,
        kind: EndpointKind::Stream(StreamSettings {
            partitions,
            retention,
            consumer_groups: groups
                .names()
                .filter(|name| *name != DEFAULT_GROUP)
                .map(Into::into)
                .collect(),
        }),
    })
}

fn directory(value: &Value, place: String) -> Result<Endpoint, RoutingError> {
    let mut members = Members::of(value, place, &["name", "path", "maxFileBytes", "maxFiles"])?;
    let name = endpoint_name(&mut members)?;
    Ok(Endpoint {
        name,
        kind: EndpointKind::Directory(DirectorySettings {
            path: PathBuf::from(members.required_text("path")?),
            max_file_bytes: members.bytes(
                "maxFileBytes",
                limits::ROUTING_FILE_BYTES,
                limits::ROUTING_FILE_BYTES_DEFAULT,
            )?,
            max_files: members.count("maxFiles", limits::ROUTING_FILES, limits::ROUTING_FILES_DEFAULT)?,
        }),
    })
}

fn webhook(value: &Value, place: String) -> Result<Endpoint, RoutingError> {
    let mut members = Members::of(
        value,
        place,
        &["name", "url", "batchCount", "batchWait", "timeout"],
    )?;
    let name = endpoint_name(&mut members)?;
    let url = members.required_text("url")?;
    if !is_web_url(url) {
        return Err(members.fault("url must be an absolute URL with the scheme http or https"));
    }
    Ok(Endpoint {
        name,
        kind: EndpointKind::Webhook(WebhookSettings {
            url: url.into(),
            batch_count: members.count("batchCount", limits::WEBHOOK_BATCH, limits::WEBHOOK_BATCH_DEFAULT)?,
            batch_wait: members.duration(
                "batchWait",
                Duration::ZERO..=limits::WEBHOOK_WAIT_MAX,
                Duration::ZERO,
            )?,
            timeout: members.duration(
                "timeout",
                limits::WEBHOOK_TIMEOUT,
                limits::WEBHOOK_TIMEOUT_DEFAULT,
            )?,
        }),
    })
}

/// Whether a text is an absolute http or https URL, as far as that can be told
/// without resolving it: a host, perhaps a port, nothing that would break a
/// request's head.
fn is_web_url(url: &str) -> bool {
    let scheme = |name: &str| {
        url.get(..name.len())
            .filter(|head| head.eq_ignore_ascii_case(name))
            .map(|_| &url[name.len()..])
    };
    let Some(rest) = scheme("http://").or_else(|| scheme("https://")) else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (is_host, port) = match authority.strip_prefix('[') {
        // The colons of an IPv6 address are inside its brackets.
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) => (host.parse::<Ipv6Addr>().is_ok(), port),
            None => (false, ""),
        },
        None => {
            let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
            (!host.is_empty() && !host.contains(['@', '[', ']']), port)
        }
    };
    let is_port = |port: &str| {
        port.strip_prefix(':')
            .is_some_and(|port| port.parse::<u16>().is_ok())
    };
    is_host && (port.is_empty() || is_port(port)) && url.bytes().all(|b| b.is_ascii_graphic())
}

fn routes(values: &[Value], names: Names<'_>) -> Result<Vec<Route>, RoutingError> {
    if values.len() > limits::ROUTES {
        let reason = format!("there must not be more than {} routes", limits::ROUTES);
        return Err(RoutingError::new("routes".into(), &reason));
    }
    let mut routes: Vec<Route> = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        let known = ["name", "source", "condition", "endpointNames", "isEnabled"];
        let mut members = Members::of(value, format!("routes[{index}]"), &known)?;
        let name = name(&mut members)?;
        if routes.iter().any(|other| other.name.eq_ignore_ascii_case(&name)) {
            return Err(members.fault("there is another route of this name"));
        }
        let source = source(members.required_text("source")?, &members)?;
        let [endpoint] = members.texts("endpointNames")?[..] else {
            return Err(members.fault("endpointNames must name exactly one endpoint"));
        };
        routes.push(Route {
            name,
            source,
            condition: condition(&members, source)?,
            endpoint: names.find(endpoint, &members)?,
            is_enabled: members.flag("isEnabled", true)?,
        });
    }
    Ok(routes)
}

fn source(name: &str, members: &Members<'_>) -> Result<Source, RoutingError> {
    source_from_name(name).ok_or_else(|| {
        let known: Vec<&str> = Source::ALL.iter().map(|source| source_name(*source)).collect();
        members.fault(&format!(
            "unknown source {name:?}; known are {}",
            known.join(", ")
        ))
    })
}

fn condition(members: &Members<'_>, source: Source) -> Result<RouteCondition, RoutingError> {
    let text = members.text("condition")?.unwrap_or("true");
    RouteCondition::parse(text, source).map_err(|error| RoutingError {
        place: members.place.clone(),
        reason: format!("condition: {error}"),
        condition: Some(error),
    })
}

fn fallback(value: &Value) -> Result<Fallback, RoutingError> {
    let known = ["name", "source", "condition", "endpointNames", "isEnabled"];
    let mut members = Members::of(value, "fallbackRoute".into(), &known)?;
    let name = match members.text("name")? {
        None | Some("") => None,
        // The service itself calls it so.
        Some(reserved @ "$fallback") => Some(reserved.into()),
        Some(_) => Some(name(&mut members)?),
    };
    let source = members
        .text("source")?
        .map_or(Ok(Source::Telemetry), |name| source(name, &members))?;
    if source != Source::Telemetry {
        return Err(members.fault("the source of the fallback route is DeviceMessages"));
    }
    let endpoints = members.texts("endpointNames")?;
    if members.get("endpointNames").is_some()
        && !matches!(endpoints[..], [name] if name.eq_ignore_ascii_case(EVENTS))
    {
        return Err(members.fault("the fallback route leads to the built-in endpoint, events"));
    }
    Ok(Fallback {
        name,
        condition: condition(&members, source)?,
        is_enabled: members.flag("isEnabled", true)?,
    })
}

fn enrichments(values: &[Value], names: Names<'_>) -> Result<Vec<Enrichment>, RoutingError> {
    if values.len() > limits::ENRICHMENTS {
        let reason = format!("there must not be more than {} enrichments", limits::ENRICHMENTS);
        return Err(RoutingError::new("enrichments".into(), &reason));
    }
    let mut enrichments: Vec<Enrichment> = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        let mut members = Members::of(
            value,
            format!("enrichments[{index}]"),
            &["key", "value", "endpointNames"],
        )?;
        let key = members.required_text("key")?;
        let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if key.chars().count() > limits::ENRICHMENT_KEY_CHARS || !key.chars().all(is_legal) {
            return Err(members.fault(&format!(
                "key must have 1 to {} ASCII letters, digits, '.', '_' or '-'",
                limits::ENRICHMENT_KEY_CHARS
            )));
        }
        if crate::property_bag::SystemProperty::from_key(key).is_some() {
            return Err(members.fault("key is the name of a system property"));
        }
        members.called(key);
        let value = members.required_text("value")?;
        if value.chars().count() > limits::ENRICHMENT_VALUE_CHARS {
            return Err(members.fault(&format!(
                "value must not be longer than {} characters",
                limits::ENRICHMENT_VALUE_CHARS
            )));
        }
        let endpoints = members
            .texts("endpointNames")?
            .into_iter()
            .map(|name| names.find(name, &members))
            .collect::<Result<EndpointSet, _>>()?;
        if endpoints.is_empty() {
            return Err(members.fault("endpointNames must name at least one endpoint"));
        }
        let is_double = |other: &Enrichment| {
            *other.key == *key
                && other
                    .endpoints
                    .iter()
                    .any(|endpoint| endpoints.contains(endpoint))
        };
        if enrichments.iter().any(is_double) {
            return Err(members.fault("another enrichment of an endpoint has this key"));
        }
        enrichments.push(Enrichment::new(key, value, endpoints));
    }
    Ok(enrichments)
}

pub(super) fn write(routing: &Routing) -> Value {
    let mut kinds = [
        ("streams", Vec::new()),
        ("directories", Vec::new()),
        ("webhooks", Vec::new()),
    ];
    for endpoint in routing.endpoints() {
        let (kind, settings) = settings(&endpoint.kind);
        let mut members = Map::from_iter([("name".to_owned(), json!(endpoint.name))]);
        members.extend(settings);
        if let Some((_, list)) = kinds.iter_mut().find(|(name, _)| *name == kind) {
            list.push(Value::Object(members));
        }
    }
    let endpoint_names = |set: EndpointSet| -> Vec<&str> {
        set.iter()
            .map(|endpoint| routing.endpoint_name(endpoint))
            .collect()
    };
    let routes: Vec<Value> = routing
        .routes()
        .iter()
        .map(|route| {
            json!({
                "name": route.name,
                "source": source_name(route.source),
                "condition": route.condition.text(),
                "endpointNames": [routing.endpoint_name(route.endpoint)],
                "isEnabled": route.is_enabled,
            })
        })
        .collect();
    let fallback = routing.fallback();
    let enrichments: Vec<Value> = routing
        .enrichments()
        .iter()
        .map(|enrichment| {
            json!({
                "key": enrichment.key,
                "value": enrichment.value(),
                "endpointNames": endpoint_names(enrichment.endpoints),
            })
        })
        .collect();
    json!({
        "endpoints": Map::from_iter(kinds.map(|(name, list)| (name.to_owned(), Value::Array(list)))),
        "routes": routes,
        "fallbackRoute": {
            "name": fallback.name(),
            "source": source_name(Source::Telemetry),
            "condition": fallback.condition.text(),
            "endpointNames": [EVENTS],
            "isEnabled": fallback.is_enabled,
        },
        "enrichments": enrichments,
    })
}

/// The list that an endpoint belongs to, and what it says there beside its name.
fn settings(kind: &EndpointKind) -> (&'static str, Map<String, Value>) {
    let (list, settings) = match kind {
        EndpointKind::Stream(stream) => (
            "streams",
            json!({
                "partitions": stream.partitions,
                "retention": duration::text(stream.retention.time),
                "retentionBytes": stream.retention.bytes,
                "retentionCount": Some(stream.retention.count).filter(|count| *count != usize::MAX),
                "consumerGroups": stream.consumer_groups,
            }),
        ),
        EndpointKind::Directory(directory) => (
            "directories",
            json!({
                "path": directory.path.to_string_lossy(),
                "maxFileBytes": directory.max_file_bytes,
                "maxFiles": directory.max_files,
            }),
        ),
        EndpointKind::Webhook(webhook) => (
            "webhooks",
            json!({
                "url": webhook.url,
                "batchCount": webhook.batch_count,
                "batchWait": duration::text(webhook.batch_wait),
                "timeout": duration::text(webhook.timeout),
            }),
        ),
    };
    let Value::Object(mut settings) = settings else {
        return (list, Map::new());
    };
    settings.retain(|_, value| !value.is_null());
    (list, settings)
}
