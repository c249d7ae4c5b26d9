//! What an end of a connection offers, and its bounds.

use std::time::Duration;

use bytestring::ByteString;

use crate::value::Value;

/// What an end of a connection says of itself. Shared by all connections.
#[derive(Debug, Clone)]
pub struct Config {
    /// `container-id` of the `open`.
    pub container_id: ByteString,
    /// `hostname` of the `open`; clients set it.
    pub hostname: Option<ByteString>,
    /// `properties` of the `open`: a map, or null.
    pub properties: Value,
    /// SASL mechanisms that a server offers, in order of preference.
    pub mechanisms: Vec<ByteString>,
    /// Greatest frame accepted, in bytes; at least 512. The service says 65536.
    pub max_frame_size: u32,
    /// `idle-time-out` of the `open`, up to 49 days; `None` for no limit. The
    /// service says 4 minutes. A peer is cut off when it has been silent for
    /// one to two times as long: it must speak twice as often as it is told,
    /// and time is seen only when [`tick`](super::Engine::tick) is called.
    pub idle_time_out: Option<Duration>,
    /// Where the numbers of transfers and deliveries and the counts of links
    /// begin. Any number is legal (AMQP 1.0 parts 2.5.6 and 2.6.7); from one near
    /// the greatest they soon go round, which puts a peer's arithmetic to the
    /// test.
    pub first_number: u32,
    /// Bounds.
    pub limits: Limits,
}

/// Bounds of one connection. All are ours unless said otherwise.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Sessions; `channel-max` is one less.
    pub sessions: u16,
    /// Links of one session; `handle-max` is one less.
    pub links_per_session: u32,
    /// Links of all sessions.
    pub links: usize,
    /// Transfer frames that a session accepts before it says so again.
    pub incoming_window: u32,
    /// Greatest message that a link accepts unless its attach says otherwise,
    /// in bytes. The service's limit for telemetry is 256 KiB.
    pub max_message_size: u64,
    /// Bytes of all deliveries of which a part has arrived.
    pub partial_bytes: usize,
    /// Unsettled deliveries of a link, in each direction.
    pub unsettled: usize,
    /// Deliveries of a link that wait for credit or window.
    pub queued_deliveries: usize,
    /// Bytes of all deliveries that wait for credit or window.
    pub queued_bytes: usize,
    /// Unwritten output, in bytes, above which no more waiting deliveries
    /// become frames.
    pub output_bytes: usize,
}

impl Config {
    /// The service's values for a container of this name, which offers the
    /// SASL mechanism ANONYMOUS.
    #[must_use]
    pub fn new(container_id: impl Into<ByteString>) -> Self {
        Self {
            container_id: container_id.into(),
            hostname: None,
            properties: Value::Null,
            mechanisms: vec![ByteString::from_static("ANONYMOUS")],
            max_frame_size: 65536,
            idle_time_out: Some(Duration::from_secs(240)),
            first_number: 0,
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 1024,
            links_per_session: 1024,
            links: 8192,
            incoming_window: 5000,
            max_message_size: 256 * 1024,
            partial_bytes: 4 * 1024 * 1024,
            unsettled: 2048,
            queued_deliveries: 1024,
            queued_bytes: 4 * 1024 * 1024,
            output_bytes: 256 * 1024,
        }
    }
}
