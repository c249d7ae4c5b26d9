//! What a condition is evaluated over: rows, and the paths into them.

use std::fmt;

use serde_json::{Map, Value as Json};

use super::value::{Members, Value};
use crate::twin::Object;

/// A twin, module twin or job record as a query sees it.
///
/// `P` is how this kind of row is addressed; twins and job records use
/// [`Path`].
pub trait Row<P: ?Sized = Path> {
    /// The value that `path` leads to, [`Value::Undefined`] when it leads
    /// nowhere.
    fn get(&self, path: &P) -> Value<'_>;
}

macro_rules! attributes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Where a path starts: a root attribute of the rows in a collection.
        ///
        /// The two property sections count as attributes, so that a row finds
        /// its section without comparing texts.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Attribute {
            $($(#[$doc])* $variant,)*
            /// No attribute of a twin: such a path is undefined in every row.
            /// Its first segment is the first key.
            Unknown,
        }

        impl Attribute {
            /// The last segment of the attribute's canonical name, as in
            /// `deviceId` or `desired`; empty for [`Attribute::Unknown`].
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                    Self::Unknown => "",
                }
            }
        }
    };
}

attributes! {
    /// Id of the device; queries may also call it `id`.
    DeviceId = "deviceId",
    /// Id of the module, in module twins and in records of jobs over modules.
    ModuleId = "moduleId",
    /// ETag of the twin.
    Etag = "etag",
    /// ETag of the identity.
    DeviceEtag = "deviceEtag",
    /// `enabled` or `disabled`; in job records the state of the device's part.
    Status = "status",
    /// Why the device is disabled, in the operator's words.
    StatusReason = "statusReason",
    /// When the status was last changed.
    StatusUpdateTime = "statusUpdateTime",
    /// `Connected` or `Disconnected`.
    ConnectionState = "connectionState",
    /// When the device last connected, sent or received.
    LastActivityTime = "lastActivityTime",
    /// Messages in the device's queue.
    CloudToDeviceMessageCount = "cloudToDeviceMessageCount",
    /// `sas`, `selfSigned`, `certificateAuthority` or `none`.
    AuthenticationType = "authenticationType",
    /// Object of the two thumbprints.
    X509Thumbprint = "x509Thumbprint",
    /// The digital twin model that the device announced.
    ModelId = "modelId",
    /// Version of tags and desired properties together.
    Version = "version",
    /// The tags; keys follow.
    Tags = "tags",
    /// `properties` as a whole, an object of both sections.
    Properties = "properties",
    /// `properties.desired`; keys follow, `$version` and `$metadata` among them.
    Desired = "desired",
    /// `properties.reported`; keys follow, `$version` and `$metadata` among them.
    Reported = "reported",
    /// Object of the device's capabilities.
    Capabilities = "capabilities",
    /// The Edge scope of the device.
    DeviceScope = "deviceScope",
    /// The Edge scopes above the device, an array.
    ParentScopes = "parentScopes",
    /// Automatic configurations by id, each with its `status`.
    Configurations = "configurations",
    /// Id of the job, in job records as are all that follow.
    JobId = "jobId",
    /// `scheduleDeviceMethod` or `scheduleUpdateTwin`.
    JobType = "jobType",
    /// When work on the device started.
    StartTimeUtc = "startTimeUtc",
    /// When work on the device ended.
    EndTimeUtc = "endTimeUtc",
    /// When the record was made; queries may also call it `createdTimeUtc`.
    CreatedDateTimeUtc = "createdDateTimeUtc",
    /// When the record last changed.
    LastUpdatedDateTimeUtc = "lastUpdatedDateTimeUtc",
}

/// A way into a row: an attribute and the keys below it.
///
/// The service's own names are in their canonical spelling, whatever the query
/// wrote: `ID` is `deviceId`, `Properties.Reported.Temp` is the key `Temp` of
/// [`Attribute::Reported`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Path {
    attribute: Attribute,
    keys: Box<[Box<str>]>,
}

