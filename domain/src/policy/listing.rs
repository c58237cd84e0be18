//! What the PackageList names beside what is wanted.
//!
//! Another master may take the list as its Release Manager, and `pkg_purge` deletes what it does not name. So what a sync does not trust enough to
//! mark or delete by, it does not leave out of the list either: there the former list stands.

use std::collections::BTreeSet;

use crate::archive::inventory::Inventory;
use crate::package::links::{LONGEST_CHAIN, addressee};
use crate::package::name::PackageId;
use crate::policy::release::WantedSet;

/// What the former list named, is still there, and a list of what is wanted alone would leave out.
pub fn left_out(
    former: impl IntoIterator<Item = PackageId>,
    wanted: &WantedSet,
    inventory: &Inventory,
) -> BTreeSet<PackageId> {
    let is_left_out = |package: &PackageId| !wanted.contains_key(package) && is_there(package, inventory);
    former.into_iter().filter(is_left_out).collect()
}

/// Whether a package is there, or a link that leads to one: a target stores no list that names anything else.
fn is_there(package: &PackageId, inventory: &Inventory) -> bool {
    let mut package = package.clone();
    for _ in 0..=LONGEST_CHAIN {
        if inventory.packages.contains_key(&package) {
            return true;
        }
        match inventory.links.get(&package).and_then(|to| addressee(&package, to).ok()) {
            Some(version) => package.version = version,
            None => return false,
        }
    }
    false
}

/// What the new list names, in its order: what is wanted, and what `stays` listed.
pub fn listed<'a>(wanted: &'a WantedSet, stays: &'a BTreeSet<PackageId>) -> impl Iterator<Item = &'a PackageId> {
    let (mut wanted, mut stays) = (wanted.keys().peekable(), stays.iter().peekable());
    std::iter::from_fn(move || match (wanted.peek(), stays.peek()) {
        (Some(first), Some(second)) if first == second => {
            stays.next();
            wanted.next()
        }
        (Some(first), Some(second)) if second < first => stays.next(),
        (Some(_), _) => wanted.next(),
        (None, _) => stays.next(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(names: &[&str]) -> BTreeSet<PackageId> {
        names.iter().map(|name| name.parse().expect("a package")).collect()
    }

    fn wanted(names: &[&str]) -> WantedSet {
        packages(names).into_iter().map(|package| (package, Default::default())).collect()
    }

    #[test]
    fn only_what_the_former_list_named_and_is_there_is_left_out() {
        let links = [("a@current", "2"), ("a@broken", "9"), ("a@round", "round"), ("a@new", "2")];
        let inventory = Inventory {
            packages: packages(&["a@1", "a@2", "b@1", "tagged@1"]).into_iter().map(|package| (package, 5)).collect(),
            links: links.map(|(link, to)| (link.parse().expect("a link"), to.to_owned())).into(),
            ..Inventory::default()
        };
        let former = packages(&["a@1", "a@2", "a@broken", "a@current", "a@round", "gone@1"]);
        assert_eq!(left_out(former, &wanted(&["a@1", "b@1"]), &inventory), packages(&["a@2", "a@current"]));
    }

    #[test]
    fn a_list_is_sorted_and_names_each_package_once() {
        let (wanted, stays) = (wanted(&["a@10", "b@1", "d@1"]), packages(&["a@2", "b@1", "c@1", "e@1"]));
        let named: Vec<PackageId> = listed(&wanted, &stays).cloned().collect();
        assert!(named.is_sorted());
        assert_eq!(named.into_iter().collect::<BTreeSet<_>>(), packages(&["a@2", "a@10", "b@1", "c@1", "d@1", "e@1"]));
        assert_eq!(listed(&wanted, &stays).count(), 6);
        assert_eq!(listed(&wanted, &BTreeSet::new()).count(), 3);
    }
}
