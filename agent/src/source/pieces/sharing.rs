//! A package that was packed for another target comes from the store; one that is packed first goes there.

use blat_domain::frames::{MOST_DATA, Request};

use super::course::{Course, permissions};
use super::{
    Attempt, Codec, ENTRIES, Held, PIECE, Packed, Packer, REFERRING_LEVEL, REFERRING_PIECE, TABLE, THOROUGH_LEVEL,
    THOROUGH_WINDOW, TOLD, WORTH_REFERRING,
};
use crate::progress::Progress;
use crate::source::ancestor::Ancestor;
use crate::source::store::{Ingredients, Key, Turn};
use crate::source::tree::Tree;
use crate::source::walker::Root;

/// The names of a package's frames in the store.
struct Keys {
    /// As this lane packs them.
    own: Key,
    /// As they are packed for a slower link, where there is such a way: what has been made so suits a fast one as well.
    harder: Option<Key>,
}

impl Packer<'_> {
    /// Sends a package: from the store where it is there, and otherwise packed, for the store as well where it belongs there.
    pub(super) fn package(
        &mut self,
        attempt: &Attempt,
        progress: &Progress,
        held: &std::sync::mpsc::Receiver<Held>,
    ) -> Packed<()> {
        let Attempt { number, parcel, ask, ancestor } = attempt;
        let root = Root::open(&parcel.archive, &parcel.package)?;
        let begin = Request::Package {
            number: *number,
            package: parcel.package.clone(),
            time: parcel.time,
            mode: permissions(root.stat()),
            rule: parcel.rule,
            manifest: None,
            ask: *ask,
        };
        let ancestor = ancestor.as_ref().filter(|ancestor| ancestor.is_here());
        let mut keys = self.keys(&root, attempt, ancestor);
        loop {
            self.say(&begin)?;
            match keys.as_ref().map(|keys| self.turn(keys)) {
                Some(Turn::Ready(mut entry)) => {
                    tracing::debug!(package = %parcel.package, "taken from the store");
                    let Some(damage) = self.outlet.pass_on(&mut entry, progress)? else { return Ok(()) };
                    let package = &parcel.package;
                    tracing::warn!(%package, error = %damage, "a damaged entry of the store is deleted and made anew");
                    // What cannot even be deleted is left alone.
                    keys = keys.filter(|_| entry.discard().is_ok());
                    self.say(&Request::Forget)?;
                }
                Some(Turn::Make(making)) => {
                    tracing::debug!(package = %parcel.package, "packed for the store as well");
                    self.outlet.record(making);
                    let made = self.make(Course::new(&root, attempt, ancestor, progress, held));
                    return self.outlet.settle(made, self.store);
                }
                Some(Turn::Alone) | None => return self.make(Course::new(&root, attempt, ancestor, progress, held)),
            }
        }
    }

    /// What is to be done for this package.
    fn turn(&self, keys: &Keys) -> Turn {
        let is_given_up = || self.outlet.is_given_up();
        let harder = keys.harder.as_ref().and_then(|key| self.store.made(key, is_given_up));
        harder.map_or_else(|| self.store.turn(&keys.own, is_given_up), Turn::Ready)
    }

    /// The names that the frames of this package have in the store; none where they do not belong there. What an interrupted try left concerns one
    /// target alone, and bytes that are sent as they are cost nothing to make.
    fn keys(&self, root: &Root, attempt: &Attempt, ancestor: Option<&Ancestor>) -> Option<Keys> {
        let Attempt { parcel, ask, .. } = attempt;
        if *ask || self.codec == Codec::Plain || !self.store.takes(parcel.size.bytes) {
            return None;
        }
        // What cannot be walked cannot be packed either, which is told then.
        let tree = parcel.print.or_else(|| Some(Tree::look(root).ok()?.print))?;
        let base = match ancestor {
            None => None,
            Some(ancestor) => {
                let (version, time) = ancestor.identity();
                Some((version, time, ancestor.print()?))
            }
        };
        let key = |codec: Codec| {
            Key::of(&Ingredients {
                package: &parcel.package,
                time: parcel.time,
                tree: &tree,
                form: &form(codec == Codec::Referring && base.is_some(), self.outlet.is_awaited()),
                base: base.as_ref().map(|(version, time, print)| (*version, *time, print)),
            })
        };
        let is_lighter = self.codec == Codec::Zstd && base.is_some();
        Some(Keys { own: key(self.codec), harder: is_lighter.then(|| key(Codec::Referring)) })
    }
}

/// All that what is made depends on, but for the bytes.
fn form(refers: bool, is_awaited: bool) -> String {
    let is_thorough = refers && is_awaited;
    let levels = (REFERRING_LEVEL, THOROUGH_LEVEL, THOROUGH_WINDOW, TABLE);
    let lengths = (PIECE, REFERRING_PIECE, WORTH_REFERRING, ENTRIES, TOLD, MOST_DATA);
    format!("{refers} {is_thorough} {levels:?} {lengths:?}")
}
