//! What has come for one lane and is not yet worked on: bodies of frames, end to end, never more bytes than the lane has credit for.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use blat_domain::protocol::frames::FIRST_CREDIT;

/// Bytes that stand before each body in the queue, for its length.
const LENGTH: usize = 4;

/// A lane's queue.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    came: Condvar,
    work: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<u8>,
    /// Bytes of bodies that came and for which no credit was given.
    owed: u64,
    /// Nothing more will come.
    closed: bool,
}

impl Inbox {
    /// Puts a body in; false where it is more than the lane had credit for.
    pub(crate) fn put(&self, body: &[u8]) -> bool {
        let mut state = self.state();
        state.owed += body.len() as u64;
        if state.owed > FIRST_CREDIT {
            return false;
        }
        // Bodies are at most 256 KiB long.
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        state.queue.extend(length.to_le_bytes());
        state.queue.extend(body);
        drop(state);
        self.came.notify_one();
        true
    }

    /// Nothing more will come: once the queue is empty, whoever waits for a body waits no longer.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.came.notify_one();
    }

    /// Takes the next body off into `body`, waiting for it; false where none will come.
    #[must_use]
    pub(crate) fn take(&self, body: &mut Vec<u8>) -> bool {
        let is_waiting = |state: &mut State| state.queue.len() < LENGTH && !state.closed;
        let state = self.came.wait_while(self.state(), is_waiting).unwrap_or_else(PoisonError::into_inner);
        self.take_first(state, body)
    }

    /// The same, waiting no longer than `patience`; false where none came until then.
    #[must_use]
    pub(crate) fn take_within(&self, patience: Duration, body: &mut Vec<u8>) -> bool {
        let is_waiting = |state: &mut State| state.queue.len() < LENGTH && !state.closed;
        let waited = self.came.wait_timeout_while(self.state(), patience, is_waiting);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        self.take_first(state, body)
    }

    fn take_first(&self, mut state: MutexGuard<'_, State>, body: &mut Vec<u8>) -> bool {
        if state.queue.len() < LENGTH {
            return false;
        }
        let mut length = [0; LENGTH];
        copy(&mut state.queue, &mut length);
        body.resize(u32::from_le_bytes(length) as usize, 0);
        copy(&mut state.queue, body);
        drop(state);
        self.get_on();
        true
    }

    /// So many bytes may be sent again.
    pub(crate) fn give(&self, bytes: u64) {
        self.state().owed -= bytes;
    }

    /// Notes that the lane got on.
    pub(crate) fn get_on(&self) {
        self.work.fetch_add(1, Ordering::Relaxed);
    }

    /// Something that changes whenever the lane gets on.
    pub(crate) fn work(&self) -> u64 {
        self.work.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moves the first bytes of a queue out of it.
fn copy(queue: &mut VecDeque<u8>, to: &mut [u8]) {
    let (first, second) = queue.as_slices();
    let split = to.len().min(first.len());
    to[..split].copy_from_slice(&first[..split]);
    let rest = to.len() - split;
    to[split..].copy_from_slice(&second[..rest]);
    queue.drain(..to.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_come_out_as_they_went_in_and_never_more_than_the_credit() {
        let inbox = Inbox::default();
        let mut body = Vec::new();
        let long = vec![7; 200 << 10];
        for round in 0..40 {
            assert!(inbox.put(&long) && inbox.put(&[]) && inbox.put(&[round]));
            for expected in [&long[..], &[], &[round]] {
                assert!(inbox.take(&mut body));
                assert_eq!(body, expected);
                inbox.give(body.len() as u64);
            }
        }
        assert!(!inbox.take_within(Duration::ZERO, &mut body), "nothing is left");
        assert_eq!(inbox.work(), 120);
        let fits = FIRST_CREDIT / long.len() as u64;
        assert!((0..fits).all(|_| inbox.put(&long)));
        assert!(!inbox.put(&long));
    }

    #[test]
    fn what_came_before_the_end_is_taken_and_then_nobody_waits() {
        let inbox = Inbox::default();
        assert!(inbox.put(b"last"));
        inbox.close();
        let mut body = Vec::new();
        assert!(inbox.take(&mut body) && body == b"last");
        assert!(!inbox.take(&mut body));
    }
}
