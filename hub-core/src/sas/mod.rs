//! Shared access signatures: the tokens that devices and services sign with a
//! symmetric key.
//!
//! A server calls [`Token::parse`], picks the keys that may have signed
//! (a policy's when [`Token::policy`] names one, the identity's own
//! otherwise), and asks three independent questions: [`Token::verify`],
//! [`Token::is_expired`] and, over [`Token::scope`], whether the token covers
//! what is being addressed. A client calls [`sign`].
//!
//! The module knows no hub: which policy exists, what it permits and which
//! host names are the hub's own is decided elsewhere. Source: the developer
//! guide's page on shared access signatures.

pub mod blob;
mod key;
mod scope;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::Mac;
use percent_encoding::{percent_decode_str, utf8_percent_encode};

use crate::ids::Target;
use crate::property_bag::RESERVED;
use crate::time::Timestamp;

pub use key::{Key, KeyError, derive_device_key};
pub use scope::{Resource, Scope, same_host};

/// What a token's text starts with, in an HTTP header, an MQTT password and a
/// connection string alike.
const SCHEME: &str = "SharedAccessSignature ";

/// Characters of the base64 form of an HMAC-SHA256.
const SIGNATURE_CHARS: usize = 44;

/// A token as it was received, taken apart but not yet believed.
///
/// Borrows from the received text: the signature covers that text as it was
/// transmitted, with whatever percent-encoding the client chose.
#[derive(Clone, PartialEq, Eq)]
pub struct Token<'a> {
    resource: &'a str,
    expiry_text: &'a str,
    expires_at: Timestamp,
    signature: [u8; 32],
    policy: Option<Cow<'a, str>>,
}

/// Why a text is not a shared access signature. The texts never contain any
/// part of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not start with `SharedAccessSignature` and one space.
    #[error("the token does not start with \"SharedAccessSignature \"")]
    Scheme,
    /// One of its fields has no `=`.
    #[error("a field of the token has no '='")]
    Field,
    /// A field occurs twice.
    #[error("the token's field {name} occurs twice")]
    Duplicate {
        /// `sr`, `sig`, `se` or `skn`.
        name: &'static str,
    },
    /// A field is absent or empty.
    #[error("the token's field {name} is missing or empty")]
    Missing {
        /// `sr`, `sig`, `se` or `skn`.
        name: &'static str,
    },
    /// `se` is not a decimal number.
    #[error("the token's expiry is not a decimal number of seconds")]
    Expiry,
    /// `sig` is not the base64 form of 32 bytes.
    #[error("the token's signature is not the base64 form of an HMAC-SHA256")]
    Signature,
}

impl<'a> Token<'a> {
    /// Takes `SharedAccessSignature sr=…&sig=…&se=…[&skn=…]` apart. Fields may
    /// stand in any order; unknown ones are ignored.
    ///
    /// # Errors
    /// Names the first thing that is wrong with the text. An expiry beyond the
    /// year 9999 is not an error: it counts as the end of that year.
    pub fn parse(text: &'a str) -> Result<Self, TokenError> {
        let fields = text.strip_prefix(SCHEME).ok_or(TokenError::Scheme)?;
        let (mut sr, mut sig, mut se, mut skn) = (None, None, None, None);
        for field in fields.split('&') {
            let (name, value) = field.split_once('=').ok_or(TokenError::Field)?;
            let (slot, name) = match name {
                "sr" => (&mut sr, "sr"),
                "sig" => (&mut sig, "sig"),
                "se" => (&mut se, "se"),
                "skn" => (&mut skn, "skn"),
                _ => continue,
            };
            if value.is_empty() {
                return Err(TokenError::Missing { name });
            }
            if slot.replace(value).is_some() {
                return Err(TokenError::Duplicate { name });
            }
        }
        let resource = sr.ok_or(TokenError::Missing { name: "sr" })?;
        let signature = sig.ok_or(TokenError::Missing { name: "sig" })?;
        let expiry_text = se.ok_or(TokenError::Missing { name: "se" })?;
        Ok(Self {
            resource,
            expiry_text,
            expires_at: parse_expiry(expiry_text)?,
            signature: parse_signature(signature)?,
            policy: skn.map(|name| percent_decode_str(name).decode_utf8_lossy()),
        })
    }

