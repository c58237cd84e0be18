//! One ZIP to its place: in one request or in parts; and what becomes of uploads that nobody finishes.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt, TryStreamExt};
use object_store::multipart::PartId;
use object_store::path::Path;
use object_store::{PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult};
use tempfile::SpooledTempFile;

use super::bucket::{Bucket, Store};
use super::fault::{self, Fault};
use super::keys::{self, Meaning};
use super::limits::Limits;
use super::tries::RetryBudget;
use super::{MEBIBYTES, S3Target, TargetError, head};
use crate::flow::rate_limit::Urgency;
use crate::targets::s3::object_metadata::ObjectMetadata;

/// A ZIP of more bytes than this goes in parts of this size.
const PART: u64 = 8 << 20;
/// No object has more parts.
const MOST_PARTS: u64 = 10_000;
/// Parts of one package that are under way at once.
const LANES: usize = 4;
const MEBIBYTE: u64 = 1 << 20;

/// A ZIP, whole.
pub(super) struct Spooled {
    spool: Arc<Mutex<SpooledTempFile>>,
    bytes: u64,
}

/// What is to be put where.
pub(super) struct Shipment<'a> {
    pub(super) bucket: &'a Bucket,
    pub(super) path: &'a Path,
    pub(super) spooled: &'a Spooled,
    pub(super) card: &'a ObjectMetadata,
    pub(super) urgency: Urgency,
}

