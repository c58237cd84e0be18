//! How many bytes a second a road delivers, and whether deltas pay on it.
//!
//! A road shows what it delivers only while it is full. What is written to an idle one is taken at once by pipes, sockets and routers, however slow
//! the road behind them is, and says nothing. So the measure is of bytes whose arrival was answered, over the time that this took.

use std::collections::VecDeque;
use std::time::Duration;

use crate::flow::bandwidth::Rate;

/// Whoever answers within this is near, and near ends have fast roads, until they show the opposite.
pub const NEAR: Duration = Duration::from_millis(5);
/// Samples are joined until they took so long: one answer may be late by chance, and the next one then seems early.
const SPAN: Duration = Duration::from_millis(500);
/// Of so many such spans the best counts: a processor that was wanted elsewhere, and TCP's beginning, make some look slow. A road that has become
/// slower shows it after so many.
const SPANS: usize = 8;

/// What a way of packing sends, and for how long one processor packs.
struct Way {
    bytes: u64,
    work: Duration,
}

/// What has changed in the next versions of 29 real packages, all together, without deltas and with them.
const PLAIN: Way = Way { bytes: 157_000_000, work: Duration::from_millis(2_000) };
const DELTAS: Way = Way { bytes: 56_900_000, work: Duration::from_millis(4_300) };

impl Way {
    /// What is packed already is sent while the rest is packed, so the slower of both counts.
    fn takes(&self, bytes_a_second: u64) -> Duration {
        let nanoseconds = u128::from(self.bytes) * 1_000_000_000 / u128::from(bytes_a_second.max(1));
        self.work.max(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)))
    }
}

/// What arrived in one round: from an answer to the first answer to a question that was asked after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Bytes that were answered.
    pub bytes: u64,
    /// From the one answer to the other.
    pub took: Duration,
    /// Whether bytes were waiting on the road all the time. Where they were not, we were slower than the road.
    pub was_full: bool,
}

/// What a road delivered while it was full for [`SPAN`], in bytes a second.
#[derive(Debug, Clone, Copy)]
struct Span {
    /// On the average.
    mean: u64,
    /// In the best round meanwhile, full or not.
    best: u64,
}

/// What a road has delivered while it was full. It outlives connections: the next one leads over the same road.
#[derive(Debug, Default)]
pub struct Throughput {
    /// The last whole ones, the latest first.
    spans: VecDeque<Span>,
    /// Of the span that goes on.
    bytes: u64,
    took: Duration,
    best: u64,
    /// How far the other end was when all this was seen.
    was_near: Option<bool>,
}

impl Throughput {
    /// A connection begins. Where the other end was near and now is far, or the other way round, the road is another one: nothing is known of it.
    pub fn begin(&mut self, is_near: bool) {
        if self.was_near != Some(is_near) {
            *self = Self { was_near: Some(is_near), ..Self::default() };
        }
    }

    /// Takes in what a round has shown. One that we limited shows only that the road delivers no less: to the average it counts where it is faster
    /// than what is known, or else than what deltas pay on.
    pub fn note(&mut self, sample: Sample) {
        let rate = bytes_a_second(sample.bytes, sample.took);
        self.best = self.best.max(rate);
        let is_news = || self.bytes_a_second(false).map_or_else(|| !pay(rate), |known| rate > known);
        if !sample.was_full && !is_news() {
            return;
        }
        self.bytes = self.bytes.saturating_add(sample.bytes);
        self.took = self.took.saturating_add(sample.took);
        if self.took >= SPAN {
            self.spans.truncate(SPANS - 1);
            self.spans.push_front(Span { mean: bytes_a_second(self.bytes, self.took), best: self.best });
            (self.bytes, self.took, self.best) = (0, Duration::ZERO, 0);
        }
    }

    /// Whether the road was full for long enough to show what it delivers.
    #[must_use]
    pub fn is_measured(&self) -> bool {
        !self.spans.is_empty()
    }

    /// What the road delivers in a second, in bytes; none before it was full for long enough. To a near end it is what any round has shown: where
    /// both ends are busy, a near road delivers little on the average, and only a slow one never delivers much.
    pub(crate) fn bytes_a_second(&self, is_near: bool) -> Option<u64> {
        self.spans.iter().map(|span| if is_near { span.best } else { span.mean }).max()
    }

    /// Whether making deltas takes less time than sending what they save. Before anything was measured, the road to a far end counts as slow enough
    /// for them, and that to a near one does not. `limit` is what may be sent in a second.
    #[must_use]
    pub fn deltas_pay(&self, is_near: bool, limit: Rate) -> bool {
        let assumed = if is_near { u64::MAX } else { 1 };
        let rate = self.bytes_a_second(is_near).unwrap_or(assumed);
        pay(limit.map_or(rate, |limit| rate.min(limit.get())))
    }
}

/// Whether deltas take less time than the whole, on a road that delivers so much.
fn pay(bytes_a_second: u64) -> bool {
    DELTAS.takes(bytes_a_second) < PLAIN.takes(bytes_a_second)
}

