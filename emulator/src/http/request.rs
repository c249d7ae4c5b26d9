//! What handlers read from a request, parsed once into types.

use std::borrow::Cow;
use std::error::Error as _;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::HeaderMap;
use axum::http::header::IF_MATCH;
use axum::http::request::Parts;
use bytes::Bytes;
use http_body_util::LengthLimitError;
use hub_core::c2d::LockToken;
use hub_core::configuration::parse_if_match;
use hub_core::error::{ErrorCode, ServiceError};
use hub_core::ids::{ConfigurationId, DeviceId, IdError, JobId, ModuleId, Target};
use hub_core::json::check_depth;
use hub_core::limits;
use hub_core::registry::IfMatch;
use serde_json::Value;

use super::App;
use super::error::HttpError;

/// The body as it is.
pub(crate) struct RawBody(pub(crate) Bytes);

impl FromRequest<App> for RawBody {
    type Rejection = HttpError;

    async fn from_request(request: Request, _: &App) -> Result<Self, HttpError> {
        let too_large = || {
            ServiceError::new(
                ErrorCode::GenericRequestEntityTooLarge,
                "the request body exceeds the limit",
            )
        };
        let bytes = read(request.into_body(), limits::HTTP_BODY_BYTES, too_large).await?;
        Ok(Self(bytes))
    }
}

/// The whole body, if it is not longer than `limit` bytes.
///
/// # Errors
/// What `too_large` makes; 400 when the client breaks off.
pub(super) async fn read(
    body: Body,
    limit: usize,
    too_large: impl FnOnce() -> ServiceError,
) -> Result<Bytes, ServiceError> {
    to_bytes(body, limit).await.map_err(|error| {
        if error
            .source()
            .is_some_and(|source| source.is::<LengthLimitError>())
        {
            too_large()
        } else {
            ServiceError::new(ErrorCode::GenericBadRequest, "the request body could not be read")
        }
    })
}

/// The body as JSON.
pub(crate) struct JsonBody(pub(crate) Value);

impl FromRequest<App> for JsonBody {
    type Rejection = HttpError;

    async fn from_request(request: Request, app: &App) -> Result<Self, HttpError> {
        let RawBody(bytes) = RawBody::from_request(request, app).await?;
        parse_json(&bytes).map(Self).map_err(HttpError::from)
    }
}

/// The body as JSON; no body at all is `null`.
pub(crate) struct OptionalJsonBody(pub(crate) Value);

impl FromRequest<App> for OptionalJsonBody {
    type Rejection = HttpError;

    async fn from_request(request: Request, app: &App) -> Result<Self, HttpError> {
        let RawBody(bytes) = RawBody::from_request(request, app).await?;
        if bytes.is_empty() {
            return Ok(Self(Value::Null));
        }
        parse_json(&bytes).map(Self).map_err(HttpError::from)
    }
}

fn parse_json(bytes: &[u8]) -> Result<Value, ServiceError> {
    if bytes.is_empty() {
        return Err(ServiceError::new(
            ErrorCode::ArgumentNull,
            "the request has no body",
        ));
    }
    check_depth(bytes).map_err(|e| ServiceError::invalid(e.to_string()))?;
    serde_json::from_slice(bytes)
        .map_err(|e| ServiceError::invalid(format!("the body is not valid JSON: {e}")))
}

/// The device or module that the path names.
pub(crate) struct TargetPath(pub(crate) Target);

impl FromRequestParts<App> for TargetPath {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, HttpError> {
        let names = Names::of(parts, app).await?;
        let device = bad_id(DeviceId::parse(names.get("device").unwrap_or_default()), "device")?;
        let module = match names.get("module") {
            None => None,
            Some(text) => Some(bad_id(ModuleId::parse(text), "module")?),
        };
        Ok(Self(Target { device, module }))
    }
}

/// The lock token that the path names.
pub(crate) struct TokenPath(pub(crate) LockToken);

impl FromRequestParts<App> for TokenPath {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, HttpError> {
        let names = Names::of(parts, app).await?;
        let token = names.get("token").unwrap_or_default();
        LockToken::parse(token).map(Self).map_err(HttpError::from)
    }
}

/// The job that the path names.
pub(crate) struct JobPath(pub(crate) JobId);

impl FromRequestParts<App> for JobPath {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, HttpError> {
        let names = Names::of(parts, app).await?;
        bad_id(JobId::parse(names.get("job").unwrap_or_default()), "job").map(Self)
    }
}

/// The configuration that the path names.
pub(crate) struct ConfigurationPath(pub(crate) ConfigurationId);

