//! The PackageList, and what ages by the same answer.
//!
//! Others delete by the list: a master that takes it for its Release Manager, and `pkg_purge`. So it goes on naming what it named as long as
//! anything is held back here, and what the later answers of [`Recheck`] want.

use std::collections::BTreeSet;

use blat_domain::archive::package_list::{self, Former, Purge};
use blat_domain::archive::record::Record;
use blat_domain::package::name::PackageId;
use blat_domain::policy::confirmation::HeldBack;
use blat_domain::policy::listing::{left_out, listed};
use blat_domain::policy::release::WantedSet;
use blat_domain::policy::retention::{Aging, Deleter};
use blat_domain::policy::retry::Backoff;

use super::context::SyncContext;
use super::recheck::Recheck;
use super::{Prepared, SyncOutcome, not_owned, problem, unreached};
use crate::model::problem::Problem;

impl SyncContext {
    /// What only the archive's owner does, after a sync in which everything else succeeded.
    pub(super) async fn list_and_age(&self, prepared: &Prepared, outcome: &mut SyncOutcome) -> Option<Problem> {
        let Prepared { plan, wanted, owned, .. } = prepared;
        let upkeep = &plan.upkeep;
        let left_out = self.left_out(prepared).await;
        let mut recheck = Recheck::of(prepared, left_out.clone());
        let is_asked_again = !upkeep.keeps_listed() && (upkeep.takes_something() || !left_out.is_empty());
        let mut unsure = None;
        let stays = if is_asked_again {
            unsure = recheck.renew(self, prepared, outcome).await.err();
            if unsure.is_none() { recheck.stays().clone() } else { left_out }
        } else {
            left_out
        };
        if !stays.is_empty() {
            let why = upkeep.doubt.as_ref().map(|doubt| format!(": {doubt}")).unwrap_or_default();
            let packages = stays.len();
            tracing::warn!(target_name = %self.settings.name, packages, "the PackageList still names what is not wanted now{why}");
        }
        let is_of_target = matches!(self.settings.aging, Aging::After { by: Deleter::Target, .. });
        let is_held = upkeep.keeps_listed() || upkeep.clock_doubt.is_some() || unsure.is_some();
        let purge = if is_of_target && !is_held { Purge::Allowed } else { Purge::Held };
        let former = match self.list(owned.as_ref(), wanted, &stays, purge).await {
            Ok(former) => former,
            Err(problem) => return Some(problem),
        };
        if former != Former::Whole && upkeep.takes_something() {
            let text = "nothing is marked or deleted in this sync: the target had no whole PackageList, so it may not be the archive that it was; a \
                        new one is stored, and the next sync goes by it";
            return Some(problem(None, text.to_owned(), Backoff::PACKAGE));
        }
        let aged = match unsure {
            Some(problem) => Some(problem),
            None => self.age(prepared, recheck, outcome).await,
        };
        let is_confirmed = upkeep.is_confirmed && aged.is_none();
        if is_confirmed {
            outcome.held_back = Some(HeldBack::default());
        }
        let forgotten = self.recollect(prepared, is_confirmed);
        aged.or(forgotten)
    }

    /// What a list of what is wanted would name no more: all that is there and unwanted, where nobody knows what the former list named.
    async fn left_out(&self, prepared: &Prepared) -> BTreeSet<PackageId> {
        let Prepared { plan, wanted, inventory, .. } = prepared;
        if plan.excess.is_empty() && inventory.links.keys().all(|link| wanted.contains_key(link)) {
            return BTreeSet::new();
        }
        // Only names go to another thread.
        let extra_links = inventory.links.keys().filter(|link| !wanted.contains_key(link));
        let extra: BTreeSet<PackageId> = plan.excess.iter().chain(extra_links).cloned().collect();
        let choose = move |former: Option<Vec<PackageId>>| match former {
            Some(former) => former.into_iter().filter(|package| extra.contains(package)).collect::<Vec<_>>(),
            None => extra.into_iter().collect(),
        };
        left_out(self.former_list.read(choose).await, wanted, inventory)
    }

    /// Replaces the PackageList by what is wanted and what `stays` listed, and gives what was in its place.
    async fn list(
        &self,
        owned: Option<&Record>,
        wanted: &WantedSet,
        stays: &BTreeSet<PackageId>,
        purge: Purge,
    ) -> Result<Former, Problem> {
        let owned = owned.ok_or_else(|| not_owned("store the PackageList"))?;
        let list = package_list::render(listed(wanted, stays));
        if list.len() as u64 > package_list::LONGEST {
            let text = format!(
                "cannot store the PackageList: its {} bytes are more than the {} that one may have; select fewer releases",
                list.len(),
                package_list::LONGEST
            );
            return Err(problem(None, text, Backoff::NEXT_SYNC));
        }
        let _in_force = self.permit().await?;
        // Before it is there: a list that nobody remembers would lose by the next sync what that holds back.
        self.former_list.note(&list).await.map_err(|error| {
            let text = format!(
                "cannot store the PackageList: cannot note down what it names in state/{}: {error}; give state/ to the account that runs Blat, with room \
                 on its disk",
                self.settings.name
            );
            problem(None, text, Backoff::PACKAGE)
        })?;
        let stored = self.target.store_list(owned, &list, purge).await;
        stored.map_err(|error| unreached("cannot store the PackageList", error))
    }
}
