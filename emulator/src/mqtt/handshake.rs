//! CONNECT: who is there, and may they come in.
//!
//! Source of the grammar and the return codes: the MQTT guide, and the
//! service's habit of answering 5 to everything that concerns credentials,
//! unless what is shown is no credential at all.

use std::sync::Arc;
use std::time::Duration;

use hub_core::limits;
use hub_core::property_bag::{Bag, MessageProperties};
use hub_core::topic::DeviceTopic;
use hub_core::user_name::UserName;
use mqtt_wire::{Connect, ConnectAckReason, LEVEL_3_1_1, QoS};
use tokio::time::Instant;

use crate::hub::HubState;
use crate::hub::access::{Channel, Credentials, Denied, deadline};
use crate::hub::cell::Persistence;
use crate::hub::session::Session;
use crate::tls::ClientCertificate;

/// A connection that was let in.
pub(super) struct Accepted {
    pub(super) session: Session,
    /// Silence after which the connection is closed.
    pub(super) keep_alive: Duration,
    /// When the right to be connected ends, in real time; never for a far future.
    pub(super) expires: Option<Instant>,
    pub(super) will: Option<Will>,
}

/// Telemetry that the hub sends for the device if the connection breaks.
pub(super) struct Will {
    pub(super) bag: Bag<'static>,
    pub(super) body: Vec<u8>,
}

/// A refusal: the return code for the client, the reason for the log.
pub(super) struct Refusal {
    pub(super) code: ConnectAckReason,
    pub(super) reason: String,
}

/// Decides on a CONNECT and, if it is in order, opens the session.
/// `certificate` is what the client presented in the TLS handshake.
pub(super) fn decide(
    hub: &Arc<HubState>,
    connect: &Connect,
    certificate: Option<&ClientCertificate>,
) -> Result<Accepted, Refusal> {
    if connect.protocol.level() != LEVEL_3_1_1 {
        return Err(refuse(
            ConnectAckReason::UnacceptableProtocolVersion,
            "the protocol level is not 4",
        ));
    }
    if connect.client_id.is_empty() {
        return Err(refuse(
            ConnectAckReason::IdentifierRejected,
            "the client id is empty",
        ));
    }
    let user_name = connect
        .username
        .as_ref()
        .ok_or_else(|| refuse(ConnectAckReason::BadUserNameOrPassword, "there is no user name"))?;
    let user_name = UserName::parse(user_name)
        .map_err(|e| refuse(ConnectAckReason::BadUserNameOrPassword, e.to_string()))?;
    if !user_name.matches_client_id(&connect.client_id) {
        return Err(refuse(
            ConnectAckReason::NotAuthorized,
            "client id and user name name different identities",
        ));
    }
    let target = user_name.target;
    let password = connect.password.as_deref().map(std::str::from_utf8).transpose();
    let token = password.map_err(|_| {
        refuse(
            ConnectAckReason::BadUserNameOrPassword,
            "the password is not UTF-8",
        )
    })?;
    let credentials = Credentials {
        token,
        certificate,
        channel: Channel::Connection,
    };
    let authorized = hub.authorize_device(&credentials, &target).map_err(|denied| {
        let code = match denied {
            Denied::Malformed => ConnectAckReason::BadUserNameOrPassword,
            _ => ConnectAckReason::NotAuthorized,
        };
        refuse(code, denied.to_string())
    })?;
    let will = will(connect, &target)?;
    let persistence = if connect.clean_session {
        Persistence::Transient
    } else {
        Persistence::Persistent
    };
    let session = Session::open(
        hub,
        target,
        persistence,
        authorized.method,
        user_name.model_id.as_deref(),
    )
    .map_err(|denied| refuse(ConnectAckReason::NotAuthorized, denied.to_string()))?;
    Ok(Accepted {
        session,
        keep_alive: keep_alive(connect.keep_alive),
        expires: deadline(authorized.until),
        will,
    })
}

fn refuse(code: ConnectAckReason, reason: impl Into<String>) -> Refusal {
    Refusal {
        code,
        reason: reason.into(),
    }
}

/// One and a half times what the client asks for, within the hub's maximum.
fn keep_alive(seconds: u16) -> Duration {
    match seconds {
        0 => limits::MQTT_KEEP_ALIVE_MAX,
        s => Duration::from_millis(u64::from(s) * 1500).min(limits::MQTT_KEEP_ALIVE_MAX),
    }
}

/// A will must be telemetry of the device itself.
fn will(connect: &Connect, target: &hub_core::ids::Target) -> Result<Option<Will>, Refusal> {
    let Some(will) = &connect.last_will else {
        return Ok(None);
    };
    let not_telemetry = || {
        refuse(
            ConnectAckReason::NotAuthorized,
            "the will is not telemetry of this device",
        )
    };
    if will.qos == QoS::ExactlyOnce {
        return Err(not_telemetry());
    }
    let Ok(DeviceTopic::Telemetry { bag, .. }) = DeviceTopic::parse(&will.topic, target) else {
        return Err(not_telemetry());
    };
    let mut properties = MessageProperties::decode(bag).map_err(|_| not_telemetry())?;
    properties
        .application
        .insert("iothub-MessageType".into(), "Will".into());
    // Copied: the message is a slice of the connection's read buffer.
    Ok(Some(Will {
        bag: Bag::from(&properties),
        body: will.message.to_vec(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keep_alive_is_one_and_a_half_times_and_capped() {
        assert_eq!(keep_alive(60), Duration::from_secs(90));
        assert_eq!(keep_alive(1), Duration::from_millis(1500));
        assert_eq!(keep_alive(0), Duration::from_secs(1767));
        assert_eq!(keep_alive(u16::MAX), Duration::from_secs(1767));
    }
}
