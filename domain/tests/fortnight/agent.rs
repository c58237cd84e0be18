//! One target with its agent: cycles in the agent's own order, out of the decisions that the agent takes too. Whatever is done is judged
//! here by what is truly wanted at that moment.

use std::collections::{BTreeMap, BTreeSet};

use blat_domain::archive::inventory::Inventory;
use blat_domain::archive::package_list;
use blat_domain::package::name::PackageId;
use blat_domain::policy::capacity::Capacity;
use blat_domain::policy::clock::{Doubt, MOST_APART, MOST_GAINED, Reading, doubt};
use blat_domain::policy::follow::{Followed, follow};
use blat_domain::policy::guard::MaxDelete;
use blat_domain::policy::listing::{self, left_out};
use blat_domain::policy::plan::{Action as Send, Plan, plan};
use blat_domain::policy::release::{Catalog, KnownReleases, Reason, Resolution, Selection, WantedSet, resolve};
use blat_domain::policy::retention::{
    Aging, AgingAction, AgingReason, AgingStep, Circumstances, Deleter, Distrust, decide, is_newer,
};
use blat_domain::policy::why;
use blat_domain::protocol::history::{HistoryEntry, Operation};
use blat_tests::Dice;
use jiff::Timestamp;

use crate::machine::Machine;
use crate::manager::Manager;
use crate::weather::{Mood, Weather};

/// Release Manager's word may trail behind its tags for so many seconds.
const TRAILS: i64 = 86_400;

/// A target, its agent, and what that remembers.
pub(crate) struct Site {
    pub(crate) name: &'static str,
    pub(crate) selection: Selection,
    pub(crate) aging: Aging,
    pub(crate) max_delete: MaxDelete,
    pub(crate) machine: Machine,
    /// What was done, as `blat history` shows it.
    pub(crate) history: Vec<HistoryEntry>,
    /// Tags that wait, with the time at which they were dropped.
    pub(crate) tags: BTreeMap<PackageId, i64>,
    /// Whether the last cycle waits for an operator: the guard refused it, or it missed a release.
    pub(crate) is_refused: bool,
    /// How often the guard did.
    pub(crate) refusals: u64,
    tagged: BTreeMap<PackageId, i64>,
    reading: Option<Reading>,
    snapshot: Option<(Timestamp, Catalog)>,
    /// Releases that brought packages.
    releases: KnownReleases,
    /// What was wanted truly when Release Manager answered well and the target was told last.
    known: BTreeSet<PackageId>,
    /// By how many seconds the clock was set in all, in steps that no look can notice.
    unnoticed: u64,
}

/// A plan and what it was made from.
pub(crate) struct Prepared {
    pub(crate) plan: Plan,
    pub(crate) wanted: WantedSet,
    pub(crate) inventory: Inventory,
    resolution: Resolution,
    /// What is known of releases once all is done.
    releases: KnownReleases,
    known_up_to: i64,
}

impl Site {
    /// A target that holds nothing yet.
    pub(crate) fn new(name: &'static str, selection: Selection, aging: Aging, max_delete: MaxDelete) -> Self {
        Self {
            name,
            selection,
            aging,
            max_delete,
            machine: Machine::default(),
            history: Vec::new(),
            tags: BTreeMap::new(),
            is_refused: false,
            refusals: 0,
            tagged: BTreeMap::new(),
            reading: None,
            snapshot: None,
            releases: KnownReleases::default(),
            known: BTreeSet::new(),
            unnoticed: 0,
        }
    }