fn bytes_a_second(bytes: u64, took: Duration) -> u64 {
    u64::try_from(u128::from(bytes) * 1_000_000_000 / took.as_nanos().max(1)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    const MEGABYTE: u64 = 1_000_000;
    const NO_LIMIT: Rate = None;

    /// Rounds of 50 ms, for so long altogether, at so many megabytes a second.
    fn rounds(throughput: &mut Throughput, seconds: u64, megabytes_a_second: u64, was_full: bool) {
        let sample = Sample { bytes: megabytes_a_second * MEGABYTE / 20, took: Duration::from_millis(50), was_full };
        (0..seconds * 20).for_each(|_| throughput.note(sample));
    }

    #[test]
    fn before_anything_was_measured_the_distance_decides() {
        let throughput = Throughput::default();
        assert!(throughput.deltas_pay(false, NO_LIMIT));
        assert!(!throughput.deltas_pay(true, NO_LIMIT));
        assert!(throughput.deltas_pay(true, NonZeroU64::new(MEGABYTE)), "a limit is slow whatever the road is");
    }

    #[test]
    fn what_we_limited_neither_makes_a_far_road_fast_nor_a_near_one_slow() {
        let mut throughput = Throughput::default();
        rounds(&mut throughput, 3_600, 1, false);
        assert!(!throughput.is_measured());
        assert!(throughput.deltas_pay(false, NO_LIMIT) && !throughput.deltas_pay(true, NO_LIMIT));
        rounds(&mut throughput, 1, 25, true);
        rounds(&mut throughput, 3_600, 1, false);
        assert_eq!(throughput.bytes_a_second(false), Some(25 * MEGABYTE), "nor a road slower than it is");
    }

    #[test]
    fn what_a_full_road_delivers_decides_by_cost_whatever_the_distance() {
        for (megabytes_a_second, deltas_pay) in [(1, true), (25, true), (36, true), (37, false), (125, false)] {
            let mut throughput = Throughput::default();
            rounds(&mut throughput, 1, megabytes_a_second, true);
            for is_near in [false, true] {
                assert_eq!(throughput.deltas_pay(is_near, NO_LIMIT), deltas_pay, "{megabytes_a_second} MB/s");
            }
        }
        let mut fast = Throughput::default();
        rounds(&mut fast, 1, 125, true);
        assert!(fast.deltas_pay(false, NonZeroU64::new(25 * MEGABYTE)), "by the limit as long as there is one");
    }

    #[test]
    fn a_road_too_fast_for_us_to_fill_shows_it_all_the_same() {
        let mut throughput = Throughput::default();
        rounds(&mut throughput, 1, 80, false);
        assert_eq!(throughput.bytes_a_second(false), Some(80 * MEGABYTE));
        assert!(!throughput.deltas_pay(false, NO_LIMIT));
    }

    #[test]
    fn one_answer_that_seems_early_makes_no_road_fast_and_some_that_are_late_make_none_slow() {
        let mut slow = Throughput::default();
        for _ in 0..100 {
            // Late by 50 ms, and what arrived meanwhile is found arrived at once.
            slow.note(Sample { bytes: 2_500_000, took: Duration::from_millis(100), was_full: true });
            slow.note(Sample { bytes: 1_250_000, took: Duration::from_millis(1), was_full: true });
            (0..10).for_each(|_| {
                slow.note(Sample { bytes: 1_250_000, took: Duration::from_millis(50), was_full: true });
            });
        }
        assert!(slow.deltas_pay(false, NO_LIMIT), "{:?}", slow.bytes_a_second(false));
        let mut fast = Throughput::default();
        rounds(&mut fast, 1, 300, true);
        rounds(&mut fast, 3, 5, true);
        assert!(!fast.deltas_pay(false, NO_LIMIT), "{:?}", fast.bytes_a_second(false));
    }

    #[test]
    fn a_near_road_between_busy_ends_stays_fast_as_long_as_any_round_is() {
        let mut near = Throughput::default();
        for _ in 0..60 {
            rounds(&mut near, 1, 9, true);
            near.note(Sample { bytes: 200_000, took: Duration::from_millis(2), was_full: false });
        }
        assert!(!near.deltas_pay(true, NO_LIMIT), "{near:?}");
        rounds(&mut near, 5, 9, true);
        assert!(near.deltas_pay(true, NO_LIMIT), "not one for 4 s of a full road: {near:?}");
    }

    #[test]
    fn a_road_that_has_become_slower_or_faster_is_found_out() {
        let mut throughput = Throughput::default();
        rounds(&mut throughput, 60, 125, true);
        rounds(&mut throughput, 4, 10, true);
        assert_eq!(throughput.bytes_a_second(false), Some(10 * MEGABYTE));
        rounds(&mut throughput, 1, 125, true);
        assert_eq!(throughput.bytes_a_second(false), Some(125 * MEGABYTE));
    }

    #[test]
    fn a_new_connection_over_the_same_road_keeps_what_is_known_and_one_over_another_does_not() {
        let mut throughput = Throughput::default();
        throughput.begin(false);
        rounds(&mut throughput, 1, 125, true);
        throughput.begin(false);
        assert!(!throughput.deltas_pay(false, NO_LIMIT));
        throughput.begin(true);
        assert!(!throughput.is_measured());
        rounds(&mut throughput, 1, 125, true);
        throughput.begin(false);
        assert!(throughput.deltas_pay(false, NO_LIMIT), "what was near is far now: no longer the same road");
    }

    #[test]
    fn no_sample_is_out_of_bounds() {
        let mut throughput = Throughput::default();
        throughput.note(Sample { bytes: u64::MAX, took: Duration::ZERO, was_full: true });
        throughput.note(Sample { bytes: u64::MAX, took: Duration::MAX, was_full: true });
        throughput.note(Sample { bytes: 0, took: Duration::MAX, was_full: true });
        assert_eq!(throughput.bytes_a_second(false), Some(0));
        assert!(throughput.deltas_pay(false, NO_LIMIT));
    }
}
