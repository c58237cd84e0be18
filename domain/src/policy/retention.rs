//! What becomes of packages that nothing wants any more: marked, unmarked, deleted, or left alone.
//!
//! Every rule has to agree before anything is lost. Nothing wanted is touched; a cycle that did not see everything, or
//! whose wanted set is empty, loses nothing; a clock that was set ages nothing out; a tag that is newer than what Release
//! Manager was asked for is believed; and the [`guard`](crate::policy::guard) has the last word. Taking marks away is always allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::archive::inventory::{Inventory, Mark};
use crate::package::links::{LONGEST_CHAIN, addressee};
use crate::package::name::PackageId;
use crate::policy::clock::Doubt;
use crate::policy::confirmation::HeldBack;
use crate::policy::guard::{MaxDelete, Refusal, judge};
use crate::policy::ownership::Bar;
use crate::policy::release::{OddRow, Oddity, Resolution, WantedSet};
use crate::util::merge_cursor::MergeCursor;
use crate::util::units::show_duration;

/// A mark up to this many seconds ahead of the target's clock was made just now; one further ahead is from another time.
const AHEAD: i64 = 600;

/// The policy (`aging`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Aging {
    /// Extra packages stay.
    #[default]
    None,
    /// Extra packages are deleted at the next sync.
    Immediate,
    /// Extra packages are marked, and deleted once they have waited.
    After {
        /// Who deletes them then.
        by: Deleter,
        /// How long they wait.
        wait: Duration,
    },
}

/// Who deletes what has waited long enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleter {
    /// The agent, at the end of a sync.
    Master,
    /// `pkg_purge` on the target.
    Target,
}

/// Why a cycle is not good enough to lose anything by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distrust {
    /// Release Manager could not be asked; what it said before does for sending only.
    Snapshot,
    /// Something wanted is not on the target and cannot be sent.
    Incomplete,
    /// Nothing at all is wanted, or nothing but pins where releases are selected, which is more likely a mistake.
    NothingWanted,
    /// Release Manager lists entries that are not valid: what they mean may be wanted.
    Rejected,
    /// Release Manager's rows contradict each other: what one of them means may be wanted.
    Contradicting,
    /// A release that had packages has none now, which is more likely a mistake; an operator may confirm it.
    Emptied,
    /// A release that had packages is not there any more, and nobody plainly deselected or closed it; an operator may confirm it.
    Vanished,
    /// Nobody knows which releases had packages before.
    Forgotten,
    /// Nobody knows what tags brought until shortly ago; an operator may confirm.
    NewMemory,
}

impl Distrust {
    /// What is wrong with a cycle that goes by this resolution, and whose plan brings all that is wanted or does not. `is_confirmed`: whether an
    /// operator has confirmed this cycle's deletions.
    pub fn of(resolution: &Resolution, is_complete: bool, is_confirmed: bool) -> Option<Self> {
        let contradicts = |row: &OddRow| row.oddity == Oddity::Contradiction;
        if resolution.snapshot.is_some() {
            Some(Self::Snapshot)
        } else if resolution.odd.iter().any(contradicts) {
            Some(Self::Contradicting)
        } else if !resolution.odd.is_empty() {
            Some(Self::Rejected)
        } else if resolution.brings_nothing {
            Some(Self::NothingWanted)
        } else if !is_complete {
            Some(Self::Incomplete)
        } else if is_confirmed {
            None
        } else if !resolution.vanished.is_empty() {
            Some(Self::Vanished)
        } else {
            (!resolution.emptied.is_empty()).then_some(Self::Emptied)
        }
    }

    /// Whether an operator may confirm that it goes all the same.
    pub fn is_confirmable(&self) -> bool {
        match self {
            Self::Emptied | Self::Vanished | Self::NewMemory => true,
            Self::Snapshot
            | Self::Incomplete
            | Self::NothingWanted
            | Self::Rejected
            | Self::Contradicting
            | Self::Forgotten => false,
        }
    }
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Snapshot => "Release Manager could not be asked",
            Self::Incomplete => "not all that is wanted is on the target",
            Self::NothingWanted => "nothing is wanted, or nothing but pins",
            Self::Rejected => "Release Manager lists entries that are not valid",
            Self::Contradicting => "Release Manager's rows contradict each other",
            Self::Emptied => "a release lost all its packages",
            Self::Vanished => "a release that had packages is missing",
            Self::Forgotten => "the agent cannot use what it noted down of former syncs",
            Self::NewMemory => "the agent does not know what tags brought before",
        })
    }
}