    /// A look at everything, and the plan; none where something cannot be looked at.
    pub(crate) fn prepare(
        &mut self,
        manager: &Manager,
        weather: &Weather,
        now: i64,
        is_confirmed: bool,
    ) -> Option<Prepared> {
        let (catalog, snapshot) = match weather.answer(&manager.catalog, &self.releases) {
            Some(catalog) => (catalog, None),
            None => self.snapshot.clone().map(|(taken, catalog)| (catalog, Some(taken)))?,
        };
        if weather.listing_fails || weather.source_is_gone {
            return None;
        }
        let mut inventory = self.machine.listing(now);
        if weather.clock_is_silent {
            inventory.clock = None;
        }
        let resolution = Resolution { snapshot, ..resolve(&catalog, &self.selection, &self.releases) };
        if snapshot.is_none() && resolution.unknown.is_empty() && !resolution.wanted.is_empty() {
            let taken = Timestamp::from_second(now).expect("a time");
            self.snapshot = Some((taken, catalog.clone()));
        }
        let Followed { wanted, survey } =
            follow(resolution.wanted.clone(), &[], &inventory, |package| manager.look(package));
        let mut plan = plan(&wanted, &inventory, &survey, resolution.unknown.clone());
        plan.snapshot = resolution.snapshot;
        plan.fit(Capacity { disk: weather.room, ..Capacity::default() });
        let clock_doubt = match inventory.clock {
            None => Some(Doubt::Untold),
            Some(clock) => doubt(self.reading.as_ref(), &self.read(clock, now)),
        };
        plan.upkeep = decide(&Circumstances {
            aging: self.aging,
            max_delete: self.max_delete,
            is_confirmed,
            wanted: &wanted,
            inventory: &inventory,
            clock_doubt,
            distrust: Distrust::of(&resolution, plan.is_complete(), is_confirmed),
            tagged: &self.tagged,
            known_up_to: now - TRAILS,
        });
        let releases = match snapshot {
            Some(_) => self.releases.clone(),
            None => self.releases.after(&catalog, &self.selection, &resolution, is_confirmed),
        };
        Some(Prepared { plan, wanted, inventory, resolution, releases, known_up_to: now - TRAILS })
    }

    fn read(&self, clock: i64, now: i64) -> Reading {
        Reading { target: clock, master: now, boot: self.machine.boot.to_string(), uptime: now as u64 }
    }

    /// One cycle; whether all of it succeeded.
    pub(crate) fn sync(&mut self, manager: &Manager, weather: &mut Weather, now: i64, dice: &mut Dice) -> bool {
        let truth = manager.wanted(&self.selection);
        let is_confirmed = self.is_refused && matches!(weather.mood, Mood::Well) && dice.below(4) > 0;
        let Some(prepared) = self.prepare(manager, weather, now, is_confirmed) else { return false };
        let is_refused = prepared.plan.upkeep.refusal.is_some();
        self.refusals += u64::from(is_refused);
        // Release Manager drops closed releases: where no sync has seen one closed, it is missed, and the operator looks and finds that it is right.
        let is_missed = prepared.plan.upkeep.distrust == Some(Distrust::Vanished);
        self.is_refused = is_refused || (is_missed && matches!(weather.mood, Mood::Well));
        self.explain(&prepared);
        let mut is_good = prepared.resolution.unknown.is_empty();
        let is_unmarked = self.unmark(&prepared, weather, now);
        if is_unmarked && matches!(weather.mood, Mood::Well) {
            self.known.clone_from(&truth);
        }
        is_good &= is_unmarked;
        is_good &= self.deliver(&prepared.plan, weather, now, dice);
        if !is_good || !prepared.plan.is_complete() || weather.list_fails {
            return false;
        }
        let former = self.machine.list.clone().unwrap_or_default();
        let mut stays = left_out(former.clone(), &prepared.wanted, &prepared.inventory);
        if !prepared.plan.upkeep.keeps_listed() {
            stays.clear();
        }
        let text = package_list::render(listing::listed(&prepared.wanted, &stays));
        let listed = package_list::parse(&text).expect("a whole list");
        assert!(listed.packages.is_sorted(), "the PackageList is not sorted");
        let listed: BTreeSet<PackageId> = listed.packages.into_iter().collect();
        let lost = former.iter().find(|package| {
            truth.contains(package) && !listed.contains(package) && prepared.inventory.packages.contains_key(package)
        });
        assert!(lost.is_none(), "{}: its PackageList lost {lost:?}, which is wanted", self.name);
        self.machine.store_list(listed, now);
        let by_release = |reason: &Reason| matches!(reason, Reason::Release { .. });
        let wanted = &prepared.wanted;
        let is_listed = |package: &PackageId| wanted.get(package).is_some_and(|why| why.iter().any(by_release));
        self.tagged.retain(|package, at| is_newer(*at, prepared.known_up_to) && !is_listed(package));
        let is_aged = self.age(&prepared, &truth, weather, now, dice);
        if is_aged {
            self.releases = prepared.releases;
        }
        is_aged
    }

