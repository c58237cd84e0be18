//! What became of what was sent: a line in the log, one in the history, and the word that the session decides by.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};

use blat_domain::archive::inventory::Inventory;
use blat_domain::package::name::PackageId;
use blat_domain::policy::plan::{Link, Plan};
use blat_domain::policy::retry::Backoff;
use blat_domain::protocol::history::{HistoryEntry, Operation};
use blat_packing::item::TransferItem;
use jiff::Timestamp;

use crate::model::orders::Orders;
use crate::model::outcome::Delivery;
use crate::model::problem::Problem;
use crate::session::Sent;
use crate::state::unanswered::FOUND;
use crate::sync::context::SyncContext;
use crate::targets::Rule;

/// When tags were dropped that ask for packages.
pub(crate) type Dropped = BTreeMap<PackageId, Timestamp>;

impl SyncContext {
    /// Says what became of each item. One that was given no answer was never asked for.
    pub(crate) fn settle(
        &self,
        items: Vec<TransferItem>,
        deliveries: Vec<(PackageId, Delivery)>,
    ) -> Vec<(TransferItem, Sent)> {
        let mut deliveries: BTreeMap<PackageId, Delivery> = deliveries.into_iter().collect();
        let (mut settled, mut done) = (Vec::with_capacity(items.len()), Vec::new());
        let (mut kept, mut dropped) = (Vec::new(), Dropped::new());
        for item in items {
            let Some(delivery) = deliveries.remove(&item.package) else { continue };
            if matches!(delivery, Delivery::Failed(_)) && item.superseded().is_some() {
                // No failure of the package, and not lost: the sync that follows sends it, if it is wanted still.
                tracing::debug!(package = %item.package, "left to the next sync: the config changed");
                settled.push((item, Sent::Failed(Orders::problem())));
                continue;
            }
            let deed = self.deed(&item.package, item.size.bytes, &delivery);
            let deed = deed.map(|deed| (deed, why(&delivery))).or_else(|| self.found(&item.package, Operation::Sent));
            done.extend(deed.map(|(deed, detail)| {
                let deed = match (deed, item.rule) {
                    (Operation::Sent | Operation::Replaced, Rule::Repair) => Operation::Repaired,
                    (deed, Rule::New | Rule::Replace | Rule::Repair) => deed,
                };
                let bytes = if deed == Operation::Failed { 0 } else { item.size.bytes };
                entry(deed, &item.package, bytes, item.tagged, detail)
            }));
            if let (Delivery::Already, Some(tagged)) = (&delivery, item.tagged) {
                kept.push(item.package.clone());
                dropped.insert(item.package.clone(), tagged);
            }
            let sent = sent(&item.package, delivery);
            settled.push((item, sent));
        }
        self.history.add(&done);
        self.unanswered.answered(settled.iter().map(|(item, _)| &item.package));
        self.report_already(kept.iter(), &dropped);
        settled
    }

    /// Reports which of these packages were there already, of those that tags ask for. That comes before their tags leave: whoever waits for
    /// a tag goes by the report.
    pub(crate) fn report_already<'a>(&self, packages: impl Iterator<Item = &'a PackageId>, dropped: &Dropped) {
        let kept = |package| {
            let tagged = *dropped.get(package)?;
            Some(entry(Operation::Kept, package, 0, Some(tagged), None))
        };
        self.already.add(&packages.filter_map(kept).collect::<Vec<_>>());
    }

    /// Says what became of each link.
    pub(crate) fn settle_links(
        &self,
        links: &[Link],
        deliveries: Vec<(PackageId, Delivery)>,
        dropped: &Dropped,
    ) -> Vec<(PackageId, Sent)> {
        let (mut settled, mut done, mut kept) = (Vec::with_capacity(links.len()), Vec::new(), Vec::new());
        for (package, delivery) in deliveries {
            let to = || links.iter().find(|link| link.package == package).map(|link| link.to.to_string());
            let deed = self.deed(&package, 0, &delivery).map(|deed| (deed, why(&delivery).or_else(to)));
            if let Some((deed, detail)) = deed.or_else(|| self.found(&package, Operation::Linked)) {
                done.push(entry(deed, &package, 0, dropped.get(&package).copied(), detail));
            }
            if delivery == Delivery::Already {
                kept.push(package.clone());
            }
            let sent = sent(&package, delivery);
            settled.push((package, sent));
        }
        self.history.add(&done);
        self.unanswered.answered(settled.iter().map(|(package, _)| package));
        self.report_already(kept.iter(), dropped);
        settled
    }

    /// What was done before its answer was lost, and there already when it was asked for again, with what the history says beside it.
    fn found(&self, package: &PackageId, deed: Operation) -> Option<(Operation, Option<String>)> {
        let is_found = self.unanswered.was_lost(package);
        is_found.then(|| tracing::info!(%package, "{deed}: {FOUND}")).map(|()| (deed, Some(FOUND.to_owned())))
    }

    /// Says of what was asked for in vain until now, and is done by this listing, that it was done.
    pub(crate) fn say_what_is_found(&self, plan: &Plan, inventory: &Inventory) {
        let is_there =
            |package: &PackageId| inventory.packages.contains_key(package) || inventory.links.contains_key(package);
        // Mostly nothing is asked of it.
        let to_send = LazyCell::new(|| plan.steps.iter().map(|step| &step.package).collect::<BTreeSet<_>>());
        let found = self.unanswered.found(|package, deed| match deed {
            Operation::Deleted => !is_there(package),
            _ => is_there(package) && !to_send.contains(package),
        });
        let done = |(package, deed): &(PackageId, Operation)| {
            tracing::info!(%package, "{deed}: {FOUND}");
            let (at, package, detail) = (Timestamp::now(), Some(package.clone()), Some(FOUND.to_owned()));
            HistoryEntry { at, deed: *deed, package, bytes: 0, after_tag_ms: None, detail }
        };
        self.history.add(&found.iter().map(done).collect::<Vec<_>>());
        self.unanswered.answered(found.iter().map(|(package, _)| package));
    }

    /// Logs what was done to one package; none where there was nothing to do.
    fn deed(&self, package: &PackageId, bytes: u64, delivery: &Delivery) -> Option<Operation> {
        match delivery {
            Delivery::Published => {
                tracing::info!(%package, bytes, "published");
                Some(Operation::Sent)
            }
            Delivery::Replaced => {
                tracing::info!(%package, bytes, "replaced");
                Some(Operation::Replaced)
            }
            Delivery::Linked => {
                tracing::info!(%package, "linked");
                Some(Operation::Linked)
            }
            Delivery::Already => {
                tracing::debug!(%package, "already there");
                None
            }
            Delivery::Differs(why) | Delivery::Failed(why) => {
                tracing::warn!(target_name = %self.settings.name, %package, "not sent: {why}");
                Some(Operation::Failed)
            }
        }
    }
}

