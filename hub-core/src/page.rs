//! Pages of a query's result: how many rows, and where the next page starts.
//!
//! The hub keeps nothing between two pages: everything that is needed to go on
//! stands in the continuation token that the caller sends back. The token is
//! opaque to callers but not secret, and decides nothing but where to resume;
//! permissions are checked on every page. Source: the query guide.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::error::ServiceError;
use crate::limits;

/// First byte of a token: the form of the rest.
const VERSION: u8 = 1;

/// Bytes before the resume key: version, fingerprint and count.
const HEAD: usize = 1 + 8 + 8;

/// Where the next page of a query starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continuation {
    /// The query that is being continued, see [`fingerprint`].
    pub fingerprint: u64,
    /// Key of the last row that was looked at; rows in key order after it are next.
    pub resume_after: String,
    /// Rows delivered on earlier pages, which `TOP` counts too.
    pub delivered: u64,
}

impl Continuation {
    /// The value of the `x-ms-continuation` header: base64 in the URL-safe
    /// alphabet, without padding.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(HEAD + self.resume_after.len());
        bytes.push(VERSION);
        bytes.extend(self.fingerprint.to_be_bytes());
        bytes.extend(self.delivered.to_be_bytes());
        bytes.extend(self.resume_after.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a token that a caller sent together with the query whose
    /// [`fingerprint`] is given.
    ///
    /// # Errors
    /// `ArgumentInvalid` when the hub never made such a token, or made it for
    /// another query.
    pub fn decode(text: &str, fingerprint: u64) -> Result<Self, ServiceError> {
        let continuation = Self::from_text(text)
            .ok_or_else(|| ServiceError::invalid("the continuation token is not valid"))?;
        if continuation.fingerprint != fingerprint {
            return Err(ServiceError::invalid(
                "the continuation token belongs to another query",
            ));
        }
        Ok(continuation)
    }

    fn from_text(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (version, rest) = bytes.split_first()?;
        let (fingerprint, rest) = rest.split_first_chunk()?;
        let (delivered, resume_after) = rest.split_first_chunk()?;
        if *version != VERSION {
            return None;
        }
        Some(Self {
            fingerprint: u64::from_be_bytes(*fingerprint),
            resume_after: std::str::from_utf8(resume_after).ok()?.to_owned(),
            delivered: u64::from_be_bytes(*delivered),
        })
    }
}

/// A number that stands for a query's text, the same in every process and
/// release: the 64-bit FNV-1a hash.
#[must_use]
pub fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Rows of a page by the `x-ms-max-item-count` header: 1 to
/// [`limits::PAGE_ROWS`]. Absent, zero, larger or unreadable values mean
/// [`limits::PAGE_ROWS`].
#[must_use]
pub fn page_size(header: Option<&str>) -> usize {
    match header.map(|text| text.trim().parse()) {
        Some(Ok(rows @ 1..=limits::PAGE_ROWS)) => rows,
        _ => limits::PAGE_ROWS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;
    use proptest::prelude::*;

    #[test]
    fn a_token_is_bound_to_its_query() {
        let query = fingerprint("SELECT * FROM devices");
        let continuation = Continuation {
            fingerprint: query,
            resume_after: "dev99".into(),
            delivered: 100,
        };
        let text = continuation.encode();
        assert_eq!(Continuation::decode(&text, query), Ok(continuation));
        let other = fingerprint("SELECT * FROM devices.modules");
        let error = Continuation::decode(&text, other).unwrap_err();
        assert_eq!(error.code, ErrorCode::ArgumentInvalid);
        assert!(error.message.contains("another query"));
    }

    #[test]
    fn foreign_texts_are_no_tokens() {
        let token = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let head = [&[VERSION][..], &[0; 16]].concat();
        assert!(Continuation::decode(&token(&head), 0).is_ok());
        for text in [
            String::new(),
            "*".into(),
            token(&head[..16]),
            token(&[&[VERSION + 1][..], &[0; 16]].concat()),
            token(&[&head[..], &[0xff]].concat()),
            format!("{}==", token(&head)),
        ] {
            let error = Continuation::decode(&text, 0).unwrap_err();
            assert_eq!(error.code, ErrorCode::ArgumentInvalid, "{text}");
        }
    }

    #[test]
    fn fingerprints_are_stable() {
        // Published values of FNV-1a.
        assert_eq!(fingerprint(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fingerprint("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fingerprint("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn page_sizes_are_clamped() {
        for (header, rows) in [
            (None, 100),
            (Some("1"), 1),
            (Some(" 50 "), 50),
            (Some("100"), 100),
            (Some("101"), 100),
            (Some("99999999999999999999999"), 100),
            (Some("0"), 100),
            (Some("-1"), 100),
            (Some("many"), 100),
            (Some(""), 100),
        ] {
            assert_eq!(page_size(header), rows, "{header:?}");
        }
    }

    proptest! {
        #[test]
        fn every_continuation_survives(fingerprint: u64, resume_after in ".*", delivered: u64) {
            let continuation = Continuation { fingerprint, resume_after, delivered };
            let text = continuation.encode();
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            prop_assert_eq!(Continuation::decode(&text, fingerprint), Ok(continuation));
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".*", bytes: Vec<u8>) {
            let _ = Continuation::decode(&text, 0);
            let _ = Continuation::decode(&URL_SAFE_NO_PAD.encode(bytes), 0);
            let _ = page_size(Some(&text));
        }
    }
}
