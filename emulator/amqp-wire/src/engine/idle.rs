//! Signs of life, and silence (AMQP 1.0 part 2.4.5).

use std::time::{Duration, Instant};

use super::Engine;
use super::handshake::Phase;
use crate::frame;
use crate::performative::{Error, condition};

/// The shortest time between two signs of life, whatever the peer wants. Ours.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(50);

/// What is known of both ends' silence. Times are those of calls of `tick`.
#[derive(Debug, Default)]
pub(super) struct Idle {
    /// Whether bytes have come since the last call.
    pub(super) received: bool,
    /// Whether frames have gone out since the last call.
    pub(super) wrote: bool,
    last_received: Option<Instant>,
    last_wrote: Option<Instant>,
    /// Time after which we give a sign of life.
    interval: Option<Duration>,
}

impl Idle {
    /// Takes the peer's `idle-time-out` in milliseconds. A third of it, because
    /// time is seen only at calls: up to two intervals may pass.
    pub(super) fn set_peer(&mut self, milliseconds: Option<u32>) {
        self.interval = milliseconds
            .filter(|time| *time > 0)
            .map(|time| (Duration::from_millis(time.into()) / 3).max(SHORTEST_INTERVAL));
    }
}

impl Engine {
    /// Does what is due at `now`: gives a sign of life if the peer wants one,
    /// and closes the connection if the peer has been silent too long. Returns
    /// when to call again at the latest; calling earlier does no harm.
    ///
    /// Does nothing before the connection is open: the time that a handshake
    /// may take is for the caller to limit.
    pub fn tick(&mut self, now: Instant) -> Option<Instant> {
        if !matches!(self.phase, Phase::Open | Phase::Closing) {
            return None;
        }
        let idle = &mut self.idle;
        if std::mem::take(&mut idle.received) || idle.last_received.is_none() {
            idle.last_received = Some(now);
        }
        if std::mem::take(&mut idle.wrote) || idle.last_wrote.is_none() {
            idle.last_wrote = Some(now);
        }
        let silence_ends = idle
            .last_received
            .zip(self.config.idle_time_out)
            .map(|(last, time)| last + time);
        if silence_ends.is_some_and(|end| end <= now) {
            let time = self.config.idle_time_out.unwrap_or_default().as_millis();
            self.fail(Error::new(
                condition::CONNECTION_FORCED,
                format!("the connection was inactive for more than {time} ms"),
            ));
            return None;
        }
        let mut sign_due = None;
        if let (Phase::Open, Some(interval)) = (&self.phase, idle.interval) {
            let due = idle.last_wrote.map_or(now, |last| last + interval);
            if due <= now {
                frame::put_empty_frame(&mut self.output);
                self.idle.last_wrote = Some(now);
                sign_due = Some(now + interval);
            } else {
                sign_due = Some(due);
            }
        }
        [silence_ends, sign_due].into_iter().flatten().min()
    }
}
