//! What waits for the link: frames of several lanes, of which the most urgent goes first.
//!
//! The control lane and the lane of tags go before the others, which take turns and only go while the link has room for them. So a tag waits for
//! at most the frame that is being written, and for what is on the link. What may wait here is bounded by the lanes' credit.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use blat_domain::protocol::frames::{LANES, Lane};
use tokio::sync::Notify;

use crate::flow::rate_limit::RateLimiter;
use crate::targets::host::receiver::congestion::Pacing;

/// Frames on their way to the writer.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queues: Mutex<Queues>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Queues {
    lanes: [VecDeque<Vec<u8>>; LANES as usize],
    /// The lane of a full sync whose turn it was last.
    last: u8,
}

/// Which frames may be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MayGo {
    All,
    /// The link has no room for the rest.
    Urgent,
    /// The bandwidth is used up.
    Control,
}

impl Queues {
    /// The most urgent frame of those that may go.
    fn take(&mut self, may_go: MayGo) -> Option<(Lane, Vec<u8>)> {
        let lane = match may_go {
            MayGo::Control => Lane::CONTROL.0,
            MayGo::Urgent => self.urgent()?,
            MayGo::All => self.turn()?,
        };
        self.lane(lane).pop_front().map(|frame| (Lane(lane), frame))
    }

    /// The first lane with something urgent.
    fn urgent(&mut self) -> Option<u8> {
        (0..Lane::BULK.0).find(|lane| !self.lane(*lane).is_empty())
    }

    /// Whether a full sync has anything to send.
    fn has_bulk(&self) -> bool {
        self.lanes[usize::from(Lane::BULK.0)..].iter().any(|lane| !lane.is_empty())
    }

    /// The lane whose turn it is.
    fn turn(&mut self) -> Option<u8> {
        let first_bulk = Lane::BULK.0;
        self.urgent().or_else(|| {
            let (bulk, last) = (LANES - first_bulk, self.last.saturating_sub(first_bulk));
            let next =
                (1..=bulk).map(|step| first_bulk + (last + step) % bulk).find(|lane| !self.lane(*lane).is_empty())?;
            self.last = next;
            Some(next)
        })
    }

    fn lane(&mut self, lane: u8) -> &mut VecDeque<Vec<u8>> {
        &mut self.lanes[usize::from(lane)]
    }
}

impl Outbox {
    /// Puts a whole frame at the end of its lane.
    pub(super) fn put(&self, lane: Lane, frame: Vec<u8>) {
        self.lock().lane(lane.0).push_back(frame);
        self.filled.notify_one();
    }

    /// The most urgent frame, once there is one that the limiter lets through and that the link has room for. Frames of the control lane always go,
    /// and count.
    pub(super) async fn take(&self, limiter: &RateLimiter, pacing: &Pacing) -> (Lane, Vec<u8>) {
        loop {
            let (may_go, taken) = self.try_take(limiter, pacing);
            if let Some((lane, frame)) = taken {
                limiter.spend(frame.len());
                return (lane, frame);
            }
            match may_go {
                // It has room again with the next answer.
                MayGo::Urgent => self.filled.notified().await,
                MayGo::All => {
                    pacing.starve();
                    self.filled.notified().await;
                }
                MayGo::Control => {
                    pacing.starve();
                    tokio::select! {
                        () = self.filled.notified() => {}
                        () = limiter.opening() => {}
                    }
                }
            }
        }
    }

    fn try_take(&self, limiter: &RateLimiter, pacing: &Pacing) -> (MayGo, Option<(Lane, Vec<u8>)>) {
        let mut queues = self.lock();
        let may_go = if limiter.is_closed() {
            MayGo::Control
        } else if queues.has_bulk() && !pacing.is_open() {
            MayGo::Urgent
        } else {
            MayGo::All
        };
        (may_go, queues.take(may_go))
    }

    /// The link may have room again.
    pub(super) fn look_again(&self) {
        self.filled.notify_one();
    }

