//! What a configuration sets, and on what.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Map, Value};

use super::overlay;
use crate::error::{ErrorCode, ServiceError};
use crate::ids::ModuleId;
use crate::limits;
use crate::registry::body;
use crate::twin::TwinPatch;

/// Where the path of every setting starts.
const ROOT: &str = "properties.desired";
/// The module whose desired properties are an Edge device's deployment.
const EDGE_AGENT: &str = "$edgeAgent";

/// Whose desired properties a configuration sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContentKind {
    /// `deviceContent`: those of devices.
    Device,
    /// `moduleContent`: those of modules.
    Module,
    /// `modulesContent`: those of several modules of Edge devices, a deployment.
    Edge,
}

impl ContentKind {
    const ALL: [Self; 3] = [Self::Device, Self::Module, Self::Edge];

    /// The member of the content that holds it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Device => "deviceContent",
            Self::Module => "moduleContent",
            Self::Edge => "modulesContent",
        }
    }
}

/// What a configuration sets; prints as it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    settings: ContentSettings,
    written: Map<String, Value>,
}

/// The settings of a content by what they are for.
#[derive(Debug, Clone, PartialEq)]
pub enum ContentSettings {
    /// For devices.
    Device(Settings),
    /// For modules.
    Module(Settings),
    /// For each of these modules of an Edge device.
    Edge(BTreeMap<ModuleId, Settings>),
}

/// Desired properties that a configuration sets on one twin, as a tree without
/// nulls; it keeps the limits of a twin.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    tree: Map<String, Value>,
    /// Whether the section as a whole was named.
    whole: bool,
}

impl Content {
    /// Reads the content of a configuration: exactly one of `deviceContent`,
    /// `moduleContent` and `modulesContent`. Members that are null, or empty
    /// beside one that is not, count as absent: SDKs write them out.
    ///
    /// # Errors
    /// `InvalidConfigurationContent` when it is not an object, there is none or
    /// more than one kind, a path is not below `properties.desired` or set
    /// twice, a value breaks a limit of twins, or a deployment lacks
    /// `$edgeAgent`.
    pub fn parse(content: &Value) -> Result<Self, ServiceError> {
        let parsed = Self::parse_part(content)?;
        match &parsed.settings {
            ContentSettings::Edge(modules) if !modules.contains_key(EDGE_AGENT) => {
                Err(refused(format!("modulesContent must contain {EDGE_AGENT}")))
            }
            _ => Ok(parsed),
        }
    }

    /// Reads a content that is applied to one Edge device: as
    /// [`Content::parse`], but a deployment may be about any modules.
    ///
    /// # Errors
    /// As [`Content::parse`].
    pub fn parse_part(content: &Value) -> Result<Self, ServiceError> {
        let members = content
            .as_object()
            .ok_or_else(|| refused("content must be a JSON object"))?;
        let (kind, written) = only_kind(members)?;
        let settings = match kind {
            ContentKind::Device => ContentSettings::Device(Settings::parse(written)?),
            ContentKind::Module => ContentSettings::Module(Settings::parse(written)?),
            ContentKind::Edge => ContentSettings::Edge(modules(written)?),
        };
        let written = Map::from_iter([(kind.as_str().to_owned(), Value::Object(written.clone()))]);
        Ok(Self { settings, written })
    }

    /// Whose desired properties are set.
    #[must_use]
    pub fn kind(&self) -> ContentKind {
        match self.settings {
            ContentSettings::Device(_) => ContentKind::Device,
            ContentSettings::Module(_) => ContentKind::Module,
            ContentSettings::Edge(_) => ContentKind::Edge,
        }
    }

    /// What is set.
    #[must_use]
    pub fn settings(&self) -> &ContentSettings {
        &self.settings
    }

    /// The settings for one module of an Edge device that the deployment is for.
    #[must_use]
    pub fn edge_settings(&self, module: &ModuleId) -> Option<&Settings> {
        match &self.settings {
            ContentSettings::Edge(modules) => modules.get(module),
            _ => None,
        }
    }

    /// Whether this is a complete deployment: of those that select a device
    /// only the strongest counts. One that sets single properties is a layer on
    /// top of it.
    #[must_use]
    pub fn is_base_deployment(&self) -> bool {
        match &self.settings {
            ContentSettings::Edge(modules) => modules.get(EDGE_AGENT).is_some_and(Settings::is_whole),
            _ => false,
        }
    }

