//! Whether the far end lives, and whether it gets on with what it was given.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blat_domain::protocol::frames::{LANES, Lane, Request, append};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::outbox::Outbox;
use super::{broke, congestion, refused};
use crate::flow::{STALL_TIMEOUT, idle_timer};
use crate::model::error::TargetError;

/// The receiver is asked for a sign of life at every so many of the moments of [`moments`]: every 8 s.
const BEAT: u32 = 2;
/// Without a sign of life for this long the link is dead.
const DEAD: Duration = Duration::from_secs(45);
/// A lane that was given nothing for this long is not believed any more that it gets on with what it was given before.
const LONGEST_CLAIM: Duration = Duration::from_secs(24 * 60 * 60);

/// What is asked of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Duty {
    /// Nothing.
    Free,
    /// A request is under way on it.
    Busy {
        /// Frames of the lane that were given to the link.
        written: u64,
        /// Whether the next one waits for nothing but the bandwidth.
        held_back: bool,
    },
}

/// What was seen of a lane.
#[derive(Debug, Clone, Copy)]
struct LaneProgress {
    /// Its number.
    work: u64,
    /// The frames that had been written when the number changed: it has got on with those.
    answered: u64,
    /// Since when it stands still.
    since: Instant,
    /// The frames that had been written at the last look, and since when it is so many.
    given: (u64, Instant),
}

impl LaneProgress {
    fn new(now: Instant) -> Self {
        Self { work: 0, answered: 0, since: now, given: (0, now) }
    }

    /// Looks at the lane and tells whether it has stood still for too long. A lane that got on after the last frame that it was given, and is
    /// given no other because of the bandwidth, does not stand still.
    fn stands_still(&mut self, work: u64, duty: Duty, now: Instant) -> bool {
        match duty {
            Duty::Free | Duty::Busy { held_back: true, .. } => self.given.1 = now,
            Duty::Busy { written, .. } if written != self.given.0 => self.given = (written, now),
            Duty::Busy { .. } => {}
        }
        match duty {
            Duty::Free => *self = Self { work, since: now, ..*self },
            Duty::Busy { written, .. } if work != self.work => {
                *self = Self { work, answered: written, since: now, ..*self };
            }
            Duty::Busy { written, held_back: true } if written == self.answered => self.since = now,
            Duty::Busy { .. } => {}
        }
        now.duration_since(self.since) > STALL_TIMEOUT || now.duration_since(self.given.1) > LONGEST_CLAIM
    }
}

/// Signs of life.
#[derive(Debug)]
pub(super) struct Watchdog {
    felt: watch::Sender<(Instant, Vec<u64>)>,
    /// The number of the next question.
    beats: AtomicU64,
    /// The number of the next answer.
    answers: AtomicU64,
}

impl Default for Watchdog {
    fn default() -> Self {
        let first = || AtomicU64::new(congestion::QUESTION + 1);
        Self { felt: watch::Sender::new((Instant::now(), Vec::new())), beats: first(), answers: first() }
    }
}

impl Watchdog {
    /// Whether the question of this number is the next to be answered: they are answered in their order, each once.
    pub(super) fn is_next(&self, beat: u64) -> bool {
        let is_asked = beat < self.beats.load(Ordering::Relaxed);
        is_asked && self.answers.compare_exchange(beat, beat + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// A sign of life came, with the lanes' numbers.
    pub(super) fn felt(&self, work: &[u64]) {
        self.felt.send_replace((Instant::now(), work.to_vec()));
    }

    /// Asks for signs of life until there is none.
    pub(super) async fn beat(&self, outbox: &Outbox, duty: impl Fn(usize) -> Duty) -> TargetError {
        let mut lanes = [LaneProgress::new(Instant::now()); LANES as usize];
        loop {
            let (last, work) = self.felt.borrow().clone();
            if last.elapsed() > DEAD {
                return broke(&format!("no sign of life for {} s", DEAD.as_secs()));
            }
            for (number, progress) in lanes.iter_mut().enumerate() {
                let work = work.get(number).copied().unwrap_or_default();
                if progress.stands_still(work, duty(number), Instant::now()) {
                    return broke(&format!("no progress for {} s; given up", STALL_TIMEOUT.as_secs()));
                }
            }
            let beat = self.beats.fetch_add(1, Ordering::Relaxed);
            let mut frame = Vec::new();
            match append(&mut frame, Lane::CONTROL, &Request::Ping { beat }) {
                Ok(()) => outbox.put(Lane::CONTROL, frame),
                Err(error) => return refused(error),
            }
            sleep_until(idle_timer::after(Instant::now(), BEAT)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at a lane at each heartbeat; gives after how many seconds it stands still, if within 28 hours.
    fn standstill(look: impl Fn(u64) -> (u64, Duty)) -> Option<u64> {
        let begin = Instant::now();
        let mut progress = LaneProgress::new(begin);
        let mut beats = (0..100_000).step_by(10);
        beats.find(|seconds| {
            let (work, duty) = look(*seconds);
            progress.stands_still(work, duty, begin + Duration::from_secs(*seconds))
        })
    }

    #[test]
    fn a_lane_that_does_not_get_on_stands_still_and_a_free_one_does_not() {
        let busy = |written| Duty::Busy { written, held_back: false };
        assert_eq!(standstill(|_| (7, Duty::Free)), None);
        let ever_more = |seconds| (seconds / 100, busy(seconds / 1_000));
        assert_eq!(standstill(ever_more), None);
        let claim = standstill(|seconds| (seconds / 100, busy(1)));
        assert_eq!(claim, Some(86_410), "it claims to get on with the same frame for more than a day");
        assert_eq!(standstill(|_| (0, busy(1))), Some(130));
        assert_eq!(standstill(|seconds| (seconds.min(500), busy(1))), Some(630));
    }

    #[test]
    fn a_lane_that_is_held_back_by_the_bandwidth_does_not_stand_still() {
        // One frame in 200 seconds, which it gets on with at once.
        let slow = |seconds| (seconds / 200 + 1, Duty::Busy { written: seconds / 200 + 1, held_back: true });
        assert_eq!(standstill(slow), None);
        // After the third it does not get on any more, though it is given others.
        let stuck = |seconds| (slow(seconds).0.min(3), slow(seconds).1);
        assert_eq!(standstill(stuck), Some(720));
        // It takes what it was given, and nothing else waits for it: whatever it does now, it should get on.
        let all_given = |seconds: u64| (seconds.min(20), Duty::Busy { written: 2, held_back: false });
        assert_eq!(standstill(all_given), Some(150));
    }
}
