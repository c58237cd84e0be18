//! What a sync will do, decided before anything is touched: `blat plan` prints the very value that the agent executes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::inventory::{Foreign, Inventory};
use crate::links::{LONGEST_CHAIN, addressee};
use crate::name::{PackageId, Version};
use crate::release::{Reason, Reasons, WantedSet};
use crate::retention::Upkeep;
use crate::room::Limit;
use crate::text::printable;
use crate::units::{show_duration, show_size};

/// A package as the source has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Complete and released.
    Ready {
        /// Modification time of its `descpkg`, in whole epoch seconds.
        time: i64,
        /// How much it is; zero for a package that the target holds already, which nobody measures.
        size: Size,
    },
    /// The version is a symbolic link to another version of the same package.
    Link {
        /// What it addresses.
        to: Version,
    },
    /// It cannot be sent now.
    Held(Hold),
}

/// How much a package is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Bytes of all its files.
    pub bytes: u64,
    /// Files, directories and links below its root.
    pub entries: u64,
}

impl std::ops::AddAssign for Size {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.entries += other.entries;
    }
}

/// Why a wanted package is not sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "hold", rename_all = "snake_case")]
pub enum Hold {
    /// The source has no such directory.
    Missing,
    /// Its directory is there, its `descpkg` not yet.
    Incomplete,
    /// Somebody may still be writing it.
    Writable {
        /// Seconds until it is taken for finished although it is writable.
        ready_in: u64,
    },
    /// The version is a symbolic link that is never sent.
    BadLink {
        /// What it addresses, as the source has it.
        to: String,
        /// Why it is refused, and what to do.
        why: String,
    },
    /// The version is a symbolic link to something that neither is on the target nor can be sent there now.
    Unaddressed {
        /// What it addresses.
        to: PackageId,
    },
    /// The target has no room for it.
    NoRoom {
        /// What is in the way.
        limit: Limit,
        /// What it takes, in bytes.
        needs: u64,
        /// How much of that is missing after everything before it, in bytes.
        short: u64,
    },
    /// It cannot be read or sent.
    Unusable {
        /// Why.
        why: String,
    },
}

impl Hold {
    /// Whether this passes by itself, as part of how packages come to be. Anything else is a failure that somebody should see.
    pub fn is_waiting(&self) -> bool {
        match self {
            // Its addressee is held too, and says why.
            Self::Incomplete | Self::Writable { .. } | Self::Unaddressed { .. } => true,
            Self::Missing | Self::BadLink { .. } | Self::NoRoom { .. } | Self::Unusable { .. } => false,
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("the source has no such package"),
            Self::Incomplete => f.write_str("waits: the source has no descpkg for it yet"),
            Self::Writable { ready_in } => {
                write!(
                    f,
                    "waits: still writable at the source; sent when read-only, or in {}",
                    show_duration(Duration::from_secs(*ready_in))
                )
            }
            Self::BadLink { to, why } => {
                write!(f, "the version is a link to \"{}\", which cannot be sent: {why}", printable(to))
            }
            Self::NoRoom { limit, needs, short } => {
                let (what, advice) = match limit {
                    Limit::Disk => ("the target's disk", "make space there, or lower disk_reserve"),
                    Limit::Archive => ("max_size", "raise it, or want less"),
                };
                let (needs, short) = (show_size(*needs), show_size(*short));
                write!(f, "does not fit: it takes {needs}, {short} more than {what} leaves for it; {advice}")
            }
            Self::Unaddressed { to } => write!(f, "waits: it is a link to {to}, which is not there yet"),
            Self::Unusable { why } => f.write_str(why),
        }
    }
}

/// One thing to do to one package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What to do.
    pub action: Action,
    /// With which package.
    pub package: PackageId,
    /// Modification time of its `descpkg` at the source, in epoch seconds.
    pub time: i64,
    /// How much it is.
    #[serde(flatten)]
    pub size: Size,
    /// Why it is wanted.
    pub reasons: Reasons,
}

/// What can be done to a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The target lacks it.
    Send,
    /// The target has it with another `descpkg` time: the source wins.
    Replace,
}

/// A symbolic link to be put in the place of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The version that is a link.
    pub package: PackageId,
    /// The version of the same package that it addresses.
    pub to: Version,
    /// What it addresses on the target now, where there is one.
    pub instead_of: Option<String>,
    /// Why it is wanted.
    pub reasons: Reasons,
}

impl Link {
    /// The package or link that it addresses.
    pub fn addressee(&self) -> PackageId {
        PackageId { name: self.package.name.clone(), version: self.to.clone() }
    }
}

/// A wanted package that is not sent now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Which.
    pub package: PackageId,
    /// Why.
    #[serde(flatten)]
    pub hold: Hold,
}

