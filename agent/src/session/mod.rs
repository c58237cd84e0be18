//! What an agent decides: one event in, actions out. No I/O, no clock, no chance of its own.
//!
//! Two lanes run side by side: full syncs, and tagged packages, which never wait behind a sync. Each lane does one thing
//! at a time. A notification only makes the session look at the directory; what it acts on is what lies there.

mod known;
mod pass;
mod tags;

use std::collections::BTreeSet;
use std::time::Duration;

use blat_domain::package::name::PackageId;
use blat_domain::policy::confirmation::HeldBack;
use blat_domain::policy::retry::Backoff;
use blat_domain::protocol::messages::Ticket;
use blat_domain::protocol::status::{State, SyncReport};

use self::tags::TagLane;
pub(crate) use self::tags::{FoundTags, Leave, LookLimits, Name, Removal, Removed, Tag, TagStamp};
use crate::model::problem::Problem;

/// Time since the start of the process.
pub(crate) type Moment = Duration;

/// What happens to an agent.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// Time passed.
    Ticked,
    /// Something may have changed in the tag directory.
    TagsHinted,
    /// The tag directory was looked at.
    TagsFound(FoundTags),
    /// What was to be done in the tag directory takes too long, since then, and will be asked about again at `retry_at`.
    TagsHang { since: Moment, retry_at: Moment },
    /// Tags were removed from it, or could not be.
    TagsRemoved(Vec<(Name, TagStamp, Removed)>),
    /// Somebody wants a full sync; `confirmed`: and lets it take away what was held back at that moment.
    SyncAsked { ticket: Option<Ticket>, confirmed: Option<HeldBack> },
    /// A full sync ended.
    SyncEnded(Box<SyncReport>, Option<Problem>),
    /// A full sync ended early, since other settings came into force: the one that follows takes over.
    SyncSuperseded,
    /// Tagged packages were dealt with.
    TagsSent(Vec<(PackageId, Sent)>),
    /// Other settings came into force. `is_elsewhere`: what is being sent for tags does not go where it would go now.
    Reloaded { pace: Pace, is_elsewhere: bool },
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
    LookAtTags(LookLimits),
    /// Run a full sync, which may take away what was held back where that is confirmed; answer with [`Event::SyncEnded`].
    Sync { confirmed: Option<HeldBack> },
    /// Send these packages; answer with [`Event::TagsSent`].
    Send(BTreeSet<PackageId>),
    /// Remove these tags from the directory; answer with [`Event::TagsRemoved`].
    RemoveTags(Vec<Removal>),
    /// Tell those who hold these tickets how their sync went.
    Answer(Vec<Ticket>, Box<SyncReport>, Option<Failure>),
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
    Resting { due: Moment, asked: PendingSync },
    /// One runs since `since` for those with `tickets`; `again` is what was asked after it had begun.
    Running { since: Moment, tickets: Vec<Ticket>, again: Option<PendingSync> },
}

/// What a sync that has not begun is to be, from all who asked for it.
#[derive(Debug, Default)]
struct PendingSync {
    tickets: Vec<Ticket>,
    /// The newest confirmation.
    confirmed: Option<HeldBack>,
}

impl PendingSync {
    fn add(&mut self, ticket: Option<Ticket>, confirmed: Option<HeldBack>) {
        self.tickets.extend(ticket);
        self.confirmed = confirmed.or(self.confirmed.take());
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
    tags: TagLane,
}

impl Session {
    /// A session that begins with a look at the tags and a full sync.
    pub(crate) fn new(pace: Pace) -> Self {
        Self {
            pace,
            sync: SyncLane::Resting { due: Moment::ZERO, asked: PendingSync::default() },
            sync_failures: 0,
            sync_failure: None,
            last_sync: None,
            tags: TagLane::new(),
        }
    }

    /// Takes in one event. `chance` is uniform in 0..1 and spreads retries.
    pub(crate) fn step(&mut self, event: Event, now: Moment, chance: f64) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Ticked => {}
            Event::TagsHinted => self.tags.next_look = now,
            Event::TagsFound(found) => self.tags.take(found, now),
            Event::TagsHang { since, retry_at } => self.tags.hang(since, retry_at, now),
            Event::TagsRemoved(results) => self.tags.settle_removals(results, now, chance),
            Event::SyncAsked { ticket, confirmed } => self.ask_for_sync(ticket, confirmed, now),
            Event::SyncEnded(report, problem) => actions.extend(self.end_sync(*report, problem, now, chance)),
            Event::SyncSuperseded => self.hand_on_sync(now),
            Event::TagsSent(results) => self.tags.settle(&results, now, self.pace.tag_poll, chance),
            Event::Reloaded { pace, is_elsewhere } => {
                self.pace = pace;
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
        sync.min(self.tags.deadline())
    }