/// All that the decision rests on.
#[derive(Debug, Clone)]
pub struct Circumstances<'a> {
    /// The policy.
    pub aging: Aging,
    /// How much may go in one sync.
    pub max_delete: MaxDelete,
    /// Whether an operator has confirmed this one sync's deletions.
    pub is_confirmed: bool,
    /// What should be there.
    pub wanted: &'a WantedSet,
    /// What is there.
    pub inventory: &'a Inventory,
    /// Why the target's clock is not believed, where it is not.
    pub clock_doubt: Option<Doubt>,
    /// Why this cycle is not good enough, where it is not.
    pub distrust: Option<Distrust>,
    /// Packages that tags brought, with the epoch second of the tag.
    pub tagged: &'a BTreeMap<PackageId, i64>,
    /// Release Manager's word is at least this recent, in epoch seconds: what a tag brought later it may not know yet.
    pub known_up_to: i64,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upkeep {
    /// In this order: marks taken away, marks made, deletions.
    pub steps: Vec<AgingStep>,
    /// Packages that would age but for a tag.
    pub spared: Vec<PackageId>,
    /// Why nothing is marked or deleted although the policy would have it: the cycle.
    pub distrust: Option<Distrust>,
    /// What is wrong with the cycle, whatever the policy: others may mark and delete by its PackageList.
    #[serde(skip)]
    pub doubt: Option<Distrust>,
    /// The rows or releases for which the cycle is distrusted, fit for printing.
    #[serde(default)]
    pub because: Vec<String>,
    /// The same: the target's clock.
    pub clock_doubt: Option<Doubt>,
    /// The same: the guard. An operator has to look.
    pub refusal: Option<Refusal>,
    /// The packages that would have been marked or deleted.
    #[serde(skip)]
    pub withheld: Vec<PackageId>,
    /// Whether it goes only because an operator confirmed it.
    #[serde(skip)]
    pub is_confirmed: bool,
    /// What of it an operator may confirm; none where it says nothing of that.
    #[serde(skip)]
    pub confirmable: Option<HeldBack>,
    /// Why an operator's confirmation does not cover it.
    #[serde(skip)]
    pub unconfirmed: Option<String>,
    /// Why nothing at all is done here, and the PackageList not replaced: the archive is not ours.
    #[serde(default)]
    pub bar: Option<Bar>,
}

impl Upkeep {
    /// Whether anything is to be marked or deleted.
    pub fn takes_something(&self) -> bool {
        self.steps.iter().any(|step| step.action != AgingAction::Unmark)
    }

    /// Whether the PackageList goes on naming what it named: what must not go here must not go by it elsewhere.
    pub fn keeps_listed(&self) -> bool {
        self.doubt.is_some() || self.distrust.is_some() || self.refusal.is_some() || self.unconfirmed.is_some()
    }

    /// Leaves everything to the archive's owner.
    pub fn bar(&mut self, bar: Bar) {
        *self = Self { bar: Some(bar), ..Self::default() };
    }
}

/// What is told of a list of rows in one line.
const TOLD: usize = 3;

impl Upkeep {
    /// What holds all marks and deletions back for the sake of the archive's owner, of Release Manager's answer or of the guard, in one line; nothing
    /// where nothing does, and where the sync itself tells more of it.
    pub fn held_back(&self) -> Option<String> {
        if let Some(bar) = &self.bar {
            return Some(bar.to_string());
        }
        let mut text = match (&self.distrust, &self.refusal) {
            (None, None) => return None,
            (None, Some(refusal)) => refusal.to_string(),
            (Some(distrust), None) if distrust.is_confirmable() => {
                format!(
                    "{}; it holds back {} of the target's packages",
                    self.distrusted(distrust)?,
                    self.withheld.len()
                )
            }
            (Some(distrust), None) => self.distrusted(distrust)?,
            (Some(distrust), Some(refusal)) => format!("{}; moreover, {refusal}", self.distrusted(distrust)?),
        };
        if let Some(why) = &self.unconfirmed {
            text += &format!("; {why}");
        }
        Some(text)
    }

    /// What is wrong with the cycle, in one line; nothing where the sync itself tells more of it.
    fn distrusted(&self, distrust: &Distrust) -> Option<String> {
        match distrust {
            Distrust::Snapshot | Distrust::Incomplete => return None,
            Distrust::Rejected
            | Distrust::Contradicting
            | Distrust::Emptied
            | Distrust::Vanished
            | Distrust::Forgotten
            | Distrust::NewMemory
            | Distrust::NothingWanted => {}
        }
        let mut text = format!("nothing is marked or deleted: {distrust}");
        let told: Vec<&str> = self.because.iter().take(TOLD).map(String::as_str).collect();
        if !told.is_empty() {
            text += &format!(": {}", told.join("; "));
        }
        if self.because.len() > TOLD {
            text += "; blat plan tells all";
        }
        Some(text)
    }

