//! Why a package is, or is not, on a target: read off the plan that a sync would carry out, so that the answer and the deed never differ.

use serde::{Deserialize, Serialize};

use super::retention;
use crate::archive::inventory::{Inventory, Mark};
use crate::package::name::{PackageId, Version};
use crate::policy::plan::{Action, Blocker, Plan, Size};
use crate::policy::release::{Reasons, WantedSet};

/// The answer for one package on one target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// Which package.
    pub package: PackageId,
    /// What the target holds in its place.
    pub there: There,
    /// Why it is wanted; nothing where it is not.
    pub reasons: Reasons,
    /// What would bring it if `include` and `exclude` let it.
    pub kept_out: Reasons,
    /// What the next sync does about it.
    pub next: Next,
    /// Releases and projects in the config that Release Manager does not know: one of them might have brought it.
    pub unknown: Vec<String>,
}

/// What a target holds in the place of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum There {
    /// Nothing.
    Nothing,
    /// A complete package.
    Package,
    /// A symbolic link to this.
    Link(String),
}

/// What a sync does about a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    /// Nothing: all is as it should be.
    Nothing,
    /// It is sent.
    Send(Size),
    /// It is sent in the place of one with another `descpkg` time.
    Replace(Size),
    /// It is made a link to this version.
    Link(Version),
    /// It is wanted and cannot be sent now.
    Hold(Blocker),
    /// It is marked, unmarked or deleted.
    Age {
        /// Which of these.
        #[serde(flatten)]
        action: retention::AgingAction,
        /// Why.
        #[serde(flatten)]
        why: retention::AgingReason,
    },
    /// Nothing wants it, and it stays for the sake of a tag that Release Manager may not know yet.
    Spare,
    /// It was marked for deletion and waits.
    Wait(Mark),
    /// Nothing wants it, and it stays.
    Stay,
}

/// The answer, from what a sync was planned by. `kept_out` is what would be wanted as well without `include` and `exclude`.
pub fn why(package: &PackageId, plan: &Plan, wanted: &WantedSet, kept_out: &WantedSet, inventory: &Inventory) -> Why {
    let there = match (inventory.packages.contains_key(package), inventory.links.get(package)) {
        (true, _) => There::Package,
        (false, Some(to)) => There::Link(to.clone()),
        (false, None) => There::Nothing,
    };
    let reasons = wanted.get(package).cloned().unwrap_or_default();
    Why {
        kept_out: kept_out.get(package).cloned().unwrap_or_default(),
        next: next(package, plan, inventory),
        package: package.clone(),
        there,
        reasons,
        unknown: plan.unknown.clone(),
    }
}

fn next(package: &PackageId, plan: &Plan, inventory: &Inventory) -> Next {
    if let Some(step) = plan.steps.iter().find(|step| step.package == *package) {
        return match step.action {
            Action::Send => Next::Send(step.size),
            Action::Replace => Next::Replace(step.size),
        };
    }
    if let Some(link) = plan.links.iter().find(|link| link.package == *package) {
        return Next::Link(link.to.clone());
    }
    if let Some(held) = plan.held.iter().find(|held| held.package == *package) {
        return Next::Hold(held.hold.clone());
    }
    if let Some(step) = plan.upkeep.steps.iter().find(|step| step.package == *package) {
        return Next::Age { action: step.action, why: step.why };
    }
    if plan.upkeep.spared.contains(package) {
        return Next::Spare;
    }
    match (inventory.marks.get(package), plan.excess.contains(package)) {
        (Some(mark), _) => Next::Wait(*mark),
        (None, true) => Next::Stay,
        (None, false) => Next::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::policy::plan::{Source, plan};
    use crate::policy::release::Reason;

    fn id(text: &str) -> PackageId {
        text.parse().expect("a package")
    }

    #[test]
    fn every_package_has_its_answer_and_it_is_the_plans() {
        let release = Reason::Release { id: 1, name: "Lab".into() };
        let ready = |time| Source::Ready { time, size: Size::default() };
        let survey = BTreeMap::from([
            (id("new@1"), ready(1)),
            (id("here@1"), ready(1)),
            (id("other@1"), ready(2)),
            (id("late@1"), Source::Held(Blocker::Incomplete)),
            (id("here@current"), Source::Link { to: "1".parse().expect("a version") }),
        ]);
        let wanted: WantedSet = survey.keys().map(|package| (package.clone(), [release.clone()].into())).collect();
        let there = ["here@1", "other@1", "old@1"].map(|package| (id(package), 1));
        let inventory = Inventory { packages: there.into(), ..Inventory::default() };
        let kept_out = WantedSet::from([(id("old@1"), [release.clone()].into())]);
        let plan = plan(&wanted, &inventory, &survey, vec![]);

        let answer = |package: &str| why(&id(package), &plan, &wanted, &kept_out, &inventory);
        assert_eq!(answer("new@1").next, Next::Send(Size::default()));
        assert_eq!((answer("here@1").next, answer("here@1").there), (Next::Nothing, There::Package));
        assert_eq!(answer("other@1").next, Next::Replace(Size::default()));
        assert_eq!(answer("late@1").next, Next::Hold(Blocker::Incomplete));
        assert_eq!(answer("here@current").next, Next::Link("1".parse().expect("a version")));
        let old = answer("old@1");
        assert_eq!((old.next, old.reasons, old.kept_out), (Next::Stay, [].into(), [release].into()));
        let nowhere = answer("nowhere@1");
        assert_eq!((nowhere.next, nowhere.there, nowhere.kept_out), (Next::Nothing, There::Nothing, [].into()));
    }
}
