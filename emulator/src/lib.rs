//! A local IoT hub that unmodified Azure SDKs talk to.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let hub = emulator::Hub::builder().start().await?;
//! let connection_string = hub.create_device("my-device")?;
//! println!("{connection_string}");
//! println!("{}", hub.service_connection_string());
//! hub.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! [`Hub`] is a running hub: bound, ready, and gone after
//! [`Hub::shutdown`]. Several can live in one process. The way of a packet, a
//! request and a job through this crate is drawn in `ARCHITECTURE.md`.

mod amqp;
mod blobs;
mod builder;
mod http;
mod hub;
mod import;
mod listen;
mod mqtt;
mod server;
#[cfg(feature = "event-tap")]
mod tap;
mod tls;
mod tracking;
mod websocket;
mod writing;

use std::num::NonZeroUsize;
use std::path::Path;

pub use self::builder::{HubBuilder, Listen, Ports, StartError};
pub use self::hub::Strictness;
pub use self::hub::counters::CounterValues;
pub use self::hub::events::{EventReader, EventSettings, OpenError, ReadEnd};
pub use self::hub::telemetry::TelemetryMessage;
pub use self::import::{ImportError, Imported};
pub use self::server::{DEVELOPMENT_KEY, Hub, MemoryConnector, OWNER_POLICY};
pub use self::tls::{DeviceCaError, TlsError};

/// How many threads the runtime of a hub should have where its clients run on the
/// same machine: half of the processors, at least one. Each thread more costs
/// every operation wake-ups from one to the other, and what the clients need is
/// theirs.
#[must_use]
pub fn worker_threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    (processors / 2).max(1)
}

/// The development CA kept in `directory`, which a hub with this data
/// directory uses: PEM of its certificate. It is made when there is none.
///
/// # Errors
/// When its files cannot be read, written or understood.
pub fn development_ca(directory: &Path) -> Result<String, TlsError> {
    tls::Authority::load_or_create(directory).map(|authority| authority.pem)
}
