//! What became of what was sent: a line in the log, one in the history, and the word that the session decides by.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};

use blat_domain::history::{Deed, Entry};
use blat_domain::inventory::Inventory;
use blat_domain::name::PackageId;
use blat_domain::plan::{Link, Plan};
use blat_domain::retry::Backoff;
use jiff::Timestamp;

use crate::orders::Orders;
use crate::session::{Problem, Sent};
use crate::target::{Delivery, Parcel, Rule};
use crate::unanswered::FOUND;
use crate::workplace::Workplace;

/// When tags were dropped that ask for packages.
pub(crate) type Dropped = BTreeMap<PackageId, Timestamp>;

impl Workplace {
    /// Says what became of each parcel. One that was given no answer was never asked for.
    pub(crate) fn settle(&self, parcels: Vec<Parcel>, deliveries: Vec<(PackageId, Delivery)>) -> Vec<(Parcel, Sent)> {
        let mut deliveries: BTreeMap<PackageId, Delivery> = deliveries.into_iter().collect();
        let (mut settled, mut done) = (Vec::with_capacity(parcels.len()), Vec::new());
        let (mut kept, mut dropped) = (Vec::new(), Dropped::new());
        for parcel in parcels {
            let Some(delivery) = deliveries.remove(&parcel.package) else { continue };
            if matches!(delivery, Delivery::Failed(_)) && parcel.is_superseded() {
                // No failure of the package, and not lost: the sync that follows sends it, if it is wanted still.
                tracing::debug!(package = %parcel.package, "left to the next sync: the config changed");
                settled.push((parcel, Sent::Failed(Orders::problem())));
                continue;
            }
            let deed = self.deed(&parcel.package, parcel.size.bytes, &delivery);
            let deed = deed.or_else(|| self.found(&parcel.package, Deed::Sent)).map(|deed| match (deed, parcel.rule) {
                (Deed::Sent | Deed::Replaced, Rule::Repair) => Deed::Repaired,
                (deed, Rule::New | Rule::Replace | Rule::Repair) => deed,
            });
            done.extend(deed.map(|deed| entry(deed, &parcel.package, parcel.size.bytes, parcel.tagged, &delivery)));
            if let (Delivery::Already, Some(tagged)) = (&delivery, parcel.tagged) {
                kept.push(parcel.package.clone());
                dropped.insert(parcel.package.clone(), tagged);
            }
            let sent = sent(&parcel.package, delivery);
            settled.push((parcel, sent));
        }
        self.history.add(&done);
        self.unanswered.answered(settled.iter().map(|(parcel, _)| &parcel.package));
        self.report_already(kept.iter(), &dropped);
        settled
    }

    /// Reports which of these packages were there already, of those that tags ask for. That comes before their tags leave: whoever waits for
    /// a tag goes by the report.
    pub(crate) fn report_already<'a>(&self, packages: impl Iterator<Item = &'a PackageId>, dropped: &Dropped) {
        let kept = |package| {
            let tagged = *dropped.get(package)?;
            Some(entry(Deed::Kept, package, 0, Some(tagged), &Delivery::Already))
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
            if let Some(deed) = self.deed(&package, 0, &delivery).or_else(|| self.found(&package, Deed::Linked)) {
                let to = links.iter().find(|link| link.package == package).map(|link| link.to.to_string());
                let entry = entry(deed, &package, 0, dropped.get(&package).copied(), &delivery);
                done.push(Entry { detail: entry.detail.or(to), ..entry });
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

    /// What was done before its answer was lost, and there already when it was asked for again.
    fn found(&self, package: &PackageId, deed: Deed) -> Option<Deed> {
        let is_found = self.unanswered.was_lost(package);
        is_found.then(|| tracing::info!(%package, "{deed}: {FOUND}")).map(|()| deed)
    }

    /// Says of what was asked for in vain until now, and is done by this listing, that it was done.
    pub(crate) fn say_what_is_found(&self, plan: &Plan, inventory: &Inventory) {
        let is_there =
            |package: &PackageId| inventory.packages.contains_key(package) || inventory.links.contains_key(package);
        // Mostly nothing is asked of it.
        let to_send = LazyCell::new(|| plan.steps.iter().map(|step| &step.package).collect::<BTreeSet<_>>());
        let found = self.unanswered.found(|package, deed| match deed {
            Deed::Deleted => !is_there(package),
            _ => is_there(package) && !to_send.contains(package),
        });
        let done = |(package, deed): &(PackageId, Deed)| {
            tracing::info!(%package, "{deed}: {FOUND}");
            let (at, package, detail) = (Timestamp::now(), Some(package.clone()), Some(FOUND.to_owned()));
            Entry { at, deed: *deed, package, bytes: 0, after_tag_ms: None, detail }
        };
        self.history.add(&found.iter().map(done).collect::<Vec<_>>());
        self.unanswered.answered(found.iter().map(|(package, _)| package));
    }

    /// Logs what was done to one package; none where there was nothing to do.
    fn deed(&self, package: &PackageId, bytes: u64, delivery: &Delivery) -> Option<Deed> {
        match delivery {
            Delivery::Published => {
                tracing::info!(%package, bytes, "published");
                Some(Deed::Sent)
            }
            Delivery::Replaced => {
                tracing::info!(%package, bytes, "replaced");
                Some(Deed::Replaced)
            }
            Delivery::Linked => {
                tracing::info!(%package, "linked");
                Some(Deed::Linked)
            }
            Delivery::Already => {
                tracing::debug!(%package, "already there");
                None
            }
            Delivery::Differs(why) | Delivery::Failed(why) => {
                tracing::warn!(target_name = %self.settings.name, %package, "not sent: {why}");
                Some(Deed::Failed)
            }
        }
    }
}

fn entry(deed: Deed, package: &PackageId, bytes: u64, tagged: Option<Timestamp>, delivery: &Delivery) -> Entry {
    let at = Timestamp::now();
    // A clock that was set back in between makes it no time at all.
    let since = |dropped: Timestamp| u64::try_from(at.duration_since(dropped).as_millis()).unwrap_or(0);
    let detail = match delivery {
        Delivery::Differs(why) | Delivery::Failed(why) => Some(why.clone()),
        Delivery::Published | Delivery::Replaced | Delivery::Linked | Delivery::Already => None,
    };
    let bytes = if detail.is_some() { 0 } else { bytes };
    Entry { at, deed, package: Some(package.clone()), bytes, after_tag_ms: tagged.map(since), detail }
}

fn sent(package: &PackageId, delivery: Delivery) -> Sent {
    let (text, retry) = match delivery {
        Delivery::Published | Delivery::Replaced | Delivery::Linked | Delivery::Already => return Sent::Done,
        Delivery::Differs(text) => (text, Backoff::PERSON),
        Delivery::Failed(text) => (text, Backoff::PACKAGE),
    };
    Sent::Failed(Problem { package: Some(package.clone()), text, retry })
}
