//! A bucket in memory that counts what it is asked, and fails where a test wants it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartId, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::super::TargetError;
use super::super::bucket::{Ask, Begin};
use super::super::fault::{ErrorResponse, Fault, sorted};
use super::super::listing::{self, Object, Page, Upload, Uploads};
use crate::targets::s3::object_metadata::ObjectMetadata;

/// Objects on one page of a listing.
const PAGE: usize = 3;
/// The server's clock, in epoch seconds.
pub(super) const NOW: i64 = 1_800_000_000;

#[derive(Debug, Default)]
pub(super) struct InMemoryBucket {
    pub(super) memory: InMemory,
    /// Questions about one object.
    pub(super) heads: AtomicUsize,
    /// Whether those get an error instead of an answer.
    pub(super) heads_fail: AtomicBool,
    /// Objects written in one request.
    pub(super) puts: AtomicUsize,
    /// The key whose writing is a panic, as a library's may be.
    pub(super) panics_at: Mutex<Option<&'static str>>,
    /// Conditional writes that are refused from now on, as by a server that does not know them.
    pub(super) refused_conditions: AtomicUsize,
    /// Conditional writes that were not.
    pub(super) conditions: AtomicUsize,
    /// A record that somebody puts when an object is next asked about.
    pub(super) put_at_next_head: Mutex<Option<String>>,
    /// A record that somebody puts while the next write that may replace something fails on its way, or once it is done.
    pub(super) put_at_next_write: Mutex<Option<String>>,
    pub(super) put_after_next_write: Mutex<Option<String>>,
    /// A record that somebody puts while the answer to the next deletion gets lost.
    pub(super) put_at_next_delete: Mutex<Option<String>>,
    /// An object that somebody puts while the next part is sent, while the server ends the next conditional upload, or while it copies.
    pub(super) put_at_next_part: Mutex<Option<(&'static str, String)>>,
    /// The same while the next object is put that may replace something.
    pub(super) put_at_next_put: Mutex<Option<(&'static str, String)>>,
    pub(super) put_at_next_complete: Mutex<Option<(&'static str, String)>>,
    pub(super) put_at_next_copy: Mutex<Option<(&'static str, String)>>,
    /// Uploads whose end is conditional.
    conditional: Mutex<Vec<String>>,
    /// Requests to delete.
    pub(super) deletes: AtomicUsize,
    /// Keys that cannot be deleted.
    pub(super) stuck: Mutex<Vec<String>>,
    /// A key that listings show with another size.
    pub(super) lists_otherwise: Mutex<Option<(&'static str, u64)>>,
    /// The page that cannot be had, from 1; 0: none.
    pub(super) bad_page: AtomicUsize,
    /// Objects that are listed, and of which nothing else is said.
    pub(super) closed: Mutex<Vec<&'static str>>,
    /// Keys that nothing is put to, whatever comes.
    pub(super) full: Mutex<Vec<String>>,
    /// Whether conditional writes replace what is there.
    pub(super) ignores_conditions: AtomicBool,
    /// How far the clock is off in a listing of marks, in seconds.
    pub(super) skew: AtomicI64,
    /// Whether the bytes of objects have no end.
    pub(super) is_endless: AtomicBool,
    /// Questions for the record.
    pub(super) records: AtomicUsize,
    /// Questions for the record that are still answered as before it was there.
    pub(super) stale_records: AtomicUsize,
    /// Whether every listing begins at the beginning, whatever key it should begin after.
    pub(super) starts_at_the_start: AtomicBool,
    /// Whether listings go folder by folder, as SeaweedFS has them: `a/1` comes before `a-b/1`.
    pub(super) goes_by_folders: AtomicBool,
    /// Pages of listings that were asked for.
    pub(super) pages: AtomicUsize,
    /// Uploads that were begun and neither finished nor given up.
    pub(super) unfinished: Mutex<Vec<Upload>>,
}

impl InMemoryBucket {
    /// Puts an object as somebody else would.
    pub(super) async fn put_foreign(&self, key: &str) {
        self.memory.put(&path(key), PutPayload::from_static(b"theirs")).await.expect("memory");
    }

    /// Puts the record that waits in `place`, if one does.
    async fn usurp(&self, place: &Mutex<Option<String>>) -> bool {
        let record = place.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(record) = record else { return false };
        self.memory.put(&path("p/.blat/archive"), record.into()).await.expect("memory");
        true
    }

    /// Puts the object that waits in `place`, if one does, as somebody else who sends just then.
    async fn play(&self, place: &Mutex<Option<(&'static str, String)>>) {
        let object = place.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((key, text)) = object {
            self.memory.put(&path(key), text.into()).await.expect("memory");
        }
    }

    /// Fails where the next write does not arrive.
    async fn may_arrive(&self) -> Result<()> {
        if !self.usurp(&self.put_at_next_write).await {
            return Ok(());
        }
        let lost = Fault::Unreached("the request got lost".into());
        Err(object_store::Error::Generic { store: "shelf", source: lost.into() })
    }

    /// Counts a condition, or refuses it.
    fn judge_condition(&self) -> Result<()> {
        let less = |left: usize| left.checked_sub(1);
        if self.refused_conditions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            let answer = ErrorResponse { status: 501, code: "NotImplemented".into(), ..ErrorResponse::default() };
            return Err(object_store::Error::Generic { store: "shelf", source: Fault::Answered(answer).into() });
        }
        self.conditions.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    pub(super) async fn bytes(&self, key: &str) -> Vec<u8> {
        let found = self.memory.get(&path(key)).await.expect("an object");
        found.bytes().await.expect("memory").to_vec()
    }

    pub(super) async fn keys(&self) -> Vec<String> {
        let listed: Vec<ObjectMeta> = self.memory.list(None).try_collect().await.expect("memory");
        let mut keys: Vec<String> = listed.into_iter().map(|object| object.location.to_string()).collect();
        keys.sort();
        keys
    }

    fn forget_upload(&self, id: &str) {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner).retain(|upload| upload.id != id);
    }
}

/// An answer of this status that says nothing else.
fn answered(status: u16) -> object_store::Error {
    let answer = ErrorResponse { status, ..ErrorResponse::default() };
    object_store::Error::Generic { store: "shelf", source: Fault::Answered(answer).into() }
}

fn path(key: &str) -> Path {
    Path::parse(key).expect("a key")
}

impl fmt::Display for InMemoryBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("shelf")
    }
}

#[async_trait]
impl ObjectStore for InMemoryBucket {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if self.full.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|full| at.as_ref().starts_with(&**full))
        {
            return Err(answered(403));
        }
        let ignores = self.ignores_conditions.load(Ordering::Relaxed);
        let is_check = at.as_ref().ends_with("/.blat/check");
        if is_check || ignores && options.mode == PutMode::Create {
            let mode = if ignores { PutMode::Overwrite } else { options.mode.clone() };
            return self.memory.put_opts(at, payload, PutOptions { mode, ..options }).await;
        }
        self.puts.fetch_add(1, Ordering::Relaxed);
        let panics_at = *self.panics_at.lock().unwrap_or_else(PoisonError::into_inner);
        assert_ne!(panics_at, Some(at.as_ref()), "as a library's");
        if options.mode == PutMode::Create {
            self.judge_condition()?;
            return self.memory.put_opts(at, payload, options).await;
        }
        self.may_arrive().await?;
        self.play(&self.put_at_next_put).await;
        let put = self.memory.put_opts(at, payload, options).await?;
        self.usurp(&self.put_after_next_write).await;
        Ok(put)
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.memory.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.heads.fetch_add(usize::from(options.head), Ordering::Relaxed);
        if options.head {
            self.usurp(&self.put_at_next_head).await;
        }
        if self.closed.lock().unwrap_or_else(PoisonError::into_inner).contains(&at.as_ref()) {
            return Err(answered(403));
        }
        if options.head && self.heads_fail.load(Ordering::Relaxed) {
            return Err(object_store::Error::Generic { store: "shelf", source: "no answer".into() });
        }
        let less = |left: usize| left.checked_sub(1);
        let is_record = at.as_ref().ends_with("/.blat/archive");
        self.records.fetch_add(usize::from(is_record), Ordering::Relaxed);
        if is_record && self.stale_records.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            return Err(object_store::Error::NotFound { path: at.to_string(), source: "an old answer".into() });
        }
        let is_head = options.head;
        let mut found = self.memory.get_opts(at, options).await?;
        if !is_head && self.is_endless.load(Ordering::Relaxed) {
            found.meta.size = u64::MAX;
            let endless = futures_util::stream::repeat_with(|| Ok(bytes::Bytes::from_static(&[0; 1000])));
            found.payload = GetResultPayload::Stream(endless.boxed());
        }
        Ok(found)
    }

