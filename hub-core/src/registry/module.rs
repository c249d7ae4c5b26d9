//! Identities of modules.

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::authentication::{Authentication, AuthenticationSpec};
use super::body;
use super::connection::{Connection, ConnectionState};
use super::fresh::Fresh;
use crate::error::ServiceError;
use crate::ids::{DeviceId, ModuleId};
use crate::limits;
use crate::time::Timestamp;

/// Modules that the hub gives every Edge device.
const SYSTEM_MODULES: [&str; 2] = ["$edgeAgent", "$edgeHub"];
/// `managedBy` of those modules.
const EDGE_RUNTIME: &str = "iotEdge";

/// A registered module. It has no status of its own: it is reachable exactly
/// when its device is enabled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleIdentity {
    /// The module's id, unique on its device.
    pub id: ModuleId,
    /// The device that the module belongs to.
    pub device: DeviceId,
    /// Who looks after the module; free text.
    pub managed_by: Option<Box<str>>,
    /// Tells this module from earlier ones of the same id; 18 digits.
    pub generation_id: Box<str>,
    /// Changes with each replacement and with nothing else; without quotes.
    pub etag: Box<str>,
    /// The module's credentials.
    pub authentication: Authentication,
}

/// What the body of a PUT asks for; everything it does not name has its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleSpec {
    id: ModuleId,
    device: DeviceId,
    managed_by: Option<Box<str>>,
    authentication: AuthenticationSpec,
}

impl ModuleSpec {
    /// Reads a module document; the ids are those in the request's path.
    /// Read-only and unknown members are ignored. The credentials `none` become
    /// fresh keys, as the service does it.
    ///
    /// # Errors
    /// `ArgumentInvalid` when the body is not an object, names another
    /// `deviceId` or `moduleId`, or a member breaks its rule.
    pub fn from_json(body: &Value, device: &DeviceId, id: &ModuleId) -> Result<Self, ServiceError> {
        let module = body::object(body, "the module")?;
        body::same_id(module, "deviceId", device.as_str())?;
        body::same_id(module, "moduleId", id.as_str())?;
        let authentication = match AuthenticationSpec::from_identity(module)? {
            AuthenticationSpec::Given(Authentication::None) => AuthenticationSpec::NewKeys,
            other => other,
        };
        Ok(Self {
            id: id.clone(),
            device: device.clone(),
            managed_by: body::short_str(module, "managedBy", limits::MANAGED_BY_CHARS)?.map(Into::into),
            authentication,
        })
    }

    /// The module that the spec is for.
    #[must_use]
    pub fn id(&self) -> &ModuleId {
        &self.id
    }

    /// The device that the module belongs to.
    #[must_use]
    pub fn device(&self) -> &DeviceId {
        &self.device
    }
}

impl ModuleIdentity {
    /// A module that did not exist.
    #[must_use]
    pub fn create(spec: ModuleSpec, fresh: &mut Fresh<'_>) -> Self {
        let etag = fresh.etag(None);
        let generation_id = fresh.ticks();
        Self::build(spec, generation_id, etag, fresh)
    }

    /// The successor of this identity under `spec`, which must be for the same
    /// ids. Nothing is kept but the generation.
    #[must_use]
    pub fn replace(&self, spec: ModuleSpec, fresh: &mut Fresh<'_>) -> Self {
        let etag = fresh.etag(Some(&self.etag));
        Self::build(spec, self.generation_id.clone(), etag, fresh)
    }

    fn build(spec: ModuleSpec, generation_id: Box<str>, etag: Box<str>, fresh: &mut Fresh<'_>) -> Self {
        Self {
            id: spec.id,
            device: spec.device,
            managed_by: spec.managed_by,
            generation_id,
            etag,
            authentication: spec.authentication.resolve(fresh),
        }
    }

    /// `$edgeAgent` and `$edgeHub` of an Edge device.
    pub(super) fn system_modules(device: &DeviceId, fresh: &mut Fresh<'_>) -> Vec<Self> {
        SYSTEM_MODULES
            .iter()
            .filter_map(|id| ModuleId::parse(id).ok())
            .map(|id| Self {
                id,
                device: device.clone(),
                managed_by: Some(EDGE_RUNTIME.into()),
                generation_id: fresh.ticks(),
                etag: fresh.etag(None),
                authentication: Authentication::None,
            })
            .collect()
    }

    /// The module as the service prints it.
    #[must_use]
    pub fn document<'a>(&'a self, connection: &'a Connection) -> ModuleDocument<'a> {
        ModuleDocument {
            identity: self,
            connection,
        }
    }
}

/// A module as the service prints it; serializes in the service's order of members.
#[derive(Debug, Clone, Copy)]
pub struct ModuleDocument<'a> {
    identity: &'a ModuleIdentity,
    connection: &'a Connection,
}

impl Serialize for ModuleDocument<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Members<'a> {
            module_id: &'a str,
            managed_by: Option<&'a str>,
            device_id: &'a str,
            generation_id: &'a str,
            etag: &'a str,
            connection_state: ConnectionState,
            connection_state_updated_time: Timestamp,
            last_activity_time: Timestamp,
            cloud_to_device_message_count: u32,
            authentication: &'a Authentication,
        }
        let Self { identity, connection } = self;
        Members {
            module_id: identity.id.as_str(),
            managed_by: identity.managed_by.as_deref(),
            device_id: identity.device.as_str(),
            generation_id: &identity.generation_id,
            etag: &identity.etag,
            connection_state: connection.state,
            connection_state_updated_time: connection.state_updated,
            last_activity_time: connection.last_activity,
            cloud_to_device_message_count: connection.queued_messages,
            authentication: &identity.authentication,
        }
        .serialize(serializer)
    }
}
