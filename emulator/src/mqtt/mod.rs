//! The MQTT front of the hub: one task per connection, over TCP, TLS,
//! WebSocket or memory.
//!
//! `connection` reads and writes and keeps the timers, `handshake` decides on
//! CONNECT, `protocol` turns packets into calls of the device's session and
//! frames of its outbox into packets. State lives in `hub`, not here.

mod connection;
mod handshake;
mod protocol;

pub(crate) use self::connection::serve;