    /// What of it an operator may confirm, by the resolution that it was decided by. `is_memory_new`: whether nobody knows what tags brought until
    /// shortly ago. None where it says nothing of that.
    pub fn held(&self, resolution: &Resolution, is_memory_new: bool) -> Option<HeldBack> {
        let releases: &[&Vec<String>] = match &self.doubt {
            _ if self.bar.is_some() => return None,
            None => &[],
            Some(distrust) if distrust.is_confirmable() => &[&resolution.vanished, &resolution.emptied],
            Some(_) => return None,
        };
        let releases = releases.iter().flat_map(|releases| releases.iter().cloned());
        let held_back = HeldBack::new(releases, self.withheld.iter().map(PackageId::to_string), self.refusal.is_some());
        Some(if is_memory_new && self.doubt.is_some() { held_back.by_new_memory() } else { held_back })
    }

    /// The same where somebody has to look, so that the sync counts as failed.
    pub fn alarm(&self) -> Option<String> {
        if self.refusal.is_some() || self.unconfirmed.is_some() {
            return self.held_back();
        }
        match self.distrust.as_ref()? {
            Distrust::Contradicting | Distrust::Emptied | Distrust::Vanished | Distrust::Forgotten => self.held_back(),
            Distrust::Snapshot
            | Distrust::Incomplete
            | Distrust::Rejected
            | Distrust::NewMemory
            | Distrust::NothingWanted => None,
        }
    }
}

/// One thing to do to one package that nothing wants, or to its mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgingStep {
    /// What to do.
    #[serde(flatten)]
    pub action: AgingAction,
    /// With which package.
    pub package: PackageId,
    /// Why.
    #[serde(flatten)]
    pub why: AgingReason,
}

/// What can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum AgingAction {
    /// Take its mark away.
    Unmark,
    /// Mark it; a mark that is there keeps its time, unless that lies ahead.
    Mark {
        /// Seconds to wait from the mark on.
        wait: u64,
    },
    /// Delete it.
    Delete {
        /// The modification time of its `descpkg` as listed, in epoch seconds; none for a link.
        time: Option<i64>,
    },
}

/// Why it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum AgingReason {
    /// Nothing wants it.
    Unwanted,
    /// Nothing wants it, and it has waited.
    Waited {
        /// Seconds since the mark.
        seconds: u64,
    },
    /// The config says another time to wait.
    OtherWait,
    /// The mark's time has not come yet by the target's own clock.
    FromTheFuture,
    /// It is wanted again.
    Wanted,
    /// A tag brought it, and Release Manager may not know it yet.
    Tagged,
    /// The mark's package is not there any more.
    Gone,
    /// The config asks for no aging by marks.
    NotAging,
    /// The target's clock is not believed, so nobody knows how old the mark is.
    ClockDoubted,
}

impl fmt::Display for AgingReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unwanted => f.write_str("nothing wants it"),
            Self::Waited { seconds } => {
                write!(f, "nothing wants it; marked {} ago", show_duration(Duration::from_secs(*seconds)))
            }
            Self::OtherWait => f.write_str("the time to wait was changed"),
            Self::FromTheFuture => f.write_str("its mark lies ahead of the target's clock, so it waits anew"),
            Self::Wanted => f.write_str("it is wanted again"),
            Self::Tagged => f.write_str("a tag brought it, and Release Manager may not know it yet"),
            Self::Gone => f.write_str("it is not there any more"),
            Self::NotAging => f.write_str("the config asks for no marks"),
            Self::ClockDoubted => f.write_str("the target's clock is not believed, so it will wait anew"),
        }
    }
}

/// Whether a tag came after what Release Manager knows; of the same second, nobody can say.
pub fn is_newer(tagged: i64, known_up_to: i64) -> bool {
    tagged >= known_up_to
}

/// Decides about everything that the target holds.
pub fn decide(given: &Circumstances<'_>) -> Upkeep {
    let mut upkeep = Upkeep::default();
    let Inventory { packages, links, marks, .. } = given.inventory;
    let mut deletions = Vec::new();
    let addressed = given.addressed();
    // Links before what they address, so that none dangles in between.
    let (mut among_links, mut among_packages) = (MergeCursor::new(given.wanted), MergeCursor::new(given.wanted));
    let links_held = links.keys().map(|link| (link, None, among_links.get(link).is_some()));
    let packages_held = packages.iter().map(|(id, time)| (id, Some(*time), among_packages.get(id).is_some()));
    for (package, time, is_wanted) in links_held.chain(packages_held) {
        let mark = marks.get(package).copied();
        let is_spared = given.tagged.get(package).is_some_and(|tagged| is_newer(*tagged, given.known_up_to));
        let fate = if is_wanted || addressed.contains(package) {
            mark.map(|_| (AgingAction::Unmark, AgingReason::Wanted))
        } else if is_spared {
            upkeep.spared.push(package.clone());
            mark.map(|_| (AgingAction::Unmark, AgingReason::Tagged))
        } else {
            given.fate(mark, time)
        };
        let Some((action, why)) = fate else { continue };
        let step = AgingStep { action, package: package.clone(), why };
        match action {
            AgingAction::Delete { .. } => deletions.push(step),
            AgingAction::Mark { .. } | AgingAction::Unmark => upkeep.steps.push(step),
        }
    }
    let gone = marks.keys().filter(|package| !packages.contains_key(package) && !links.contains_key(package));
    let unmark = |package: &PackageId| AgingStep {
        action: AgingAction::Unmark,
        package: package.clone(),
        why: AgingReason::Gone,
    };
    upkeep.steps.extend(gone.map(unmark));
    upkeep.steps.sort_by_key(|step| step.action != AgingAction::Unmark);
    upkeep.steps.append(&mut deletions);
    given.restrain(&mut upkeep);
    upkeep
}

