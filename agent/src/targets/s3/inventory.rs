//! What is there: the listing, in parts that are asked for at once, and of each object what is remembered or has to be asked for.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use blat_domain::archive::inventory::{Inventory, ListingBudget, Mark};
use blat_domain::package::links::LONGEST_CHAIN;
use blat_domain::package::name::PackageId;
use futures_util::TryStreamExt;
use rustix::time::{ClockId, clock_gettime};

use super::bucket::{Begin, Bucket};
use super::keys::Meaning;
use super::known::{BucketMemory, EtagDigest, What};
use super::limits::Limits;
use super::{LOOKS, ObjectHead, S3Target, TargetError, listing, several};

/// Parts of a listing that are asked for at once.
const LISTINGS: usize = 8;
/// Objects in a page of a listing, which is all that S3 gives at once.
pub(super) const PAGE: usize = 1000;

impl S3Target {
    /// As [`super::Target::inventory`].
    pub(super) async fn take_inventory(&self) -> Result<Arc<Inventory>, TargetError> {
        let bucket = self.bucket().await?;
        let bounds = self.bounds();
        let (mut listed, clock) = self.listed_in_parts(bucket, &bounds).await?;
        let unknown = std::mem::take(&mut listed.unknown);
        listed.objects.extend(self.look_at(bucket, unknown).await?);
        self.known.keep(|package| listed.objects.contains_key(package));
        self.known.save();
        *self.listed.lock().unwrap_or_else(PoisonError::into_inner) = listed.list.take();
        let found = self.listed_record(bucket, listed.record.take()).await?;
        let visit = self.listed_visit(bucket, listed.visit.take()).await?;
        self.known.save();
        let mut inventory = listed.settled();
        (inventory.title.found, inventory.title.visit) = (found, visit);
        inventory.clock = clock;
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = clock.map(|clock| clock.saturating_sub(uptime()));
        self.warn_of_foreign(&inventory);
        Ok(Arc::new(inventory))
    }

    /// All that is below the prefix, in parts where those show the whole. Some servers list in another order than that of keys, or begin only
    /// at the beginning.
    async fn listed_in_parts(&self, bucket: &Bucket, bounds: &[String]) -> Result<(Listed, Option<i64>), TargetError> {
        let (seen, why) = match self.listed(bucket, bounds).await {
            Ok((listed, clock)) if listed.is_proven => return Ok((listed, clock)),
            // Of these parts only what they saw is kept, which takes no room.
            Ok((listed, _)) => {
                (Some(listed.seen), "a part of its listing did not come to the key that ends it".to_owned())
            }
            Err(error @ (TargetError::Refused(_) | TargetError::Operator(_))) if !bounds.is_empty() => {
                (None, error.to_string())
            }
            Err(error) => return Err(error),
        };
        let (whole, clock) = self.listed(bucket, &[]).await?;
        // Where both show the same, the key was gone, and the server is in order.
        if seen != Some(whole.seen) {
            tracing::debug!(why, "the bucket cannot be listed in parts; it is listed page by page from now on");
            self.lists_otherwise.store(true, Ordering::Relaxed);
        }
        Ok((whole, clock))
    }

    /// All keys below a prefix, or those of a range of them, one page after the other.
    pub(super) async fn each(
        &self,
        bucket: &Bucket,
        prefix: &str,
        range: Range<'_>,
        limits: &Limits,
        mut each: impl FnMut(listing::Object, Meaning),
    ) -> Result<Part, TargetError> {
        let (mut next, mut last): (Option<String>, Option<String>) = Default::default();
        let mut part = Part { clock: None, is_proven: range.until.is_none() };
        loop {
            let begin = range.after.map_or(Begin::Start, Begin::Key);
            let from = next.as_deref().map_or(begin, Begin::Page);
            let (page, clock) = limits.in_time(bucket.ask.objects(prefix, from)).await?;
            part.clock = clock;
            let keys = page.objects.len();
            for object in page.objects {
                if !range.is_whole() {
                    let former = last.as_deref().or(range.after);
                    if former.is_some_and(|former| object.key.as_str() <= former) {
                        return Err(TargetError::Refused(
                            "the server's listing is not in the order of keys".to_owned(),
                        ));
                    }
                    last = Some(object.key.clone());
                }
                if range.until.is_some_and(|until| object.key.as_str() > until) {
                    return Ok(part);
                }
                part.is_proven |= range.until == Some(object.key.as_str());
                let meaning = self.keys.meaning(&object.key);
                limits.take(&object.key, &meaning)?;
                each(object, meaning);
            }
            let is_done = range.until.is_some() && part.is_proven;
            let Some(token) = page.next.filter(|_| !is_done) else { return Ok(part) };
            limits.take_page(keys, &token)?;
            next = Some(token);
        }
    }

