//! What goes wrong in one cycle.

use blat_domain::policy::release::{About, Catalog, KnownReleases, OddRow, Release, ReleaseState};
use blat_tests::Dice;

/// How Release Manager feels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// It tells the truth.
    Well,
    /// It does not answer.
    Down,
    /// All its releases are empty.
    Emptied,
    /// Some entries are no names any more.
    Garbled,
    /// A project is gone.
    Forgetful,
    /// Some releases have another row that says that they are closed, which a source reads last.
    Contradicting,
    /// Some releases have lost their packages, and others have not.
    Hollow,
}

/// All faults of one cycle.
#[derive(Debug)]
pub(crate) struct Weather {
    pub(crate) mood: Mood,
    pub(crate) listing_fails: bool,
    pub(crate) source_is_gone: bool,
    pub(crate) clock_is_silent: bool,
    pub(crate) list_fails: bool,
    pub(crate) marking_fails: bool,
    pub(crate) tags_midway: bool,
    /// Bytes that fit on the target's disk; none where nobody can tell.
    pub(crate) room: Option<u64>,
    /// By how many seconds the clock is set between the plan and its end.
    pub(crate) jump_midway: i64,
    /// One transfer of so many fails; none where all succeed.
    one_fails_of: Option<u64>,
}

impl Weather {
    /// A cycle in which nothing goes wrong.
    pub(crate) fn fair() -> Self {
        Self {
            mood: Mood::Well,
            listing_fails: false,
            source_is_gone: false,
            clock_is_silent: false,
            list_fails: false,
            marking_fails: false,
            tags_midway: false,
            room: None,
            jump_midway: 0,
            one_fails_of: None,
        }
    }

    /// Whatever comes.
    pub(crate) fn of(dice: &mut Dice) -> Self {
        let mood = match dice.below(20) {
            0 => Mood::Down,
            1 => Mood::Emptied,
            2 => Mood::Garbled,
            3 => Mood::Forgetful,
            4 => Mood::Contradicting,
            5 => Mood::Hollow,
            _ => Mood::Well,
        };
        let mut one_in = |count: u64| dice.below(count) == 0;
        let (listing_fails, source_is_gone) = (one_in(20), one_in(40));
        let (clock_is_silent, list_fails, marking_fails) = (one_in(150), one_in(30), one_in(30));
        let (tags_midway, has_no_room, jumps, is_shaky) = (one_in(10), one_in(30), one_in(200), one_in(6));
        Self {
            mood,
            listing_fails,
            source_is_gone,
            clock_is_silent,
            list_fails,
            marking_fails,
            tags_midway,
            room: has_no_room.then_some(3_000),
            jump_midway: if jumps { jump(dice) } else { 0 },
            one_fails_of: is_shaky.then_some(3),
        }
    }

    /// What Release Manager answers; nothing where it does not.
    pub(crate) fn answer(&self, truth: &Catalog, known: &KnownReleases) -> Option<Catalog> {
        let mut catalog = truth.clone();
        let releases = catalog.projects.iter_mut().flat_map(|project| &mut project.releases);
        match self.mood {
            Mood::Well => {}
            Mood::Down => return None,
            Mood::Emptied => releases.for_each(|release| release.packages.clear()),
            Mood::Garbled => {
                releases.step_by(7).for_each(|release| release.packages.clear());
                let text = "release R1: package name \"..\" is not valid".to_owned();
                catalog.rejected.push(OddRow::invalid(About::Anything, text));
            }
            Mood::Forgetful => catalog.projects.truncate(1),
            Mood::Contradicting => {
                for project in &mut catalog.projects {
                    let closed = |release: &Release| Release { state: ReleaseState::Closed, ..release.clone() };
                    let more: Vec<Release> = project.releases.iter().step_by(3).map(closed).collect();
                    project.releases.extend(more);
                }
                catalog = catalog.united();
            }
            // That a release is empty which nobody knew with packages, nobody can tell.
            Mood::Hollow => {
                let known = releases.filter(|release| known.have(Some(release.id), &[]));
                known.step_by(3).for_each(|release| release.packages.clear());
            }
        }
        Some(catalog)
    }

    /// Whether the transfer at hand fails.
    pub(crate) fn spoils_a_transfer(&self, dice: &mut Dice) -> bool {
        self.one_fails_of.is_some_and(|count| dice.below(count) == 0)
    }
}

/// By how many seconds somebody sets a clock: a little, a lot, or by years; on or back.
pub(crate) fn jump(dice: &mut Dice) -> i64 {
    let by = match dice.below(3) {
        0 => dice.below(500),
        1 => 700 + dice.below(80_000),
        _ => 86_400 * (2 + dice.below(3_000)),
    };
    if dice.below(2) == 0 { by as i64 } else { -(by as i64) }
}
