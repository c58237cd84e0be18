//! A package that was packed for another target comes from the pack cache; one that is packed first goes there.

use blat_domain::protocol::frames::{MOST_DATA, Request};

use super::entry_tracker::{EntryTracker, permissions};
use super::{
    Attempt, Codec, ENTRIES, PIECE, Packed, Packer, PartialFiles, REFERRING_LEVEL, REFERRING_PIECE, TABLE,
    THOROUGH_LEVEL, THOROUGH_WINDOW, TOLD, WORTH_REFERRING,
};
use crate::cache::{CacheKey, CacheLookup, Ingredients};
use crate::delta_base::DeltaBase;
use crate::progress::Progress;
use crate::tree::Tree;
use crate::walker::Root;

/// The names of a package's frames in the pack cache.
struct CacheKeys {
    /// As this lane packs them.
    own: CacheKey,
    /// As they are packed for a slower link, where there is such a way: what has been made so suits a fast one as well.
    harder: Option<CacheKey>,
}

impl Packer<'_> {
    /// Sends a package: from the pack cache where it is there, and otherwise packed, for the pack cache as well where it belongs there.
    pub(super) fn package(
        &mut self,
        attempt: &Attempt,
        progress: &Progress,
        held: &std::sync::mpsc::Receiver<PartialFiles>,
    ) -> Packed<()> {
        let Attempt { number, item, ask, delta_base } = attempt;
        let root = Root::open(&item.archive, &item.package)?;
        let begin = Request::Package {
            number: *number,
            package: item.package.clone(),
            time: item.time,
            mode: permissions(root.stat()),
            rule: item.rule,
            manifest: None,
            ask: *ask,
        };
        let delta_base = delta_base.as_ref().filter(|delta_base| delta_base.is_here());
        let mut keys = self.keys(&root, attempt, delta_base);
        loop {
            self.say(&begin)?;
            match keys.as_ref().map(|keys| self.look_up(keys)) {
                Some(CacheLookup::Ready(mut entry)) => {
                    tracing::debug!(package = %item.package, "taken from the store");
                    let Some(damage) = self.outlet.pass_on(&mut entry, progress)? else { return Ok(()) };
                    let package = &item.package;
                    tracing::warn!(%package, error = %damage, "a damaged entry of the store is deleted and made anew");
                    // What cannot even be deleted is left alone.
                    keys = keys.filter(|_| entry.discard().is_ok());
                    self.say(&Request::Forget)?;
                }
                Some(CacheLookup::Make(making)) => {
                    tracing::debug!(package = %item.package, "packed for the store as well");
                    self.outlet.record(making);
                    let made = self.make(EntryTracker::new(&root, attempt, delta_base, progress, held));
                    return self.outlet.settle(made, self.cache);
                }
                Some(CacheLookup::Alone) | None => {
                    return self.make(EntryTracker::new(&root, attempt, delta_base, progress, held));
                }
            }
        }
    }

    /// What is to be done for this package.
    fn look_up(&self, keys: &CacheKeys) -> CacheLookup {
        let is_given_up = || self.outlet.is_given_up();
        let harder = keys.harder.as_ref().and_then(|key| self.cache.made(key, is_given_up));
        harder.map_or_else(|| self.cache.look_up(&keys.own, is_given_up), CacheLookup::Ready)
    }

    /// The names that the frames of this package have in the pack cache; none where they do not belong there. What an interrupted try left concerns one
    /// target alone, and bytes that are sent as they are cost nothing to make.
    fn keys(&self, root: &Root, attempt: &Attempt, delta_base: Option<&DeltaBase>) -> Option<CacheKeys> {
        let Attempt { item, ask, .. } = attempt;
        if *ask || self.codec == Codec::Plain || !self.cache.takes(item.size.bytes) {
            return None;
        }
        // What cannot be walked cannot be packed either, which is told then.
        let tree = item.print.or_else(|| Some(Tree::look(root).ok()?.print))?;
        let base = match delta_base {
            None => None,
            Some(delta_base) => {
                let (version, time) = delta_base.identity();
                Some((version, time, delta_base.print()?))
            }
        };
        let key = |codec: Codec| {
            CacheKey::of(&Ingredients {
                package: &item.package,
                time: item.time,
                tree: &tree,
                form: &form(codec == Codec::Referring && base.is_some(), self.outlet.is_awaited()),
                base: base.as_ref().map(|(version, time, print)| (*version, *time, print)),
            })
        };
        let is_lighter = self.codec == Codec::Zstd && base.is_some();
        Some(CacheKeys { own: key(self.codec), harder: is_lighter.then(|| key(Codec::Referring)) })
    }
}

/// All that what is made depends on, but for the bytes.
fn form(refers: bool, is_awaited: bool) -> String {
    let is_thorough = refers && is_awaited;
    let levels = (REFERRING_LEVEL, THOROUGH_LEVEL, THOROUGH_WINDOW, TABLE);
    let lengths = (PIECE, REFERRING_PIECE, WORTH_REFERRING, ENTRIES, TOLD, MOST_DATA);
    format!("{refers} {is_thorough} {levels:?} {lengths:?}")
}
