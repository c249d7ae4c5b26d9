//! Time as a value that tests can move.
//!
//! Everything that waits for a point in time waits on a [`Clock`]: the system's
//! time plus an offset. Advancing the offset wakes whoever has become due, so a
//! job that is scheduled for next week needs a call, not a week.
//!
//! A time of day may be set back, by [`Clock::reset`] or by whoever corrects the
//! machine's clock. What lasts a while (a job's window, a time-out, a pace) is
//! therefore measured in [`Clock::elapsed`], which only grows: nothing takes
//! longer because somebody set the clock back.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hub_core::time::Timestamp;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

/// Longest uninterrupted sleep. The runtime's timers follow a monotonic clock,
/// so a correction of the system's time or a suspended machine goes unnoticed
/// for at most this long.
const RECHECK: Duration = Duration::from_secs(60);

/// A handle to the time of one hub; clones share it.
#[derive(Debug, Clone)]
pub struct Clock {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    base: Base,
    /// Added to the base, in ticks of 100 ns.
    offset: AtomicI64,
    /// Every advance there ever was, in the same ticks.
    total_advance: AtomicU64,
    made: Instant,
    moved: Notify,
}

#[derive(Debug)]
enum Base {
    System,
    /// Stands still unless advanced.
    Fixed(Timestamp),
}

/// A point in time came before the awaited result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the deadline has passed")]
pub struct DeadlinePassed;

impl Clock {
    /// The system's time, which goes on by itself and can be advanced as well.
    #[must_use]
    pub fn system() -> Self {
        Self::with_base(Base::System)
    }

    /// A time that moves only when it is advanced.
    #[must_use]
    pub fn manual(start: Timestamp) -> Self {
        Self::with_base(Base::Fixed(start))
    }

    fn with_base(base: Base) -> Self {
        Self {
            shared: Arc::new(Shared {
                base,
                offset: AtomicI64::new(0),
                total_advance: AtomicU64::new(0),
                made: Instant::now(),
                moved: Notify::new(),
            }),
        }
    }

