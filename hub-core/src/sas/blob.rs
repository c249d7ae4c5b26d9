//! Tokens for the hub's own blob storage: `?sv=…&sr=b&sig=…&se=…&sp=rw` after a
//! blob's address.
//!
//! They look like the storage service's, so that its clients carry them
//! unchanged, but what is signed is the hub's own affair: nobody else makes or
//! checks them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use percent_encoding::{percent_decode_str, utf8_percent_encode};
use sha2::Sha256;

use super::Key;
use crate::blob::{BlobName, ContainerName};
use crate::property_bag::RESERVED;
use crate::time::Timestamp;

/// Version of the token's form.
const VERSION: &str = "2018-03-28";

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobResource<'a> {
    /// A container and every blob in it.
    Container(&'a ContainerName),
    /// One blob.
    Blob(&'a ContainerName, &'a BlobName),
}

impl BlobResource<'_> {
    /// The value of `sr`.
    fn kind(&self) -> &'static str {
        match self {
            Self::Container(_) => "c",
            Self::Blob(..) => "b",
        }
    }
}

/// Why a token does not open a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BlobSasError {
    /// There is no `sig`.
    #[error("the address carries no signature")]
    Missing,
    /// A field is absent or cannot be read.
    #[error("the signature's fields are not complete")]
    Malformed,
    /// The signature is of another key, resource, permission or expiry.
    #[error("the signature does not match")]
    Signature,
    /// The token's time is over.
    #[error("the signature has expired")]
    Expired,
    /// The token is good, but not for this.
    #[error("the signature does not permit this operation")]
    Permission,
}

/// Makes a token with its leading `?`. `permissions` are letters: `r`ead,
/// `w`rite, `c`reate, `d`elete, `l`ist. The expiry is rounded down to a second.
#[must_use]
pub fn sign(resource: BlobResource<'_>, permissions: &str, expiry: Timestamp, key: &Key) -> String {
    let expiry = Timestamp::from_unix_seconds(expiry.unix_seconds()).to_string();
    let mac = mac(resource, VERSION, permissions, &expiry, key);
    let signature = STANDARD.encode(mac.finalize().into_bytes());
    let encoded = |text| utf8_percent_encode(text, RESERVED);
    format!(
        "?sv={VERSION}&sr={}&sig={}&se={}&sp={permissions}",
        resource.kind(),
        encoded(&signature),
        encoded(&expiry),
    )
}

/// Checks the token in the query string of a request for `blob` of
/// `container`, or for the container itself, that needs any one of the letters
/// of `wanted`.
///
/// # Errors
/// Says what is wrong with the token. A wrong signature takes the same time
/// however much of it is right.
pub fn check(
    query: &str,
    container: &ContainerName,
    blob: Option<&BlobName>,
    wanted: &str,
    now: Timestamp,
    key: &Key,
) -> Result<(), BlobSasError> {
    let field = |name: &str| {
        let mut pairs = query.trim_start_matches('?').split('&');
        pairs.find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            (key == name).then(|| percent_decode_str(value).decode_utf8_lossy())
        })
    };
    let signature = field("sig").ok_or(BlobSasError::Missing)?;
    let (Some(version), Some(kind), Some(permissions), Some(expiry)) =
        (field("sv"), field("sr"), field("sp"), field("se"))
    else {
        return Err(BlobSasError::Malformed);
    };
    // Each is a line of what is signed.
    if [&version, &permissions, &expiry]
        .iter()
        .any(|field| field.contains('\n'))
    {
        return Err(BlobSasError::Malformed);
    }
    let resource = match (&*kind, blob) {
        ("c", _) => BlobResource::Container(container),
        ("b", Some(blob)) => BlobResource::Blob(container, blob),
        ("b", None) => return Err(BlobSasError::Permission),
        _ => return Err(BlobSasError::Malformed),
    };
    let signature = STANDARD
        .decode(&*signature)
        .map_err(|_| BlobSasError::Malformed)?;
    mac(resource, &version, &permissions, &expiry, key)
        .verify_slice(&signature)
        .map_err(|_| BlobSasError::Signature)?;
    let expires = Timestamp::parse(&expiry).map_err(|_| BlobSasError::Malformed)?;
    if expires <= now {
        return Err(BlobSasError::Expired);
    }
    if !wanted.chars().any(|letter| permissions.contains(letter)) {
        return Err(BlobSasError::Permission);
    }
    Ok(())
}

