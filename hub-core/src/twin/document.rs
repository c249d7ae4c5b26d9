//! A twin as the service prints it, identity and connection facts included.

use serde::{Serialize, Serializer};

use super::{Object, Section, Twin};
use crate::configuration::Overlay;
use crate::ids::{DeviceId, ModuleId};
use crate::registry::{
    Authentication, Capabilities, Connection, ConnectionState, DeviceIdentity, ModuleIdentity, Status,
    Thumbprints,
};
use crate::time::Timestamp;

/// Everything that a full twin document shows; serializes in the service's
/// order of members without building a tree first.
#[derive(Debug, Clone, Copy)]
pub struct TwinDocument<'a> {
    /// Whose twin it is.
    pub owner: TwinOwner<'a>,
    /// The owner's connection.
    pub connection: &'a Connection,
    /// The twin itself.
    pub twin: &'a Twin,
    /// What automatic configurations have made of the twin; queries show it,
    /// reading a twin by its id does not.
    pub configurations: Option<&'a Overlay>,
}

/// The identity that a twin belongs to.
#[derive(Debug, Clone, Copy)]
pub enum TwinOwner<'a> {
    /// A device.
    Device(&'a DeviceIdentity),
    /// A module; its twin shows neither a status of its own nor scopes.
    Module(&'a ModuleIdentity),
}

impl<'a> From<&'a DeviceIdentity> for TwinOwner<'a> {
    fn from(device: &'a DeviceIdentity) -> Self {
        Self::Device(device)
    }
}

impl<'a> From<&'a ModuleIdentity> for TwinOwner<'a> {
    fn from(module: &'a ModuleIdentity) -> Self {
        Self::Module(module)
    }
}

impl Serialize for TwinDocument<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let identity = self.owner.members();
        Members {
            device_id: identity.device_id,
            module_id: identity.module_id,
            etag: &self.twin.etag(),
            device_etag: identity.etag,
            status: identity.status,
            status_reason: identity.status_reason,
            status_update_time: identity.status_updated,
            connection_state: self.connection.state,
            last_activity_time: self.connection.last_activity,
            cloud_to_device_message_count: self.connection.queued_messages,
            authentication_type: identity.authentication.kind(),
            x509_thumbprint: identity.authentication.thumbprints(),
            model_id: self.twin.model_id().unwrap_or_default(),
            version: self.twin.version(),
            tags: self.twin.tags(),
            properties: Properties {
                desired: self.twin.desired(),
                reported: self.twin.reported(),
            },
            capabilities: identity.capabilities,
            device_scope: identity.device_scope,
            parent_scopes: identity.parent_scopes,
            configurations: self.configurations,
        }
        .serialize(serializer)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Members<'a> {
    device_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    module_id: Option<&'a str>,
    etag: &'a str,
    device_etag: &'a str,
    status: Status,
    status_reason: Option<&'a str>,
    status_update_time: Timestamp,
    connection_state: ConnectionState,
    last_activity_time: Timestamp,
    cloud_to_device_message_count: u32,
    authentication_type: &'static str,
    x509_thumbprint: &'a Thumbprints,
    model_id: &'a str,
    version: u64,
    tags: &'a Object,
    properties: Properties<'a>,
    capabilities: Capabilities,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_scope: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    parent_scopes: &'a [Box<str>],
    #[serde(skip_serializing_if = "Option::is_none")]
    configurations: Option<&'a Overlay>,
}

#[derive(Serialize)]
struct Properties<'a> {
    desired: &'a Section,
    reported: &'a Section,
}

/// What a twin document takes from the identity.
struct IdentityMembers<'a> {
    device_id: &'a str,
    module_id: Option<&'a str>,
    etag: &'a str,
    status: Status,
    status_reason: Option<&'a str>,
    status_updated: Timestamp,
    authentication: &'a Authentication,
    capabilities: Capabilities,
    device_scope: Option<&'a str>,
    parent_scopes: &'a [Box<str>],
}

impl<'a> TwinOwner<'a> {
    /// The device, or the device that the module belongs to.
    #[must_use]
    pub fn device_id(self) -> &'a DeviceId {
        match self {
            Self::Device(device) => &device.id,
            Self::Module(module) => &module.device,
        }
    }

    /// The module, if it is one.
    #[must_use]
    pub fn module_id(self) -> Option<&'a ModuleId> {
        match self {
            Self::Device(_) => None,
            Self::Module(module) => Some(&module.id),
        }
    }

    fn members(self) -> IdentityMembers<'a> {
        match self {
            Self::Device(device) => IdentityMembers {
                device_id: device.id.as_str(),
                module_id: None,
                etag: &device.etag,
                status: device.status,
                status_reason: device.status_reason.as_deref(),
                status_updated: device.status_updated,
                authentication: &device.authentication,
                capabilities: device.capabilities,
                device_scope: device.device_scope.as_deref(),
                parent_scopes: &device.parent_scopes,
            },
            Self::Module(module) => IdentityMembers {
                device_id: module.device.as_str(),
                module_id: Some(module.id.as_str()),
                etag: &module.etag,
                status: Status::Enabled,
                status_reason: None,
                status_updated: Timestamp::NEVER,
                authentication: &module.authentication,
                capabilities: Capabilities::default(),
                device_scope: None,
                parent_scopes: &[],
            },
        }
    }
}
