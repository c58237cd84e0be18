//! What tags ask for goes before full syncs at the target as well: a full sync does not begin to write to the disk while a tag's package is under way.
//!
//! Whoever makes something durable waits for what others write to the same disk at that moment, so it has to be little.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How long a full sync waits for a tag's package, at the most: it may be large, or its sender slow.
const PATIENCE: Duration = Duration::from_millis(100);

static UNDER_WAY: Mutex<usize> = Mutex::new(0);
static OVER: Condvar = Condvar::new();

/// A tag's package is under way while this lasts.
#[derive(Debug)]
pub(crate) struct Urgent(());

impl Urgent {
    /// It begins.
    pub(crate) fn begin() -> Self {
        *UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self(())
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        *UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        OVER.notify_all();
    }
}

/// Waits until nothing urgent is under way, or for as long as a full sync may be kept waiting.
pub(crate) fn give_way() {
    let under_way = UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner);
    // Over or not: it goes on.
    let _ = OVER.wait_timeout_while(under_way, PATIENCE, |under_way| *under_way > 0);
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_full_sync_gives_way_until_the_last_tag_s_package_is_over_and_not_for_ever() {
        give_way();
        let (first, second) = (Urgent::begin(), Urgent::begin());
        let since = Instant::now();
        give_way();
        assert!(since.elapsed() >= PATIENCE, "so long at least, for it is not over");
        let (waited, seen) = channel();
        let waiting = thread::spawn(move || {
            while *UNDER_WAY.lock().expect("a count") > 0 {
                give_way();
            }
            waited.send(()).expect("a listener");
        });
        drop(first);
        assert!(seen.try_recv().is_err(), "the other is under way still");
        drop(second);
        seen.recv_timeout(Duration::from_secs(60)).expect("it goes on");
        waiting.join().expect("no panic");
    }
}
