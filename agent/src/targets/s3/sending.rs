//! Packages on their way: packed beside the loop into a spool, then put in their places; and links, which are copies there.
//!
//! The digest stands in the metadata, which comes before the bytes; so a package is packed to its end before it is sent. Small ones wait in
//! memory for that, larger ones in an unnamed file below `state/`, which nobody has to clean up.

use std::io::{self, Write};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use blat_domain::archive::record::Found;
use blat_domain::package::name::{PackageId, Version};
use blat_domain::policy::plan::Link;
use blat_domain::policy::release::Reasons;
use blat_domain::protocol::frames::Rule;
use blat_packing::progress::Progress;
use blat_packing::walker::Root;
use blat_packing::zip::{ZipError, Zipped, zip};
use futures_util::{FutureExt as _, StreamExt};

use super::bucket::Bucket;
use super::known::{EtagDigest, KnownObject, What};
use super::tries::RetryBudget;
use super::upload::{Shipment, Spooled};
use super::{Delivery, OutcomeSink, PACKAGES, S3Target, TargetError, TransferItem, fault, keys, listing, several};
use crate::flow::rate_limit::Urgency;
use crate::targets::s3::object_metadata::ObjectMetadata;

/// A ZIP of at most so many bytes waits in memory.
const IN_MEMORY: usize = 1 << 20;

/// Where a ZIP goes until other settings are in force: they may refuse the package, and to pack it may take hours.
struct WhileWanted<'a, W> {
    item: &'a TransferItem,
    out: W,
}

