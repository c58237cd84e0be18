//! Versions that leave, and their marks. A mark is an empty object whose key says when it was made and how long its package stays, so that a
//! listing tells all marks, and no other request is made for them.

use std::collections::{BTreeMap, BTreeSet};

use blat_domain::archive::inventory::Mark;
use blat_domain::archive::package_list::Former;
use blat_domain::archive::record::Record;
use blat_domain::package::name::PackageId;
use blat_domain::policy::clock::MOST_GAINED;
use futures_util::TryStreamExt;
use object_store::{PutOptions, PutPayload};

use super::bucket::Bucket;
use super::fault::ErrorResponse;
use super::inventory::Range;
use super::keys::Meaning;
use super::limits::Limits;
use super::tries::{FIRST_WAIT, MOST as TRIES, RetryBudget};
use super::{Delivery, LOOKS, Retired, Retirement, S3Target, TargetError, deleting, fault, keys, several};
use crate::flow::rate_limit::Urgency;

/// The marks that stand now, with their keys.
struct Marks {
    marks: BTreeMap<PackageId, Vec<Mark>>,
    /// The time that their listing says it is; nobody has judged it.
    said: Option<i64>,
    /// The time by the last inventory, whose clock was judged, and by what has passed since.
    reckoned: Option<i64>,
}

impl Marks {
    /// The earliest and the latest that it may be, which are one where the two clocks agree. Where they do not, a package stays longer: its
    /// mark is made at the latest time, and has waited up to the earliest.
    fn now(&self) -> Result<(i64, i64), TargetError> {
        let (Some(said), Some(reckoned)) = (self.said, self.reckoned) else {
            return Err(TargetError::Refused("the server does not say what time it is".to_owned()));
        };
        if said.abs_diff(reckoned) <= MOST_GAINED {
            return Ok((said, said));
        }
        Ok((said.min(reckoned), said.max(reckoned)))
    }

    /// The mark that lets its package stay longest.
    fn latest(&self, package: &PackageId) -> Option<Mark> {
        self.marks.get(package)?.iter().copied().max_by_key(|mark| mark.at)
    }
}

impl S3Target {
    /// As [`super::Target::retire`].
    pub(super) async fn retire_all(
        &self,
        owned: &Record,
        how: Retirement,
        packages: &[(PackageId, Option<i64>)],
    ) -> Result<Vec<(PackageId, Retired)>, TargetError> {
        let bucket = self.bucket().await?;
        let marks = self.marks(bucket).await?;
        self.check_owner(bucket, owned).await?;
        match how {
            Retirement::Unmark => self.unmark(bucket, owned, &marks, packages).await,
            Retirement::Mark(wait) => self.mark(bucket, owned, &marks, wait, packages).await,
            Retirement::Delete | Retirement::DeleteDue => self.delete(bucket, owned, &marks, how, packages).await,
        }
    }

    async fn marks(&self, bucket: &Bucket) -> Result<Marks, TargetError> {
        let mut marks: BTreeMap<PackageId, Vec<Mark>> = BTreeMap::new();
        let part = self
            .each(bucket, &self.keys.marks(), Range::default(), &Limits::new(), |_, meaning| {
                if let Meaning::Mark(package, mark) = meaning {
                    marks.entry(package).or_default().push(mark);
                }
            })
            .await?;
        Ok(Marks { marks, said: part.clock, reckoned: self.reckoned_clock() })
    }

    /// Takes all marks away: what the former owner of a bucket marked waits anew once its new one marks it. As `owned` says, only while the bucket
    /// has this record.
    pub(super) async fn drop_marks(&self, bucket: &Bucket, owned: Option<&Record>) -> Result<(), TargetError> {
        let marks = self.marks(bucket).await?;
        let keys = marks.marks.keys().flat_map(|package| self.mark_keys(&marks, package)).collect();
        let failed = remove(bucket, keys, owned.map(|owned| (self, owned))).await?;
        failed.into_iter().next().map_or(Ok(()), |(key, why)| {
            Err(TargetError::Refused(format!("removing the mark {key} of the former owner failed: {why}")))
        })
    }

    /// Takes the marks of packages away that have come, or were there when they were offered: somebody wants them, whoever owns the bucket. Where a
    /// mark stays, its package would be deleted by it, and counts as not sent.
    pub(super) async fn unmark_arrived(
        &self,
        bucket: &Bucket,
        arrived: &mut [(PackageId, Delivery)],
    ) -> Result<(), TargetError> {
        let is_there = |delivery: &Delivery| !matches!(delivery, Delivery::Failed(_) | Delivery::Differs(_));
        if !arrived.iter().any(|(_, delivery)| is_there(delivery)) {
            return Ok(());
        }
        let marks = self.marks(bucket).await?;
        let there = arrived.iter().filter(|(_, delivery)| is_there(delivery));
        let keys = there.flat_map(|(package, _)| self.mark_keys(&marks, package)).collect();
        let left = remove(bucket, keys, None).await?;
        if left.is_empty() {
            return Ok(());
        }
        for (package, delivery) in arrived.iter_mut().filter(|(_, delivery)| is_there(delivery)) {
            if let Some(why) = self.mark_keys(&marks, package).iter().find_map(|key| left.get(key)) {
                *delivery = Delivery::Failed(format!("it is there, and its mark cannot be taken away: {why}"));
            }
        }
        Ok(())
    }

