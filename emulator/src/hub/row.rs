//! A twin as a row of a query, looked at where it lives: no document is made
//! for a row that does not match.

use std::borrow::Cow;

use hub_core::query::{Attribute, Path, Row, Source, Value, walk};
use hub_core::registry::Status;
use hub_core::routing::SenderTwin;
use hub_core::time::Timestamp;
use hub_core::twin::{Section, Twin, TwinDocument, TwinOwner};

/// A device's or module's twin in a query.
pub(crate) struct TwinRow<'a>(pub(crate) TwinDocument<'a>);

/// Whether an index over a path is possible: its value is simple, and found
/// without making the document.
pub(super) fn is_indexable(source: Source, path: &Path) -> bool {
    if source == Source::Jobs {
        return false;
    }
    let keys = path.keys();
    match path.attribute() {
        Attribute::Tags => !keys.is_empty(),
        Attribute::Desired | Attribute::Reported => {
            // The hub's own members change with every write.
            keys.first().is_some_and(|key| !key.starts_with('$'))
        }
        Attribute::Capabilities => is_iot_edge(keys),
        Attribute::Configurations => matches!(keys, [_, field] if &**field == "status"),
        Attribute::ModuleId
        | Attribute::Status
        | Attribute::ConnectionState
        | Attribute::AuthenticationType
        | Attribute::ModelId => keys.is_empty(),
        _ => false,
    }
}

fn is_iot_edge(keys: &[Box<str>]) -> bool {
    matches!(keys, [key] if &**key == "iotEdge")
}

impl Row for TwinRow<'_> {
    fn get(&self, path: &Path) -> Value<'_> {
        let TwinDocument {
            owner,
            connection,
            twin,
            configurations,
        } = &self.0;
        let keys = path.keys();
        match path.attribute() {
            Attribute::Tags => return walk(twin.tags(), keys),
            Attribute::Desired => return section(twin.desired(), keys, || self.rendered(path)),
            Attribute::Reported => return section(twin.reported(), keys, || self.rendered(path)),
            Attribute::Configurations => {
                return match (configurations, keys) {
                    (None, _) => Value::Undefined,
                    (Some(overlay), [id, field]) if &**field == "status" => overlay
                        .status(id)
                        .map_or(Value::Undefined, |status| text(status.as_str())),
                    _ => self.rendered(path),
                };
            }
            Attribute::Capabilities if is_iot_edge(keys) => {
                return Value::Bool(match owner {
                    TwinOwner::Device(device) => device.capabilities.iot_edge,
                    TwinOwner::Module(_) => false,
                });
            }
            // Rare: attributes that are objects or lists.
            Attribute::Properties
            | Attribute::X509Thumbprint
            | Attribute::Capabilities
            | Attribute::ParentScopes => return self.rendered(path),
            _ if !keys.is_empty() => return Value::Undefined,
            _ => {}
        }
        match path.attribute() {
            Attribute::DeviceId => text(owner.device_id().as_str()),
            Attribute::ModuleId => owner.module_id().map_or(Value::Undefined, |id| text(id.as_str())),
            Attribute::Etag => Value::Str(twin.etag().into()),
            Attribute::Version => number(twin.version()),
            Attribute::ModelId => text(twin.model_id().unwrap_or_default()),
            Attribute::ConnectionState => text(connection.state.as_str()),
            Attribute::LastActivityTime => time(connection.last_activity),
            Attribute::CloudToDeviceMessageCount => number(u64::from(connection.queued_messages)),
            Attribute::Status => text(match owner {
                TwinOwner::Device(device) => device.status.as_str(),
                // A module has no status of its own; its twin shows this.
                TwinOwner::Module(_) => Status::Enabled.as_str(),
            }),
            Attribute::AuthenticationType => text(match owner {
                TwinOwner::Device(device) => device.authentication.kind(),
                TwinOwner::Module(module) => module.authentication.kind(),
            }),
            _ => self.rendered(path),
        }
    }
}

impl TwinRow<'_> {
    /// The value as the document shows it.
    fn rendered(&self, path: &Path) -> Value<'_> {
        let Ok(document) = serde_json::to_value(self.0) else {
            return Value::Undefined;
        };
        Row::get(&document, path).into_owned()
    }
}

/// A path below `properties.desired` or `properties.reported`, where `$version`
/// and `$metadata` are keys like any other. `rendered` gives what the twin's
/// document shows there.
fn section<'a>(section: &'a Section, keys: &[Box<str>], rendered: impl FnOnce() -> Value<'a>) -> Value<'a> {
    match keys.first().map(|key| &**key) {
        // Rare: the section as a whole, which includes the two.
        None => rendered(),
        Some("$version") if keys.len() == 1 => number(section.version()),
        Some("$version") => Value::Undefined,
        Some("$metadata") => metadata(section, keys, rendered),
        _ => walk(section.properties(), keys),
    }
}

fn metadata<'a>(section: &Section, keys: &[Box<str>], rendered: impl FnOnce() -> Value<'a>) -> Value<'a> {
    let Some((last, above)) = keys.split_last().filter(|_| keys.len() > 1) else {
        return rendered();
    };
    match &**last {
        "$lastUpdated" => section
            .metadata_at(&above[1..])
            .map_or(Value::Undefined, |(updated, _)| time(updated)),
        "$lastUpdatedVersion" => section
            .metadata_at(&above[1..])
            .and_then(|(_, version)| version)
            .map_or(Value::Undefined, number),
        // Rare: the metadata of a property with all that is below it.
        _ => rendered(),
    }
}

/// The sections of a twin, which is what routes and enrichments can reach.
pub(crate) struct SectionsRow<'a>(pub(crate) &'a Twin);

impl Row for SectionsRow<'_> {
    fn get(&self, path: &Path) -> Value<'_> {
        let (keys, twin) = (path.keys(), self.0);
        let rendered = |name: &str, section: &Section| {
            let document = serde_json::json!({ "properties": { name: section } });
            Row::get(&document, path).into_owned()
        };
        match path.attribute() {
            Attribute::Tags => walk(twin.tags(), keys),
            Attribute::Desired => section(twin.desired(), keys, || rendered("desired", twin.desired())),
            Attribute::Reported => section(twin.reported(), keys, || rendered("reported", twin.reported())),
            _ => Value::Undefined,
        }
    }
}

/// Of a twin that the caller has locked.
impl SenderTwin for SectionsRow<'_> {
    fn look(&self, look: &mut dyn FnMut(&dyn Row)) {
        look(self);
    }
}

fn text(text: &str) -> Value<'_> {
    Value::Str(Cow::Borrowed(text))
}

fn time<'a>(time: Timestamp) -> Value<'a> {
    Value::Str(Cow::Owned(time.to_string()))
}

fn number<'a>(number: u64) -> Value<'a> {
    // Versions stay far below 2^53.
    Value::Number(number as f64)
}
