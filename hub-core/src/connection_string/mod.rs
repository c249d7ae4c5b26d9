//! Connection strings of services, devices and modules.
//!
//! A client parses one once and keeps the [`ConnectionString`]; the emulator
//! makes them to print. Nothing here connects. Source: the developer guide's
//! page on access control and the SDKs' parsers.
//!
//! Where the SDKs differ: names of parts are case-sensitive and an unknown or
//! repeated part is refused (as in Python), because a mistyped part would
//! otherwise be reported as a missing one. A device id that contains `;` is
//! legal for the hub but cannot stand in a connection string.

mod host;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::ids::{DeviceId, IdError, ModuleId, Target};
use crate::sas::{Key, KeyError, Token, TokenError};

pub use host::{Host, HostError};

/// A connection string, checked. `Display` writes it, secrets included;
/// `Debug` leaves them out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionString {
    /// For a back end.
    Service(ServiceConnection),
    /// For a device or module.
    Device(DeviceConnection),
}

/// How a back end reaches a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceConnection {
    /// The hub.
    pub host: Host,
    /// Name of the shared access policy.
    pub policy: String,
    /// A key of that policy.
    pub key: Key,
}

/// How a device or module reaches a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceConnection {
    /// The hub: what user name and token name, and where to connect unless
    /// there is a gateway.
    pub host: Host,
    /// The device, or the device and its module.
    pub target: Target,
    /// What it proves its identity with.
    pub credential: Credential,
    /// Where to connect instead of `host`; changes nothing else.
    pub gateway: Option<Host>,
}

/// What a device or module proves its identity with.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A symmetric key of its own.
    Key(Key),
    /// A key of a shared access policy that permits device connections.
    PolicyKey {
        /// Name of the policy.
        policy: String,
        /// A key of that policy.
        key: Key,
    },
    /// A token that someone else signed; the text begins with `SharedAccessSignature`.
    Token(String),
    /// A client certificate, which is not part of the connection string.
    Certificate,
}