/// A whole sync.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// How many packages are wanted.
    pub wanted: u64,
    /// How many of them the target holds as they are.
    pub present: u64,
    /// What to do, in this order.
    pub steps: Vec<Step>,
    /// Links to put once all steps are done, each after what it addresses.
    #[serde(default)]
    pub links: Vec<Link>,
    /// What is wanted and cannot be sent now.
    pub held: Vec<Held>,
    /// Packages on the target that nothing wants.
    pub excess: Vec<PackageId>,
    /// Releases and projects in the config that Release Manager does not know.
    pub unknown: Vec<String>,
    /// When the snapshot was taken that stands in for Release Manager, where that could not be asked: nothing is deleted
    /// or marked by it.
    pub snapshot: Option<Timestamp>,
    /// What becomes of extra packages.
    #[serde(default)]
    pub upkeep: Upkeep,
    /// What the target holds that is not ours: it is left alone.
    #[serde(default)]
    pub foreign: Foreign,
}

impl Plan {
    /// All that the steps will send.
    pub fn size(&self) -> Size {
        let mut size = Size::default();
        self.steps.iter().for_each(|step| size += step.size);
        size
    }

    /// Whether the target will hold all that is wanted once the steps are done, so that its PackageList may say so.
    pub fn is_complete(&self) -> bool {
        self.held.is_empty() && self.unknown.is_empty()
    }
}

/// The steps that bring a target that holds `inventory` to hold all of `wanted`. `survey` has every wanted package as
/// the source has it, but for those that are to stay as they are, and `wanted` everything that its links address (see
/// [`crate::links::follow`]).
///
/// Pinned packages come first, then the order is that of names and versions, so that versions of one package are neighbours in the stream.
pub fn plan(
    wanted: &WantedSet,
    inventory: &Inventory,
    survey: &BTreeMap<PackageId, Source>,
    unknown: Vec<String>,
) -> Plan {
    let foreign = inventory.foreign.clone();
    let mut plan = Plan { wanted: wanted.len() as u64, unknown, foreign, ..Plan::default() };
    for (package, reasons) in wanted {
        let there = inventory.packages.get(package).copied();
        match survey.get(package) {
            Some(Source::Ready { time, .. }) if there == Some(*time) => plan.present += 1,
            Some(Source::Ready { time, size }) => plan.steps.push(Step {
                action: if there.is_some() { Action::Replace } else { Action::Send },
                package: package.clone(),
                time: *time,
                size: *size,
                reasons: reasons.clone(),
            }),
            Some(Source::Link { to }) => match link(package, to, inventory, survey) {
                Ok(None) => plan.present += 1,
                Ok(Some(link)) => plan.links.push(Link { reasons: reasons.clone(), ..link }),
                Err(hold) => plan.held.push(Held { package: package.clone(), hold }),
            },
            // A link that must not be is told even where the target has an older one, which stays.
            Some(Source::Held(hold @ Hold::BadLink { .. })) => {
                plan.held.push(Held { package: package.clone(), hold: hold.clone() });
            }
            // What the target holds is immutable and complete: it counts even while the source cannot show it.
            Some(Source::Held(_)) | None if arrives(package, inventory, survey) => plan.present += 1,
            Some(Source::Held(hold)) => plan.held.push(Held { package: package.clone(), hold: hold.clone() }),
            None => plan.held.push(Held { package: package.clone(), hold: Hold::Missing }),
        }
    }
    plan.steps.sort_by_key(|step| !step.reasons.contains(&Reason::Pinned));
    plan.links.sort_by_key(|link| hops(&link.package, inventory, survey));
    plan.excess = inventory.packages.keys().filter(|package| !wanted.contains_key(package)).cloned().collect();
    plan
}

/// The link to put, without its reasons; none where it is there as it should be.
fn link(
    package: &PackageId,
    to: &Version,
    inventory: &Inventory,
    survey: &BTreeMap<PackageId, Source>,
) -> Result<Option<Link>, Hold> {
    if inventory.packages.contains_key(package) {
        let why = "the target holds a package in its place; delete that one there first".to_owned();
        return Err(Hold::BadLink { to: to.to_string(), why });
    }
    let instead_of = inventory.links.get(package).cloned();
    let link = Link { package: package.clone(), to: to.clone(), instead_of, reasons: Reasons::default() };
    let addressee = link.addressee();
    if !arrives(&addressee, inventory, survey) {
        return Err(Hold::Unaddressed { to: addressee });
    }
    let stands = link.instead_of.as_deref() == Some(to.as_str());
    Ok((!stands).then_some(link))
}

/// What a version is once all is sent.
enum Leads {
    /// A package.
    There,
    /// A link to this one.
    To(Version),
    /// Nothing.
    Nowhere,
}

