//! `If-Match` and what it means for identities.

use crate::error::{ErrorCode, ServiceError};
use crate::ids::Target;

/// A request's `If-Match`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// The request has none.
    Absent,
    /// `*`, bare or in quotes.
    Any,
    /// One ETag, without its quotes.
    ETag(String),
}

impl IfMatch {
    /// Reads the header's value. Quotes are optional; an empty value counts as
    /// no header.
    #[must_use]
    pub fn parse(value: Option<&str>) -> Self {
        let Some(value) = value.map(str::trim).filter(|value| !value.is_empty()) else {
            return Self::Absent;
        };
        let unquoted = value
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'))
            .unwrap_or(value);
        match unquoted {
            "*" => Self::Any,
            etag => Self::ETag(etag.into()),
        }
    }
}

/// What a PUT of an identity amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The id is free: make a new identity.
    Create,
    /// The id is taken and the precondition holds: replace the identity.
    Replace,
}

/// Decides what a PUT does, given the ETag of the identity that has the id already.
///
/// # Errors
/// Without `If-Match`, `DeviceAlreadyExists` or `ModuleAlreadyExistsOnDevice`
/// for a taken id, and `ArgumentInvalid` for a free one that only the hub may
/// create (`$edgeAgent`). With `If-Match`, `DeviceNotFound` or `ModuleNotFound`
/// for a free id, and `PreconditionFailed` for another ETag.
pub fn check_put(target: &Target, existing: Option<&str>, if_match: &IfMatch) -> Result<Put, ServiceError> {
    match (existing, if_match) {
        (None, IfMatch::Absent) if target.module.as_ref().is_some_and(|m| m.is_system()) => Err(
            ServiceError::invalid("module ids that start with $ are reserved for the hub"),
        ),
        (None, IfMatch::Absent) => Ok(Put::Create),
        (Some(_), IfMatch::Absent) => Err(already_exists(target)),
        (None, IfMatch::Any | IfMatch::ETag(_)) => Err(not_found(target)),
        (Some(_), IfMatch::Any) => Ok(Put::Replace),
        (Some(etag), IfMatch::ETag(expected)) if expected == etag => Ok(Put::Replace),
        (Some(_), IfMatch::ETag(_)) => Err(ServiceError::stale_etag()),
    }
}

/// Decides whether a DELETE may go ahead, given the identity's ETag if it exists.
///
/// # Errors
/// `DeviceNotFound` or `ModuleNotFound` for an unknown id, `PreconditionFailed`
/// without `If-Match` or for another ETag.
pub fn check_delete(target: &Target, existing: Option<&str>, if_match: &IfMatch) -> Result<(), ServiceError> {
    match (existing, if_match) {
        (None, _) => Err(not_found(target)),
        (Some(_), IfMatch::Absent) => Err(ServiceError::new(
            ErrorCode::PreconditionFailed,
            "PreconditionFailed, ETag is missing: the request must have an If-Match header.",
        )),
        (Some(_), IfMatch::Any) => Ok(()),
        (Some(etag), IfMatch::ETag(expected)) if expected == etag => Ok(()),
        (Some(_), IfMatch::ETag(_)) => Err(ServiceError::stale_etag()),
    }
}

/// The refusal of an unknown identity. (A missing module's *twin* is
/// `DeviceNotFound` instead, as for a missing device.)
#[must_use]
pub fn not_found(target: &Target) -> ServiceError {
    match &target.module {
        None => ServiceError::device_not_found(target.device.as_str()),
        Some(module) => ServiceError::new(
            ErrorCode::ModuleNotFound,
            format!("Module {module} on device {} not found.", target.device),
        ),
    }
}

