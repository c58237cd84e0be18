//! The lane of tagged packages: which tags lie in the directory, which packages of theirs are sent next, and which of them leave it.
//!
//! Whatever the directory holds, memory is bounded: packages of at most [`ROOM`] bytes are in it at once, and tags beyond that take
//! turns. A tag leaves only when it was found again, unchanged, by whoever removes it: until then it is known here, is not sent again,
//! and each try that fails is followed by a longer pause.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use blat_domain::package::name::PackageId;
use blat_domain::package::tag::{LONGEST, Packages};
use blat_domain::policy::retry::Backoff;

use super::known::{AllKnown, DueOrder, KnownTag, Queue, TagStage};
use super::pass::{AT_ONCE, Next, Outcome};
use super::{Failure, Moment, Sent};

/// How long a tag may wait for a package that the source does not have.
pub(crate) const PATIENCE: Duration = Duration::from_secs(86_400);
/// Tags removed in one go.
const REMOVED_AT_ONCE: usize = 1_000;
/// The most memory that the packages of all tags take together, in bytes: several times what the largest tag takes.
pub(crate) const ROOM: usize = 16 << 20;

/// A tag's name, which all that know it share.
pub(crate) type Name = Arc<OsStr>;

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
    pub(crate) name: Name,
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
pub(crate) struct LookLimits {
    /// Bytes of packages that there is room for beside the tags below, by [`TagStamp::weight`].
    pub(crate) room: usize,
    /// Tags that were seen before and whose turn it is.
    pub(crate) turn: BTreeSet<Name>,
    /// The directory is looked at again after this time, and what has changed by then is reported.
    pub(crate) poll: Duration,
}

/// What one look found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FoundTags {
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
    pub(crate) name: Name,
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