impl Circumstances<'_> {
    /// What wanted links address on the target, one after the other: it stays as long as they do, though it may be wanted by nobody.
    fn addressed(&self) -> BTreeSet<PackageId> {
        let links = &self.inventory.links;
        let mut found = BTreeSet::new();
        for link in links.keys().filter(|link| self.wanted.contains_key(link)) {
            let mut link = link.clone();
            for _ in 0..=LONGEST_CHAIN {
                let Some(version) = links.get(&link).and_then(|to| addressee(&link, to).ok()) else { break };
                link.version = version;
                found.insert(link.clone());
            }
        }
        found
    }

    /// What the policy says of a package that nothing wants.
    fn fate(&self, mark: Option<Mark>, time: Option<i64>) -> Option<(AgingAction, AgingReason)> {
        let (by, wait) = match self.aging {
            Aging::None => return mark.map(|_| (AgingAction::Unmark, AgingReason::NotAging)),
            Aging::Immediate => return Some((AgingAction::Delete { time }, AgingReason::Unwanted)),
            Aging::After { by, wait } => (by, wait.as_secs()),
        };
        let clock = match (&self.clock_doubt, self.inventory.clock) {
            (None, Some(clock)) => clock,
            (Some(_), _) | (None, None) => return mark.map(|_| (AgingAction::Unmark, AgingReason::ClockDoubted)),
        };
        let Some(mark) = mark else { return Some((AgingAction::Mark { wait }, AgingReason::Unwanted)) };
        if mark.at > clock.saturating_add(AHEAD) {
            return Some((AgingAction::Mark { wait }, AgingReason::FromTheFuture));
        }
        if mark.wait != wait {
            return Some((AgingAction::Mark { wait }, AgingReason::OtherWait));
        }
        let waited = u64::try_from(clock.saturating_sub(mark.at)).unwrap_or(0);
        match by {
            Deleter::Master if waited >= wait => {
                Some((AgingAction::Delete { time }, AgingReason::Waited { seconds: waited }))
            }
            Deleter::Master | Deleter::Target => None,
        }
    }

    /// Leaves only what may be done: in a cycle that is not trusted, or past the guard's limit, marks are only taken away.
    fn restrain(&self, upkeep: &mut Upkeep) {
        let nothing_wanted = self.wanted.is_empty().then_some(Distrust::NothingWanted);
        upkeep.doubt = nothing_wanted.or_else(|| self.distrust.clone());
        if self.aging == Aging::None {
            // That is about what tags brought, which nothing endangers here, and not about the answer.
            upkeep.doubt.take_if(|doubt| *doubt == Distrust::NewMemory);
            return;
        }
        if let Aging::After { .. } = self.aging {
            upkeep.clock_doubt = match self.inventory.clock {
                None => Some(Doubt::Untold),
                Some(_) => self.clock_doubt.clone(),
            };
        }
        let taking = |step: &&AgingStep| match step.action {
            AgingAction::Unmark => false,
            AgingAction::Mark { .. } => !self.inventory.marks.contains_key(&step.package),
            AgingAction::Delete { .. } => true,
        };
        let touched = upkeep.steps.iter().filter(taking).count() as u64;
        upkeep.distrust.clone_from(&upkeep.doubt);
        // An operator confirms all at once, so that all is shown at once.
        if !self.is_confirmed && upkeep.distrust.as_ref().is_none_or(Distrust::is_confirmable) {
            let held = (self.inventory.packages.len() + self.inventory.links.len()) as u64;
            upkeep.refusal = judge(touched, held, self.max_delete).err();
        }
        if upkeep.distrust.is_some() || upkeep.refusal.is_some() {
            upkeep.withheld = upkeep.steps.iter().filter(taking).map(|step| step.package.clone()).collect();
            upkeep.steps.retain(|step| step.action == AgingAction::Unmark);
        }
    }
}

#[cfg(test)]
mod tests;
