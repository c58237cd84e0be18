//! A bucket as a target: each package is one object, a ZIP, whose metadata tells what it is.
//!
//! What is there is told by the listing alone, and by what is remembered of objects that have not changed since. Whatever lies below the
//! prefix and is not ours is left alone.

mod begun;
mod body;
mod bucket;
mod credentials;
mod deleting;
mod demands;
mod denial;
mod fault;
mod inventory;
mod keys;
mod known;
mod limits;
mod listing;
pub(crate) mod object_metadata;
mod ownership;
mod probe;
mod retiring;
mod sending;
#[cfg(test)]
mod tests;
mod tries;
mod upload;
mod wire;

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use blat_config::S3Settings;
use blat_domain::archive::inventory::Inventory;
use blat_domain::archive::package_list::{Former, Purge};
use blat_domain::archive::record::{Claim, Found, Owner, Record};
use blat_domain::archive::title::Title;
use blat_domain::package::name::PackageId;
use blat_domain::policy::plan::{Link, Size};
use blat_domain::util::text::hex;
use blat_packing::item::TransferItem;
use blat_packing::progress::Progress;
use blat_packing::tree::Digests;
use blat_packing::walker::Root;
use futures_util::{Stream, StreamExt, TryStreamExt};
use object_store::{GetOptions, PutMode, PutOptions, PutPayload};
use sha2::{Digest, Sha256};
use tokio::sync::{OnceCell, RwLock, Semaphore};

use begun::BegunUploads;
use bucket::Bucket;
use keys::{Meaning, ObjectKeys};
use known::{BucketMemory, EtagDigest, KnownObject, List, What};
use object_metadata::ObjectMetadata;
use tries::RetryBudget;

use super::{Leaving, Retirement, Target};
use crate::flow::rate_limit::{RateLimiter, Urgency};
use crate::model::batch_limits::BatchLimits;
use crate::model::error::TargetError;
use crate::model::outcome::{Delivery, OutcomeSink, Retired, Verdict};

/// A stream is what one call takes. Two are under way at once, so that the last packages of one are not sent alone.
const APPETITE: BatchLimits = BatchLimits { size: Size { bytes: 256 << 20, entries: 50_000 }, streams: 2 };
/// Objects that are asked for at once, each by a request of its own.
const LOOKS: usize = 16;
/// Objects that are read back at once.
const READS: usize = 4;
/// Packages under way at once.
const PACKAGES: usize = 8;
/// MiB of packages that are in memory at once while they are sent: of full syncs, and of tags beside them.
const MEBIBYTES: [usize; 2] = [32, 16];
/// The longest entity tag of what was written, in bytes.
const LONGEST_ETAG: usize = 256;
/// The longest PackageList that is read back, in bytes.
const LONGEST_LIST: usize = 16 << 20;

/// A place in a bucket.
pub(crate) struct S3Target {
    settings: S3Settings,
    keys: ObjectKeys,
    /// On whose behalf it lists and deletes.
    owner: Owner,
    limiter: Arc<RateLimiter>,
    bucket: OnceCell<Bucket>,
    known: BucketMemory,
    /// Where a ZIP lies while it is sent, below `state/`.
    spool: PathBuf,
    packages: Semaphore,
    mebibytes: [Semaphore; 2],
    /// Our own uploads under way. Whoever begins one holds this for reading until it is among them.
    uploads: RwLock<()>,
    own: Mutex<HashSet<String>>,
    /// All uploads that were begun here and are not over, by this agent or an earlier one.
    begun: BegunUploads,
    /// Whether nobody looked for left-over uploads yet.
    is_unswept: AtomicBool,
    /// Whether somebody was told of what is not ours.
    has_warned: AtomicBool,
    /// Whether the server knows writes that replace nothing; found out anew with each call that sends packages.
    knows_conditions: AtomicBool,
    /// Whether the server ignores the conditions of such writes, once that was found out.
    ignores: OnceCell<bool>,
    /// Whether the server lists in another order than that of keys, or not from within.
    lists_otherwise: AtomicBool,
    /// What was found in the record's place when that was judged last; none before.
    contact: Mutex<Option<Found>>,
    /// The PackageList's tag and size in the last listing.
    listed: Mutex<Option<(String, u64)>>,
    /// What the server's clock said in the last listing, less this machine's uptime then, in seconds.
    clock: Mutex<Option<i64>>,
}