impl FromRequestParts<App> for ConfigurationPath {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, HttpError> {
        let names = Names::of(parts, app).await?;
        let id = names.get("configuration").unwrap_or_default();
        bad_id(ConfigurationId::parse(id), "configuration").map(Self)
    }
}

/// The command that the path names, as the method that it is.
pub(crate) struct CommandPath {
    pub(crate) target: Target,
    /// `command`, or `component*command`.
    pub(crate) method: String,
}

impl FromRequestParts<App> for CommandPath {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, HttpError> {
        let TargetPath(target) = TargetPath::from_request_parts(parts, app).await?;
        let names = Names::of(parts, app).await?;
        let (component, command) = (names.get("component"), names.get("command").unwrap_or_default());
        if command.is_empty() || component == Some("") {
            return Err(ServiceError::invalid("the path names no component or no command").into());
        }
        let method = match component {
            Some(component) => format!("{component}*{command}"),
            None => command.to_owned(),
        };
        Ok(Self { target, method })
    }
}

/// The last name in the path, for what has no type of its own: tokens,
/// thumbprints, containers.
pub(crate) struct LastName(pub(crate) String);

impl FromRequestParts<App> for LastName {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, HttpError> {
        let Names(names) = Names::of(parts, app).await?;
        let last = names.iter().last().map_or("", |(_, name)| name);
        Ok(Self(last.to_owned()))
    }
}

/// The names in the path, by what the route table calls them.
struct Names(RawPathParams);

impl Names {
    /// # Errors
    /// 400 when one of them is not UTF-8.
    async fn of(parts: &mut Parts, app: &App) -> Result<Self, HttpError> {
        let names = RawPathParams::from_request_parts(parts, app).await;
        names
            .map(Self)
            .map_err(|e| HttpError::from(ServiceError::invalid(e.body_text())))
    }

    fn get(&self, wanted: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| *name == wanted)
            .map(|(_, text)| text)
    }
}

fn bad_id<T>(id: Result<T, IdError>, kind: &str) -> Result<T, HttpError> {
    id.map_err(|e| HttpError::from(ServiceError::invalid(format!("bad {kind} id: {e}"))))
}

/// The `If-Match` header.
pub(crate) struct Precondition(pub(crate) IfMatch);

impl FromRequestParts<App> for Precondition {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, HttpError> {
        Ok(Self(IfMatch::parse(
            text(&parts.headers, IF_MATCH.as_str()).as_deref(),
        )))
    }
}

/// The `If-Match` header of a configuration's request, where an ETag counts in
/// quotes only.
pub(crate) struct QuotedPrecondition(pub(crate) IfMatch);

impl FromRequestParts<App> for QuotedPrecondition {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, HttpError> {
        Ok(Self(parse_if_match(
            text(&parts.headers, IF_MATCH.as_str()).as_deref(),
        )))
    }
}

/// The paging headers of a query or listing.
pub(crate) struct Paging {
    /// Rows wanted, within the service's bounds.
    pub(crate) size: usize,
    /// The token of the page before.
    pub(crate) continuation: Option<String>,
}

impl FromRequestParts<App> for Paging {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, HttpError> {
        let header = |name| text(&parts.headers, name);
        Ok(Self {
            size: hub_core::page::page_size(header("x-ms-max-item-count").as_deref()),
            continuation: header("x-ms-continuation")
                .filter(|t| !t.is_empty())
                .map(Cow::into_owned),
        })
    }
}

/// A header's value. One that is no text is not as if there were none: what
/// cannot be read must not count as no precondition.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<Cow<'a, str>> {
    headers
        .get(name)
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
}

/// The value of a query parameter, percent-decoded; names compare without regard to case.
pub(crate) fn query_parameter(query: Option<&str>, name: &str) -> Option<String> {
    query_pairs(query).find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
}

/// All query parameters in their order, values percent-decoded.
pub(crate) fn query_pairs(query: Option<&str>) -> impl Iterator<Item = (&str, String)> {
    let pairs = query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_encoding::percent_decode_str(value).decode_utf8_lossy();
        (key, value.into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_that_are_not_json_are_refused_by_kind() {
        let code = |bytes: &[u8]| parse_json(bytes).unwrap_err().code;
        assert_eq!(code(b""), ErrorCode::ArgumentNull);
        assert_eq!(code(b"{"), ErrorCode::ArgumentInvalid);
        assert_eq!(code("[".repeat(5000).as_bytes()), ErrorCode::ArgumentInvalid);
    }

    #[test]
    fn query_parameters_are_decoded() {
        assert_eq!(
            query_parameter(Some("a=1&Top=x%20y"), "top").as_deref(),
            Some("x y")
        );
        assert_eq!(query_parameter(Some("a"), "a").as_deref(), Some(""));
        assert_eq!(query_parameter(None, "a"), None);
    }
}
