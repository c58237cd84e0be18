//! The lines of answers that say what became of packages: the same from scripts and from a receiver, and as untrusted.

use std::collections::BTreeSet;

use blat_domain::package::name::PackageId;
use blat_domain::protocol::outcome::{FailedFor, Finding, Line, Outcome};
use blat_domain::util::limits::named;
use blat_domain::util::text::printable;
use blat_packing::tree::Digests;

use super::leftovers::Leftovers;
use crate::model::outcome::{Delivery, Retired, Verdict};

/// Adds a failure for each package of which the target said nothing.
pub(crate) fn with_silent_ones<'a>(
    mut deliveries: Vec<(PackageId, Delivery)>,
    asked: impl Iterator<Item = &'a PackageId>,
) -> Vec<(PackageId, Delivery)> {
    let heard: BTreeSet<PackageId> = deliveries.iter().map(|(package, _)| package.clone()).collect();
    let silent = || Delivery::Failed("the target did not say what became of it".to_owned());
    deliveries.extend(asked.filter(|package| !heard.contains(*package)).map(|package| (package.clone(), silent())));
    deliveries
}

/// What a line says became of a package that was sent, or of a link.
pub(crate) fn delivery(line: &str) -> Option<(PackageId, Delivery)> {
    let Line { package, says } = line.parse().ok()?;
    let what = match says {
        Outcome::Published => Delivery::Published,
        Outcome::Replaced => Delivery::Replaced,
        Outcome::Linked => Delivery::Linked,
        Outcome::Already => Delivery::Already,
        Outcome::Failed(FailedFor::Differs, text) => Delivery::Differs(printable(&text)),
        Outcome::Failed(class, text) => Delivery::Failed(failure(class, &text)),
        Outcome::Marked | Outcome::Unmarked | Outcome::Deleted | Outcome::Absent | Outcome::Kept(..) => return None,
    };
    Some((package, what))
}

/// What a line says became of a package that was marked, deleted, or freed of its mark.
pub(crate) fn retired(line: &str) -> Option<(PackageId, Retired)> {
    let Line { package, says } = line.parse().ok()?;
    let what = match says {
        Outcome::Deleted | Outcome::Marked | Outcome::Unmarked => Retired::Done,
        Outcome::Absent => Retired::Absent,
        Outcome::Kept(_, text) => Retired::Kept(printable(&text)),
        Outcome::Failed(class, text) => Retired::Failed(failure(class, &text)),
        Outcome::Published | Outcome::Replaced | Outcome::Linked | Outcome::Already => return None,
    };
    Some((package, what))
}

fn failure(class: FailedFor, text: &str) -> String {
    format!("{} ({class})", named(printable(text)))
}

/// What a line says was found when a package was hashed again.
pub(crate) fn verdict(line: &str) -> Option<(PackageId, Verdict)> {
    let Line { package, says } = line.parse().ok()?;
    let verdict = match says {
        Finding::Good { manifest, tree } => {
            Verdict::Good(Digests { bytes: printable(&manifest), tree: tree.map(|tree| printable(&tree)) })
        }
        Finding::Bad(text) => Verdict::Bad(printable(&text)),
        Finding::Closed(text) => Verdict::Closed(printable(&text)),
        Finding::Unknown(text) => Verdict::Unknown(printable(&text)),
        Finding::Absent(_) => Verdict::Absent,
    };
    Some((package, verdict))
}

/// What is to be heard of packages that were asked about: one outcome each, and of no others.
#[derive(Debug)]
pub(crate) struct Awaited(BTreeSet<PackageId>);

impl Awaited {
    /// Outcomes of all of these.
    pub(crate) fn of<'a>(packages: impl IntoIterator<Item = &'a PackageId>) -> Self {
        Self(packages.into_iter().cloned().collect())
    }

    /// The outcome that a line tells, as `read` reads it; none where it names one of the `leftovers`.
    ///
    /// # Errors
    /// That nothing asked for the line, fit for printing.
    pub(crate) fn take<T>(
        &mut self,
        line: &str,
        read: impl Fn(&str) -> Option<(PackageId, T)>,
        leftovers: &Leftovers,
    ) -> Result<Option<(PackageId, T)>, String> {
        if leftovers.hear(line) {
            return Ok(None);
        }
        match read(line) {
            Some(outcome) if self.0.remove(&outcome.0) => Ok(Some(outcome)),
            Some((package, _)) => {
                Err(format!("it answers about {package}, which it was not asked about, or not again"))
            }
            None => Err(format!("it answers \"{}\", which tells of no package", printable(line))),
        }
    }

    /// Whether this package's outcome is still to come; it is not, from now on.
    pub(crate) fn take_package(&mut self, package: &PackageId) -> bool {
        self.0.remove(package)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> PackageId {
        text.parse().expect("a package")
    }

    #[test]
    fn each_package_has_one_outcome_and_no_other_has_any() {
        let mut awaited = Awaited::of(&[id("a@1"), id("b@1")]);
        let leftovers = Leftovers::default();
        let take = |awaited: &mut Awaited, line| awaited.take(line, delivery, &leftovers);
        assert!(matches!(take(&mut awaited, "published a 1"), Ok(Some(_))));
        assert!(take(&mut awaited, "published a 1").is_err_and(|why| why.contains("not again")));
        assert!(take(&mut awaited, "published c 1").is_err());
        assert!(take(&mut awaited, "nonsense\u{1b}").is_err_and(|why| !why.contains('\u{1b}')));
        assert!(matches!(take(&mut awaited, "leftover stage/x it is root's"), Ok(None)));
        assert!(awaited.take_package(&id("b@1")) && !awaited.take_package(&id("b@1")));
    }

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