impl S3Target {
    /// A target whose state lies in `state`, listed and deleted from on behalf of `owner`. Nothing is connected before it is used.
    pub(crate) fn new(settings: S3Settings, state: &Path, limiter: Arc<RateLimiter>, owner: Owner) -> Self {
        Self {
            owner,
            keys: ObjectKeys::below(&settings.prefix),
            settings,
            limiter,
            bucket: OnceCell::new(),
            known: BucketMemory::at(state.join(known::FILE)),
            spool: state.join("zip"),
            packages: Semaphore::new(PACKAGES),
            mebibytes: MEBIBYTES.map(Semaphore::new),
            uploads: RwLock::default(),
            own: Mutex::default(),
            begun: BegunUploads::at(state.join(begun::FILE)),
            is_unswept: AtomicBool::new(true),
            has_warned: AtomicBool::new(false),
            knows_conditions: AtomicBool::new(true),
            ignores: OnceCell::new(),
            lists_otherwise: AtomicBool::new(false),
            contact: Mutex::default(),
            listed: Mutex::default(),
            clock: Mutex::default(),
        }
    }

    async fn bucket(&self) -> Result<&Bucket, TargetError> {
        let bucket = self.bucket.get_or_try_init(|| async { Bucket::open(&self.settings, &self.limiter) }).await?;
        self.known.load(&bucket.place);
        self.begun.load(&bucket.place);
        Ok(bucket)
    }

    /// An object's card, its tag and its size; none where there is no object, and no card where it is not ours.
    async fn look(&self, bucket: &Bucket, key: &str) -> Result<Option<ObjectHead>, TargetError> {
        let seen = head(bucket, &keys::path(key)?).await.map_err(|error| fault::sorted(&error))?;
        let Meaning::Package(package) = self.keys.meaning(key) else { return Ok(seen) };
        // What says that it is another package is a copy that somebody made.
        let ours = |seen: ObjectHead| ObjectHead { card: seen.card.filter(|card| card.is_of(&package)), ..seen };
        Ok(seen.map(ours))
    }

    /// Remembers an object that has a tag.
    fn note(&self, package: &PackageId, etag: &str, size: u64, what: What) {
        if !etag.is_empty() {
            self.known.note(package, KnownObject { tag: EtagDigest::of(etag), size, what });
        }
    }
}

/// An object that was looked at.
struct ObjectHead {
    card: Option<ObjectMetadata>,
    etag: String,
    size: u64,
}

#[async_trait]
impl Target for S3Target {
    async fn batch_limits(&self) -> Result<BatchLimits, TargetError> {
        Ok(APPETITE)
    }

    async fn inventory(&self) -> Result<Arc<Inventory>, TargetError> {
        self.take_inventory().await
    }

    async fn receive(
        &self,
        items: &[TransferItem],
        progress: &Arc<Progress>,
        told: &OutcomeSink<'_>,
    ) -> Result<(), TargetError> {
        self.send_all(items, progress, told).await
    }

    async fn link(&self, links: &[Link]) -> Result<Vec<(PackageId, Delivery)>, TargetError> {
        self.put_links(links).await
    }

    fn digests(&self, root: &Root) -> Result<Digests, String> {
        let zipped = blat_packing::zip::zip(root, &Progress::default(), &self.spool, std::io::sink())
            .map_err(|error| error.to_string())?;
        Ok(of_zip(hex(&zipped.digest)))
    }

    async fn verify(&self, packages: &[PackageId]) -> Result<Vec<(PackageId, Verdict)>, TargetError> {
        let bucket = self.bucket().await?;
        let reading =
            packages.iter().map(|package| async move { Ok((package.clone(), self.verdict(bucket, package).await?)) });
        several(reading.collect::<Vec<_>>(), READS).try_collect().await
    }

    async fn retire(
        &self,
        owned: &Record,
        how: Retirement,
        packages: &[Leaving],
    ) -> Result<Vec<(PackageId, Retired)>, TargetError> {
        // No mount leads into a bucket, so nothing in it can be a file of the source's.
        let packages: Vec<_> = packages.iter().map(|leaving| (leaving.package.clone(), leaving.time)).collect();
        let retired = self.retire_all(owned, how, &packages).await;
        self.known.save();
        retired
    }

    async fn sweep(&self, _keep: &BTreeSet<PackageId>) -> Result<(), TargetError> {
        self.sweep_uploads().await
    }

    async fn store_list(&self, owned: &Record, list: &str, _: Purge) -> Result<Former, TargetError> {
        let bucket = self.bucket().await?;
        let digest = hex(&Sha256::digest(list));
        let listed = self.last_listed();
        let is_the_same = |known: List| known.digest == digest && listed == Some((known.etag, known.size));
        let is_there = self.known.list().is_some_and(is_the_same);
        let former = if is_there { Former::Whole } else { self.present_list(bucket).await?.0 };
        // Also where nothing is to be written: of whoever lost the bucket, no list holds.
        self.check_owner(bucket, owned).await?;
        if !is_there {
            self.put_list(bucket, owned, list, digest).await?;
            // Who lost the bucket meanwhile must not report that all is well.
            self.check_owner(bucket, owned).await?;
        }
        self.known.save();
        Ok(former)
    }