    /// Marks go first. Only then the clock is believed: no mark is left that it made.
    fn unmark(&mut self, prepared: &Prepared, weather: &Weather, now: i64) -> bool {
        let steps: Vec<&AgingStep> =
            prepared.plan.upkeep.steps.iter().filter(|step| step.action == AgingAction::Unmark).collect();
        if weather.marking_fails && !steps.is_empty() {
            return false;
        }
        for step in steps {
            self.machine.marks.remove(&step.package);
            self.note(Operation::Unmarked, &step.package, step.why.to_string(), now);
        }
        let Some(clock) = prepared.inventory.clock else { return true };
        let reading = self.read(clock, now);
        // After a look that was doubted itself no mark is left.
        let believed = |before: &&Reading| before.target.abs_diff(before.master) <= MOST_APART;
        if doubt(self.reading.as_ref(), &reading).is_none()
            && let Some(before) = self.reading.as_ref().filter(believed)
        {
            let set = ((clock - now) - (before.target - before.master)).unsigned_abs();
            let most = if before.boot == reading.boot { MOST_GAINED } else { 2 * MOST_APART };
            assert!(set <= most, "a clock that was set by {set} s was believed");
            self.unnoticed += set;
        }
        self.reading = Some(reading);
        true
    }

    fn deliver(&mut self, plan: &Plan, weather: &Weather, now: i64, dice: &mut Dice) -> bool {
        let mut is_good = true;
        for step in &plan.steps {
            if weather.spoils_a_transfer(dice) {
                is_good = false;
                self.note(Operation::Failed, &step.package, "the link broke".into(), now);
                continue;
            }
            self.machine.receive(&step.package, step.time);
            let deed = if step.action == Send::Send { Operation::Sent } else { Operation::Replaced };
            self.note(deed, &step.package, String::new(), now);
        }
        for link in &plan.links {
            // The target refuses a link whose addressee did not arrive.
            if !self.machine.has(&link.addressee()) || weather.spoils_a_transfer(dice) {
                is_good = false;
                continue;
            }
            self.machine.link(link);
            self.note(Operation::Linked, &link.package, link.to.to_string(), now);
        }
        is_good
    }

    /// Marks and deletes, after all else succeeded.
    fn age(
        &mut self,
        prepared: &Prepared,
        truth: &BTreeSet<PackageId>,
        weather: &mut Weather,
        now: i64,
        dice: &mut Dice,
    ) -> bool {
        let upkeep = &prepared.plan.upkeep;
        self.machine.offset += std::mem::take(&mut weather.jump_midway);
        for step in &upkeep.steps {
            if weather.marking_fails {
                return false;
            }
            if weather.tags_midway && dice.below(4) == 0 {
                // It is there, so the tag has nothing to send.
                self.tagged.insert(step.package.clone(), now);
            }
            if self.tagged.get(&step.package).is_some_and(|at| is_newer(*at, prepared.known_up_to)) {
                continue;
            }
            match step.action {
                AgingAction::Unmark => {}
                AgingAction::Mark { wait } => {
                    self.may_go(step, prepared, truth);
                    if self.machine.mark(&step.package, wait, now) {
                        self.note(Operation::Marked, &step.package, step.why.to_string(), now);
                    }
                }
                AgingAction::Delete { time } => self.delete(step, time, prepared, truth, now),
            }
        }
        upkeep.refusal.is_none()
    }

    fn delete(
        &mut self,
        step: &AgingStep,
        time: Option<i64>,
        prepared: &Prepared,
        truth: &BTreeSet<PackageId>,
        now: i64,
    ) {
        let is_due = matches!(step.why, AgingReason::Waited { .. });
        let marked = self.machine.marks.get(&step.package).copied();
        if self.machine.delete(&step.package, time, is_due, now) {
            self.may_go(step, prepared, truth);
            if let Aging::After { wait, .. } = self.aging {
                let marked = marked.expect("a mark that has waited");
                assert!(is_due, "{} goes without having waited", step.package);
                let believed = prepared.inventory.clock.expect("a clock to age by") - now;
                let slack = self.unnoticed + marked.offset.abs_diff(believed);
                self.has_waited(&step.package, wait.as_secs(), now - marked.made, slack);
            }
            self.note(Operation::Deleted, &step.package, step.why.to_string(), now);
        }
    }

