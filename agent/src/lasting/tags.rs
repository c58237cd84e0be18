//! What tags brought, so that it does not count as extra before Release Manager knows of it.
//!
//! It is noted down before a tag leaves the directory, and while its packages are on their way: nobody waits for the disk. Where it cannot be
//! noted down, the tag stays. Where what was noted down is lost (the file was removed, or an older one was copied back, or another home tree
//! served the archive until now), nobody knows what tags brought until then: the memory begins anew, and nothing is deleted before Release Manager
//! knows what was known at that time, for a day at most.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::MutexGuard;

use blat_domain::clock::Anchor;
use blat_domain::name::PackageId;
use blat_domain::retention::is_newer;
use jiff::Timestamp;

use super::{Kept, LastingMemory, Now};
use crate::memory;
use crate::release::Written;

/// Packages that tags asked for and the source lacks are noted while fewer than this are.
pub(super) const MOST_MISSING: usize = 10_000;

impl LastingMemory {
    /// Packages that tags brought, with the epoch second.
    pub(crate) fn tagged(&self) -> BTreeMap<PackageId, i64> {
        self.lock_by_clock().kept.tags.clone().unwrap_or_default()
    }

    /// Tags are about to bring these packages: from now on none of them is extra to this process. Of those that are `missing` on the source, only
    /// as many are noted as do not make the memory endless: tags may name any. [`Self::trouble`] makes it durable.
    pub(crate) fn note_tags(&self, packages: &BTreeSet<PackageId>, missing: &BTreeSet<&PackageId>) {
        let at = Timestamp::now().as_second();
        let mut now = self.lock_by_clock();
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
    }

    /// Release Manager is asked for what it knows up to this epoch second, and answered with these packages: tags that it has caught up with need
    /// no remembering.
    ///
    /// # Errors
    /// Why that cannot be written, and what to do.
    pub(crate) fn forget_tags(&self, known_up_to: i64, is_known: impl Fn(&PackageId) -> bool) -> Result<(), String> {
        let is_needed = |package: &PackageId, at: i64| is_newer(at, known_up_to) && !is_known(package);
        self.change(|kept| kept.tags.get_or_insert_default().retain(|package, at| is_needed(package, *at)))
    }

    /// The epoch second since when it is known what tags bring, where that was not always so. `now` is the present one: what seems to be later is
    /// the word of a clock that was wrong.
    pub(crate) fn began(&self, now: i64) -> Option<i64> {
        let mut state = self.lock_by_clock();
        let began = state.kept.began?;
        if began > now {
            (state.kept.began, state.is_ahead) = (Some(now), true);
        }
        Some(began.min(now))
    }

    /// An operator has looked at all that is not wanted, and it went.
    ///
    /// # Errors
    /// Why that cannot be written, and what to do.
    pub(crate) fn confirm(&self) -> Result<(), String> {
        self.change(|kept| kept.began = None)
    }

    /// The epoch second at which a file of releases was `written`, as far as that is to be believed `now`. A time that lies ahead of the clock, or
    /// that somebody set ahead, says nothing, else every tag would count as older; nor does it later, when the clock has reached it or the file
    /// changed in another way. It says something again once it is another time.
    pub(crate) fn believed(&self, written: Option<Written>, now: i64) -> Option<i64> {
        let Written { at, is_set_ahead } = written?;
        let mut state = self.lock();
        if (is_set_ahead || at > now) && state.kept.ahead != Some(at) {
            (state.kept.ahead, state.is_ahead) = (Some(at), true);
        }
        (state.kept.ahead != Some(at)).then_some(at)
    }
}

impl Kept {
    /// Has what was noted down by this machine's clock follow it where it was set. Says whether the file is to say so.
    pub(super) fn follow(&mut self, clock: Anchor) -> bool {
        let mut notes = self.tags.iter_mut().flat_map(BTreeMap::values_mut).chain(&mut self.began).peekable();
        let has_notes = notes.peek().is_some();
        // Notes of an earlier version say nothing of their clock: they are taken for those of the present one.
        if let Some(before) = &self.clock {
            let Some(followed) = before.followed(&clock, Timestamp::now().as_second()) else { return false };
            notes.for_each(|at| *at = followed(*at));
        }
        self.clock = Some(clock);
        has_notes
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
