//! Packages on their way: packed beside the loop into a spool, then sent in one request or in parts.
//!
//! The digest stands in the metadata, which comes before the bytes; so a package is packed to its end before it is sent. Small ones wait in
//! memory for that, larger ones in an unnamed file below `state/`, which nobody has to clean up.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use blat_domain::frames::Rule;
use blat_domain::name::{PackageId, Version};
use blat_domain::plan::Link;
use blat_domain::release::Reasons;
use futures_util::{StreamExt, TryStreamExt};
use object_store::multipart::PartId;
use object_store::path::Path;
use object_store::{PutMode, PutMultipartOptions, PutOptions, PutPayload};
use tempfile::SpooledTempFile;

use super::super::valve::Urgency;
use super::bucket::Bucket;
use super::card::Card;
use super::fault::{self, Fault};
use super::keys::Meaning;
use super::known::What;
use super::zip::{ZipError, Zipped, zip};
use super::{Delivery, MEBIBYTES, PACKAGES, Parcel, S3Target, TargetError, Told, head, keys, listing, several};
use crate::progress::Progress;

/// A ZIP of at most so many bytes waits in memory.
const IN_MEMORY: usize = 1 << 20;
/// A ZIP of more bytes than this goes in parts of this size.
const PART: u64 = 8 << 20;
/// No object has more parts.
const MOST_PARTS: u64 = 10_000;
/// Parts of one package that are under way at once.
const LANES: usize = 4;
const MEBIBYTE: u64 = 1 << 20;

/// A ZIP, whole.
struct Packed {
    spool: Arc<Mutex<SpooledTempFile>>,
    zipped: Zipped,
}

impl S3Target {
    /// Sends parcels, several at once. After an error that concerns all of them none is begun any more.
    pub(super) async fn send_all(
        &self,
        parcels: &[Parcel],
        progress: &Arc<Progress>,
        told: &Told<'_>,
    ) -> Result<(), TargetError> {
        let bucket = self.bucket().await?;
        let is_tagged = parcels.iter().any(|parcel| parcel.tagged.is_some());
        let urgency = if is_tagged { Urgency::Tag } else { Urgency::Bulk };
        let is_over = AtomicBool::new(false);
        // By their numbers, so that none is begun before its turn: a stream may have many thousand.
        let sending = (0..parcels.len()).map(|number| {
            let (is_over, parcel) = (&is_over, &parcels[number]);
            async move {
                let _turn = self.turn(urgency).await;
                let outcome = match is_over.load(Ordering::Relaxed) {
                    true => None,
                    false => Some(self.send(bucket, parcel, urgency, progress).await),
                };
                (&parcel.package, outcome)
            }
        });
        let mut sent = pin!(several(sending, PACKAGES));
        let mut failed = None;
        while let Some((package, outcome)) = sent.next().await {
            match outcome {
                None => {}
                Some(Ok(delivery)) => told(vec![(package.clone(), delivery)]),
                Some(Err(TargetError::Refused(why))) => told(vec![(package.clone(), Delivery::Failed(why))]),
                // What is under way is not cut: it ends well, or gives its upload up.
                Some(Err(error @ (TargetError::Link(_) | TargetError::Space(_) | TargetError::Operator(_)))) => {
                    is_over.store(true, Ordering::Relaxed);
                    failed.get_or_insert(error);
                }
            }
        }
        self.known.save();
        failed.map_or(Ok(()), Err)
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
        parcel: &Parcel,
        urgency: Urgency,
        progress: &Arc<Progress>,
    ) -> Result<Delivery, TargetError> {
        let key = self.keys.package(&parcel.package);
        let mut is_new = match self.place(bucket, parcel, &key).await? {
            Place::Free => true,
            Place::Ours => false,
            Place::Settled(delivery) => return Ok(delivery),
        };
        let packed = match self.pack(parcel, progress).await? {
            Ok(packed) => packed,
            Err(why) => return Ok(Delivery::Failed(why)),
        };
        let card = Card::of(&packed.zipped, parcel.time);
        let path = keys::path(&key)?;
        let put = self.put(bucket, &path, &packed, &card, urgency, is_new).await;
        let etag = match put {
            Ok(etag) => etag,
            Err(error) => match self.against(bucket, &key, &card, &error).await? {
                Found::Same(etag) => etag,
                Found::Other(Some(there)) if there.time == card.time && there.link.is_none() => {
                    let why = format!(
                        "{key} has the SHA-256 {}, and the source's package comes to {}",
                        there.digest, card.digest
                    );
                    return Ok(Delivery::Differs(why));
                }
                Found::Other(None) => return Ok(in_the_way(&key)),
                Found::Other(Some(Card { time, link: None, .. })) if parcel.rule == Rule::New => {
                    let why = format!(
                        "a package with descpkg time {time} came to {key} meanwhile; the next sync compares them"
                    );
                    return Ok(Delivery::Failed(why));
                }
                Found::Other(Some(_)) => {
                    is_new = false;
                    let again = self.put(bucket, &path, &packed, &card, urgency, false).await;
                    again.map_err(|error| fault::sorted(&error))?
                }
            },
        };
        self.note(&parcel.package, listing::bare(&etag), packed.zipped.bytes, What::of(Some(&card)));
        if is_new {
            return Ok(Delivery::Published);
        }
        self.renew_links(bucket, &parcel.package).await;
        Ok(Delivery::Replaced)
    }

