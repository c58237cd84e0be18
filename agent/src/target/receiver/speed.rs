//! How fast a link takes bytes: by the time that writing to it blocks.
//!
//! A link that is faster than the packing never blocks, and shows as very fast, which is what counts.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Bytes before which nothing is said: buffers on the way take the first ones at once.
const ENOUGH: u64 = 8 << 20;
/// Bytes after which the older half counts half: links change.
const FORGET: u64 = 64 << 20;

/// A running measurement.
#[derive(Debug, Default)]
pub(super) struct Speed {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    bytes: u64,
    blocked: Duration,
}

impl Speed {
    /// So many bytes took so long to be written.
    pub(super) fn note(&self, bytes: usize, took: Duration) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.bytes += bytes as u64;
        seen.blocked += took;
        if seen.bytes > FORGET {
            (seen.bytes, seen.blocked) = (seen.bytes / 2, seen.blocked / 2);
        }
    }

    /// Bytes a second; none before enough was written.
    pub(super) fn bytes_a_second(&self) -> Option<u64> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let nanoseconds = seen.blocked.as_nanos().max(1);
        (seen.bytes >= ENOUGH)
            .then(|| u64::try_from(u128::from(seen.bytes) * 1_000_000_000 / nanoseconds).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_is_bytes_by_the_time_that_writing_blocked() {
        let speed = Speed::default();
        speed.note(1 << 20, Duration::from_secs(1));
        assert_eq!(speed.bytes_a_second(), None, "too early to tell");
        (0..40).for_each(|_| speed.note(1 << 20, Duration::from_secs(1)));
        assert_eq!(speed.bytes_a_second(), Some(1 << 20));
        (0..400).for_each(|_| speed.note(1 << 20, Duration::from_millis(1)));
        assert!(speed.bytes_a_second() > Some(100 << 20), "what is long ago counts little");
    }
}
