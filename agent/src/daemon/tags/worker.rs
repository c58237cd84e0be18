//! What the thread knows of the directory between two jobs.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blat_domain::package::tag::FAILED;
use blat_domain::policy::retry::Backoff;
use blat_domain::protocol::news::Heard;
use rustix::process::geteuid;

use super::aside::{self, AsideError};
use super::complaint::{ComplaintKind, INTERVAL, TagComplaints};
use super::first_seen::FirstSeen;
use super::handle::Handle;
use super::leaving::{Hidden, TakenTag, Tidied};
use super::names::shown;
use super::turns::Turns;
use crate::daemon::watcher::DirectoryWatch;
use crate::session::{FoundTags, Leave, LookLimits, Name, Removal, Removed, TagStamp};

/// After a look that took so long the session is answered in any case: it may have reported that the directory hangs.
const LONG: Duration = Duration::from_secs(5);
/// A look that takes longer than this is followed by a rest.
const QUICK: Duration = Duration::from_millis(20);
/// So many times what the look took, and so long at most: whoever fills the directory gets a fourth of one processor.
const REST: u32 = 3;
const LONGEST_REST: Duration = Duration::from_secs(10);
/// The rest after a look that found another directory than the last, or none.
const REST_AFTER_CHANGE: Duration = Duration::from_millis(500);
/// The memory that all which is known of tags takes together, in bytes, beside the packages of large ones.
const ROOM: usize = 16 << 20;
/// A directory that is exchanged so often within [`INTERVAL`] is reported.
const OFTEN: usize = 5;

/// One target's tag directory, as far as it is known.
pub(super) struct Worker {
    pub(super) path: PathBuf,
    /// The directory that was there last, and when another one took its place.
    opened: Option<Handle>,
    exchanged: VecDeque<Instant>,
    pub(super) watch: Arc<DirectoryWatch>,
    /// Tags that the session knows.
    pub(super) reported: HashMap<Name, Reported>,
    /// The last that notifications said of files.
    pub(super) heard: HashMap<Name, Heard>,
    /// Since when a file has not changed.
    pub(super) quiet: HashMap<Name, (TagStamp, Instant)>,
    /// Files that the agent itself moved back: that a notification says so means nothing.
    pub(super) returned: HashSet<Name>,
    /// Files that are no tags, and why.
    pub(super) no_tags: HashMap<Name, (TagStamp, String)>,
    /// Files that can be neither read nor moved.
    pub(super) refused: HashMap<Name, RepeatedFailure>,
    /// The same of `bad/` as a whole, and of the directory.
    pub(super) bad: Option<RepeatedFailure>,
    pub(super) lost: Option<RepeatedFailure>,
    /// What was said of too many files in the directory.
    pub(super) crowd: Option<String>,
    /// The hidden directories, and the tags in them.
    pub(super) hidden: Vec<Rc<Hidden>>,
    pub(super) taken: Vec<TakenTag>,
    pub(super) first_seen: FirstSeen,
    pub(super) turns: Turns,
    pub(super) complaints: TagComplaints,
    /// What the session wants of looks, of which it has used some of the room.
    pub(super) ask: LookLimits,
    /// When the directory is looked at without being asked to, and what was found last.
    pub(super) next_look: Option<Instant>,
    pub(super) told: Option<u64>,
    /// The directory is not looked at before then, and the look that was asked for meanwhile.
    rests_until: Option<Instant>,
    asked: Option<LookLimits>,
    pub(super) tidied: Option<Tidied>,
}

/// A tag that the session knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reported {
    pub(super) stamp: TagStamp,
    /// Whether a notification said that it was closed or moved in.
    pub(super) is_whole: bool,
}

/// Something that fails each time, and is tried less and less often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RepeatedFailure {
    pub(super) text: String,
    failures: u32,
    due: Instant,
}

impl RepeatedFailure {
    /// One more failure after those before.
    pub(super) fn after(before: Option<&Self>, text: String, now: Instant) -> Self {
        let failures = before.map_or(0, |failure| failure.failures).saturating_add(1);
        // Half of the chance is none: what one agent does in its own directory needs no spreading.
        Self { text, failures, due: now + Backoff::TAG.wait(failures, 0.5) }
    }

    /// The time until it is tried again; none when that is now.
    pub(super) fn rest(&self, now: Instant) -> Option<Duration> {
        Some(self.due.saturating_duration_since(now)).filter(|rest| !rest.is_zero())
    }
}

