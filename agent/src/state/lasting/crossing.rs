//! What tags bring and what a sync takes away at this moment, so that neither lane works on a package that the other one has in hand.
//!
//! A tag must not be served by a package that is about to go: its file would be consumed, and nothing would bring the package back where the agent
//! ends or the link breaks in that moment. Whoever comes second gives way: a batch leaves out what tags are bringing, and a tag waits for the batch
//! that has its package. Where the batch's answer is lost, the lock on the target, which a bucket has not, makes the one wait for the other.

use std::collections::BTreeSet;

use blat_domain::package::name::PackageId;
use tokio::sync::watch;

/// Both lanes of one target, whatever settings they follow.
#[derive(Debug, Default)]
pub(crate) struct Crossing(watch::Sender<InHand>);

#[derive(Debug, Default)]
struct InHand {
    /// Of each piece of work for tags.
    arriving: Vec<BTreeSet<PackageId>>,
    /// Of the batch in hand.
    leaving: BTreeSet<PackageId>,
}

/// Packages that tags are bringing, until this is dropped.
pub(crate) struct Arriving<'a> {
    crossing: &'a Crossing,
    packages: BTreeSet<PackageId>,
}

/// Packages of one batch that is marked or deleted, until this is dropped.
pub(crate) struct Leaving<'a> {
    crossing: &'a Crossing,
    packages: BTreeSet<PackageId>,
}

impl Crossing {
    /// Tags bring these packages: no batch has them from now on, nor any more once this is there.
    pub(crate) async fn arrive(&self, packages: &BTreeSet<PackageId>) -> Arriving<'_> {
        self.0.send_modify(|in_hand| in_hand.arriving.push(packages.clone()));
        let arriving = Arriving { crossing: self, packages: packages.clone() };
        // Its sender lives as long as this.
        let _ = self.0.subscribe().wait_for(|in_hand| in_hand.leaving.is_disjoint(packages)).await;
        arriving
    }

    /// The next batch, which is to have these packages: without those that tags are bringing. Lanes have one batch at a time.
    pub(crate) fn leave(&self, packages: impl Iterator<Item = PackageId>) -> Leaving<'_> {
        let mut packages: BTreeSet<PackageId> = packages.collect();
        self.0.send_modify(|in_hand| {
            packages.retain(|package| !in_hand.arriving.iter().any(|arriving| arriving.contains(package)));
            in_hand.leaving.extend(packages.iter().cloned());
        });
        Leaving { crossing: self, packages }
    }

    /// Whether a tag waits for a batch.
    #[cfg(test)]
    pub(crate) fn makes_wait(&self) -> bool {
        let in_hand = self.0.borrow();
        in_hand.arriving.iter().any(|arriving| !arriving.is_disjoint(&in_hand.leaving))
    }
}

impl Leaving<'_> {
    /// Whether the batch has this package.
    pub(crate) fn has(&self, package: &PackageId) -> bool {
        self.packages.contains(package)
    }
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        self.crossing.0.send_modify(|in_hand| {
            if let Some(index) = in_hand.arriving.iter().position(|arriving| *arriving == self.packages) {
                in_hand.arriving.swap_remove(index);
            }
        });
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.crossing.0.send_modify(|in_hand| in_hand.leaving.retain(|package| !self.packages.contains(package)));
    }
}
