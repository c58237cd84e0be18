//! Whether the far end lives, and whether it gets on with what it was given.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blat_domain::frames::{LANES, Lane, Request, append};
use tokio::sync::watch;
use tokio::time::{Instant, interval};

use super::outbox::Outbox;
use super::{broke, refused};
use crate::target::TargetError;

/// How often the receiver is asked for a sign of life.
const BEAT: Duration = Duration::from_secs(10);
/// Without a sign of life for this long the link is dead.
const DEAD: Duration = Duration::from_secs(45);
/// A lane that has work and does not get on for this long stands still.
const STANDSTILL: Duration = Duration::from_secs(120);

/// Signs of life.
#[derive(Debug)]
pub(super) struct Heart {
    felt: watch::Sender<(Instant, Vec<u64>)>,
    beats: AtomicU64,
}

impl Default for Heart {
    fn default() -> Self {
        Self { felt: watch::Sender::new((Instant::now(), Vec::new())), beats: AtomicU64::new(0) }
    }
}

impl Heart {
    /// A sign of life came, with the lanes' numbers.
    pub(super) fn felt(&self, work: &[u64]) {
        self.felt.send_replace((Instant::now(), work.to_vec()));
    }

    /// Asks for signs of life until there is none.
    pub(super) async fn beat(&self, outbox: &Outbox, is_busy: impl Fn(usize) -> bool) -> TargetError {
        let mut ticks = interval(BEAT);
        let mut lanes = [(0, Instant::now()); LANES as usize];
        loop {
            ticks.tick().await;
            let (last, work) = self.felt.borrow().clone();
            if last.elapsed() > DEAD {
                return broke(&format!("no sign of life for {} s", DEAD.as_secs()));
            }
            for (number, (seen, since)) in lanes.iter_mut().enumerate() {
                let now = work.get(number).copied().unwrap_or_default();
                if !is_busy(number) || now != *seen {
                    (*seen, *since) = (now, Instant::now());
                } else if since.elapsed() > STANDSTILL {
                    return broke(&format!("no progress for {} s; given up", STANDSTILL.as_secs()));
                }
            }
            let beat = self.beats.fetch_add(1, Ordering::Relaxed);
            let mut frame = Vec::new();
            match append(&mut frame, Lane::CONTROL, &Request::Ping { beat }) {
                Ok(()) => outbox.put(Lane::CONTROL, frame),
                Err(error) => return refused(error),
            }
        }
    }
}
