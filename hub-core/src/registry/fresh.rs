//! Values that must be new: keys, ETags, generation ids.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::authentication::{KeyPair, SymmetricKey};
use crate::time::Timestamp;

/// Ticks of 100 ns in a second.
const TICKS_PER_SECOND: u64 = 10_000_000;
/// ETags are nine-digit numbers in base64, like `ODAxMjMyNDI2`.
const ETAG_NUMBERS: std::ops::Range<u64> = 100_000_000..1_000_000_000;

/// Where new keys, ETags and generation ids come from.
pub struct Fresh<'a> {
    /// The hub's current time.
    pub now: Timestamp,
    /// Yields unpredictable bytes: keys are made of them.
    pub random: &'a mut dyn FnMut() -> [u8; 32],
}

impl Fresh<'_> {
    /// Two keys of 32 random bytes each.
    pub(super) fn keys(&mut self) -> KeyPair {
        KeyPair {
            primary: SymmetricKey::from_bytes(&(self.random)()),
            secondary: SymmetricKey::from_bytes(&(self.random)()),
        }
    }

    /// An identity's ETag, different from the one it had.
    pub(super) fn etag(&mut self, previous: Option<&str>) -> Box<str> {
        let count = ETAG_NUMBERS.end - ETAG_NUMBERS.start;
        let offset = self.number() % count;
        let etag = |offset: u64| STANDARD.encode((ETAG_NUMBERS.start + offset).to_string());
        let candidate = etag(offset);
        if previous == Some(candidate.as_str()) {
            return etag((offset + 1) % count).into();
        }
        candidate.into()
    }

    /// A number like the 18-digit tick counts of the service, as in
    /// `637134923842394822`: the current second, and random ticks within it so
    /// that two identities made at one moment differ.
    pub(super) fn ticks(&mut self) -> Box<str> {
        let now = self.now.ticks_since_year_one();
        let ticks = now - now % TICKS_PER_SECOND + self.number() % TICKS_PER_SECOND;
        ticks.to_string().into()
    }

    fn number(&mut self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = (self.random)();
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Debug for Fresh<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fresh")
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_are_nine_digits_in_base64_and_never_repeat_the_previous() {
        // A source without any randomness is the worst case.
        let mut random = || [0; 32];
        let mut fresh = Fresh {
            now: Timestamp::NEVER,
            random: &mut random,
        };
        let first = fresh.etag(None);
        assert_eq!(STANDARD.decode(&*first).unwrap(), b"100000000");
        let second = fresh.etag(Some(&first));
        assert_eq!(STANDARD.decode(&*second).unwrap(), b"100000001");
        assert_eq!(fresh.etag(Some(&second)), first);
    }

    #[test]
    fn generations_of_one_moment_differ_but_stay_in_their_second() {
        let mut count = 0;
        let mut random = || {
            count += 1;
            [count; 32]
        };
        let now = Timestamp::parse("2020-01-02T03:04:05.5Z").unwrap();
        let mut fresh = Fresh {
            now,
            random: &mut random,
        };
        let (a, b) = (fresh.ticks(), fresh.ticks());
        assert_ne!(a, b);
        assert_eq!((a.len(), &a[..11]), (18, &b[..11]));
        assert_eq!(&a[..11], &now.ticks_since_year_one().to_string()[..11]);
    }
}