/// The refusal to create an identity twice, in the words that clients know.
#[must_use]
pub fn already_exists(target: &Target) -> ServiceError {
    let device = &target.device;
    match &target.module {
        None => ServiceError::new(
            ErrorCode::DeviceAlreadyExists,
            format!("A device with ID '{device}' is already registered."),
        ),
        Some(module) => ServiceError::new(
            ErrorCode::ModuleAlreadyExistsOnDevice,
            format!("A module with ID '{module}' is already registered on device '{device}'."),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{DeviceId, ModuleId};
    use proptest::prelude::*;

    fn target(module: Option<&str>) -> Target {
        Target {
            device: DeviceId::parse("d").unwrap(),
            module: module.map(|m| ModuleId::parse(m).unwrap()),
        }
    }

    fn etag(text: &str) -> IfMatch {
        IfMatch::ETag(text.into())
    }

    #[test]
    fn quotes_are_optional_and_a_star_is_any() {
        for (value, expected) in [
            (None, IfMatch::Absent),
            (Some(""), IfMatch::Absent),
            (Some("  "), IfMatch::Absent),
            (Some("*"), IfMatch::Any),
            (Some("\"*\""), IfMatch::Any),
            (Some(" \"*\" "), IfMatch::Any),
            (Some("MA=="), etag("MA==")),
            (Some("\"MA==\""), etag("MA==")),
            (Some("\""), etag("\"")),
            (Some("\"\""), etag("")),
        ] {
            assert_eq!(IfMatch::parse(value), expected, "{value:?}");
        }
    }

    #[test]
    fn puts_follow_the_table_of_preconditions() {
        use ErrorCode::*;
        let (device, module) = (target(None), target(Some("m")));
        let taken = Some("MA==");
        for (target, existing, if_match, expected) in [
            (&device, None, IfMatch::Absent, Ok(Put::Create)),
            (&device, taken, IfMatch::Absent, Err(DeviceAlreadyExists)),
            (&device, None, IfMatch::Any, Err(DeviceNotFound)),
            (&device, taken, IfMatch::Any, Ok(Put::Replace)),
            (&device, None, etag("MA=="), Err(DeviceNotFound)),
            (&device, taken, etag("MA=="), Ok(Put::Replace)),
            (&device, taken, etag("MQ=="), Err(PreconditionFailed)),
            (&device, taken, etag("ma=="), Err(PreconditionFailed)),
            (&module, None, IfMatch::Absent, Ok(Put::Create)),
            (&module, taken, IfMatch::Absent, Err(ModuleAlreadyExistsOnDevice)),
            (&module, None, IfMatch::Any, Err(ModuleNotFound)),
            (&module, taken, etag("MQ=="), Err(PreconditionFailed)),
        ] {
            let result = check_put(target, existing, &if_match).map_err(|e| e.code);
            assert_eq!(result, expected, "{target} {existing:?} {if_match:?}");
        }
    }

    #[test]
    fn deletes_need_a_precondition() {
        use ErrorCode::*;
        let device = target(None);
        let taken = Some("MA==");
        for (existing, if_match, expected) in [
            (None, IfMatch::Absent, Err(DeviceNotFound)),
            (taken, IfMatch::Absent, Err(PreconditionFailed)),
            (None, IfMatch::Any, Err(DeviceNotFound)),
            (taken, IfMatch::Any, Ok(())),
            (None, etag("MA=="), Err(DeviceNotFound)),
            (taken, etag("MA=="), Ok(())),
            (taken, etag("MQ=="), Err(PreconditionFailed)),
        ] {
            let result = check_delete(&device, existing, &if_match).map_err(|e| e.code);
            assert_eq!(result, expected, "{existing:?} {if_match:?}");
        }
        let module = check_delete(&target(Some("m")), None, &IfMatch::Any).unwrap_err();
        assert_eq!(module.code, ModuleNotFound);
    }

    #[test]
    fn only_the_hub_creates_system_modules() {
        let agent = target(Some("$edgeAgent"));
        let refused = check_put(&agent, None, &IfMatch::Absent).unwrap_err();
        assert_eq!(refused.code, ErrorCode::ArgumentInvalid);
        // The Edge runtime replaces the ones it has been given.
        assert_eq!(check_put(&agent, Some("MA=="), &IfMatch::Any), Ok(Put::Replace));
    }

    #[test]
    fn texts_are_the_ones_clients_match() {
        let device = target(None);
        assert_eq!(
            already_exists(&device).message,
            "A device with ID 'd' is already registered."
        );
        assert_eq!(not_found(&device).message, "d");
        let stale = check_put(&device, Some("a"), &etag("b")).unwrap_err();
        assert_eq!(stale.message, "PreconditionFailed, ETag may be invalid.");
    }

    proptest! {
        #[test]
        fn any_etag_survives_its_quotes(tag in "[A-Za-z0-9+/=]{1,20}") {
            prop_assert_eq!(IfMatch::parse(Some(&format!("\"{tag}\""))), IfMatch::ETag(tag));
        }

        #[test]
        fn arbitrary_headers_never_panic(value in ".*") {
            let _ = IfMatch::parse(Some(&value));
        }
    }
}
