//! The road to the receiver: what is on it, kept as short as the road allows. Questions that are answered at once go along with the frames.

use std::sync::{Mutex, MutexGuard, PoisonError};

use blat_domain::frames::{FrameError, Lane, Request, append};
use blat_domain::window::Window;
use tokio::time::Instant;

/// The number of the road's questions, which are answered in their order; no heartbeat has it.
pub(super) const QUESTION: u64 = 0;

/// What was written, what has arrived, and how much may be between.
#[derive(Debug)]
pub(super) struct Road {
    window: Mutex<Window>,
    begun: Instant,
}

impl Default for Road {
    fn default() -> Self {
        Self { window: Mutex::default(), begun: Instant::now() }
    }
}

impl Road {
    /// Whether more of what is not urgent may be written.
    pub(super) fn is_open(&self) -> bool {
        self.window().is_open()
    }

    /// This is about to be written: puts a question behind it when it is time for one.
    pub(super) fn write(&self, lane: Lane, frame: &mut Vec<u8>) -> Result<(), FrameError> {
        let (mut window, bytes) = (self.window(), frame.len() as u64);
        let should_ask = if lane == Lane::TAGS { window.write_urgent(bytes) } else { window.write(bytes) };
        if should_ask {
            append(frame, Lane::CONTROL, &Request::Ping { beat: QUESTION })?;
            window.ask(self.begun.elapsed());
        }
        Ok(())
    }

    /// The first question that was not answered is.
    pub(super) fn answer(&self) {
        self.window().answer(self.begun.elapsed());
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        // It is whole between any two of its calls.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