impl Worker {
    pub(super) fn new(path: PathBuf, watch: Arc<DirectoryWatch>, first_seen: FirstSeen) -> Self {
        Self {
            path,
            opened: None,
            exchanged: VecDeque::new(),
            watch,
            reported: HashMap::new(),
            heard: HashMap::new(),
            quiet: HashMap::new(),
            returned: HashSet::new(),
            no_tags: HashMap::new(),
            refused: HashMap::new(),
            bad: None,
            lost: None,
            crowd: None,
            hidden: Vec::new(),
            taken: Vec::new(),
            first_seen,
            turns: Turns::new(ROOM),
            complaints: TagComplaints::default(),
            ask: LookLimits::default(),
            next_look: None,
            told: None,
            rests_until: None,
            asked: None,
            tidied: None,
        }
    }

    /// The directory that is at the path now. It is opened once, since each opening is told to all who watch it.
    pub(super) fn open(&mut self) -> io::Result<Handle> {
        match &self.opened {
            Some(opened) if opened.is_in_place()? => opened.again(),
            Some(_) | None => {
                let opened = Handle::open(&self.path)?;
                if self.opened.is_some() {
                    self.exchanged.truncate(OFTEN - 1);
                    self.exchanged.push_front(Instant::now());
                }
                self.opened = Some(opened.again()?);
                Ok(opened)
            }
        }
    }

    /// Says so where the directory is another one again and again.
    pub(super) fn unsteadiness(&self, now: Instant) -> Option<String> {
        let is_recent = |at: &&Instant| now.saturating_duration_since(**at) < INTERVAL;
        (self.exchanged.iter().filter(is_recent).count() >= OFTEN).then(|| {
            let (path, seconds) = (shown(self.path.as_os_str()), INTERVAL.as_secs());
            format!(
                "the tag directory {path} was exchanged for another one {OFTEN} times within {seconds} s; find out who renames it: the \
                 accounts that may write to the directories on the way to it can"
            )
        })
    }

    /// After a look that began then: the next one waits where this one was costly, or where the directory is unsteady.
    pub(super) fn rest_after(&mut self, began: Instant, is_unsteady: bool) {
        let took = began.elapsed();
        let costly = if took > QUICK { took.saturating_mul(REST).min(LONGEST_REST) } else { Duration::ZERO };
        let rest = if is_unsteady { costly.max(REST_AFTER_CHANGE) } else { costly };
        self.rests_until = Some(Instant::now() + rest).filter(|_| !rest.is_zero());
        self.next_look = self.next_look.map(|next| self.rests_until.map_or(next, |until| next.max(until)));
    }

    /// When something took the directory's place last, if anything did.
    pub(super) fn exchanged_at(&self) -> Option<Instant> {
        self.exchanged.front().copied()
    }

    /// Looks as the session wants; none where the directory has to be left alone for a while, after which [`Self::do_what_is_due`] does it.
    pub(super) fn look_for(&mut self, look: LookLimits) -> Option<FoundTags> {
        if self.rests_until.is_some_and(|until| until > Instant::now()) {
            self.asked = Some(look);
            return None;
        }
        self.asked = None;
        Some(self.look(&look))
    }

    /// The time until [`Self::do_what_is_due`] has something to do, if it will have.
    pub(super) fn due_in(&self) -> Option<Duration> {
        let taken = self.taken.iter().map(|taken| taken.due).min();
        let asked = self.rests_until.filter(|_| self.asked.is_some());
        let due = [taken, asked, self.first_seen.due(), self.complaints.due(), self.next_look];
        Some(due.into_iter().flatten().min()?.saturating_duration_since(Instant::now()))
    }

    /// Does what its time has come for. Gives what a look has found that the session wants or does not know.
    pub(super) fn do_what_is_due(&mut self) -> Option<FoundTags> {
        let now = Instant::now();
        self.settle_taken(now);
        self.remove_unused();
        self.complaints.flush(now);
        if self.first_seen.due().is_some_and(|due| due <= now) {
            self.first_seen.write();
        }
        if let Some(asked) = self.asked.take() {
            return self.look_for(asked);
        }
        if self.next_look.is_none_or(|due| due > now) {
            return None;
        }
        let (told, ask) = (self.told, LookLimits { turn: BTreeSet::new(), ..self.ask.clone() });
        let found = self.look(&ask);
        let is_news = self.told.is_none() || self.told != told || now.elapsed() >= LONG;
        is_news.then_some(found)
    }

