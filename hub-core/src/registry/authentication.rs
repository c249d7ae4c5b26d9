//! How a device or module proves who it is.
//!
//! Reads and prints the `authentication` member of identities; verifying a
//! token or certificate against it is done where connections are accepted.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::Fresh;
use super::body;
use crate::error::ServiceError;
use crate::limits;

/// Hex digits of a SHA-1 and of a SHA-256 thumbprint.
const THUMBPRINT_DIGITS: [usize; 2] = [40, 64];

/// The credentials of an identity.
///
/// Serializes as the service's `authentication` object: both sub-objects are
/// always there, with nulls in the one that does not apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// Tokens signed with one of two symmetric keys.
    Sas(KeyPair),
    /// A certificate whose thumbprint is registered.
    SelfSigned(Thumbprints),
    /// A certificate issued by an authority that the hub trusts.
    CertificateAuthority,
    /// No credentials of its own; only the modules that the hub gives an Edge
    /// device.
    None,
}

impl Authentication {
    /// The service's name for the kind, as in `authentication.type`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Sas(_) => "sas",
            Self::SelfSigned(_) => "selfSigned",
            Self::CertificateAuthority => "certificateAuthority",
            Self::None => "none",
        }
    }

    /// The symmetric keys, if tokens are signed with such.
    #[must_use]
    pub fn keys(&self) -> Option<&KeyPair> {
        match self {
            Self::Sas(keys) => Some(keys),
            _ => None,
        }
    }

    /// The registered thumbprints; both absent where thumbprints do not apply.
    #[must_use]
    pub fn thumbprints(&self) -> &Thumbprints {
        const NO_THUMBPRINTS: &Thumbprints = &Thumbprints {
            primary: None,
            secondary: None,
        };
        match self {
            Self::SelfSigned(thumbprints) => thumbprints,
            _ => NO_THUMBPRINTS,
        }
    }
}

impl Serialize for Authentication {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Keys<'a> {
            primary_key: Option<&'a str>,
            secondary_key: Option<&'a str>,
        }
        let keys = self.keys();
        let mut object = serializer.serialize_struct("authentication", 3)?;
        object.serialize_field(
            "symmetricKey",
            &Keys {
                primary_key: keys.map(|keys| keys.primary.as_str()),
                secondary_key: keys.map(|keys| keys.secondary.as_str()),
            },
        )?;
        object.serialize_field("x509Thumbprint", self.thumbprints())?;
        object.serialize_field("type", self.kind())?;
        object.end()
    }
}

/// The two keys of an identity; either may sign, so that one can be exchanged
/// while the other is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// The first key.
    pub primary: SymmetricKey,
    /// The second key.
    pub secondary: SymmetricKey,
}

/// A symmetric key in the base64 text that the client supplied or the hub made.
#[derive(Clone, PartialEq, Eq)]
pub struct SymmetricKey(Box<str>);

impl SymmetricKey {
    /// Checks that `text` is base64 of a key of legal length.
    ///
    /// # Errors
    /// `ArgumentInvalid` when it is not base64 or not 16 to 64 bytes.
    pub fn parse(text: &str) -> Result<Self, ServiceError> {
        let range = limits::SYMMETRIC_KEY_BYTES;
        match STANDARD.decode(text) {
            Ok(key) if range.contains(&key.len()) => Ok(Self(text.into())),
            Ok(key) => Err(ServiceError::invalid(format!(
                "symmetric key has {} bytes, its length must be within [{}; {}]",
                key.len(),
                range.start(),
                range.end()
            ))),
            Err(_) => Err(ServiceError::invalid("symmetric key must be base64 text")),
        }
    }

    pub(super) fn from_bytes(key: &[u8; 32]) -> Self {
        Self(STANDARD.encode(key).into())
    }

    /// The base64 text, byte for byte as supplied.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key itself, 16 to 64 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Checked when this was made.
        STANDARD.decode(self.as_str()).unwrap_or_default()
    }
}

/// Shows no key material: logs and test output are shared.
impl fmt::Debug for SymmetricKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SymmetricKey(…)")
    }
}

/// The thumbprints of up to two certificates. Serializes with both members,
/// `null` where there is none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Thumbprints {
    /// The first certificate's.
    #[serde(rename = "primaryThumbprint")]
    pub primary: Option<Thumbprint>,
    /// The second certificate's.
    #[serde(rename = "secondaryThumbprint")]
    pub secondary: Option<Thumbprint>,
}

/// A certificate's SHA-1 or SHA-256 hash: 40 or 64 hex digits in the form that
/// the client wrote, with any case and perhaps a colon after each byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Thumbprint(Box<str>);