    fn met(&self, found: &Found) {
        *self.contact.lock().unwrap_or_else(PoisonError::into_inner) = Some(found.clone());
    }

    async fn claim(&self, how: Claim, record: &Record) -> Result<Title, TargetError> {
        let title = self.change_record(how, record).await;
        self.known.save();
        title
    }
}

impl S3Target {
    async fn put_list(&self, bucket: &Bucket, owned: &Record, list: &str, digest: String) -> Result<(), TargetError> {
        let mut attributes = object_store::Attributes::new();
        attributes.insert(object_store::Attribute::ContentType, "text/plain".into());
        let options = PutOptions { mode: PutMode::Overwrite, attributes, ..PutOptions::default() };
        let payload = PutPayload::from(list.as_bytes().to_vec());
        let (path, store) = (keys::path(&self.keys.list())?, bucket.once(Urgency::Tag));
        let mut tries = RetryBudget::new();
        let put = loop {
            let put = store.put_opts(&path, payload.clone(), options.clone()).await;
            match put.map_err(|error| fault::sorted(&error)) {
                Err(error) if tries.again(&error).await => self.check_owner(bucket, owned).await?,
                done => break done?,
            }
        };
        let etag = put.e_tag.unwrap_or_default();
        let etag = listing::bare(&etag).to_owned();
        self.known.note_list(List { etag, size: list.len() as u64, digest });
        Ok(())
    }

    /// As [`Self::read_back`]; what cannot be read is that package's alone.
    async fn verdict(&self, bucket: &Bucket, package: &PackageId) -> Result<Verdict, TargetError> {
        match self.read_back(bucket, package).await {
            Err(TargetError::Refused(why) | TargetError::Operator(why)) => {
                Ok(Verdict::Unknown(format!("its object cannot be read: {why}")))
            }
            read => read,
        }
    }

    /// Reads an object and compares it with its card.
    async fn read_back(&self, bucket: &Bucket, package: &PackageId) -> Result<Verdict, TargetError> {
        let path = keys::path(&self.keys.package(package))?;
        let found = match bucket.store(Urgency::Bulk).get_opts(&path, GetOptions::default()).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(Verdict::Absent),
            Err(error) => return Err(fault::sorted(&error)),
        };
        let Some(card) = ObjectMetadata::read(&found.attributes).filter(|card| card.is_of(package)) else {
            return Ok(Verdict::Unknown("its object does not say what it should hold".to_owned()));
        };
        // Only the listing bounds how long an object may be: what the server says with its bytes need not have an end.
        let tag = found.meta.e_tag.as_deref().map(|etag| EtagDigest::of(listing::bare(etag)));
        let Some(size) = self.known.entry(package).filter(|known| Some(known.tag) == tag).map(|known| known.size)
        else {
            return Ok(Verdict::Unknown("its object is not the one that was listed; verify it again".to_owned()));
        };
        let (mut digest, mut bytes, mut length) = (Sha256::new(), found.into_stream(), 0);
        while let Some(some) = bytes.next().await {
            let some = some.map_err(|error| fault::sorted(&error))?;
            length += some.len() as u64;
            if length > size {
                return Ok(Verdict::Bad(format!("its object has more than the {size} bytes that the bucket lists")));
            }
            digest.update(some);
        }
        Ok(match hex(&digest.finalize()) {
            there if there == card.digest => Verdict::Good(of_zip(there)),
            there => Verdict::Bad(format!("its ZIP has the SHA-256 {there}, and {} was sent", card.digest)),
        })
    }
}

/// A ZIP holds links, modes and directories beside the bytes of the files, so its digest stands for both.
fn of_zip(digest: String) -> Digests {
    Digests { tree: Some(digest.clone()), bytes: digest }
}

/// As [`S3Target::look`], with the library's own error.
async fn head(bucket: &Bucket, path: &object_store::path::Path) -> Result<Option<ObjectHead>, object_store::Error> {
    let options = GetOptions { head: true, ..GetOptions::default() };
    match bucket.store(Urgency::Tag).get_opts(path, options).await {
        Ok(found) => {
            let etag = found.meta.e_tag.as_deref().map(listing::bare).unwrap_or_default().to_owned();
            Ok(Some(ObjectHead { card: ObjectMetadata::read(&found.attributes), etag, size: found.meta.size }))
        }
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Runs work several at once, none before its turn; its outcomes come as they are ready.
fn several<F: Future>(work: impl IntoIterator<Item = F>, at_once: usize) -> impl Stream<Item = F::Output> {
    futures_util::stream::iter(work).buffer_unordered(at_once)
}