fn mac(
    resource: BlobResource<'_>,
    version: &str,
    permissions: &str,
    expiry: &str,
    key: &Key,
) -> Hmac<Sha256> {
    let mut mac = key.mac();
    // Neither a container's name nor the fields before the blob's name hold a
    // line break, so no two tokens sign the same text.
    for field in [version, resource.kind(), permissions, expiry] {
        mac.update(field.as_bytes());
        mac.update(b"\n");
    }
    match resource {
        BlobResource::Container(container) => mac.update(container.as_str().as_bytes()),
        BlobResource::Blob(container, blob) => {
            mac.update(container.as_str().as_bytes());
            mac.update(b"\n");
            mac.update(blob.as_str().as_bytes());
        }
    }
    mac
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: i64 = 1_700_000_000;

    fn now() -> Timestamp {
        Timestamp::from_unix_seconds(NOW)
    }

    fn key() -> Key {
        Key::from_bytes(&[1; 32])
    }

    fn container() -> ContainerName {
        ContainerName::parse("files").unwrap()
    }

    fn blob(name: &str) -> BlobName {
        BlobName::parse(name).unwrap()
    }

    #[test]
    fn a_blobs_token_opens_that_blob_for_what_it_permits() {
        let (container, a) = (container(), blob("d/a b"));
        let expiry = now().saturating_add(Duration::from_secs(60));
        let token = sign(BlobResource::Blob(&container, &a), "rw", expiry, &key());
        assert!(token.starts_with("?sv=2018-03-28&sr=b&sig="), "{token}");
        assert!(token.ends_with("&se=2023-11-14T22%3A14%3A20Z&sp=rw"), "{token}");
        let check = |query: &str, blob: Option<&BlobName>, wanted, now| {
            check(query, &container, blob, wanted, now, &key())
        };
        assert_eq!(check(&token, Some(&a), "w", now()), Ok(()));
        assert_eq!(
            check(&format!("comp=block&{}", &token[1..]), Some(&a), "cw", now()),
            Ok(())
        );
        use BlobSasError::*;
        assert_eq!(check(&token, Some(&a), "d", now()), Err(Permission));
        assert_eq!(check(&token, Some(&a), "w", expiry), Err(Expired));
        assert_eq!(check(&token, Some(&blob("d/a c")), "w", now()), Err(Signature));
        assert_eq!(check(&token, None, "r", now()), Err(Permission));
        for (from, to, error) in [
            ("sp=rw", "sp=rwd", Signature),
            ("se=2023", "se=2024", Signature),
            ("sr=b", "sr=c", Signature),
            ("sr=b", "sr=x", Malformed),
            ("&sp=rw", "", Malformed),
            ("sig=", "gis=", Missing),
            ("sig=", "sig=*", Malformed),
            ("sp=rw", "sp=rw%0A", Malformed),
        ] {
            assert_eq!(
                check(&token.replace(from, to), Some(&a), "w", now()),
                Err(error),
                "{to}"
            );
        }
        assert_eq!(check("", Some(&a), "w", now()), Err(Missing));
    }

    #[test]
    fn a_containers_token_opens_every_blob_in_it() {
        let container = container();
        let token = sign(
            BlobResource::Container(&container),
            "rl",
            now().saturating_add(Duration::from_secs(60)),
            &key(),
        );
        let check = |container: &ContainerName, blob: Option<&BlobName>, wanted| {
            check(&token, container, blob, wanted, now(), &key())
        };
        assert_eq!(check(&container, None, "l"), Ok(()));
        assert_eq!(check(&container, Some(&blob("x")), "r"), Ok(()));
        assert_eq!(
            check(&container, Some(&blob("x")), "w"),
            Err(BlobSasError::Permission)
        );
        let other = ContainerName::parse("other").unwrap();
        assert_eq!(check(&other, None, "l"), Err(BlobSasError::Signature));
    }

    #[test]
    fn another_key_makes_another_signature() {
        let container = container();
        let token = sign(BlobResource::Container(&container), "r", Timestamp::MAX, &key());
        let other = Key::from_bytes(&[2; 32]);
        assert_eq!(
            check(&token, &container, None, "r", now(), &other),
            Err(BlobSasError::Signature)
        );
    }
}
