//! Identities of devices and modules.
//!
//! A request body becomes a [`DeviceSpec`] or [`ModuleSpec`], the rules of
//! `If-Match` ([`check_put`], [`check_delete`]) say whether it may go ahead,
//! and the spec then makes a new [`DeviceIdentity`] or [`ModuleIdentity`] or
//! the successor of an existing one. Fresh keys, ETags and generation ids come
//! from the [`Fresh`] source that the caller passes in.
//!
//! The map of identities, the effects on live connections and the effects on
//! modules and queues belong to the hub. What is known of a connection
//! ([`Connection`]) is kept beside the identity: it never changes the ETag.

mod authentication;
pub(crate) mod body;
mod bulk;
mod certificate;
mod connection;
mod device;
mod export;
mod fresh;
mod module;
mod precondition;
mod regenerate;
mod scope;
#[cfg(test)]
mod tests;

pub use authentication::{Authentication, KeyPair, SymmetricKey, Thumbprint, Thumbprints};
pub use bulk::{
    BulkAction, BulkEntry, BulkError, BulkResult, IdentitySpec, ImportMode, parse_bulk, parse_import_line,
};
pub use certificate::{CertificateRefusal, PresentedCertificate};
pub use connection::{Connection, ConnectionState};
pub use device::{Capabilities, DeviceDocument, DeviceIdentity, DeviceSpec, Status};
pub use export::{ExportKeys, ExportLine};
pub use fresh::Fresh;
pub use module::{ModuleDocument, ModuleIdentity, ModuleSpec};
pub use precondition::{IfMatch, Put, already_exists, check_delete, check_put, not_found};
pub use regenerate::{KeyRegeneration, PolicyKey, RegenerationResult, RotatedKey, not_regenerated};
pub use scope::{scope_owner, unknown_scope};
