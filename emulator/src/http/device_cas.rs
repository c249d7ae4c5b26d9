//! `/_emulator/device-cas`: the authorities that may issue certificates of
//! devices. In the cloud this is a part of the resource manager, whose API the
//! hub does not have.

use axum::extract::State;
use axum::http::StatusCode;
use hub_core::error::{ErrorCode, ServiceError};
use hub_core::registry::Thumbprint;
use hub_core::time::Timestamp;
use serde::Serialize;

use super::App;
use super::error::HttpError;
use super::reply::JsonReply;
use super::request::{LastName, RawBody};
use crate::hub::device_cas::DeviceCas;
use crate::tls::DeviceCa;

/// An authority, with thumbprints as the service's portal prints them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    name: Option<&'a str>,
    subject: &'a str,
    /// SHA-1.
    thumbprint: String,
    sha256_thumbprint: String,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl<'a> From<&'a DeviceCa> for Entry<'a> {
    fn from(ca: &'a DeviceCa) -> Self {
        Self {
            name: ca.common_name.as_deref(),
            subject: &ca.subject,
            thumbprint: hex(&ca.fingerprints.sha1),
            sha256_thumbprint: hex(&ca.fingerprints.sha256),
            not_before: ca.not_before,
            not_after: ca.not_after,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

pub(super) async fn list(State(app): State<App>) -> Result<JsonReply, HttpError> {
    reply(&app.hub.device_cas)
}

/// Registers the authorities in the body, a PEM text. Answers with all that
/// are registered then.
pub(super) async fn add(State(app): State<App>, RawBody(body): RawBody) -> Result<JsonReply, HttpError> {
    DeviceCa::parse(&body)
        .and_then(|more| app.hub.device_cas.add(more))
        .map_err(|e| ServiceError::invalid(format!("the body should be authorities in PEM: {e}")))?;
    reply(&app.hub.device_cas)
}

/// Removes the authority with the SHA-1 or SHA-256 thumbprint in the path.
/// Devices that are connected stay so.
pub(super) async fn remove(
    State(app): State<App>,
    LastName(thumbprint): LastName,
) -> Result<StatusCode, HttpError> {
    let thumbprint = Thumbprint::parse(&thumbprint)?;
    if app.hub.device_cas.remove(&thumbprint) {
        Ok(StatusCode::NO_CONTENT)
    } else {
        let text = format!(
            "there is no authority with the thumbprint {}",
            thumbprint.as_str()
        );
        Err(ServiceError::new(ErrorCode::GenericNotFound, text).into())
    }
}

fn reply(cas: &DeviceCas) -> Result<JsonReply, HttpError> {
    let all = cas.all();
    JsonReply::of(&all.iter().map(Entry::from).collect::<Vec<_>>())
}
