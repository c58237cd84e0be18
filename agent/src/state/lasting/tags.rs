//! What tags brought, so that it does not count as extra before Release Manager knows of it.
//!
//! It is noted down before a tag leaves the directory, and while its packages are on their way: nobody waits for the disk. Where it cannot be
//! noted down, the tag stays. Where what was noted down is lost (the file was removed, or an older one was copied back, or another home tree
//! served the archive until now), nobody knows what tags brought until then: the memory begins anew, and nothing is deleted before Release Manager
//! knows what was known at that time, for a day at most.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::MutexGuard;

use blat_domain::package::name::PackageId;
use blat_domain::policy::clock::Anchor;
use blat_domain::policy::retention::is_newer;
use jiff::Timestamp;

use super::{Kept, LastingMemory, Now};
use crate::releases::ContentTime;
use crate::state::memory;

/// Packages that tags asked for and the source lacks are noted while fewer than this are.
pub(super) const MOST_MISSING: usize = 10_000;

/// An epoch second by the clock that tags are noted down by. It keeps its distance from them, whatever the clock is set to.
#[derive(Debug, Clone)]
pub(crate) struct Noted {
    /// By the clock as it was when this was noted.
    pub(crate) at: i64,
    clock: Anchor,
}

impl Noted {
    /// The same moment by the clock of `other`.
    pub(crate) fn beside(&self, other: &Anchor) -> Self {
        Self { at: self.clock.carried(other, self.at), clock: other.clone() }
    }
}

/// What is remembered of tags, all by the clock as it is at one moment.
#[derive(Debug)]
pub(crate) struct TagNotes {
    /// Packages that tags brought, with the epoch second.
    pub(crate) tagged: BTreeMap<PackageId, i64>,
    /// The epoch second since when it is known what tags bring, where that was not always so.
    pub(crate) began: Option<i64>,
    /// What these times are noted by.
    pub(crate) clock: Anchor,
}

impl LastingMemory {
    /// Packages that tags brought, with the epoch second.
    pub(crate) fn tagged(&self) -> BTreeMap<PackageId, i64> {
        self.lock_by_clock().kept.tags.clone().unwrap_or_default()
    }

    /// Tags are about to bring these packages: from now on none of them is extra to this process. Of those that are `missing` on the source, only
    /// as many are noted as do not make the memory endless: tags may name any. [`Self::trouble`] makes it durable.
    pub(crate) fn note_tags(&self, packages: &BTreeSet<PackageId>, missing: &BTreeSet<&PackageId>) {
        let mut now = self.lock_by_clock();
        // Whatever the clock says: the file of releases that was seen is no newer than they are.
        let at = Timestamp::now().as_second().max(now.kept.files.last().unwrap_or(i64::MIN));
        let tags = now.kept.tags.get_or_insert_default();
        let mut is_ahead = false;
        for package in packages {
            let is_missing = missing.contains(package);
            if is_missing && tags.len() >= MOST_MISSING && !tags.contains_key(package) {
                continue;
            }
            let before = tags.insert(package.clone(), at);
            // One that waits for its package is tried every few seconds, which is not worth a write each.
            is_ahead |= before.is_none() || (!is_missing && before != Some(at));
        }
        now.is_ahead |= is_ahead;
        now.visits.has_news |= is_ahead;
    }

    /// What tags brought later than that, or in the same second.
    pub(crate) fn tagged_after(&self, known_up_to: &Noted) -> BTreeSet<PackageId> {
        let now = self.lock_by_clock();
        let known_up_to = known_up_to.beside(&now.kept.clock()).at;
        let newer = now.kept.tags.iter().flatten().filter(|(_, at)| is_newer(**at, known_up_to));
        newer.map(|(package, _)| package.clone()).collect()
    }

