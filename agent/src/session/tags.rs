//! The lane of tagged packages: which tags lie in the directory, which packages of theirs are sent next, and which of them leave it.
//!
//! Whatever the directory holds, memory is bounded: packages of at most [`ROOM`] bytes are in it at once, and tags beyond that take
//! turns. A tag leaves only when it was found again, unchanged, by whoever removes it: until then it is known here, is not sent again,
//! and each try that fails is followed by a longer pause.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::time::Duration;

use blat_domain::name::PackageId;
use blat_domain::retry::Backoff;
use blat_domain::tag::{LONGEST, Packages};

use super::pass::{AT_ONCE, Next, Outcome, Pass};
use super::{Failure, Moment, Sent};

/// How long a tag may wait for a package that the source does not have.
pub(crate) const PATIENCE: Duration = Duration::from_secs(86_400);
/// Tags removed in one go.
const REMOVED_AT_ONCE: usize = 1_000;
/// The most memory that the packages of all tags take together, in bytes: several times what the largest tag takes.
pub(crate) const ROOM: usize = 16 << 20;

/// Tells one state of a file from any other, and from another file that later took its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct TagStamp {
    pub(crate) inode: u64,
    pub(crate) size: u64,
    /// Second and nanosecond of its last modification.
    pub(crate) modified: (i64, i64),
    /// The same of the last change to the file or its name.
    pub(crate) changed: (i64, i64),
}

impl TagStamp {
    /// The most memory that the tag's packages take, in bytes: the shortest line has four bytes, and each has an entry and a mark. What
    /// is too large to be a tag has none.
    pub(crate) fn weight(&self) -> usize {
        let size = if self.size > LONGEST { 0 } else { self.size };
        usize::try_from(size).unwrap_or(usize::MAX).saturating_mul(4).saturating_add(128)
    }
}

/// A tag that lies in the directory and counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) name: OsString,
    pub(crate) stamp: TagStamp,
    /// How long ago it was dropped, by its own time.
    pub(crate) dropped_ago: Duration,
    /// How long ago an agent saw it first.
    pub(crate) seen_ago: Duration,
    /// What it asks for; none where it was not read this time.
    pub(crate) packages: Option<Packages>,
}

/// What one look at the tag directory may read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Look {
    /// Bytes of packages that there is room for beside the tags below, by [`TagStamp::weight`].
    pub(crate) room: usize,
    /// Tags that were seen before and whose turn it is.
    pub(crate) turn: BTreeSet<OsString>,
    /// The directory is looked at again after this time, and what has changed by then is reported.
    pub(crate) poll: Duration,
}

/// What one look found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// All tags that count; none where the directory could not be looked at.
    pub(crate) tags: Option<Vec<Tag>>,
    /// In which time a file may count that does not yet; the directory is looked at again then.
    pub(crate) again_in: Option<Duration>,
    /// What is wrong with the directory and what to do, with the time until it is tried again.
    pub(crate) trouble: Option<(String, Duration)>,
}

/// A tag that is to leave the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Removal {
    pub(crate) name: OsString,
    pub(crate) stamp: TagStamp,
    pub(crate) how: Leave,
}

/// How a tag leaves the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Leave {
    /// All that it asked for is published.
    Consumed,
    /// It can never succeed, for this reason.
    Failed(String),
}

/// What became of a [`Removal`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Removed {
    /// It is gone.
    Gone,
    /// It is another file by now, or has changed: it is read again.
    Changed,
    /// It cannot be removed: why, and what to do.
    Stuck(String),
}

/// What a tag waits for.
#[derive(Debug)]
enum Stage {
    /// Its packages are not in memory.
    Unread,
    /// Its packages are being sent.
    Sending(Pass),
    /// It is to leave; `is_asked`: and whoever removes it was asked to.
    Leaving { how: Leave, is_asked: bool },
}

/// A tag that lies in the directory.
#[derive(Debug)]
struct Known {
    stamp: TagStamp,
    /// When it was read, and how long before an agent had seen it, and it had been dropped.
    read_at: Moment,
    seen_ago: Duration,
    dropped_ago: Duration,
    stage: Stage,
    failures: u32,
    not_before: Moment,
}

