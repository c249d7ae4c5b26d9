//! Who is asking: one extractor per right that a route needs.
//!
//! A handler names its extractor as its first argument, so that no body is
//! read and nothing is looked up for a caller without the right. It also refuses
//! what no version of the service knows, before it asks who is there.

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use hub_core::error::ServiceError;
use hub_core::events::AuthMethod;
use hub_core::ids::{DeviceId, Target};
use percent_encoding::percent_decode_str;

use super::App;
use super::error::HttpError;
use super::request::TargetPath;
use super::version;
use crate::hub::access::{Channel, Credentials, Denied, Permission};
use crate::tls::ClientCertificate;

/// The text of the `Authorization` header; empty when it is none.
fn header(parts: &Parts) -> Option<&str> {
    let value = parts.headers.get(AUTHORIZATION)?;
    Some(value.to_str().unwrap_or_default())
}

fn token(parts: &Parts) -> Result<&str, HttpError> {
    header(parts).ok_or_else(|| HttpError::from(ServiceError::from(Denied::Missing)))
}

/// What a device shows.
fn credentials(parts: &Parts) -> Credentials<'_> {
    Credentials {
        token: header(parts),
        certificate: parts.extensions.get::<ClientCertificate>(),
        channel: Channel::Request,
    }
}

fn authorize(parts: &Parts, app: &App, permissions: &[Permission]) -> Result<(), HttpError> {
    version::check(parts)?;
    // In the route table's spelling, which is what `sr` is compared with.
    let path = percent_decode_str(parts.uri.path().trim_start_matches('/')).decode_utf8_lossy();
    app.hub
        .authorize_service(token(parts)?, &path, permissions)
        .map_err(|denied| refuse(parts, denied))
}

fn refuse(parts: &Parts, denied: Denied) -> HttpError {
    tracing::debug!(method = %parts.method, path = parts.uri.path(), %denied, "request refused");
    HttpError::from(ServiceError::from(denied))
}

macro_rules! callers {
    ($($(#[$doc:meta])* $name:ident: $permissions:expr,)*) => {
        $(
            $(#[$doc])*
            pub(crate) struct $name;

            impl FromRequestParts<App> for $name {
                type Rejection = HttpError;

                async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, HttpError> {
                    authorize(parts, app, &$permissions).map(|()| Self)
                }
            }
        )*
    };
}

callers! {
    /// May use twins, methods, queries and jobs.
    ServiceCaller: [Permission::ServiceConnect],
    /// May read identities. The guides differ on whether `ServiceConnect`
    /// suffices for identities and statistics; here it does.
    RegistryReader: [Permission::RegistryRead, Permission::RegistryWrite, Permission::ServiceConnect],
    /// May change configurations; the guides differ on which right this takes.
    /// Reading them takes what reading identities takes.
    ConfigurationWriter: [Permission::RegistryWrite, Permission::ServiceConnect],
    /// May change identities.
    RegistryWriter: [Permission::RegistryWrite],
}

/// May read modules of the device in the path: the registry's readers, and the
/// device itself.
pub(crate) struct ModuleReader;
/// May change modules of the device in the path: the registry's writers, and
/// the device itself.
pub(crate) struct ModuleWriter;

impl FromRequestParts<App> for ModuleReader {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, HttpError> {
        version::check(parts)?;
        if device_itself(parts, app).await {
            return Ok(Self);
        }
        RegistryReader::from_request_parts(parts, app).await.map(|_| Self)
    }
}

impl FromRequestParts<App> for ModuleWriter {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, HttpError> {
        version::check(parts)?;
        if device_itself(parts, app).await {
            return Ok(Self);
        }
        RegistryWriter::from_request_parts(parts, app).await.map(|_| Self)
    }
}

/// The device in the path itself, or a policy with the right to act as a
/// device; and how it has proved that.
pub(crate) struct DeviceCaller(pub(crate) Target, pub(crate) AuthMethod);

impl FromRequestParts<App> for DeviceCaller {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, HttpError> {
        version::check(parts)?;
        // An id that is not legal names a device that does not exist, and
        // callers are not told which devices do.
        let target = TargetPath::from_request_parts(parts, app)
            .await
            .map_err(|_| refuse(parts, Denied::UnknownIdentity))?
            .0;
        let authorized = app
            .hub
            .authorize_device(&credentials(parts), &target)
            .map_err(|denied| refuse(parts, denied))?;
        Ok(Self(target, authorized.method))
    }
}

/// Whether the credentials are those of the device in the path.
async fn device_itself(parts: &mut Parts, app: &App) -> bool {
    let Ok(params) = RawPathParams::from_request_parts(parts, app).await else {
        return false;
    };
    let Some((_, id)) = params.iter().find(|(name, _)| *name == "device") else {
        return false;
    };
    let Ok(id) = DeviceId::parse(id) else {
        return false;
    };
    app.hub.authorize_own_modules(&credentials(parts), &id).is_ok()
}
