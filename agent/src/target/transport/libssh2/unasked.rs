//! How much a host may send that nobody asked for. libssh2 keeps what it does not wait for, at almost three times its size where packets are small.
//!
//! What that is, nobody sees from outside: packets have frames, and a host says now and then that it has room for more. So all counts that is
//! not taken of some stream, less what an honest host needs, and the rest has an end, over all connections of a target.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The most of it on all connections of a target together, in bytes.
const MOST: u64 = 8 << 20;
/// From how much on one connection new commands go over another one, in bytes. Frames alone come to it in days.
const SPENT: u64 = 4 << 20;
/// What may wait in each stream, in bytes: the window of libssh2's channels.
const WINDOW: u64 = 2 << 20;
/// The least that we send for each byte by which a host says that it has room. Dropbear has one for 254, OpenSSH for 600 and more.
const FOR_EACH_ROOM: u64 = 128;
/// The most that is granted for the frames of packets, in bytes: an honest host comes to it after some 100,000 answers on one connection.
const MOST_FRAMES: u64 = 4 << 20;

/// What one connection has of it, and all of them together.
#[derive(Debug)]
pub(super) struct Unasked {
    all: Arc<AtomicU64>,
    own: u64,
    is_spent: bool,
}

impl Unasked {
    /// A new connection's; `all` is what its target's have together.
    pub(super) fn new(all: Arc<AtomicU64>) -> Self {
        Self { all, own: 0, is_spent: false }
    }

    /// Counts anew, from how many bytes were heard and said by now, how many of them were taken, and how many streams are open.
    ///
    /// # Errors
    /// It is too much; fit for printing.
    pub(super) fn count(&mut self, heard: u64, said: u64, taken: u64, streams: usize) -> Result<(), String> {
        let beside = heard.saturating_sub(taken + WINDOW * streams as u64);
        self.is_spent |= beside > SPENT;
        // What is taken came in packets, which can be twice as long.
        let own = beside.saturating_sub(MOST_FRAMES.min(taken) + said / FOR_EACH_ROOM);
        // As a difference, which wraps where there is less now.
        let before = self.all.fetch_add(own.wrapping_sub(self.own), Ordering::Relaxed);
        let all = before.wrapping_add(own).wrapping_sub(self.own);
        self.own = own;
        if all > MOST { Err(format!("it sends more than {} MiB that nobody asked for", MOST >> 20)) } else { Ok(()) }
    }

    /// Whether new commands are to go over another connection.
    pub(super) fn is_spent(&self) -> bool {
        self.is_spent
    }
}

impl Drop for Unasked {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_an_honest_host_needs_is_granted_and_a_listing_earns_no_more_than_its_frames() {
        let mut one = Unasked::new(Arc::default());
        // Answers in packets of their own, a stream that nobody reads for a while, and room for an upload by dropbear.
        one.count(2 * MOST_FRAMES, 0, MOST_FRAMES, 0).expect("frames");
        one.count(2 * MOST_FRAMES + WINDOW, 0, MOST_FRAMES, 1).expect("a window");
        assert_eq!(one.own, 0);
        one.count(100 * MIB, 254 * 100 * MIB, 0, 0).expect("room");
        assert_eq!(one.own, 0);
        let (taken, most) = (1000 * MIB, 1000 * MIB + MOST_FRAMES + MOST);
        one.count(most, 0, taken, 0).expect("all that is granted");
        assert!(one.count(most + 1, 0, taken, 0).is_err_and(|why| why.contains("8 MiB that nobody asked for")));
    }

    #[test]
    fn connections_of_a_target_have_one_sum_and_a_new_one_begins_where_one_is_spent() {
        let all = Arc::default();
        let (mut one, mut other) = (Unasked::new(Arc::clone(&all)), Unasked::new(Arc::clone(&all)));
        one.count(SPENT, 0, 0, 0).expect("little");
        assert!(!one.is_spent());
        one.count(SPENT + 1, 0, 0, 0).expect("little");
        other.count(MOST - SPENT - 1, 0, 0, 0).expect("no more than all may have");
        assert!(one.is_spent() && !other.is_spent());
        other.count(MOST - SPENT, 0, 0, 0).expect_err("one more");
        // What is taken in the end was asked for.
        one.count(SPENT + 1, 0, SPENT, 0).expect("less");
        drop(one);
        other.count(MOST, 0, 0, 0).expect("it is alone");
        drop(other);
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }
}
