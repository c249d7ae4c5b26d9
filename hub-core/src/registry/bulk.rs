//! Many identities in one request (POST /devices).
//!
//! [`parse_bulk`] reads the request into entries that are independent of each
//! other: what is wrong with one entry is reported for that entry, and only
//! what is wrong with the request as a whole refuses the request.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value};

use super::body;
use super::precondition::IfMatch;
use super::{DeviceSpec, ModuleSpec};
use crate::error::{ErrorCode, ServiceError};
use crate::ids::{DeviceId, IdError, ModuleId, Target};
use crate::limits;
use crate::twin::TwinPatch;

/// What an entry asks for. Read without regard to case; clients disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportMode {
    /// Make a new identity.
    Create,
    /// Replace an existing identity.
    Update,
    /// Replace it if the ETag is this.
    UpdateIfMatchETag,
    /// Remove it.
    Delete,
    /// Remove it if the ETag is this.
    DeleteIfMatchETag,
    /// Merge into its twin.
    UpdateTwin,
    /// Merge into its twin if the twin's ETag is this.
    UpdateTwinIfMatchETag,
    /// Make a new identity or replace an existing one; in import jobs only.
    CreateOrUpdate,
    /// As `CreateOrUpdate`, but replace only if the ETag is this; in import
    /// jobs only.
    CreateOrUpdateIfMatchETag,
}

impl ImportMode {
    /// The modes of a bulk request.
    const IN_REQUESTS: [Self; 7] = [
        Self::Create,
        Self::Update,
        Self::UpdateIfMatchETag,
        Self::Delete,
        Self::DeleteIfMatchETag,
        Self::UpdateTwin,
        Self::UpdateTwinIfMatchETag,
    ];

    /// The modes that only import jobs know.
    const IN_JOBS: [Self; 2] = [Self::CreateOrUpdate, Self::CreateOrUpdateIfMatchETag];

    /// The service's spelling.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::UpdateIfMatchETag => "updateIfMatchETag",
            Self::Delete => "delete",
            Self::DeleteIfMatchETag => "deleteIfMatchETag",
            Self::UpdateTwin => "updateTwin",
            Self::UpdateTwinIfMatchETag => "updateTwinIfMatchETag",
            Self::CreateOrUpdate => "createOrUpdate",
            Self::CreateOrUpdateIfMatchETag => "createOrUpdateIfMatchETag",
        }
    }

    /// Whether the identity may be there or not.
    #[must_use]
    pub fn creates_or_updates(self) -> bool {
        Self::IN_JOBS.contains(&self)
    }

    fn parse(text: &str) -> Option<Self> {
        Self::IN_REQUESTS
            .into_iter()
            .chain(Self::IN_JOBS)
            .find(|mode| mode.as_str().eq_ignore_ascii_case(text))
    }
}

/// One legal entry of a bulk request.
#[derive(Debug, Clone, PartialEq)]
pub struct BulkEntry {
    /// Whom the entry is about.
    pub target: Target,
    /// What it asks for.
    pub mode: ImportMode,
    /// The precondition in terms of a single request: absent to create, any or
    /// an ETag for the rest. For twin updates it is about the twin's ETag.
    pub if_match: IfMatch,
    /// What to do once the precondition holds.
    pub action: BulkAction,
}

/// What a bulk entry does.
#[derive(Debug, Clone, PartialEq)]
pub enum BulkAction {
    /// A PUT of the identity, to be decided by [`check_put`](super::check_put).
    Put {
        /// The identity asked for.
        identity: IdentitySpec,
        /// Tags and desired properties that a newly created identity starts with.
        twin: TwinPatch,
    },
    /// A DELETE of the identity.
    Delete,
    /// A PATCH of the twin.
    PatchTwin(TwinPatch),
}

/// The identity that an entry describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentitySpec {
    /// A device.
    Device(DeviceSpec),
    /// A module.
    Module(ModuleSpec),
}

impl BulkEntry {
    /// The report that this entry failed.
    #[must_use]
    pub fn failed(&self, error: &ServiceError) -> BulkError {
        BulkError {
            device_id: self.target.device.as_str().into(),
            module_id: self.target.module.as_ref().map(|id| id.as_str().into()),
            error_code: error.code.name(),
            error_status: error.message.clone(),
            operation: Some(self.mode.as_str().into()),
        }
    }
}

