//! The SASL layer: credentials before the connection is opened.

use amqp_wire::performative::SaslCode;
use hub_core::ids::{DeviceId, Target};
use hub_core::sas::{self, Key, Resource, Token};

use super::caller::Caller;
use crate::hub::HubState;

/// The mechanisms offered. Clients pick one that they know, whatever the order.
/// `MSSBCBS` is the service's own name for "a token will follow".
pub(super) const MECHANISMS: [&str; 4] = ["MSSBCBS", "PLAIN", "ANONYMOUS", "EXTERNAL"];

/// Between the name of a policy and that of the hub.
const POLICY_INFIX: &str = "@sas.root.";
/// Between the id of a device and the name of the hub.
const DEVICE_INFIX: &str = "@sas.";

/// Seconds since 1970 until which a token lasts that stands for a key: a key
/// does not end.
const NEVER: u64 = 253_402_300_799;

/// Decides on the beginning of a mechanism. What it proves enters `caller`;
/// whether that is enough is decided at each link.
pub(super) fn decide(hub: &HubState, caller: &mut Caller, mechanism: &str, response: &[u8]) -> SaslCode {
    let ok = match mechanism {
        "ANONYMOUS" | "MSSBCBS" => true,
        "EXTERNAL" => caller.has_certificate(),
        "PLAIN" => plain(hub, caller, response).is_some(),
        _ => false,
    };
    if ok {
        SaslCode::Ok
    } else {
        tracing::debug!(mechanism, "login refused");
        hub.counters.connects_refused.add(1);
        SaslCode::Auth
    }
}

/// `authorization NUL user NUL password` (RFC 4616). A user is
/// `{policy}@sas.root.{hub}` or `{device}@sas.{hub}` with a token, or a policy
/// with its key, as clients of Event Hubs log in.
fn plain(hub: &HubState, caller: &mut Caller, response: &[u8]) -> Option<()> {
    let text = std::str::from_utf8(response).ok()?;
    let mut parts = text.split('\0');
    let (_, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let token = match Token::parse(password) {
        Ok(token) => token,
        Err(_) => {
            // Whoever has the key may make any token.
            let key = Key::from_base64(password).ok()?;
            let token = sas::sign(&hub.settings.host_name, &key, NEVER, Some(user));
            return caller.put(hub, &token).ok();
        }
    };
    let is_users = match user.split_once(POLICY_INFIX) {
        Some((policy, _)) => token.policy() == Some(policy),
        None => {
            let (id, _) = user.rsplit_once(DEVICE_INFIX)?;
            let device = DeviceId::parse(id).ok()?;
            let target = Target::device(device);
            token.scope().covers(&Resource::from(&target))
        }
    };
    if is_users {
        caller.put(hub, password).ok()
    } else {
        None
    }
}
