//! AMQP 1.0 as bytes, and one connection of it as a state machine without I/O.
//!
//! Three layers, each usable without the next:
//!
//! * [`value`]: values of any AMQP type; [`decode_value`] and [`encode_value`].
//! * [`performative`], [`frame`] and [`message`]: what frames and messages
//!   consist of, typed. Output is what the clients of the service insist on.
//! * [`engine`]: a connection. Bytes in, events out; commands in, bytes out.
//!
//! The crate knows no address, token or filter: what a link means is decided
//! by those who use it. It has no socket, no clock and no lock.

mod decode;
mod encode;
pub mod engine;
pub mod frame;
pub mod message;
pub mod performative;
pub mod value;

pub use self::decode::{DecodeError, MAX_DEPTH, decode_value};
pub use self::encode::encode_value;
pub use self::value::Value;