    fn delete_stream(&self, which: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.memory.delete_stream(which)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.memory.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.memory.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.memory.copy_opts(from, to, options).await
    }
}

#[async_trait]
impl MultipartStore for InMemoryBucket {
    async fn create_multipart(&self, at: &Path) -> Result<MultipartId> {
        self.create_multipart_opts(at, PutMultipartOptions::default()).await
    }

    async fn create_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<MultipartId> {
        let id = self.memory.create_multipart_opts(at, options).await?;
        let upload = Upload { key: at.to_string(), id: id.clone() };
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner).push(upload);
        Ok(id)
    }

    async fn put_part(&self, at: &Path, id: &MultipartId, index: usize, data: PutPayload) -> Result<PartId> {
        self.play(&self.put_at_next_part).await;
        self.memory.put_part(at, id, index, data).await
    }

    async fn complete_multipart(&self, at: &Path, id: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
        if self.conditional.lock().unwrap_or_else(PoisonError::into_inner).contains(id) {
            self.play(&self.put_at_next_complete).await;
            self.judge_condition()?;
            if self.memory.head(at).await.is_ok() {
                return Err(object_store::Error::AlreadyExists { path: at.to_string(), source: "it is there".into() });
            }
        } else {
            self.may_arrive().await?;
        }
        self.forget_upload(id);
        self.memory.complete_multipart(at, id, parts).await
    }

    async fn abort_multipart(&self, at: &Path, id: &MultipartId) -> Result<()> {
        self.forget_upload(id);
        self.memory.abort_multipart(at, id).await
    }
}