    /// What must hold of every package that is marked or deleted, at that very moment.
    fn may_go(&self, step: &AgingStep, prepared: &Prepared, truth: &BTreeSet<PackageId>) {
        let (site, package) = (self.name, &step.package);
        assert!(!truth.contains(package), "{site}: {package} is wanted, and {:?}", step.action);
        assert!(!self.selection.pinned.contains(package), "{site}: {package} is pinned");
        let Prepared { plan, resolution, inventory, .. } = prepared;
        assert!(
            resolution.snapshot.is_none() && resolution.odd.is_empty(),
            "{site}: {package} goes by an old or unsure answer"
        );
        assert!(plan.is_complete() && plan.upkeep.refusal.is_none(), "{site}: {package} goes in a cycle that failed");
        let by_marks = matches!(self.aging, Aging::After { .. });
        assert!(!by_marks || inventory.clock.is_some(), "{site}: {package} ages without a clock");
    }

    fn has_waited(&self, package: &PackageId, wait: u64, truly: i64, slack: u64) {
        let early = wait.saturating_sub(truly.unsigned_abs());
        assert!(early <= slack, "{}: {package} goes {early} s too early; clocks account for {slack} s", self.name);
    }

    /// `pkg_purge`, as cron runs it: alone, and whatever the weather.
    pub(crate) fn purge(&mut self, now: i64) {
        if !matches!(self.aging, Aging::After { by: Deleter::Target, .. }) {
            return;
        }
        for package in self.machine.due(now) {
            let marked = self.machine.marks[&package];
            if self.machine.delete(&package, None, true, now) {
                assert!(!self.known.contains(&package), "{}: pkg_purge took {package}, which is wanted", self.name);
                let slack =
                    self.unnoticed + self.machine.set_since_sync(now) + self.offset_against_belief(marked.offset);
                self.has_waited(&package, marked.mark.wait, now - marked.made, slack);
            }
        }
    }

    fn offset_against_belief(&self, offset: i64) -> u64 {
        self.reading.as_ref().map_or(0, |reading| offset.abs_diff(reading.target - reading.master))
    }

    /// Sends what tags ask for, and what that addresses.
    pub(crate) fn serve_tags(&mut self, manager: &Manager, weather: &Weather, now: i64, dice: &mut Dice) {
        self.tags.retain(|_, dropped| now - *dropped < TRAILS);
        for package in self.tags.keys().cloned().collect::<Vec<_>>() {
            self.tagged.insert(package.clone(), now);
            let wanted = WantedSet::from([(package.clone(), [Reason::Tag].into())]);
            let nothing = Inventory::default();
            let Followed { wanted, survey } = follow(wanted, &[], &nothing, |package| manager.look(package));
            let plan = plan(&wanted, &nothing, &survey, Vec::new());
            if self.deliver(&plan, weather, now, dice) && plan.is_complete() {
                self.tags.remove(&package);
            }
        }
    }

    /// Every extra package has its answer in this very cycle, and it is that of the plan.
    fn explain(&self, prepared: &Prepared) {
        let upkeep = &prepared.plan.upkeep;
        for package in &prepared.plan.excess {
            let answer = self.why(package, prepared);
            let is_unwanted = answer.reasons.is_empty() && answer.there == why::There::Package;
            assert!(is_unwanted, "{}: {answer:?}", self.name);
            let stays_for_a_reason =
                upkeep.distrust.is_some() || upkeep.clock_doubt.is_some() || upkeep.refusal.is_some();
            let is_told = match answer.next {
                why::Next::Age { .. } | why::Next::Spare | why::Next::Wait(_) => true,
                why::Next::Stay => stays_for_a_reason || self.is_addressed(package, prepared),
                why::Next::Nothing
                | why::Next::Send(_)
                | why::Next::Replace(_)
                | why::Next::Link(_)
                | why::Next::Hold(_) => false,
            };
            assert!(is_told, "{}: {answer:?}", self.name);
        }
    }

    fn is_addressed(&self, package: &PackageId, prepared: &Prepared) -> bool {
        prepared.inventory.links.iter().any(|(link, to)| link.name == package.name && *to == package.version.as_str())
    }

    /// The answer of `blat why`.
    pub(crate) fn why(&self, package: &PackageId, prepared: &Prepared) -> why::Why {
        why::why(package, &prepared.plan, &prepared.wanted, &prepared.resolution.kept_out, &prepared.inventory)
    }

    fn note(&mut self, deed: Operation, package: &PackageId, detail: String, now: i64) {
        let at = Timestamp::from_second(now).expect("a time");
        let detail = (!detail.is_empty()).then_some(detail);
        self.history.push(HistoryEntry {
            at,
            deed,
            package: Some(package.clone()),
            bytes: 0,
            after_tag_ms: None,
            detail,
        });
    }
}
