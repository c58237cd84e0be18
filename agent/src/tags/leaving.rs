//! A tag that is served leaves the directory in two steps, so that nothing is lost that somebody writes into it meanwhile: it moves to a
//! hidden name and is compared with what was read, and it is deleted only when it has not changed for a while after that. One that has
//! changed moves back and is read again. What an agent that was killed left under hidden names moves back at the next start.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use super::aside;
use super::handle::{Handle, Seen};
use super::names::{beside, shown, taken, taken_from};
use super::worker::{Tries, Worker};
use crate::session::{Removed, TagStamp};

/// How long a tag stays under its hidden name that was closed before it was read.
const LINGERS: Duration = Duration::from_secs(2);
/// The same of one that polling found: whoever wrote it may not have closed it, and write again after a pause.
const LINGERS_LONGER: Duration = Duration::from_secs(10);
/// Hidden names that are tried for one tag, and visible ones for one that moves back.
const MOST_NAMES: u32 = 100;

/// A tag under a hidden name.
#[derive(Debug)]
pub(super) struct Taken {
    directory: (u64, u64),
    hidden: OsString,
    name: OsString,
    /// How it was when it had got that name; none where it has to move back in any case.
    as_taken: Option<Seen>,
    /// Whether it was closed before it was read.
    is_whole: bool,
    pub(super) due: Instant,
    tries: Option<Tries>,
}

impl Worker {
    /// Takes a tag away whose packages are all published.
    pub(super) fn take_away(&mut self, tags: &Handle, name: &OsStr, stamp: TagStamp) -> io::Result<Removed> {
        let Some(seen) = tags.see(name)? else { return Ok(Removed::Gone) };
        if seen.stamp != stamp {
            return Ok(Removed::Changed);
        }
        let Some(hidden) = self.hide(tags, name)? else { return Ok(Removed::Gone) };
        let now = tags.see(&hidden)?;
        let as_taken = now.filter(|now| now.is_same_content(&seen));
        let is_whole = self.reported.get(name).is_some_and(|tag| tag.stamp == stamp && tag.is_whole);
        let due = Instant::now() + if is_whole { LINGERS } else { LINGERS_LONGER };
        let (directory, name) = (tags.id(), name.to_owned());
        let mut taken = Taken { directory, hidden, name, as_taken, is_whole, due, tries: None };
        if as_taken.is_some() || !self.put_back(tags, &taken)? {
            if as_taken.is_none() {
                taken.due = Instant::now();
            }
            self.taken.push(taken);
        }
        Ok(if as_taken.is_some() { Removed::Gone } else { Removed::Changed })
    }

    /// Moves a tag to a hidden name; none where it is gone.
    fn hide(&mut self, tags: &Handle, name: &OsStr) -> io::Result<Option<OsString>> {
        for _ in 0..MOST_NAMES {
            self.number += 1;
            let hidden = taken(name, self.number);
            match tags.move_to_free(name, tags, &hidden) {
                Ok(()) => return Ok(Some(hidden)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    /// Moves a tag back. Where its name is taken again it gets another, unless its name is all that it says. Whether it moved.
    fn put_back(&mut self, tags: &Handle, taken: &Taken) -> io::Result<bool> {
        let Some(seen) = tags.see(&taken.hidden)? else { return Ok(true) };
        let others = beside(&taken.name, MOST_NAMES).skip(1).filter(|_| seen.stamp.size > 0);
        for name in std::iter::once(taken.name.clone()).chain(others) {
            match tags.move_to_free(&taken.hidden, tags, &name) {
                Ok(()) => {
                    self.returned.insert(name);
                    self.hint.notify_one();
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
        let (due, mut later): (Vec<Taken>, Vec<Taken>) =
            std::mem::take(&mut self.taken).into_iter().partition(|taken| taken.due <= now);
        let opened = self.open();
        for mut taken in due {
            let settled = match &opened {
                // With another directory in its place, this one's files are nobody's.
                Ok(tags) if tags.id() != taken.directory => Ok(true),
                Ok(tags) => self.settle_one(tags, &taken),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            };
            match settled {
                Ok(true) => {}
                Ok(false) => {
                    (taken.as_taken, taken.due) = (None, now + LINGERS_LONGER);
                    later.push(taken);
                }
                Err(error) => {
                    let (name, hidden) = (shown(&taken.name), shown(&taken.hidden));
                    let text =
                        format!("cannot delete the served tag \"{name}\", now {hidden}: {error}; delete it yourself");
                    let tries = Tries::after(taken.tries.as_ref(), text, now);
                    tracing::warn!(directory = shown(self.path.as_os_str()), "{}", tries.text);
                    taken.due = now + tries.rest(now).unwrap_or(LINGERS_LONGER);
                    taken.tries = Some(tries);
                    later.push(taken);
                }
            }
        }
        later.append(&mut self.taken);
        self.taken = later;
    }

    /// Whether this one is settled; else it has to move back and its name is taken.
    fn settle_one(&mut self, tags: &Handle, taken: &Taken) -> io::Result<bool> {
        match tags.see(&taken.hidden)? {
            None => Ok(true),
            Some(seen) if Some(seen) == taken.as_taken => tags.remove(&taken.hidden).map(|()| true),
            Some(_) => self.put_back(tags, taken),
        }
    }

    /// Moves back what a former agent left under hidden names, once for each directory.
    pub(super) fn restore_leftovers(&mut self, tags: &Handle) -> io::Result<()> {
        if self.tidied == Some(tags.id()) {
            return Ok(());
        }
        aside::tidy(tags, None);
        let mut leftovers = Vec::new();
        for hidden in tags.names()? {
            let hidden = hidden?;
            if let Some(name) = taken_from(&hidden)
                && tags.see(&hidden)?.is_some_and(|seen| seen.is_file)
                && !self.taken.iter().any(|taken| taken.hidden == hidden)
            {
                let (directory, due) = (tags.id(), Instant::now());
                leftovers.push(Taken { directory, hidden, name, as_taken: None, is_whole: false, due, tries: None });
            }
        }
        for leftover in leftovers {
            tracing::info!(
                tag = shown(&leftover.name),
                "a former agent was stopped while it removed this tag; it is served again"
            );
            if !self.put_back(tags, &leftover)? {
                self.taken.push(leftover);
            }
        }
        self.tidied = Some(tags.id());
        Ok(())
    }

    /// Deletes what was closed before it was read and has not changed since: nobody is going to. The rest moves back at the next start.
    pub(super) fn delete_whole_ones(&mut self) {
        if self.taken.is_empty() {
            return;
        }
        let Ok(tags) = self.open() else { return };
        for taken in self.taken.drain(..).filter(|taken| taken.is_whole && taken.directory == tags.id()) {
            let is_unchanged = tags.see(&taken.hidden).is_ok_and(|seen| seen.is_some() && seen == taken.as_taken);
            if is_unchanged && let Err(error) = tags.remove(&taken.hidden) {
                tracing::debug!(tag = shown(&taken.name), %error, "cannot delete a served tag; it is served again after the next start");
            }
        }
    }
}
