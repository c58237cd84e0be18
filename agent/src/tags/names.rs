//! Names that the agent gives to files in the tag directory.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use blat_domain::text::printable;

/// The longest name of a file, in bytes.
const LONGEST_NAME: usize = 255;
/// What a reason's name has after that of its file.
pub(super) const REASON: &[u8] = b".reason";
/// How the names of tags begin that are about to be removed.
const TAKEN: &[u8] = b".blat-taken-";
/// How the names of reasons begin that are being written.
pub(super) const UNFINISHED: &[u8] = b".blat-reason-";

/// A tag's file name, fit for printing.
pub(crate) fn shown(name: &OsStr) -> String {
    printable(&name.to_string_lossy())
}

/// A hidden name for a tag that is about to be removed, one of as many as there are numbers.
pub(super) fn taken(name: &OsStr, number: u64) -> OsString {
    cut(&[TAKEN, number.to_string().as_bytes(), b"-"].concat(), name, b"")
}

/// The tag's name in a name by [`taken`].
pub(super) fn taken_from(hidden: &OsStr) -> Option<OsString> {
    let rest = hidden.as_bytes().strip_prefix(TAKEN)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let name = rest[digits..].strip_prefix(b"-")?;
    (digits > 0 && !name.is_empty()).then(|| OsStr::from_bytes(name).to_owned())
}

/// The name of the reason that lies beside a file.
pub(super) fn reason(name: &OsStr) -> OsString {
    cut(b"", name, REASON)
}

/// Names for a file that is kept beside others: its own first, then some with a number. There is room for a reason's name beside each.
pub(super) fn beside(name: &OsStr, most: u32) -> impl Iterator<Item = OsString> {
    let numbered = |number: u32| match number {
        0 => Vec::new(),
        number => format!(".{number}").into_bytes(),
    };
    (0..most).map(move |number| {
        let kept = cut(b"", name, &[numbered(number), REASON.to_vec()].concat());
        let length = kept.len() - REASON.len();
        OsString::from_vec(kept.into_vec()[..length].to_vec())
    })
}

/// The name between these two, cut so that all fits.
fn cut(before: &[u8], name: &OsStr, after: &[u8]) -> OsString {
    let room = LONGEST_NAME.saturating_sub(before.len() + after.len());
    let name = name.as_bytes();
    OsString::from_vec([before, &name[..name.len().min(room)], after].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_tag_has_a_hidden_name_that_says_its_own() {
        let name = OsStr::new("core-1@2");
        let hidden = taken(name, 17);
        assert!(blat_domain::tag::is_ignored(hidden.as_bytes()));
        assert_eq!(taken_from(&hidden).as_deref(), Some(name));
        for foreign in [".blat-taken-", ".blat-taken-1", ".blat-taken-1-", ".blat-taken-x-a", ".blat-tag-1-a", "core@1"]
        {
            assert_eq!(taken_from(OsStr::new(foreign)), None, "{foreign}");
        }
    }

    #[test]
    fn no_name_is_too_long() {
        let long = OsString::from("x".repeat(255));
        assert_eq!(taken(&long, u64::MAX).len(), 255);
        for kept in beside(&long, 1_000) {
            assert!(reason(&kept).len() <= 255 && reason(&kept).as_bytes().starts_with(kept.as_bytes()));
        }
        let kept: Vec<OsString> = beside(OsStr::new("a"), 3).collect();
        assert_eq!(kept, ["a", "a.1", "a.2"]);
    }
}
