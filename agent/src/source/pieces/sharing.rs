//! A package that was packed for another target comes from the store; one that is packed first goes there.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use blat_domain::frames::{MOST_DATA, Request};

use super::course::{Course, permissions};
use super::{
    Attempt, Codec, ENTRIES, Held, PIECE, Packed, Packer, REFERRING_LEVEL, REFERRING_PIECE, TABLE, THOROUGH_LEVEL,
    THOROUGH_WINDOW, TOLD, WORTH_REFERRING, ZSTD_LEVEL, unreadable,
};
use crate::progress::Progress;
use crate::source::ancestor::Ancestor;
use crate::source::store::{Ingredients, Key, Turn};
use crate::source::tree::Tree;

impl Packer<'_> {
    /// Sends a package: from the store where it is there, and otherwise packed, for the store as well where it belongs there.
    pub(super) fn package(
        &mut self,
        attempt: &Attempt,
        progress: &Progress,
        held: &std::sync::mpsc::Receiver<Held>,
    ) -> Packed<()> {
        let Attempt { number, parcel, ask, ancestor } = attempt;
        let root = std::fs::symlink_metadata(&parcel.path).map_err(|error| unreadable(&parcel.path, &error))?;
        let begin = Request::Package {
            number: *number,
            package: parcel.package.clone(),
            time: parcel.time,
            mode: permissions(root.mode()),
            rule: parcel.rule,
            manifest: None,
            ask: *ask,
        };
        let ancestor = ancestor.as_ref().filter(|ancestor| ancestor.is_here());
        let mut key = self.key(attempt, ancestor);
        loop {
            self.say(&begin)?;
            let turn = key.as_ref().map(|key| self.store.turn(key, || self.outlet.is_given_up()));
            match turn {
                Some(Turn::Ready(mut entry)) => {
                    tracing::debug!(package = %parcel.package, "taken from the store");
                    let Some(damage) = self.outlet.pass_on(&mut entry, progress)? else { return Ok(()) };
                    let package = &parcel.package;
                    tracing::warn!(%package, error = %damage, "a damaged entry of the store is deleted and made anew");
                    // What cannot even be deleted is left alone.
                    key = key.filter(|_| entry.discard().is_ok());
                    self.say(&Request::Forget)?;
                }
                Some(Turn::Make(making)) => {
                    tracing::debug!(package = %parcel.package, "packed for the store as well");
                    self.outlet.record(making);
                    let made = self.make(Course::new(attempt, ancestor, progress, held));
                    return self.outlet.settle(made, self.store);
                }
                Some(Turn::Alone) | None => return self.make(Course::new(attempt, ancestor, progress, held)),
            }
        }
    }

    /// The name that the frames of this package have in the store; none where they do not belong there. What an interrupted try left concerns one
    /// target alone, and bytes that are sent as they are cost nothing to make.
    fn key(&self, attempt: &Attempt, ancestor: Option<&Ancestor>) -> Option<Key> {
        let Attempt { parcel, ask, .. } = attempt;
        if *ask || self.codec == Codec::Plain || !self.store.takes(parcel.size.bytes) {
            return None;
        }
        // What cannot be walked cannot be packed either, which is told then.
        let walked = |root: &Path| Tree::look(root).ok().map(|tree| tree.print);
        let tree = parcel.print.or_else(|| walked(&parcel.path))?;
        let base = match ancestor.map(Ancestor::place) {
            None => None,
            Some((version, time, root, print)) => Some((version, time, print.or_else(|| walked(root))?)),
        };
        Some(Key::of(&Ingredients {
            package: &parcel.package,
            time: parcel.time,
            tree: &tree,
            form: &self.codec.form(self.outlet.is_awaited()),
            base: base.as_ref().map(|(version, time, print)| (*version, *time, print)),
        }))
    }
}

impl Codec {
    /// All that what it makes depends on, but for the bytes.
    fn form(self, is_awaited: bool) -> String {
        let is_thorough = self == Self::Referring && is_awaited;
        let levels = (ZSTD_LEVEL, REFERRING_LEVEL, THOROUGH_LEVEL, THOROUGH_WINDOW, TABLE);
        let lengths = (PIECE, REFERRING_PIECE, WORTH_REFERRING, ENTRIES, TOLD, MOST_DATA);
        format!("{self:?} {is_thorough} {levels:?} {lengths:?}")
    }
}
