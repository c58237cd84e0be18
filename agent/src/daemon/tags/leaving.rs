//! A tag that is served leaves the directory in two steps, so that nothing is lost that somebody writes into it meanwhile: it moves to a
//! hidden directory and is compared with what was read, and it is deleted only when it has not changed for a while after that. One that has
//! changed moves back and is read again. What an agent that was killed left in hidden directories moves back at the next start.
//!
//! The hidden directories belong to the agent's account and nobody else may enter them, so that what lies there was put there by an agent:
//! files that somebody else calls so mean nothing. Their names cannot be guessed, so that nobody takes one beforehand.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::time::{Duration, Instant};

use blat_config::home_id::random;
use rustix::process::geteuid;

use super::complaint::ComplaintKind;
use super::handle::{EntryStat, Handle};
use super::names::{beside, is_served, served, shown, unfinished};
use super::worker::{RepeatedFailure, Worker};
use crate::session::{Removed, TagStamp};

/// How long a tag stays in a hidden directory that was closed before it was read.
const LINGERS: Duration = Duration::from_secs(2);
/// The same of one that polling found: whoever wrote it may not have closed it, and write again after a pause.
const LINGERS_LONGER: Duration = Duration::from_secs(30);
/// Hidden directories that are used at a time: more than one only holds tags of the same name.
const MOST_HIDDEN: usize = 16;
/// Names that are tried for one tag that moves back.
const MOST_NAMES: u32 = 100;
/// Tags of a former agent that are moved back at a time.
const MOST_LEFTOVERS: usize = 10_000;
/// Directories are looked through for what a former agent left no more often than this, where another one takes the place of the last.
const LEFTOVERS_EVERY: Duration = Duration::from_secs(10);

/// A hidden directory of the agent's own.
#[derive(Debug)]
pub(super) struct Hidden {
    /// The tag directory in which it is, and its name there.
    tags: Handle,
    name: OsString,
    pub(super) handle: Handle,
}

/// A tag in a hidden directory.
#[derive(Debug)]
pub(super) struct TakenTag {
    hidden: Rc<Hidden>,
    name: OsString,
    /// How it was when it had got there; none where it has to move back in any case.
    as_taken: Option<EntryStat>,
    /// Whether it was closed before it was read.
    is_whole: bool,
    pub(super) due: Instant,
    failure: Option<RepeatedFailure>,
}

/// The tag directory in which leftovers of a former agent were looked for last, when, and whether all were found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tidied {
    directory: (u64, u64),
    at: Instant,
    is_done: bool,
}

impl Worker {
    /// Takes a tag away whose packages are all published.
    pub(super) fn take_away(&mut self, tags: &Handle, name: &OsStr, stamp: TagStamp) -> io::Result<Removed> {
        let Some(seen) = tags.see(name)? else { return Ok(Removed::Gone) };
        if seen.stamp != stamp {
            return Ok(Removed::Changed);
        }
        let Some(hidden) = self.hide(tags, name)? else { return Ok(Removed::Gone) };
        let now = hidden.handle.see(name)?;
        let as_taken = now.filter(|now| now.is_same_content(&seen));
        let is_whole = self.reported.get(name).is_some_and(|tag| tag.stamp == stamp && tag.is_whole);
        let due = Instant::now() + if is_whole { LINGERS } else { LINGERS_LONGER };
        let mut taken = TakenTag { hidden, name: name.to_owned(), as_taken, is_whole, due, failure: None };
        if as_taken.is_some() || !self.put_back(&taken)? {
            if as_taken.is_none() {
                taken.due = Instant::now();
            }
            self.taken.push(taken);
        }
        Ok(if as_taken.is_some() { Removed::Gone } else { Removed::Changed })
    }