    /// All that is below the prefix, and the server's clock. The listing is asked for in parts that these keys bound, several at once: a
    /// page says only at its end where the next one begins, so that one after the other costs a round trip each.
    pub(super) async fn listed(
        &self,
        bucket: &Bucket,
        bounds: &[String],
    ) -> Result<(Listed, Option<i64>), TargetError> {
        let (listed, limits) = (Mutex::new(Listed::default()), &Limits::new());
        let listing = (0..=bounds.len()).map(|part| {
            let after = part.checked_sub(1).map(|before| bounds[before].as_str());
            let range = Range { after, until: bounds.get(part).map(String::as_str) };
            self.each(bucket, self.keys.prefix(), range, limits, |object, meaning| {
                listed.lock().unwrap_or_else(PoisonError::into_inner).add(object, meaning, &self.known);
            })
        });
        let parts: Vec<Part> = several(listing, LISTINGS).try_collect().await?;
        let mut listed = listed.into_inner().unwrap_or_else(PoisonError::into_inner);
        listed.is_proven = parts.iter().all(|part| part.is_proven);
        Ok((listed, parts.into_iter().filter_map(|part| part.clock).max()))
    }

    /// The keys after which pages begin where the bucket is as it is remembered: then no page is asked for in vain.
    pub(super) fn bounds(&self) -> Vec<String> {
        if self.lists_otherwise.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let mut keys: Vec<String> = self.known.packages().iter().map(|package| self.keys.package(package)).collect();
        keys.extend(self.known.list().map(|_| self.keys.list()));
        keys.extend(self.known.record().map(|_| self.keys.record()));
        keys.extend(self.known.visit().map(|_| self.keys.visit()));
        keys.sort_unstable();
        // Nothing follows the last.
        keys.pop();
        keys.into_iter().skip(PAGE - 1).step_by(PAGE).collect()
    }

    /// Asks for the objects that nobody remembers, several at once.
    async fn look_at(&self, bucket: &Bucket, unknown: Vec<Unknown>) -> Result<Vec<(PackageId, What)>, TargetError> {
        let (room, closed) = (&Mutex::new(ListingBudget::default()), &Mutex::new(None));
        let looking = unknown.into_iter().map(|unknown| async move {
            let package = &unknown.package;
            let seen = match self.look(bucket, &self.keys.package(package)).await {
                Err(TargetError::Refused(why) | TargetError::Operator(why)) => {
                    // Where nothing at all may be looked at, nobody knows whose anything is.
                    self.record(bucket).await?;
                    let mut closed = closed.lock().unwrap_or_else(PoisonError::into_inner);
                    closed.get_or_insert(format!("{package}: {why}"));
                    // It is not remembered as such: it is asked for again.
                    return Ok(Some((unknown.package, What::Foreign)));
                }
                looked => looked?,
            };
            let Some(seen) = seen else { return Ok(None) };
            let (what, size) = self.judged(&unknown, &seen);
            if let What::Link { to, .. } = &what {
                let mut room = room.lock().unwrap_or_else(PoisonError::into_inner);
                room.take_link(package, to.as_str()).map_err(|error| TargetError::Refused(error.to_string()))?;
            }
            self.note(package, &seen.etag, size, what.clone());
            Ok::<_, TargetError>(Some((unknown.package, what)))
        });
        let looked = several(looking, LOOKS);
        let looked: Vec<_> = looked.try_filter_map(|seen| std::future::ready(Ok(seen))).try_collect().await?;
        if let Some(first) = closed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            tracing::warn!(bucket = %self.settings.bucket, first, "objects in the bucket are listed and cannot be looked at; they count as not ours");
        }
        let mut damaged = looked.iter().filter(|(_, what)| *what == What::Damaged).map(|(package, _)| package);
        if let Some(first) = damaged.next() {
            let count = damaged.count() + 1;
            tracing::warn!(bucket = %self.settings.bucket, count, %first, "packages in the bucket have another size than was sent; they count as not there, and what is wanted of them is sent again");
        }
        Ok(looked)
    }

    /// What an object is that was looked at since it was listed, with the size under which that is remembered. One that has another size than
    /// was sent is damaged: by what it says itself, or by what was noted when it was sent.
    fn judged(&self, unknown: &Unknown, seen: &ObjectHead) -> (What, u64) {
        let &Unknown { ref package, tag, size } = unknown;
        let what = What::of(seen.card.as_ref());
        if what == What::Foreign {
            return (what, seen.size);
        }
        let fits = |size| seen.card.as_ref().is_none_or(|card| card.fits(size));
        // What was put there meanwhile was never listed.
        let is_listed = tag == EtagDigest::of(&seen.etag);
        let noted = self.known.entry(package).filter(|noted| noted.tag == tag);
        let is_as_noted = noted.is_none_or(|noted| noted.size == size || noted.what == What::Damaged);
        if !fits(seen.size) || is_listed && !(fits(size) && is_as_noted) {
            return (What::Damaged, size);
        }
        (what, seen.size)
    }

    /// What the server's clock says now, by the last inventory and by the time that has passed since; none where that did not say.
    pub(super) fn reckoned_clock(&self) -> Option<i64> {
        let clock = *self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.map(|clock| clock.saturating_add(uptime()))
    }

    fn warn_of_foreign(&self, inventory: &Inventory) {
        let foreign = &inventory.foreign;
        if foreign.count > 0 && !self.has_warned.swap(true, Ordering::Relaxed) {
            let examples = foreign.examples.join(", ");
            tracing::warn!(bucket = %self.settings.bucket, count = foreign.count, examples, "objects below the prefix are not ours; they are left alone");
        }
    }
}

