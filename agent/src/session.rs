//! What an agent decides: one event in, actions out. No I/O, no clock, no chance of its own.
//!
//! Two lanes run side by side: full syncs, and tagged packages, which never wait behind a sync. Each lane does one thing
//! at a time. A notification only makes the session look at the directory; what it acts on is what lies there.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::time::Duration;

use blat_domain::messages::Ticket;
use blat_domain::name::PackageId;
use blat_domain::retry::Backoff;
use blat_domain::status::{State, SyncReport};

/// How long a tag may wait for a package that the source does not have.
pub(crate) const PATIENCE: Duration = Duration::from_secs(86_400);
/// Tagged packages sent in one go: few enough that a burst of tags does not make the next one wait.
const AT_ONCE: usize = 200;

/// Time since the start of the process.
pub(crate) type Moment = Duration;

/// Tells one file from another that later took its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TagStamp {
    pub(crate) inode: u64,
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: i64,
    pub(crate) size: u64,
}

/// A file in the tag directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) name: OsString,
    pub(crate) stamp: TagStamp,
    /// How long ago it was dropped.
    pub(crate) age: Duration,
    /// What it asks for; none where it was read before and has not changed.
    pub(crate) packages: Option<BTreeSet<PackageId>>,
}

/// What happens to an agent.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// Time passed.
    Ticked,
    /// Something may have changed in the tag directory.
    TagsHinted,
    /// The tag directory was looked at: these are its tags.
    TagsFound(Vec<Tag>),
    /// Somebody wants a full sync; `allow_delete`: and lets it take more away than `max_delete`.
    SyncAsked { ticket: Option<Ticket>, allow_delete: bool },
    /// A full sync ended.
    SyncEnded(Box<SyncReport>, Option<Problem>),
    /// A full sync ended early, since other settings came into force: the one that follows takes over.
    SyncSuperseded,
    /// Tagged packages were dealt with.
    TagsSent(Vec<(PackageId, Sent)>),
    /// Other settings came into force. `is_elsewhere`: what is being sent for tags does not go where it would go now.
    Reloaded { pace: Pace, is_elsewhere: bool },
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The package concerned, when it was one.
    pub(crate) package: Option<PackageId>,
    /// What was attempted, why it failed, what to do.
    pub(crate) text: String,
    /// How soon trying again makes sense.
    pub(crate) retry: Backoff,
}

/// What became of a tagged package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is published on the target.
    Done,
    /// The source does not have it in a state to be sent; it may yet.
    Waiting(String),
    /// It can never be sent.
    Hopeless(String),
    /// Sending it failed.
    Failed(Problem),
}

/// What an agent does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Look at the tag directory; answer with [`Event::TagsFound`].
    LookAtTags,
    /// Run a full sync, which may take more away than `max_delete` where that is allowed; answer with [`Event::SyncEnded`].
    Sync { allow_delete: bool },
    /// Send these packages; answer with [`Event::TagsSent`].
    Send(BTreeSet<PackageId>),
    /// All that this tag asked for is published.
    Consume(OsString, TagStamp),
    /// This tag can never succeed.
    SetAside(OsString, String),
    /// Tell those who hold these tickets how their sync went.
    Answer(Vec<Ticket>, SyncReport, Option<Failure>),
}

/// A failure that still stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) at: Moment,
    pub(crate) package: Option<PackageId>,
    pub(crate) text: String,
    pub(crate) retry_at: Moment,
}

/// The settings that say when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// From the start of one full sync to the next.
    pub(crate) sync: Duration,
    /// How often the tag directory is looked at without being told.
    pub(crate) tag_poll: Duration,
}

/// The lane of full syncs.
#[derive(Debug)]
enum SyncLane {
    /// None runs; the next begins at `due`, for those who asked.
    Resting { due: Moment, asked: Asked },
    /// One runs since `since` for those with `tickets`; `again` is what was asked after it had begun.
    Running { since: Moment, tickets: Vec<Ticket>, again: Option<Asked> },
}

/// What a sync that has not begun is to be, from all who asked for it.
#[derive(Debug, Default)]
struct Asked {
    tickets: Vec<Ticket>,
    allow_delete: bool,
}

