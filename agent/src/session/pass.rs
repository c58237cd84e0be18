//! One tag's packages, portion by portion: a package that fails or is missing holds up none that stand after it.

use std::collections::BTreeMap;
use std::time::Duration;

use blat_domain::package::name::PackageId;
use blat_domain::package::tag::Packages;
use blat_domain::policy::retry::Backoff;

use super::tags::Leave;
use super::{Failure, Moment, Sent};

/// Tagged packages sent in one go: few enough that a burst of tags does not make the next one wait.
pub(super) const AT_ONCE: usize = 200;
/// A tag whose packages are missing is gone through again after so many times what that took, and after the longest of [`Backoff::TAG`]
/// at most.
const REST: u32 = 10;

/// What became of packages, and when.
pub(super) struct Outcome<'a> {
    pub(super) results: &'a BTreeMap<&'a PackageId, &'a Sent>,
    /// Whether the tag may wait longer for what is missing.
    pub(super) is_patient: bool,
    pub(super) now: Moment,
    pub(super) tag_poll: Duration,
    pub(super) chance: f64,
}

/// How a tag goes on.
pub(super) enum Next {
    /// More of its packages can be sent.
    More,
    /// It waits.
    Later(Failure),
    /// It leaves the directory.
    Leave(Leave),
}

/// One way through a tag's packages.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) packages: Packages,
    done: Vec<bool>,
    /// Where the way goes on, and when it began.
    next: usize,
    since: Moment,
    unsent: Option<UnsentPackage>,
    hopeless: Option<String>,
}

/// Why a package was not sent.
#[derive(Debug)]
struct UnsentPackage {
    package: PackageId,
    text: String,
    /// None where the source may get it at any time.
    retry: Option<Backoff>,
}

impl Pass {
    pub(super) fn new(packages: Packages, now: Moment) -> Self {
        let done = vec![false; packages.len()];
        Self { packages, done, next: 0, since: now, unsent: None, hopeless: None }
    }

    /// Nothing of it is done.
    pub(super) fn begin_again(&mut self, now: Moment) {
        let packages = std::mem::take(&mut self.packages);
        *self = Self::new(packages, now);
    }

    /// The next packages to send, and where the way goes on after them.
    pub(super) fn portion(&self) -> (Vec<PackageId>, usize) {
        let open = |index: &usize| !self.done[*index];
        let indexes: Vec<usize> = (self.next..self.done.len()).filter(open).take(AT_ONCE).collect();
        let upto = if indexes.len() < AT_ONCE { self.done.len() } else { indexes[AT_ONCE - 1] + 1 };
        (indexes.into_iter().filter_map(|index| self.packages.get(index)).collect(), upto)
    }

    pub(super) fn weight(&self) -> usize {
        self.packages.weight() + self.done.len()
    }

    /// Takes in what became of the packages before `upto`. Whether the way ends here, since others would fare no better.
    fn take(&mut self, upto: usize, results: &BTreeMap<&PackageId, &Sent>, is_patient: bool) -> bool {
        let mut stop = false;
        for index in self.next..upto.min(self.done.len()) {
            let Some(package) = self.packages.get(index).filter(|_| !self.done[index]) else { continue };
            match results.get(&package) {
                Some(Sent::Done) => self.done[index] = true,
                Some(Sent::Hopeless(why)) => drop(self.hopeless.get_or_insert(format!("{package}: {why}"))),
                Some(Sent::Waiting(why)) if !is_patient => {
                    self.hopeless.get_or_insert(format!("{package}: {why}, for more than a day"));
                }
                Some(Sent::Waiting(why)) => self.note(UnsentPackage { package, text: why.clone(), retry: None }),
                Some(Sent::Failed(problem)) => {
                    stop |= problem.package.is_none();
                    self.note(UnsentPackage { package, text: problem.text.clone(), retry: Some(problem.retry) });
                }
                None => {
                    stop = true;
                    let text = "the attempt to send it ended without a result; the log says more".to_owned();
                    self.note(UnsentPackage { package, text, retry: Some(Backoff::PACKAGE) });
                }
            }
        }
        self.next = upto;
        stop
    }

    /// Takes in what became of the packages before `upto`, and says how the tag goes on. `failures`: of the tag so far.
    pub(super) fn settle(&mut self, upto: usize, sent: &Outcome<'_>, failures: u32) -> Next {
        let stop = self.take(upto, sent.results, sent.is_patient);
        let at_end = !self.done.iter().skip(self.next).any(|done| !done);
        if !stop && !at_end {
            return Next::More;
        }
        let (unsent, took) = (self.unsent.take(), sent.now.saturating_sub(self.since));
        self.since = sent.now;
        if at_end {
            self.next = 0;
            if self.done.iter().all(|done| *done) {
                return Next::Leave(Leave::Consumed);
            }
            if let Some(why) = self.hopeless.take() {
                return Next::Leave(Leave::Failed(why));
            }
        }
        let Some(UnsentPackage { package, text, retry }) = unsent else { return Next::More };
        let rest = took.saturating_mul(REST).min(Backoff::TAG.longest);
        let wait = retry.map_or(rest.max(sent.tag_poll), |retry| retry.wait(failures.saturating_add(1), sent.chance));
        Next::Later(Failure { at: sent.now, package: Some(package), text, retry_at: sent.now + wait })
    }

    /// What failed says more than what only waits.
    fn note(&mut self, unsent: UnsentPackage) {
        if self.unsent.as_ref().is_none_or(|known| known.retry.is_none() && unsent.retry.is_some()) {
            self.unsent = Some(unsent);
        }
    }
}
