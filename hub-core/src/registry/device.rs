//! Identities of devices.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::authentication::{Authentication, AuthenticationSpec};
use super::body;
use super::connection::{Connection, ConnectionState};
use super::fresh::Fresh;
use super::module::ModuleIdentity;
use super::scope;
use crate::error::ServiceError;
use crate::ids::DeviceId;
use crate::limits;
use crate::time::Timestamp;

/// A registered device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceIdentity {
    /// The device's id.
    pub id: DeviceId,
    /// Tells this device from earlier ones of the same id; 18 digits.
    pub generation_id: Box<str>,
    /// Changes with each replacement and with nothing else; without quotes.
    pub etag: Box<str>,
    /// Whether the device may connect.
    pub status: Status,
    /// The operator's note on `status`, at most 128 characters.
    pub status_reason: Option<Box<str>>,
    /// When `status` changed last; [`Timestamp::NEVER`] while it is as created.
    pub status_updated: Timestamp,
    /// The device's credentials.
    pub authentication: Authentication,
    /// What kind of device it is.
    pub capabilities: Capabilities,
    /// An Edge device's own scope; for other devices the scope of their parent.
    pub device_scope: Option<Box<str>>,
    /// Scope of the Edge device above this one; empty or one entry.
    pub parent_scopes: Vec<Box<str>>,
}

/// Whether a device may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Status {
    /// It may.
    #[default]
    Enabled,
    /// It may not; its twin and its queue stay.
    Disabled,
}

impl Status {
    /// The service's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
        }
    }

    fn parse(text: &str) -> Result<Self, ServiceError> {
        // Case is not significant: SDKs spell enumerations in various ways.
        [Self::Enabled, Self::Disabled]
            .into_iter()
            .find(|status| status.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| ServiceError::invalid("status must be enabled or disabled"))
    }
}

/// What kind of device an identity stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// Whether it runs IoT Edge.
    pub iot_edge: bool,
}

/// What the body of a PUT asks for; everything it does not name has its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSpec {
    id: DeviceId,
    status: Status,
    status_reason: Option<Box<str>>,
    authentication: AuthenticationSpec,
    capabilities: Capabilities,
    device_scope: Option<Box<str>>,
    parent_scope: Option<Box<str>>,
}

impl DeviceSpec {
    /// Reads a device document; `id` is the one in the request's path.
    /// Read-only and unknown members are ignored.
    ///
    /// # Errors
    /// `ArgumentInvalid` when the body is not an object, names another
    /// `deviceId`, or a member breaks its rule.
    pub fn from_json(body: &Value, id: &DeviceId) -> Result<Self, ServiceError> {
        let device = body::object(body, "the device")?;
        body::same_id(device, "deviceId", id.as_str())?;
        let authentication = AuthenticationSpec::from_identity(device)?;
        if authentication == AuthenticationSpec::Given(Authentication::None) {
            return Err(ServiceError::invalid(
                "authentication type none is not allowed for devices",
            ));
        }
        Ok(Self {
            id: id.clone(),
            status: body::non_empty_str(device, "status")?
                .map(Status::parse)
                .transpose()?
                .unwrap_or_default(),
            status_reason: body::short_str(device, "statusReason", limits::STATUS_REASON_CHARS)?
                .map(Into::into),
            authentication,
            capabilities: capabilities(device)?,
            device_scope: body::non_empty_str(device, "deviceScope")?.map(Into::into),
            parent_scope: parent_scope(device)?,
        })
    }

    /// The id that the spec is for.
    #[must_use]
    pub fn id(&self) -> &DeviceId {
        &self.id
    }
}

fn capabilities(device: &Map<String, Value>) -> Result<Capabilities, ServiceError> {
    let iot_edge = match body::optional_object(device, "capabilities")? {
        Some(capabilities) => body::optional_bool(capabilities, "iotEdge")?,
        None => None,
    };
    Ok(Capabilities {
        iot_edge: iot_edge.unwrap_or_default(),
    })
}

fn parent_scope(device: &Map<String, Value>) -> Result<Option<Box<str>>, ServiceError> {
    match body::optional_array(device, "parentScopes")? {
        [] => Ok(None),
        [Value::String(scope)] => Ok(Some(scope.as_str().into())),
        _ => Err(ServiceError::invalid("parentScopes must hold one scope at most")),
    }
}

impl DeviceIdentity {
    /// A device that did not exist.
    #[must_use]
    pub fn create(spec: DeviceSpec, fresh: &mut Fresh<'_>) -> Self {
        let etag = fresh.etag(None);
        let generation_id = fresh.ticks();
        Self::build(spec, None, Timestamp::NEVER, generation_id, etag, fresh)
    }

