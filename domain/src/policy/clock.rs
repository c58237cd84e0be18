//! Whether a target's clock can be believed. Marks are as old as it says, so a clock that was set makes all of them lie.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::util::units::show_duration;

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

    /// The epoch second `at`, noted by this, as it reads beside notes that have followed the clock from this to `now`, in the same start of the machine.
    pub fn carried(&self, now: &Self, at: i64) -> i64 {
        at.saturating_add(now.start.saturating_sub(self.start))
    }
}

/// The time of a file's content as the file has it: the epoch second, and nanoseconds.
pub type FileTime = (i64, i64);

/// Files that are remembered: those that were seen last.
const MOST_FILES: usize = 8;

/// When files were written, by the machine's clock. A file's own time stays what it is when the clock is set, but what was noted down after the file was
/// seen follows the clock. So does this: what came after the file stays after it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SeenFiles(Vec<SeenFile>);

/// One of them, the one that was seen last at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SeenFile {
    /// Which.
    time: FileTime,
    /// The epoch second at which it was written, by the clock as it is now.
    at: i64,
}

impl SeenFiles {
    /// Whether none was seen.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The epoch second at which the file with this time was written, by the clock as it is now. One that was not seen yet was written by that clock.
    pub fn at(&self, time: FileTime) -> i64 {
        self.0.iter().find(|seen| seen.time == time).map_or(time.0, |seen| seen.at)
    }

    /// The same for the file that was seen last.
    pub fn last(&self) -> Option<i64> {
        self.0.last().map(|seen| seen.at)
    }

    /// A file with this time is there. Says whether it was not known.
    pub fn see(&mut self, time: FileTime) -> bool {
        if self.0.last().is_some_and(|seen| seen.time == time) {
            return false;
        }
        let known = self.0.iter().position(|seen| seen.time == time);
        let seen = known.map_or(SeenFile { time, at: time.0 }, |index| self.0.remove(index));
        self.add(seen);
        known.is_none()
    }

    /// Those were seen too, after these.
    pub fn add_all(&mut self, others: Self) {
        for other in others.0 {
            if self.0.iter().all(|seen| seen.time != other.time) {
                self.add(other);
            }
        }
    }

    /// What follows the clock.
    pub fn times(&mut self) -> impl Iterator<Item = &mut i64> {
        self.0.iter_mut().map(|seen| &mut seen.at)
    }

    fn add(&mut self, seen: SeenFile) {
        self.0.push(seen);
        let surplus = self.0.len().saturating_sub(MOST_FILES);
        self.0.drain(..surplus);
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
    fn what_was_noted_after_a_file_was_written_stays_so_whatever_clock_is_set() {
        let anchor = |boot: &str, start| Anchor { boot: boot.into(), start };
        let (before, written) = (anchor("b", 1_000), 5_000);
        let second = 6_000;
        for now in [-YEAR, 975, 980, 997, 1_000, 1_001, 1_020, YEAR]
            .map(|start| anchor("b", start))
            .iter()
            .chain([&anchor("c", 5)])
        {
            let mut files = SeenFiles::default();
            assert!(files.see((written, 7)) && !files.see((written, 7)), "it is new once");
            let (mut earlier, mut later) = (written - 1, written + 5);
            if let Some(followed) = before.followed(now, second) {
                [&mut earlier, &mut later].into_iter().chain(files.times()).for_each(|at| *at = followed(*at));
            }
            let at = files.at((written, 7));
            assert!(earlier < at && at < later && files.last() == Some(at), "{now:?}: {at}");
            assert_eq!(files.at((written, 8)), written, "it was written anew within the second, by the present clock");
        }
        // The machine was started in between, and the clock was put right by an hour: nothing tells them apart any more.
        let followed = before.followed(&anchor("c", 5), written - 3_600).expect("nothing tells");
        assert!(followed(written + 5) >= followed(written));
    }

    #[test]
    fn of_files_the_last_ones_are_remembered_and_one_that_is_there_is_not_forgotten() {
        let mut files = SeenFiles::default();
        files.see((1, 0));
        files.times().for_each(|at| *at -= 20);
        for other in 2..40 {
            files.see((other, 0));
            assert!(!files.see((1, 0)), "an older file was put back");
        }
        assert_eq!((files.at((1, 0)), files.0.len()), (-19, MOST_FILES));
        let mut others = SeenFiles::default();
        others.see((1, 0));
        others.see((50, 0));
        files.add_all(others);
        assert_eq!((files.at((1, 0)), files.last()), (-19, Some(50)), "what is known already stays as it is");
        assert_eq!(serde_json::to_string(&files.0[0]).expect("text"), r#"{"time":[34,0],"at":34}"#);
    }

    #[test]
    fn a_moment_is_carried_along_with_notes_that_follow_in_many_steps() {
        let anchors = [1_000, 1_003, 990, 1_000 - YEAR, 1_001].map(|start| Anchor { boot: "b".into(), start });
        let mut note = 5_000;
        for step in anchors.windows(2) {
            note = step[0].followed(&step[1], 0).map_or(note, |followed| followed(note));
            assert_eq!(anchors[0].carried(&step[1], 5_000), note);
        }
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