/// Reads the body of POST /devices: 1 to 100 entries with different device ids.
///
/// # Errors
/// For the request: `ArgumentInvalid` when it is not a non-empty array of
/// objects with an `id`, `TooManyDevices` above 100 entries,
/// `DeviceDefinedMultipleTimes` when two entries have the same device id (also
/// two modules of one device). What is wrong with a single entry stands in
/// that entry's place.
pub fn parse_bulk(body: &Value) -> Result<Vec<Result<BulkEntry, BulkError>>, ServiceError> {
    let Value::Array(entries) = body else {
        return Err(ServiceError::invalid("the body must be a JSON array of devices"));
    };
    check_count(entries)?;
    let mut seen = BTreeSet::new();
    let mut parsed = Vec::with_capacity(entries.len());
    for entry in entries {
        let members = body::object(entry, "each device")?;
        let id = entry_id(members)?;
        if !seen.insert(id) {
            return Err(ServiceError::new(
                ErrorCode::DeviceDefinedMultipleTimes,
                format!("DeviceDefinedMultipleTimes, device ID {id}"),
            ));
        }
        let entry = import_mode(members).and_then(|mode| parse_entry(entry, members, id, mode));
        parsed.push(entry.map_err(|e| invalid_entry(members, id, e)));
    }
    Ok(parsed)
}

/// Reads one line of an import file. Without an `importMode` it asks to create
/// or update. A device that may be created or updated must have a `status`
/// (the import guide).
///
/// For a mode that creates or updates, the entry's precondition is that of an
/// existing identity.
///
/// # Errors
/// Says what is wrong with the line; its device id is empty if it names none.
pub fn parse_import_line(line: &[u8]) -> Result<BulkEntry, BulkError> {
    let no_members = Map::new();
    let invalid = |e: ServiceError| invalid_entry(&no_members, "", e);
    crate::json::check_depth(line).map_err(|e| invalid(ServiceError::invalid(e.to_string())))?;
    let entry: Value = serde_json::from_slice(line)
        .map_err(|e| invalid(ServiceError::invalid(format!("the line is not valid JSON: {e}"))))?;
    let members = body::object(&entry, "the line").map_err(invalid)?;
    let id = members.get("id").and_then(Value::as_str).unwrap_or_default();
    let mode = match body::non_empty_str(members, "importMode") {
        Ok(None) => Ok(ImportMode::CreateOrUpdate),
        Ok(Some(text)) => ImportMode::parse(text)
            .ok_or_else(|| ServiceError::invalid(format!("the importMode {text:?} is unknown"))),
        Err(error) => Err(error),
    };
    let parsed = mode.and_then(|mode| {
        let parsed = parse_entry(&entry, members, id, mode)?;
        let is_device = matches!(
            parsed.action,
            BulkAction::Put {
                identity: IdentitySpec::Device(_),
                ..
            }
        );
        if is_device && body::non_empty_str(members, "status")?.is_none() {
            return Err(ServiceError::new(ErrorCode::ArgumentNull, "status is required"));
        }
        Ok(parsed)
    });
    parsed.map_err(|e| invalid_entry(members, id, e))
}

/// One request is about 1 to 100 devices.
pub(super) fn check_count(entries: &[Value]) -> Result<(), ServiceError> {
    if entries.is_empty() {
        return Err(ServiceError::invalid("the array of devices must not be empty"));
    }
    if entries.len() > limits::BULK_ENTRIES {
        return Err(ServiceError::new(
            ErrorCode::TooManyDevices,
            format!(
                "the request has {} devices, which exceeds the limit of {}",
                entries.len(),
                limits::BULK_ENTRIES
            ),
        ));
    }
    Ok(())
}

/// The device that an entry is about, legal or not.
pub(super) fn entry_id(members: &Map<String, Value>) -> Result<&str, ServiceError> {
    body::optional_str(members, "id")?.ok_or_else(|| ServiceError::invalid("each device must have an id"))
}