/// The lane, and what lies in the directory.
#[derive(Debug)]
pub(super) struct TagLane {
    known: AllKnown,
    /// Of what is being sent: each tag's stamp, and up to which of its packages.
    busy: Option<BTreeMap<Name, (TagStamp, usize)>>,
    /// Which tags come first in what is read or sent next. It changes each time: a new tag does not wait behind however many others, and
    /// none of these waits behind ever newer ones.
    first: DueOrder,
    /// The latest failure of a tag, with its name.
    failure: Option<(Name, Failure)>,
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
        let (known, first) = (AllKnown::default(), DueOrder::Newest);
        let (busy, failure, directory, hanging) = (None, None, None, None);
        let (next_look, is_looking, has_no_turn) = (Moment::ZERO, false, false);
        Self { known, busy, first, failure, directory, is_looking, hanging, has_no_turn, next_look }
    }

    pub(super) fn is_sending(&self) -> bool {
        self.busy.is_some()
    }

    /// How many tags wait. One that is served waits for nothing, unless it cannot be removed.
    pub(super) fn count(&self) -> u64 {
        self.known.waiting() as u64
    }

    pub(super) fn failures(&self) -> impl Iterator<Item = &Failure> {
        self.failure.iter().map(|(_, failure)| failure).chain(&self.directory).chain(&self.hanging)
    }

    /// How long ago the oldest tag was dropped for which this package is being sent.
    pub(super) fn asked_for_since(&self, package: &PackageId, now: Moment) -> Option<Duration> {
        let sending = self.busy.iter().flatten().filter_map(|(name, _)| self.known.get(name));
        let asks = sending.filter(|tag| match &tag.stage {
            TagStage::Sending(pass) => pass.packages.position(package).is_some(),
            TagStage::Unread | TagStage::Leaving { .. } => false,
        });
        asks.map(|tag| tag.dropped_ago + now.saturating_sub(tag.read_at)).max()
    }

    /// When something is to be done although nothing happens.
    pub(super) fn deadline(&self) -> Moment {
        let look = if self.is_looking { Moment::MAX } else { self.next_look };
        let reading = !self.is_looking && !self.has_no_turn;
        let queues = [(Queue::Unread, reading), (Queue::Sending, self.busy.is_none()), (Queue::Leaving, true)];
        let soonest = queues.into_iter().filter(|(_, waits)| *waits).map(|(queue, _)| self.known.soonest(queue)).min();
        soonest.unwrap_or(Moment::MAX).min(look)
    }

    /// The directory was looked at.
    pub(super) fn take(&mut self, found: FoundTags, now: Moment) {
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
        self.known.follow(tags, now);
        self.forget_healed_failure();
    }

    /// Tagged packages were dealt with.
    pub(super) fn settle(&mut self, results: &[(PackageId, Sent)], now: Moment, tag_poll: Duration, chance: f64) {
        let Some(busy) = self.busy.take() else { return };
        let results: BTreeMap<&PackageId, &Sent> = results.iter().map(|(package, sent)| (package, sent)).collect();
        for (name, (stamp, upto)) in busy {
            let failed = self.known.change(&name, |tag| {
                let is_patient = tag.seen_ago + now.saturating_sub(tag.read_at) <= PATIENCE;
                let outcome = Outcome { results: &results, is_patient, now, tag_poll, chance };
                if tag.stamp == stamp { settle(tag, upto, &outcome) } else { None }
            });
            if let Some(failure) = failed.flatten() {
                self.failure = Some((name, failure));
            }
        }
        self.forget_healed_failure();
        // There may be room for more.
        self.has_no_turn = false;
    }

    /// Other settings are in force, perhaps with another tag directory, whose first look must not wait for the last of the former one.
    /// Where they lead to another archive, nothing of what was sent is there.
    pub(super) fn follow_other_settings(&mut self, is_elsewhere: bool, now: Moment) {
        (self.is_looking, self.hanging, self.next_look, self.has_no_turn) = (false, None, now, false);
        if !is_elsewhere {
            return;
        }
        self.busy.iter_mut().for_each(BTreeMap::clear);
        for name in self.known.names() {
            self.known.change(&name, |tag| {
                match &mut tag.stage {
                    TagStage::Unread => {}
                    TagStage::Sending(pass) => pass.begin_again(now),
                    TagStage::Leaving { .. } => tag.stage = TagStage::Unread,
                }
                (tag.failures, tag.not_before) = (0, now);
            });
        }
        self.forget_healed_failure();
    }

    /// Tags were removed, or not.
    pub(super) fn settle_removals(&mut self, results: Vec<(Name, TagStamp, Removed)>, now: Moment, chance: f64) {
        self.hanging = None;
        for (name, stamp, removed) in results {
            if self.known.get(&name).is_none_or(|tag| tag.stamp != stamp) {
                continue;
            }
            match removed {
                Removed::Gone => self.known.forget(&name),
                Removed::Changed => {
                    self.known.forget(&name);
                    self.next_look = now;
                }
                Removed::Stuck(text) => {
                    let retry_at = self.known.change(&name, |tag| {
                        tag.failures = tag.failures.saturating_add(1);
                        tag.not_before = now + Backoff::TAG.wait(tag.failures, chance);
                        if let TagStage::Leaving { is_asked, .. } = &mut tag.stage {
                            *is_asked = false;
                        }
                        tag.not_before
                    });
                    let failure = |retry_at| Failure { at: now, package: None, text, retry_at };
                    self.failure = retry_at.map(failure).map(|failure| (name, failure));
                }
            }
        }
        self.forget_healed_failure();
    }

    /// A failure stands as long as the tag is there that it is about, and has not succeeded since.
    fn forget_healed_failure(&mut self) {
        let stands = |name: &Name| self.known.get(name).is_some_and(|tag| tag.failures > 0);
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
    pub(super) fn look(&mut self, now: Moment, tag_poll: Duration) -> Option<LookLimits> {
        if self.is_looking {
            return None;
        }
        let is_due = self.next_look <= now;
        let look = match self.known.is_empty(Queue::Unread) {
            true if !is_due => return None,
            true => LookLimits { room: self.room(), ..LookLimits::default() },
            false if !is_due && self.has_no_turn => return None,
            false => self.take_turns(now),
        };
        if !is_due && look.turn.is_empty() {
            return None;
        }
        // From then on it is looked at again without being asked for.
        (self.is_looking, self.next_look) = (true, Moment::MAX);
        Some(LookLimits { poll: tag_poll, ..look })
    }

    fn room(&self) -> usize {
        ROOM.saturating_sub(self.known.weight())
    }

    /// Chooses which tags are read next. Those that wait longest give way to them when there is no room.
    fn take_turns(&mut self, now: Moment) -> LookLimits {
        let (mut room, mut lightest) = (self.room(), None::<usize>);
        let mut turn = BTreeSet::new();
        for (name, tag) in self.known.due(Queue::Unread, self.first, now) {
            let weight = tag.stamp.weight();
            lightest = Some(lightest.map_or(weight, |lightest| lightest.min(weight)));
            if weight <= room {
                room -= weight;
                turn.insert(name.clone());
            }
        }
        let Some(lightest) = lightest.filter(|_| turn.is_empty()) else {
            return LookLimits { room, turn, ..LookLimits::default() };
        };
        for name in self.known.later(Queue::Sending, now) {
            self.known.change(&name, |tag| tag.stage = TagStage::Unread);
        }
        if self.room() >= lightest {
            // What they held is free.
            return self.take_turns(now);
        }
        // Room appears when packages were sent, which clears this.
        self.has_no_turn = true;
        LookLimits { room, turn, ..LookLimits::default() }
    }

    /// The packages that are due, unless some are being sent.
    pub(super) fn send(&mut self, now: Moment) -> Option<BTreeSet<PackageId>> {
        if self.busy.is_some() {
            return None;
        }
        let mut busy = BTreeMap::new();
        let mut packages = BTreeSet::new();
        for (name, tag) in self.known.due(Queue::Sending, self.first, now) {
            if packages.len() >= AT_ONCE {
                break;
            }
            if let TagStage::Sending(pass) = &tag.stage {
                let (portion, upto) = pass.portion();
                packages.extend(portion);
                busy.insert(name.clone(), (tag.stamp, upto));
            }
        }
        if packages.is_empty() {
            return None;
        }
        self.busy = Some(busy);
        self.first = if self.first == DueOrder::Newest { DueOrder::Oldest } else { DueOrder::Newest };
        Some(packages)
    }

    /// The tags that are to leave now.
    pub(super) fn removals(&mut self, now: Moment) -> Vec<Removal> {
        let due = self.known.due(Queue::Leaving, DueOrder::Oldest, now).take(REMOVED_AT_ONCE);
        let names: Vec<Name> = due.map(|(name, _)| name.clone()).collect();
        let asked = names.into_iter().filter_map(|name| {
            let removal = |tag: &mut KnownTag| {
                let TagStage::Leaving { how, is_asked } = &mut tag.stage else { return None };
                *is_asked = true;
                Some(Removal { name: name.clone(), stamp: tag.stamp, how: how.clone() })
            };
            self.known.change(&name, removal).flatten()
        });
        asked.collect()
    }
}

/// Takes in what became of a tag's packages before `upto`. Why it has to wait, if it has.
fn settle(tag: &mut KnownTag, upto: usize, outcome: &Outcome<'_>) -> Option<Failure> {
    let TagStage::Sending(pass) = &mut tag.stage else { return None };
    (tag.not_before, tag.is_new) = (outcome.now, false);
    match pass.settle(upto, outcome, tag.failures) {
        Next::More => None,
        Next::Later(failure) => {
            tag.failures = tag.failures.saturating_add(1);
            tag.not_before = failure.retry_at;
            Some(failure)
        }
        Next::Leave(how) => {
            (tag.stage, tag.failures) = (TagStage::Leaving { how, is_asked: false }, 0);
            None
        }
    }
}
