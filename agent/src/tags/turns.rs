//! Which tags are looked at, where there are more than can be known at a time: some at a time, by a number that each name has, so that each
//! has its turn however many lie before it and stay. The numbers are keyed, so that nobody chooses names that all have one turn.

use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::hash::BuildHasher as _;
use std::time::{Duration, Instant};

/// How long a turn lasts: several times what a file written in place waits for before it counts.
pub(super) const TURN: Duration = Duration::from_secs(60);

/// Whose turn it is.
#[derive(Debug)]
pub(super) struct Turns {
    keys: RandomState,
    /// The most tags that are known at a time.
    most: u64,
    turn: Option<Turn>,
}

/// Those whose number is `start` or one of the `width` that follow it, round the circle of all numbers.
#[derive(Debug)]
struct Turn {
    start: u64,
    width: u64,
    since: Instant,
    /// How much of the circle has had its turn.
    gone: u64,
}

impl Turns {
    pub(super) fn new(most: usize) -> Self {
        Self { keys: RandomState::new(), most: most as u64, turn: None }
    }

    /// The most tags that are known at a time.
    pub(super) fn most(&self) -> usize {
        usize::try_from(self.most).unwrap_or(usize::MAX)
    }

    /// Whether it is the turn of the file of this name.
    pub(super) fn includes(&self, name: &OsStr) -> bool {
        self.turn.as_ref().is_none_or(|turn| self.keys.hash_one(name).wrapping_sub(turn.start) < turn.width)
    }

    /// The directory was looked at, and holds so many files. Whether each of them has had its turn since this was so last.
    pub(super) fn follow(&mut self, files: u64, now: Instant) -> bool {
        if files <= self.most {
            self.turn = None;
            return true;
        }
        // Chance gives one turn more than another.
        let width = (u64::MAX / files).saturating_mul(self.most - self.most / 4);
        let Some(turn) = &mut self.turn else {
            self.turn = Some(Turn { start: 0, width, since: now, gone: 0 });
            return false;
        };
        if now.saturating_duration_since(turn.since) < TURN {
            return false;
        }
        let gone = turn.gone.checked_add(turn.width);
        let start = turn.start.wrapping_add(turn.width);
        *turn = Turn { start, width, since: now, gone: gone.unwrap_or(0) };
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

    #[test]
    fn each_of_too_many_has_its_turn() {
        let names: Vec<OsString> = (0..2_000).map(|n| OsString::from(format!("core@{n}"))).collect();
        let (mut turns, mut now) = (Turns::new(300), Instant::now());
        assert!(turns.includes(&names[0]));
        assert!(!turns.follow(2_000, now));
        let mut waiting: Vec<&OsString> = names.iter().collect();
        let mut taken = 0;
        loop {
            let count = names.iter().filter(|name| turns.includes(name)).count();
            assert!(count <= 300, "{count} at a time");
            waiting.retain(|name| !turns.includes(name));
            assert!(!turns.follow(2_000, now), "its turn lasts");
            now += turns.rest(now).expect("a turn");
            taken += 1;
            if turns.follow(2_000, now) {
                break;
            }
        }
        assert_eq!((waiting.len(), taken), (0, 9), "no one is left out, and nobody twice before all were there");
        assert!(turns.follow(300, now) && turns.includes(&names[7]), "they all fit");
        assert_eq!(turns.rest(now), None);
    }
}