    /// The modules that an Edge device has with this deployment: those with
    /// settings, and those that `$edgeAgent` is told to run. What is told to
    /// `$edgeAgent` under a name that is no id is left out.
    #[must_use]
    pub fn deployed_modules(&self) -> BTreeSet<ModuleId> {
        let ContentSettings::Edge(modules) = &self.settings else {
            return BTreeSet::new();
        };
        let agent = modules
            .get(EDGE_AGENT)
            .and_then(|agent| agent.tree.get("modules"));
        let run = agent.and_then(Value::as_object).into_iter().flatten();
        modules
            .keys()
            .cloned()
            .chain(run.filter_map(|(id, _)| ModuleId::parse(id).ok()))
            .filter(|id| !id.is_system())
            .collect()
    }
}

impl Serialize for Content {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.written.serialize(serializer)
    }
}

/// The one kind of content that there is.
fn only_kind(content: &Map<String, Value>) -> Result<(ContentKind, &Map<String, Value>), ServiceError> {
    let mut present = Vec::new();
    for kind in ContentKind::ALL {
        let members = body::optional_object(content, kind.as_str()).map_err(|e| refused(e.message))?;
        present.extend(members.map(|members| (kind, members)));
    }
    let filled: Vec<_> = present
        .iter()
        .filter(|(_, members)| !members.is_empty())
        .copied()
        .collect();
    match (filled.as_slice(), present.as_slice()) {
        ([one], _) | ([], [one, ..]) => Ok(*one),
        ([], []) => Err(refused(
            "content must have deviceContent, moduleContent or modulesContent",
        )),
        _ => Err(refused(
            "content must have only one of deviceContent, moduleContent and modulesContent",
        )),
    }
}

fn modules(content: &Map<String, Value>) -> Result<BTreeMap<ModuleId, Settings>, ServiceError> {
    if content.len() > limits::MODULES_PER_DEVICE {
        return Err(refused(format!(
            "a deployment must not have more than {} modules",
            limits::MODULES_PER_DEVICE
        )));
    }
    content
        .iter()
        .map(|(id, settings)| {
            let id = ModuleId::parse(id).map_err(|e| refused(format!("bad module id: {e}")))?;
            let members = settings
                .as_object()
                .ok_or_else(|| refused(format!("the content of {id} must be a JSON object")))?;
            Ok((id, Settings::parse(members)?))
        })
        .collect()
}

impl Settings {
    fn parse(content: &Map<String, Value>) -> Result<Self, ServiceError> {
        let mut settings = Self::default();
        for (path, value) in content {
            let keys = keys_of(path)?;
            settings.whole |= keys.is_empty();
            // From the innermost key outwards.
            let tree = keys.iter().rev().fold(without_nulls(value), |inner, key| {
                inner.map(|inner| Value::Object(Map::from_iter([((*key).to_owned(), inner)])))
            });
            let tree = match tree {
                None => continue,
                Some(Value::Object(tree)) => tree,
                Some(_) => return Err(refused(format!("{ROOT} must be a JSON object"))),
            };
            if overlay::fill(&mut settings.tree, &tree).conflicts {
                return Err(refused(format!("{path} is set twice")));
            }
        }
        check_limits(&settings.tree)?;
        Ok(settings)
    }

    /// The desired properties.
    #[must_use]
    pub fn tree(&self) -> &Map<String, Value> {
        &self.tree
    }

    /// Whether the settings are for the desired section as a whole and not for
    /// single properties in it.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.whole
    }
}

/// The keys of a path below `properties.desired`.
fn keys_of(path: &str) -> Result<Vec<&str>, ServiceError> {
    let keys = match path.strip_prefix(ROOT) {
        Some("") => return Ok(Vec::new()),
        Some(below) => below.strip_prefix('.'),
        None => None,
    };
    let keys: Vec<&str> = keys
        .into_iter()
        .flat_map(|keys| keys.split('.'))
        // As many as a twin can nest, so that no path makes a bottomless tree.
        .take(limits::TWIN_DEPTH + 2)
        .collect();
    if keys.is_empty() || keys.contains(&"") {
        let path: String = path.chars().take(64).collect();
        return Err(refused(format!(
            "the path {path:?} must be {ROOT} or a property below it"
        )));
    }
    Ok(keys)
}

/// A null sets nothing, wherever it stands.
fn without_nulls(value: &Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Object(members) => Some(Value::Object(
            members
                .iter()
                .filter_map(|(key, value)| Some((key.clone(), without_nulls(value)?)))
                .collect(),
        )),
        other => Some(other.clone()),
    }
}

/// What is set must be something that a twin can hold.
fn check_limits(tree: &Map<String, Value>) -> Result<(), ServiceError> {
    if let Some(key) = tree.keys().find(|key| key.starts_with('$')) {
        return Err(refused(format!("the property {key} cannot be set")));
    }
    TwinPatch::from_json(&serde_json::json!({ "properties": { "desired": tree } }))
        .map(|_| ())
        .map_err(|e| refused(e.message))
}

fn refused(text: impl Into<String>) -> ServiceError {
    ServiceError::new(ErrorCode::InvalidConfigurationContent, text)
}
