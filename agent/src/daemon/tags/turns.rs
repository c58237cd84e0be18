//! Which tags are looked at, where there are more than fit in memory: some at a time, by a number that each name has, so that each
//! has its turn however many lie before it and stay. The numbers are keyed, so that nobody chooses names that all have one turn. Those
//! that a notification named last are looked at in any case: one that is dropped behind a flood does not wait for its turn.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::hash::BuildHasher as _;
use std::time::{Duration, Instant};

use crate::session::Name;

/// How long a turn lasts: several times what a file written in place waits for before it counts.
pub(super) const TURN: Duration = Duration::from_secs(60);

/// What is known of a tag with few packages takes so much memory, in bytes, by its name: here and in the session.
pub(super) fn cost(name: &OsStr) -> usize {
    1_100 + 3 * name.len()
}

/// Whose turn it is.
#[derive(Debug)]
pub(super) struct Turns {
    keys: RandomState,
    /// The memory for tags that are known by turns, in bytes.
    room: usize,
    turn: Option<TurnRange>,
    /// Where the next turn begins.
    next: u64,
    preferred: Preferred,
}

/// Those whose number is `start` or one of the `width` that follow it, round the circle of all numbers.
#[derive(Debug)]
struct TurnRange {
    start: u64,
    width: u64,
    since: Instant,
    /// How much of the circle has had its turn.
    gone: u64,
}

/// Those that were named last, each with a number that says when.
#[derive(Debug, Default)]
struct Preferred {
    names: HashMap<Name, u64>,
    order: BTreeMap<u64, Name>,
    next: u64,
    weight: usize,
}

impl Preferred {
    /// Adds one, for which those give way that were named first where they take more than `room` together.
    fn add(&mut self, name: &Name, room: usize) {
        self.next += 1;
        match self.names.insert(name.clone(), self.next) {
            Some(before) => drop(self.order.remove(&before)),
            None => self.weight += cost(name),
        }
        self.order.insert(self.next, name.clone());
        while self.weight > room
            && let Some((_, first)) = self.order.pop_first()
        {
            self.names.remove(&first);
            self.weight -= cost(&first);
        }
    }
}

impl Turns {
    pub(super) fn new(room: usize) -> Self {
        Self { keys: RandomState::new(), room, turn: None, next: 0, preferred: Preferred::default() }
    }

    /// The memory for tags that are known by turns, in bytes.
    pub(super) fn room(&self) -> usize {
        self.room
    }

    /// A notification named this file. A third of [`Self::room`] is there for such files beside it.
    pub(super) fn prefer(&mut self, name: &Name) {
        self.preferred.add(name, self.room / 3);
    }

    /// Whether the file is looked at although it may not be its turn.
    pub(super) fn is_preferred(&self, name: &OsStr) -> bool {
        self.preferred.names.contains_key(name)
    }

    /// Whether it is the turn of the file of this name.
    pub(super) fn includes(&self, name: &OsStr) -> bool {
        self.turn.as_ref().is_none_or(|turn| self.keys.hash_one(name).wrapping_sub(turn.start) < turn.width)
    }

    /// The directory was looked at, and its files take so much memory by [`cost`]. Whether each of them has had its turn since this was so
    /// last.
    pub(super) fn follow(&mut self, weight: u64, now: Instant) -> bool {
        let room = self.room as u64;
        if weight <= room {
            self.turn = None;
            return true;
        }
        // Chance gives one turn more than another.
        let width = (u64::MAX / weight).saturating_mul(room - room / 4);
        let Some(turn) = &mut self.turn else {
            self.turn = Some(TurnRange { start: self.next, width, since: now, gone: 0 });
            self.next = self.next.wrapping_add(width);
            return false;
        };
        if now.saturating_duration_since(turn.since) < TURN {
            return false;
        }
        let gone = turn.gone.checked_add(turn.width);
        *turn = TurnRange { start: self.next, width, since: now, gone: gone.unwrap_or(0) };
        self.next = self.next.wrapping_add(width);
        gone.is_none()
    }

    /// The time until it is the turn of others.
    pub(super) fn rest(&self, now: Instant) -> Option<Duration> {
        self.turn.as_ref().map(|turn| (turn.since + TURN).saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    /// What one of the tags here takes, and 2,000 of them.
    const EACH: usize = 1_127;
    const ALL: u64 = 2_000 * EACH as u64;

    #[test]
    fn each_of_too_many_has_its_turn() {
        let names: Vec<OsString> = (0..2_000).map(|n| OsString::from(format!("core@{n:04}"))).collect();
        let (mut turns, mut now) = (Turns::new(300 * EACH), Instant::now());
        assert!(turns.includes(&names[0]));
        assert!(!turns.follow(ALL, now));
        let mut waiting: Vec<&OsString> = names.iter().collect();
        let mut taken = 0;
        loop {
            let count = names.iter().filter(|name| turns.includes(name)).count();
            assert!(count <= 300, "{count} at a time");
            waiting.retain(|name| !turns.includes(name));
            assert!(!turns.follow(ALL, now), "its turn lasts");
            now += turns.rest(now).expect("a turn");
            taken += 1;
            if turns.follow(ALL, now) {
                break;
            }
        }
        assert_eq!((waiting.len(), taken), (0, 9), "no one is left out, and nobody twice before all were there");
        assert!(turns.follow(300 * EACH as u64, now) && turns.includes(&names[7]), "they all fit");
        assert_eq!(turns.rest(now), None);
    }

    #[test]
    fn those_that_were_named_last_do_not_wait_for_their_turn() {
        let name = |n: u32| Name::from(OsString::from(format!("core@{n:04}")));
        let mut turns = Turns::new(300 * cost(&name(0)));
        (0..1_000).for_each(|n| turns.prefer(&name(n)));
        assert!(!turns.is_preferred(&name(899)) && (900..1_000).all(|n| turns.is_preferred(&name(n))));
        turns.prefer(&name(900));
        turns.prefer(&name(0));
        assert!(turns.is_preferred(&name(900)) && !turns.is_preferred(&name(901)), "it was named again");
        let preferred = &turns.preferred;
        assert_eq!((preferred.names.len(), preferred.order.len()), (100, 100));
    }
}
