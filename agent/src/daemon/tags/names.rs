//! Names that the agent gives to files in the tag directory.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use blat_domain::util::random_id::RandomId;
use blat_domain::util::text::printable;

/// The longest name of a file, in bytes.
const LONGEST_NAME: usize = 255;
/// What a reason's name has after that of its file.
pub(super) const REASON: &[u8] = b".reason";
/// How the names of directories begin in which the agent keeps what it is about to remove.
const SERVED: &str = ".blat-served-";

/// A tag's file name, fit for printing.
pub(crate) fn shown(name: &OsStr) -> String {
    printable(&name.to_string_lossy())
}

/// A name for a directory of the agent's own that nobody can guess.
pub(super) fn served(random: RandomId) -> OsString {
    OsString::from(format!("{SERVED}{random}"))
}

/// Whether this may be a name by [`served`].
pub(super) fn is_served(name: &OsStr) -> bool {
    let random = name.to_str().and_then(|name| name.strip_prefix(SERVED));
    random.is_some_and(|random| random.parse::<RandomId>().is_ok())
}

/// A reason that is being written, in such a directory: a tag's name never begins with a dot.
pub(super) fn unfinished() -> &'static OsStr {
    OsStr::new(".reason")
}

/// The name of the reason that lies beside a file.
pub(super) fn reason(name: &OsStr) -> OsString {
    cut(name, REASON)
}

/// Names for a file that is kept beside others: its own first, then some with a number. There is room for a reason's name beside each.
pub(super) fn beside(name: &OsStr, most: u32) -> impl Iterator<Item = OsString> {
    let numbered = |number: u32| match number {
        0 => Vec::new(),
        number => format!(".{number}").into_bytes(),
    };
    (0..most).map(move |number| {
        let kept = cut(name, &[numbered(number), REASON.to_vec()].concat());
        let length = kept.len() - REASON.len();
        OsString::from_vec(kept.into_vec()[..length].to_vec())
    })
}

/// The name with `after` behind it, cut so that all fits.
fn cut(name: &OsStr, after: &[u8]) -> OsString {
    let room = LONGEST_NAME.saturating_sub(after.len());
    let name = name.as_bytes();
    OsString::from_vec([&name[..name.len().min(room)], after].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn served_tags_lie_in_directories_that_are_ignored_and_known_again() {
        let name = served(RandomId::from_random([7; 16]));
        assert!(blat_domain::package::tag::is_ignored(name.as_bytes()) && is_served(&name));
        for foreign in [".blat-served-", ".blat-served-1", ".blat-taken-1-a", "core@1"] {
            assert!(!is_served(OsStr::new(foreign)), "{foreign}");
        }
    }

    #[test]
    fn no_name_is_too_long() {
        let long = OsString::from("x".repeat(255));
        for kept in beside(&long, 1_000) {
            assert!(reason(&kept).len() <= 255 && reason(&kept).as_bytes().starts_with(kept.as_bytes()));
        }
        let kept: Vec<OsString> = beside(OsStr::new("a"), 3).collect();
        assert_eq!(kept, ["a", "a.1", "a.2"]);
    }
}