impl Thumbprint {
    /// Checks the form of a thumbprint.
    ///
    /// # Errors
    /// `ArgumentInvalid` when it is not 40 or 64 hex digits.
    pub fn parse(text: &str) -> Result<Self, ServiceError> {
        let is_digits = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
        let digits = if text.contains(':') {
            // As OpenSSL prints it; colons stand between bytes only.
            let bytes = || text.split(':');
            bytes()
                .all(|byte| byte.len() == 2 && is_digits(byte))
                .then(|| 2 * bytes().count())
        } else {
            is_digits(text).then_some(text.len())
        };
        match digits {
            Some(digits) if THUMBPRINT_DIGITS.contains(&digits) => Ok(Self(text.into())),
            _ => Err(ServiceError::invalid(
                "thumbprint must be 40 (SHA-1) or 64 (SHA-256) hexadecimal digits",
            )),
        }
    }

    /// The thumbprint as written by the client; [`Thumbprint::is_of`] compares.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the thumbprint with the bytes of `hash`, however it is
    /// written.
    #[must_use]
    pub fn is_of(&self, hash: &[u8]) -> bool {
        let digits = self
            .0
            .bytes()
            .filter(|b| *b != b':')
            .map(|b| b.to_ascii_lowercase());
        let nibbles = hash.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
        let expected = nibbles.map(|nibble| b"0123456789abcdef"[usize::from(nibble)]);
        digits.eq(expected)
    }
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AuthenticationSpec {
    /// Keys made by the hub.
    NewKeys,
    /// Exactly this.
    Given(Authentication),
}

impl AuthenticationSpec {
    /// Reads the `authentication` member of an identity's body.
    ///
    /// Gives `NewKeys` for an absent member or absent keys; gives
    /// `Given(Authentication::None)` where the body says `none`, which the
    /// caller has to interpret.
    pub(super) fn from_identity(identity: &Map<String, Value>) -> Result<Self, ServiceError> {
        let Some(authentication) = body::optional_object(identity, "authentication")? else {
            return Ok(Self::NewKeys);
        };
        let thumbprints = thumbprints(authentication)?;
        let kind = match body::non_empty_str(authentication, "type")? {
            Some(kind) => kind,
            None if thumbprints != Thumbprints::default() => "selfSigned",
            None => "sas",
        };
        // Case is not significant: SDKs spell enumerations in various ways.
        match kind.to_ascii_lowercase().as_str() {
            "sas" => keys(authentication),
            "selfsigned" => Ok(Self::Given(Authentication::SelfSigned(thumbprints))),
            "certificateauthority" => Ok(Self::Given(Authentication::CertificateAuthority)),
            "none" => Ok(Self::Given(Authentication::None)),
            _ => Err(ServiceError::invalid(
                "authentication type must be sas, selfSigned, certificateAuthority or none",
            )),
        }
    }