    /// The successor of this identity under `spec`, which must be for the same
    /// id. Nothing is kept but the generation and an Edge device's own scope;
    /// in particular a spec without keys gets new ones.
    #[must_use]
    pub fn replace(&self, spec: DeviceSpec, fresh: &mut Fresh<'_>) -> Self {
        let status_updated = if spec.status == self.status {
            self.status_updated
        } else {
            fresh.now
        };
        let etag = fresh.etag(Some(&self.etag));
        let generation_id = self.generation_id.clone();
        Self::build(
            spec,
            self.edge_scope(),
            status_updated,
            generation_id,
            etag,
            fresh,
        )
    }

    fn build(
        spec: DeviceSpec,
        edge_scope: Option<&str>,
        status_updated: Timestamp,
        generation_id: Box<str>,
        etag: Box<str>,
        fresh: &mut Fresh<'_>,
    ) -> Self {
        // A device is never its own parent; a client that turns an Edge device
        // into a plain one sends the old scope back.
        let foreign = |scope: Option<Box<str>>| scope.filter(|scope| Some(&**scope) != edge_scope);
        let (device_scope, parent_scope) = if spec.capabilities.iot_edge {
            let own = edge_scope.map_or_else(|| scope::new_scope(&spec.id, fresh), Into::into);
            (Some(own), foreign(spec.parent_scope))
        } else {
            // A plain device names its parent by `deviceScope` alone.
            let parent = foreign(spec.device_scope);
            (parent.clone(), parent)
        };
        Self {
            generation_id,
            etag,
            status: spec.status,
            status_reason: spec.status_reason,
            status_updated,
            authentication: spec.authentication.resolve(fresh),
            capabilities: spec.capabilities,
            device_scope,
            parent_scopes: parent_scope.into_iter().collect(),
            id: spec.id,
        }
    }

    /// An Edge device's own scope, which its children name as their parent.
    #[must_use]
    pub fn edge_scope(&self) -> Option<&str> {
        self.device_scope
            .as_deref()
            .filter(|_| self.capabilities.iot_edge)
    }

    /// The scope of the Edge device above this one. The hub has to check that
    /// such a device exists, see [`scope_owner`](super::scope_owner).
    #[must_use]
    pub fn parent_scope(&self) -> Option<&str> {
        self.parent_scopes.first().map(|scope| &**scope)
    }

    /// The modules that come with the device: `$edgeAgent` and `$edgeHub` of an
    /// Edge device. The hub adds the ones that do not exist yet.
    #[must_use]
    pub fn system_modules(&self, fresh: &mut Fresh<'_>) -> Vec<ModuleIdentity> {
        if self.capabilities.iot_edge {
            ModuleIdentity::system_modules(&self.id, fresh)
        } else {
            Vec::new()
        }
    }

    /// The device as the service prints it.
    #[must_use]
    pub fn document<'a>(&'a self, connection: &'a Connection) -> DeviceDocument<'a> {
        DeviceDocument {
            identity: self,
            connection,
        }
    }
}

/// A device as the service prints it; serializes in the service's order of members.
#[derive(Debug, Clone, Copy)]
pub struct DeviceDocument<'a> {
    identity: &'a DeviceIdentity,
    connection: &'a Connection,
}

impl Serialize for DeviceDocument<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Members<'a> {
            device_id: &'a str,
            generation_id: &'a str,
            etag: &'a str,
            connection_state: ConnectionState,
            status: Status,
            status_reason: Option<&'a str>,
            connection_state_updated_time: Timestamp,
            status_updated_time: Timestamp,
            last_activity_time: Timestamp,
            cloud_to_device_message_count: u32,
            authentication: &'a Authentication,
            capabilities: Capabilities,
            #[serde(skip_serializing_if = "Option::is_none")]
            device_scope: Option<&'a str>,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            parent_scopes: &'a [Box<str>],
        }
        let Self { identity, connection } = self;
        Members {
            device_id: identity.id.as_str(),
            generation_id: &identity.generation_id,
            etag: &identity.etag,
            connection_state: connection.state,
            status: identity.status,
            status_reason: identity.status_reason.as_deref(),
            connection_state_updated_time: connection.state_updated,
            status_updated_time: identity.status_updated,
            last_activity_time: connection.last_activity,
            cloud_to_device_message_count: connection.queued_messages,
            authentication: &identity.authentication,
            capabilities: identity.capabilities,
            device_scope: identity.device_scope.as_deref(),
            parent_scopes: &identity.parent_scopes,
        }
        .serialize(serializer)
    }
}