/// By the source, and where that cannot show the version, by the target.
fn leads(package: &PackageId, inventory: &Inventory, survey: &BTreeMap<PackageId, Source>) -> Leads {
    match survey.get(package) {
        Some(Source::Ready { .. }) => Leads::There,
        Some(Source::Link { to }) => Leads::To(to.clone()),
        Some(Source::Held(_)) | None if inventory.packages.contains_key(package) => Leads::There,
        Some(Source::Held(_)) | None => {
            let to = inventory.links.get(package).and_then(|to| addressee(package, to).ok());
            to.map_or(Leads::Nowhere, Leads::To)
        }
    }
}

/// Whether a package, or the one at the end of a chain of links, is on the target or about to be sent there.
fn arrives(package: &PackageId, inventory: &Inventory, survey: &BTreeMap<PackageId, Source>) -> bool {
    let mut package = package.clone();
    for _ in 0..=LONGEST_CHAIN {
        match leads(&package, inventory, survey) {
            Leads::There => return true,
            Leads::To(version) => package.version = version,
            Leads::Nowhere => return false,
        }
    }
    false
}

/// How many links follow each other from this one on, those that stay as they are on the target among them.
fn hops(package: &PackageId, inventory: &Inventory, survey: &BTreeMap<PackageId, Source>) -> usize {
    let mut package = package.clone();
    let mut hops = 0;
    while let Leads::To(version) = leads(&package, inventory, survey)
        && hops <= LONGEST_CHAIN
    {
        package.version = version;
        hops += 1;
    }
    hops
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::follow;
    use proptest::prelude::*;

    fn id(n: u8) -> PackageId {
        format!("p{}@{}", n / 4, n % 4).parse().expect("a package")
    }

    fn ready(time: i64) -> Source {
        Source::Ready { time, size: Size { bytes: 10, entries: 1 } }
    }

    fn link_to(n: u8) -> Source {
        Source::Link { to: id(n).version }
    }

    fn any_wanted() -> impl Strategy<Value = WantedSet> {
        proptest::collection::btree_map(0u8..24, any::<bool>(), 0..20).prop_map(|map| {
            map.into_iter().map(|(n, pin)| (id(n), [if pin { Reason::Pinned } else { Reason::Tag }].into())).collect()
        })
    }

    fn any_inventory() -> impl Strategy<Value = Inventory> {
        let there = prop_oneof![4 => (0i64..3).prop_map(Ok), 1 => (0u8..4).prop_map(Err)];
        proptest::collection::btree_map(0u8..24, there, 0..20).prop_map(|map| {
            let mut inventory = Inventory::default();
            for (n, there) in map {
                match there {
                    Ok(time) => drop(inventory.packages.insert(id(n), time)),
                    Err(to) => drop(inventory.links.insert(id(n), id(to).version.to_string())),
                }
            }
            inventory
        })
    }

    fn any_survey() -> impl Strategy<Value = BTreeMap<PackageId, Source>> {
        let source = prop_oneof![
            4 => (0i64..3).prop_map(ready),
            2 => (0u8..4).prop_map(link_to),
            1 => Just(Source::Held(Hold::Incomplete)),
            1 => Just(Source::Held(Hold::Missing)),
        ];
        proptest::collection::btree_map((0u8..24).prop_map(id), source, 0..24)
    }

    fn apply(plan: &Plan, inventory: &Inventory) -> Inventory {
        let mut after = inventory.clone();
        after.packages.extend(plan.steps.iter().map(|step| (step.package.clone(), step.time)));
        after.links.extend(plan.links.iter().map(|link| (link.package.clone(), link.to.to_string())));
        after
    }

    /// A plan the way the agent makes it, with the wanted set that it is for.
    fn planned(wanted: &WantedSet, inventory: &Inventory, survey: &BTreeMap<PackageId, Source>) -> (Plan, WantedSet) {
        let look = |package: &PackageId| survey.get(package).cloned().unwrap_or(Source::Held(Hold::Missing));
        let all = follow(wanted.clone(), inventory, look);
        (plan(&all.wanted, inventory, &all.survey, vec![]), all.wanted)
    }

    /// Whether a version is a package, or a link that leads to one.
    fn stands(package: &PackageId, inventory: &Inventory) -> bool {
        let mut package = package.clone();
        (0..=LONGEST_CHAIN).any(|_| {
            let there = inventory.packages.contains_key(&package);
            if let Some(to) = inventory.links.get(&package) {
                package.version = to.parse().expect("a version");
            }
            there
        })
    }

    #[test]
    fn a_link_comes_after_what_a_link_of_the_target_leads_to() {
        let wanted = WantedSet::from([(id(0), [Reason::Tag].into())]);
        let version = |n| id(n).version;
        let inventory = Inventory {
            packages: [(id(1), 0)].into(),
            links: [(id(3), version(2).to_string())].into(),
            ..Inventory::default()
        };
        // The source cannot show the third, which on the target leads to the second.
        let survey = [(id(0), link_to(3)), (id(2), link_to(1))].into();
        let (plan, _) = planned(&wanted, &inventory, &survey);
        assert_eq!(plan.links.iter().map(|link| &link.package).collect::<Vec<_>>(), [&id(2), &id(0)]);
    }

    proptest! {
        #[test]
        fn applying_a_plan_leaves_nothing_to_do(wanted in any_wanted(), inventory in any_inventory(), survey in any_survey()) {
            let (first, _) = planned(&wanted, &inventory, &survey);
            let (second, _) = planned(&wanted, &apply(&first, &inventory), &survey);
            prop_assert!(second.steps.is_empty() && second.links.is_empty(), "{:?} {:?}", second.steps, second.links);
            prop_assert_eq!(second.held, first.held);
        }

        #[test]
        fn every_wanted_package_is_present_sent_linked_or_held_and_nothing_else_is_touched(
            wanted in any_wanted(), inventory in any_inventory(), survey in any_survey(),
        ) {
            let (plan, wanted) = planned(&wanted, &inventory, &survey);
            prop_assert_eq!(plan.present as usize + plan.steps.len() + plan.links.len() + plan.held.len(), wanted.len());
            prop_assert!(plan.steps.iter().all(|step| wanted.contains_key(&step.package)));
            prop_assert!(plan.links.iter().all(|link| wanted.contains_key(&link.package)));
            prop_assert!(plan.excess.iter().all(|package| !wanted.contains_key(package)));
        }

        #[test]
        fn a_complete_plan_leaves_all_that_is_wanted(wanted in any_wanted(), inventory in any_inventory(), survey in any_survey()) {
            let (plan, wanted) = planned(&wanted, &inventory, &survey);
            let after = apply(&plan, &inventory);
            prop_assert!(!plan.is_complete() || wanted.keys().all(|package| stands(package, &after)));
        }

        #[test]
        fn every_link_comes_after_what_it_addresses(wanted in any_wanted(), inventory in any_inventory(), survey in any_survey()) {
            let (plan, _) = planned(&wanted, &inventory, &survey);
            let mut now = apply(&Plan { links: vec![], ..plan.clone() }, &inventory);
            for link in &plan.links {
                prop_assert!(stands(&link.addressee(), &now), "{} before {}", link.package, link.to);
                now.links.insert(link.package.clone(), link.to.to_string());
            }
        }

        #[test]
        fn pinned_packages_go_first(wanted in any_wanted(), survey in any_survey()) {
            let (plan, _) = planned(&wanted, &Inventory::default(), &survey);
            let pins: Vec<bool> = plan.steps.iter().map(|step| step.reasons.contains(&Reason::Pinned)).collect();
            prop_assert!(pins.is_sorted_by(|a, b| a >= b));
        }
    }

    #[test]
    fn a_link_is_put_when_it_is_gone_or_leads_elsewhere_and_left_alone_otherwise() {
        let wanted = WantedSet::from([(id(0), [Reason::Pinned].into())]);
        let survey = BTreeMap::from([(id(0), link_to(1)), (id(1), ready(5))]);
        for (there, put) in [(None, true), (Some(2), true), (Some(1), false)] {
            let inventory = Inventory {
                packages: [(id(1), 5), (id(2), 5)].into(),
                links: there.map(|n| (id(0), id(n).version.to_string())).into_iter().collect(),
                ..Inventory::default()
            };
            let (plan, _) = planned(&wanted, &inventory, &survey);
            assert_eq!((plan.links.len() == 1, plan.steps.len()), (put, 0), "{there:?}");
        }
    }

    #[test]
    fn another_descpkg_time_in_either_direction_replaces() {
        let wanted = WantedSet::from([(id(0), [Reason::Pinned].into())]);
        for (there, action) in [(4, Some(Action::Replace)), (5, None), (6, Some(Action::Replace))] {
            let inventory = Inventory { packages: [(id(0), there)].into(), ..Inventory::default() };
            let plan = plan(&wanted, &inventory, &[(id(0), ready(5))].into(), vec![]);
            assert_eq!(plan.steps.first().map(|step| step.action), action);
        }
    }

    #[test]
    fn a_held_package_that_the_target_has_is_not_missed() {
        let wanted = WantedSet::from([(id(0), [Reason::Pinned].into())]);
        let inventory = Inventory { packages: [(id(0), 4)].into(), ..Inventory::default() };
        let plan = plan(&wanted, &inventory, &[(id(0), Source::Held(Hold::Missing))].into(), vec![]);
        assert!(plan.is_complete() && plan.present == 1);
    }
}