    /// What stands in a parcel's place, as far as it matters before it is packed. What the listing just showed to be free is not looked at.
    async fn place(&self, bucket: &Bucket, parcel: &Parcel, key: &str) -> Result<Place, TargetError> {
        if parcel.rule == Rule::New && !self.known.is_foreign(&parcel.package) {
            return Ok(Place::Free);
        }
        let Some(seen) = self.look(bucket, key).await? else { return Ok(Place::Free) };
        let Some(card) = &seen.card else { return Ok(Place::Settled(in_the_way(key))) };
        if parcel.rule == Rule::Repair || card.time != parcel.time || card.link.is_some() {
            return Ok(Place::Ours);
        }
        self.note(&parcel.package, &seen.etag, seen.size, What::of(Some(card)));
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
        card: &Card,
        error: &object_store::Error,
    ) -> Result<Found, TargetError> {
        let is_taken =
            matches!(error, object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. });
        // An upload that the server has finished is not known any more: its answer got lost.
        let may_be_done = matches!(error, object_store::Error::NotFound { .. });
        if !is_taken && !may_be_done {
            return Err(fault::sorted(error));
        }
        match self.look(bucket, key).await? {
            Some(seen) if seen.card.as_ref() == Some(card) => Ok(Found::Same(seen.etag)),
            Some(seen) if is_taken => Ok(Found::Other(seen.card)),
            Some(_) | None => {
                Err(TargetError::Link(format!("{key} did not become what was sent: {}", fault::sorted(error))))
            }
        }
    }

    /// Packs a parcel beside the loop. The inner error concerns this package alone.
    async fn pack(&self, parcel: &Parcel, progress: &Arc<Progress>) -> Result<Result<Packed, String>, TargetError> {
        let (root, progress, place) = (parcel.path.clone(), progress.clone(), self.spool.clone());
        progress.begin(&parcel.package, parcel.size);
        let packing = tokio::task::spawn_blocking(move || {
            let unusable = |error: std::io::Error| {
                format!("cannot keep the ZIP below {}: {error}; make space there", place.display())
            };
            std::fs::create_dir_all(&place).map_err(unusable)?;
            let mut spool = tempfile::spooled_tempfile_in(IN_MEMORY, &place);
            match zip(&root, &progress, &mut spool) {
                Ok(zipped) => Ok(Packed { spool: Arc::new(Mutex::new(spool)), zipped }),
                Err(ZipError::Package(why)) => Err(why),
                Err(ZipError::Stream(error)) => Err(unusable(error)),
            }
        });
        packing.await.map_err(|error| TargetError::Refused(format!("packing failed: {error}")))
    }

    /// Puts a ZIP in its place; gives its entity tag. `is_new`: nothing may be there.
    async fn put(
        &self,
        bucket: &Bucket,
        path: &Path,
        packed: &Packed,
        card: &Card,
        urgency: Urgency,
        is_new: bool,
    ) -> Result<String, object_store::Error> {
        let bytes = packed.zipped.bytes;
        if bytes > PART {
            return self.put_parts(bucket, path, packed, card, urgency, is_new).await;
        }
        let _room = self.room(urgency, bytes).await;
        let payload = read(packed, 0, bytes).await?;
        let is_conditional = is_new && self.knows_conditions.load(Ordering::Relaxed);
        let put = |mode| {
            let options = PutOptions { mode, attributes: card.attributes(), ..PutOptions::default() };
            bucket.store(urgency).put_opts(path, payload.clone(), options)
        };
        if is_conditional {
            match put(PutMode::Create).await {
                Err(error) if is_not_known(&error) => {
                    tracing::debug!("the server knows no conditional writes; going on without");
                    self.knows_conditions.store(false, Ordering::Relaxed);
                }
                done => return Ok(done?.e_tag.unwrap_or_default()),
            }
        }
        Ok(put(PutMode::Overwrite).await?.e_tag.unwrap_or_default())
    }

    async fn put_parts(
        &self,
        bucket: &Bucket,
        path: &Path,
        packed: &Packed,
        card: &Card,
        urgency: Urgency,
        is_new: bool,
    ) -> Result<String, object_store::Error> {
        if is_new && let Some(seen) = head(bucket, path).await? {
            // Parts know no condition, so it is looked at first.
            tracing::debug!(key = path.as_ref(), size = seen.size, "an object is in its place already");
            let source = "it is there already".into();
            return Err(object_store::Error::AlreadyExists { path: path.to_string(), source });
        }
        let store = bucket.store(urgency);
        let options = PutMultipartOptions { attributes: card.attributes(), ..PutMultipartOptions::default() };
        let id = {
            let _beginning = self.uploads.read().await;
            let id = store.create_multipart_opts(path, options).await?;
            self.own.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
            id
        };
        let done = match self.send_parts(bucket, path, &id, packed, urgency).await {
            Ok(parts) => store.complete_multipart(path, &id, parts).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &done
            && !matches!(error, object_store::Error::NotFound { .. })
            && let Err(error) = store.abort_multipart(path, &id).await
        {
            tracing::debug!(key = path.as_ref(), %error, "an upload could not be given up; it is looked for later");
            self.is_unswept.store(true, Ordering::Relaxed);
        }
        self.own.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        Ok(done?.e_tag.unwrap_or_default())
    }

    async fn send_parts(
        &self,
        bucket: &Bucket,
        path: &Path,
        id: &String,
        packed: &Packed,
        urgency: Urgency,
    ) -> Result<Vec<PartId>, object_store::Error> {
        let bytes = packed.zipped.bytes;
        let part = part_size(bytes);
        let sending = (0..bytes.div_ceil(part)).map(|number| async move {
            let from = number * part;
            let length = part.min(bytes - from);
            let _room = self.room(urgency, length).await;
            let payload = read(packed, from, length).await?;
            let index = usize::try_from(number).unwrap_or(usize::MAX);
            bucket.store(urgency).put_part(path, id, index, payload).await
        });
        futures_util::stream::iter(sending).buffered(LANES).try_collect().await
    }

    /// Waits until so many bytes may be held in memory. What tags ask for has room of its own.
    async fn room(&self, urgency: Urgency, bytes: u64) -> Option<tokio::sync::SemaphorePermit<'_>> {
        let lane = match urgency {
            Urgency::Bulk => 0,
            Urgency::Tag => 1,
        };
        let mebibytes = usize::try_from(bytes.div_ceil(MEBIBYTE)).unwrap_or(usize::MAX).min(MEBIBYTES[lane]);
        let mebibytes = u32::try_from(mebibytes).unwrap_or(u32::MAX);
        // It is never closed.
        self.mebibytes[lane].acquire_many(mebibytes).await.ok()
    }

    /// Makes versions copies of what they address, each with the card of a link.
    pub(super) async fn put_links(&self, links: &[Link]) -> Result<Vec<(PackageId, Delivery)>, TargetError> {
        let bucket = self.bucket().await?;
        let mut deliveries = Vec::new();
        for link in links {
            let delivery = match self.put_link(bucket, link).await {
                Ok(delivery) => delivery,
                Err(TargetError::Refused(why)) => Delivery::Failed(why),
                Err(error) => return Err(error),
            };
            deliveries.push((link.package.clone(), delivery));
        }
        self.known.save();
        Ok(deliveries)
    }

    async fn put_link(&self, bucket: &Bucket, link: &Link) -> Result<Delivery, TargetError> {
        let key = self.keys.package(&link.package);
        let addressee = self.keys.package(&link.addressee());
        match self.look(bucket, &key).await? {
            None => {}
            Some(seen) => match seen.card {
                None => return Ok(in_the_way(&key)),
                Some(Card { link: None, .. }) => {
                    return Ok(Delivery::Failed(format!("{key} is a package, and no link replaces one")));
                }
                Some(Card { link: Some(_), .. }) => {}
            },
        }
        let Some((card, size)) = self.look(bucket, &addressee).await?.and_then(|seen| Some((seen.card?, seen.size)))
        else {
            return Ok(Delivery::Failed(format!("{addressee}, which it addresses, is not there")));
        };
        let card = Card { link: Some(link.to.clone()), ..card };
        let etag = bucket.ask.copy(&addressee, &key, &card).await?;
        self.note(&link.package, &etag, size, What::of(Some(&card)));
        Ok(Delivery::Linked)
    }

    /// Gives up uploads that nobody will finish: those of an agent that died. Once, and again where one was lost since.
    pub(super) async fn sweep_uploads(&self) -> Result<(), TargetError> {
        let bucket = self.bucket().await?;
        let has_lost_one = bucket.ask.takes_lost_uploads();
        if !self.is_unswept.swap(false, Ordering::Relaxed) && !has_lost_one {
            return Ok(());
        }
        let swept = self.give_up_uploads(bucket).await;
        if swept.is_err() {
            self.is_unswept.store(true, Ordering::Relaxed);
        }
        swept
    }

    async fn give_up_uploads(&self, bucket: &Bucket) -> Result<(), TargetError> {
        let mut after = None;
        loop {
            let page = {
                // Nobody begins one meanwhile that is not among our own yet.
                let _nobody_begins = self.uploads.write().await;
                let mut page = bucket.ask.uploads(self.keys.prefix(), after.as_ref()).await?;
                let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
                page.uploads.retain(|upload| !own.contains(&upload.id));
                page
            };
            for upload in page.uploads {
                if !matches!(self.keys.meaning(&upload.key), Meaning::Package(_) | Meaning::House) {
                    continue;
                }
                match bucket.store(Urgency::Bulk).abort_multipart(&keys::path(&upload.key)?, &upload.id).await {
                    Ok(()) => tracing::info!(key = upload.key, "gave up an upload that an earlier agent left"),
                    Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(fault::sorted(&error)),
                }
            }
            match page.next {
                None => return Ok(()),
                next if next == after => {
                    return Err(TargetError::Refused("the list of uploads goes round in a circle".to_owned()));
                }
                next => after = next,
            }
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
enum Found {
    /// What was to be put there, under this tag.
    Same(String),
    /// Something else, with its card where it is one of ours.
    Other(Option<Card>),
}

fn in_the_way(key: &str) -> Delivery {
    Delivery::Failed(format!("{key} is an object that Blat did not put there, so it is left alone; move it away"))
}

fn is_not_known(error: &object_store::Error) -> bool {
    matches!(fault::fault(error), Some(Fault::Answered(answer)) if answer.is_not_known())
}

/// The size of a package's parts: the usual one, unless that came to more parts than an object may have.
fn part_size(bytes: u64) -> u64 {
    PART.max(bytes.div_ceil(MOST_PARTS).next_multiple_of(MEBIBYTE))
}

/// A stretch of a spool.
async fn read(packed: &Packed, from: u64, length: u64) -> Result<PutPayload, object_store::Error> {
    let spool = packed.spool.clone();
    // Made on the thread that frees it: the allocator would keep room for it on every other.
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    let reading = tokio::task::spawn_blocking(move || {
        let mut spool = spool.lock().unwrap_or_else(PoisonError::into_inner);
        spool.seek(SeekFrom::Start(from))?;
        spool.read_exact(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    });
    let bytes = reading.await.map_err(std::io::Error::other).and_then(|read| read);
    let unreadable = |error: std::io::Error| Fault::Nonsense(format!("cannot read the spooled ZIP: {error}"));
    let bytes =
        bytes.map_err(|error| object_store::Error::Generic { store: "S3", source: Box::new(unreadable(error)) })?;
    Ok(PutPayload::from(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_object_has_more_parts_than_it_may() {
        for bytes in [PART + 1, 80 << 30, (80 << 30) + 1, 5 << 40] {
            let part = part_size(bytes);
            assert!(bytes.div_ceil(part) <= MOST_PARTS && part >= PART && part.is_multiple_of(MEBIBYTE), "{bytes}");
        }
        assert_eq!(part_size(PART + 1), PART);
    }
}
