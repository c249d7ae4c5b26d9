//! New keys for many identities at once (POST /devices/keys/regenerate), as the
//! Azure CLI's `renew-key` asks for them.
//!
//! [`KeyRegeneration::from_json`] reads the request,
//! [`DeviceIdentity::regenerate_key`] makes the new key of one identity.
//! Entries are independent of each other.

use serde::Serialize;
use serde_json::Value;

use super::authentication::{Authentication, KeyPair, SymmetricKey};
use super::bulk::{check_count, entry_id};
use super::{BulkError, DeviceIdentity, Fresh, ModuleIdentity, body};
use crate::error::{ErrorCode, ServiceError};
use crate::ids::{DeviceId, ModuleId, Target};

/// Which of an identity's two keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PolicyKey {
    /// The first.
    PrimaryKey,
    /// The second.
    SecondaryKey,
}

/// The request: which key, of whom. An entry that cannot be read stands as its
/// report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRegeneration {
    /// The key to make anew.
    pub key: PolicyKey,
    /// Devices and modules, 1 to 100.
    pub targets: Vec<Result<Target, BulkError>>,
}

impl KeyRegeneration {
    /// Reads `{"policyKey": "primaryKey", "devices": [{"id", "moduleId"?}]}`.
    ///
    /// # Errors
    /// `InvalidPolicyKey` for another key, `TooManyDevices` above 100 entries,
    /// `ArgumentInvalid` for everything else that is wrong with the request as
    /// a whole.
    pub fn from_json(request: &Value) -> Result<Self, ServiceError> {
        let request = body::object(request, "the request")?;
        let key = match body::optional_str(request, "policyKey")? {
            Some(key) if key.eq_ignore_ascii_case("primaryKey") => PolicyKey::PrimaryKey,
            Some(key) if key.eq_ignore_ascii_case("secondaryKey") => PolicyKey::SecondaryKey,
            _ => {
                return Err(ServiceError::new(
                    ErrorCode::InvalidPolicyKey,
                    "policyKey must be primaryKey or secondaryKey",
                ));
            }
        };
        let entries = body::optional_array(request, "devices")?;
        check_count(entries)?;
        let targets = entries.iter().map(target).collect::<Result<_, _>>()?;
        Ok(Self { key, targets })
    }
}

fn target(entry: &Value) -> Result<Result<Target, BulkError>, ServiceError> {
    let entry = body::object(entry, "each device")?;
    let id = entry_id(entry)?;
    let module = body::non_empty_str(entry, "moduleId")?;
    let device = DeviceId::parse(id);
    Ok(match (device, module.map(ModuleId::parse).transpose()) {
        (Ok(device), Ok(module)) => Ok(Target { device, module }),
        (Err(error), _) | (_, Err(error)) => {
            Err(failure(id, module, &ServiceError::invalid(error.to_string())))
        }
    })
}

fn failure(device: &str, module: Option<&str>, error: &ServiceError) -> BulkError {
    BulkError {
        device_id: device.into(),
        module_id: module.map(Into::into),
        error_code: error.code.name(),
        error_status: error.message.clone(),
        operation: None,
    }
}

/// The report that an identity did not get its new key.
#[must_use]
pub fn not_regenerated(target: &Target, error: &ServiceError) -> BulkError {
    let module = target.module.as_ref().map(ModuleId::as_str);
    failure(target.device.as_str(), module, error)
}

impl DeviceIdentity {
    /// Makes one of the device's keys anew, which also changes its ETag.
    ///
    /// # Errors
    /// `InvalidOperation` when the device has no symmetric keys.
    pub fn regenerate_key(
        &mut self,
        key: PolicyKey,
        fresh: &mut Fresh<'_>,
    ) -> Result<RotatedKey, ServiceError> {
        let keys = renew(&mut self.authentication, &mut self.etag, key, fresh)?;
        Ok(RotatedKey::of(&self.id, None, keys))
    }
}

impl ModuleIdentity {
    /// As [`DeviceIdentity::regenerate_key`].
    ///
    /// # Errors
    /// `InvalidOperation` when the module has no symmetric keys.
    pub fn regenerate_key(
        &mut self,
        key: PolicyKey,
        fresh: &mut Fresh<'_>,
    ) -> Result<RotatedKey, ServiceError> {
        let keys = renew(&mut self.authentication, &mut self.etag, key, fresh)?;
        Ok(RotatedKey::of(&self.device, Some(&self.id), keys))
    }
}