impl Asked {
    fn add(&mut self, ticket: Option<Ticket>, allow_delete: bool) {
        self.tickets.extend(ticket);
        self.allow_delete |= allow_delete;
    }
}

/// The lane of tagged packages.
#[derive(Debug)]
enum SendLane {
    /// Nothing is being sent.
    Free,
    /// These tags' packages are; the answer may come after the tags have changed.
    Busy(BTreeMap<OsString, TagStamp>),
}

/// A tag that lies in the directory.
#[derive(Debug)]
struct Known {
    stamp: TagStamp,
    /// When it was first seen, and how old it was then.
    read_at: Moment,
    age: Duration,
    left: BTreeSet<PackageId>,
    failures: u32,
    not_before: Moment,
}

/// Where a tag stands after some of its packages were dealt with.
enum Settled {
    Published,
    Hopeless(String),
    Later(Failure),
    MoreToSend,
}

impl Known {
    fn age(&self, now: Moment) -> Duration {
        self.age + now.saturating_sub(self.read_at)
    }

    fn settle(&mut self, results: &[(PackageId, Sent)], now: Moment, tag_poll: Duration, chance: f64) -> Settled {
        let failure = |package: &PackageId, text: &str, retry_at| {
            Some(Failure { at: now, package: Some(package.clone()), text: text.to_owned(), retry_at })
        };
        let mut trouble = None;
        for (package, sent) in results {
            if !self.left.contains(package) {
                continue;
            }
            match sent {
                Sent::Done => {
                    self.left.remove(package);
                }
                Sent::Hopeless(why) => return Settled::Hopeless(format!("{package}: {why}")),
                Sent::Waiting(why) if self.age(now) > PATIENCE => {
                    return Settled::Hopeless(format!("{package}: {why}, for more than a day"));
                }
                Sent::Waiting(why) => trouble = failure(package, why, now + tag_poll),
                Sent::Failed(problem) => {
                    trouble = failure(package, &problem.text, now + problem.retry.wait(self.failures + 1, chance));
                }
            }
        }
        match trouble {
            Some(failure) => {
                self.failures = self.failures.saturating_add(1);
                self.not_before = failure.retry_at;
                Settled::Later(failure)
            }
            None if self.left.is_empty() => Settled::Published,
            None => {
                (self.failures, self.not_before) = (0, now);
                Settled::MoreToSend
            }
        }
    }
}

/// One agent's state.
#[derive(Debug)]
pub(crate) struct Session {
    pace: Pace,
    sync: SyncLane,
    sync_failures: u32,
    sync_failure: Option<Failure>,
    last_sync: Option<SyncReport>,
    send: SendLane,
    tags: BTreeMap<OsString, Known>,
    tag_failure: Option<Failure>,
    next_look: Moment,
}

impl Session {
    /// A session that begins with a look at the tags and a full sync.
    pub(crate) fn new(pace: Pace) -> Self {
        Self {
            pace,
            sync: SyncLane::Resting { due: Moment::ZERO, asked: Asked::default() },
            sync_failures: 0,
            sync_failure: None,
            last_sync: None,
            send: SendLane::Free,
            tags: BTreeMap::new(),
            tag_failure: None,
            next_look: Moment::ZERO,
        }
    }