/// The lane, and what lies in the directory.
#[derive(Debug)]
pub(super) struct TagLane {
    known: BTreeMap<OsString, Known>,
    /// Of what is being sent: each tag's stamp, and up to which of its packages.
    busy: Option<BTreeMap<OsString, (TagStamp, usize)>>,
    /// Tags that are to leave.
    leaving: BTreeSet<OsString>,
    /// How many tags are not in memory.
    unread: usize,
    /// The latest failure of a tag, with its name.
    failure: Option<(OsString, Failure)>,
    /// What is wrong with the directory.
    directory: Option<Failure>,
    /// A look that was asked for is under way.
    is_looking: bool,
    /// The directory does not answer.
    hanging: Option<Failure>,
    /// A look that only reads waiting tags makes no sense: the last one failed, or there is no room for them.
    has_no_turn: bool,
    pub(super) next_look: Moment,
}

impl TagLane {
    pub(super) fn new() -> Self {
        let (known, leaving) = (BTreeMap::new(), BTreeSet::new());
        let (busy, failure, directory, hanging) = (None, None, None, None);
        let (unread, next_look, is_looking, has_no_turn) = (0, Moment::ZERO, false, false);
        Self { known, busy, leaving, unread, failure, directory, is_looking, hanging, has_no_turn, next_look }
    }

    pub(super) fn is_sending(&self) -> bool {
        self.busy.is_some()
    }

    /// How many tags wait. One that is served waits for nothing, unless it cannot be removed.
    pub(super) fn count(&self) -> u64 {
        let is_served =
            |tag: &&Known| tag.failures == 0 && matches!(tag.stage, Stage::Leaving { how: Leave::Consumed, .. });
        let served = self.leaving.iter().filter_map(|name| self.known.get(name)).filter(is_served).count();
        (self.known.len() - served) as u64
    }

    pub(super) fn failures(&self) -> impl Iterator<Item = &Failure> {
        self.failure.iter().map(|(_, failure)| failure).chain(&self.directory).chain(&self.hanging)
    }

    /// How long ago the oldest tag was dropped for which this package is being sent.
    pub(super) fn asked_for_since(&self, package: &PackageId, now: Moment) -> Option<Duration> {
        let sending = self.busy.iter().flatten().filter_map(|(name, _)| self.known.get(name));
        let asks = sending.filter(|tag| match &tag.stage {
            Stage::Sending(pass) => pass.packages.position(package).is_some(),
            Stage::Unread | Stage::Leaving { .. } => false,
        });
        asks.map(|tag| tag.dropped_ago + now.saturating_sub(tag.read_at)).max()
    }

    /// When something is to be done although nothing happens.
    pub(super) fn deadline(&self) -> Moment {
        let look = if self.is_looking { Moment::MAX } else { self.next_look };
        let waits = |tag: &&Known| match &tag.stage {
            Stage::Unread => !self.is_looking && !self.has_no_turn,
            Stage::Sending(_) => self.busy.is_none(),
            Stage::Leaving { is_asked, .. } => !is_asked,
        };
        self.known.values().filter(waits).map(|tag| tag.not_before).min().unwrap_or(Moment::MAX).min(look)
    }

    /// The directory was looked at.
    pub(super) fn take(&mut self, found: Found, now: Moment) {
        (self.is_looking, self.hanging) = (false, None);
        let since = |text: &str| self.directory.as_ref().filter(|known| known.text == text).map(|known| known.at);
        self.directory = found.trouble.map(|(text, retry)| Failure {
            at: since(&text).unwrap_or(now),
            package: None,
            text,
            retry_at: now + retry,
        });
        self.has_no_turn = found.tags.is_none();
        let Some(tags) = found.tags else { return };
        let mut former = std::mem::take(&mut self.known);
        for Tag { name, stamp, dropped_ago, seen_ago, packages } in tags {
            let known = former.remove(&name).filter(|known| known.stamp == stamp);
            let mut known = known.unwrap_or_else(|| {
                let stage = Stage::Unread;
                Known { stamp, read_at: now, seen_ago, dropped_ago, stage, failures: 0, not_before: Moment::ZERO }
            });
            if let (Some(packages), Stage::Unread) = (packages, &known.stage) {
                known.stage = Stage::Sending(Pass::new(packages, now));
            }
            self.known.insert(name, known);
        }
        self.leaving.retain(|name| self.known.get(name).is_some_and(|tag| matches!(tag.stage, Stage::Leaving { .. })));
        self.unread = self.known.values().filter(|tag| matches!(tag.stage, Stage::Unread)).count();
        self.forget_healed_failure();
    }

