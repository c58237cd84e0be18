//! Holds back what is sent to one target, so that all of it together keeps to the configured bandwidth.
//!
//! What a tag asks for goes before the rest. What must not wait, such as heartbeats and single questions, only counts. The configured bandwidth may
//! change at any time, and whoever waits then goes by the new one at once.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use blat_domain::flow::bandwidth::{Bandwidth, Rate, WeekTime};
use blat_domain::flow::throttle::Throttle;
use jiff::Zoned;
use tokio::sync::watch;
use tokio::time::Instant;

/// Whoever waits looks at the clock again after this: clocks are set, and summer time begins.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// The least that is sent in one go, in bytes.
const LEAST: usize = 1 << 10;
/// What is sent in one go takes this part of a second, where whoever sends can choose.
const PARTS: u64 = 8;

/// Whose bytes are to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Those of a package that a tag asks for.
    Tag,
    /// Those of a full sync.
    Bulk,
}

/// What all senders of one target share.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    bandwidth: watch::Sender<Bandwidth>,
    throttle: Mutex<Throttle>,
    /// How many wait with what tags ask for.
    tags: watch::Sender<usize>,
    begun: Instant,
    clock: fn() -> WeekTime,
}

impl RateLimiter {
    /// Keeps to this bandwidth, by the local time of this machine.
    pub(crate) fn new(bandwidth: Bandwidth) -> Self {
        Self::by(bandwidth, local_time)
    }

    fn by(bandwidth: Bandwidth, clock: fn() -> WeekTime) -> Self {
        Self {
            bandwidth: watch::Sender::new(bandwidth),
            throttle: Mutex::default(),
            tags: watch::Sender::new(0),
            begun: Instant::now(),
            clock,
        }
    }

    /// Keeps to this bandwidth from now on.
    pub(crate) fn set(&self, bandwidth: Bandwidth) {
        self.bandwidth.send_if_modified(|present| {
            let is_other = *present != bandwidth;
            *present = bandwidth;
            is_other
        });
    }

    /// The limit at this moment, in bytes a second.
    pub(crate) fn rate(&self) -> Rate {
        match &*self.bandwidth.borrow() {
            Bandwidth::Always(rate) => *rate,
            windows @ Bandwidth::Windows(_) => windows.rate((self.clock)()),
        }
    }

    /// Whether what may wait must wait.
    pub(crate) fn is_closed(&self) -> bool {
        !self.wait().is_zero()
    }

    /// So many bytes were sent, or are about to be.
    pub(crate) fn spend(&self, bytes: usize) {
        self.throttle().spend(bytes as u64);
    }

    /// How many bytes should be sent in one go, so that nobody is held back for long at a time.
    pub(crate) fn portion(&self) -> usize {
        let portion = |bytes: u64| usize::try_from(bytes / PARTS).unwrap_or(usize::MAX).max(LEAST);
        self.rate().map_or(usize::MAX, |rate| portion(rate.get()))
    }

    /// Returns when it may have opened: then it is to be looked at again.
    pub(crate) async fn opening(&self) {
        // Before the look, so that no change is missed.
        let mut changes = self.bandwidth.subscribe();
        let wait = self.wait();
        let until_another = match &*self.bandwidth.borrow() {
            Bandwidth::Always(_) => None,
            windows @ Bandwidth::Windows(_) => windows.changes_in((self.clock)()),
        };
        let wait = wait.min(until_another.unwrap_or(LOOK_AGAIN)).min(LOOK_AGAIN);
        // The sender is ours, so an error cannot be: the limit changed, or the time is over.
        let _ = tokio::time::timeout(wait, changes.changed()).await;
    }

    /// Waits until so many bytes may be sent, and counts them as sent. Given up in the middle, nothing is counted.
    pub(crate) async fn pass(&self, urgency: Urgency, bytes: usize) {
        let _goes_first = match urgency {
            Urgency::Tag => Some(UrgentWaiter::with_a_tag(self)),
            Urgency::Bulk => None,
        };
        loop {
            if urgency == Urgency::Bulk {
                // The sender is ours, so an error cannot be.
                let _ = self.tags.subscribe().wait_for(|tags| *tags == 0).await;
            }
            if !self.is_closed() {
                return self.spend(bytes);
            }
            self.opening().await;
        }
    }

