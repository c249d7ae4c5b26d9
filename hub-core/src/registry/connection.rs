//! What identity and twin documents show of a connection.

use serde::Serialize;

use crate::time::Timestamp;

/// Facts about the connection of a device or module. The hub keeps them beside
/// the identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Whether there is a connection; only MQTT and AMQP count.
    pub state: ConnectionState,
    /// When `state` changed last.
    pub state_updated: Timestamp,
    /// Last connect, send or receive.
    pub last_activity: Timestamp,
    /// Cloud-to-device messages that wait for the device, 0 to 50.
    pub queued_messages: u32,
}

/// Never connected.
impl Default for Connection {
    fn default() -> Self {
        Self {
            state: ConnectionState::Disconnected,
            state_updated: Timestamp::NEVER,
            last_activity: Timestamp::NEVER,
            queued_messages: 0,
        }
    }
}

/// Whether a device or module is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ConnectionState {
    /// A connection is open.
    Connected,
    /// None is.
    Disconnected,
}

impl ConnectionState {
    /// The service's word for it, capitalised.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "Connected",
            Self::Disconnected => "Disconnected",
        }
    }
}
