//! Who may do what: shared access policies, device keys and certificates.

use std::time::Duration;

use hub_core::error::{ErrorCode, ServiceError};
use hub_core::events::{AuthMethod, AuthScope};
use hub_core::ids::{DeviceId, Target};
use hub_core::registry::{Authentication, CertificateRefusal, Status, SymmetricKey};
use hub_core::sas::{Key, Resource, Token};
use hub_core::time::Timestamp;
use job_service::Clock;
use tokio::time::Instant;

use super::HubState;
use crate::tls::ClientCertificate;

/// How far past its expiry a token is still accepted, for client clocks that
/// run behind; the emulator's own choice after the guides' "five minutes".
const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// A right that a policy can hold (access control guide).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Permission {
    /// Read identities.
    RegistryRead,
    /// Change identities; implies reading them.
    RegistryWrite,
    /// Twins, methods, queries and jobs.
    ServiceConnect,
    /// Act as a device.
    DeviceConnect,
}

use Permission::{DeviceConnect, RegistryRead, RegistryWrite, ServiceConnect};

/// The policies that every hub starts with and what they hold.
const DEFAULT_POLICIES: [(&str, &[Permission]); 5] = [
    (
        "iothubowner",
        &[RegistryRead, RegistryWrite, ServiceConnect, DeviceConnect],
    ),
    ("service", &[ServiceConnect]),
    ("device", &[DeviceConnect]),
    ("registryRead", &[RegistryRead]),
    ("registryReadWrite", &[RegistryRead, RegistryWrite]),
];

/// The hub's shared access policies. All five default policies share one key:
/// on a development hub a policy's name decides what it may do, not who holds
/// a secret.
#[derive(Debug, Clone)]
pub(crate) struct Policies {
    key: Key,
    /// As clients of Event Hubs sign: with the text, which they do not decode.
    event_hub_key: Key,
}

impl Policies {
    pub(crate) fn new(key: Key) -> Self {
        let event_hub_key = Key::from_bytes(key.to_base64().as_bytes());
        Self { key, event_hub_key }
    }

    /// The key that they share, in base64.
    pub(super) fn key(&self) -> String {
        self.key.to_base64()
    }

    /// What a policy holds.
    fn find(&self, name: &str) -> Option<&'static [Permission]> {
        DEFAULT_POLICIES
            .iter()
            .find(|(policy, _)| *policy == name)
            .map(|(_, held)| *held)
    }

    /// Whether a policy signed.
    fn signed(&self, token: &Token<'_>, dialect: Dialect) -> bool {
        token.verify(&self.key) || dialect == Dialect::EventHub && token.verify(&self.event_hub_key)
    }
}

/// How a policy's key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// As IoT Hub's clients do, with the bytes that the key's text stands for.
    IotHub,
    /// That, or as Event Hubs' clients do, with the bytes of the text.
    EventHub,
}

/// What a device shows to prove who it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Credentials<'a> {
    /// A text that should be a token.
    pub(crate) token: Option<&'a str>,
    /// What it presented in the TLS handshake.
    pub(crate) certificate: Option<&'a ClientCertificate>,
    pub(crate) channel: Channel,
}

/// The right to act as a device or module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Authorized {
    /// How it was proved.
    pub(crate) method: AuthMethod,
    /// When it ends, in real time.
    pub(crate) until: Timestamp,
}

/// What credentials are shown for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    /// A connection of a device protocol, on whatever transport.
    Connection,
    /// A single HTTP request.
    Request,
}

/// Why credentials do not open what they were shown for. Clients only ever learn
/// "unauthorized"; the reason is for the hub's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    #[error("the hub does not contain the specified device")]
    UnknownIdentity,
    #[error("the device is disabled")]
    Disabled,
    #[error("the token is not a shared access signature")]
    Malformed,
    #[error("the token has expired")]
    Expired,
    #[error("the token's resource does not cover what is addressed")]
    Scope,
    #[error("the hub has no such policy")]
    UnknownPolicy,
    #[error("the policy does not hold the permission")]
    Permission,
    #[error("the signature does not match")]
    Signature,
    #[error("the identity does not authenticate with symmetric keys")]
    WrongMethod,
    #[error("there is neither a token nor a client certificate")]
    Missing,
    #[error("the client certificate cannot be understood")]
    UnreadableCertificate,
    /// X.509 guide: such certificates are for MQTT and AMQP.
    #[error("certificates of authorities open device connections only, not HTTP requests")]
    AuthorityOverHttp,
    #[error(transparent)]
    Certificate(#[from] CertificateRefusal),
}

