//! What a sync will do, decided before anything is touched: `blat plan` prints the very value that the agent executes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::archive::inventory::{Foreign, Inventory};
use crate::package::links::{LONGEST_CHAIN, addressee};
use crate::package::name::{PackageId, Version};
use crate::policy::capacity::SpaceLimit;
use crate::policy::ownership::Bar;
use crate::policy::release::{Reason, Reasons, WantedSet};
use crate::policy::retention::Upkeep;
use crate::util::merge_cursor::MergeCursor;
use crate::util::text::printable;
use crate::util::units::{show_duration, show_size};

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
    Held(Blocker),
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
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.entries = self.entries.saturating_add(other.entries);
    }
}

/// Why a wanted package is not sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "hold", rename_all = "snake_case")]
pub enum Blocker {
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
        limit: SpaceLimit,
        /// What it takes, in bytes.
        needs: u64,
        /// How much of that is missing after everything before it, in bytes.
        short: u64,
    },
    /// The target holds another one in its place, which only the archive's owner replaces.
    Conflict {
        /// What the target holds, and what keeps us from replacing it.
        why: String,
    },
    /// It cannot be read or sent.
    Unusable {
        /// Why.
        why: String,
    },
}

impl Blocker {
    /// Whether this passes by itself, as part of how packages come to be. Anything else is a failure that somebody should see.
    pub fn is_waiting(&self) -> bool {
        match self {
            // Its addressee is held too, and says why.
            Self::Incomplete | Self::Writable { .. } | Self::Unaddressed { .. } => true,
            Self::Missing
            | Self::BadLink { .. }
            | Self::NoRoom { .. }
            | Self::Conflict { .. }
            | Self::Unusable { .. } => false,
        }
    }
}

impl fmt::Display for Blocker {
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
                    SpaceLimit::Disk => ("the target's disk", "make space there, or lower disk_reserve"),
                    SpaceLimit::Archive => ("max_size", "raise it, or want less"),
                };
                let (needs, short) = (show_size(*needs), show_size(*short));
                write!(f, "does not fit: it takes {needs}, {short} more than {what} leaves for it; {advice}")
            }
            Self::Unaddressed { to } => write!(f, "waits: it is a link to {to}, which is not there yet"),
            Self::Conflict { why } => write!(f, "conflict: {why}"),
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
    pub hold: Blocker,
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

    /// Leaves what is there to the archive's owner where that may be somebody else: two home trees with different packages of one name would
    /// replace each other's at every sync. What is not there is still sent.
    pub fn leave_to_owner(&mut self, bar: &Bar) {
        if !bar.is_about_owner() {
            return;
        }
        let held = |package: PackageId, there: &str| Held {
            package,
            hold: Blocker::Conflict { why: format!("{there}, and it is not replaced: {}", bar.cause()) },
        };
        let replaces = |step: &Step| step.action == Action::Replace;
        let steps = self.steps.extract_if(.., |step| replaces(step));
        self.held.extend(steps.map(|step| held(step.package, "the target holds one with another time of descpkg")));
        let links = self.links.extract_if(.., |link| link.instead_of.is_some());
        self.held.extend(links.map(|link| {
            let there = link.instead_of.as_deref().map(printable).unwrap_or_default();
            held(link.package, &format!("the target holds a link to {there}"))
        }));
    }

    /// Leaves to the archive's owner all that is his alone, and says what keeps us from it.
    pub fn bar(&mut self, bar: Bar) {
        self.leave_to_owner(&bar);
        self.upkeep.bar(bar);
    }
}

/// The steps that bring a target that holds `inventory` to hold all of `wanted`. `survey` has every wanted package as
/// the source has it, but for those that it lacks and those that are to stay as they are, and `wanted` everything that its links address (see
/// [`crate::policy::follow::follow`]).
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
    let mut held = MergeCursor::new(&inventory.packages);
    for (package, reasons) in wanted {
        let there = held.get(package).copied();
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
            Some(Source::Held(hold @ Blocker::BadLink { .. })) => {
                plan.held.push(Held { package: package.clone(), hold: hold.clone() });
            }
            // What the target holds is immutable and complete: it counts even while the source cannot show it.
            Some(Source::Held(_)) | None if there.is_some() || arrives(package, inventory, survey) => plan.present += 1,
            Some(Source::Held(hold)) => plan.held.push(Held { package: package.clone(), hold: hold.clone() }),
            None => plan.held.push(Held { package: package.clone(), hold: Blocker::Missing }),
        }
    }
    // Releases may list a million that are missing, and the plan stays until the sync ends.
    plan.held.shrink_to_fit();
    plan.steps.sort_by_key(|step| !step.reasons.contains(&Reason::Pinned));
    plan.links.sort_by_key(|link| hops(&link.package, inventory, survey));
    let mut wanted = MergeCursor::new(wanted);
    plan.excess = inventory.packages.keys().filter(|package| wanted.get(package).is_none()).cloned().collect();
    plan
}

/// The link to put, without its reasons; none where it is there as it should be.
fn link(
    package: &PackageId,
    to: &Version,
    inventory: &Inventory,
    survey: &BTreeMap<PackageId, Source>,
) -> Result<Option<Link>, Blocker> {
    if inventory.packages.contains_key(package) {
        let why = "the target holds a package in its place; delete that one there first".to_owned();
        return Err(Blocker::BadLink { to: to.to_string(), why });
    }
    let instead_of = inventory.links.get(package).cloned();
    let link = Link { package: package.clone(), to: to.clone(), instead_of, reasons: Reasons::default() };
    let addressee = link.addressee();
    if !arrives(&addressee, inventory, survey) {
        return Err(Blocker::Unaddressed { to: addressee });
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
mod tests;
