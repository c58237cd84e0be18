//! What is known of a target's packages between two listings.

use std::collections::BTreeMap;
use std::sync::Arc;

use blat_domain::archive::inventory::{Inventory, MOST_MEMORY, TooLarge};
use blat_domain::archive::listing_digest::USUAL;
use blat_domain::package::name::{PackageId, PackageName, Version};

/// What the last listing said, and what was published since: the next one brings only what differs.
#[derive(Debug, Default)]
pub(super) struct KnownListing {
    inventory: Arc<Inventory>,
    /// Of the inventory, unless it has changed since: they are asked for at each listing, and mostly nothing has changed.
    digests: Option<Vec<[u8; 16]>>,
}

impl KnownListing {
    /// The digests that a listing is compared with.
    pub(super) fn digests(&mut self) -> Vec<[u8; 16]> {
        self.digests.get_or_insert_with(|| self.inventory.digests(USUAL)).clone()
    }

    /// The versions of one package, with the times of their `descpkg`.
    pub(super) fn versions(&self, name: &PackageName) -> BTreeMap<Version, i64> {
        self.inventory.versions(name)
    }

    /// Takes in a listing, and forgets before what these buckets had. Gives all that is known then, with so many bytes of the target's disk taken.
    ///
    /// # Errors
    /// [`TooLarge`] where a target has listed more in several listings than it may in one; then nothing is known any more.
    pub(super) fn renew(&mut self, differing: &[u16], news: Inventory, taken: u64) -> Result<Arc<Inventory>, TooLarge> {
        let has_news = !differing.is_empty() || news.memory() > 0;
        let inventory = Arc::make_mut(&mut self.inventory);
        inventory.empty_buckets(differing, USUAL);
        inventory.merge(news);
        inventory.free = inventory.free.map(|free| free.saturating_sub(taken));
        if has_news {
            self.digests = None;
            if inventory.memory() > MOST_MEMORY {
                *self = Self::default();
                return Err(TooLarge);
            }
        }
        Ok(self.inventory.clone())
    }

    /// Takes in packages that have just been published.
    pub(super) fn note(&mut self, published: impl IntoIterator<Item = (PackageId, i64)>) {
        self.digests = None;
        Arc::make_mut(&mut self.inventory).packages.extend(published);
    }
}

#[cfg(test)]
mod tests {
    use blat_domain::archive::inventory::Listing;
    use blat_domain::archive::listing_digest::bucket;

    use super::*;

    fn listing(lines: &str) -> Inventory {
        let mut listing = Listing::default();
        lines.lines().for_each(|line| listing.add_line(line).expect("a short listing"));
        listing.finish()
    }

    #[test]
    fn a_target_that_lists_ever_more_is_refused_and_forgotten() {
        let mut known = KnownListing::default();
        let refused = (0..100).find(|part| {
            let lines: String = (0..20_000).map(|n| format!("package p{part}_{n} 1 5\n")).collect();
            known.renew(&[], listing(&lines), 0).is_err()
        });
        assert!((5..20).contains(&refused.expect("an end")), "{refused:?}");
        assert_eq!(known.digests(), KnownListing::default().digests());
    }

    #[test]
    fn the_digests_are_always_those_of_what_is_known() {
        let mut known = KnownListing::default();
        let empty = known.digests();
        let number = |name| u16::try_from(bucket(name, USUAL).expect("a bucket")).expect("a number");

        let all = known.renew(&[number("a")], listing("package a 1 5\nfree 100\n"), 0).expect("room");
        let listed = known.digests();
        assert_ne!(listed, empty);
        assert_eq!(listed, all.digests(USUAL));

        known.note([("b@1".parse().expect("a package"), 6)]);
        let published = known.digests();
        assert_ne!(published, listed);
        assert_eq!(published, known.renew(&[], listing(""), 0).expect("room").digests(USUAL));

        known.renew(&[number("b")], listing(""), 0).expect("room");
        assert_eq!(known.digests(), listed);
        let all = known.renew(&[], listing("free 90\n"), 40).expect("room");
        assert_eq!((known.digests(), all.free), (listed, Some(50)));
    }
}