impl Path {
    /// A path of `keys` below `attribute`.
    #[must_use]
    pub fn new(attribute: Attribute, keys: impl Into<Box<[Box<str>]>>) -> Self {
        Self {
            attribute,
            keys: keys.into(),
        }
    }

    /// Where the path starts.
    #[must_use]
    pub fn attribute(&self) -> Attribute {
        self.attribute
    }

    /// The keys below the attribute, outermost first; empty for the attribute
    /// itself.
    #[must_use]
    pub fn keys(&self) -> &[Box<str>] {
        &self.keys
    }

    /// The last segment, which names an output column that has no alias.
    pub(super) fn last_segment(&self) -> &str {
        self.keys.last().map_or(self.attribute.name(), |key| key)
    }
}

/// As a query would write it: `properties.reported.temp`.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if matches!(self.attribute, Attribute::Desired | Attribute::Reported) {
            f.write_str("properties.")?;
        }
        f.write_str(self.attribute.name())?;
        for (index, key) in self.keys.iter().enumerate() {
            if index > 0 || self.attribute != Attribute::Unknown {
                f.write_str(".")?;
            }
            let is_plain = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
            if key.chars().all(is_plain) {
                f.write_str(key)?;
            } else {
                write!(f, "[[{key}]]")?;
            }
        }
        Ok(())
    }
}

/// Follows `keys` into a section of a twin; no keys at all mean the section.
#[must_use]
pub fn walk<'a>(section: &'a Object, keys: &[Box<str>]) -> Value<'a> {
    if keys.is_empty() {
        return Value::Object(Members::Twin(section));
    }
    section.at(keys).map_or(Value::Undefined, Value::from)
}

/// Follows `keys` into a JSON object; no keys at all mean the object itself.
fn walk_json<'a>(object: &'a Map<String, Json>, keys: &[Box<str>]) -> Value<'a> {
    let Some((first, rest)) = keys.split_first() else {
        return Value::Object(Members::Json(std::borrow::Cow::Borrowed(object)));
    };
    object
        .get(&**first)
        .and_then(|json| {
            rest.iter()
                .try_fold(json, |json, key| json.as_object()?.get(&**key))
        })
        .map_or(Value::Undefined, Value::from)
}

/// A row in the JSON form that the service sends.
impl Row for Json {
    fn get(&self, path: &Path) -> Value<'_> {
        let attribute = match path.attribute {
            Attribute::Desired => self.get("properties").and_then(|p| p.get("desired")),
            Attribute::Reported => self.get("properties").and_then(|p| p.get("reported")),
            Attribute::Unknown => None,
            attribute => Json::get(self, attribute.name()),
        };
        match attribute {
            None => Value::Undefined,
            Some(Json::Object(object)) => walk_json(object, &path.keys),
            Some(json) if path.keys.is_empty() => Value::from(json),
            Some(_) => Value::Undefined,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_rows_are_walked_by_attribute_and_keys() {
        let row = json!({
            "deviceId": "d",
            "tags": {"a": {"b": 1}, "c": [1]},
            "properties": {"reported": {"$version": 4}},
        });
        let get = |attribute, keys: &[&str]| {
            let keys: Vec<Box<str>> = keys.iter().map(|key| (*key).into()).collect();
            Row::get(&row, &Path::new(attribute, keys)).into_json()
        };
        assert_eq!(get(Attribute::DeviceId, &[]), Some(json!("d")));
        assert_eq!(get(Attribute::DeviceId, &["x"]), None);
        assert_eq!(get(Attribute::Tags, &["a", "b"]), Some(json!(1)));
        assert_eq!(get(Attribute::Tags, &["a"]), Some(json!({"b": 1})));
        assert_eq!(get(Attribute::Tags, &["a", "b", "c"]), None);
        assert_eq!(get(Attribute::Tags, &["c", "0"]), None);
        assert_eq!(get(Attribute::Tags, &[]), Some(row["tags"].clone()));
        assert_eq!(get(Attribute::Reported, &["$version"]), Some(json!(4)));
        assert_eq!(get(Attribute::Desired, &["$version"]), None);
        assert_eq!(get(Attribute::Unknown, &["deviceId"]), None);
    }
}
