//! The link to the receiver: what is on it, kept as short as the link allows, and how much it delivers. Questions that are answered at once go along
//! with the frames.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use blat_domain::flow::bandwidth::Rate;
use blat_domain::flow::congestion::CongestionWindow;
use blat_domain::flow::throughput::Throughput;
use blat_domain::protocol::frames::{FrameError, Lane, Request, append};
use tokio::time::Instant;

/// The number of the link's questions, which are answered in their order; no heartbeat has it.
pub(super) const QUESTION: u64 = 0;

/// Without a frame for so long, the link is at rest.
const REST: Duration = Duration::from_secs(1);
/// Goes with the first frame of a tag on a link at rest: more than fits into one packet. Linux's BBR measures the round trip anew when it has not
/// for 10 s (tcp_bbr.c: bbr_min_rtt_win_sec), but not by the answer to a lone short packet, which may have been delayed on purpose. Were that
/// the tag's first frame, the next answer would come in its midst, and BBR would let no more than four packets go for 0.2 s.
const PADDING: [u8; 3000] = [0; 3000];

/// What was written, what has arrived, and how much may be between.
#[derive(Debug)]
pub(super) struct Pacing {
    window: Mutex<CongestionWindow>,
    /// What this link has delivered, over earlier connections too.
    throughput: Arc<Mutex<Throughput>>,
    begun: Instant,
    /// When the last frame was written, but for heartbeats and their like.
    last: Mutex<Instant>,
}

impl Pacing {
    /// A link of which this is known.
    pub(super) fn new(throughput: Arc<Mutex<Throughput>>) -> Self {
        let begun = Instant::now();
        Self { window: Mutex::default(), throughput, begun, last: Mutex::new(begun) }
    }

    /// The other end has greeted, from near or from far.
    pub(super) fn begin(&self, is_near: bool) {
        lock(&self.throughput).begin(is_near);
    }

    /// Whether anything was measured.
    pub(super) fn is_measured(&self) -> bool {
        lock(&self.throughput).is_measured()
    }

    /// Whether making deltas takes less time than sending what they save, where so much may be sent in a second.
    pub(super) fn deltas_pay(&self, is_near: bool, limit: Rate) -> bool {
        lock(&self.throughput).deltas_pay(is_near, limit)
    }

    /// There is nothing to be written, or nothing that may be.
    pub(super) fn starve(&self) {
        lock(&self.window).starve();
    }

    /// Whether more of what is not urgent may be written.
    pub(super) fn is_open(&self) -> bool {
        lock(&self.window).is_open()
    }

    /// This is about to be written: puts a question behind it when it is time for one, and padding when it is a tag's and the link was at rest.
    pub(super) fn write(&self, lane: Lane, frame: &mut Vec<u8>) -> Result<(), FrameError> {
        // A heartbeat is a lone short packet.
        if lane != Lane::CONTROL {
            let now = Instant::now();
            let rested = now - std::mem::replace(&mut *lock(&self.last), now);
            if lane == Lane::TAGS && rested >= REST {
                append(frame, Lane::CONTROL, &Request::Padding(&PADDING))?;
            }
        }
        let (mut window, bytes) = (lock(&self.window), frame.len() as u64);
        let should_ask = if lane == Lane::TAGS { window.write_urgent(bytes) } else { window.write(bytes) };
        if should_ask {
            append(frame, Lane::CONTROL, &Request::Ping { beat: QUESTION })?;
            window.ask(self.begun.elapsed());
        }
        Ok(())
    }

    /// The first question that was not answered is. Gives false where there is none.
    pub(super) fn answer(&self) -> bool {
        let sample = lock(&self.window).answer(self.begun.elapsed());
        if let Ok(Some(sample)) = sample {
            lock(&self.throughput).note(sample);
        }
        sample.is_ok()
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    // It is whole between any two of its calls.
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use blat_domain::protocol::frames::HEADER;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_tag_on_a_road_at_rest_takes_more_than_a_packet_and_nothing_else_is_padded() {
        let pacing = Pacing::new(Arc::default());
        let written = |lane| {
            let mut frame = vec![0; 10];
            pacing.write(lane, &mut frame).expect("it fits");
            frame.len()
        };
        assert_eq!(written(Lane::TAGS), 10, "it has just begun");
        for (wait, lane, is_padded) in [
            (REST, Lane::TAGS, true),
            (REST / 2, Lane::TAGS, false),
            (REST, Lane::CONTROL, false),
            (REST / 2, Lane::TAGS, true),
            (REST, Lane::BULK, false),
            (REST / 2, Lane::TAGS, false),
        ] {
            tokio::time::advance(wait).await;
            let length = written(lane);
            assert_eq!(length >= 10 + HEADER + PADDING.len(), is_padded, "{wait:?}, {lane:?}: {length}");
        }
    }
}