    pub(super) fn resolve(self, fresh: &mut Fresh<'_>) -> Authentication {
        match self {
            Self::NewKeys => Authentication::Sas(fresh.keys()),
            Self::Given(authentication) => authentication,
        }
    }
}

fn keys(authentication: &Map<String, Value>) -> Result<AuthenticationSpec, ServiceError> {
    let Some(keys) = body::optional_object(authentication, "symmetricKey")? else {
        return Ok(AuthenticationSpec::NewKeys);
    };
    let primary = body::non_empty_str(keys, "primaryKey")?;
    let secondary = body::non_empty_str(keys, "secondaryKey")?;
    match (primary, secondary) {
        (None, None) => Ok(AuthenticationSpec::NewKeys),
        (Some(primary), Some(secondary)) => Ok(AuthenticationSpec::Given(Authentication::Sas(KeyPair {
            primary: SymmetricKey::parse(primary)?,
            secondary: SymmetricKey::parse(secondary)?,
        }))),
        _ => Err(ServiceError::invalid(
            "either both symmetric keys or none must be given",
        )),
    }
}

fn thumbprints(authentication: &Map<String, Value>) -> Result<Thumbprints, ServiceError> {
    let Some(thumbprints) = body::optional_object(authentication, "x509Thumbprint")? else {
        return Ok(Thumbprints::default());
    };
    let thumbprint = |name| {
        body::non_empty_str(thumbprints, name)?
            .map(Thumbprint::parse)
            .transpose()
    };
    Ok(Thumbprints {
        primary: thumbprint("primaryThumbprint")?,
        secondary: thumbprint("secondaryThumbprint")?,
    })
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::needless_pass_by_value,
        reason = "JSON literals read better without a reference"
    )]

    use super::*;
    use crate::error::ErrorCode;
    use serde_json::json;

    fn read(authentication: Value) -> Result<AuthenticationSpec, ServiceError> {
        let identity = json!({ "authentication": authentication });
        AuthenticationSpec::from_identity(identity.as_object().unwrap())
    }

    fn key(bytes: usize) -> String {
        STANDARD.encode(vec![7; bytes])
    }

    #[test]
    fn no_keys_in_any_spelling_means_new_keys() {
        let nothing = json!({});
        assert_eq!(
            AuthenticationSpec::from_identity(nothing.as_object().unwrap()).unwrap(),
            AuthenticationSpec::NewKeys
        );
        for authentication in [
            json!(null),
            json!({}),
            json!({"type": "sas"}),
            json!({"type": "sas", "symmetricKey": null, "x509Thumbprint": null}),
            json!({"type": "SAS", "symmetricKey": {}}),
            json!({"symmetricKey": {"primaryKey": "", "secondaryKey": ""}}),
            json!({"symmetricKey": {"primaryKey": null, "secondaryKey": ""}}),
            json!({"type": null, "x509Thumbprint": {"primaryThumbprint": "", "secondaryThumbprint": null}}),
        ] {
            assert_eq!(
                read(authentication.clone()),
                Ok(AuthenticationSpec::NewKeys),
                "{authentication}"
            );
        }
    }

    #[test]
    fn supplied_keys_are_kept_byte_for_byte() {
        for (primary, secondary) in [(key(16), key(64)), (key(32), key(33))] {
            let spec = read(json!({"symmetricKey": {"primaryKey": primary, "secondaryKey": secondary}}));
            let Ok(AuthenticationSpec::Given(Authentication::Sas(keys))) = spec else {
                panic!("{spec:?}");
            };
            assert_eq!(
                (keys.primary.as_str(), keys.secondary.as_str()),
                (&*primary, &*secondary)
            );
            assert_eq!(
                keys.primary.to_bytes().len(),
                STANDARD.decode(&primary).unwrap().len()
            );
            assert_eq!(format!("{keys:?}").matches('…').count(), 2);
        }
    }

    #[test]
    fn thumbprints_decide_the_kind_when_it_is_absent() {
        let sha1 = "aB".repeat(20);
        let spec = read(json!({"x509Thumbprint": {"primaryThumbprint": sha1}})).unwrap();
        let AuthenticationSpec::Given(authentication) = spec else {
            panic!("{spec:?}");
        };
        assert_eq!(authentication.kind(), "selfSigned");
        assert_eq!(
            serde_json::to_string(&authentication).unwrap(),
            format!(
                r#"{{"symmetricKey":{{"primaryKey":null,"secondaryKey":null}},"x509Thumbprint":{{"primaryThumbprint":"{sha1}","secondaryThumbprint":null}},"type":"selfSigned"}}"#
            )
        );
    }

    #[test]
    fn thumbprints_are_kept_as_written_and_compared_by_value() {
        let hash: Vec<u8> = (0..20).map(|i| i * 13).collect();
        let lower: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let colons = hash
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect::<Vec<_>>()
            .join(":");
        for text in [&lower, &lower.to_uppercase(), &colons] {
            let thumbprint = Thumbprint::parse(text).unwrap();
            assert_eq!(thumbprint.as_str(), text);
            assert!(thumbprint.is_of(&hash), "{text}");
            assert!(!thumbprint.is_of(&hash[..19]), "{text}");
            assert!(!thumbprint.is_of(&[0; 20]), "{text}");
        }
    }

    #[test]
    fn each_kind_is_read() {
        for (authentication, kind) in [
            (json!({"type": "selfSigned"}), "selfSigned"),
            (
                json!({"type": "selfSigned", "x509Thumbprint":
                    {"primaryThumbprint": "0".repeat(64), "secondaryThumbprint": "f".repeat(40)}}),
                "selfSigned",
            ),
            (
                json!({"type": "certificateAuthority", "symmetricKey": {"primaryKey": null}}),
                "certificateAuthority",
            ),
            (json!({"type": "none"}), "none"),
        ] {
            let Ok(AuthenticationSpec::Given(given)) = read(authentication.clone()) else {
                panic!("{authentication}");
            };
            assert_eq!(given.kind(), kind);
        }
    }

    #[test]
    fn bad_credentials_are_refused() {
        for authentication in [
            json!("sas"),
            json!({"type": 1}),
            json!({"type": "x509"}),
            json!({"symmetricKey": {"primaryKey": key(32)}}),
            json!({"symmetricKey": {"primaryKey": key(32), "secondaryKey": ""}}),
            json!({"symmetricKey": {"primaryKey": "", "secondaryKey": key(32)}}),
            json!({"symmetricKey": {"primaryKey": key(15), "secondaryKey": key(32)}}),
            json!({"symmetricKey": {"primaryKey": key(32), "secondaryKey": key(65)}}),
            json!({"symmetricKey": {"primaryKey": "not base64!", "secondaryKey": key(32)}}),
            json!({"symmetricKey": {"primaryKey": 1, "secondaryKey": 2}}),
            json!({"symmetricKey": []}),
            json!({"x509Thumbprint": {"primaryThumbprint": "ab"}}),
            json!({"x509Thumbprint": {"primaryThumbprint": "g".repeat(40)}}),
            json!({"x509Thumbprint": {"primaryThumbprint": vec!["ab"; 19].join(":")}}),
            json!({"x509Thumbprint": {"primaryThumbprint": format!("{}:", "ab".repeat(20))}}),
            json!({"x509Thumbprint": {"primaryThumbprint": "abcd:".repeat(10)}}),
            json!({"x509Thumbprint": {"primaryThumbprint": vec!["a"; 40].join(":")}}),
        ] {
            assert_eq!(
                read(authentication.clone()).map_err(|e| e.code),
                Err(ErrorCode::ArgumentInvalid),
                "{authentication}"
            );
        }
    }
}