    /// The current time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let base = match self.shared.base {
            Base::System => system_ticks(),
            Base::Fixed(start) => start.unix_ticks(),
        };
        Timestamp::from_unix_ticks(base.saturating_add(self.shared.offset.load(Ordering::Acquire)))
    }

    /// How much time this clock has seen: what passed by itself since the clock
    /// was made, plus every advance. Neither [`Clock::reset`] nor a correction
    /// of the system's time takes anything from it or adds to it.
    ///
    /// Whoever reads both, and reads [`Clock::now`] first, has counted every
    /// advance that the time of day shows.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        let by_itself = match self.shared.base {
            Base::System => self.shared.made.elapsed(),
            Base::Fixed(_) => Duration::ZERO,
        };
        by_itself.saturating_add(ticks(self.shared.total_advance.load(Ordering::Acquire)))
    }

    /// The system's time, whatever this clock was advanced by. Credentials are
    /// checked against it: clients make them in real time.
    #[must_use]
    pub fn system_now() -> Timestamp {
        Timestamp::from_unix_ticks(system_ticks())
    }

    /// Takes back every advance from the time of day. Sleepers look at their
    /// deadlines again.
    pub fn reset(&self) {
        self.shared.offset.store(0, Ordering::Release);
        self.shared.moved.notify_waiters();
    }

    /// Moves the time forward and wakes every sleeper that is due by then.
    pub fn advance(&self, by: Duration) {
        let ticks = i64::try_from(by.as_nanos() / 100).unwrap_or(i64::MAX);
        // Before the time of day, as `elapsed` promises. The closures always
        // give a value, so the updates cannot fail.
        let _ = self
            .shared
            .total_advance
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |total| {
                Some(total.saturating_add(ticks.unsigned_abs()))
            });
        let _ = self
            .shared
            .offset
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |offset| {
                Some(offset.saturating_add(ticks))
            });
        self.shared.moved.notify_waiters();
    }

    /// Waits until the time is `deadline` or later; at once if it is already.
    ///
    /// The time may pass by itself or be advanced. Dropping the future is
    /// always safe.
    pub async fn sleep_until(&self, deadline: Timestamp) {
        loop {
            // Made before the time is read: an advance in between still wakes it.
            let moved = self.shared.moved.notified();
            let left = deadline.saturating_since(self.now());
            if left.is_zero() {
                return;
            }
            self.pass(left.min(RECHECK), moved).await;
        }
    }

    /// Waits until so much time has [elapsed](Clock::elapsed); at once if it has
    /// already. Dropping the future is always safe.
    pub async fn elapses(&self, deadline: Duration) {
        loop {
            let moved = self.shared.moved.notified();
            let left = deadline.saturating_sub(self.elapsed());
            if left.is_zero() {
                return;
            }
            self.pass(left, moved).await;
        }
    }

    /// Waits for `future`, but only until so much time has
    /// [elapsed](Clock::elapsed). A future that is ready at once gives its
    /// result even after the deadline.
    ///
    /// # Errors
    /// [`DeadlinePassed`] when the deadline came first.
    pub async fn timeout_at<F: Future>(
        &self,
        deadline: Duration,
        future: F,
    ) -> Result<F::Output, DeadlinePassed> {
        tokio::select! {
            biased;
            output = future => Ok(output),
            () = self.elapses(deadline) => Err(DeadlinePassed),
        }
    }

    /// Waits until the clock is moved or, if it goes by itself, for so long.
    async fn pass(&self, time: Duration, moved: Notified<'_>) {
        match self.shared.base {
            Base::Fixed(_) => moved.await,
            Base::System => tokio::select! {
                () = moved => {}
                () = tokio::time::sleep(time) => {}
            },
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

/// A duration in ticks of 100 ns.
fn ticks(count: u64) -> Duration {
    const PER_SECOND: u64 = 10_000_000;
    let nanos = u32::try_from(count % PER_SECOND * 100).unwrap_or(0);
    Duration::new(count / PER_SECOND, nanos)
}

fn system_ticks() -> i64 {
    // A machine that believes to be before 1970 gets 1970.
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    i64::try_from(since_epoch.as_nanos() / 100).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use futures_util::future::{join_all, pending};

    const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

    fn start() -> Timestamp {
        Timestamp::from_unix_seconds(1_767_322_000)
    }

    #[tokio::test]
    async fn a_manual_clock_moves_only_when_advanced() {
        let clock = Clock::manual(start());
        assert_eq!(clock.now(), start());
        let next_week = start().saturating_add(WEEK);
        let mut sleep = Box::pin(clock.sleep_until(next_week));
        assert!(sleep.as_mut().now_or_never().is_none());
        clock.advance(WEEK - Duration::from_nanos(100));
        assert!(sleep.as_mut().now_or_never().is_none(), "one tick early");
        clock.advance(Duration::from_nanos(100));
        assert!(sleep.as_mut().now_or_never().is_some());
        assert_eq!(clock.now(), next_week);
    }

    #[tokio::test]
    async fn an_advance_before_the_first_poll_counts() {
        let clock = Clock::manual(start());
        let sleep = clock.sleep_until(start().saturating_add(WEEK));
        clock.advance(WEEK);
        assert!(sleep.now_or_never().is_some());
    }

    #[tokio::test]
    async fn the_system_clock_can_be_advanced_too() {
        let clock = Clock::system();
        let before = clock.now();
        let sleep = clock.sleep_until(before.saturating_add(WEEK));
        clock.clone().advance(WEEK);
        sleep.await;
        assert!(clock.now() >= before.saturating_add(WEEK));
    }

    #[tokio::test(start_paused = true)]
    async fn the_system_clock_wakes_a_sleeper_by_itself() {
        // The runtime's paused time jumps to the next timer, so each check of
        // the system's time follows the one before at once.
        let clock = Clock::system();
        let deadline = clock.now().saturating_add(Duration::from_millis(20));
        clock.sleep_until(deadline).await;
        assert!(clock.now() >= deadline);
    }

    #[tokio::test]
    async fn what_has_elapsed_is_not_taken_back() {
        let clock = Clock::manual(start());
        let deadline = clock.elapsed() + WEEK;
        let mut wait = Box::pin(clock.elapses(deadline));
        clock.advance(WEEK - Duration::from_secs(1));
        clock.reset();
        assert_eq!(clock.now(), start());
        assert_eq!(clock.elapsed(), WEEK - Duration::from_secs(1));
        assert!(wait.as_mut().now_or_never().is_none());
        clock.advance(Duration::from_secs(1));
        assert!(wait.now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn time_elapses_by_itself_and_by_advances() {
        let clock = Clock::system();
        let deadline = clock.elapsed() + WEEK;
        clock.advance(WEEK - Duration::from_secs(2));
        clock.reset();
        let begin = Instant::now();
        clock.elapses(deadline).await;
        let waited = begin.elapsed();
        assert!(
            waited >= Duration::from_secs(2) && waited < Duration::from_secs(3),
            "{waited:?}"
        );
    }

    #[tokio::test]
    async fn ten_thousand_sleepers_wake_together() {
        let clock = Clock::manual(start());
        let sleeps =
            (1..=10_000_u64).map(|s| clock.sleep_until(start().saturating_add(Duration::from_secs(s))));
        let all = join_all(sleeps);
        clock.advance(Duration::from_secs(10_000));
        assert_eq!(all.await.len(), 10_000);
    }

    #[tokio::test]
    async fn a_timeout_ends_the_wait_but_prefers_the_result() {
        let clock = Clock::manual(start());
        assert_eq!(clock.timeout_at(Duration::ZERO, async { 1 }).await, Ok(1));
        assert_eq!(
            clock.timeout_at(Duration::ZERO, pending::<()>()).await,
            Err(DeadlinePassed)
        );
    }

    #[test]
    fn the_time_never_overflows() {
        let clock = Clock::system();
        clock.advance(Duration::MAX);
        assert_eq!(clock.now(), Timestamp::MAX);
        // What elapses goes on after the end of the calendar.
        clock.reset();
        let before = clock.elapsed();
        clock.advance(WEEK);
        assert!(clock.elapsed() >= before + WEEK);
        clock.advance(Duration::MAX);
        clock.advance(Duration::MAX);
        assert_eq!(clock.now(), Timestamp::MAX);
        assert!(clock.elapsed() >= before + WEEK);
    }
}
