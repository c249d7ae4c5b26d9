//! Symmetric keys.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::limits;

/// Bytes that SHA-256 works on at a time; a longer HMAC key is hashed first.
const BLOCK: usize = 64;

/// A symmetric key, decoded. Cheap to clone; compared in constant time; its
/// `Debug` form does not show it.
#[derive(Clone)]
pub struct Key(Arc<[u8]>);

/// Why a text is not a symmetric key. The texts never contain the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is not base64 with padding.
    #[error("the symmetric key is not valid base64")]
    Base64,
    /// It decodes to too few or too many bytes.
    #[error(
        "the symmetric key has {bytes} bytes; it must have {} to {}",
        limits::SYMMETRIC_KEY_BYTES.start(),
        limits::SYMMETRIC_KEY_BYTES.end()
    )]
    Length {
        /// Bytes after decoding.
        bytes: usize,
    },
}

impl Key {
    /// Reads the form that connection strings and identities carry: base64 of
    /// [`limits::SYMMETRIC_KEY_BYTES`] bytes.
    ///
    /// # Errors
    /// When it is not base64 in its one canonical spelling, or of another
    /// length. [`Key::to_base64`] therefore gives back exactly `text`.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        let bytes = STANDARD.decode(text).map_err(|_| KeyError::Base64)?;
        if !limits::SYMMETRIC_KEY_BYTES.contains(&bytes.len()) {
            return Err(KeyError::Length { bytes: bytes.len() });
        }
        Ok(Self(bytes.into()))
    }

    /// A key of any length, as it is. Event Hubs clients sign with the UTF-8
    /// bytes of the key's text instead of what it decodes to; that endpoint
    /// makes its keys this way.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The key in base64, in clear: for answers and files meant to hold it.
    #[must_use]
    pub fn to_base64(&self) -> String {
        STANDARD.encode(&self.0)
    }

    /// An HMAC-SHA256 that is about to be fed.
    pub(super) fn mac(&self) -> Hmac<Sha256> {
        // The standard's own preparation of a key. Done here because a whole
        // block, unlike a slice, needs no error that could never happen.
        let mut block = [0_u8; BLOCK];
        if self.0.len() <= BLOCK {
            block[..self.0.len()].copy_from_slice(&self.0);
        } else {
            block[..32].copy_from_slice(&Sha256::digest(&self.0));
        }
        Hmac::new(&block.into())
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// The key of one device of an enrolment group: HMAC-SHA256 of the device's
/// (registration) id under the group's key. Source: the device provisioning
/// service's guide to symmetric key attestation.
#[must_use]
pub fn derive_device_key(group: &Key, id: &str) -> Key {
    let mut mac = group.mac();
    mac.update(id.as_bytes());
    Key::from_bytes(&mac.finalize().into_bytes())
}