    /// Takes in one event. `chance` is uniform in 0..1 and spreads retries.
    pub(crate) fn step(&mut self, event: Event, now: Moment, chance: f64) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Ticked => {}
            Event::TagsHinted => self.next_look = now,
            Event::TagsFound(tags) => self.take_tags(tags, now),
            Event::SyncAsked { ticket, allow_delete } => self.ask_for_sync(ticket, allow_delete, now),
            Event::SyncEnded(report, problem) => actions.extend(self.end_sync(*report, problem, now, chance)),
            Event::SyncSuperseded => self.hand_on_sync(now),
            Event::TagsSent(results) => actions.extend(self.settle_tags(&results, now, chance)),
            Event::Reloaded { pace, is_elsewhere } => {
                self.pace = pace;
                self.next_look = now;
                self.follow_other_settings(is_elsewhere, now);
            }
        }
        actions.extend(self.begin_what_is_due(now));
        actions
    }

    /// When to step again although nothing happened.
    pub(crate) fn deadline(&self) -> Moment {
        let sync = match &self.sync {
            SyncLane::Resting { due, .. } => *due,
            SyncLane::Running { .. } => Moment::MAX,
        };
        let tags = match &self.send {
            SendLane::Free => self.tags.values().map(|tag| tag.not_before).min().unwrap_or(Moment::MAX),
            SendLane::Busy(_) => Moment::MAX,
        };
        sync.min(tags).min(self.next_look)
    }

    /// What the agent is doing, in one word.
    pub(crate) fn state(&self) -> State {
        match (&self.sync, &self.send) {
            (SyncLane::Running { .. }, _) => State::Syncing,
            (SyncLane::Resting { .. }, SendLane::Busy(_)) => State::Sending,
            (SyncLane::Resting { .. }, SendLane::Free) if self.failure().is_some() => State::Waiting,
            (SyncLane::Resting { .. }, SendLane::Free) => State::Idle,
        }
    }

    /// The latest failure that still stands.
    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.sync_failure.iter().chain(&self.tag_failure).max_by_key(|failure| failure.at)
    }

    /// How the last full sync went.
    pub(crate) fn last_sync(&self) -> Option<&SyncReport> {
        self.last_sync.as_ref()
    }

    /// How many tags wait.
    pub(crate) fn tags_waiting(&self) -> u64 {
        self.tags.len() as u64
    }

    /// How long ago the oldest tag was dropped that asks for this package.
    pub(crate) fn asked_for_since(&self, package: &PackageId, now: Moment) -> Option<Duration> {
        self.tags.values().filter(|tag| tag.left.contains(package)).map(|tag| tag.age(now)).max()
    }

    /// Whether this very tag has been read already.
    pub(crate) fn knows(&self, name: &std::ffi::OsStr, stamp: TagStamp) -> bool {
        self.tags.get(name).is_some_and(|known| known.stamp == stamp)
    }

    fn ask_for_sync(&mut self, ticket: Option<Ticket>, allow_delete: bool, now: Moment) {
        match &mut self.sync {
            SyncLane::Resting { due, asked } => {
                *due = now;
                asked.add(ticket, allow_delete);
            }
            SyncLane::Running { again, .. } => again.get_or_insert_default().add(ticket, allow_delete),
        }
    }

    fn end_sync(&mut self, report: SyncReport, problem: Option<Problem>, now: Moment, chance: f64) -> Option<Action> {
        let SyncLane::Running { since, tickets, again } = &mut self.sync else { return None };
        let (since, tickets, again) = (*since, std::mem::take(tickets), again.take());
        self.sync_failures = if problem.is_some() { self.sync_failures.saturating_add(1) } else { 0 };
        let mut due = since.saturating_add(self.pace.sync).max(now);
        self.sync_failure = problem.map(|problem| {
            let retry_at = now + problem.retry.wait(self.sync_failures, chance);
            due = due.min(retry_at);
            Failure { at: now, package: problem.package, text: problem.text, retry_at: due }
        });
        self.last_sync = Some(report.clone());
        self.sync = match again {
            Some(asked) => SyncLane::Resting { due: now, asked },
            None => SyncLane::Resting { due, asked: Asked::default() },
        };
        Some(Action::Answer(tickets, report, self.sync_failure.clone()))
    }

    /// Whoever waits for the sync that ended early waits for the next one. What was confirmed for it, nobody has confirmed for that.
    fn hand_on_sync(&mut self, now: Moment) {
        let SyncLane::Running { tickets, again, .. } = &mut self.sync else { return };
        let (mut tickets, again) = (std::mem::take(tickets), again.take().unwrap_or_default());
        tickets.extend(again.tickets);
        self.sync = SyncLane::Resting { due: now, asked: Asked { tickets, allow_delete: again.allow_delete } };
    }

    /// A sync by the new settings is due. What was confirmed before, was confirmed for the former ones; and what is sent elsewhere is not
    /// where its tags want it now, so that they are dealt with again.
    fn follow_other_settings(&mut self, is_elsewhere: bool, now: Moment) {
        match &mut self.sync {
            SyncLane::Resting { asked, .. } => asked.allow_delete = false,
            SyncLane::Running { again, .. } => again.iter_mut().for_each(|asked| asked.allow_delete = false),
        }
        if let SendLane::Busy(busy) = &mut self.send
            && is_elsewhere
        {
            busy.clear();
        }
        self.ask_for_sync(None, false, now);
    }

    fn take_tags(&mut self, found: Vec<Tag>, now: Moment) {
        let mut former = std::mem::take(&mut self.tags);
        for tag in found {
            let known = former.remove(&tag.name).filter(|known| known.stamp == tag.stamp);
            let fresh = || {
                let Tag { stamp, age, packages, .. } = &tag;
                let left = packages.clone()?;
                Some(Known { stamp: *stamp, read_at: now, age: *age, left, failures: 0, not_before: now })
            };
            // A tag that was not read again and is not known either will be read at the next look.
            if let Some(known) = known.or_else(fresh) {
                self.tags.insert(tag.name, known);
            }
        }
        self.forget_healed_failure();
    }

    fn settle_tags(&mut self, results: &[(PackageId, Sent)], now: Moment, chance: f64) -> Vec<Action> {
        let busy = match std::mem::replace(&mut self.send, SendLane::Free) {
            SendLane::Busy(busy) => busy,
            SendLane::Free => return Vec::new(),
        };
        let mut actions = Vec::new();
        for (name, stamp) in busy {
            let Some(tag) = self.tags.get_mut(&name).filter(|tag| tag.stamp == stamp) else { continue };
            match tag.settle(results, now, self.pace.tag_poll, chance) {
                Settled::Published => {
                    self.tags.remove(&name);
                    actions.push(Action::Consume(name, stamp));
                }
                Settled::Hopeless(why) => {
                    self.tags.remove(&name);
                    actions.push(Action::SetAside(name, why));
                }
                Settled::Later(failure) => self.tag_failure = Some(failure),
                Settled::MoreToSend => {}
            }
        }
        self.forget_healed_failure();
        // What was dropped again under the same name is read now.
        self.next_look = now;
        actions
    }

    /// A failure of tags stands as long as some tag that failed is left.
    fn forget_healed_failure(&mut self) {
        if self.tags.values().all(|tag| tag.failures == 0) {
            self.tag_failure = None;
        }
    }

    fn begin_what_is_due(&mut self, now: Moment) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.next_look <= now {
            self.next_look = now + self.pace.tag_poll.max(Duration::from_millis(100));
            actions.push(Action::LookAtTags);
        }
        if let SyncLane::Resting { due, asked } = &mut self.sync
            && *due <= now
        {
            let Asked { tickets, allow_delete } = std::mem::take(asked);
            self.sync = SyncLane::Running { since: now, tickets, again: None };
            actions.push(Action::Sync { allow_delete });
        }
        if matches!(self.send, SendLane::Free) {
            let (busy, packages) = self.due_packages(now);
            if !packages.is_empty() {
                self.send = SendLane::Busy(busy);
                actions.push(Action::Send(packages));
            }
        }
        actions
    }

    /// Tags that failed least go first, so that one bad tag never holds up the good ones.
    fn due_packages(&self, now: Moment) -> (BTreeMap<OsString, TagStamp>, BTreeSet<PackageId>) {
        let mut due: Vec<(&OsString, &Known)> = self.tags.iter().filter(|(_, tag)| tag.not_before <= now).collect();
        due.sort_by_key(|(_, tag)| tag.failures);
        let mut busy = BTreeMap::new();
        let mut packages = BTreeSet::new();
        for (name, tag) in due {
            if packages.len() >= AT_ONCE {
                break;
            }
            packages.extend(tag.left.iter().take(AT_ONCE).cloned());
            busy.insert(name.clone(), tag.stamp);
        }
        (busy, packages)
    }
}

#[cfg(test)]
mod tests;