    fn wait(&self) -> Duration {
        let rate = self.rate();
        self.throttle().wait(rate, self.begun.elapsed())
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        // It is whole between any two of its calls.
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits with what a tag asks for.
struct UrgentWaiter<'a>(&'a RateLimiter);

impl<'a> UrgentWaiter<'a> {
    fn with_a_tag(limiter: &'a RateLimiter) -> Self {
        limiter.tags.send_modify(|tags| *tags += 1);
        Self(limiter)
    }
}

impl Drop for UrgentWaiter<'_> {
    fn drop(&mut self) {
        self.0.tags.send_modify(|tags| *tags -= 1);
    }
}

/// This machine's local time; UTC where its zone cannot be found out.
fn local_time() -> WeekTime {
    let now = Zoned::now();
    let days = u32::from(now.weekday().to_monday_zero_offset().unsigned_abs());
    let [hours, minutes, seconds] = [now.hour(), now.minute(), now.second()].map(|n| u32::from(n.unsigned_abs()));
    WeekTime::new(days, hours * 3_600 + minutes * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::sync::Arc;

    use blat_domain::flow::bandwidth::{Day, RateWindow};

    use super::*;

    const SLOW: Bandwidth = Bandwidth::Always(NonZeroU64::new(1));

    /// A limiter that will not open by itself for hours.
    fn closed() -> Arc<RateLimiter> {
        let limiter = Arc::new(RateLimiter::new(SLOW));
        assert!(!limiter.is_closed(), "the first may go at once");
        limiter.spend(100_000);
        assert!(limiter.is_closed());
        limiter
    }

    fn passing(limiter: &Arc<RateLimiter>, urgency: Urgency) -> tokio::task::JoinHandle<Instant> {
        let limiter = limiter.clone();
        tokio::spawn(async move {
            limiter.pass(urgency, 100_000).await;
            Instant::now()
        })
    }

    #[tokio::test]
    async fn whoever_waits_goes_by_a_new_limit_at_once_and_tags_go_first() {
        let limiter = closed();
        let bulk = passing(&limiter, Urgency::Bulk);
        tokio::task::yield_now().await;
        let tag = passing(&limiter, Urgency::Tag);
        tokio::task::yield_now().await;
        assert!(!bulk.is_finished() && !tag.is_finished());
        // What the tag sends then takes a while at this rate, and the rest waits for that.
        limiter.set(Bandwidth::Always(NonZeroU64::new(400_000)));
        let (tag, bulk) = (tag.await.expect("passed"), bulk.await.expect("passed"));
        assert!(tag < bulk);
    }

    #[tokio::test]
    async fn without_a_limit_nobody_waits() {
        let limiter = closed();
        let bulk = passing(&limiter, Urgency::Bulk);
        tokio::task::yield_now().await;
        limiter.set(Bandwidth::Always(None));
        bulk.await.expect("passed");
        (0..1_000).for_each(|_| limiter.spend(1 << 30));
        assert!(!limiter.is_closed());
        assert_eq!(limiter.portion(), usize::MAX);
    }

    #[test]
    fn windows_go_by_the_clock() {
        let time = |text: &str| text.parse().expect("a time");
        let window =
            RateWindow::new(time("08:00"), time("09:00"), Day::all(), NonZeroU64::new(80_000)).expect("a window");
        let windows = Bandwidth::Windows(vec![window]);
        let within = RateLimiter::by(windows.clone(), || WeekTime::new(3, 8 * 3_600));
        assert_eq!((within.rate(), within.portion()), (NonZeroU64::new(80_000), 10_000));
        assert_eq!(RateLimiter::by(windows, || WeekTime::new(3, 9 * 3_600)).rate(), None);
    }
}