#[async_trait]
impl Ask for InMemoryBucket {
    async fn objects(&self, prefix: &str, from: Begin<'_>) -> std::result::Result<(Page, Option<i64>), TargetError> {
        let mut listed: Vec<ObjectMeta> = self.memory.list(None).map(|object| object.expect("memory")).collect().await;
        listed.retain(|object| object.location.as_ref().starts_with(prefix));
        self.pages.fetch_add(1, Ordering::Relaxed);
        let goes_by_folders = self.goes_by_folders.load(Ordering::Relaxed);
        let order = |a: &str, b: &str| {
            if goes_by_folders { a.split('/').cmp(b.split('/')) } else { a.cmp(b) }
        };
        listed.sort_by(|a, b| order(a.location.as_ref(), b.location.as_ref()));
        let start: usize = match from {
            Begin::Key(after) if !self.starts_at_the_start.load(Ordering::Relaxed) => {
                listed.partition_point(|object| order(object.location.as_ref(), after).is_le())
            }
            Begin::Start | Begin::Key(_) => 0,
            Begin::Page(token) => token.parse().expect("a token of ours"),
        };
        if start / PAGE + 1 == self.bad_page.load(Ordering::Relaxed) {
            return Err(TargetError::Link("cut".into()));
        }
        let otherwise = *self.lists_otherwise.lock().unwrap_or_else(PoisonError::into_inner);
        let object = |ObjectMeta { location, size, e_tag, .. }: &ObjectMeta| Object {
            key: location.to_string(),
            size: otherwise.filter(|(key, _)| location.as_ref() == *key).map_or(*size, |(_, size)| size),
            etag: listing::bare(e_tag.as_deref().unwrap_or_default()).to_owned(),
        };
        let objects = listed.iter().skip(start).take(PAGE).map(object).collect();
        let next = (start + PAGE < listed.len()).then(|| (start + PAGE).to_string());
        let skew = if prefix.contains("/marks/") { self.skew.load(Ordering::Relaxed) } else { 0 };
        Ok((Page { objects, next }, Some(NOW + skew)))
    }

    fn set_condition(&self, upload: &str, is_conditional: bool) {
        let mut conditional = self.conditional.lock().unwrap_or_else(PoisonError::into_inner);
        conditional.retain(|id| id != upload);
        conditional.extend(is_conditional.then(|| upload.to_owned()));
    }

    async fn delete(&self, keys: &[String]) -> std::result::Result<BTreeMap<String, ErrorResponse>, TargetError> {
        self.deletes.fetch_add(usize::from(keys != ["p/.blat/check"]), Ordering::Relaxed);
        if self.usurp(&self.put_at_next_delete).await {
            return Err(TargetError::Link("the answer got lost".into()));
        }
        let stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (stuck, keys): (Vec<_>, Vec<_>) = keys.iter().cloned().partition(|key| stuck.contains(key));
        for key in &keys {
            match self.memory.delete(&path(key)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => panic!("memory: {error}"),
            }
        }
        let denied = || ErrorResponse { status: 200, code: "AccessDenied".into(), ..ErrorResponse::default() };
        Ok(stuck.into_iter().map(|key| (key, denied())).collect())
    }

    async fn uploads(&self, prefix: &str, _: Option<&(String, String)>) -> std::result::Result<Uploads, TargetError> {
        let uploads = self.unfinished.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let uploads = uploads.into_iter().filter(|upload| upload.key.starts_with(prefix)).collect();
        Ok(Uploads { uploads, next: None })
    }

    async fn copy(
        &self,
        from: &str,
        to: &str,
        card: &ObjectMetadata,
        is_new: bool,
    ) -> std::result::Result<Option<String>, TargetError> {
        self.play(&self.put_at_next_copy).await;
        self.may_arrive().await.map_err(|error| sorted(&error))?;
        let mode = if is_new { PutMode::Create } else { PutMode::Overwrite };
        let options = PutOptions { mode, attributes: card.attributes(), ..PutOptions::default() };
        match self.memory.put_opts(&path(to), self.bytes(from).await.into(), options).await {
            Ok(put) => Ok(Some(listing::bare(&put.e_tag.unwrap_or_default()).to_owned())),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(None),
            Err(error) => panic!("memory: {error}"),
        }
    }
}
