//! Whether a request asks the service in a way that it knows.

use axum::http::Method;
use axum::http::request::Parts;
use hub_core::error::{ErrorCode, ServiceError};

use super::error::HttpError;
use super::unknown_method_at;

/// Refuses HEAD, which the service does not know and the router would take for
/// GET, which takes a message out of its queue; and requests without an
/// `api-version` of the form `YYYY-MM-DD` or `YYYY-MM-DD-preview`. Which version
/// it is makes no difference: the hub behaves like 2021-04-12.
pub(super) fn check(parts: &Parts) -> Result<(), HttpError> {
    if parts.method == Method::HEAD {
        return Err(unknown_method_at(&parts.method, parts.uri.path()));
    }
    let version = parts.uri.query().and_then(|query| {
        query.split('&').find_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            name.eq_ignore_ascii_case("api-version").then_some(value)
        })
    });
    let text = match version {
        Some(version) if is_version(version) => return Ok(()),
        Some(version) => format!("the api-version {version:?} is not a date"),
        None => "the query parameter api-version is missing".to_owned(),
    };
    Err(ServiceError::new(ErrorCode::InvalidProtocolVersion, text).into())
}

fn is_version(text: &str) -> bool {
    let date = text.strip_suffix("-preview").unwrap_or(text).as_bytes();
    date.len() == 10
        && date.iter().enumerate().all(|(i, b)| {
            if i == 4 || i == 7 {
                *b == b'-'
            } else {
                b.is_ascii_digit()
            }
        })
}

#[cfg(test)]
mod tests {
    use super::is_version;

    #[test]
    fn versions_are_dates() {
        for good in ["2021-04-12", "2020-05-31-preview"] {
            assert!(is_version(good), "{good}");
        }
        for bad in ["", "2021", "2021-4-12", "2021-04-12-beta", "latest-----"] {
            assert!(!is_version(bad), "{bad}");
        }
    }
}