fn parse_entry(
    entry: &Value,
    members: &Map<String, Value>,
    id: &str,
    mode: ImportMode,
) -> Result<BulkEntry, ServiceError> {
    use ImportMode as Mode;
    let device = DeviceId::parse(id).map_err(|e| illegal_id(&e))?;
    let module = body::non_empty_str(members, "moduleId")?
        .map(|id| ModuleId::parse(id).map_err(|e| illegal_id(&e)))
        .transpose()?;
    let if_match = match mode {
        Mode::Create => IfMatch::Absent,
        Mode::Update | Mode::Delete | Mode::UpdateTwin | Mode::CreateOrUpdate => IfMatch::Any,
        Mode::UpdateIfMatchETag | Mode::DeleteIfMatchETag | Mode::CreateOrUpdateIfMatchETag => {
            required_etag(members, ["eTag", "etag"])?
        }
        Mode::UpdateTwinIfMatchETag => required_etag(members, ["twinETag", "twinEtag"])?,
    };
    let action = match mode {
        Mode::Create
        | Mode::Update
        | Mode::UpdateIfMatchETag
        | Mode::CreateOrUpdate
        | Mode::CreateOrUpdateIfMatchETag => BulkAction::Put {
            identity: match &module {
                None => IdentitySpec::Device(DeviceSpec::from_json(entry, &device)?),
                Some(module) => IdentitySpec::Module(ModuleSpec::from_json(entry, &device, module)?),
            },
            twin: TwinPatch::from_json(entry)?,
        },
        Mode::Delete | Mode::DeleteIfMatchETag => BulkAction::Delete,
        Mode::UpdateTwin | Mode::UpdateTwinIfMatchETag => BulkAction::PatchTwin(TwinPatch::from_json(entry)?),
    };
    Ok(BulkEntry {
        target: Target { device, module },
        mode,
        if_match,
        action,
    })
}

fn import_mode(members: &Map<String, Value>) -> Result<ImportMode, ServiceError> {
    let text = body::non_empty_str(members, "importMode")?
        .ok_or_else(|| ServiceError::new(ErrorCode::ArgumentNull, "importMode is required"))?;
    let mode = ImportMode::parse(text).filter(|mode| !mode.creates_or_updates());
    mode.ok_or_else(|| {
        let modes = ImportMode::IN_REQUESTS.map(ImportMode::as_str).join(", ");
        ServiceError::invalid(format!("importMode must be one of {modes}"))
    })
}

/// The ETag under whichever name the client gave it.
fn required_etag(members: &Map<String, Value>, names: [&str; 2]) -> Result<IfMatch, ServiceError> {
    for name in names {
        let etag = IfMatch::parse(body::optional_str(members, name)?);
        if etag != IfMatch::Absent {
            return Ok(etag);
        }
    }
    Err(ServiceError::stale_etag())
}

fn illegal_id(error: &IdError) -> ServiceError {
    ServiceError::invalid(error.to_string())
}

/// The report on an entry that could not be read, with what it says of itself.
fn invalid_entry(members: &Map<String, Value>, id: &str, error: ServiceError) -> BulkError {
    let text = |name| members.get(name).and_then(Value::as_str);
    BulkError {
        device_id: id.into(),
        module_id: text("moduleId").map(Into::into),
        error_code: error.code.name(),
        error_status: error.message,
        operation: text("importMode").map(Into::into),
    }
}

/// Why one entry of a bulk request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BulkError {
    /// The device as the request named it, legal or not.
    pub device_id: String,
    /// The module, when the entry named one.
    pub module_id: Option<String>,
    /// Name of the error.
    pub error_code: &'static str,
    /// Text for people.
    pub error_status: String,
    /// The import mode.
    pub operation: Option<String>,
}

/// The answer to a bulk request; sent with status 200 or, if an entry failed, 400.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BulkResult {
    /// Whether every entry was carried out.
    pub is_successful: bool,
    /// The entries that failed.
    pub errors: Vec<BulkError>,
    // The service warns of devices registered without their twin; here an
    // entry is carried out completely or not at all. Clients want the member.
    warnings: [(); 0],
}

impl From<Vec<BulkError>> for BulkResult {
    fn from(errors: Vec<BulkError>) -> Self {
        Self {
            is_successful: errors.is_empty(),
            errors,
            warnings: [],
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::needless_pass_by_value,
        reason = "JSON literals read better without a reference"
    )]

    use super::*;
    use crate::registry::already_exists;
    use serde_json::json;

    fn device_spec(body: Value) -> DeviceSpec {
        DeviceSpec::from_json(&body, &DeviceId::parse("dev1").unwrap()).unwrap()
    }

    fn module_spec(body: Value) -> ModuleSpec {
        let (device, module) = (DeviceId::parse("dev1").unwrap(), ModuleId::parse("m1").unwrap());
        ModuleSpec::from_json(&body, &device, &module).unwrap()
    }