impl S3Target {
    /// Puts a ZIP in its place; gives its entity tag. `is_new`: nothing may be there.
    pub(super) async fn put(&self, shipment: &Shipment<'_>, is_new: bool) -> Result<String, object_store::Error> {
        let &Shipment { bucket, path, spooled, card, urgency } = shipment;
        if spooled.bytes > PART {
            return self.put_parts(shipment, is_new).await;
        }
        let _room = self.room(urgency, spooled.bytes).await;
        let payload = spooled.read(0, spooled.bytes).await?;
        let is_conditional = is_new && self.knows_conditions.load(Ordering::Relaxed);
        let put = |store: &'_ Arc<dyn Store>, mode| {
            let options = PutOptions { mode, attributes: card.attributes(), ..PutOptions::default() };
            let (store, payload) = (store.clone(), payload.clone());
            async move { store.put_opts(path, payload, options).await }
        };
        if is_conditional {
            match put(bucket.store(urgency), PutMode::Create).await {
                Err(error) if is_not_known(&error) => {
                    self.forget_conditions();
                }
                done => return Ok(done?.e_tag.unwrap_or_default()),
            }
        }
        let put = self.replacing(shipment, is_new, || put(bucket.once(urgency), PutMode::Overwrite)).await?;
        Ok(put.e_tag.unwrap_or_default())
    }

    /// Makes a write that may replace something, again where that may help. Before each try it looks whether the write still may go there.
    async fn replacing<F: Future<Output = Result<PutResult, object_store::Error>>>(
        &self,
        shipment: &Shipment<'_>,
        is_new: bool,
        write: impl Fn() -> F,
    ) -> Result<PutResult, object_store::Error> {
        let mut tries = RetryBudget::new();
        loop {
            self.look_before_writing(shipment.bucket, shipment.path, is_new).await?;
            match write().await {
                Err(error) if tries.again(&fault::sorted(&error)).await => {}
                done => return done,
            }
        }
    }

    async fn put_parts(&self, shipment: &Shipment<'_>, is_new: bool) -> Result<String, object_store::Error> {
        let &Shipment { bucket, path, card, urgency, .. } = shipment;
        // So that nothing is sent in vain.
        self.look_before_writing(bucket, path, is_new).await?;
        let store = bucket.store(urgency);
        let options = PutMultipartOptions { attributes: card.attributes(), ..PutMultipartOptions::default() };
        let id = {
            let _beginning = self.uploads.read().await;
            self.begin(store.as_ref(), path, options).await?
        };
        let done = match self.send_parts(shipment, &id).await {
            Ok(parts) => self.complete(shipment, &id, parts, is_new).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &done
            && !matches!(error, object_store::Error::NotFound { .. })
            && let Err(error) = store.abort_multipart(path, &id).await
        {
            tracing::debug!(key = path.as_ref(), %error, "an upload could not be given up; it is looked for later");
            self.is_unswept.store(true, Ordering::Relaxed);
        } else {
            self.begun.ended(path.as_ref(), &id);
        }
        self.own.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        Ok(done?.e_tag.unwrap_or_default())
    }

    /// Ends an upload. Sending its parts took time: what may not be replaced is looked for again, and the server looks once more where it can.
    async fn complete(
        &self,
        shipment: &Shipment<'_>,
        id: &String,
        parts: Vec<PartId>,
        is_new: bool,
    ) -> Result<PutResult, object_store::Error> {
        let &Shipment { bucket, path, urgency, .. } = shipment;
        if is_new && self.knows_conditions.load(Ordering::Relaxed) {
            self.look_before_writing(bucket, path, is_new).await?;
            bucket.ask.set_condition(id, true);
            let done = bucket.store(urgency).complete_multipart(path, id, parts.clone()).await;
            bucket.ask.set_condition(id, false);
            match done {
                Err(error) if is_not_known(&error) => self.forget_conditions(),
                done => return done,
            }
        }
        self.replacing(shipment, is_new, || bucket.once(urgency).complete_multipart(path, id, parts.clone())).await
    }

    /// The server refused a condition.
    fn forget_conditions(&self) {
        tracing::debug!("the server refuses a conditional write; for now it is looked first");
        self.knows_conditions.store(false, Ordering::Relaxed);
    }

    /// Looks whether a write may go to its place now: nothing is there where `is_new`, else what is there may be replaced.
    async fn look_before_writing(&self, bucket: &Bucket, path: &Path, is_new: bool) -> Result<(), object_store::Error> {
        if is_new {
            return fail_if_taken(bucket, path).await;
        }
        let unsent = match self.keeps_from_replacing(bucket).await {
            Ok(None) => return Ok(()),
            Ok(Some(why)) => TargetError::Refused(format!("another package is at {path}, and {why}")),
            Err(error) => error,
        };
        Err(object_store::Error::Generic { store: "S3", source: Box::new(Fault::Unsent(unsent)) })
    }

    /// Begins an upload, and notes it down before anything is sent: one of which nobody knows has no parts, and takes no space.
    async fn begin(
        &self,
        store: &dyn Store,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<String, object_store::Error> {
        let id = store.create_multipart_opts(path, options).await?;
        self.own.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        self.begun.has_begun(path.as_ref(), &id);
        Ok(id)
    }

    async fn send_parts(&self, shipment: &Shipment<'_>, id: &String) -> Result<Vec<PartId>, object_store::Error> {
        let &Shipment { bucket, path, spooled, urgency, .. } = shipment;
        let bytes = spooled.bytes;
        let part = part_size(bytes);
        let sending = (0..bytes.div_ceil(part)).map(|number| async move {
            let from = number * part;
            let length = part.min(bytes - from);
            let _room = self.room(urgency, length).await;
            let payload = spooled.read(from, length).await?;
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

    /// Gives up uploads that nobody will finish: those of an agent that died. Once, and again where one was lost since.
    pub(super) async fn sweep_uploads(&self) -> Result<(), TargetError> {
        let bucket = self.bucket().await?;
        if !self.is_unswept.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let swept = self.give_up_uploads(bucket).await;
        if swept.is_err() {
            self.is_unswept.store(true, Ordering::Relaxed);
        }
        swept
    }

    async fn give_up_uploads(&self, bucket: &Bucket) -> Result<(), TargetError> {
        let (mut after, turn, limits) = (None, self.begun.turn(), Limits::new());
        loop {
            let page = {
                // Nobody begins one meanwhile that is not among our own yet.
                let _nobody_begins = self.uploads.write().await;
                let mut page = limits.in_time(bucket.ask.uploads(self.keys.prefix(), after.as_ref())).await?;
                page.uploads.iter().try_for_each(|upload| limits.take(&upload.key, &Meaning::House))?;
                if let Some((key, id)) = &page.next {
                    limits.take_page(page.uploads.len(), &format!("{key}\0{id}"))?;
                }
                let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
                page.uploads.retain(|upload| !own.contains(&upload.id) && self.begun.is_ours(upload));
                page
            };
            for upload in page.uploads {
                match bucket.store(Urgency::Bulk).abort_multipart(&keys::path(&upload.key)?, &upload.id).await {
                    Ok(()) => tracing::info!(key = upload.key, "gave up an upload that an earlier agent left"),
                    Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(fault::sorted(&error)),
                }
            }
            match page.next {
                None => {
                    let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
                    self.begun.forget(turn, |id| own.contains(id));
                    return Ok(());
                }
                next => after = next,
            }
        }
    }
}

impl Spooled {
    /// A spool that holds so many bytes.
    pub(super) fn new(spool: SpooledTempFile, bytes: u64) -> Self {
        Self { spool: Arc::new(Mutex::new(spool)), bytes }
    }

    /// A stretch of it.
    async fn read(&self, from: u64, length: u64) -> Result<PutPayload, object_store::Error> {
        let spool = self.spool.clone();
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
}

/// Fails where an object is in the place of a new one.
async fn fail_if_taken(bucket: &Bucket, path: &Path) -> Result<(), object_store::Error> {
    let Some(seen) = head(bucket, path).await? else { return Ok(()) };
    tracing::debug!(key = path.as_ref(), size = seen.size, "an object is in its place already");
    Err(object_store::Error::AlreadyExists { path: path.to_string(), source: "it is there already".into() })
}

pub(super) fn is_not_known(error: &object_store::Error) -> bool {
    matches!(fault::fault(error), Some(Fault::Answered(answer)) if answer.is_not_known())
}

/// The size of a package's parts: the usual one, unless that came to more parts than an object may have.
fn part_size(bytes: u64) -> u64 {
    PART.max(bytes.div_ceil(MOST_PARTS).next_multiple_of(MEBIBYTE))
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
