//! What a wanted link brings with it.
//!
//! Only links on the **source** bring anything. What a target claims of its links may spare what they address there (see
//! [`crate::policy::retention`]); it never makes a version wanted, or the target's owner could order whatever the source has.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::archive::inventory::Inventory;
use crate::package::links::LONGEST_CHAIN;
use crate::package::name::PackageId;
use crate::policy::plan::{Blocker, Source};
use crate::policy::release::{Reason, WantedSet};
use crate::util::merge_cursor::MergeCursor;

/// A wanted set with all that its links bring, and every package of it as the source has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Followed {
    /// What was wanted, and what it addresses.
    pub wanted: WantedSet,
    /// The packages of `wanted` as the source has them, but for those that it lacks and those that the target holds as they are: in a large
    /// archive that is nearly all of them.
    pub survey: BTreeMap<PackageId, Source>,
}

/// Follows the links among what is `wanted`, asking `look` for each package but those of which a glance has told that the target holds them as
/// they are: `glance` has the times of their `descpkg` at the source, as far as they are known, in the order of `wanted`.
///
/// A link that the source cannot show at the moment brings nothing, whatever the target says of it.
pub fn follow(
    wanted: WantedSet,
    glance: &[Option<i64>],
    inventory: &Inventory,
    look: impl FnMut(&PackageId) -> Source,
) -> Followed {
    let mut seen = Seen { survey: BTreeMap::new(), look };
    let mut refused = Vec::new();
    let mut brought = WantedSet::new();
    let mut held = MergeCursor::new(&inventory.packages);
    let times = glance.iter().copied().chain(std::iter::repeat(None));
    for ((package, reasons), time) in wanted.iter().zip(times) {
        if time.is_some() && held.get(package).copied() == time {
            continue;
        }
        let chain = match seen.chain(package, inventory) {
            Ok(chain) => chain,
            Err(hold) => {
                refused.push((package.clone(), Source::Held(hold)));
                continue;
            }
        };
        let mut from = package;
        for to in &chain {
            let why = brought.entry(to.clone()).or_default();
            why.insert(Reason::Link { from: from.clone() });
            // What a pinned link needs is as urgent as the link.
            why.extend(reasons.contains(&Reason::Pinned).then_some(Reason::Pinned));
            from = to;
        }
    }
    let mut followed = Followed { wanted, survey: seen.survey };
    followed.survey.extend(refused);
    for (package, reasons) in brought {
        followed.wanted.entry(package).or_default().merge(&reasons);
    }
    followed
}

struct Seen<F> {
    survey: BTreeMap<PackageId, Source>,
    look: F,
}

impl<F: FnMut(&PackageId) -> Source> Seen<F> {
    /// All that `package` addresses, one after the other up to a package; nothing for one that is no link.
    fn chain(&mut self, package: &PackageId, inventory: &Inventory) -> Result<Vec<PackageId>, Blocker> {
        let mut chain = vec![package.clone()];
        while let Some(to) = self.next(&chain[chain.len() - 1], inventory) {
            let refuse = |why: String| Blocker::BadLink { to: chain.get(1).unwrap_or(&to).version.to_string(), why };
            if chain.contains(&to) {
                return Err(refuse(format!("it comes back to {to}; make it end at a package")));
            }
            if chain.len() > LONGEST_CHAIN {
                return Err(refuse(format!(
                    "more than {LONGEST_CHAIN} links follow each other; make the chain shorter"
                )));
            }
            chain.push(to);
        }
        chain.remove(0);
        Ok(chain)
    }

