//! What a sync will do, decided before anything is touched: `blat plan` prints the very value that the agent executes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::inventory::Inventory;
use crate::name::PackageId;
use crate::release::{Reason, WantedSet};
use crate::retention::Upkeep;
use crate::text::printable;
use crate::units::show_duration;

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
    /// The version is a symbolic link, which this release of Blat does not send.
    Linked {
        /// What it addresses.
        to: String,
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
            Self::Incomplete | Self::Writable { .. } => true,
            Self::Missing | Self::Linked { .. } | Self::Unusable { .. } => false,
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
            Self::Linked { to } => {
                write!(
                    f,
                    "the version is a symbolic link to \"{}\"; linked versions are not available yet",
                    printable(to)
                )
            }
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
    pub reasons: BTreeSet<Reason>,
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
    /// What is wanted and cannot be sent now.
    pub held: Vec<Held>,
    /// Packages on the target that nothing wants.
    pub excess: Vec<PackageId>,
    /// Releases and projects in the config that Release Manager does not know.
    pub unknown: Vec<String>,
    /// What becomes of extra packages.
    #[serde(default)]
    pub upkeep: Upkeep,
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
/// the source has it.
///
/// Pinned packages come first, then the order is that of names and versions, so that versions of one package are neighbours in the stream.
pub fn plan(
    wanted: &WantedSet,
    inventory: &Inventory,
    survey: &BTreeMap<PackageId, Source>,
    unknown: Vec<String>,
) -> Plan {
    let mut plan = Plan { wanted: wanted.len() as u64, unknown, ..Plan::default() };
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
            // What the target holds is immutable and complete: it counts even while the source cannot show it.
            Some(Source::Held(_)) | None if there.is_some() => plan.present += 1,
            Some(Source::Held(hold)) => plan.held.push(Held { package: package.clone(), hold: hold.clone() }),
            None => plan.held.push(Held { package: package.clone(), hold: Hold::Missing }),
        }
    }
    plan.steps.sort_by_key(|step| !step.reasons.contains(&Reason::Pinned));
    plan.excess = inventory.packages.keys().filter(|package| !wanted.contains_key(package)).cloned().collect();
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: u8) -> PackageId {
        format!("p{}@{}", n / 4, n % 4).parse().expect("a package")
    }

    fn ready(time: i64) -> Source {
        Source::Ready { time, size: Size { bytes: 10, entries: 1 } }
    }

    fn any_wanted() -> impl Strategy<Value = WantedSet> {
        proptest::collection::btree_map(0u8..24, any::<bool>(), 0..20).prop_map(|map| {
            map.into_iter().map(|(n, pin)| (id(n), [if pin { Reason::Pinned } else { Reason::Tag }].into())).collect()
        })
    }

    fn any_inventory() -> impl Strategy<Value = Inventory> {
        proptest::collection::btree_map(0u8..24, 0i64..3, 0..20).prop_map(|map| Inventory {
            packages: map.into_iter().map(|(n, time)| (id(n), time)).collect(),
            ..Inventory::default()
        })
    }

    fn any_survey() -> impl Strategy<Value = BTreeMap<PackageId, Source>> {
        let source = prop_oneof![
            4 => (0i64..3).prop_map(ready),
            1 => Just(Source::Held(Hold::Incomplete)),
            1 => Just(Source::Held(Hold::Missing)),
        ];
        proptest::collection::btree_map((0u8..24).prop_map(id), source, 0..24)
    }

    fn apply(plan: &Plan, inventory: &Inventory) -> Inventory {
        let mut after = inventory.clone();
        after.packages.extend(plan.steps.iter().map(|step| (step.package.clone(), step.time)));
        after
    }

    proptest! {
        #[test]
        fn applying_a_plan_leaves_nothing_to_do(wanted in any_wanted(), inventory in any_inventory(), survey in any_survey()) {
            let first = plan(&wanted, &inventory, &survey, vec![]);
            let second = plan(&wanted, &apply(&first, &inventory), &survey, vec![]);
            prop_assert!(second.steps.is_empty(), "{:?}", second.steps);
            prop_assert_eq!(second.held, first.held);
        }

        #[test]
        fn every_wanted_package_is_present_sent_or_held_and_nothing_else_is_touched(
            wanted in any_wanted(), inventory in any_inventory(), survey in any_survey(),
        ) {
            let plan = plan(&wanted, &inventory, &survey, vec![]);
            prop_assert_eq!(plan.present as usize + plan.steps.len() + plan.held.len(), wanted.len());
            prop_assert!(plan.steps.iter().all(|step| wanted.contains_key(&step.package)));
            prop_assert!(plan.excess.iter().all(|package| !wanted.contains_key(package)));
        }

        #[test]
        fn a_complete_plan_leaves_all_that_is_wanted(wanted in any_wanted(), inventory in any_inventory(), survey in any_survey()) {
            let plan = plan(&wanted, &inventory, &survey, vec![]);
            let after = apply(&plan, &inventory);
            let all_there = wanted.keys().all(|package| after.packages.contains_key(package));
            prop_assert!(!plan.is_complete() || all_there);
        }

        #[test]
        fn pinned_packages_go_first(wanted in any_wanted(), survey in any_survey()) {
            let plan = plan(&wanted, &Inventory::default(), &survey, vec![]);
            let pins: Vec<bool> = plan.steps.iter().map(|step| step.reasons.contains(&Reason::Pinned)).collect();
            prop_assert!(pins.is_sorted_by(|a, b| a >= b));
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