    /// The `sr` field exactly as transmitted, still encoded; AMQP clients use
    /// this text as the name of a token.
    #[must_use]
    pub fn resource(&self) -> &'a str {
        self.resource
    }

    /// The shared access policy whose key signed, decoded; `None` when it was
    /// the key of the device or module itself.
    #[must_use]
    pub fn policy(&self) -> Option<&str> {
        self.policy.as_deref()
    }

    /// The moment after which the token is void.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// Whether `now` lies after the expiry by more than `skew`, the tolerance
    /// for clocks that disagree.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp, skew: Duration) -> bool {
        self.expires_at.saturating_add(skew) < now
    }

    /// Whether `key` made the signature. Takes the same time for every wrong
    /// signature, so that nobody can find a right one byte by byte.
    #[must_use]
    pub fn verify(&self, key: &Key) -> bool {
        let mut mac = key.mac();
        mac.update(self.resource.as_bytes());
        mac.update(b"\n");
        mac.update(self.expiry_text.as_bytes());
        mac.verify_slice(&self.signature).is_ok()
    }

    /// What the token is for, decoded.
    #[must_use]
    pub fn scope(&self) -> Scope<'a> {
        Scope::of(self.resource)
    }
}

/// Omits the signature: a token that has not expired opens doors.
impl fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("resource", &self.resource)
            .field("expires_at", &self.expires_at)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

/// Makes a token's text.
///
/// `resource` goes into `sr` as it is and is signed as it is; see
/// [`resource_text`] for the customary form. `expiry` is in seconds since
/// 1970-01-01 UTC. `policy` is the name of the shared access policy that `key`
/// belongs to, `None` for the key of a device or module.
#[must_use]
pub fn sign(resource: &str, key: &Key, expiry: u64, policy: Option<&str>) -> String {
    let expiry = expiry.to_string();
    let mut mac = key.mac();
    mac.update(resource.as_bytes());
    mac.update(b"\n");
    mac.update(expiry.as_bytes());
    let signature = STANDARD.encode(mac.finalize().into_bytes());

    let mut token = String::with_capacity(SCHEME.len() + resource.len() + expiry.len() + 96);
    token.push_str(SCHEME);
    token.push_str("sr=");
    token.push_str(resource);
    token.push_str("&sig=");
    token.extend(utf8_percent_encode(&signature, RESERVED));
    token.push_str("&se=");
    token.push_str(&expiry);
    if let Some(policy) = policy {
        token.push_str("&skn=");
        token.extend(utf8_percent_encode(policy, RESERVED));
    }
    token
}

/// The `sr` text of a device's or module's own token, percent-encoded as the
/// device SDKs do: `{host}%2Fdevices%2F{device}[%2Fmodules%2F{module}]`.
#[must_use]
pub fn resource_text(host: &str, target: &Target) -> String {
    let encoded = |text| utf8_percent_encode(text, RESERVED);
    let device = target.device.as_str();
    match &target.module {
        None => format!("{}%2Fdevices%2F{}", encoded(host), encoded(device)),
        Some(module) => format!(
            "{}%2Fdevices%2F{}%2Fmodules%2F{}",
            encoded(host),
            encoded(device),
            encoded(module.as_str())
        ),
    }
}

fn parse_expiry(text: &str) -> Result<Timestamp, TokenError> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(TokenError::Expiry);
    }
    // Only digits, so the one way to fail is a number too large for the type.
    let seconds = text.parse().unwrap_or(i64::MAX);
    Ok(Timestamp::from_unix_seconds(seconds))
}

/// Decodes percent-escapes only: a `+` is a character of base64 here, never a
/// blank.
fn parse_signature(text: &str) -> Result<[u8; 32], TokenError> {
    let mut base64 = [0_u8; SIGNATURE_CHARS];
    let mut chars = percent_decode_str(text);
    for place in &mut base64 {
        *place = chars.next().ok_or(TokenError::Signature)?;
    }
    if chars.next().is_some() {
        return Err(TokenError::Signature);
    }
    // One byte more than a signature: what the decoder reserves for 44 characters.
    let mut bytes = [0_u8; 33];
    let length = STANDARD
        .decode_slice(base64, &mut bytes)
        .map_err(|_| TokenError::Signature)?;
    bytes[..length].try_into().map_err(|_| TokenError::Signature)
}