/// Why a text is not a connection string. The texts never contain a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionStringError {
    /// A part has no `=`.
    #[error("part {number} of the connection string has no '='")]
    Part {
        /// Which part, counted from 1.
        number: usize,
    },
    /// A part that no connection string has. Its name is left out: whoever
    /// passes a bare key finds the key where a name should be.
    #[error("part {number} of the connection string is none of {}", NAMES.join(", "))]
    Unknown {
        /// Which part, counted from 1.
        number: usize,
    },
    /// A part occurs twice.
    #[error("the connection string has {name} twice")]
    Duplicate {
        /// The part's name.
        name: &'static str,
    },
    /// A part is absent or empty.
    #[error("{name} is missing from the connection string or empty")]
    Missing {
        /// The part's name.
        name: &'static str,
    },
    /// Two parts do not go together.
    #[error("the connection string cannot have both {first} and {second}")]
    Conflict {
        /// One part's name.
        first: &'static str,
        /// The other part's name.
        second: &'static str,
    },
    /// A host is not one.
    #[error("{name} is not a host name with an optional port")]
    Host {
        /// `HostName` or `GatewayHostName`.
        name: &'static str,
        /// What is wrong with it.
        #[source]
        source: HostError,
    },
    /// An id breaks the naming rules.
    #[error("{name} is not a legal id")]
    Id {
        /// `DeviceId` or `ModuleId`.
        name: &'static str,
        /// The rule that it breaks.
        #[source]
        source: IdError,
    },
    /// The key cannot be used.
    #[error("SharedAccessKey is not a symmetric key")]
    Key(#[source] KeyError),
    /// The token cannot be used.
    #[error("SharedAccessSignature is not a token")]
    Token(#[source] TokenError),
    /// `x509` has another value than `true`.
    #[error("x509 can only be \"true\"")]
    X509,
}

const HOST: &str = "HostName";
const DEVICE: &str = "DeviceId";
const MODULE: &str = "ModuleId";
const POLICY: &str = "SharedAccessKeyName";
const KEY: &str = "SharedAccessKey";
const TOKEN: &str = "SharedAccessSignature";
const X509: &str = "x509";
const GATEWAY: &str = "GatewayHostName";

const NAMES: [&str; 8] = [HOST, DEVICE, MODULE, POLICY, KEY, TOKEN, X509, GATEWAY];

impl ConnectionString {
    /// Reads a connection string. Blanks around the whole text and a `;` at
    /// its end, which copying easily brings along, are ignored.
    ///
    /// # Errors
    /// Names the first part that is wrong, repeated, missing or too many.
    pub fn parse(text: &str) -> Result<Self, ConnectionStringError> {
        use ConnectionStringError::{Conflict, Missing};

        let parts = Parts::split(text)?;
        let host = parts.host(HOST)?.ok_or(Missing { name: HOST })?;
        let gateway = parts.host(GATEWAY)?;
        let Some(device) = parts.get(DEVICE) else {
            let other = [MODULE, TOKEN, X509, GATEWAY];
            if let Some(name) = other.into_iter().find(|name| parts.get(name).is_some()) {
                return Err(if parts.get(POLICY).is_some() {
                    Conflict {
                        first: POLICY,
                        second: name,
                    }
                } else {
                    Missing { name: DEVICE }
                });
            }
            let policy = parts.get(POLICY).ok_or(Missing { name: POLICY })?.to_owned();
            let key = parts.key()?.ok_or(Missing { name: KEY })?;
            return Ok(Self::Service(ServiceConnection { host, policy, key }));
        };
        let device =
            DeviceId::parse(device).map_err(|source| ConnectionStringError::Id { name: DEVICE, source })?;
        let module = parts
            .get(MODULE)
            .map(ModuleId::parse)
            .transpose()
            .map_err(|source| ConnectionStringError::Id { name: MODULE, source })?;
        Ok(Self::Device(DeviceConnection {
            host,
            target: Target { device, module },
            credential: parts.credential()?,
            gateway,
        }))
    }
}

/// The values of a connection string, in the order of [`NAMES`].
struct Parts<'a>([Option<&'a str>; NAMES.len()]);

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Self, ConnectionStringError> {
        let mut values = [None; NAMES.len()];
        let text = text.trim();
        let text = text.strip_suffix(';').unwrap_or(text);
        for (part, number) in text.split(';').zip(1..) {
            // Keys and tokens contain further equals signs.
            let (name, value) = part
                .split_once('=')
                .ok_or(ConnectionStringError::Part { number })?;
            let index = NAMES
                .iter()
                .position(|known| *known == name)
                .ok_or(ConnectionStringError::Unknown { number })?;
            let name = NAMES[index];
            if value.is_empty() {
                return Err(ConnectionStringError::Missing { name });
            }
            if values[index].replace(value).is_some() {
                return Err(ConnectionStringError::Duplicate { name });
            }
        }
        Ok(Self(values))
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        let index = NAMES.iter().position(|known| *known == name)?;
        self.0[index]
    }

    fn host(&self, name: &'static str) -> Result<Option<Host>, ConnectionStringError> {
        self.get(name)
            .map(Host::parse)
            .transpose()
            .map_err(|source| ConnectionStringError::Host { name, source })
    }

    fn key(&self) -> Result<Option<Key>, ConnectionStringError> {
        self.get(KEY)
            .map(Key::from_base64)
            .transpose()
            .map_err(ConnectionStringError::Key)
    }

    /// Exactly one of key, token and certificate.
    fn credential(&self) -> Result<Credential, ConnectionStringError> {
        let mut present = [KEY, TOKEN, X509]
            .into_iter()
            .filter(|name| self.get(name).is_some());
        let first = present
            .next()
            .ok_or(ConnectionStringError::Missing { name: KEY })?;
        if let Some(second) = present.next() {
            return Err(ConnectionStringError::Conflict { first, second });
        }
        let policy = self.get(POLICY);
        if let Some(key) = self.key()? {
            return Ok(match policy {
                None => Credential::Key(key),
                Some(policy) => Credential::PolicyKey {
                    policy: policy.to_owned(),
                    key,
                },
            });
        }
        if policy.is_some() {
            return Err(ConnectionStringError::Conflict {
                first: POLICY,
                second: first,
            });
        }
        match self.get(TOKEN) {
            Some(token) => {
                Token::parse(token).map_err(ConnectionStringError::Token)?;
                Ok(Credential::Token(token.to_owned()))
            }
            None if self
                .get(X509)
                .is_some_and(|value| value.eq_ignore_ascii_case("true")) =>
            {
                Ok(Credential::Certificate)
            }
            None => Err(ConnectionStringError::X509),
        }
    }
}

impl fmt::Display for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => fmt::Display::fmt(service, f),
            Self::Device(device) => fmt::Display::fmt(device, f),
        }
    }
}

impl fmt::Display for ServiceConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, policy, key } = self;
        write!(f, "{HOST}={host};{POLICY}={policy};{KEY}={}", key.to_base64())
    }
}

impl fmt::Display for DeviceConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{HOST}={};{DEVICE}={}", self.host, self.target.device)?;
        if let Some(module) = &self.target.module {
            write!(f, ";{MODULE}={module}")?;
        }
        match &self.credential {
            Credential::Key(key) => write!(f, ";{KEY}={}", key.to_base64())?,
            Credential::PolicyKey { policy, key } => {
                write!(f, ";{POLICY}={policy};{KEY}={}", key.to_base64())?;
            }
            Credential::Token(token) => write!(f, ";{TOKEN}={token}")?,
            Credential::Certificate => write!(f, ";{X509}=true")?,
        }
        match &self.gateway {
            None => Ok(()),
            Some(gateway) => write!(f, ";{GATEWAY}={gateway}"),
        }
    }
}

/// Omits the token's text; a key hides itself.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => f.debug_tuple("Key").field(key).finish(),
            Self::PolicyKey { policy, key } => f
                .debug_struct("PolicyKey")
                .field("policy", policy)
                .field("key", key)
                .finish(),
            Self::Token(_) => f.write_str("Token(..)"),
            Self::Certificate => f.write_str("Certificate"),
        }
    }
}