    /// Tagged packages were dealt with.
    pub(super) fn settle(&mut self, results: &[(PackageId, Sent)], now: Moment, tag_poll: Duration, chance: f64) {
        let Some(busy) = self.busy.take() else { return };
        let results: BTreeMap<&PackageId, &Sent> = results.iter().map(|(package, sent)| (package, sent)).collect();
        for (name, (stamp, upto)) in busy {
            let Some(tag) = self.known.get_mut(&name).filter(|tag| tag.stamp == stamp) else { continue };
            let is_patient = tag.seen_ago + now.saturating_sub(tag.read_at) <= PATIENCE;
            let Stage::Sending(pass) = &mut tag.stage else { continue };
            tag.not_before = now;
            match pass.settle(upto, &Outcome { results: &results, is_patient, now, tag_poll, chance }, tag.failures) {
                Next::More => {}
                Next::Later(failure) => {
                    tag.failures = tag.failures.saturating_add(1);
                    tag.not_before = failure.retry_at;
                    self.failure = Some((name, failure));
                }
                Next::Leave(how) => {
                    (tag.stage, tag.failures) = (Stage::Leaving { how, is_asked: false }, 0);
                    self.leaving.insert(name);
                }
            }
        }
        self.forget_healed_failure();
        // What was dropped again under the same name is read now, and there may be room for more.
        (self.next_look, self.has_no_turn) = (now, false);
    }

    /// Other settings are in force, perhaps with another tag directory, whose first look must not wait for the last of the former one.
    /// Where they lead to another archive, nothing of what was sent is there.
    pub(super) fn follow_other_settings(&mut self, is_elsewhere: bool, now: Moment) {
        (self.is_looking, self.hanging, self.next_look, self.has_no_turn) = (false, None, now, false);
        if !is_elsewhere {
            return;
        }
        self.busy.iter_mut().for_each(BTreeMap::clear);
        self.leaving.clear();
        for tag in self.known.values_mut() {
            match &mut tag.stage {
                Stage::Unread => {}
                Stage::Sending(pass) => pass.begin_again(now),
                Stage::Leaving { .. } => tag.stage = Stage::Unread,
            }
            (tag.failures, tag.not_before) = (0, now);
        }
        self.unread = self.known.values().filter(|tag| matches!(tag.stage, Stage::Unread)).count();
        self.forget_healed_failure();
    }

    /// Tags were removed, or not.
    pub(super) fn settle_removals(&mut self, results: Vec<(OsString, TagStamp, Removed)>, now: Moment, chance: f64) {
        self.hanging = None;
        for (name, stamp, removed) in results {
            let Some(tag) = self.known.get_mut(&name).filter(|tag| tag.stamp == stamp) else { continue };
            match removed {
                Removed::Gone => self.forget(&name),
                Removed::Changed => {
                    self.forget(&name);
                    self.next_look = now;
                }
                Removed::Stuck(text) => {
                    tag.failures = tag.failures.saturating_add(1);
                    tag.not_before = now + Backoff::TAG.wait(tag.failures, chance);
                    if let Stage::Leaving { is_asked, .. } = &mut tag.stage {
                        *is_asked = false;
                    }
                    let failure = Failure { at: now, package: None, text, retry_at: tag.not_before };
                    self.leaving.insert(name.clone());
                    self.failure = Some((name, failure));
                }
            }
        }
        self.forget_healed_failure();
    }

    fn forget(&mut self, name: &OsStr) {
        self.known.remove(name);
        self.leaving.remove(name);
    }

    /// A failure stands as long as the tag is there that it is about, and has not succeeded since.
    fn forget_healed_failure(&mut self) {
        let stands = |name: &OsString| self.known.get(name).is_some_and(|tag| tag.failures > 0);
        if self.failure.as_ref().is_some_and(|(name, _)| !stands(name)) {
            self.failure = None;
        }
    }

    /// What the thread at the directory does has taken too long, since `since`.
    pub(super) fn hang(&mut self, since: Moment, retry_at: Moment, now: Moment) {
        if self.hanging.as_ref().is_some_and(|hanging| hanging.retry_at > now) {
            return;
        }
        let text = "the tag directory does not answer; check the file system that it is on".to_owned();
        self.hanging = Some(Failure { at: since, package: None, text, retry_at });
    }

