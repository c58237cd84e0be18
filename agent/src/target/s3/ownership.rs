//! Whose archive a bucket is: an object of its own says so. A bucket has no locks, so its owner is looked at right before each request that only
//! the owner may make.

use std::sync::PoisonError;

use blat_domain::ownership::{Claim, Found, LONGEST, Record, Title};
use blat_domain::package_list::{self, Former};
use object_store::{GetOptions, PutMode, PutOptions, PutPayload};

use super::super::valve::Urgency;
use super::bucket::Bucket;
use super::known::Owned;
use super::upload::is_not_known;
use super::{LONGEST_LIST, S3Target, TargetError, body, fault, keys, listing, retiring};

impl S3Target {
    /// As [`super::Target::claim`].
    pub(super) async fn change_record(&self, how: Claim, record: &Record) -> Result<Title, TargetError> {
        let bucket = self.bucket().await?;
        let found = self.record(bucket).await?;
        let mode = match (how, &found) {
            (Claim::First, Found::Nothing) => PutMode::Create,
            (Claim::Adopt, _) => PutMode::Overwrite,
            (Claim::Withdraw, Found::Record(there)) if there == record => {
                retiring::remove(bucket, vec![self.keys.record()], Some(self)).await?;
                return Ok(Title { found: self.record(bucket).await?, ..Title::default() });
            }
            (Claim::Look | Claim::First | Claim::Withdraw, _) => return Ok(Title { found, ..Title::default() }),
        };
        let archive = match &found {
            Found::Record(there) => there.archive,
            Found::Nothing | Found::Malformed(_) => record.archive,
        };
        self.put_record(bucket, mode, &Record { archive, owner: record.owner.clone() }).await?;
        // Of several that claim it at once, all go by what is there afterwards.
        Ok(Title { found: self.record(bucket).await?, ..Title::default() })
    }

    async fn put_record(&self, bucket: &Bucket, mode: PutMode, record: &Record) -> Result<(), TargetError> {
        let path = keys::path(&self.keys.record())?;
        let put = |mode| {
            let mut attributes = object_store::Attributes::new();
            attributes.insert(object_store::Attribute::ContentType, "text/plain".into());
            let options = PutOptions { mode, attributes, ..PutOptions::default() };
            bucket.store(Urgency::Bulk).put_opts(&path, PutPayload::from(record.render().into_bytes()), options)
        };
        let done = match put(mode).await {
            // It was looked at a moment ago, which is all that such a server lets us do.
            Err(error) if is_not_known(&error) => put(PutMode::Overwrite).await,
            done => done,
        };
        match done {
            Ok(_) | Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(()),
            Err(error) => Err(fault::sorted(&error)),
        }
    }

    /// The record as it is now.
    async fn record(&self, bucket: &Bucket) -> Result<Found, TargetError> {
        let path = keys::path(&self.keys.record())?;
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
            self.known.note_record(Owned { etag, size, record: record.clone() });
        }
        Ok(found)
    }

    /// The record as a listing shows it: one that has not changed is not asked for again.
    pub(super) async fn listed_record(
        &self,
        bucket: &Bucket,
        listed: Option<(String, u64)>,
    ) -> Result<Found, TargetError> {
        let Some((etag, size)) = listed else { return Ok(Found::Nothing) };
        match self.known.record().filter(|known| known.etag == etag && known.size == size) {
            Some(known) => Ok(Found::Record(known.record)),
            None => self.record(bucket).await,
        }
    }

    /// Whether the bucket is still ours.
    pub(super) async fn check_owner(&self, bucket: &Bucket) -> Result<(), TargetError> {
        let now = match self.record(bucket).await? {
            Found::Record(record) if record.owner == self.owner => return Ok(()),
            Found::Record(record) => format!("its owner is {} now", record.owner),
            Found::Nothing => format!("{} is gone", self.keys.record()),
            Found::Malformed(why) => format!("{} does not name its owner: {why}", self.keys.record()),
        };
        Err(TargetError::Refused(format!(
            "changing what {} is to hold failed: {now}; `blat adopt {}` takes it over",
            bucket.place, self.owner.target
        )))
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
