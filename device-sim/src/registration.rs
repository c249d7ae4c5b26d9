//! Makes a fleet's devices known to a hub, through its service API.

use hub_core::error::ErrorCode;
use hub_core::ids::Target;
use job_service::rest::{ClientError, ServiceClient};
use serde_json::{Map, Value, json};

use crate::credentials::Credentials;

/// Devices per call, so that progress can be told; the client cuts further.
const CHUNK: usize = 500;

/// Why a fleet could not be registered.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// The service API refused or failed.
    #[error("the devices cannot be registered")]
    Service(#[source] ClientError),
    /// Single devices were refused.
    #[error("{refused} devices cannot be registered; the hub says of {device}: {reason}")]
    Devices {
        /// How many.
        refused: usize,
        /// The first of them.
        device: String,
        /// What the hub says of it.
        reason: String,
    },
}

/// What registering did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Registered {
    /// Devices that are new.
    pub created: usize,
    /// Devices that existed before and were left as they are. They can connect
    /// if the simulator registered them under the same connection string.
    pub existing: usize,
}

/// Registers every target with the key that `credentials` derive for it, or
/// with keys of the hub's choice where they derive none. `tags` become the
/// twins' tags. Tells `progress` how many are done.
///
/// # Errors
/// When the hub refuses; devices registered before that remain.
pub async fn register(
    client: &ServiceClient,
    credentials: &Credentials,
    targets: &[Target],
    tags: &Map<String, Value>,
    mut progress: impl FnMut(usize),
) -> Result<Registered, RegistrationError> {
    let mut registered = Registered::default();
    for (done, chunk) in (0..).step_by(CHUNK).zip(targets.chunks(CHUNK)) {
        let entries: Vec<Value> = chunk
            .iter()
            .map(|target| entry(target, credentials, tags))
            .collect();
        let errors = client
            .create_devices(&entries)
            .await
            .map_err(RegistrationError::Service)?;
        let (existing, refused): (Vec<&Value>, Vec<&Value>) = errors.iter().partition(|e| already_exists(e));
        if let Some(first) = refused.first() {
            let text = |member: &str| first[member].as_str().unwrap_or_default().to_owned();
            return Err(RegistrationError::Devices {
                refused: refused.len(),
                device: text("deviceId"),
                reason: format!("{} {}", first["errorCode"], text("errorStatus")),
            });
        }
        registered.existing += existing.len();
        registered.created += chunk.len() - existing.len();
        progress(done + chunk.len());
    }
    Ok(registered)
}

fn entry(target: &Target, credentials: &Credentials, tags: &Map<String, Value>) -> Value {
    let mut entry = json!({ "id": target.device, "status": "enabled" });
    if let Some(module) = &target.module {
        entry["moduleId"] = json!(module);
    }
    if let Some(key) = credentials.device_key(target) {
        let key = key.to_base64();
        entry["authentication"] =
            json!({ "type": "sas", "symmetricKey": { "primaryKey": key, "secondaryKey": key } });
    }
    if !tags.is_empty() {
        entry["tags"] = Value::Object(tags.clone());
    }
    entry
}

/// The hub writes the code as a name or as a number.
fn already_exists(error: &Value) -> bool {
    let codes = [ErrorCode::DeviceAlreadyExists, ErrorCode::ModuleAlreadyExistsOnDevice];
    match &error["errorCode"] {
        Value::String(name) => ErrorCode::from_name(name).is_some_and(|code| codes.contains(&code)),
        number => codes.iter().any(|code| number.as_u64() == Some(u64::from(code.number()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hub_core::connection_string::ConnectionString;
    use hub_core::ids::DeviceId;

    #[test]
    fn an_entry_carries_the_derived_key_and_tags() {
        let text = "HostName=h;SharedAccessKeyName=o;SharedAccessKey=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let Ok(ConnectionString::Service(service)) = ConnectionString::parse(text) else {
            panic!("not a service's");
        };
        let target = Target::device(DeviceId::parse("dev00001").unwrap());
        let tags = Map::from_iter([("building".to_owned(), json!(43))]);
        let derived = Credentials::derived(&service);
        let key = derived.device_key(&target).unwrap().to_base64();
        let expected = json!({
            "id": "dev00001",
            "status": "enabled",
            "authentication": {"type": "sas", "symmetricKey": {"primaryKey": key, "secondaryKey": key}},
            "tags": {"building": 43},
        });
        assert_eq!(entry(&target, &derived, &tags), expected);

        let policy = Credentials::policy(&service);
        let expected = json!({"id": "dev00001", "status": "enabled"});
        assert_eq!(entry(&target, &policy, &Map::new()), expected);
    }

    #[test]
    fn devices_that_exist_are_told_from_refusals() {
        for (error, exists) in [
            (json!({"errorCode": "DeviceAlreadyExists"}), true),
            (json!({"errorCode": 409_001}), true),
            (json!({"errorCode": "ArgumentInvalid"}), false),
            (json!({}), false),
        ] {
            assert_eq!(already_exists(&error), exists, "{error}");
        }
    }
}
