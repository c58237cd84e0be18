//! Keeping to a rate: what was sent is a debt that time pays, and while there is any, nothing more may go.
//!
//! Nobody has to know beforehand how much he will send, and a rate that changes holds at once, for what is owed as well.

use std::time::Duration;

use crate::flow::bandwidth::Rate;

/// What could have been sent in so much idle time may be made up for: timers are late, and nothing is sent while they are.
const SLACK: Duration = Duration::from_millis(100);
const NANOSECONDS: i128 = 1_000_000_000;

/// What is owed to a rate. Times are those since any one moment.
#[derive(Debug, Default)]
pub struct Throttle {
    rate: Rate,
    /// In bytes times nanoseconds a second; below zero it may be made up for.
    debt: i128,
    at: Duration,
}

impl Throttle {
    /// How long from `now` on nothing may be sent, if the rate is this one from now on; zero: something may go now.
    pub fn wait(&mut self, rate: Rate, now: Duration) -> Duration {
        self.pay(now);
        self.rate = rate;
        match rate {
            None => {
                self.debt = 0;
                Duration::ZERO
            }
            Some(rate) => {
                let nanoseconds = self.debt.max(0).unsigned_abs().div_ceil(rate.get().into());
                Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
            }
        }
    }

    /// So many bytes were sent, whether they had to wait or not.
    pub fn spend(&mut self, bytes: u64) {
        if self.rate.is_some() {
            self.debt += i128::from(bytes) * NANOSECONDS;
        }
    }

    /// Time since the last look has paid some of it, at the rate that was in force.
    fn pay(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at);
        self.at = self.at.max(now);
        let worth = |time: Duration, rate: u64| {
            i128::from(rate).saturating_mul(i128::try_from(time.as_nanos()).unwrap_or(i128::MAX))
        };
        if let Some(rate) = self.rate {
            self.debt = self.debt.saturating_sub(worth(passed, rate.get())).max(-worth(SLACK, rate.get()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    const FRAME: u64 = 64 << 10;
    const MEBIBYTE: Rate = NonZeroU64::new(1 << 20);

    /// Sends frames one after the other, each as soon as it may go, until `end`; gives the bytes.
    fn send(throttle: &mut Throttle, rate: Rate, from: Duration, end: Duration) -> u64 {
        let (mut now, mut sent) = (from, 0);
        loop {
            now += throttle.wait(rate, now);
            if now >= end {
                return sent;
            }
            if throttle.wait(rate, now).is_zero() {
                throttle.spend(FRAME);
                sent += FRAME;
            }
        }
    }

    #[test]
    fn two_mebibytes_at_one_a_second_take_two_seconds() {
        let mut throttle = Throttle::default();
        let end = Duration::from_secs(2);
        assert_eq!(send(&mut throttle, MEBIBYTE, Duration::ZERO, end), 2 << 20);
        assert_eq!(throttle.wait(MEBIBYTE, end), Duration::ZERO, "all is paid");
    }

    #[test]
    fn a_rate_that_changes_in_the_middle_holds_at_once() {
        let mut throttle = Throttle::default();
        let slow = NonZeroU64::new(1 << 10);
        assert_eq!(throttle.wait(slow, Duration::ZERO), Duration::ZERO);
        throttle.spend(FRAME);
        assert_eq!(throttle.wait(slow, Duration::ZERO), Duration::from_secs(64));
        assert_eq!(throttle.wait(slow, Duration::from_secs(32)), Duration::from_secs(32));
        let half_paid = throttle.wait(MEBIBYTE, Duration::from_secs(32));
        assert_eq!(half_paid, Duration::from_nanos(31_250_000), "the other half goes at the new rate");
        assert_eq!(throttle.wait(None, Duration::from_secs(32)), Duration::ZERO, "no limit, no debt");
        assert_eq!(throttle.wait(slow, Duration::from_secs(32)), Duration::ZERO, "nor afterwards");
    }

    #[test]
    fn idle_time_is_made_up_for_by_a_tenth_of_a_second_and_no_more() {
        let mut throttle = Throttle::default();
        throttle.wait(MEBIBYTE, Duration::ZERO);
        let hour = Duration::from_secs(3_600);
        let sent = send(&mut throttle, MEBIBYTE, hour, hour + Duration::from_secs(1));
        assert!((1 << 20..=(1 << 20) + (1 << 20) / 10 + FRAME).contains(&sent), "{sent}");
    }

    #[test]
    fn what_may_not_wait_is_owed_all_the_same() {
        let mut throttle = Throttle::default();
        throttle.wait(MEBIBYTE, Duration::ZERO);
        (0..16).for_each(|_| throttle.spend(FRAME));
        assert_eq!(throttle.wait(MEBIBYTE, Duration::ZERO), Duration::from_secs(1));
    }

    #[test]
    fn a_clock_that_goes_back_or_far_ahead_does_no_harm() {
        let mut throttle = Throttle::default();
        throttle.wait(Some(NonZeroU64::MAX), Duration::from_secs(5));
        throttle.spend(u64::MAX);
        assert!(throttle.wait(Some(NonZeroU64::MAX), Duration::ZERO) <= Duration::from_secs(1));
        assert_eq!(throttle.wait(Some(NonZeroU64::MAX), Duration::MAX), Duration::ZERO);
    }
}