impl<W: Write> Write for WhileWanted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(why) = self.item.superseded() {
            return Err(io::Error::other(why));
        }
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl S3Target {
    /// Sends items, several at once. After an error that concerns all of them none is begun any more.
    pub(super) async fn send_all(
        &self,
        items: &[TransferItem],
        progress: &Arc<Progress>,
        told: &OutcomeSink<'_>,
    ) -> Result<(), TargetError> {
        let bucket = self.bucket().await?;
        let before = match self.before_sending(bucket).await? {
            Ok(before) => before,
            Err(why) => {
                told(items.iter().map(|item| (item.package.clone(), Delivery::Failed(why.clone()))).collect());
                return Ok(());
            }
        };
        let is_tagged = items.iter().any(|item| item.tagged.is_some());
        let urgency = if is_tagged { Urgency::Tag } else { Urgency::Bulk };
        // It may have been another fault that the server refused a condition for.
        self.knows_conditions.store(self.ignores.get() != Some(&true), Ordering::Relaxed);
        let is_over = AtomicBool::new(false);
        // By their numbers, so that none is begun before its turn: a stream may have many thousand.
        let sending = (0..items.len()).map(|number| {
            let (is_over, item) = (&is_over, &items[number]);
            async move {
                let _turn = self.turn(urgency).await;
                let outcome = match (is_over.load(Ordering::Relaxed), item.superseded()) {
                    (true, _) => None,
                    (false, Some(why)) => Some(Ok(Delivery::Failed(why))),
                    (false, None) => {
                        let sent = contained(self.send(bucket, item, urgency, progress)).await;
                        Some(self.of_one(bucket, sent).await)
                    }
                };
                (&item.package, outcome)
            }
        });
        let mut sent = pin!(several(sending, PACKAGES));
        let (mut failed, mut done) = (None, Vec::new());
        while let Some((package, outcome)) = sent.next().await {
            match outcome {
                None => {}
                Some(Ok(delivery @ (Delivery::Failed(_) | Delivery::Differs(_)))) => {
                    told(vec![(package.clone(), delivery)]);
                }
                // Not before it is known which bucket it went to.
                Some(Ok(delivery)) => done.push((package.clone(), delivery)),
                Some(Err(TargetError::Refused(why))) => told(vec![(package.clone(), Delivery::Failed(why))]),
                // What is under way is not cut: it ends well, or gives its upload up.
                Some(Err(error @ (TargetError::Link(_) | TargetError::Space(_) | TargetError::Operator(_)))) => {
                    is_over.store(true, Ordering::Relaxed);
                    failed.get_or_insert(error);
                }
            }
        }
        self.known.save();
        match self.settled(bucket, before.as_ref(), done).await {
            Ok(done) => told(done),
            // Nobody knows what became of them.
            Err(error) => drop(failed.get_or_insert(error)),
        }
        failed.map_or(Ok(()), Err)
    }

    /// An error at one package is that package's, as long as the server takes something else: else those that it never takes would keep all
    /// others from their turn.
    async fn of_one(&self, bucket: &Bucket, outcome: Result<Delivery, TargetError>) -> Result<Delivery, TargetError> {
        match outcome {
            Err(error @ (TargetError::Link(_) | TargetError::Space(_) | TargetError::Operator(_))) => {
                match self.try_house(bucket).await {
                    Ok(()) => Ok(Delivery::Failed(error.to_string())),
                    Err(_) => Err(error),
                }
            }
            outcome => outcome,
        }
    }

    /// What was done, as far as it was done in the bucket that had this record before. It is wanted, so that no mark may outlive that.
    async fn settled(
        &self,
        bucket: &Bucket,
        before: Option<&Found>,
        mut done: Vec<(PackageId, Delivery)>,
    ) -> Result<Vec<(PackageId, Delivery)>, TargetError> {
        if !done.is_empty()
            && let Some(why) = self.after_sending(bucket, before).await?
        {
            done.iter_mut().for_each(|(_, delivery)| *delivery = Delivery::Failed(why.clone()));
        }
        self.unmark_arrived(bucket, &mut done).await?;
        Ok(done)
    }

    /// What tags ask for does not queue behind a full sync.
    async fn turn(&self, urgency: Urgency) -> Option<tokio::sync::SemaphorePermit<'_>> {
        match urgency {
            Urgency::Tag => None,
            // It is never closed.
            Urgency::Bulk => self.packages.acquire().await.ok(),
        }
    }

    async fn send(
        &self,
        bucket: &Bucket,
        item: &TransferItem,
        urgency: Urgency,
        progress: &Arc<Progress>,
    ) -> Result<Delivery, TargetError> {
        let key = self.keys.package(&item.package);
        let mut is_new = match self.place(bucket, item, &key).await? {
            Place::Free => true,
            Place::Ours => false,
            Place::Settled(delivery) => return Ok(delivery),
        };
        let (spooled, zipped) = match self.pack(item, progress).await? {
            Ok(packed) => packed,
            Err(why) => return Ok(Delivery::Failed(why)),
        };
        let card = ObjectMetadata::of(&zipped, &item.package, item.time);
        let path = keys::path(&key)?;
        let shipment = Shipment { bucket, path: &path, spooled: &spooled, card: &card, urgency };
        if is_new && self.ignores_conditions(bucket).await {
            self.knows_conditions.store(false, Ordering::Relaxed);
        }
        let etag = match self.put(&shipment, is_new).await {
            Ok(etag) => etag,
            Err(error) => match self.against(bucket, &key, &card, &error).await? {
                ExistingObject::Same(etag) => etag,
                ExistingObject::Other(Some(there)) if there.time == card.time && there.link.is_none() => {
                    let why = format!(
                        "{key} has the SHA-256 {}, and the source's package comes to {}",
                        there.digest, card.digest
                    );
                    return Ok(Delivery::Differs(why));
                }
                ExistingObject::Other(None) => return Ok(in_the_way(&key)),
                ExistingObject::Other(Some(ObjectMetadata { time, link: None, .. })) if item.rule == Rule::New => {
                    let why = format!(
                        "a package with descpkg time {time} came to {key} meanwhile; the next sync compares them"
                    );
                    return Ok(Delivery::Failed(why));
                }
                ExistingObject::Damaged | ExistingObject::Other(Some(_)) => {
                    is_new = false;
                    let again = self.put(&shipment, false).await;
                    again.map_err(|error| fault::sorted(&error))?
                }
            },
        };
        self.note(&item.package, listing::bare(&etag), zipped.bytes, What::of(Some(&card)));
        if is_new {
            return Ok(Delivery::Published);
        }
        self.renew_links(bucket, &item.package).await;
        Ok(Delivery::Replaced)
    }

    /// What stands in a item's place, as far as it matters before it is packed. What the listing just showed to be free is not looked at.
    async fn place(&self, bucket: &Bucket, item: &TransferItem, key: &str) -> Result<Place, TargetError> {
        let known = self.known.entry(&item.package).filter(|known| matches!(known.what, What::Foreign | What::Damaged));
        if item.rule == Rule::New && known.is_none() {
            return Ok(Place::Free);
        }
        let Some(seen) = self.look(bucket, key).await? else { return Ok(Place::Free) };
        let Some(card) = &seen.card else { return Ok(Place::Settled(in_the_way(key))) };
        let is_listed = |known: &KnownObject| known.tag == EtagDigest::of(&seen.etag);
        let is_damaged =
            !card.fits(seen.size) || known.is_some_and(|known| known.what == What::Damaged && is_listed(&known));
        if is_damaged || item.rule == Rule::Repair || card.time != item.time || card.link.is_some() {
            return Ok(Place::Ours);
        }
        self.note(&item.package, &seen.etag, seen.size, What::of(Some(card)));
        Ok(Place::Settled(Delivery::Already))
    }

    /// Copies a package that was replaced over the links that lead to it, the nearest first. What fails is found by the next sync.
    async fn renew_links(&self, bucket: &Bucket, package: &PackageId) {
        let links = self.known.links(&package.name);
        let mut renewed: Vec<Version> = vec![package.version.clone()];
        let mut next = 0;
        while next < renewed.len() {
            let mut more = Vec::new();
            for (version, to) in &links {
                if *to != renewed[next] || renewed.contains(version) {
                    continue;
                }
                let link = PackageId { name: package.name.clone(), version: version.clone() };
                let link = Link { package: link, to: to.clone(), instead_of: None, reasons: Reasons::default() };
                let outcome = self.put_link(bucket, &link).await;
                if outcome != Ok(Delivery::Linked) {
                    tracing::warn!(package = %link.package, ?outcome, "a link is still a copy of what was replaced");
                }
                more.push(link.package.version);
            }
            renewed.extend(more);
            next += 1;
        }
    }

    /// What stands there after a write that did not succeed, or the write's error where that says more.
    async fn against(
        &self,
        bucket: &Bucket,
        key: &str,
        card: &ObjectMetadata,
        error: &object_store::Error,
    ) -> Result<ExistingObject, TargetError> {
        let is_taken =
            matches!(error, object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. });
        // An upload that the server has finished is not known any more: its answer got lost.
        let may_be_done = matches!(error, object_store::Error::NotFound { .. });
        if !is_taken && !may_be_done {
            return Err(fault::sorted(error));
        }
        match self.look(bucket, key).await? {
            Some(seen) if seen.card.as_ref().is_some_and(|there| there.is_same(card)) => {
                // What was sent says its own size.
                Ok(if card.fits(seen.size) { ExistingObject::Same(seen.etag) } else { ExistingObject::Damaged })
            }
            Some(seen) if is_taken => Ok(ExistingObject::Other(seen.card)),
            Some(_) | None => {
                Err(TargetError::Link(format!("{key} did not become what was sent: {}", fault::sorted(error))))
            }
        }
    }

    /// Packs a item beside the loop. The inner error concerns this package alone.
    async fn pack(
        &self,
        item: &TransferItem,
        progress: &Arc<Progress>,
    ) -> Result<Result<(Spooled, Zipped), String>, TargetError> {
        let (item, progress, place) = (item.clone(), progress.clone(), self.spool.clone());
        progress.begin(&item.package, item.size);
        let packing = tokio::task::spawn_blocking(move || {
            let unusable =
                |error: io::Error| format!("cannot keep the ZIP below {}: {error}; make space there", place.display());
            let root = Root::open(&item.archive, &item.package).map_err(|error| error.to_string())?;
            std::fs::create_dir_all(&place).map_err(unusable)?;
            let mut spool = tempfile::spooled_tempfile_in(IN_MEMORY, &place);
            match zip(&root, &progress, &place, WhileWanted { item: &item, out: &mut spool }) {
                Ok(zipped) => Ok((Spooled::new(spool, zipped.bytes), zipped)),
                Err(ZipError::Package(why)) => Err(item.superseded().unwrap_or(why)),
                Err(ZipError::Stream(error)) => Err(item.superseded().unwrap_or_else(|| unusable(error))),
            }
        });
        packing.await.map_err(|error| TargetError::Refused(format!("packing failed: {error}")))
    }

    /// Makes versions copies of what they address, each with the card of a link.
    pub(super) async fn put_links(&self, links: &[Link]) -> Result<Vec<(PackageId, Delivery)>, TargetError> {
        let bucket = self.bucket().await?;
        let before = match self.before_sending(bucket).await? {
            Ok(before) => before,
            Err(why) => {
                let unsent = |link: &Link| (link.package.clone(), Delivery::Failed(why.clone()));
                return Ok(links.iter().map(unsent).collect());
            }
        };
        let mut deliveries = Vec::new();
        for link in links {
            let delivery = match self.of_one(bucket, contained(self.put_link(bucket, link)).await).await {
                Ok(delivery) => delivery,
                Err(TargetError::Refused(why)) => Delivery::Failed(why),
                Err(error) => return Err(error),
            };
            deliveries.push((link.package.clone(), delivery));
        }
        self.known.save();
        self.settled(bucket, before.as_ref(), deliveries).await
    }

    async fn put_link(&self, bucket: &Bucket, link: &Link) -> Result<Delivery, TargetError> {
        let key = self.keys.package(&link.package);
        let addressee = self.keys.package(&link.addressee());
        let Some((card, size)) = self.look(bucket, &addressee).await?.and_then(|seen| Some((seen.card?, seen.size)))
        else {
            return Ok(Delivery::Failed(format!("{addressee}, which it addresses, is not there")));
        };
        let card = ObjectMetadata { link: Some(link.to.clone()), package: Some(link.package.clone()), ..card };
        let mut tries = RetryBudget::new();
        let copied = loop {
            let is_new = match self.place_of_link(bucket, &key).await? {
                Place::Free => true,
                Place::Ours => false,
                Place::Settled(delivery) => return Ok(delivery),
            };
            match bucket.ask.copy(&addressee, &key, &card, is_new).await {
                Err(error) if tries.again(&error).await => {}
                done => break done?,
            }
        };
        let etag = match copied {
            Some(etag) => etag,
            None => match self.look(bucket, &key).await? {
                // The answer to an earlier try got lost.
                Some(seen) if seen.card.as_ref() == Some(&card) => seen.etag,
                Some(_) | None => {
                    return Ok(Delivery::Failed(format!(
                        "another object came to {key} meanwhile; the next sync compares them"
                    )));
                }
            },
        };
        self.note(&link.package, &etag, size, What::of(Some(&card)));
        Ok(Delivery::Linked)
    }

    /// What stands in the place of a link now.
    async fn place_of_link(&self, bucket: &Bucket, key: &str) -> Result<Place, TargetError> {
        let settled = |why: String| Ok(Place::Settled(Delivery::Failed(why)));
        match self.look(bucket, key).await?.map(|seen| seen.card) {
            None => Ok(Place::Free),
            Some(None) => Ok(Place::Settled(in_the_way(key))),
            Some(Some(ObjectMetadata { link: None, .. })) => {
                settled(format!("{key} is a package, and no link replaces one"))
            }
            Some(Some(ObjectMetadata { link: Some(there), .. })) => match self.keeps_from_replacing(bucket).await? {
                Some(why) => settled(format!("{key} is a link to {there}, and {why}")),
                None => Ok(Place::Ours),
            },
        }
    }
}

