//! Identities as export jobs write them and import jobs read them: one JSON
//! object per line.

use serde::{Serialize, Serializer};
use serde_json::json;

use super::authentication::Authentication;
use super::{Capabilities, DeviceIdentity, ModuleIdentity, Status};
use crate::twin::{Object, Section, Twin};

/// Whether an export holds keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportKeys {
    /// As they are.
    Included,
    /// Null in place of each key; an import makes new ones.
    Excluded,
}

/// A device or module with its twin; serializes as the object of an export
/// line.
#[derive(Debug, Clone, Copy)]
pub struct ExportLine<'a> {
    owner: Owner<'a>,
    twin: &'a Twin,
    keys: ExportKeys,
}

#[derive(Debug, Clone, Copy)]
enum Owner<'a> {
    Device(&'a DeviceIdentity),
    Module(&'a ModuleIdentity, Status),
}

impl<'a> ExportLine<'a> {
    /// The line of a device.
    #[must_use]
    pub fn device(identity: &'a DeviceIdentity, twin: &'a Twin, keys: ExportKeys) -> Self {
        Self {
            owner: Owner::Device(identity),
            twin,
            keys,
        }
    }

    /// The line of a module; `status` is its device's.
    #[must_use]
    pub fn module(identity: &'a ModuleIdentity, status: Status, twin: &'a Twin, keys: ExportKeys) -> Self {
        Self {
            owner: Owner::Module(identity, status),
            twin,
            keys,
        }
    }
}

impl Serialize for ExportLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Members<'a> {
            id: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            module_id: Option<&'a str>,
            e_tag: &'a str,
            status: Status,
            #[serde(skip_serializing_if = "Option::is_none")]
            status_reason: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            managed_by: Option<&'a str>,
            authentication: Credentials<'a>,
            #[serde(rename = "twinETag")]
            twin_etag: &'a str,
            tags: &'a Object,
            properties: Properties<'a>,
            #[serde(skip_serializing_if = "Option::is_none")]
            capabilities: Option<Capabilities>,
            #[serde(skip_serializing_if = "Option::is_none")]
            device_scope: Option<&'a str>,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            parent_scopes: &'a [Box<str>],
        }
        #[derive(Serialize)]
        struct Properties<'a> {
            desired: &'a Section,
            reported: &'a Section,
        }
        let Self { owner, twin, keys } = *self;
        let credentials = |authentication| Credentials { authentication, keys };
        let (etag, properties) = (
            twin.etag(),
            Properties {
                desired: twin.desired(),
                reported: twin.reported(),
            },
        );
        match owner {
            Owner::Device(device) => Members {
                id: device.id.as_str(),
                module_id: None,
                e_tag: &device.etag,
                status: device.status,
                status_reason: device.status_reason.as_deref(),
                managed_by: None,
                authentication: credentials(&device.authentication),
                twin_etag: &etag,
                tags: twin.tags(),
                properties,
                capabilities: Some(device.capabilities),
                device_scope: device.device_scope.as_deref(),
                parent_scopes: &device.parent_scopes,
            },
            Owner::Module(module, status) => Members {
                id: module.device.as_str(),
                module_id: Some(module.id.as_str()),
                e_tag: &module.etag,
                status,
                status_reason: None,
                managed_by: module.managed_by.as_deref(),
                authentication: credentials(&module.authentication),
                twin_etag: &etag,
                tags: twin.tags(),
                properties,
                capabilities: None,
                device_scope: None,
                parent_scopes: &[],
            },
        }
        .serialize(serializer)
    }
}

struct Credentials<'a> {
    authentication: &'a Authentication,
    keys: ExportKeys,
}

impl Serialize for Credentials<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.keys {
            ExportKeys::Included => self.authentication.serialize(serializer),
            ExportKeys::Excluded => json!({
                "symmetricKey": { "primaryKey": null, "secondaryKey": null },
                "x509Thumbprint": self.authentication.thumbprints(),
                "type": self.authentication.kind(),
            })
            .serialize(serializer),
        }
    }
}