    /// The look that is due, if one is.
    pub(super) fn look(&mut self, now: Moment, tag_poll: Duration) -> Option<Look> {
        if self.is_looking {
            return None;
        }
        let is_due = self.next_look <= now;
        let look = match self.unread {
            0 if !is_due => return None,
            0 => Look { room: self.room(), ..Look::default() },
            _ if !is_due && self.has_no_turn => return None,
            _ => self.take_turns(now),
        };
        if !is_due && look.turn.is_empty() {
            return None;
        }
        // From then on it is looked at again without being asked for.
        (self.is_looking, self.next_look) = (true, Moment::MAX);
        Some(Look { poll: tag_poll, ..look })
    }

    fn room(&self) -> usize {
        let weight = |tag: &Known| match &tag.stage {
            Stage::Sending(pass) => pass.weight(),
            Stage::Unread | Stage::Leaving { .. } => 0,
        };
        ROOM.saturating_sub(self.known.values().map(weight).sum())
    }

    /// Chooses which tags are read next. Those that wait longest give way to them when there is no room.
    fn take_turns(&mut self, now: Moment) -> Look {
        let is_due = |tag: &Known| matches!(tag.stage, Stage::Unread) && tag.not_before <= now;
        let mut due: Vec<(u32, &OsString, usize)> = self
            .known
            .iter()
            .filter(|(_, tag)| is_due(tag))
            .map(|(name, tag)| (tag.failures, name, tag.stamp.weight()))
            .collect();
        due.sort_unstable();
        let lightest = due.iter().map(|(_, _, weight)| *weight).min();
        let mut room = self.room();
        let mut turn = BTreeSet::new();
        for (_, name, weight) in due {
            if weight <= room {
                room -= weight;
                turn.insert(name.clone());
            }
        }
        let Some(lightest) = lightest.filter(|_| turn.is_empty()) else {
            return Look { room, turn, ..Look::default() };
        };
        for tag in self.known.values_mut().filter(|tag| tag.not_before > now) {
            if let Stage::Sending(_) = &tag.stage {
                tag.stage = Stage::Unread;
                self.unread += 1;
            }
        }
        if self.room() >= lightest {
            // What they held is free.
            return self.take_turns(now);
        }
        // Room appears when packages were sent, which clears this.
        self.has_no_turn = true;
        Look { room, turn, ..Look::default() }
    }

    /// The packages that are due, unless some are being sent. Tags that failed least go first, so that one bad tag never holds up the
    /// good ones.
    pub(super) fn send(&mut self, now: Moment) -> Option<BTreeSet<PackageId>> {
        if self.busy.is_some() {
            return None;
        }
        let mut due: Vec<(&OsString, &Known, &Pass)> = self
            .known
            .iter()
            .filter(|(_, tag)| tag.not_before <= now)
            .filter_map(|(name, tag)| match &tag.stage {
                Stage::Sending(pass) => Some((name, tag, pass)),
                Stage::Unread | Stage::Leaving { .. } => None,
            })
            .collect();
        due.sort_by_key(|(_, tag, _)| tag.failures);
        let mut busy = BTreeMap::new();
        let mut packages = BTreeSet::new();
        for (name, tag, pass) in due {
            if packages.len() >= AT_ONCE {
                break;
            }
            let (portion, upto) = pass.portion();
            packages.extend(portion);
            busy.insert(name.clone(), (tag.stamp, upto));
        }
        if packages.is_empty() {
            return None;
        }
        self.busy = Some(busy);
        Some(packages)
    }

    /// The tags that are to leave now.
    pub(super) fn removals(&mut self, now: Moment) -> Vec<Removal> {
        let mut removals = Vec::new();
        for name in &self.leaving {
            let Some(tag) = self.known.get_mut(name).filter(|tag| tag.not_before <= now) else { continue };
            if let Stage::Leaving { how, is_asked } = &mut tag.stage
                && !*is_asked
                && removals.len() < REMOVED_AT_ONCE
            {
                *is_asked = true;
                removals.push(Removal { name: name.clone(), stamp: tag.stamp, how: how.clone() });
            }
        }
        removals
    }
}