    /// Whether frames of this lane wait here.
    pub(super) fn has(&self, lane: usize) -> bool {
        !self.lock().lanes[lane].is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        // Queues are whole between any two of their calls.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::sync::Arc;
    use std::time::Duration;

    use blat_domain::flow::bandwidth::Bandwidth;
    use tokio::time::Instant;

    use super::*;

    async fn next(outbox: &Outbox, limiter: &RateLimiter) -> String {
        String::from_utf8(outbox.take(limiter, &Pacing::new(Arc::default())).await.1).expect("text")
    }

    #[tokio::test]
    async fn tags_overtake_and_full_syncs_take_turns() {
        let (outbox, limiter) = (Outbox::default(), RateLimiter::new(Bandwidth::Always(None)));
        for (lane, frame) in [(2, "a1"), (2, "a2"), (3, "b1"), (7, "c1"), (1, "tag"), (0, "ping"), (3, "b2")] {
            outbox.put(Lane(lane), frame.as_bytes().to_vec());
        }
        let mut order = Vec::new();
        for _ in 0..7 {
            order.push(next(&outbox, &limiter).await);
        }
        assert_eq!(order[..2], ["ping", "tag"]);
        let place = |frame: &str| order.iter().position(|other| other == frame).expect("sent");
        assert!(place("b1") < place("a2") || place("a1") < place("b2"), "{order:?}");
        assert!(place("c1") < place("a2").max(place("b2")), "{order:?}");
    }

    #[tokio::test]
    async fn while_the_bandwidth_is_used_up_control_frames_go_and_tags_are_the_first_to_follow() {
        let (outbox, limiter) = (Outbox::default(), RateLimiter::new(Bandwidth::Always(NonZeroU64::new(1))));
        outbox.put(Lane::BULK, vec![0; 100_000]);
        assert_eq!(
            outbox.take(&limiter, &Pacing::new(Arc::default())).await.1.len(),
            100_000,
            "the first may go at once"
        );
        outbox.put(Lane::BULK, b"bulk".to_vec());
        let sending =
            async { [next(&outbox, &limiter).await, next(&outbox, &limiter).await, next(&outbox, &limiter).await] };
        let speaking = async {
            tokio::task::yield_now().await;
            outbox.put(Lane::TAGS, b"tag".to_vec());
            tokio::task::yield_now().await;
            outbox.put(Lane::CONTROL, b"ping".to_vec());
            while outbox.has(0) {
                tokio::task::yield_now().await;
            }
            assert!(outbox.has(usize::from(Lane::TAGS.0)) && outbox.has(usize::from(Lane::BULK.0)));
            limiter.set(Bandwidth::Always(None));
        };
        assert_eq!(tokio::join!(sending, speaking).0, ["ping", "tag", "bulk"]);
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_road_is_full_tags_go_and_full_syncs_wait_for_what_has_arrived() {
        let (outbox, limiter, pacing) =
            (Outbox::default(), RateLimiter::new(Bandwidth::Always(None)), Pacing::new(Arc::default()));
        let mut sent = 0;
        while pacing.is_open() {
            let mut frame = vec![0; 64 << 10];
            pacing.write(Lane::BULK, &mut frame).expect("a question that fits");
            sent += 1;
        }
        assert!((2..100).contains(&sent), "the pacing holds something, and not everything: {sent} frames");
        outbox.put(Lane::BULK, b"bulk".to_vec());
        let patient = tokio::time::timeout(Duration::from_secs(60), outbox.take(&limiter, &pacing));
        assert!(patient.await.is_err(), "nothing says that anything arrived");
        outbox.put(Lane::TAGS, b"tag".to_vec());
        assert_eq!(outbox.take(&limiter, &pacing).await.1, b"tag");
        let arriving = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            pacing.answer();
            outbox.look_again();
        };
        let since = Instant::now();
        let ((_, frame), ()) = tokio::join!(outbox.take(&limiter, &pacing), arriving);
        assert_eq!((frame.as_slice(), since.elapsed()), (&b"bulk"[..], Duration::from_secs(1)));
    }
}
