//! What waits for the link: frames of several lanes, of which the most urgent goes first.
//!
//! The control lane and the lane of tags go before the others, which take turns. So a tag waits for at most the frame that is being written.
//! What may wait here is bounded by the lanes' credit.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use blat_domain::frames::{LANES, Lane};
use tokio::sync::Notify;

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

impl Queues {
    fn take(&mut self) -> Option<Vec<u8>> {
        let first_bulk = Lane::BULK.0;
        let urgent = (0..first_bulk).find(|lane| !self.lane(*lane).is_empty());
        let taken = urgent.or_else(|| {
            let (bulk, last) = (LANES - first_bulk, self.last.saturating_sub(first_bulk));
            let next =
                (1..=bulk).map(|step| first_bulk + (last + step) % bulk).find(|lane| !self.lane(*lane).is_empty())?;
            self.last = next;
            Some(next)
        })?;
        self.lane(taken).pop_front()
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

    /// The most urgent frame, once there is one.
    pub(super) async fn take(&self) -> Vec<u8> {
        loop {
            if let Some(frame) = self.lock().take() {
                return frame;
            }
            self.filled.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        // Queues are whole between any two of their calls.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tags_overtake_and_full_syncs_take_turns() {
        let outbox = Outbox::default();
        for (lane, frame) in [(2, "a1"), (2, "a2"), (3, "b1"), (7, "c1"), (1, "tag"), (0, "ping"), (3, "b2")] {
            outbox.put(Lane(lane), frame.as_bytes().to_vec());
        }
        let mut order = Vec::new();
        for _ in 0..7 {
            order.push(String::from_utf8(outbox.take().await).expect("text"));
        }
        assert_eq!(order[..2], ["ping", "tag"]);
        let place = |frame: &str| order.iter().position(|other| other == frame).expect("sent");
        assert!(place("b1") < place("a2") || place("a1") < place("b2"), "{order:?}");
        assert!(place("c1") < place("a2").max(place("b2")), "{order:?}");
    }
}
