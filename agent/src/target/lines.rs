//! The lines of answers that say what became of packages: the same from scripts and from a receiver, and as untrusted.

use std::collections::BTreeSet;

use blat_domain::limits::named;
use blat_domain::name::PackageId;
use blat_domain::text::printable;

use super::{Delivery, Retired, Verdict};
use crate::source::pack::Digests;

/// Adds a failure for each package of which the target said nothing.
pub(super) fn with_silent_ones<'a>(
    mut deliveries: Vec<(PackageId, Delivery)>,
    asked: impl Iterator<Item = &'a PackageId>,
) -> Vec<(PackageId, Delivery)> {
    let heard: BTreeSet<PackageId> = deliveries.iter().map(|(package, _)| package.clone()).collect();
    let silent = || Delivery::Failed("the target did not say what became of it".to_owned());
    deliveries.extend(asked.filter(|package| !heard.contains(*package)).map(|package| (package.clone(), silent())));
    deliveries
}

/// One line of an answer: `published NAME VERSION`, `replaced …`, `linked …`, `already …` or
/// `failed NAME VERSION CLASS TEXT`.
pub(super) fn delivery(line: &str) -> Option<(PackageId, Delivery)> {
    let mut words = line.splitn(5, ' ');
    let (word, name, version) = (words.next()?, words.next()?, words.next()?);
    let (class, text) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let what = match word {
        "published" => Delivery::Published,
        "replaced" => Delivery::Replaced,
        "linked" => Delivery::Linked,
        "already" => Delivery::Already,
        "failed" if class == "differs" => Delivery::Differs(printable(text)),
        "failed" => Delivery::Failed(format!("{} ({})", named(printable(text)), printable(class))),
        _ => return None,
    };
    PackageId::new(name, version).ok().map(|package| (package, what))
}

/// One line of what `get_plist --verify` says: `good NAME VERSION DIGEST [TREE_DIGEST]`, `bad NAME VERSION WHY`, `closed …`,
/// `unknown …` or `absent …`.
pub(super) fn verdict(line: &str) -> Option<(PackageId, Verdict)> {
    let mut words = line.splitn(4, ' ');
    let (word, name, version) = (words.next()?, words.next()?, words.next()?);
    let rest = printable(words.next().unwrap_or_default());
    let verdict = match word {
        "good" => {
            let (bytes, tree) = rest.split_once(' ').map_or((&rest[..], None), |(bytes, tree)| (bytes, Some(tree)));
            Verdict::Good(Digests { bytes: bytes.to_owned(), tree: tree.map(str::to_owned) })
        }
        "bad" => Verdict::Bad(rest),
        "closed" => Verdict::Closed(rest),
        "unknown" => Verdict::Unknown(rest),
        "absent" => Verdict::Absent,
        _ => return None,
    };
    PackageId::new(name, version).ok().map(|package| (package, verdict))
}

/// One line of `delete_package`'s answer: `WORD NAME VERSION [CLASS TEXT]`.
pub(super) fn retired(line: &str) -> Option<(PackageId, Retired)> {
    let mut words = line.splitn(5, ' ');
    let (word, name, version) = (words.next()?, words.next()?, words.next()?);
    let (class, text) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let what = match word {
        "deleted" | "marked" | "unmarked" => Retired::Done,
        "absent" => Retired::Absent,
        "kept" => Retired::Kept(printable(text)),
        "failed" => Retired::Failed(format!("{} ({})", named(printable(text)), printable(class))),
        _ => return None,
    };
    PackageId::new(name, version).ok().map(|package| (package, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_and_nonsense_is_not() {
        let package: PackageId = "core@1".parse().expect("a package");
        assert_eq!(delivery("published core 1"), Some((package.clone(), Delivery::Published)));
        assert_eq!(
            delivery("failed core 1 digest the bytes differ"),
            Some((package, Delivery::Failed("the bytes differ (digest)".into())))
        );
        assert!(matches!(delivery("failed core 1 differs other bytes"), Some((_, Delivery::Differs(_)))));
        assert_eq!(retired("deleted core 1").map(|(_, what)| what), Some(Retired::Done));
        let kept = Retired::Kept("the PackageList names it".into());
        assert_eq!(retired("kept core 1 wanted the PackageList names it").map(|(_, what)| what), Some(kept));
        assert_eq!(retired("deleted ../x 1"), None);
        assert_eq!(delivery("published ../x 1"), None);
        assert_eq!(delivery("exploded core 1"), None);
        assert_eq!(delivery(""), None);
    }

    #[test]
    fn verdicts_are_read_and_nonsense_is_not() {
        let package: PackageId = "core@1".parse().expect("a package");
        let good = |tree: Option<&str>| Verdict::Good(Digests { bytes: "ab".into(), tree: tree.map(str::to_owned) });
        assert_eq!(verdict("good core 1 ab"), Some((package.clone(), good(None))), "published before trees were kept");
        assert_eq!(verdict("good core 1 ab cd"), Some((package.clone(), good(Some("cd")))));
        assert_eq!(verdict("bad core 1 bin/a: FAILED"), Some((package, Verdict::Bad("bin/a: FAILED".into()))));
        assert!(matches!(verdict("closed core 1 lib/a: it cannot be read"), Some((_, Verdict::Closed(_)))));
        assert_eq!(verdict("good ../x 1 ab"), None);
        assert_eq!(verdict("fine core 1"), None);
    }
}
