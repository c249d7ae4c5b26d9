//! The rules of a local IoT hub, as pure code.
//!
//! Nothing in this crate opens a socket, reads a clock, draws a random number
//! or takes a lock: the current time and fresh ids arrive as arguments, and a
//! transition returns what has to happen next. The emulator, the device
//! simulator and the job service are shells around these rules.
//!
//! Reading order: [`ids`], [`time`] and [`error`] are the vocabulary;
//! [`sas`], [`topic`] and [`property_bag`] read what clients send;
//! [`registry`], [`twin`], [`method`] and [`c2d`] hold a device's state;
//! [`query`] selects devices, [`job`] runs an action over them, and
//! [`configuration`] keeps desired properties on them; [`digital_twin`] shows a
//! twin by the conventions of IoT Plug and Play; [`blob`] and [`file_upload`]
//! are about files; [`events`] keeps what devices and the hub itself have to
//! tell back ends, [`routing`] says where it goes; [`tier`] bounds jobs and messages as the hub's size does.

pub mod blob;
pub mod c2d;
pub mod configuration;
pub mod connection_string;
pub mod digital_twin;
pub mod duration;
pub mod error;
pub mod events;
pub mod file_upload;
pub mod ids;
pub mod job;
pub mod json;
pub mod limits;
pub mod method;
pub mod page;
pub mod property_bag;
pub mod query;
pub mod registry;
pub mod registry_job;
pub mod routing;
pub mod sas;
pub mod tier;
pub mod time;
pub mod topic;
pub mod twin;
pub mod user_name;

#[cfg(test)]
mod golden;
