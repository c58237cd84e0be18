//! Whose archive a bucket is: an object of its own says so, and another one has the number of the last visit. A bucket has no locks, so its owner is looked at right before each request that only
//! the owner may make.

use std::sync::PoisonError;

use blat_domain::archive::package_list::{self, Former};
use blat_domain::archive::record::{Claim, Found, LONGEST, Record};
use blat_domain::archive::title::Title;
use blat_domain::protocol::outcome::FailedFor;
use object_store::{GetOptions, PutMode, PutOptions, PutPayload};

use super::bucket::Bucket;
use super::known::Owned;
use super::tries::RetryBudget;
use super::upload::is_not_known;
use super::{LONGEST_LIST, S3Target, TargetError, body, fault, keys, listing, retiring};
use crate::flow::rate_limit::Urgency;

impl S3Target {
    /// As [`super::Target::claim`].
    pub(super) async fn change_record(&self, how: Claim, record: &Record) -> Result<Title, TargetError> {
        let bucket = self.bucket().await?;
        if how == Claim::Adopt {
            // Before the bucket is ours: whoever ends in the midst of it has not made the former owner's marks its own.
            self.drop_marks(bucket, None).await?;
        }
        let found = self.changed(bucket, how, record).await?;
        match (how, &found) {
            // What the former owner marked meanwhile. The visit last: an adoption that is cut before it has to be asked for again.
            (Claim::Adopt, Found::Record(there)) if there.owner == record.owner => {
                self.drop_marks(bucket, Some(there)).await?;
                self.put_visit(bucket, there).await?;
            }
            (Claim::Visit, Found::Record(there)) if there.owner == record.owner => {
                self.put_visit(bucket, record).await?;
            }
            (Claim::Look | Claim::First | Claim::Adopt | Claim::Withdraw | Claim::Visit, _) => {}
        }
        Ok(Title { found, visit: self.visit(bucket).await?, ..Title::default() })
    }

    /// Does to the record what `how` says, and gives how it is then.
    async fn changed(&self, bucket: &Bucket, how: Claim, record: &Record) -> Result<Found, TargetError> {
        let found = self.record(bucket).await?;
        let mode = match (how, &found) {
            (Claim::First, Found::Nothing) => {
                // Marks without a record are those of a former owner.
                self.drop_marks(bucket, None).await?;
                PutMode::Create
            }
            (Claim::Adopt, _) => PutMode::Overwrite,
            (Claim::Withdraw, Found::Record(there)) if there == record => {
                // The visit is what an adoption has put there.
                retiring::remove(bucket, vec![self.keys.visit(), self.keys.record()], Some((self, record))).await?;
                return self.record(bucket).await;
            }
            (Claim::Look | Claim::First | Claim::Withdraw | Claim::Visit, _) => return Ok(found),
        };
        if let Some(kept) = self.put_record(bucket, mode, record, &found).await? {
            return Ok(kept);
        }
        // Of several that claim it at once, all go by what is there afterwards.
        self.record(bucket).await
    }

    /// Puts the number of a visit. Whoever lost the bucket in this moment harms nobody: the owner takes it for a memory that was put back.
    async fn put_visit(&self, bucket: &Bucket, visit: &Record) -> Result<(), TargetError> {
        let path = keys::path(&self.keys.visit())?;
        let payload = PutPayload::from(visit.render().into_bytes());
        let put = bucket.store(Urgency::Bulk).put_opts(&path, payload, plain_text(PutMode::Overwrite)).await;
        put.map(drop).map_err(|error| fault::sorted(&error))
    }

