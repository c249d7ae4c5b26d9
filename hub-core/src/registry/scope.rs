//! Edge scopes: how a device names the Edge device above it.

use super::Fresh;
use crate::error::{ErrorCode, ServiceError};
use crate::ids::DeviceId;

/// What every scope starts with.
const SCHEME: &str = "ms-azure-iot-edge://";

/// A new Edge device's own scope: `ms-azure-iot-edge://{deviceId}-{ticks}`.
pub(super) fn new_scope(id: &DeviceId, fresh: &mut Fresh<'_>) -> Box<str> {
    format!("{SCHEME}{id}-{}", fresh.ticks()).into()
}

/// The Edge device that a scope names. The caller has to compare the scope with
/// that device's own: an earlier device of the same id had another one.
#[must_use]
pub fn scope_owner(scope: &str) -> Option<DeviceId> {
    let (id, ticks) = scope.strip_prefix(SCHEME)?.rsplit_once('-')?;
    if ticks.is_empty() || !ticks.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    DeviceId::parse(id).ok()
}

/// The refusal of a parent scope that no Edge device has.
#[must_use]
pub fn unknown_scope(scope: &str) -> ServiceError {
    let shown: String = scope.chars().take(256).collect();
    ServiceError::new(
        ErrorCode::InvalidDeviceScope,
        format!("no Edge device has the scope {shown:?}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_names_its_owner() {
        for (scope, owner) in [
            ("ms-azure-iot-edge://edge-1-637134923842394822", Some("edge-1")),
            ("ms-azure-iot-edge://e-", None),
            ("ms-azure-iot-edge://-1", None),
            ("ms-azure-iot-edge://a/b-1", None),
            ("ms-azure-iot-edge://e-1x", None),
            ("edge-1", None),
            ("", None),
        ] {
            assert_eq!(
                scope_owner(scope).as_ref().map(DeviceId::as_str),
                owner,
                "{scope}"
            );
        }
    }
}
