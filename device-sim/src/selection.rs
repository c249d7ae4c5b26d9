//! Which devices of a fleet misbehave, decided by a seed.

use crate::behaviour::Conduct;
use crate::units::Share;

/// The generator splitmix64 (Steele, Lea, Flood 2014): small, fast, good
/// enough to choose devices and spread timers, useless for secrets.
#[derive(Debug, Clone)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// A generator whose numbers depend on `seed` alone.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next number from 0 up to, not including, 1.
    pub fn next_fraction(&mut self) -> f64 {
        // 53 bits are what a double holds exactly.
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// The next number below `bound`, which must not be 0. Slightly favours
    /// small numbers, which does not matter for bounds far below 2^64.
    fn next_below(&mut self, bound: usize) -> usize {
        (self.next_u64() % bound as u64) as usize
    }
}

/// The parts of a fleet that are not as they should be. A device belongs to
/// at most one of them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Shares {
    /// Devices that never connect.
    pub offline: Share,
    /// Devices whose methods end in status 500.
    pub failing: Share,
    /// Devices that never answer a method.
    pub silent: Share,
}

/// The shares add up to more than the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("offline, failing and silent devices together are more than all")]
pub struct SharesError;

/// What becomes of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It never connects.
    Offline,
    /// It connects.
    Online(Conduct),
}

impl Shares {
    /// Gives each of `count` devices its role. The numbers of devices are
    /// exact (rounded shares), which devices they are depends on `seed` alone.
    ///
    /// # Errors
    /// When the shares add up to more than the whole.
    pub fn assign(&self, count: usize, seed: u64) -> Result<Vec<Role>, SharesError> {
        let mut roles = vec![Role::Online(Conduct::Normal); count];
        let mut order: Vec<usize> = (0..count).collect();
        let mut random = SplitMix64::new(seed);
        let mut chosen = 0;
        for (share, role) in [
            (self.offline, Role::Offline),
            (self.failing, Role::Online(Conduct::Failing)),
            (self.silent, Role::Online(Conduct::Silent)),
        ] {
            for _ in 0..share.of(count) {
                if chosen == count {
                    return Err(SharesError);
                }
                // A step of the Fisher-Yates shuffle.
                order.swap(chosen, chosen + random.next_below(count - chosen));
                roles[order[chosen]] = role;
                chosen += 1;
            }
        }
        Ok(roles)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shares(offline: &str, failing: &str, silent: &str) -> Shares {
        Shares {
            offline: offline.parse().unwrap(),
            failing: failing.parse().unwrap(),
            silent: silent.parse().unwrap(),
        }
    }

    fn number(roles: &[Role], role: Role) -> usize {
        roles.iter().filter(|r| **r == role).count()
    }

    #[test]
    fn the_generator_is_the_published_one() {
        let mut random = SplitMix64::new(1_234_567);
        let first = [random.next_u64(), random.next_u64(), random.next_u64()];
        assert_eq!(
            first,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn numbers_are_exact_and_devices_depend_on_the_seed() {
        let shares = shares("5%", "2%", "1%");
        let roles = shares.assign(10_000, 7).unwrap();
        assert_eq!(number(&roles, Role::Offline), 500);
        assert_eq!(number(&roles, Role::Online(Conduct::Failing)), 200);
        assert_eq!(number(&roles, Role::Online(Conduct::Silent)), 100);
        assert_eq!(shares.assign(10_000, 7).unwrap(), roles);
        assert_ne!(shares.assign(10_000, 8).unwrap(), roles);
    }

    #[test]
    fn more_than_all_is_refused() {
        assert_eq!(shares("60%", "50%", "0").assign(10, 1), Err(SharesError));
        let all = shares("50%", "25%", "25%").assign(4, 1).unwrap();
        assert_eq!(number(&all, Role::Online(Conduct::Normal)), 0);
    }

    proptest! {
        #[test]
        fn any_count_and_seed_give_the_rounded_numbers(count in 0_usize..500, seed: u64, part in 0.0_f64..0.5) {
            let share = Share::new(part).unwrap();
            let shares = Shares { offline: share, failing: Share::NONE, silent: share };
            let roles = shares.assign(count, seed);
            if 2 * share.of(count) > count {
                prop_assert_eq!(roles, Err(SharesError));
            } else {
                let roles = roles.unwrap();
                prop_assert_eq!(number(&roles, Role::Offline), share.of(count));
                prop_assert_eq!(number(&roles, Role::Online(Conduct::Silent)), share.of(count));
            }
        }

        #[test]
        fn fractions_are_below_one(seed: u64) {
            let fraction = SplitMix64::new(seed).next_fraction();
            prop_assert!((0.0..1.0).contains(&fraction));
        }
    }
}
