//! Whether a target's clock can be believed. Marks are as old as it says, so a clock that was set makes all of them lie.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::show_duration;

/// Clocks of master and target may differ by this many seconds: time zones mistaken for one another do, wrong years do not.
pub const MOST_APART: u64 = 86_400;
/// A target's clock may have gained or lost this many seconds from one look to the next: listings take time, clocks drift
/// and are put right in small steps.
pub const MOST_GAINED: u64 = 600;

/// Two times in whole seconds make a difference of so many, though no clock was set.
const ROUNDED: u64 = 2;

/// One look at a target's clock, beside what the master knew of the time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// The target's clock, in epoch seconds.
    pub target: i64,
    /// The master's clock, in epoch seconds.
    pub master: i64,
    /// Which start of the master's machine `uptime` counts from.
    pub boot: String,
    /// Seconds since that start, which nobody can set.
    pub uptime: u64,
}

/// Why a target's clock is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "doubt", rename_all = "snake_case")]
pub enum Doubt {
    /// The target did not say what time it is.
    Untold,
    /// It differs from the master's by this many seconds.
    Apart {
        /// Seconds.
        seconds: u64,
    },
    /// It was set by about this many seconds since the last look.
    Set {
        /// Seconds.
        seconds: u64,
    },
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |seconds: &u64| show_duration(Duration::from_secs(*seconds));
        match self {
            Self::Untold => f.write_str("the target does not say what time it is"),
            Self::Apart { seconds } => {
                write!(f, "the target's clock and the master's differ by {}; set them right", shown(seconds))
            }
            Self::Set { seconds } => write!(f, "the target's clock was set by {} since the last look", shown(seconds)),
        }
    }
}

/// What speaks against `now`, the latest look; `before` is the one before it, where it is remembered.
pub fn doubt(before: Option<&Reading>, now: &Reading) -> Option<Doubt> {
    let apart = now.target.abs_diff(now.master);
    if apart > MOST_APART {
        return Some(Doubt::Apart { seconds: apart });
    }
    // After another start of the master's machine only the two clocks can be compared.
    let before = before.filter(|before| before.boot == now.boot)?;
    let passed = i64::try_from(now.uptime.saturating_sub(before.uptime)).unwrap_or(i64::MAX);
    let gained = now.target.saturating_sub(before.target).abs_diff(passed);
    (gained > MOST_GAINED).then_some(Doubt::Set { seconds: gained })
}

/// Ties a machine's clock, which may be set, to the time since the machine's start, which nobody can set. What was noted down by that clock can follow
/// it: it stays as old as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// Which start of the machine.
    pub boot: String,
    /// The epoch second of that start, by the clock.
    pub start: i64,
}

impl Anchor {
    /// How times noted by this clock read by the clock as it is `now`, at that `second`; none where nothing was set and they read the same.
    pub fn followed(&self, now: &Self, second: i64) -> Option<impl Fn(i64) -> i64 + use<>> {
        let set_by = self.set_by(now);
        // After another start nothing tells, and what lies ahead is the word of a clock that was wrong, then or now.
        (set_by != Some(0)).then_some(move |at: i64| set_by.map_or(at.min(second), |by| at.saturating_add(by)))
    }

    /// By how many seconds the clock was set from this until `now`; none where the machine was started in between, so that nothing tells.
    fn set_by(&self, now: &Self) -> Option<i64> {
        let by = now.start.saturating_sub(self.start);
        (self.boot == now.boot).then_some(if by.unsigned_abs() > ROUNDED { by } else { 0 })
    }
}

/// The earliest epoch second that it can be: where clocks say different times, one of them was set ahead.
pub fn earliest(before: Option<&Reading>, now: &Reading) -> i64 {
    let by_uptime = before.filter(|before| before.boot == now.boot).map(|before| {
        let passed = i64::try_from(now.uptime.saturating_sub(before.uptime)).unwrap_or(i64::MAX);
        before.master.saturating_add(passed)
    });
    by_uptime.unwrap_or(now.master).min(now.master).min(now.target)
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: i64 = 365 * 86_400;

    fn reading(target: i64, master: i64, uptime: u64) -> Reading {
        Reading { target, master, boot: "b".into(), uptime }
    }

    #[test]
    fn clocks_that_go_with_the_time_are_believed() {
        let before = reading(1_000_000, 1_000_003, 50);
        assert_eq!(doubt(None, &before), None);
        assert_eq!(doubt(Some(&before), &reading(1_014_400, 1_014_400, 14_450)), None);
        assert_eq!(doubt(Some(&before), &reading(1_014_700, 1_014_400, 14_450)), None, "a small step");
    }

    #[test]
    fn a_wrong_year_is_not_believed_even_at_the_first_look() {
        assert_eq!(doubt(None, &reading(0, 20 * YEAR, 5)), Some(Doubt::Apart { seconds: 20 * YEAR as u64 }));
        assert_eq!(doubt(None, &reading(20 * YEAR, 0, 5)), Some(Doubt::Apart { seconds: 20 * YEAR as u64 }));
    }

    #[test]
    fn clocks_that_were_set_together_are_not_believed() {
        let before = reading(1_000_000, 1_000_000, 50);
        for jump in [YEAR, -YEAR, 3_600, -3_600] {
            let now = reading(1_000_010 + jump, 1_000_010 + jump, 60);
            assert_eq!(doubt(Some(&before), &now), Some(Doubt::Set { seconds: jump.unsigned_abs() }));
        }
    }

    #[test]
    fn of_clocks_that_differ_the_one_that_is_behind_tells_how_late_it_is_at_least() {
        let before = reading(1_000_000, 1_000_000, 50);
        let later = 1_000_010;
        assert_eq!(earliest(None, &reading(later, later, 60)), later);
        assert_eq!(earliest(Some(&before), &reading(later, later + YEAR, 60)), later, "the master's was set ahead");
        assert_eq!(earliest(Some(&before), &reading(later + YEAR, later, 60)), later, "the target's was");
        assert_eq!(earliest(Some(&before), &reading(later + YEAR, later + YEAR, 60)), later, "both were");
        assert_eq!(earliest(Some(&before), &reading(later - YEAR, later, 60)), later - YEAR);
        let mut restarted = reading(later + YEAR, later + YEAR, 5);
        restarted.boot = "another".into();
        assert_eq!(earliest(Some(&before), &restarted), later + YEAR, "nothing tells");
    }

    #[test]
    fn a_clock_that_was_set_shows_beside_the_time_since_the_start() {
        let anchor = |boot: &str, start| Anchor { boot: boot.into(), start };
        let before = anchor("b", 1_000_000);
        for (start, by) in [(1_000_000, 0), (1_000_001, 0), (1_003_600, 3_600), (1_000_000 - YEAR, -YEAR)] {
            assert_eq!(before.set_by(&anchor("b", start)), Some(by));
        }
        assert_eq!(before.set_by(&anchor("another", 1_000_000)), None);
    }

    #[test]
    fn a_long_sleep_is_no_jump_and_another_start_is_judged_by_the_clocks_alone() {
        let before = reading(1_000_000, 1_000_000, 50);
        let later = 40 * 86_400;
        assert_eq!(doubt(Some(&before), &reading(1_000_000 + later, 1_000_000 + later, 50 + later as u64)), None);
        let mut restarted = reading(1_000_000 + later, 1_000_000 + later, 5);
        restarted.boot = "another".into();
        assert_eq!(doubt(Some(&before), &restarted), None);
    }
}
