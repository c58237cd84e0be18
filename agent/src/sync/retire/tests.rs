//! A tag that comes while its package is being deleted, at the moments that matter.

use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use blat_config::{Home, load_target};
use blat_domain::archive::inventory::{Inventory, Mark};
use blat_domain::archive::package_list::{Former, Purge};
use blat_domain::archive::record::{Claim, Found, Owner, Record};
use blat_domain::archive::title::Title;
use blat_domain::policy::plan::{Link, Size};
use blat_domain::util::random_id::RandomId;
use blat_packing::item::TransferItem;
use blat_packing::progress::Progress;
use jiff::Timestamp;
use tokio::sync::Notify;

use super::*;
use crate::model::batch_limits::BatchLimits;
use crate::model::outcome::{Delivery, OutcomeSink, Verdict};
use crate::releases::ContentTime;
use crate::session::Sent;
use crate::state::lasting::LastingMemory;
use crate::sync::Synced;
use crate::sync::outcome::Dropped;
use crate::targets::Target;

/// The time of each descpkg.
const TIME: i64 = 5;
/// What the target believes the time to be: that of the machine is years ahead of it.
const CLOCK: i64 = 1_700_000_000;

/// A target that holds `a@1`, which is wanted, and `b@1`, which is not.
#[derive(Default)]
struct Held {
    packages: Mutex<BTreeSet<PackageId>>,
    is_marked: bool,
    /// What the test and the deletion look at.
    lasting: OnceLock<Arc<LastingMemory>>,
    offered: Mutex<BTreeSet<PackageId>>,
    deleting: Notify,
    /// Whoever lists for a tag waits here once it has listed, where the test says so.
    listed: Option<(Notify, Notify)>,
    listings: Mutex<u32>,
    /// Whose the archive is, once it was claimed.
    found: Mutex<Found>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn package(text: &str) -> PackageId {
    text.parse().expect("a package")
}

#[async_trait]
impl Target for Held {
    async fn batch_limits(&self) -> Result<BatchLimits, TargetError> {
        Ok(BatchLimits { size: Size { bytes: 1 << 20, entries: 100 }, streams: 1 })
    }

    async fn inventory(&self) -> Result<Arc<Inventory>, TargetError> {
        let packages = lock(&self.packages).iter().map(|package| (package.clone(), TIME)).collect();
        let marks = if self.is_marked { [(package("b@1"), Mark { at: 1, wait: 1 })].into() } else { [].into() };
        let listing = {
            let mut listings = lock(&self.listings);
            *listings += 1;
            *listings
        };
        if let (2, Some((listed, go))) = (listing, &self.listed) {
            listed.notify_one();
            go.notified().await;
        }
        let title = Title { found: lock(&self.found).clone(), ..Title::default() };
        Ok(Arc::new(Inventory { packages, marks, clock: Some(CLOCK), title, ..Inventory::default() }))
    }

    async fn receive(
        &self,
        items: &[TransferItem],
        _: &Arc<Progress>,
        told: &OutcomeSink<'_>,
    ) -> Result<(), TargetError> {
        for TransferItem { package, .. } in items {
            lock(&self.offered).insert(package.clone());
            let is_new = lock(&self.packages).insert(package.clone());
            told(vec![(package.clone(), if is_new { Delivery::Published } else { Delivery::Already })]);
        }
        Ok(())
    }

    async fn link(&self, links: &[Link]) -> Result<Vec<(PackageId, Delivery)>, TargetError> {
        Ok(links.iter().map(|link| (link.package.clone(), Delivery::Linked)).collect())
    }

    async fn verify(&self, _: &[PackageId]) -> Result<Vec<(PackageId, Verdict)>, TargetError> {
        Ok(Vec::new())
    }

