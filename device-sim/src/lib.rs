//! Simulated devices for an IoT hub, cloud or local.
//!
//! A device is a pure [`behaviour`] inside an MQTT shell. [`session`] is the
//! device's side of the protocol without sockets and clocks, [`client`] moves
//! its packets over any stream, [`transport`] opens streams, and a [`fleet`]
//! keeps up to tens of thousands of devices connected, counts what reaches
//! them and sums it up in a [`report`].
//!
//! ```no_run
//! # use std::time::Duration;
//! # use device_sim::{Credentials, Fleet, Transport};
//! # async fn example(
//! #     service: &hub_core::connection_string::ServiceConnection,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! let transport = Transport::tcp(&service.host);
//! let fleet = Fleet::builder(transport, Credentials::derived(service))
//!     .numbered("dev", 10_000)
//!     .seed(7)
//!     .start()?;
//! fleet.wait_connected(Duration::from_secs(60)).await?;
//! // ... run a job over the devices ...
//! assert_eq!(fleet.devices_with_method("lockDoor"), 10_000);
//! let report = fleet.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! Reading order: [`behaviour`], [`session`], [`client`], [`transport`],
//! [`credentials`], [`fleet`], [`report`]. The library prints nothing; the
//! command line tool `device-sim` does.

pub mod behaviour;
pub mod client;
pub mod credentials;
pub mod event;
pub mod fleet;
pub mod histogram;
#[cfg(feature = "plot")]
pub mod plot;
pub mod process;
#[cfg(feature = "register")]
pub mod registration;
pub mod report;
pub mod selection;
pub mod session;
pub mod transport;
pub mod units;

pub use behaviour::{Behaviour, MethodAnswer, Telemetry};
pub use credentials::Credentials;
pub use event::Event;
pub use fleet::{Fleet, FleetBuilder};
pub use report::Report;
pub use selection::Shares;
pub use session::SessionSettings;
pub use transport::Transport;