    /// Writes the record, unless `mode` forbids it. Gives what counts as found where it would be a guess that the bucket is free. In the place of
    /// `former` it is written again only while that is still there.
    async fn put_record(
        &self,
        bucket: &Bucket,
        mode: PutMode,
        record: &Record,
        former: &Found,
    ) -> Result<Option<Found>, TargetError> {
        let path = keys::path(&self.keys.record())?;
        let put = |mode| {
            let store = if mode == PutMode::Create { bucket.store(Urgency::Bulk) } else { bucket.once(Urgency::Bulk) };
            store.put_opts(&path, PutPayload::from(record.render().into_bytes()), plain_text(mode))
        };
        let mut tries = RetryBudget::new();
        let mut done = match put(mode.clone()).await {
            // An answer that says that there is none may be an old one, and this server cannot look itself. What else is there speaks for a record.
            Err(error) if is_not_known(&error) => {
                if self.is_in_use(bucket).await? {
                    let why = "there is none, though packages are there, and the server knows no conditional writes";
                    return Ok(Some(Found::Malformed(why.to_owned())));
                }
                put(PutMode::Overwrite).await
            }
            done => done,
        };
        while let Err(error) = &done
            && mode != PutMode::Create
            && tries.again(&fault::sorted(error)).await
        {
            if self.record(bucket).await? != *former {
                return Ok(None);
            }
            done = put(PutMode::Overwrite).await;
        }
        match done {
            Ok(_) | Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(None)
            }
            Err(error) => Err(fault::sorted(&error)),
        }
    }

    /// Whether a listing of now shows that somebody keeps packages here.
    async fn is_in_use(&self, bucket: &Bucket) -> Result<bool, TargetError> {
        let (listed, _) = self.listed(bucket, &[]).await?;
        let packages = listed.objects.len() + listed.unknown.len();
        Ok(packages > 0 || listed.list.is_some() || listed.record.is_some())
    }

    /// The record as it is now.
    pub(super) async fn record(&self, bucket: &Bucket) -> Result<Found, TargetError> {
        self.owned(bucket, &self.keys.record(), |record| self.known.note_record(record)).await
    }

    /// The last visit as it is now.
    async fn visit(&self, bucket: &Bucket) -> Result<Found, TargetError> {
        self.owned(bucket, &self.keys.visit(), |visit| self.known.note_visit(visit)).await
    }

    async fn owned(&self, bucket: &Bucket, key: &str, note: impl FnOnce(Owned)) -> Result<Found, TargetError> {
        let path = keys::path(key)?;
        let found = match bucket.store(Urgency::Bulk).get_opts(&path, GetOptions::default()).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(Found::Nothing),
            Err(error) => return Err(fault::sorted(&error)),
        };
        let (size, etag) = (found.meta.size, found.meta.e_tag.clone().unwrap_or_default());
        let most = usize::try_from(LONGEST).unwrap_or(usize::MAX);
        let Some(bytes) = body::object(found, most).await? else {
            return Ok(Found::Malformed(format!("it has more than {LONGEST} bytes")));
        };
        let found = Found::read(&String::from_utf8_lossy(&bytes));
        if let Found::Record(record) = &found {
            let etag = listing::bare(&etag).to_owned();
            note(Owned { etag, size, record: record.clone() });
        }
        Ok(found)
    }

    /// The record as a listing shows it.
    pub(super) async fn listed_record(
        &self,
        bucket: &Bucket,
        listed: Option<(String, u64)>,
    ) -> Result<Found, TargetError> {
        as_listed(listed, self.known.record(), self.record(bucket)).await
    }

    /// The last visit, likewise.
    pub(super) async fn listed_visit(
        &self,
        bucket: &Bucket,
        listed: Option<(String, u64)>,
    ) -> Result<Found, TargetError> {
        as_listed(listed, self.known.visit(), self.visit(bucket)).await
    }

    /// Whether the bucket still has the record that this was planned by: an adoption since, be it by us, makes another one.
    pub(super) async fn check_owner(&self, bucket: &Bucket, owned: &Record) -> Result<(), TargetError> {
        let found = self.record(bucket).await?;
        let now = match self.loss(&found) {
            None if found == Found::Record(owned.clone()) => return Ok(()),
            None => "it was adopted since this was planned; sync it again".to_owned(),
            Some(now) => now,
        };
        Err(TargetError::Refused(format!("changing what {} is to hold failed: {now}", bucket.place)))
    }

    /// Why nothing that is there is replaced, if somebody else may own the bucket by now. Where there never was a record, nobody else does.
    pub(super) async fn keeps_from_replacing(&self, bucket: &Bucket) -> Result<Option<String>, TargetError> {
        let found = self.record(bucket).await?;
        let is_nobodys = found == Found::Nothing && self.last_seen().is_none();
        Ok(self.loss(&found).filter(|_| !is_nobodys).map(|now| format!("it is not replaced: {now}")))
    }

    /// What was in the record's place when that was judged last; before that, what an earlier agent saw there, whatever is read since.
    fn last_seen(&self) -> Option<Found> {
        let mut contact = self.contact.lock().unwrap_or_else(PoisonError::into_inner);
        if contact.is_none() {
            *contact = self.known.record().map(|known| Found::Record(known.record));
        }
        contact.clone().filter(|found| *found != Found::Nothing)
    }

    /// The record, before packages or links go to the bucket; or why none goes there: at the same endpoint another bucket may answer by now, or
    /// one that has lost everything. Nobody asks where none was ever seen.
    pub(super) async fn before_sending(&self, bucket: &Bucket) -> Result<Result<Option<Found>, String>, TargetError> {
        let Some(seen) = self.last_seen() else { return Ok(Ok(None)) };
        let found = self.record(bucket).await?;
        // What has belonged to somebody else all the time is sent to. Of such a bucket nothing but its record tells it from another one.
        let is_ours = self.loss(&seen).is_none();
        let is_another = if is_ours { self.loss(&found).is_some() } else { found != seen };
        Ok(if is_another { Err(self.unowned(&found)) } else { Ok(Some(found)) })
    }

    /// Why what was sent since counts as not sent: the bucket is another one than `before`.
    pub(super) async fn after_sending(
        &self,
        bucket: &Bucket,
        before: Option<&Found>,
    ) -> Result<Option<String>, TargetError> {
        let Some(before) = before else { return Ok(None) };
        let found = self.record(bucket).await?;
        Ok((found != *before).then(|| self.unowned(&found)))
    }

    fn unowned(&self, found: &Found) -> String {
        let why = match (found, self.loss(found)) {
            (Found::Nothing, _) => format!(
                "the bucket has no record of its owner ({}) any more, so it may be another one than before; a sync that finds it right writes the \
                 record anew, or `blat adopt {}` does",
                self.keys.record(),
                self.owner.target
            ),
            (_, Some(now)) => format!("the bucket may be another one than before: {now}"),
            (_, None) => "the bucket was adopted meanwhile, so what was sent is looked at again".to_owned(),
        };
        format!("{why} ({})", FailedFor::Unowned)
    }

    /// What is wrong where a record does not name our owner.
    fn loss(&self, found: &Found) -> Option<String> {
        let now = match found {
            Found::Record(record) if record.owner == self.owner => return None,
            Found::Record(record) => format!("its owner is {} now", record.owner),
            Found::Nothing => format!("{} is gone", self.keys.record()),
            Found::Malformed(why) => format!("{} does not name its owner: {why}", self.keys.record()),
        };
        Some(format!("{now}; `blat adopt {}` takes it over", self.owner.target))
    }

    /// The PackageList that is there now. One that cannot be had is an error, not an absent one.
    pub(super) async fn present_list(&self, bucket: &Bucket) -> Result<(Former, package_list::Listed), TargetError> {
        let path = keys::path(&self.keys.list())?;
        let nothing = package_list::Listed::default;
        let found = match bucket.store(Urgency::Bulk).get_opts(&path, GetOptions::default()).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok((Former::Missing, nothing())),
            Err(error) => return Err(fault::sorted(&error)),
        };
        let Some(bytes) = body::object(found, LONGEST_LIST).await? else { return Ok((Former::Damaged, nothing())) };
        Ok(match package_list::parse(std::str::from_utf8(&bytes).unwrap_or_default()) {
            Ok(list) if !list.packages.is_empty() => (Former::Whole, list),
            Ok(_) | Err(_) => (Former::Damaged, nothing()),
        })
    }

    /// The PackageList's tag and size in the last listing.
    pub(super) fn last_listed(&self) -> Option<(String, u64)> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How an object is put that people may read.
fn plain_text(mode: PutMode) -> PutOptions {
    let mut attributes = object_store::Attributes::new();
    attributes.insert(object_store::Attribute::ContentType, "text/plain".into());
    PutOptions { mode, attributes, ..PutOptions::default() }
}

/// What was known, where a listing shows that it has not changed since; else what is read now.
async fn as_listed(
    listed: Option<(String, u64)>,
    known: Option<Owned>,
    read: impl Future<Output = Result<Found, TargetError>>,
) -> Result<Found, TargetError> {
    let Some((etag, size)) = listed else { return Ok(Found::Nothing) };
    match known.filter(|known| known.etag == etag && known.size == size) {
        Some(known) => Ok(Found::Record(known.record)),
        None => read.await,
    }
}
