//! A target's machine: an archive, marks, a PackageList, a clock that somebody sets, hands that delete. What its scripts refuse, it refuses;
//! and it knows the true time, so it notices when something is lost too early.

use std::collections::{BTreeMap, BTreeSet};

use blat_domain::archive::inventory::{Inventory, Mark};
use blat_domain::package::name::PackageId;
use blat_domain::policy::plan::Link;
use blat_tests::Dice;

/// By how many seconds `pkg_purge` lets its clock be wrong against the uptime.
const MOST_WRONG: u64 = 600;
/// And how old it lets the last sync be where it has no uptime to compare with.
const MOST_OLD: i64 = 691_200;

/// A mark, and what nobody on the target can know of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Marked {
    pub(crate) mark: Mark,
    /// The true time at which it was made.
    pub(crate) made: i64,
    /// By how many seconds the clock was wrong then.
    pub(crate) offset: i64,
}

/// One target.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    pub(crate) packages: BTreeMap<PackageId, i64>,
    pub(crate) links: BTreeMap<PackageId, String>,
    pub(crate) marks: BTreeMap<PackageId, Marked>,
    /// What the PackageList names; none before the first.
    pub(crate) list: Option<BTreeSet<PackageId>>,
    /// By how many seconds its clock is wrong.
    pub(crate) offset: i64,
    /// Which start of the machine this is.
    pub(crate) boot: u64,
    /// When the list was stored last: by the clock, truly, and at which start.
    synced: Option<(i64, i64, u64)>,
    /// What hands took away and nobody has brought back.
    pub(crate) robbed: BTreeSet<PackageId>,
}

impl Machine {
    /// The clock, when it is truly `now`.
    pub(crate) fn clock(&self, now: i64) -> i64 {
        now + self.offset
    }

    /// What `get_plist` says.
    pub(crate) fn listing(&self, now: i64) -> Inventory {
        let marks = self.marks.iter().map(|(package, marked)| (package.clone(), marked.mark)).collect();
        let (packages, links, clock) = (self.packages.clone(), self.links.clone(), Some(self.clock(now)));
        Inventory { packages, links, marks, clock, ..Inventory::default() }
    }

    /// Whether something lies in a version's place.
    pub(crate) fn has(&self, package: &PackageId) -> bool {
        self.packages.contains_key(package) || self.links.contains_key(package)
    }

    /// Publishes a package.
    pub(crate) fn receive(&mut self, package: &PackageId, time: i64) {
        self.packages.insert(package.clone(), time);
        self.robbed.remove(package);
    }

    /// Puts a link, which must not dangle.
    pub(crate) fn link(&mut self, link: &Link) {
        assert!(self.has(&link.addressee()), "{} is put before {} is there", link.package, link.addressee());
        self.links.insert(link.package.clone(), link.to.to_string());
        self.robbed.remove(&link.package);
    }

    /// Replaces the PackageList, which must tell the truth.
    pub(crate) fn store_list(&mut self, list: BTreeSet<PackageId>, now: i64) {
        self.list = Some(list);
        self.synced = Some((self.clock(now), now, self.boot));
        self.check_list();
    }

    /// The PackageList names nothing that is not there, but for what hands took.
    pub(crate) fn check_list(&self) {
        for package in self.list.iter().flatten() {
            assert!(
                self.has(package) || self.robbed.contains(package),
                "the PackageList names {package}, which is gone"
            );
        }
    }

    /// Marks a package; whether it is there.
    pub(crate) fn mark(&mut self, package: &PackageId, wait: u64, now: i64) -> bool {
        if !self.has(package) {
            return false;
        }
        let at = self.clock(now);
        let fresh = Marked { mark: Mark { at, wait }, made: now, offset: self.offset };
        match self.marks.get_mut(package) {
            Some(marked) if marked.mark.at <= at => marked.mark.wait = wait,
            Some(_) | None => drop(self.marks.insert(package.clone(), fresh)),
        }
        true
    }

    /// Deletes a package that the list does not name, was not replaced meanwhile and, where it has to be `due`, has waited. Whether it did.
    pub(crate) fn delete(&mut self, package: &PackageId, time: Option<i64>, is_due: bool, now: i64) -> bool {
        let is_listed = self.list.as_ref().is_none_or(|list| list.contains(package));
        let is_changed = time.is_some() && self.packages.get(package).copied() != time;
        if is_listed || is_changed || !self.has(package) || is_due && !self.has_waited(package, now) {
            return false;
        }
        self.packages.remove(package);
        self.links.remove(package);
        self.marks.remove(package);
        self.check_list();
        true
    }

    fn has_waited(&self, package: &PackageId, now: i64) -> bool {
        self.marks.get(package).is_some_and(|Marked { mark, .. }| {
            u64::try_from(self.clock(now) - mark.at).is_ok_and(|waited| waited >= mark.wait)
        })
    }

    /// What `pkg_purge` would delete: nothing by a clock that was set since the last sync, as far as it can tell.
    pub(crate) fn due(&self, now: i64) -> Vec<PackageId> {
        let Some((clock, then, boot)) = self.synced else { return Vec::new() };
        let passed = self.clock(now) - clock;
        let is_doubted = match boot == self.boot {
            true => passed.abs_diff(now - then) > MOST_WRONG,
            false => passed > MOST_OLD,
        };
        if is_doubted || passed < -(MOST_WRONG as i64) {
            return Vec::new();
        }
        self.marks.keys().filter(|package| self.has_waited(package, now)).cloned().collect()
    }

    /// By how many seconds the clock was set since the last sync.
    pub(crate) fn set_since_sync(&self, now: i64) -> u64 {
        self.synced.map_or(0, |(clock, then, _)| (self.clock(now) - clock).abs_diff(now - then))
    }

    /// Somebody on the target does something to the archive, or to a mark.
    pub(crate) fn meddle(&mut self, dice: &mut Dice) {
        fn any<V>(map: &BTreeMap<PackageId, V>, dice: &mut Dice) -> Option<PackageId> {
            let index = dice.below(map.len().max(1) as u64) as usize;
            map.keys().nth(index).cloned()
        }
        match dice.below(4) {
            0 => {
                if let Some(link) = any(&self.links, dice) {
                    self.links.remove(&link);
                    self.robbed.insert(link);
                }
            }
            1 => {
                if let Some(link) = any(&self.links, dice) {
                    self.links.insert(link, "0".into());
                }
            }
            2 => {
                if let Some(package) = any(&self.marks, dice) {
                    self.marks.remove(&package);
                }
            }
            _ => {
                if let Some(package) = any(&self.packages, dice) {
                    self.packages.remove(&package);
                    self.robbed.insert(package);
                }
            }
        }
    }
}
