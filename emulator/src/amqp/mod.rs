//! AMQP 1.0: back ends that send to devices and read feedback and events, and
//! devices that speak it.
//!
//! `amqp-wire` turns bytes into events; this module gives them their meaning.
//!
//! 1. [`connection`]: one task per connection holds the engine, the stream and
//!    all links. It reads, lets the engine say what has arrived, hands each
//!    event to the node of its link, and writes what all of them had to say.
//! 2. [`sasl`] and [`cbs`] take credentials, which [`caller`] keeps; it answers
//!    the one question whether this connection may use an [`address`].
//! 3. [`nodes`]: what is behind an address. A node is plain data with functions
//!    that the connection calls; it has no task and no channel. What it waits
//!    for it polls with its link's waker, and is called again through the
//!    connection's [`inbox`]. [`reply`] is for those that answer on another link.
//!
//! When the hub stops, [`farewell`] has every connection closed with a reason.
//!
//! [`condition`] alone knows how errors of the service are called here. What is
//! allowed is decided by `hub::access`, as for all protocols.

mod address;
mod caller;
mod cbs;
mod condition;
mod connection;
mod farewell;
mod inbox;
mod nodes;
mod properties;
mod reply;
mod sasl;

pub(crate) use connection::serve;
pub(crate) use farewell::Farewell;
