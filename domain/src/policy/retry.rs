//! Waiting longer after each failure.

use std::time::Duration;

/// An exponential backoff: the first wait, doubled after every further failure up to a longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure.
    pub first: Duration,
    /// The wait that is never exceeded, before jitter.
    pub longest: Duration,
}

impl Backoff {
    /// A link to a target: it comes back soon or late, and trying is cheap.
    pub const LINK: Self = Self { first: Duration::from_secs(1), longest: Duration::from_secs(60) };
    /// A package or sync that failed for a reason of its own.
    pub const PACKAGE: Self = Self { first: Duration::from_secs(5), longest: Duration::from_secs(600) };
    /// A package that only a person can settle, while each try sends all of it.
    pub const PERSON: Self = Self { first: Duration::from_secs(5), longest: Duration::from_secs(4 * 3600) };
    /// What waits for an operator's word: nothing comes of trying sooner than the next full sync.
    pub const NEXT_SYNC: Self = Self { first: Duration::from_secs(4 * 3_600), longest: Duration::from_secs(4 * 3_600) };
    /// A tag that cannot be taken away: somebody may change permissions soon, or next week.
    pub const TAG: Self = Self { first: Duration::from_secs(1), longest: Duration::from_secs(600) };
    /// An agent process that exited.
    pub const PROCESS: Self = Self { first: Duration::from_secs(1), longest: Duration::from_secs(300) };

    /// How long to wait after `failures` failures in a row (none: no wait), spread by ±20 % so that many targets
    /// that failed together do not come back together. `chance` is uniform in 0..1.
    pub fn wait(&self, failures: u32, chance: f64) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
        let base = self.first.saturating_mul(1u32 << doublings.min(20)).min(self.longest);
        base.mul_f64(0.8 + 0.4 * chance.clamp(0.0, 1.0)).max(self.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let seconds: Vec<u64> = (0..12).map(|n| Backoff::PROCESS.wait(n, 0.5).as_secs()).collect();
        assert_eq!(seconds, [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }

    proptest! {
        #[test]
        fn every_wait_lies_between_the_first_and_the_longest_with_jitter(failures in 1u32.., chance in 0.0..1.0f64) {
            let wait = Backoff::LINK.wait(failures, chance);
            prop_assert!(wait >= Backoff::LINK.first && wait <= Backoff::LINK.longest.mul_f64(1.2));
        }
    }
}