fn renew<'a>(
    authentication: &'a mut Authentication,
    etag: &mut Box<str>,
    key: PolicyKey,
    fresh: &mut Fresh<'_>,
) -> Result<&'a KeyPair, ServiceError> {
    let Authentication::Sas(keys) = authentication else {
        return Err(ServiceError::new(
            ErrorCode::InvalidOperation,
            "the identity does not authenticate with symmetric keys",
        ));
    };
    let new = SymmetricKey::from_bytes(&(fresh.random)());
    match key {
        PolicyKey::PrimaryKey => keys.primary = new,
        PolicyKey::SecondaryKey => keys.secondary = new,
    }
    *etag = fresh.etag(Some(etag));
    Ok(keys)
}

/// One identity's new key in the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RotatedKey {
    /// The device.
    pub id: Box<str>,
    /// The module, when it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module_id: Option<Box<str>>,
    /// Both keys as they are now.
    pub primary_key: Box<str>,
    /// See `primary_key`.
    pub secondary_key: Box<str>,
}

impl RotatedKey {
    fn of(device: &DeviceId, module: Option<&ModuleId>, keys: &KeyPair) -> Self {
        Self {
            id: device.as_str().into(),
            module_id: module.map(|id| id.as_str().into()),
            primary_key: keys.primary.as_str().into(),
            secondary_key: keys.secondary.as_str().into(),
        }
    }
}

/// The answer to the request, always with status 200.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RegenerationResult {
    /// Which key was asked for.
    pub policy_key: PolicyKey,
    /// The identities that have a new key.
    pub rotated_keys: Vec<RotatedKey>,
    /// The identities that have not.
    pub errors: Vec<BulkError>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Thumbprints;
    use crate::time::Timestamp;
    use serde_json::json;

    #[test]
    fn requests_are_read() {
        let request = json!({"policyKey": "SecondaryKey",
            "devices": [{"id": "d"}, {"id": "d", "moduleId": "m"}, {"id": "a/b"}]});
        let read = KeyRegeneration::from_json(&request).unwrap();
        assert_eq!(read.key, PolicyKey::SecondaryKey);
        let module = read.targets[1].as_ref().unwrap().module.as_ref().unwrap();
        assert_eq!(module.as_str(), "m");
        let bad = read.targets[2].as_ref().unwrap_err();
        assert_eq!(
            (bad.device_id.as_str(), bad.error_code),
            ("a/b", "ArgumentInvalid")
        );
    }

    #[test]
    fn bad_requests_are_refused_as_a_whole() {
        let code = |request: Value| KeyRegeneration::from_json(&request).unwrap_err().code;
        let devices = json!([{"id": "d"}]);
        for (request, expected) in [
            (json!([]), ErrorCode::ArgumentInvalid),
            (json!({"devices": devices}), ErrorCode::InvalidPolicyKey),
            (
                json!({"policyKey": "primary", "devices": devices}),
                ErrorCode::InvalidPolicyKey,
            ),
            (json!({"policyKey": 1}), ErrorCode::ArgumentInvalid),
            (json!({"policyKey": "primaryKey"}), ErrorCode::ArgumentInvalid),
            (
                json!({"policyKey": "primaryKey", "devices": "d"}),
                ErrorCode::ArgumentInvalid,
            ),
            (
                json!({"policyKey": "primaryKey", "devices": ["d"]}),
                ErrorCode::ArgumentInvalid,
            ),
            (
                json!({"policyKey": "primaryKey", "devices": [{}]}),
                ErrorCode::ArgumentInvalid,
            ),
            (
                json!({"policyKey": "primaryKey", "devices": vec![json!({"id": "d"}); 101]}),
                ErrorCode::TooManyDevices,
            ),
        ] {
            assert_eq!(code(request.clone()), expected, "{request}");
        }
    }

    #[test]
    fn one_key_changes_and_only_of_those_who_have_keys() {
        let mut random = || [7; 32];
        let mut fresh = Fresh {
            now: Timestamp::NEVER,
            random: &mut random,
        };
        let old = SymmetricKey::from_bytes(&[1; 32]);
        let mut etag = Box::from("MA==");
        let mut authentication = Authentication::Sas(KeyPair {
            primary: old.clone(),
            secondary: old.clone(),
        });
        let keys = renew(
            &mut authentication,
            &mut etag,
            PolicyKey::SecondaryKey,
            &mut fresh,
        )
        .unwrap();
        assert_eq!(keys.primary, old);
        assert_eq!(keys.secondary, SymmetricKey::from_bytes(&[7; 32]));
        assert_ne!(&*etag, "MA==");
        for mut other in [
            Authentication::CertificateAuthority,
            Authentication::SelfSigned(Thumbprints::default()),
            Authentication::None,
        ] {
            let error = renew(&mut other, &mut etag, PolicyKey::PrimaryKey, &mut fresh).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidOperation);
        }
    }
}