/// Seconds since this machine started, with those that it slept. Nobody sets this clock.
fn uptime() -> i64 {
    clock_gettime(ClockId::Boottime).tv_sec
}

/// The keys after one, up to and with another.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Range<'a> {
    after: Option<&'a str>,
    until: Option<&'a str>,
}

impl Range<'_> {
    fn is_whole(self) -> bool {
        self.after.is_none() && self.until.is_none()
    }
}

/// How a part of a listing ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// The server's clock, which comes with the last page.
    pub(super) clock: Option<i64>,
    /// Whether the key that ends the part was met: then the next one begins where this one has ended, in whatever order the server lists. A
    /// key behind that one says nothing of what the server lists later.
    is_proven: bool,
}

/// Which keys a listing named, in any order: two that named the same come to the same.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Seen {
    keys: u64,
    sum: u64,
}

impl Seen {
    fn add(&mut self, key: &str) {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        self.keys += 1;
        self.sum = self.sum.wrapping_add(hasher.finish());
    }
}

/// An object in a package's place that nobody remembers, as it was listed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Unknown {
    package: PackageId,
    tag: EtagDigest,
    size: u64,
}

/// What a whole listing came to, before its objects are known.
#[derive(Default)]
pub(super) struct Listed {
    pub(super) objects: BTreeMap<PackageId, What>,
    pub(super) unknown: Vec<Unknown>,
    marks: BTreeMap<PackageId, Mark>,
    pub(super) list: Option<(String, u64)>,
    pub(super) record: Option<(String, u64)>,
    visit: Option<(String, u64)>,
    pub(super) inventory: Inventory,
    seen: Seen,
    /// Whether all its parts are.
    is_proven: bool,
}

impl Listed {
    fn add(&mut self, object: listing::Object, meaning: Meaning, known: &BucketMemory) {
        self.seen.add(&object.key);
        match meaning {
            Meaning::Package(package) => match known.get(&package, &object.etag, object.size) {
                Some(what) => drop(self.objects.insert(package, what)),
                None => self.unknown.push(Unknown { package, tag: EtagDigest::of(&object.etag), size: object.size }),
            },
            Meaning::Mark(package, mark) => {
                // Of several, the one that lets it stay longest.
                let mark =
                    self.marks.get(&package).map_or(mark, |other| if other.at > mark.at { *other } else { mark });
                self.marks.insert(package, mark);
            }
            Meaning::List => self.list = Some((object.etag, object.size)),
            Meaning::Record => self.record = Some((object.etag, object.size)),
            Meaning::Visit => self.visit = Some((object.etag, object.size)),
            Meaning::House => {}
            Meaning::Foreign => self.inventory.foreign.note(&object.key),
        }
    }

    /// The inventory, once every object is known. A link that is not a copy of what it addresses now counts as not there: it is put anew.
    fn settled(self) -> Inventory {
        let Self { objects, marks, mut inventory, .. } = self;
        // The time of the package at the end of a chain of links.
        let time_of = |mut package: PackageId| {
            for _ in 0..=LONGEST_CHAIN {
                match objects.get(&package)? {
                    What::Package { time } => return Some(*time),
                    What::Link { to, .. } => package.version = to.clone(),
                    What::Foreign | What::Damaged => return None,
                }
            }
            None
        };
        for (package, what) in &objects {
            match what {
                What::Package { time } => {
                    let neighbour = inventory.packages.range(..package).next_back().map(|(neighbour, _)| neighbour);
                    let package = package.clone().beside(neighbour);
                    inventory.packages.insert(package, *time);
                }
                What::Link { time, to } => {
                    let addressee = PackageId { name: package.name.clone(), version: to.clone() };
                    if time_of(addressee) == Some(*time) {
                        inventory.links.insert(package.clone(), to.to_string());
                    }
                }
                // What is wanted of these is sent again.
                What::Damaged => {}
                What::Foreign => inventory.foreign.note(&format!("{}/{}.zip", package.name, package.version)),
            }
        }
        inventory.marks = marks;
        inventory
    }
}