    /// It is deleted, and the link breaks before the answer. Before that, it waits until a tag's package was offered, or waits in its turn.
    async fn retire(
        &self,
        _: &Record,
        _: Retirement,
        packages: &[Leaving],
    ) -> Result<Vec<(PackageId, Retired)>, TargetError> {
        self.deleting.notify_one();
        let lasting = self.lasting.get().expect("the test has set it");
        while self.listed.is_none() && lock(&self.offered).is_empty() && !lasting.crossing.makes_wait() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let leaving: BTreeSet<&PackageId> = packages.iter().map(|leaving| &leaving.package).collect();
        lock(&self.packages).retain(|package| !leaving.contains(package));
        Err(TargetError::Link("the link is broken".into()))
    }

    async fn store_list(&self, _: &Record, _: &str, _: Purge) -> Result<Former, TargetError> {
        if let Some((listed, _)) = &self.listed {
            listed.notified().await;
        }
        Ok(Former::Whole)
    }

    async fn claim(&self, _: Claim, record: &Record) -> Result<Title, TargetError> {
        let mut found = lock(&self.found);
        if *found == Found::Nothing {
            *found = Found::Record(record.clone());
        }
        Ok(Title { found: found.clone(), ..Title::default() })
    }
}

/// A target of this kind with `more` in its config.
fn context(root: &Path, held: &Arc<Held>, more: &str) -> SyncContext {
    for folder in ["config", "source/a/1", "source/b/1", "archive"] {
        fs::create_dir_all(root.join(folder)).expect("an own folder");
    }
    for name in ["a", "b"] {
        let file = fs::File::create(root.join(format!("source/{name}/1/descpkg"))).expect("a file");
        file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(TIME.unsigned_abs())).expect("an own file");
    }
    let link = root.join("source/b/current");
    if !link.is_symlink() {
        std::os::unix::fs::symlink("1", link).expect("a link");
    }
    let home = Home::at(root).expect("a path");
    let name = "perth".parse().expect("a name");
    let config = format!(
        "transport: local\nsource: {0}/source\narchive: {0}/archive\npkg: {{a: 1}}\naging: immediate\nmax_delete: 100%\n\
         writable: 0\n{more}\n",
        root.display()
    );
    fs::write(home.target_config(&name), config).expect("a config");
    let settings = load_target(&home, &name).expect("valid settings");
    let owner = Owner { home: RandomId::from_random([1; 16]), target: name };
    let mut context = SyncContext::new(&home, settings, owner);
    context.target = held.clone();
    lock(&held.packages).extend([package("a@1"), package("b@1")]);
    assert!(held.lasting.set(context.lasting.clone()).is_ok(), "once");
    context
}

#[tokio::test]
async fn a_tag_is_not_served_by_a_package_that_is_being_deleted() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let held = Arc::new(Held::default());
    let context = context(scratch.path(), &held, "");
    let syncing = tokio::spawn({
        let context = context.clone();
        async move { context.sync(None).await }
    });
    held.deleting.notified().await;
    let sent = context.send_tagged([package("b@1")].into(), &Dropped::new()).await;
    let Synced::Ended(_, problem) = syncing.await.expect("a sync") else { panic!("no other settings are there") };
    assert!(problem.expect("it failed").text.contains("the link is broken"), "so that nobody knows what went");
    assert_eq!(sent, [(package("b@1"), Sent::Done)]);
    assert!(lock(&held.packages).contains(&package("b@1")), "its tag is consumed");
}

#[tokio::test]
async fn what_a_tag_found_in_a_listing_is_not_deleted_before_the_tag_is_served() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let held = Arc::new(Held { listed: Some((Notify::new(), Notify::new())), ..Held::default() });
    let context = context(scratch.path(), &held, "max_size: 1g");
    let syncing = tokio::spawn({
        let context = context.clone();
        async move { context.sync(None).await }
    });
    while *lock(&held.listings) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let sending = tokio::spawn({
        let context = context.clone();
        async move { context.send_tagged([package("b@1")].into(), &Dropped::new()).await }
    });
    // The sync goes on once the tag's listing is made, and the tag once the sync is done.
    let _ = syncing.await.expect("a sync");
    held.listed.as_ref().expect("it was made so").1.notify_one();
    assert_eq!(sending.await.expect("a tag"), [(package("b@1"), Sent::Done)]);
    assert!(lock(&held.packages).contains(&package("b@1")), "its tag is consumed");
}