/// Why nothing was done.
fn why(delivery: &Delivery) -> Option<String> {
    match delivery {
        Delivery::Differs(why) | Delivery::Failed(why) => Some(why.clone()),
        Delivery::Published | Delivery::Replaced | Delivery::Linked | Delivery::Already => None,
    }
}

fn entry(
    deed: Operation,
    package: &PackageId,
    bytes: u64,
    tagged: Option<Timestamp>,
    detail: Option<String>,
) -> HistoryEntry {
    let at = Timestamp::now();
    // A clock that was set back in between makes it no time at all.
    let since = |dropped: Timestamp| u64::try_from(at.duration_since(dropped).as_millis()).unwrap_or(0);
    HistoryEntry { at, deed, package: Some(package.clone()), bytes, after_tag_ms: tagged.map(since), detail }
}

fn sent(package: &PackageId, delivery: Delivery) -> Sent {
    let (text, retry) = match delivery {
        Delivery::Published | Delivery::Replaced | Delivery::Linked | Delivery::Already => return Sent::Done,
        Delivery::Differs(text) => (text, Backoff::PERSON),
        Delivery::Failed(text) => (text, Backoff::PACKAGE),
    };
    Sent::Failed(Problem { package: Some(package.clone()), text, retry })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use blat_config::{Home, load_target};
    use blat_domain::archive::record::Owner;
    use blat_domain::policy::plan::Size;
    use blat_domain::policy::release::Reasons;
    use blat_domain::util::random_id::RandomId;

    use super::*;

    #[tokio::test]
    async fn what_was_there_when_it_was_asked_for_again_is_in_the_history_with_why() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        fs::create_dir(scratch.path().join("config")).expect("an own folder");
        let home = Home::at(scratch.path()).expect("a path");
        let target = "perth".parse().expect("a name");
        fs::write(home.target_config(&target), "transport: local\nsource: /nowhere\narchive: /nothing\n")
            .expect("a config");
        let settings = load_target(&home, &target).expect("valid settings");
        let context = SyncContext::new(&home, settings, Owner { home: RandomId::from_random([1; 16]), target });
        let [sent, link, other]: [PackageId; 3] =
            ["core@1", "core@now", "other@1"].map(|id| id.parse().expect("a package"));
        for (deed, package) in [(Operation::Sent, &sent), (Operation::Linked, &link)] {
            drop(context.unanswered.ask(deed, [package].into_iter()));
        }
        let item = |package: &PackageId| TransferItem {
            package: package.clone(),
            archive: scratch.path().into(),
            time: 0,
            size: Size { bytes: 7, entries: 1 },
            rule: Rule::New,
            tagged: None,
            print: None,
            orders: None,
        };
        let already = |package: &PackageId| (package.clone(), Delivery::Already);
        context.settle(vec![item(&sent), item(&other)], vec![already(&sent), already(&other)]);
        let to = "1".parse().expect("a version");
        let links = [Link { package: link.clone(), to, instead_of: None, reasons: Reasons::default() }];
        context.settle_links(&links, vec![already(&link)], &Dropped::new());

        let mut said = Vec::new();
        for file in fs::read_dir(home.history_dir()).expect("a history") {
            let text = fs::read_to_string(file.expect("a file").path()).expect("text");
            let entries = text.lines().map(|line| serde_json::from_str::<HistoryEntry>(line).expect("an entry"));
            said.extend(entries.map(|entry| (entry.deed, entry.package, entry.bytes, entry.detail)));
        }
        let found = || Some(FOUND.to_owned());
        assert_eq!(said, [(Operation::Sent, Some(sent), 7, found()), (Operation::Linked, Some(link), 0, found())]);
    }
}