    /// Release Manager is asked for what it knows up to this moment, and answered with these packages: tags that it has caught up with need
    /// no remembering.
    ///
    /// # Errors
    /// Why that cannot be written, and what to do.
    pub(crate) fn forget_tags(&self, known_up_to: &Noted, is_known: impl Fn(&PackageId) -> bool) -> Result<(), String> {
        self.change(|kept| {
            let known_up_to = known_up_to.beside(&kept.clock()).at;
            let is_needed = |package: &PackageId, at: i64| is_newer(at, known_up_to) && !is_known(package);
            kept.tags.get_or_insert_default().retain(|package, at| is_needed(package, *at));
        })
    }

    /// What is remembered of tags. `now` is the present epoch second: a memory that seems to begin later has the word of a clock that was wrong.
    pub(crate) fn notes(&self, now: i64) -> TagNotes {
        let mut state = self.lock_by_clock();
        if state.kept.began.is_some_and(|began| began > now) {
            (state.kept.began, state.is_ahead) = (Some(now), true);
        }
        let Kept { tags, began, .. } = &state.kept;
        TagNotes { tagged: tags.clone().unwrap_or_default(), began: *began, clock: state.kept.clock() }
    }

    /// This epoch second, by the clock as it is now.
    pub(crate) fn noted(&self, at: i64) -> Noted {
        Noted { at, clock: self.lock_by_clock().kept.clock() }
    }

    /// An operator has looked at all that is not wanted, and it went.
    ///
    /// # Errors
    /// Why that cannot be written, and what to do.
    pub(crate) fn confirm(&self) -> Result<(), String> {
        self.change(|kept| kept.began = None)
    }

    /// The moment at which a file of releases was `written`, as far as that is to be believed `now`. A time that lies ahead of the clock, or
    /// that somebody set ahead, says nothing, else every tag would count as older; nor does it later, when the clock has reached it or the file
    /// changed in another way. It says something again once it is another time. A file that was seen before was written by the clock as it was then.
    pub(crate) fn believed(&self, written: Option<ContentTime>, now: i64) -> Option<Noted> {
        let ContentTime { at: time, is_set_ahead } = written?;
        let mut state = self.lock_by_clock();
        let (second, at) = (time.0, state.kept.files.at(time));
        if (is_set_ahead || at > now) && state.kept.ahead != Some(second) {
            (state.kept.ahead, state.is_ahead) = (Some(second), true);
        }
        if state.kept.ahead == Some(second) {
            return None;
        }
        // Where nothing is noted yet, the next tag has it written.
        let is_news = state.kept.files.see(time) && state.kept.has_notes();
        state.is_ahead |= is_news;
        Some(Noted { at, clock: state.kept.clock() })
    }
}

impl Kept {
    /// Has what was noted down by this machine's clock follow it where it was set. Says whether the file is to say so.
    pub(super) fn follow(&mut self, clock: Anchor) -> bool {
        let has_notes = self.has_notes();
        // Notes of an earlier version say nothing of their clock: they are taken for those of the present one.
        if let Some(before) = &self.clock {
            let Some(followed) = before.followed(&clock, Timestamp::now().as_second()) else { return false };
            let notes = self.tags.iter_mut().flat_map(BTreeMap::values_mut).chain(&mut self.began);
            notes.chain(self.files.times()).for_each(|at| *at = followed(*at));
        }
        self.clock = Some(clock);
        has_notes
    }

    fn has_notes(&self) -> bool {
        self.tags.as_ref().is_some_and(|tags| !tags.is_empty()) || self.began.is_some()
    }

    /// What its times are noted down by. It has followed a clock.
    fn clock(&self) -> Anchor {
        self.clock.clone().unwrap_or_else(memory::anchor)
    }
}

impl LastingMemory {
    /// What is remembered, by this machine's clock as it is now.
    pub(super) fn lock_by_clock(&self) -> MutexGuard<'_, Now> {
        let mut now = self.lock();
        now.is_ahead |= now.kept.follow(memory::anchor());
        now
    }
}

#[cfg(test)]
mod tests;