    fn next(&mut self, package: &PackageId, inventory: &Inventory) -> Option<PackageId> {
        let look = &mut self.look;
        let source = match self.survey.entry(package.clone()) {
            Entry::Occupied(seen) => seen.into_mut(),
            Entry::Vacant(place) => match look(package) {
                Source::Ready { time, .. } if inventory.packages.get(package) == Some(&time) => return None,
                // Releases may list a million that are not there: what no table has is missing.
                Source::Held(Blocker::Missing) => return None,
                source => place.insert(source),
            },
        };
        match source {
            Source::Link { to } => Some(PackageId { name: package.name.clone(), version: to.clone() }),
            Source::Ready { .. } | Source::Held(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::name::Version;
    use crate::policy::plan::Size;
    use proptest::prelude::*;

    fn id(text: &str) -> PackageId {
        text.parse().expect("a package")
    }

    /// A source of links `(VERSION, TO)` of package `p`; every other version is a package.
    fn source(links: &[(&str, &str)]) -> impl FnMut(&PackageId) -> Source {
        let links: BTreeMap<PackageId, Version> =
            links.iter().map(|(from, to)| (id(&format!("p@{from}")), to.parse().expect("a version"))).collect();
        move |package| match links.get(package) {
            Some(to) => Source::Link { to: to.clone() },
            None => Source::Ready { time: 1, size: Size::default() },
        }
    }

    fn wanted(version: &str, reason: Reason) -> WantedSet {
        WantedSet::from([(id(&format!("p@{version}")), [reason].into())])
    }

    #[test]
    fn a_wanted_link_brings_its_whole_chain_and_says_why() {
        let found = follow(wanted("a", Reason::Pinned), &[], &Inventory::default(), source(&[("a", "b"), ("b", "1")]));
        let versions: Vec<String> = found.wanted.keys().map(PackageId::to_string).collect();
        assert_eq!(versions, ["p@1", "p@a", "p@b"]);
        assert_eq!(found.wanted[&id("p@1")], [Reason::Link { from: id("p@b") }, Reason::Pinned].into());
    }

    #[test]
    fn what_a_glance_finds_to_be_as_the_target_has_it_is_looked_at_no_more() {
        let held = [("p@1", 5), ("p@2", 5), ("p@3", 5)].map(|(package, time)| (id(package), time));
        let inventory = Inventory { packages: held.into(), ..Inventory::default() };
        let wanted: WantedSet =
            ["p@1", "p@2", "p@3", "p@4", "p@5"].map(|package| (id(package), [Reason::Tag].into())).into();
        // As the target has it; with another time; not to be told by a glance; nothing that the target has; and nothing known of the rest.
        let glance = [Some(5), Some(6), None, Some(5)];
        let mut looked = Vec::new();
        let look = |package: &PackageId| {
            looked.push(package.to_string());
            Source::Ready { time: 5, size: Size::default() }
        };
        let found = follow(wanted.clone(), &glance, &inventory, look);
        assert_eq!(looked, ["p@2", "p@3", "p@4", "p@5"]);
        assert_eq!(found.wanted, wanted);
        assert_eq!(found.survey.into_keys().collect::<Vec<_>>(), [id("p@4"), id("p@5")]);
    }

    #[test]
    fn loops_and_long_chains_are_refused_naming_link_and_addressee() {
        let held = |links: &[(&str, &str)], version: &str| {
            let found = follow(wanted(version, Reason::Tag), &[], &Inventory::default(), source(links));
            assert_eq!(found.wanted.len(), 1, "a refused link brings nothing");
            match found.survey[&id(&format!("p@{version}"))].clone() {
                Source::Held(hold) => hold.to_string(),
                other @ (Source::Ready { .. } | Source::Link { .. }) => panic!("{other:?}"),
            }
        };
        let refusal = held(&[("a", "b"), ("b", "a")], "a");
        assert!(refusal.contains("link to \"b\"") && refusal.contains("comes back to p@a"), "{refusal}");
        assert!(held(&[("a", "a")], "a").contains("comes back"));

        let texts: Vec<String> = (0..=9).map(|n| format!("l{n}")).collect();
        let links: Vec<(&str, &str)> = texts.windows(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();
        assert!(held(&links, "l0").contains("more than 8 links"));
        let shorter = follow(wanted("l1", Reason::Tag), &[], &Inventory::default(), source(&links));
        assert_eq!(shorter.wanted.len(), LONGEST_CHAIN + 1);
    }

    #[test]
    fn what_a_target_claims_of_its_links_makes_nothing_wanted() {
        let links = [("a", "2.0-embargoed"), ("1.0", "2.0-embargoed"), ("2.0-embargoed", "3")];
        let links = links.map(|(from, to)| (id(&format!("p@{from}")), to.to_owned())).into();
        let inventory = Inventory { packages: [(id("p@2.0-embargoed"), 7)].into(), links, ..Inventory::default() };
        for hold in [Blocker::Missing, Blocker::Incomplete, Blocker::Unusable { why: "unreadable".into() }] {
            let look = |package: &PackageId| match package.version.as_str() {
                "a" | "1.0" => Source::Held(hold.clone()),
                _ => Source::Ready { time: 1, size: Size::default() },
            };
            for version in ["a", "1.0"] {
                let found = follow(wanted(version, Reason::Tag), &[], &inventory, look);
                assert_eq!(found.wanted, wanted(version, Reason::Tag), "{hold}");
            }
        }
    }

    proptest! {
        #[test]
        fn following_always_ends_and_brings_what_every_accepted_link_addresses(
            to in proptest::collection::vec(0usize..14, 12), first in 0usize..12,
        ) {
            let look = |package: &PackageId| match to.get(package.version.as_str().parse::<usize>().expect("a number")) {
                Some(to) => Source::Link { to: to.to_string().parse().expect("a version") },
                None => Source::Ready { time: 1, size: Size::default() },
            };
            let found = follow(wanted(&first.to_string(), Reason::Tag), &[], &Inventory::default(), look);
            let mut steps = 0;
            let mut package = id(&format!("p@{first}"));
            while let Source::Link { to } = &found.survey[&package] {
                package = id(&format!("p@{to}"));
                prop_assert!(found.wanted.contains_key(&package));
                steps += 1;
                prop_assert!(steps <= LONGEST_CHAIN);
            }
        }
    }
}
