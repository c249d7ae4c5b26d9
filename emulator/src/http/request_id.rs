//! Names of requests, as clients put them into their logs.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::HeaderValue;
use uuid::{Builder, Uuid};

/// Makes an id for each request: a random half, drawn once, and a number. Asking
/// the system for random bytes each time would cost a system call a request.
#[derive(Debug)]
pub(crate) struct RequestIds {
    random: [u8; 8],
    next: AtomicU64,
}

impl RequestIds {
    /// Ids that another hub does not give.
    pub(crate) fn new() -> Self {
        let mut random = [0; 8];
        random.copy_from_slice(&Uuid::new_v4().as_bytes()[8..]);
        Self {
            random,
            next: AtomicU64::new(0),
        }
    }

    /// The id of the next request, as the value of `x-ms-request-id`: a UUID.
    pub(super) fn next(&self) -> HeaderValue {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.random);
        bytes[8..].copy_from_slice(&self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        let text = Builder::from_random_bytes(bytes)
            .into_uuid()
            .hyphenated()
            .encode_lower(&mut text);
        HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids_and_differ() {
        let (one, other) = (RequestIds::new(), RequestIds::new());
        let ids = [one.next(), one.next(), other.next()];
        for id in &ids {
            assert_eq!(
                Uuid::parse_str(id.to_str().unwrap()).unwrap().get_version_num(),
                4
            );
        }
        assert!(ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2]);
    }
}