/// What is to be done about a package's place.
enum Place {
    /// Nothing may be there.
    Free,
    /// What is there is ours, and is replaced.
    Ours,
    /// Nothing is to be sent.
    Settled(Delivery),
}

/// What stands in a package's place.
enum ExistingObject {
    /// What was to be put there, under this tag.
    Same(String),
    /// What says that it is that, and has another size.
    Damaged,
    /// Something else, with its card where it is one of ours.
    Other(Option<ObjectMetadata>),
}

/// The outcome of work for one package. A library that panics at what a server said ends that package's turn, and nobody else's.
async fn contained(work: impl Future<Output = Result<Delivery, TargetError>>) -> Result<Delivery, TargetError> {
    let panicked = |_| {
        let why = "sending it ended with a panic, which the log shows; report that, since it is a bug in Blat or its libraries";
        Err(TargetError::Refused(why.to_owned()))
    };
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(panicked)
}

fn in_the_way(key: &str) -> Delivery {
    Delivery::Failed(format!("{key} is an object that Blat did not put there, so it is left alone; move it away"))
}

#[cfg(test)]
mod tests {
    use blat_domain::policy::plan::Size;

    use super::*;
    use crate::model::orders::Orders;

    #[test]
    fn packing_ends_once_other_settings_are_in_force() {
        let (package, orders) = ("core@1".parse().expect("a package"), Orders::default());
        let (size, rule, tagged, print) = (Size::default(), Rule::New, None, None);
        let archive = std::path::Path::new("/").into();
        let item = TransferItem {
            package,
            archive,
            time: 0,
            size,
            rule,
            tagged,
            print,
            orders: Some(Arc::new(orders.clone())),
        };
        let mut packed = WhileWanted { item: &item, out: Vec::new() };
        packed.write_all(b"PK").expect("they are in force");
        orders.announce();
        let error = packed.write_all(b"more").expect_err("others are");
        assert!(error.to_string().contains("the config changed"), "{error}");
        assert_eq!(packed.out, b"PK");
    }
}