#[tokio::test]
async fn what_a_tag_found_in_a_listing_loses_its_mark() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let held = Arc::new(Held { is_marked: true, ..Held::default() });
    let context = context(scratch.path(), &held, "max_size: 1g");
    let sent = context.send_tagged([package("b@1")].into(), &Dropped::new()).await;
    assert_eq!(sent, [(package("b@1"), Sent::Done)]);
    assert_eq!(*lock(&held.offered), [package("b@1")].into(), "the target takes the mark away then");
}

#[tokio::test]
async fn what_a_tagged_link_addresses_counts_as_brought_by_the_tag() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let held = Arc::new(Held::default());
    let context = context(scratch.path(), &held, "");
    context.send_tagged([package("b@current")].into(), &Dropped::new()).await;
    let tagged: BTreeSet<PackageId> = context.lasting.tagged().into_keys().collect();
    assert_eq!(tagged, [package("b@1"), package("b@current")].into());
}

/// What goes of `b@1`, which a tag brought `ago` seconds before the target's clock now, while the master's clock is years ahead of it.
async fn deleted_when_tagged(ago: i64) -> bool {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let root = scratch.path();
    let context_of = |held: &Arc<Held>| context(root, held, "");
    let held = Arc::new(Held::default());
    let before = context_of(&held);
    before.lasting.note_tags(&[package("b@1")].into(), &BTreeSet::new());
    // The archive is known from here on, and that what tags brought to it before is known as well.
    let Synced::Ended(..) = before.sync(None).await else { panic!("no other settings are there") };
    before.lasting.confirm().expect("written");
    let noted = before.lasting.tagged()[&package("b@1")];
    let file = Home::at(root).expect("a path").known_file(&"perth".parse().expect("a name"));
    let text = fs::read_to_string(&file).expect("a file");
    let at = CLOCK - ago;
    fs::write(&file, text.replace(&format!(r#""b@1":{noted}"#), &format!(r#""b@1":{at}"#))).expect("an own file");
    let found = Mutex::new(lock(&held.found).clone());
    let held = Arc::new(Held { listed: Some(Default::default()), found, ..Held::default() });
    let after = context_of(&held);
    assert_eq!(after.lasting.tagged()[&package("b@1")], at);
    // Whoever stores the list waits for this.
    held.listed.as_ref().expect("set above").0.notify_one();
    let Synced::Ended(..) = after.sync(None).await else { panic!("no other settings are there") };
    !lock(&held.packages).contains(&package("b@1"))
}

#[tokio::test]
async fn a_clock_that_is_ahead_makes_no_tag_a_day_old() {
    assert!(!deleted_when_tagged(60).await);
    assert!(deleted_when_tagged(100_000).await);
}

#[tokio::test]
async fn releases_that_lie_ahead_of_the_clock_when_a_tag_comes_never_count_as_newer() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let held = Arc::new(Held::default());
    let context = context(scratch.path(), &held, "release_manager: {file: releases.yaml}\nprojects: [Lab]");
    let at = Timestamp::now().as_second() + 7_200;
    let releases = fs::File::create(scratch.path().join("releases.yaml")).expect("a file");
    let ahead = std::time::UNIX_EPOCH + Duration::from_secs(at.unsigned_abs());
    releases.set_modified(ahead).expect("an own file");
    let sent = context.send_tagged([package("b@1")].into(), &Dropped::new()).await;
    assert_eq!(sent, [(package("b@1"), Sent::Done)]);
    let written = Some(ContentTime { at: (at, 0), is_set_ahead: false });
    assert!(context.lasting.believed(written, at + 1).is_none(), "the clock was put right");
}
