//! How fast jobs may begin operations on devices.

use std::num::NonZeroU32;
use std::time::Duration;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// A schedule of slots, `rate` a second, each for one operation.
///
/// Times are what has elapsed since some moment that stays the same, so they
/// never go back.
///
/// Slots that pass while an operation waits are not lost: when the clock jumps,
/// all operations that were due by then may begin. Slots that pass while
/// nobody waits are lost, so there is no burst after a pause. The service's
/// own throttles average over about a minute; the emulator's choice is the
/// schedule that forecasts the end of a job to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    rate: NonZeroU32,
    /// Where the schedule was last set up.
    origin: Duration,
    /// Slots that were given since.
    given: u64,
}

impl Pace {
    /// A schedule with `rate` slots a second, none of which is given.
    #[must_use]
    pub fn new(rate: NonZeroU32) -> Self {
        Self {
            rate,
            origin: Duration::ZERO,
            given: 0,
        }
    }

    /// Gives at most `wanted` of the slots that have come, up to `end`; the number
    /// that was given. `since` is when the first of all those began to wait that
    /// are waiting now.
    pub fn take(&mut self, wanted: usize, since: Duration, now: Duration, end: Duration) -> usize {
        self.catch_up(since, now);
        // The slot number n lies n/rate seconds after the origin; the one that
        // comes at this very moment counts.
        let due = match now.min(end).checked_sub(self.origin) {
            None => 0,
            Some(elapsed) => {
                elapsed.as_nanos().saturating_mul(u128::from(self.rate.get())) / NANOS_PER_SECOND + 1
            }
        };
        let left = due.saturating_sub(u128::from(self.given));
        let taken = wanted.min(usize::try_from(left).unwrap_or(usize::MAX));
        self.given = self.given.saturating_add(taken as u64);
        taken
    }

    /// When the next slot is.
    #[must_use]
    pub fn next(&self) -> Duration {
        let nanos = (u128::from(self.given) * NANOS_PER_SECOND).div_ceil(u128::from(self.rate.get()));
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        self.origin.saturating_add(Duration::from_nanos(nanos))
    }

    /// Begins a new schedule where the old one is over: nobody waited for its
    /// next slots.
    fn catch_up(&mut self, since: Duration, now: Duration) {
        let waiting_since = since.min(now);
        if self.next() < waiting_since {
            (self.origin, self.given) = (waiting_since, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const END: Duration = Duration::MAX;

    fn pace(rate: u32) -> Pace {
        Pace::new(NonZeroU32::new(rate).unwrap())
    }

    fn at(millis: u64) -> Duration {
        Duration::from_secs(1_767_322_000) + Duration::from_millis(millis)
    }

    #[test]
    fn ten_thousand_operations_take_a_thousand_seconds() {
        let mut pace = pace(10);
        assert_eq!(
            pace.take(10_000, at(0), at(0), END),
            1,
            "the first waits for nothing"
        );
        assert_eq!(pace.next(), at(100));
        assert_eq!(pace.take(9_999, at(0), at(99), END), 0);
        assert_eq!(pace.take(9_999, at(0), at(1_000), END), 10);
        assert_eq!(
            pace.take(9_989, at(0), at(999_800), END),
            9_988,
            "a jump gives all at once"
        );
        assert_eq!(pace.take(1, at(0), at(999_900), END), 1);
    }

    #[test]
    fn a_pause_is_no_credit() {
        let mut pace = pace(10);
        assert_eq!(pace.take(5, at(0), at(400), END), 5);
        assert_eq!(pace.take(100, at(60_000), at(60_000), END), 1);
        assert_eq!(pace.next(), at(60_100));
    }

    #[test]
    fn the_next_to_wait_follows_the_last_slot() {
        let mut pace = pace(10);
        assert_eq!(pace.take(5, at(0), at(1_000), END), 5);
        assert_eq!(
            pace.take(3, at(1_000), at(1_000), END),
            1,
            "a new schedule after a pause"
        );
        assert_eq!(pace.take(2, at(1_000), at(1_050), END), 0);
        assert_eq!(pace.take(2, at(1_000), at(1_100), END), 1);
    }

    #[test]
    fn slots_after_the_end_are_for_others() {
        let mut pace = pace(10);
        assert_eq!(pace.take(20, at(0), at(5_000), at(1_000)), 11);
        assert_eq!(pace.take(20, at(0), at(5_000), at(1_000)), 0);
        assert_eq!(pace.take(60, at(0), at(5_000), END), 40);
        assert_eq!(
            pace.take(20, at(0), at(5_000), at(1_000)),
            0,
            "none is given twice"
        );
        assert_eq!(pace.next(), at(5_100));
    }

    proptest! {
        /// However the waiting is cut into looks, as many operations begin as
        /// there are slots.
        #[test]
        fn looks_do_not_change_the_schedule(
            rate in 1_u32..1_000,
            steps in prop::collection::vec(0_u64..2_000, 1..50),
        ) {
            let mut pace = pace(rate);
            let (mut now, mut taken) = (0, 0);
            for step in steps {
                now += step;
                taken += pace.take(usize::MAX, at(0), at(now), END) as u64;
                prop_assert_eq!(taken, now * u64::from(rate) / 1_000 + 1);
                prop_assert!(pace.next() > at(now));
            }
        }
    }
}
