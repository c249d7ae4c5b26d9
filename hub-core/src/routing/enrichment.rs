//! Enrichments: application properties that a message gets on its way to an
//! endpoint.

use std::cell::OnceCell;

use super::message::Message;
use super::set::EndpointSet;
use crate::events::Source;
use crate::limits;
use crate::property_bag::Bag;
use crate::query::{Condition, Path, Reference, Value};

/// A property to add to the messages for some endpoints.
#[derive(Debug, Clone, PartialEq)]
pub struct Enrichment {
    /// The property's name.
    pub key: Box<str>,
    /// For the messages to which endpoints.
    pub endpoints: EndpointSet,
    text: Box<str>,
    kind: Kind,
}

/// What an enrichment's value is.
#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Literal,
    HubName,
    Twin(Path),
}

/// A message is larger than a message may be once its enrichments are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the message has {size} bytes with its enrichments, more than {}",
    limits::D2C_MESSAGE_BYTES
)]
pub struct Oversized {
    /// Its size in bytes with all enrichments.
    pub size: usize,
}

impl Enrichment {
    pub(super) fn new(key: &str, text: &str, endpoints: EndpointSet) -> Self {
        let kind = if text.eq_ignore_ascii_case("$iothubname") {
            Kind::HubName
        } else {
            twin_path(text).map_or(Kind::Literal, Kind::Twin)
        };
        Self {
            key: key.into(),
            endpoints,
            text: text.into(),
            kind,
        }
    }

    /// The value as it was written.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.text
    }
}

/// The path into the twin that a value is; any other text is a literal.
fn twin_path(text: &str) -> Option<Path> {
    if !text.get(..6)?.eq_ignore_ascii_case("$twin.") {
        return None;
    }
    let condition = Condition::parse(text, Source::Telemetry).ok()?;
    match condition.as_reference()? {
        Reference::Twin(path, below) if below.is_empty() && !path.keys().is_empty() => Some(path.clone()),
        _ => None,
    }
}

/// What every enrichment adds, in their order.
pub(super) fn values<'e>(
    enrichments: impl Iterator<Item = &'e Enrichment>,
    message: &Message<'_>,
    hub_name: &str,
) -> Vec<(&'e str, String)> {
    if message.source == Source::DigitalTwinChange {
        return Vec::new();
    }
    let enrichments: Vec<&Enrichment> = enrichments.collect();
    // All paths at one look, so that they are of one moment.
    let twin = OnceCell::new();
    let found = || twin.get_or_init(|| from_twin(&enrichments, message));
    enrichments
        .iter()
        .enumerate()
        .map(|(index, enrichment)| {
            let value = match &enrichment.kind {
                Kind::Literal => None,
                Kind::HubName => Some(hub_name.to_owned()),
                Kind::Twin(_) => found().get(index).cloned().flatten(),
            };
            (
                &*enrichment.key,
                value.unwrap_or_else(|| enrichment.text.to_string()),
            )
        })
        .collect()
}

/// The value in the sender's twin of each enrichment that has one there.
fn from_twin(enrichments: &[&Enrichment], message: &Message<'_>) -> Vec<Option<String>> {
    let mut values = Vec::new();
    if let Some(twin) = message.twin {
        twin.look(&mut |row| {
            let value = |enrichment: &&Enrichment| match &enrichment.kind {
                Kind::Twin(path) => text(row.get(path)),
                _ => None,
            };
            values = enrichments.iter().map(value).collect();
        });
    }
    values
}

/// A value of a primitive type as the text of a property.
fn text(value: Value<'_>) -> Option<String> {
    match value {
        Value::Str(text) => Some(text.into_owned()),
        Value::Bool(_) | Value::Number(_) => value.into_json().map(|json| json.to_string()),
        _ => None,
    }
}

/// As [`Routing::enrich`](super::Routing::enrich).
pub(super) fn enrich<'e>(
    enrichments: impl Iterator<Item = &'e Enrichment>,
    message: &Message<'_>,
    hub_name: &str,
) -> Result<Option<Bag<'static>>, Oversized> {
    let added = values(enrichments, message, hub_name);
    if added.is_empty() {
        return Ok(None);
    }
    let mut properties = message.bag.decode();
    for (key, value) in added {
        properties.application.insert(key.to_owned(), value);
    }
    let size = properties.size() + message.body.len();
    if size > limits::D2C_MESSAGE_BYTES {
        return Err(Oversized { size });
    }
    Ok(Some(Bag::from(&properties)))
}