    /// The only entry of a bulk request with one.
    fn bulk_entry(entry: Value) -> Result<BulkEntry, BulkError> {
        parse_bulk(&json!([entry])).unwrap().remove(0)
    }

    #[test]
    fn import_lines_create_or_update_unless_they_say_otherwise() {
        let read = |line: Value| parse_import_line(line.to_string().as_bytes());
        let entry = read(json!({"id": "a", "status": "enabled", "eTag": "x"})).unwrap();
        assert_eq!(
            (entry.mode, entry.if_match),
            (ImportMode::CreateOrUpdate, IfMatch::Any)
        );
        let entry = read(
            json!({"id": "a", "status": "enabled", "eTag": "x", "importMode": "CreateOrUpdateIfMatchETag"}),
        )
        .unwrap();
        assert_eq!(entry.if_match, IfMatch::ETag("x".into()));
        assert!(read(json!({"id": "a", "moduleId": "m"})).is_ok());
        assert!(read(json!({"id": "a", "importMode": "delete"})).is_ok());
        for (line, code) in [
            (json!({"id": "a"}), "ArgumentNull"),
            (json!({"id": "a b", "status": "enabled"}), "ArgumentInvalid"),
            (json!({"status": "enabled"}), "ArgumentInvalid"),
            (json!({"id": "a", "status": "odd"}), "ArgumentInvalid"),
            (
                json!({"id": "a", "status": "enabled", "importMode": "x"}),
                "ArgumentInvalid",
            ),
            (
                json!({"id": "a", "status": "enabled", "importMode": 1}),
                "ArgumentInvalid",
            ),
            (json!([]), "ArgumentInvalid"),
        ] {
            assert_eq!(read(line.clone()).unwrap_err().error_code, code, "{line}");
        }
        let error = parse_import_line(b"nonsense").unwrap_err();
        assert_eq!((&*error.device_id, error.error_code), ("", "ArgumentInvalid"));
    }

    #[test]
    fn bulk_modes_become_preconditions_of_single_requests() {
        let etag = |text: &str| IfMatch::ETag(text.into());
        for (entry, mode, if_match) in [
            (
                json!({"importMode": "create"}),
                ImportMode::Create,
                IfMatch::Absent,
            ),
            (json!({"importMode": "Update"}), ImportMode::Update, IfMatch::Any),
            (
                json!({"importMode": "UpdateIfMatchETag", "eTag": "MA=="}),
                ImportMode::UpdateIfMatchETag,
                etag("MA=="),
            ),
            (
                json!({"importMode": "updateIfMatchETag", "etag": "*"}),
                ImportMode::UpdateIfMatchETag,
                IfMatch::Any,
            ),
            (json!({"importMode": "DELETE"}), ImportMode::Delete, IfMatch::Any),
            (
                json!({"importMode": "deleteIfMatchEtag", "etag": "\"MA==\""}),
                ImportMode::DeleteIfMatchETag,
                etag("MA=="),
            ),
            (
                json!({"importMode": "updateTwin", "tags": {"a": 1}}),
                ImportMode::UpdateTwin,
                IfMatch::Any,
            ),
            (
                json!({"importMode": "updateTwinIfMatchETag", "twinETag": "AAAAAAAAAAE=", "eTag": "MA=="}),
                ImportMode::UpdateTwinIfMatchETag,
                etag("AAAAAAAAAAE="),
            ),
        ] {
            let mut entry = entry;
            entry["id"] = "dev1".into();
            let parsed = bulk_entry(entry.clone()).unwrap();
            assert_eq!((parsed.mode, parsed.if_match), (mode, if_match), "{entry}");
            let action = match parsed.action {
                BulkAction::Put { .. } => "put",
                BulkAction::Delete => "delete",
                BulkAction::PatchTwin(_) => "patch",
            };
            let expected = match mode.as_str() {
                mode if mode.starts_with("delete") => "delete",
                mode if mode.starts_with("updateTwin") => "patch",
                _ => "put",
            };
            assert_eq!(action, expected, "{entry}");
        }
    }

