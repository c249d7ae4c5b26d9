//! How long things took, in little memory and without locks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Buckets per doubling: a bucket is at most 1/64 of its values wide.
const SUB_BITS: u32 = 6;
const SUBS: u64 = 1 << SUB_BITS;
/// Values of 2^37 microseconds (38 hours) and more share the last bucket.
const DOUBLINGS: u32 = 37 - SUB_BITS;
const BUCKETS: usize = (SUBS * (DOUBLINGS as u64 + 1)) as usize;

/// Counts durations in logarithmic buckets; any number of tasks may record
/// into one at the same time.
///
/// Takes 16 KiB whatever is recorded. Quantiles are exact below 128 µs and
/// otherwise at most 1.6 % above the true value.
#[derive(Debug)]
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
    count: AtomicU64,
    sum_micros: AtomicU64,
    max_micros: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            count: AtomicU64::new(0),
            sum_micros: AtomicU64::new(0),
            max_micros: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Counts one duration, to the microsecond.
    pub fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(micros)].fetch_add(1, Relaxed);
        self.count.fetch_add(1, Relaxed);
        self.sum_micros.fetch_add(micros, Relaxed);
        self.max_micros.fetch_max(micros, Relaxed);
    }

    /// The smallest duration that at least the share `q` (0 to 1) of all do
    /// not exceed; zero when nothing was recorded.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Duration {
        let count = self.count.load(Relaxed);
        let max = self.max_micros.load(Relaxed);
        // Within 1..=count: `q` is clamped and the product rounded up.
        let rank = ((q.clamp(0.0, 1.0) * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            seen += bucket.load(Relaxed);
            if seen >= rank {
                return Duration::from_micros(greatest(index).min(max));
            }
        }
        Duration::from_micros(max)
    }

    /// The figures for a report; `None` when nothing was recorded.
    #[must_use]
    pub fn summary(&self) -> Option<Latency> {
        let count = self.count.load(Relaxed);
        if count == 0 {
            return None;
        }
        let millis = |duration: Duration| duration.as_micros() as f64 / 1000.0;
        Some(Latency {
            count,
            mean_ms: self.sum_micros.load(Relaxed) as f64 / count as f64 / 1000.0,
            p50_ms: millis(self.quantile(0.5)),
            p90_ms: millis(self.quantile(0.9)),
            p99_ms: millis(self.quantile(0.99)),
            max_ms: self.max_micros.load(Relaxed) as f64 / 1000.0,
            cumulative: self.cumulative(),
        })
    }

    /// The whole distribution, as exactly as it was counted.
    #[must_use]
    pub fn cumulative(&self) -> Cumulative {
        let max = self.max_micros.load(Relaxed);
        let mut up_to = 0;
        let mut steps = Vec::new();
        for (index, bucket) in self.buckets.iter().enumerate() {
            let counted = bucket.load(Relaxed);
            if counted > 0 {
                up_to += counted;
                steps.push((greatest(index).min(max) as f64 / 1000.0, up_to));
            }
        }
        Cumulative(steps)
    }
}

/// A cumulative distribution: how many took at most how many milliseconds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cumulative(Vec<(f64, u64)>);

impl Cumulative {
    /// Milliseconds and how many took at most that long, both ascending; the
    /// last is all of them.
    #[must_use]
    pub fn steps(&self) -> &[(f64, u64)] {
        &self.0
    }

    /// How many were measured.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.last().map_or(0, |(_, all)| *all)
    }

    /// The smallest number of milliseconds that at least the share `q` (0 to 1)
    /// of all do not exceed; zero when nothing was measured.
    #[must_use]
    pub fn quantile_ms(&self, q: f64) -> f64 {
        let rank = (q.clamp(0.0, 1.0) * self.count() as f64).ceil() as u64;
        let step = self.0.partition_point(|(_, up_to)| *up_to < rank);
        self.0.get(step).map_or(0.0, |(ms, _)| *ms)
    }
}

/// The distribution of a latency, in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// Arithmetic mean.
    pub mean_ms: f64,
    /// Median.
    pub p50_ms: f64,
    /// 90 % took at most this long.
    pub p90_ms: f64,
    /// 99 % took at most this long.
    pub p99_ms: f64,
    /// The longest, exactly.
    pub max_ms: f64,
    /// All of it; not part of the JSON.
    #[serde(skip)]
    pub cumulative: Cumulative,
}

/// Index of the bucket that counts `micros`.
fn bucket(micros: u64) -> usize {
    if micros < SUBS {
        return micros as usize;
    }
    let doubling = micros.ilog2() - SUB_BITS;
    if doubling >= DOUBLINGS {
        return BUCKETS - 1;
    }
    let sub = (micros >> doubling) - SUBS;
    (SUBS * (u64::from(doubling) + 1) + sub) as usize
}

/// The greatest number of microseconds that a bucket counts.
fn greatest(index: usize) -> u64 {
    let index = index as u64;
    if index < SUBS {
        return index;
    }
    if index as usize == BUCKETS - 1 {
        return u64::MAX;
    }
    let doubling = index / SUBS - 1;
    ((SUBS + index % SUBS + 1) << doubling) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_histogram_has_no_summary() {
        let histogram = Histogram::default();
        assert_eq!(histogram.summary(), None);
        assert_eq!(histogram.quantile(0.99), Duration::ZERO);
    }

    #[test]
    fn a_summary_is_in_milliseconds() {
        let histogram = Histogram::default();
        for micros in [10, 20, 30, 40] {
            histogram.record(Duration::from_micros(micros));
        }
        let expected = Latency {
            count: 4,
            mean_ms: 0.025,
            p50_ms: 0.02,
            p90_ms: 0.04,
            p99_ms: 0.04,
            max_ms: 0.04,
            cumulative: Cumulative(vec![(0.01, 1), (0.02, 2), (0.03, 3), (0.04, 4)]),
        };
        assert_eq!(histogram.summary(), Some(expected));
    }

    #[test]
    fn buckets_are_contiguous() {
        for index in 0..BUCKETS - 1 {
            assert_eq!(bucket(greatest(index)), index);
            assert_eq!(bucket(greatest(index) + 1), index + 1);
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    proptest! {
        #[test]
        fn quantiles_are_close_to_the_exact_ones(
            mut micros in proptest::collection::vec(
                prop_oneof![0_u64..200, 0_u64..100_000, 0_u64..1 << 36], 1..300),
            q in 0.0_f64..=1.0,
        ) {
            let histogram = Histogram::default();
            for &m in &micros {
                histogram.record(Duration::from_micros(m));
            }
            micros.sort_unstable();
            let rank = ((q * micros.len() as f64).ceil() as usize).max(1);
            let exact = micros[rank - 1];
            let found = u64::try_from(histogram.quantile(q).as_micros()).unwrap();
            prop_assert!(found >= exact, "{found} < {exact}");
            prop_assert!(found - exact <= exact / SUBS, "{found} is too far above {exact}");
            // The same from the steps, in milliseconds.
            prop_assert_eq!(histogram.cumulative().quantile_ms(q), found as f64 / 1000.0);
        }
    }
}