    /// Before the thread ends.
    pub(super) fn end(&mut self) {
        self.delete_whole_ones();
        self.first_seen.write();
        self.complaints.flush(Instant::now() + INTERVAL);
    }

    /// Removes tags from the directory. What cannot be removed costs one line of the log, however many tags it concerns.
    pub(super) fn remove(&mut self, removals: Vec<Removal>) -> Vec<(Name, TagStamp, Removed)> {
        let opened = self.open().map_err(|error| self.cannot_open(&error));
        let mut stuck = (0, None);
        let mut results = Vec::with_capacity(removals.len());
        for Removal { name, stamp, how } in removals {
            let removed = match &opened {
                Err(why) => Removed::Stuck(why.clone()),
                Ok(tags) => catch_unwind(AssertUnwindSafe(|| self.remove_one(tags, &name, stamp, &how)))
                    .unwrap_or_else(|_| Removed::Stuck(bug("removing", &name))),
            };
            match &removed {
                Removed::Gone => {
                    self.reported.remove(&name);
                    self.first_seen.forget(stamp);
                }
                Removed::Changed => {}
                Removed::Stuck(why) => {
                    stuck.0 += 1;
                    stuck.1.get_or_insert_with(|| why.clone());
                }
            }
            results.push((name, stamp, removed));
        }
        let text =
            stuck.1.map(|why| if stuck.0 == 1 { why } else { format!("{} tags stay; the first: {why}", stuck.0) });
        if let Some(text) = text {
            self.complaints.say(ComplaintKind::Removal, Instant::now(), &text);
        }
        self.remove_unused();
        results
    }

    fn remove_one(&mut self, tags: &Handle, name: &OsStr, stamp: TagStamp, how: &Leave) -> Removed {
        let why = match how {
            Leave::Consumed => {
                return self
                    .take_away(tags, name, stamp)
                    .unwrap_or_else(|error| Removed::Stuck(cannot_remove(tags, name, &error)));
            }
            Leave::Failed(why) => why,
        };
        match self.set_aside(tags, (name, stamp), FAILED, why) {
            Ok(()) => Removed::Gone,
            Err(AsideError::Changed) => Removed::Changed,
            Err(AsideError::Place(text) | AsideError::File(text)) => {
                Removed::Stuck(format!("{text}. The tag failed: {why}"))
            }
        }
    }

    /// Moves a file to `bad/` or `failed/` for this reason.
    pub(super) fn set_aside(
        &mut self,
        tags: &Handle,
        (name, stamp): (&OsStr, TagStamp),
        into: &str,
        why: &str,
    ) -> Result<(), AsideError> {
        // A place that is refused is reported for what it is, also where nothing can be made.
        aside::place(tags, into).map_err(AsideError::Place)?;
        let hidden = self.hidden(tags, 0).map_err(|error| aside::cannot_move(tags, name, None, into, &error))?;
        let kept = aside::set_aside(tags, &hidden.handle, (name, stamp), into, why)?;
        let text = format!("the tag file \"{}\" is now {into}/{}: {why}", shown(name), shown(&kept));
        self.complaints.say(ComplaintKind::Moved, Instant::now(), &text);
        Ok(())
    }

    /// Why the directory cannot be used, and what to do.
    pub(super) fn cannot_open(&self, error: &io::Error) -> String {
        let (path, uid) = (shown(self.path.as_os_str()), geteuid().as_raw());
        format!(
            "cannot look at the tag directory {path}: {error}; the account {uid} needs read, write and search permission on it"
        )
    }
}

/// Why a served tag stays, and what to do.
fn cannot_remove(tags: &Handle, name: &OsStr, error: &io::Error) -> String {
    let (name, uid) = (shown(name), geteuid().as_raw());
    let what = format!("cannot remove the tag \"{name}\" from {tags}, though its packages are published: {error}");
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            let sticky = if tags.is_sticky() { " and take its sticky bit away" } else { "" };
            format!("{what}; give the account {uid} write permission on {tags}{sticky}, or remove the tag yourself")
        }
        _ => format!("{what}; remove the tag yourself"),
    }
}

/// For what never happens.
pub(super) fn bug(what: &str, name: &OsStr) -> String {
    format!(
        "{what} the tag \"{}\" failed within the agent; report this as a bug, with the log, and remove the tag",
        shown(name)
    )
}