/// As the service answers over HTTP: always the same code and text.
impl From<Denied> for ServiceError {
    fn from(_: Denied) -> Self {
        ServiceError::new(ErrorCode::IotHubUnauthorizedAccess, "Unauthorized")
    }
}

impl HubState {
    /// Checks a token for a service operation that needs one of `permissions`.
    /// `path` is what the operation addresses, decoded and without its leading
    /// slash: a token may be for the whole hub or for a part of it.
    ///
    /// Expiry is checked against the system's time, not the hub's: clients
    /// make their tokens in real time whatever the hub's clock was set to.
    pub(crate) fn authorize_service(
        &self,
        token: &str,
        path: &str,
        permissions: &[Permission],
    ) -> Result<(), Denied> {
        let token = parse_token(token)?;
        if !token.scope().covers(&Resource::Path(path)) {
            return Err(Denied::Scope);
        }
        self.check_policy(&token, permissions, Dialect::IotHub)
    }

    /// The forms of a path below an event stream, any of which a token may be for:
    /// below the hub's own name for the built-in one and below its
    /// Event-Hub-compatible name; for others below theirs. Without a name any
    /// stream may be meant.
    pub(crate) fn event_paths(&self, stream: Option<&str>, path: &str) -> Vec<String> {
        let hub_name = self.events.hub_name();
        let mut names = Vec::new();
        if stream.is_none_or(|name| name.eq_ignore_ascii_case(hub_name)) {
            names.extend(["messages/events", hub_name]);
        }
        let endpoints = self.events.endpoints();
        match stream {
            Some(name) => names.push(name),
            None => names.extend(endpoints.iter().map(|endpoint| endpoint.name())),
        }
        names.iter().map(|name| format!("{name}/{path}")).collect()
    }

    /// Checks a token for reading an event stream. `paths` are the forms of what
    /// is addressed, as [`HubState::event_paths`] gives them.
    pub(crate) fn authorize_events(&self, token: &str, paths: &[String]) -> Result<(), Denied> {
        let token = parse_token(token)?;
        let scope = token.scope();
        if !paths.iter().any(|path| scope.covers(&Resource::EventHub(path))) {
            return Err(Denied::Scope);
        }
        self.check_policy(&token, &[ServiceConnect], Dialect::EventHub)
    }

    /// Checks that a token is one of the hub's, whatever it is for: a policy
    /// that exists signed it, or the identity that it names. Says when the
    /// right ends that it gives.
    pub(crate) fn check_token(&self, text: &str) -> Result<Timestamp, Denied> {
        let token = parse_token(text)?;
        match token.policy() {
            Some(name) => {
                self.settings.policies.find(name).ok_or(Denied::UnknownPolicy)?;
                if !self.settings.policies.signed(&token, Dialect::EventHub) {
                    return Err(Denied::Signature);
                }
            }
            None => {
                let credentials = Credentials {
                    token: Some(text),
                    certificate: None,
                    channel: Channel::Connection,
                };
                let named = [false, true].map(|again| token.scope().target(again));
                let mut denied = Denied::Scope;
                let is_right = |target| match self.authorize_device(&credentials, &target) {
                    Ok(_) => true,
                    Err(reason) => {
                        denied = reason;
                        false
                    }
                };
                if !named.into_iter().flatten().any(is_right) {
                    return Err(denied);
                }
            }
        }
        Ok(end_of_right(&token))
    }