    fn mark_keys(&self, marks: &Marks, package: &PackageId) -> Vec<String> {
        let those = marks.marks.get(package).into_iter().flatten();
        those.map(|mark| self.keys.mark(package, *mark)).collect()
    }

    async fn unmark(
        &self,
        bucket: &Bucket,
        owned: &Record,
        marks: &Marks,
        packages: &[(PackageId, Option<i64>)],
    ) -> Result<Vec<(PackageId, Retired)>, TargetError> {
        let keys = packages.iter().flat_map(|(package, _)| self.mark_keys(marks, package)).collect();
        let failed = remove(bucket, keys, Some((self, owned))).await?;
        let outcome = |(package, _): &(PackageId, Option<i64>)| {
            let mut keys = self.mark_keys(marks, package).into_iter().peekable();
            let retired = match (keys.peek().is_some(), keys.find_map(|key| failed.get(&key).cloned())) {
                (false, _) => Retired::Absent,
                (true, Some(why)) => Retired::Failed(why),
                (true, None) => Retired::Done,
            };
            (package.clone(), retired)
        };
        Ok(packages.iter().map(outcome).collect())
    }

    async fn mark(
        &self,
        bucket: &Bucket,
        owned: &Record,
        marks: &Marks,
        wait: u64,
        packages: &[(PackageId, Option<i64>)],
    ) -> Result<Vec<(PackageId, Retired)>, TargetError> {
        let (_, now) = marks.now()?;
        let marking = packages.iter().map(|(package, _)| async move {
            let retired = match self.look(bucket, &self.keys.package(package)).await {
                Ok(seen) if seen.as_ref().is_some_and(|seen| seen.card.is_some()) => None,
                Ok(_) => Some(Retired::Absent),
                Err(error) => Some(Retired::Failed(unseen(error)?)),
            };
            if let Some(retired) = retired {
                return Ok::<_, TargetError>((package.clone(), retired, Vec::new()));
            }
            // A mark that is there keeps its time, unless that has not come yet.
            let at = marks.latest(package).map(|mark| mark.at).filter(|at| *at <= now).unwrap_or(now);
            let key = self.keys.mark(package, Mark { at, wait });
            let (path, mut tries) = (keys::path(&key)?, RetryBudget::new());
            loop {
                let store = bucket.once(Urgency::Bulk);
                let put = store.put_opts(&path, PutPayload::default(), PutOptions::default()).await;
                match put.map_err(|error| fault::sorted(&error)) {
                    Ok(_) => break,
                    Err(error) if tries.again(&error).await => self.check_owner(bucket, owned).await?,
                    Err(error) => return Err(error),
                }
            }
            let former = self.mark_keys(marks, package).into_iter().filter(|former| *former != key).collect();
            Ok((package.clone(), Retired::Done, former))
        });
        let marked: Vec<_> = several(marking.collect::<Vec<_>>(), LOOKS).try_collect().await?;
        let former = marked.iter().flat_map(|(_, _, former)| former.clone()).collect();
        let failed = remove(bucket, former, Some((self, owned))).await?;
        let outcome = |(package, retired, former): (PackageId, Retired, Vec<String>)| {
            let why = former.iter().find_map(|key| failed.get(key));
            (package, why.map_or(retired, |why| Retired::Failed(why.clone())))
        };
        Ok(marked.into_iter().map(outcome).collect())
    }

    /// Deletes what is still as it was listed, is not named by the PackageList, and has waited where it has to.
    async fn delete(
        &self,
        bucket: &Bucket,
        owned: &Record,
        marks: &Marks,
        how: Retirement,
        packages: &[(PackageId, Option<i64>)],
    ) -> Result<Vec<(PackageId, Retired)>, TargetError> {
        let refused =
            |why: &str| TargetError::Refused(format!("{} {why}; let the bucket be synced first", self.keys.list()));
        let listed: BTreeSet<PackageId> = match self.present_list(bucket).await? {
            (Former::Whole, list) => list.packages.into_iter().collect(),
            (Former::Missing, _) => return Err(refused("is not there, so nobody knows what is wanted")),
            (Former::Damaged, _) => return Err(refused("is empty or cut short")),
        };
        let judging = packages.iter().map(|(package, time)| async {
            let verdict = self.judge(bucket, marks, how, &listed, package, *time).await?;
            Ok::<_, TargetError>((package.clone(), verdict))
        });
        let judged: Vec<_> = several(judging.collect::<Vec<_>>(), LOOKS).try_collect().await?;
        let going = || judged.iter().filter(|(_, kept)| kept.is_none()).map(|(package, _)| package);
        let leaving = going().map(|package| self.keys.package(package)).collect();
        let mut failed = remove(bucket, leaving, Some((self, owned))).await?;
        // Not before: a package without its mark would wait anew.
        let gone = going().filter(|package| !failed.contains_key(&self.keys.package(package)));
        let left =
            remove(bucket, gone.flat_map(|package| self.mark_keys(marks, package)).collect(), Some((self, owned)))
                .await?;
        left.iter().for_each(|(key, why)| {
            tracing::debug!(key, why, "a mark outlives its package; the next sync takes it away")
        });
        let outcome = |(package, kept): (PackageId, Option<Retired>)| {
            let deleted = || failed.remove(&self.keys.package(&package)).map_or(Retired::Done, Retired::Failed);
            let retired = kept.unwrap_or_else(deleted);
            (package, retired)
        };
        Ok(judged.into_iter().map(outcome).collect())
    }