    /// What the agent is doing, in one word.
    pub(crate) fn state(&self) -> State {
        match &self.sync {
            SyncLane::Running { .. } => State::Syncing,
            SyncLane::Resting { .. } if self.tags.is_sending() => State::Sending,
            SyncLane::Resting { .. } if self.failure().is_some() => State::Waiting,
            SyncLane::Resting { .. } => State::Idle,
        }
    }

    /// The latest failure that still stands.
    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.sync_failure.iter().chain(self.tags.failures()).max_by_key(|failure| failure.at)
    }

    /// How the last full sync went.
    pub(crate) fn last_sync(&self) -> Option<&SyncReport> {
        self.last_sync.as_ref()
    }

    /// How many tags wait.
    pub(crate) fn tags_waiting(&self) -> u64 {
        self.tags.count()
    }

    /// How long ago the oldest tag was dropped for which this package is being sent.
    pub(crate) fn asked_for_since(&self, package: &PackageId, now: Moment) -> Option<Duration> {
        self.tags.asked_for_since(package, now)
    }

    fn ask_for_sync(&mut self, ticket: Option<Ticket>, confirmed: Option<HeldBack>, now: Moment) {
        match &mut self.sync {
            SyncLane::Resting { due, asked } => {
                *due = now;
                asked.add(ticket, confirmed);
            }
            SyncLane::Running { again, .. } => again.get_or_insert_default().add(ticket, confirmed),
        }
    }

    fn end_sync(&mut self, report: SyncReport, problem: Option<Problem>, now: Moment, chance: f64) -> Option<Action> {
        let SyncLane::Running { since, tickets, again } = &mut self.sync else { return None };
        let (since, tickets, again) = (*since, std::mem::take(tickets), again.take());
        self.sync_failures = if problem.is_some() { self.sync_failures.saturating_add(1) } else { 0 };
        let mut due = since.saturating_add(self.pace.sync).max(now);
        self.sync_failure = problem.map(|problem| {
            let retry_at = now + problem.retry.wait(self.sync_failures, chance);
            // A sync that takes longer than the time between two of them must not fail over and over without a pause.
            let soonest = now + Backoff::LINK.wait(self.sync_failures, chance);
            due = due.max(soonest).min(retry_at);
            Failure { at: now, package: problem.package, text: problem.text, retry_at: due }
        });
        self.last_sync = Some(report.clone());
        self.sync = match again {
            Some(asked) => SyncLane::Resting { due: now, asked },
            None => SyncLane::Resting { due, asked: PendingSync::default() },
        };
        Some(Action::Answer(tickets, Box::new(report), self.sync_failure.clone()))
    }

    /// Whoever waits for the sync that ended early waits for the next one. What was confirmed for it, nobody has confirmed for that.
    fn hand_on_sync(&mut self, now: Moment) {
        let SyncLane::Running { tickets, again, .. } = &mut self.sync else { return };
        let (mut tickets, again) = (std::mem::take(tickets), again.take().unwrap_or_default());
        tickets.extend(again.tickets);
        self.sync = SyncLane::Resting { due: now, asked: PendingSync { tickets, confirmed: again.confirmed } };
    }

    /// A sync by the new settings is due. What was confirmed before, was confirmed for the former ones; and what is sent elsewhere is not
    /// where its tags want it now, so that they are dealt with again.
    fn follow_other_settings(&mut self, is_elsewhere: bool, now: Moment) {
        match &mut self.sync {
            SyncLane::Resting { asked, .. } => asked.confirmed = None,
            SyncLane::Running { again, .. } => again.iter_mut().for_each(|asked| asked.confirmed = None),
        }
        self.tags.follow_other_settings(is_elsewhere, now);
        self.ask_for_sync(None, None, now);
    }

    fn begin_what_is_due(&mut self, now: Moment) -> Vec<Action> {
        let mut actions = Vec::new();
        actions.extend(self.tags.look(now, self.pace.tag_poll).map(Action::LookAtTags));
        if let SyncLane::Resting { due, asked } = &mut self.sync
            && *due <= now
        {
            let PendingSync { tickets, confirmed } = std::mem::take(asked);
            self.sync = SyncLane::Running { since: now, tickets, again: None };
            actions.push(Action::Sync { confirmed });
        }
        let removals = self.tags.removals(now);
        if !removals.is_empty() {
            actions.push(Action::RemoveTags(removals));
        }
        actions.extend(self.tags.send(now).map(Action::Send));
        actions
    }
}

#[cfg(test)]
mod tests;
