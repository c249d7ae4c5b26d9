//! What several benches need: hubs with devices, and the smallest clients that
//! exercise them.
//!
//! * [`site`]: a hub, its registered devices, and a fleet connected to it.
//! * [`rest`]: one keep-alive connection to the service API, and jobs over it.
//! * [`amqp`]: an AMQP client of the hub.
//! * [`peer`]: an MQTT client of any broker, for what a fleet does not measure.
//!
//! A bench that did not do its work must not show a figure, so everything here
//! panics, with a text, where something else than the expected happens.

pub mod amqp;
pub mod peer;
pub mod rest;
pub mod site;

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, sleep};

/// How long anything may take before a bench gives up.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A multi-threaded runtime with as many threads as the machine has cores, and
/// room for the sockets of both ends of a thousand connections.
///
/// # Panics
/// When the operating system gives no threads.
#[must_use]
pub fn runtime() -> Runtime {
    mqtt_wire::raise_descriptor_limit();
    Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime starts")
}

/// Looks at `condition` every millisecond until it holds.
///
/// # Panics
/// With `what` when it does not within [`DEADLINE`].
pub async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within {DEADLINE:?}");
        sleep(Duration::from_millis(1)).await;
    }
}
