//! What several tests need.

pub mod amqp;
pub mod answering;
pub mod back_end;
pub mod c2d;
pub mod certificates;
pub mod device;
pub mod jobs;
pub mod live;
pub mod methods;
pub mod rest;
pub mod routes;
pub mod routing;
pub mod storage;
pub mod tap;
pub mod transport;
pub mod unchanged;

use std::future::Future;
use std::time::Duration;

use emulator::Hub;
use tokio::time::{Instant, sleep, timeout};

/// How long a test waits for anything before it fails.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A hub of the test's own.
pub async fn start_hub() -> Hub {
    Hub::builder().start().await.unwrap()
}

/// Awaits `future`, at most for [`DEADLINE`].
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {DEADLINE:?}"),
    }
}

/// Asks again and again until `condition` gives something, at most for
/// [`DEADLINE`]; shows the last state when it gives up.
pub async fn wait_for<T, S: std::fmt::Debug>(
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<T, S>,
) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(state) if Instant::now() >= end => panic!("{what} did not come true; last seen: {state:?}"),
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
    }
}