    /// Moves a tag to a hidden directory; none where it is gone.
    fn hide(&mut self, tags: &Handle, name: &OsStr) -> io::Result<Option<Rc<Hidden>>> {
        for number in 0..MOST_HIDDEN {
            let hidden = self.hidden(tags, number)?;
            match tags.move_to_free(name, &hidden.handle, name) {
                Ok(()) => return Ok(Some(hidden)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("too many served tags of this name wait to be deleted"))
    }

    /// A hidden directory in this tag directory, counted from 0; it is made where there are not as many.
    pub(super) fn hidden(&mut self, tags: &Handle, number: usize) -> io::Result<Rc<Hidden>> {
        let here = |hidden: &&Rc<Hidden>| hidden.tags.id() == tags.id();
        if let Some(hidden) = self.hidden.iter().filter(here).nth(number) {
            return Ok(hidden.clone());
        }
        let name = served(random()?);
        let handle = tags.make(&name, 0o700)?;
        let hidden = Rc::new(Hidden { tags: tags.again()?, name, handle });
        self.hidden.push(hidden.clone());
        Ok(hidden)
    }

    /// Removes the hidden directories in which nothing lies.
    pub(super) fn remove_unused(&mut self) {
        let is_used = |hidden: &Rc<Hidden>| Rc::strong_count(hidden) > 1;
        let (used, unused) = std::mem::take(&mut self.hidden).into_iter().partition(is_used);
        self.hidden = used;
        for hidden in unused {
            // What was left in it moves back at the next start.
            if let Err(error) = hidden.tags.remove_directory(&hidden.name) {
                let text = format!("cannot remove the empty directory {}: {error}; remove it yourself", hidden.handle);
                self.complaints.say(ComplaintKind::Removal, Instant::now(), &text);
            }
        }
    }

    /// Moves a tag back. Where its name is taken again it gets another, unless its name is all that it says. Whether it moved.
    fn put_back(&mut self, taken: &TakenTag) -> io::Result<bool> {
        let Hidden { tags, handle, .. } = &*taken.hidden;
        let Some(seen) = handle.see(&taken.name)? else { return Ok(true) };
        let others = beside(&taken.name, MOST_NAMES).skip(1).filter(|_| seen.stamp.size > 0);
        for name in std::iter::once(taken.name.clone()).chain(others) {
            match handle.move_to_free(&taken.name, tags, &name) {
                Ok(()) => {
                    self.returned.insert(name.into());
                    self.watch.hint();
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Deletes what has stayed as it was for long enough, and moves back what has changed.
    pub(super) fn settle_taken(&mut self, now: Instant) {
        if self.taken.iter().all(|taken| taken.due > now) {
            return;
        }
        let (due, mut later): (Vec<TakenTag>, Vec<TakenTag>) =
            std::mem::take(&mut self.taken).into_iter().partition(|taken| taken.due <= now);
        for mut taken in due {
            match self.settle_one(&taken) {
                Ok(true) => {}
                Ok(false) => {
                    (taken.as_taken, taken.due) = (None, now + LINGERS_LONGER);
                    later.push(taken);
                }
                Err(error) => {
                    let (name, hidden) = (shown(&taken.name), &taken.hidden.handle);
                    let text = format!(
                        "cannot delete the served tag \"{name}\", now in {hidden}: {error}; delete it yourself"
                    );
                    let failure = RepeatedFailure::after(taken.failure.as_ref(), text, now);
                    self.complaints.say(ComplaintKind::Removal, now, &failure.text);
                    taken.due = now + failure.rest(now).unwrap_or(LINGERS_LONGER);
                    taken.failure = Some(failure);
                    later.push(taken);
                }
            }
        }
        later.append(&mut self.taken);
        self.taken = later;
    }

    /// Whether this one is settled; else it has to move back and its name is taken.
    fn settle_one(&mut self, taken: &TakenTag) -> io::Result<bool> {
        match taken.hidden.handle.see(&taken.name)? {
            None => Ok(true),
            Some(seen) if Some(seen) == taken.as_taken => taken.hidden.handle.remove(&taken.name).map(|()| true),
            Some(_) => self.put_back(taken),
        }
    }

    /// Moves back what a former agent left in hidden directories, once for each tag directory. Gives the time until there is more to do, where
    /// that was done a short while ago.
    pub(super) fn restore_leftovers(&mut self, tags: &Handle, now: Instant) -> io::Result<Option<Duration>> {
        if let Some(Tidied { directory, at, is_done }) = self.tidied {
            if directory == tags.id() && is_done {
                return Ok(None);
            }
            let rest = LEFTOVERS_EVERY.saturating_sub(now.saturating_duration_since(at));
            if !rest.is_zero() {
                return Ok(Some(rest));
            }
        }
        self.tidied = Some(Tidied { directory: tags.id(), at: now, is_done: false });
        let mut left = Vec::new();
        for name in tags.names()? {
            let name = name?;
            if is_served(&name)
                && let Some(found) = left_by_an_agent(tags, name)?
                && !self.hidden.iter().any(|hidden| hidden.handle.id() == found.handle.id())
            {
                left.push(Rc::new(found));
                if left.len() >= MOST_HIDDEN {
                    break;
                }
            }
        }
        let mut is_done = left.len() < MOST_HIDDEN;
        for hidden in left {
            is_done &= self.restore(&hidden)?;
        }
        self.tidied = Some(Tidied { directory: tags.id(), at: now, is_done });
        Ok((!is_done).then_some(LEFTOVERS_EVERY))
    }

    /// Moves back what lies in this directory. Whether that was all.
    fn restore(&mut self, hidden: &Rc<Hidden>) -> io::Result<bool> {
        hidden.handle.remove(unfinished())?;
        let mut names: Vec<OsString> = hidden.handle.names()?.take(MOST_LEFTOVERS + 1).collect::<io::Result<_>>()?;
        let is_all = names.len() <= MOST_LEFTOVERS;
        names.truncate(MOST_LEFTOVERS);
        for name in names {
            let is_here = |taken: &TakenTag| taken.hidden.handle.id() == hidden.handle.id() && taken.name == name;
            if self.taken.iter().any(is_here) {
                continue;
            }
            let text =
                format!("a former agent was stopped while it removed the tag \"{}\"; it is served again", shown(&name));
            let due = Instant::now();
            self.complaints.say(ComplaintKind::Doubtful, due, &text);
            let taken = TakenTag { hidden: hidden.clone(), name, as_taken: None, is_whole: false, due, failure: None };
            if !self.put_back(&taken)? {
                self.taken.push(taken);
            }
        }
        if is_all {
            self.hidden.push(hidden.clone());
        }
        Ok(is_all)
    }

    /// Deletes what was closed before it was read and has not changed since: nobody is going to. The rest moves back at the next start.
    pub(super) fn delete_whole_ones(&mut self) {
        for taken in std::mem::take(&mut self.taken).into_iter().filter(|taken| taken.is_whole) {
            let handle = &taken.hidden.handle;
            let is_unchanged = handle.see(&taken.name).is_ok_and(|seen| seen.is_some() && seen == taken.as_taken);
            if is_unchanged && let Err(error) = handle.remove(&taken.name) {
                tracing::debug!(tag = shown(&taken.name), %error, "cannot delete a served tag; it is served again after the next start");
            }
        }
        for hidden in self.hidden.drain(..) {
            if let Err(error) = hidden.tags.remove_directory(&hidden.name) {
                tracing::debug!(directory = %hidden.handle, %error, "what is left in it is served again after the next start");
            }
        }
    }
}

/// The directory of this name, if an agent made it: nobody else can make one that belongs to the agent's account.
fn left_by_an_agent(tags: &Handle, name: OsString) -> io::Result<Option<Hidden>> {
    if !tags.see(&name)?.is_some_and(|seen| seen.is_directory && seen.owner == geteuid().as_raw()) {
        return Ok(None);
    }
    // Where it is exchanged in this moment, it is nobody's.
    let Ok(handle) = tags.existing_subdirectory(&name) else { return Ok(None) };
    if handle.owner() != geteuid().as_raw() || handle.device() != tags.device() {
        return Ok(None);
    }
    Ok(Some(Hidden { tags: tags.again()?, name, handle }))
}
