//! What the thread knows of the directory between two jobs.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blat_domain::retry::Backoff;
use blat_domain::tag::FAILED;
use rustix::process::geteuid;
use tokio::sync::Notify;

use super::aside::{self, Refusal};
use super::first_seen::FirstSeen;
use super::handle::Handle;
use super::leaving::Taken;
use super::names::shown;
use crate::session::{Found, Leave, Look, Removal, Removed, TagStamp};
use crate::watching::{DirectoryWatch, Heard};

/// After a look that took so long the session is answered in any case: it may have reported that the directory hangs.
const LONG: Duration = Duration::from_secs(5);

/// One target's tag directory, as far as it is known.
pub(super) struct Worker {
    pub(super) path: PathBuf,
    /// The directory that was there last.
    opened: Option<Handle>,
    pub(super) hint: Arc<Notify>,
    pub(super) watch: DirectoryWatch,
    /// Tags that the session knows.
    pub(super) reported: HashMap<OsString, Reported>,
    /// The last that notifications said of files.
    pub(super) heard: HashMap<OsString, Heard>,
    /// Since when a file has not changed.
    pub(super) quiet: HashMap<OsString, (TagStamp, Instant)>,
    /// Files that the agent itself moved back: that a notification says so means nothing.
    pub(super) returned: HashSet<OsString>,
    /// Files that are no tags, and why.
    pub(super) no_tags: HashMap<OsString, (TagStamp, String)>,
    /// Files that can be neither read nor moved.
    pub(super) refused: HashMap<OsString, Tries>,
    /// The same of `bad/` as a whole, and of the directory.
    pub(super) bad: Option<Tries>,
    pub(super) lost: Option<Tries>,
    /// Tags under hidden names.
    pub(super) taken: Vec<Taken>,
    pub(super) number: u64,
    pub(super) first_seen: FirstSeen,
    /// What the session wants of looks, of which it has used some of the room.
    pub(super) ask: Look,
    /// When the directory is looked at without being asked to, and what was found last.
    pub(super) next_look: Option<Instant>,
    pub(super) told: Option<u64>,
    /// The directory in which leftovers of a former agent were looked for.
    pub(super) tidied: Option<(u64, u64)>,
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
pub(super) struct Tries {
    pub(super) text: String,
    failures: u32,
    due: Instant,
}

impl Tries {
    /// One more failure after those before.
    pub(super) fn after(before: Option<&Self>, text: String, now: Instant) -> Self {
        let failures = before.map_or(0, |tries| tries.failures).saturating_add(1);
        // Half of the chance is none: what one agent does in its own directory needs no spreading.
        Self { text, failures, due: now + Backoff::TAG.wait(failures, 0.5) }
    }

    /// The time until it is tried again; none when that is now.
    pub(super) fn rest(&self, now: Instant) -> Option<Duration> {
        Some(self.due.saturating_duration_since(now)).filter(|rest| !rest.is_zero())
    }
}

impl Worker {
    pub(super) fn new(path: PathBuf, hint: Arc<Notify>, first_seen: FirstSeen) -> Self {
        Self {
            path,
            opened: None,
            watch: DirectoryWatch::new(hint.clone()),
            hint,
            reported: HashMap::new(),
            heard: HashMap::new(),
            quiet: HashMap::new(),
            returned: HashSet::new(),
            no_tags: HashMap::new(),
            refused: HashMap::new(),
            bad: None,
            lost: None,
            taken: Vec::new(),
            number: 0,
            first_seen,
            ask: Look::default(),
            next_look: None,
            told: None,
            tidied: None,
        }
    }

    /// The directory that is at the path now. It is opened once, since each opening is told to all who watch it.
    pub(super) fn open(&mut self) -> io::Result<Handle> {
        match &self.opened {
            Some(opened) if opened.is_in_place()? => opened.again(),
            Some(_) | None => {
                let opened = Handle::open(&self.path)?;
                self.opened = Some(opened.again()?);
                Ok(opened)
            }
        }
    }

    /// The time until [`Self::do_what_is_due`] has something to do, if it will have.
    pub(super) fn due_in(&self) -> Option<Duration> {
        let taken = self.taken.iter().map(|taken| taken.due).min();
        let due = taken.into_iter().chain(self.first_seen.due()).chain(self.next_look).min()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    /// Does what its time has come for. Gives what a look has found that the session does not know.
    pub(super) fn do_what_is_due(&mut self) -> Option<Found> {
        let now = Instant::now();
        self.settle_taken(now);
        if self.first_seen.due().is_some_and(|due| due <= now) {
            self.first_seen.write();
        }
        if self.next_look.is_none_or(|due| due > now) {
            return None;
        }
        let (told, ask) = (self.told, Look { turn: BTreeSet::new(), ..self.ask.clone() });
        let found = self.look(&ask);
        let is_news = self.told.is_none() || self.told != told || now.elapsed() >= LONG;
        is_news.then_some(found)
    }

    /// Before the thread ends.
    pub(super) fn end(&mut self) {
        self.delete_whole_ones();
        self.first_seen.write();
    }

    /// Removes tags from the directory. What cannot be removed costs one line of the log, however many tags it concerns.
    pub(super) fn remove(&mut self, removals: Vec<Removal>) -> Vec<(OsString, TagStamp, Removed)> {
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
        match stuck {
            (1, Some(why)) => tracing::warn!("{why}"),
            (count, Some(why)) => tracing::warn!("{count} tags stay; the first: {why}"),
            (_, None) => {}
        }
        results
    }

    fn remove_one(&mut self, tags: &Handle, name: &OsStr, stamp: TagStamp, how: &Leave) -> Removed {
        let why = match how {
            Leave::Consumed => {
                return self.take_away(tags, name, stamp).unwrap_or_else(|error| {
                    let (name, uid) = (shown(name), geteuid().as_raw());
                    let sticky = if tags.is_sticky() { " and take its sticky bit away" } else { "" };
                    Removed::Stuck(format!(
                        "cannot remove the tag \"{name}\" from {tags}, though its packages are published: {error}; give the account \
                         {uid} write permission on {tags}{sticky}, or remove the tag yourself"
                    ))
                });
            }
            Leave::Failed(why) => why,
        };
        match aside::set_aside(tags, name, stamp, FAILED, why) {
            Ok(kept) => {
                tracing::warn!(tag = shown(name), kept = shown(&kept), "moved to {FAILED}/: {why}");
                Removed::Gone
            }
            Err(Refusal::Changed) => Removed::Changed,
            Err(Refusal::Place(text) | Refusal::File(text)) => Removed::Stuck(format!("{text}. The tag failed: {why}")),
        }
    }

    /// Why the directory cannot be used, and what to do.
    pub(super) fn cannot_open(&self, error: &io::Error) -> String {
        let (path, uid) = (shown(self.path.as_os_str()), geteuid().as_raw());
        format!(
            "cannot look at the tag directory {path}: {error}; the account {uid} needs read, write and search permission on it"
        )
    }
}

/// For what never happens.
pub(super) fn bug(what: &str, name: &OsStr) -> String {
    format!(
        "{what} the tag \"{}\" failed within the agent; report this as a bug, with the log, and remove the tag",
        shown(name)
    )
}
