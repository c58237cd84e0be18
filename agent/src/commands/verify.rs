//! `blat verify`: every byte, link, mode and directory on the target, against the manifests and tree files that came with it and against the source.
//!
//! A sync compares times alone, which costs nothing. This reads everything, on both sides, and so finds what no sync can: bytes that
//! went bad, and a source that was built again under the same time of `descpkg`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use blat_domain::package::name::PackageId;
use blat_domain::policy::ownership::Bar;
use blat_domain::policy::release::WantedSet;
use blat_domain::util::text::printable;
use blat_packing::item::TransferItem;
use blat_packing::tree::Digests;
use blat_packing::walker::Root;

use crate::model::outcome::Verdict;
use crate::model::problem::Problem;
use crate::session::Sent;
use crate::sync::context::SyncContext;
use crate::sync::ownership::Sight;
use crate::sync::unreached;

/// Packages looked at in one go: findings show up as they come, and a cut link costs little.
const AT_ONCE: usize = 200;

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Packages looked at.
    pub(crate) looked_at: usize,
    /// Packages that are as they should be.
    pub(crate) good: usize,
    /// Packages that were sent again.
    pub(crate) repaired: usize,
    /// Packages that are not as they should be, now.
    pub(crate) wrong: usize,
    /// Of the good ones, those of which the files alone were verified: they were published without a tree file.
    pub(crate) files_only: usize,
    /// Packages that hold something that the target's own user may not read, and are otherwise as they should be.
    pub(crate) closed: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { looked_at, good, repaired, wrong, files_only, closed } = self;
        write!(f, "verified {looked_at} packages: {good} good, {repaired} repaired, {wrong} wrong")?;
        if *closed > 0 {
            write!(
                f,
                "\n{closed} packages have files or directories that their owner on the target may not read; these cannot be verified, and all else there is good"
            )?;
        }
        if *files_only > 0 {
            write!(
                f,
                "\nof {files_only} good packages only the files were verified: an older version published them, which did not record links, modes and directories"
            )?;
        }
        Ok(())
    }
}

/// The kind of finding about a package that cannot be read to its end, as it was sent.
const CLOSED: &str = "closed";

/// What is wrong with one package.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    /// In one word.
    kind: &'static str,
    why: String,
}

/// How much of a good package was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum VerifiedScope {
    Everything,
    FilesOnly,
}

/// What is wrong with a package, or how much of it was verified.
type Judgement = Result<VerifiedScope, Finding>;

impl SyncContext {
    /// Looks at all packages on the target, prints what is wrong with which, and with `repair` sends those again.
    pub(crate) async fn verify(&self, repair: bool) -> Result<Tally, Problem> {
        let inventory = self.target.inventory().await;
        let inventory = inventory.map_err(|error| unreached("cannot list the target's packages", error))?;
        let unsure = self.keep_off_the_source(&inventory.title).await?;
        let sight = Sight::of(&inventory, &WantedSet::new(), &[]);
        let bar = self.foreseen_bar(&inventory.title, sight, unsure).filter(Bar::is_about_owner);
        let packages: Vec<(PackageId, i64)> =
            inventory.packages.iter().map(|(package, time)| (package.clone(), *time)).collect();
        let mut tally = Tally::default();
        let mut wrong = Vec::new();
        for some in packages.chunks(AT_ONCE) {
            for (package, finding) in self.look_closely(some).await? {
                tally.looked_at += 1;
                match finding {
                    Ok(scope) => {
                        tally.good += 1;
                        tally.files_only += usize::from(scope == VerifiedScope::FilesOnly);
                    }
                    Err(Finding { kind, why }) => {
                        println!("{kind:<8}  {package}  {}", printable(&why));
                        // To send it again would change nothing: it was sent so.
                        if kind == CLOSED {
                            tally.closed += 1;
                        } else {
                            wrong.push(package);
                        }
                    }
                }
            }
        }
        if repair && !wrong.is_empty() {
            // The target claims what it holds: that alone must not have it sent what nobody wants there.
            let sendable = self.sendable().await?;
            tally.repaired = self.repair(&wrong, &sendable, bar.as_ref()).await;
        }
        tally.wrong = wrong.len() - tally.repaired;
        Ok(tally)
    }

    /// The target hashes its side while we hash ours.
    async fn look_closely(&self, some: &[(PackageId, i64)]) -> Result<Vec<(PackageId, Judgement)>, Problem> {
        let names: Vec<PackageId> = some.iter().map(|(package, _)| package.clone()).collect();
        let (source, target, here) = (self.source.clone(), self.target.clone(), some.to_vec());
        let hashing = tokio::task::spawn_blocking(move || {
            let by = |root: &Root| target.digests(root);
            let digest =
                |(package, time): (PackageId, i64)| Some((package.clone(), source.digests(&package, time, by)?));
            here.into_iter().filter_map(digest).collect::<BTreeMap<_, _>>()
        });
        let (verdicts, digests) = tokio::join!(self.target.verify(&names), hashing);
        let verdicts = verdicts.map_err(|error| unreached("cannot verify the target's packages", error))?;
        let digests = digests.map_err(|error| Problem {
            package: None,
            text: format!("reading the source failed: {error}"),
            retry: blat_domain::policy::retry::Backoff::PACKAGE,
        })?;
        let mut verdicts: BTreeMap<PackageId, Verdict> = verdicts.into_iter().collect();
        let silent = || Verdict::Unknown("the target did not say how it is".to_owned());
        let judged = names.into_iter().filter_map(|package| {
            let verdict = verdicts.remove(&package).unwrap_or_else(silent);
            let finding = judge(verdict, digests.get(&package))?;
            Some((package, finding))
        });
        Ok(judged.collect())
    }