    /// Why a package does not go; none where it goes.
    async fn judge(
        &self,
        bucket: &Bucket,
        marks: &Marks,
        how: Retirement,
        listed: &BTreeSet<PackageId>,
        package: &PackageId,
        time: Option<i64>,
    ) -> Result<Option<Retired>, TargetError> {
        let kept = |why: &str| Ok(Some(Retired::Kept(why.to_owned())));
        if listed.contains(package) {
            return kept("the PackageList names it");
        }
        if how == Retirement::DeleteDue {
            let (now, _) = marks.now()?;
            let is_due = |mark: Mark| i64::try_from(mark.wait).is_ok_and(|wait| now.saturating_sub(mark.at) >= wait);
            if !marks.latest(package).is_some_and(is_due) {
                return kept("its mark is gone or has not waited long enough");
            }
        }
        let seen = match self.look(bucket, &self.keys.package(package)).await {
            Ok(Some(seen)) => seen,
            Ok(None) => return Ok(Some(Retired::Absent)),
            Err(error) => return Ok(Some(Retired::Failed(unseen(error)?))),
        };
        let Some(card) = seen.card else { return kept("its object is not one of ours") };
        match (time, &card.link) {
            (Some(time), None) if card.time == time => Ok(None),
            (None, Some(_)) => Ok(None),
            (Some(_), _) | (None, None) => kept("it was replaced since it was listed"),
        }
    }
}

/// Why one object cannot be looked at, where that is its own fault: the others go on.
fn unseen(error: TargetError) -> Result<String, TargetError> {
    match error {
        TargetError::Refused(why) | TargetError::Operator(why) => Ok(format!("its object cannot be looked at: {why}")),
        TargetError::Link(_) | TargetError::Space(_) => Err(error),
    }
}

/// Removes objects in batches; gives those that are not known to be gone, with why. One that is not there is removed. On behalf of an `owner` it
/// looks right before each request, first or repeated, whether the bucket still has his record: whoever lost it meanwhile deletes nothing more.
pub(super) async fn remove(
    bucket: &Bucket,
    keys: Vec<String>,
    owner: Option<(&S3Target, &Record)>,
) -> Result<BTreeMap<String, String>, TargetError> {
    let mut failed = BTreeMap::new();
    for batch in keys.chunks(deleting::MOST) {
        failed.extend(remove_batch(bucket, batch, owner).await?);
    }
    Ok(failed)
}

async fn remove_batch(
    bucket: &Bucket,
    batch: &[String],
    owner: Option<(&S3Target, &Record)>,
) -> Result<BTreeMap<String, String>, TargetError> {
    let (mut left, mut failed) = (batch.to_vec(), BTreeMap::new());
    let mut wait = FIRST_WAIT;
    for tries_left in (0..TRIES).rev() {
        if let Some((target, owned)) = owner
            && let Err(error) = target.check_owner(bucket, owned).await
        {
            // Of those that are gone already, that must not get lost.
            failed.extend(left.into_iter().map(|key| (key, error.to_string())));
            return Ok(failed);
        }
        match bucket.ask.delete(&left).await {
            Ok(answers) => {
                left.iter().for_each(|key| drop(failed.remove(key)));
                let may_pass = |answer: &ErrorResponse| answer.code.is_empty() || answer.will_pass();
                left = answers.iter().filter(|(_, answer)| may_pass(answer)).map(|(key, _)| key.clone()).collect();
                failed.extend(answers.into_iter().map(|(key, answer)| (key, answer.explained())));
            }
            Err(TargetError::Link(why)) if tries_left > 0 => {
                tracing::debug!(why, "a request to delete objects is made again");
            }
            Err(error) => return Err(error),
        }
        if left.is_empty() || tries_left == 0 {
            break;
        }
        tracing::debug!(keys = left.len(), "objects that are not known to be gone are deleted again");
        tokio::time::sleep(wait).await;
        wait *= 2;
    }
    Ok(failed)
}
