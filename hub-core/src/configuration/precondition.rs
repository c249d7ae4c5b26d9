//! `If-Match` and what it means for configurations.

use crate::error::{ErrorCode, ServiceError};
use crate::ids::ConfigurationId;
use crate::registry::{IfMatch, Put};

/// Reads the header's value. Unlike with identities an ETag counts only in
/// double quotes: without them it is as if there were no header, which is how
/// the service treats it. `*` needs none.
#[must_use]
pub fn parse_if_match(value: Option<&str>) -> IfMatch {
    let is_quoted = |text: &str| text.len() > 1 && text.starts_with('"') && text.ends_with('"');
    match value.map(str::trim) {
        Some("*") => IfMatch::Any,
        Some(text) if is_quoted(text) => IfMatch::parse(Some(text)),
        _ => IfMatch::Absent,
    }
}

/// Decides what a PUT does, given the ETag of the configuration that has the id
/// already.
///
/// # Errors
/// `ConfigurationAlreadyExists` for a taken id without `If-Match`; with it
/// `ConfigurationNotFound` for a free id and `PreconditionFailed` for another
/// ETag.
pub fn check_put(
    id: &ConfigurationId,
    existing: Option<&str>,
    if_match: &IfMatch,
) -> Result<Put, ServiceError> {
    match (existing, if_match) {
        (None, IfMatch::Absent) => Ok(Put::Create),
        (Some(_), IfMatch::Absent) => Err(ServiceError::new(
            ErrorCode::ConfigurationAlreadyExists,
            format!("A configuration with ID '{id}' already exists."),
        )),
        (None, IfMatch::Any | IfMatch::ETag(_)) => Err(not_found(id)),
        (Some(etag), if_match) => check_etag(etag, if_match).map(|()| Put::Replace),
    }
}

/// Decides whether a DELETE may go ahead; it needs no `If-Match`.
///
/// # Errors
/// `ConfigurationNotFound`, or `PreconditionFailed` for another ETag.
pub fn check_delete(
    id: &ConfigurationId,
    existing: Option<&str>,
    if_match: &IfMatch,
) -> Result<(), ServiceError> {
    match existing {
        None => Err(not_found(id)),
        Some(etag) => check_etag(etag, if_match),
    }
}

fn check_etag(etag: &str, if_match: &IfMatch) -> Result<(), ServiceError> {
    match if_match {
        IfMatch::ETag(expected) if expected != etag => Err(ServiceError::stale_etag()),
        _ => Ok(()),
    }
}

/// The refusal of an unknown configuration.
#[must_use]
pub fn not_found(id: &ConfigurationId) -> ServiceError {
    ServiceError::new(ErrorCode::ConfigurationNotFound, id.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn etag(text: &str) -> IfMatch {
        IfMatch::ETag(text.into())
    }

    #[test]
    fn an_etag_without_quotes_is_as_good_as_none() {
        for (value, expected) in [
            (None, IfMatch::Absent),
            (Some(""), IfMatch::Absent),
            (Some("MA=="), IfMatch::Absent),
            (Some("\""), IfMatch::Absent),
            (Some("\"MA=="), IfMatch::Absent),
            (Some("\"MA==\""), etag("MA==")),
            (Some(" \"MA==\" "), etag("MA==")),
            (Some("*"), IfMatch::Any),
            (Some("\"*\""), IfMatch::Any),
        ] {
            assert_eq!(parse_if_match(value), expected, "{value:?}");
        }
    }

    #[test]
    fn puts_and_deletes_follow_the_table() {
        use ErrorCode::*;
        let id = ConfigurationId::parse("c").unwrap();
        let taken = Some("MA==");
        for (existing, if_match, put, delete) in [
            (None, IfMatch::Absent, Ok(Put::Create), Err(ConfigurationNotFound)),
            (taken, IfMatch::Absent, Err(ConfigurationAlreadyExists), Ok(())),
            (
                None,
                IfMatch::Any,
                Err(ConfigurationNotFound),
                Err(ConfigurationNotFound),
            ),
            (taken, IfMatch::Any, Ok(Put::Replace), Ok(())),
            (
                None,
                etag("MA=="),
                Err(ConfigurationNotFound),
                Err(ConfigurationNotFound),
            ),
            (taken, etag("MA=="), Ok(Put::Replace), Ok(())),
            (
                taken,
                etag("MQ=="),
                Err(PreconditionFailed),
                Err(PreconditionFailed),
            ),
        ] {
            let code = |e: ServiceError| e.code;
            assert_eq!(check_put(&id, existing, &if_match).map_err(code), put);
            assert_eq!(check_delete(&id, existing, &if_match).map_err(code), delete);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_headers_never_panic(value in ".*") {
            let _ = parse_if_match(Some(&value));
        }
    }
}