    /// Checks credentials for acting as `target`: a token signed by one of its
    /// own keys or by a policy with the right to act as a device, or a
    /// certificate. Says how, and when the right ends: with the token, or with
    /// the tolerance for a token that has expired already; never where a
    /// certificate was shown, which has to be valid only now.
    ///
    /// A token that is there has to be in order even where a certificate then
    /// decides, because the identity has no keys.
    pub(crate) fn authorize_device(
        &self,
        credentials: &Credentials<'_>,
        target: &Target,
    ) -> Result<Authorized, Denied> {
        let token = credentials.token.map(parse_token).transpose()?;
        if let Some(token) = &token
            && !token.scope().covers(&Resource::from(target))
        {
            return Err(Denied::Scope);
        }
        // Copied: following a certificate's chain would take too long for the
        // device's lock.
        let authentication = self.authentication(target)?;
        let own_scope = match target.module {
            None => AuthScope::Device,
            Some(_) => AuthScope::Module,
        };
        match (&token, credentials.certificate) {
            (Some(token), _) if token.policy().is_some() => {
                self.check_policy(token, &[DeviceConnect], Dialect::IotHub)?;
                Ok(Authorized {
                    method: AuthMethod::Sas(AuthScope::Hub),
                    until: end_of_right(token),
                })
            }
            (_, Some(certificate)) if authentication.keys().is_none() => {
                self.check_certificate(&authentication, certificate, target, credentials.channel)?;
                Ok(Authorized {
                    method: AuthMethod::X509(own_scope),
                    until: Timestamp::MAX,
                })
            }
            (Some(token), _) => {
                let keys = authentication.keys().ok_or(Denied::WrongMethod)?;
                let signed_by =
                    |key: &SymmetricKey| Key::from_base64(key.as_str()).is_ok_and(|key| token.verify(&key));
                if !signed_by(&keys.primary) && !signed_by(&keys.secondary) {
                    return Err(Denied::Signature);
                }
                Ok(Authorized {
                    method: AuthMethod::Sas(own_scope),
                    until: end_of_right(token),
                })
            }
            (None, Some(_)) => Err(CertificateRefusal::WrongMethod.into()),
            (None, None) => Err(Denied::Missing),
        }
    }

    /// How `target` authenticates, if it exists and is enabled.
    fn authentication(&self, target: &Target) -> Result<Authentication, Denied> {
        let cell = self
            .registry
            .find(&target.device)
            .ok_or(Denied::UnknownIdentity)?;
        let state = cell.lock();
        if state.deleted {
            return Err(Denied::UnknownIdentity);
        }
        if state.identity.status == Status::Disabled {
            return Err(Denied::Disabled);
        }
        let authentication = match &target.module {
            None => &state.identity.authentication,
            Some(id) => {
                &state
                    .modules
                    .get(id)
                    .ok_or(Denied::UnknownIdentity)?
                    .identity
                    .authentication
            }
        };
        Ok(authentication.clone())
    }

    /// Validity is checked against the system's time, as that of tokens is.
    fn check_certificate(
        &self,
        authentication: &Authentication,
        certificate: &ClientCertificate,
        target: &Target,
        channel: Channel,
    ) -> Result<(), Denied> {
        if *authentication == Authentication::CertificateAuthority && channel == Channel::Request {
            return Err(Denied::AuthorityOverHttp);
        }
        let now = Clock::system_now();
        let read = certificate.read().ok_or(Denied::UnreadableCertificate)?;
        let is_trusted = || certificate.chains_to(&self.device_cas.all(), now);
        authentication.check_certificate(target, &read, now, is_trusted)?;
        Ok(())
    }

    /// Whether a device's own credentials may manage the modules of `device`.
    pub(crate) fn authorize_own_modules(
        &self,
        credentials: &Credentials<'_>,
        device: &DeviceId,
    ) -> Result<(), Denied> {
        self.authorize_device(credentials, &Target::device(device.clone()))
            .map(|_| ())
    }

    fn check_policy(
        &self,
        token: &Token<'_>,
        permissions: &[Permission],
        dialect: Dialect,
    ) -> Result<(), Denied> {
        let name = token.policy().ok_or(Denied::UnknownPolicy)?;
        let held = self.settings.policies.find(name).ok_or(Denied::UnknownPolicy)?;
        if !self.settings.policies.signed(token, dialect) {
            return Err(Denied::Signature);
        }
        if !permissions.iter().any(|p| held.contains(p)) {
            return Err(Denied::Permission);
        }
        Ok(())
    }
}

fn parse_token(token: &str) -> Result<Token<'_>, Denied> {
    let token = Token::parse(token).map_err(|_| Denied::Malformed)?;
    if token.is_expired(Clock::system_now(), CLOCK_SKEW) {
        return Err(Denied::Expired);
    }
    Ok(token)
}

/// When the right that `token` gives ends.
fn end_of_right(token: &Token<'_>) -> Timestamp {
    let expiry = token.expires_at();
    if token.is_expired(Clock::system_now(), Duration::ZERO) {
        // Or a client whose clock runs behind would be let in and thrown out
        // again at once, for ever.
        return expiry.saturating_add(CLOCK_SKEW);
    }
    expiry
}

/// When a right ends by the runtime's clock; `None` for one that does not.
pub(crate) fn deadline(until: Timestamp) -> Option<Instant> {
    Instant::now().checked_add(until.saturating_since(Clock::system_now()))
}