    #[test]
    fn bulk_entries_describe_devices_modules_and_first_twins() {
        let twin = json!({"tags": {"t": 1}, "properties": {"desired": {"d": 1}, "reported": {}}});
        let mut entry = twin.clone();
        entry["id"] = "dev1".into();
        entry["importMode"] = "create".into();
        entry["status"] = "disabled".into();
        let parsed = bulk_entry(entry.clone()).unwrap();
        let BulkAction::Put {
            identity: IdentitySpec::Device(device),
            twin: first,
        } = parsed.action
        else {
            panic!("{parsed:?}");
        };
        assert_eq!(device, device_spec(json!({"status": "disabled"})));
        assert_eq!(first, TwinPatch::from_json(&twin).unwrap());
        entry["moduleId"] = "m1".into();
        entry["managedBy"] = "me".into();
        let parsed = bulk_entry(entry).unwrap();
        assert_eq!(parsed.target.to_string(), "dev1/m1");
        let BulkAction::Put {
            identity: IdentitySpec::Module(module),
            ..
        } = parsed.action
        else {
            panic!("{parsed:?}");
        };
        assert_eq!(module, module_spec(json!({"managedBy": "me"})));
    }

    #[test]
    fn a_bad_bulk_entry_is_reported_beside_the_good_ones() {
        let body = json!([
            {"id": "good", "importMode": "create"},
            {"id": "a/b", "importMode": "create"},
            {"id": "m", "moduleId": "#", "importMode": "Delete"},
            {"id": "mode", "importMode": "createOrUpdate"},
            {"id": "none"},
            {"id": "etag", "importMode": "updateIfMatchETag"},
            {"id": "key", "importMode": "create", "authentication": {"symmetricKey": {"primaryKey": "x"}}},
            {"id": "twin", "importMode": "updateTwin", "tags": {"a b": 1}},
        ]);
        let parsed = parse_bulk(&body).unwrap();
        let codes: Vec<_> = parsed
            .iter()
            .map(|entry| entry.as_ref().map_err(|e| e.error_code).err())
            .collect();
        assert_eq!(
            codes,
            [
                None,
                Some("ArgumentInvalid"),
                Some("ArgumentInvalid"),
                Some("ArgumentInvalid"),
                Some("ArgumentNull"),
                Some("PreconditionFailed"),
                Some("ArgumentInvalid"),
                Some("ArgumentInvalid"),
            ]
        );
        let failure = parsed[2].as_ref().unwrap_err();
        assert_eq!(
            (
                failure.device_id.as_str(),
                failure.module_id.as_deref(),
                failure.operation.as_deref()
            ),
            ("m", Some("#"), Some("Delete"))
        );
    }

    #[test]
    fn bad_bulk_requests_are_refused_whole() {
        let entry = |i: usize| json!({"id": format!("d{i}"), "importMode": "create"});
        let entries = |n: usize| parse_bulk(&(0..n).map(entry).collect::<Value>());
        assert_eq!(entries(100).unwrap().len(), 100);
        assert_eq!(entries(101).unwrap_err().code, ErrorCode::TooManyDevices);
        for body in [
            json!({}),
            json!([]),
            json!([1]),
            json!([{"importMode": "create"}]),
            json!([{"id": 1}]),
        ] {
            assert_eq!(
                parse_bulk(&body).unwrap_err().code,
                ErrorCode::ArgumentInvalid,
                "{body}"
            );
        }
        let twice = json!([
            {"id": "d", "moduleId": "m1", "importMode": "create"},
            {"id": "d", "moduleId": "m2", "importMode": "create"},
        ]);
        let error = parse_bulk(&twice).unwrap_err();
        assert_eq!(error.code, ErrorCode::DeviceDefinedMultipleTimes);
        assert_eq!(error.message, "DeviceDefinedMultipleTimes, device ID d");
    }

    #[test]
    fn bulk_results_read_as_the_service_prints_them() {
        let text = |errors: Vec<BulkError>| serde_json::to_string(&BulkResult::from(errors)).unwrap();
        assert_eq!(text(vec![]), r#"{"isSuccessful":true,"errors":[],"warnings":[]}"#);
        let entry = bulk_entry(json!({"id": "x", "importMode": "Create"})).unwrap();
        assert_eq!(
            text(vec![entry.failed(&already_exists(&entry.target))]),
            concat!(
                r#"{"isSuccessful":false,"errors":[{"deviceId":"x","moduleId":null,"#,
                r#""errorCode":"DeviceAlreadyExists","errorStatus":"A device with ID 'x' is already registered.","#,
                r#""operation":"create"}],"warnings":[]}"#
            )
        );
    }
}
