//! The task of one device: connect, serve, reconnect.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hub_core::time::Timestamp;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep};

use super::{Backoff, Shared};
use crate::behaviour::{Conduct, Device};
use crate::client::{Client, ClientError, End};
use crate::event::Event;
use crate::process;
use crate::selection::SplitMix64;
use crate::session::Session;
use crate::transport::Stream;

/// Why a connection could not be opened or was lost.
#[derive(Debug)]
enum Cause {
    Transport(io::Error),
    Client(ClientError),
}

/// Keeps one device connected until the fleet stops. `permit` is for its
/// first attempt to connect.
pub(super) async fn run(shared: Arc<Shared>, index: usize, conduct: Conduct, permit: OwnedSemaphorePermit) {
    // The golden ratio, so that seeds of neighbours have nothing in common.
    let own_seed = shared.seed ^ (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut random = SplitMix64::new(own_seed);
    let target = shared.tally.target(index).clone();
    let device = Device::new(target, Arc::clone(&shared.behaviour), conduct);
    let mut session = Session::new(device, Arc::clone(&shared.settings), random.next_fraction());
    let mut permit = Some(permit);
    let mut failures = 0;
    loop {
        let permit = match permit.take() {
            Some(permit) => Ok(permit),
            None => Arc::clone(&shared.connecting).acquire_owned().await,
        };
        let Ok(permit) = permit else { return };
        // Boxed: opening takes far more memory than serving, but not for long.
        let opened = tokio::select! {
            opened = Box::pin(open(&shared, index, &mut session, permit)) => opened,
            () = shared.stop.cancelled() => return,
        };
        let ended = match opened {
            Err(cause) => Err(cause),
            Ok(client) => {
                failures = 0;
                let _connected = shared.tally.enter_connected();
                client
                    .run(&shared.stop, &|event| shared.tally.observe(index, &event))
                    .await
                    .map_err(Cause::Client)
                    .inspect_err(|_| shared.tally.count_lost())
            }
        };
        let cause = match ended {
            Ok(End::Stopped) => return,
            Ok(End::Renewal) => {
                shared.tally.count_renewed();
                continue;
            }
            Err(cause) => describe(&cause),
        };
        let retry_in = pause(shared.backoff, failures, random.next_fraction());
        failures += 1;
        let cause = &cause;
        shared.tally.observe(index, &Event::Disconnected { cause, retry_in });
        tokio::select! {
            () = sleep(retry_in) => {}
            () = shared.stop.cancelled() => return,
        }
    }
}

async fn open<'a>(
    shared: &Shared,
    index: usize,
    session: &'a mut Session,
    _permit: OwnedSemaphorePermit,
) -> Result<Client<'a, Stream>, Cause> {
    let started = Instant::now();
    let stream = shared.transport.connect().await.map_err(Cause::Transport)?;
    let login = shared.credentials.login(session.device().target(), now());
    let observe = |event: Event<'_>| shared.tally.observe(index, &event);
    let client = Client::open(stream, session, &login, &observe)
        .await
        .map_err(Cause::Client)?;
    shared.tally.count_opened(started.elapsed());
    Ok(client)
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_seconds(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// The pause after `failures` failures in a row; `chance` from 0 to 1.
fn pause(backoff: Backoff, failures: u32, chance: f64) -> Duration {
    let doubled = backoff.first.saturating_mul(1 << failures.min(20));
    doubled.min(backoff.last).mul_f64(1.0 - chance / 2.0)
}

/// The cause in words that are the same for every device, so that causes can
/// be counted.
fn describe(cause: &Cause) -> String {
    match cause {
        Cause::Transport(error) => format!("cannot connect: {}", describe_io(error)),
        Cause::Client(ClientError::Stream(error)) => format!("connection failed: {}", describe_io(error)),
        Cause::Client(error) => error.to_string(),
    }
}

fn describe_io(error: &io::Error) -> String {
    // "Too many open files", of the process or of the system.
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;

    match error.raw_os_error() {
        Some(EMFILE) if cfg!(unix) => match process::open_file_limit() {
            Some(limit) => format!("this process may open only {limit} files: ulimit -n"),
            None => "this process may open no more files: ulimit -n".to_owned(),
        },
        Some(ENFILE) if cfg!(unix) => "the system may open no more files".to_owned(),
        _ if error.kind() == io::ErrorKind::AddrNotAvailable => "no local port is free".to_owned(),
        Some(_) => error.kind().to_string(),
        // Of a library, whose words say more than the kind.
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_last_and_vary() {
        let backoff = Backoff {
            first: Duration::from_secs(1),
            last: Duration::from_secs(10),
        };
        let seconds = |failures, chance| pause(backoff, failures, chance).as_secs_f64();
        assert_eq!(seconds(0, 0.0), 1.0);
        assert_eq!(seconds(1, 0.0), 2.0);
        assert_eq!(seconds(3, 0.5), 6.0);
        assert_eq!(seconds(u32::MAX, 1.0), 5.0);
    }

    #[test]
    fn causes_are_worded_for_counting() {
        let refused = io::Error::from_raw_os_error(111);
        let text = describe(&Cause::Transport(refused));
        assert!(text.starts_with("cannot connect: "), "{text}");
        let lost = Cause::Client(ClientError::Closed);
        assert_eq!(describe(&lost), "connection closed by the hub");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn too_few_descriptors_are_explained() {
        let text = describe(&Cause::Transport(io::Error::from_raw_os_error(24)));
        let limit = process::open_file_limit().unwrap();
        assert_eq!(
            text,
            format!("cannot connect: this process may open only {limit} files: ulimit -n")
        );
    }
}