    /// Sends packages in the place of what is there, and counts those that made it. What is not `sendable` is left as it
    /// is, and so is everything where a `bar` says that the archive may belong to somebody else.
    async fn repair(&self, wrong: &[PackageId], sendable: &BTreeSet<PackageId>, bar: Option<&Bar>) -> usize {
        let left = |package: &PackageId, why: &str| {
            println!("{:<8}  {package}  cannot be repaired: {}", "left", printable(why));
        };
        let mut items: Vec<TransferItem> = Vec::new();
        for package in wrong {
            if let Some(bar) = bar {
                left(package, &bar.cause());
                continue;
            }
            if !sendable.contains(package) {
                left(package, "nothing wants it on this target; pin it or drop a tag for it, or delete it there");
                continue;
            }
            match self.source.repair(package) {
                Ok(item) => items.push(item),
                Err(why) => left(package, &why),
            }
        }
        let mut repaired = 0;
        for (item, sent) in self.deliver(items).await {
            match sent {
                Sent::Done => {
                    println!("{:<8}  {}", "repaired", item.package);
                    repaired += 1;
                }
                Sent::Waiting(why) | Sent::Hopeless(why) => left(&item.package, &why),
                Sent::Failed(problem) => left(&item.package, &problem.text),
            }
        }
        repaired
    }
}

/// What the target says of a package, and what the source says where it has the same one. None for a package that went away meanwhile.
fn judge(verdict: Verdict, source: Option<&Result<Digests, String>>) -> Option<Judgement> {
    let finding = |kind, why: &str| Some(Err(Finding { kind, why: why.to_owned() }));
    let there = match verdict {
        Verdict::Absent => return None,
        Verdict::Bad(why) => return finding("bad", &why),
        Verdict::Closed(why) => return finding(CLOSED, &why),
        Verdict::Unknown(why) => return finding("unknown", &why),
        Verdict::Good(there) => there,
    };
    let scope = if there.tree.is_some() { VerifiedScope::Everything } else { VerifiedScope::FilesOnly };
    match source {
        Some(Err(why)) => finding("unread", why),
        Some(Ok(here)) if there.bytes != here.bytes => {
            finding("differs", "the source has other bytes under the same time of descpkg")
        }
        Some(Ok(here)) if there.tree.is_some() && there.tree != here.tree => {
            finding("differs", "the source has other links, modes or directories under the same time of descpkg")
        }
        Some(Ok(_)) | None => Some(Ok(scope)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(bytes: &str, tree: Option<&str>) -> Digests {
        Digests { bytes: bytes.to_owned(), tree: tree.map(str::to_owned) }
    }

    #[test]
    fn a_package_is_good_only_where_target_manifest_and_source_agree() {
        let kind = |verdict, source: Option<Result<&str, &str>>| {
            let source = source.map(|tree| tree.map(|tree| digests("ab", Some(tree))).map_err(str::to_owned));
            judge(verdict, source.as_ref()).map(|judgement| judgement.map_err(|finding| finding.kind))
        };
        let good = || Verdict::Good(digests("ab", Some("cd")));
        assert_eq!(kind(good(), Some(Ok("cd"))), Some(Ok(VerifiedScope::Everything)));
        assert_eq!(
            kind(good(), None),
            Some(Ok(VerifiedScope::Everything)),
            "the source need not keep what it has sent"
        );
        assert_eq!(kind(good(), Some(Ok("ef"))), Some(Err("differs")), "other links, modes or directories");
        assert_eq!(kind(Verdict::Good(digests("x", Some("cd"))), Some(Ok("cd"))), Some(Err("differs")), "other bytes");
        assert_eq!(kind(good(), Some(Err("closed"))), Some(Err("unread")));
        assert_eq!(kind(Verdict::Bad("a".into()), Some(Ok("cd"))), Some(Err("bad")));
        assert_eq!(kind(Verdict::Closed("a".into()), Some(Ok("cd"))), Some(Err("closed")));
        assert_eq!(kind(Verdict::Unknown("a".into()), None), Some(Err("unknown")));
        assert_eq!(kind(Verdict::Absent, None), None);
    }

    #[test]
    fn a_package_that_was_published_without_a_tree_file_is_judged_by_its_files_and_counted() {
        let source = Ok(digests("ab", Some("cd")));
        assert_eq!(judge(Verdict::Good(digests("ab", None)), Some(&source)), Some(Ok(VerifiedScope::FilesOnly)));
        let tally = Tally { looked_at: 3, good: 3, files_only: 2, ..Tally::default() };
        assert!(tally.to_string().contains("of 2 good packages only the files were verified"), "{tally}");
        assert!(!Tally::default().to_string().contains("only the files"));
    }
}
