//! The same path for tags: a plan of what they ask for.

use std::collections::BTreeSet;
use std::sync::Arc;

use blat_domain::archive::inventory::Inventory;
use blat_domain::package::name::PackageId;
use blat_domain::policy::capacity::Capacity;
use blat_domain::policy::follow::Followed;
use blat_domain::policy::ownership::Bar;
use blat_domain::policy::plan::{Blocker, Plan, plan};
use blat_domain::policy::release::{Reason, WantedSet};
use blat_domain::policy::retry::Backoff;
use jiff::Timestamp;

use super::{problem, sent_of, unreached};
use crate::model::problem::Problem;
use crate::releases::written_at;
use crate::session::Sent;
use crate::sync::context::SyncContext;
use crate::sync::outcome::Dropped;
use crate::targets::Rule;

/// What tags ask for, and what becomes of it.
struct TagPlan {
    plan: Plan,
    /// With all that links among it address.
    brought: BTreeSet<PackageId>,
    rule: Rule,
}

impl SyncContext {
    /// Sends packages because tags ask for them, with what they address where they are links. Only a limit on the archive, or another owner of it,
    /// makes it necessary to list the target; else it says itself what it has already, and the disk's space is asked for with every stream.
    pub(crate) async fn send_tagged(&self, packages: BTreeSet<PackageId>, dropped: &Dropped) -> Vec<(PackageId, Sent)> {
        let crossing = &self.lasting.crossing;
        // Before the target is asked what it has: that stays there from now on.
        let _arriving = crossing.arrive(&packages).await;
        let TagPlan { plan, brought, rule } = match self.plan_for_tags(&packages).await {
            Ok(asked) => asked,
            Err(problem) => {
                return packages.into_iter().map(|package| (package, Sent::Failed(problem.clone()))).collect();
            }
        };
        // A link is put only where its addressee is.
        let _addressed = crossing.arrive(&brought).await;
        // Before anything is sent: from then on it must not be taken for extra.
        let missing = plan.held.iter().filter(|held| held.hold == Blocker::Missing).map(|held| &held.package).collect();
        // And while the clock is what it is: it may be put right before the next sync looks at the releases.
        self.lasting.believed(written_at(self.source_of_releases()).await, Timestamp::now().as_second());
        self.lasting.note_tags(&brought, &missing);
        let mut results: Vec<_> = plan.held.iter().map(|held| (held.package.clone(), sent_of(&held.hold))).collect();
        let mut items = self.items(&plan.steps, |_| rule);
        items.iter_mut().for_each(|item| item.tagged = dropped.get(&item.package).copied());
        let sent = self.deliver(items).await;
        results.extend(sent.into_iter().map(|(item, sent)| (item.package, sent)));
        results.extend(self.put_links(&plan.links, dropped).await);
        // What a listing showed to be there already needs nothing.
        let dealt_with: BTreeSet<PackageId> = results.iter().map(|(package, _)| package.clone()).collect();
        self.report_already(packages.difference(&dealt_with), dropped);
        results.extend(packages.difference(&dealt_with).map(|package| (package.clone(), Sent::Done)));
        // It is durable before a tag leaves. Not before the packages are there: the disk may be the target's as well, and would keep them waiting.
        let lasting = self.lasting.clone();
        let noting = tokio::task::spawn_blocking(move || lasting.trouble());
        let noted = noting.await.unwrap_or_else(|error| Some(format!("noting down what tags bring failed: {error}")));
        if let Some(why) = noted {
            let stays = |sent: &Sent| matches!(sent, Sent::Done);
            let failed = Sent::Failed(problem(None, why, Backoff::LINK));
            results.iter_mut().filter(|(_, sent)| stays(sent)).for_each(|(_, sent)| sent.clone_from(&failed));
        }
        if results.iter().any(|(_, sent)| matches!(sent, Sent::Done)) {
            self.leave_visit_behind();
        }
        if results.iter().any(|(_, sent)| matches!(sent, Sent::Failed(_))) {
            self.look_again();
        }
        results
    }

    async fn plan_for_tags(&self, packages: &BTreeSet<PackageId>) -> Result<TagPlan, Problem> {
        // What only the owner replaces.
        let bar = self.make_first_contact().await?;
        let (source, max_size, package) = (self.source.clone(), self.settings.max_size, self.most_of_a_package());
        let needs_no_list = max_size == 0 && !bar.as_ref().is_some_and(Bar::is_about_owner);
        let inventory = if needs_no_list { Ok(Arc::default()) } else { self.target.inventory().await };
        let mut inventory: Arc<Inventory> =
            inventory.map_err(|error| unreached("cannot list the target's packages", error))?;
        // Another archive may be in its place since it was looked at, and what it holds serves no tag.
        let bar = if needs_no_list { bar } else { self.judge_listing(&inventory.title).await? };
        let bar = bar.filter(Bar::is_about_owner);
        let wanted: WantedSet = packages.iter().map(|package| (package.clone(), [Reason::Tag].into())).collect();
        let looking = tokio::task::spawn_blocking(move || {
            let mut followed = source.survey(wanted.clone(), &[], &inventory);
            if bar.is_none() && offer_marked_again(&mut inventory, &followed.wanted) {
                followed = source.survey(wanted, &[], &inventory);
            }
            let Followed { wanted, survey } = followed;
            let mut plan = plan(&wanted, &inventory, &survey, Vec::new());
            bar.iter().for_each(|bar| plan.leave_to_owner(bar));
            plan.fit(Capacity { disk: None, archive: source.left_below(max_size, &inventory), package });
            let rule = if bar.is_some() { Rule::New } else { Rule::Replace };
            TagPlan { plan, brought: wanted.into_keys().collect(), rule }
        });
        let failed = |error| format!("looking at the source failed: {error}; report this as a bug");
        looking.await.map_err(|error| problem(None, failed(error), Backoff::PACKAGE))
    }
}

/// Takes what is marked and asked for out of a listing, and says whether there is any: the target takes the mark away from what it is offered
/// again, before somebody there deletes by it.
fn offer_marked_again(inventory: &mut Arc<Inventory>, wanted: &WantedSet) -> bool {
    let is_there =
        |package: &&PackageId| inventory.packages.contains_key(*package) || inventory.links.contains_key(*package);
    let marked = inventory.marks.keys().filter(|package| wanted.contains_key(*package)).filter(is_there);
    let marked: Vec<PackageId> = marked.cloned().collect();
    if !marked.is_empty() {
        let Inventory { packages, links, .. } = Arc::make_mut(inventory);
        marked.iter().for_each(|package| {
            packages.remove(package);
            links.remove(package);
        });
    }
    !marked.is_empty()
}
