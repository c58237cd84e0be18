//! The whole target on a bucket in memory: what it asks, what it writes, and what it leaves alone.

mod aging;
mod another;
mod arriving;
mod closed;
pub(crate) mod in_memory_bucket;
mod order;
mod owner;
mod servers;
mod serving;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use blat_domain::archive::inventory::Mark;
use blat_domain::archive::package_list::Purge;
use blat_domain::archive::record::Found;
use blat_domain::flow::bandwidth::Bandwidth;
use blat_domain::protocol::frames::Rule;
use blat_domain::util::random_id::RandomId;
use object_store::multipart::MultipartStore as _;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutMultipartOptions};

use in_memory_bucket::{InMemoryBucket, NOW};

use super::inventory::{Listed, PAGE};
use super::*;

struct World {
    scratch: tempfile::TempDir,
    shelf: Arc<InMemoryBucket>,
}

impl World {
    fn new() -> Self {
        Self { scratch: tempfile::tempdir().expect("a scratch directory"), shelf: Arc::default() }
    }

    /// A target as an agent that begins has it.
    fn target(&self) -> S3Target {
        let settings = S3Settings {
            bucket: "abc".into(),
            prefix: "p".into(),
            region: None,
            endpoint: None,
            path_style: None,
            demands: blat_config::Demands::default(),
        };
        let limiter = Arc::new(RateLimiter::new(Bandwidth::Always(None)));
        let target = S3Target::new(settings, &self.scratch.path().join("state"), limiter, record("perth").owner);
        let bucket = Bucket::of(self.shelf.clone(), self.shelf.clone());
        S3Target { bucket: OnceCell::new_with(Some(bucket)), ..target }
    }

    /// A target that owns the bucket, as one whose first sync has begun.
    async fn owning(&self) -> S3Target {
        let target = self.target();
        let claimed = target.claim(Claim::First, &record("perth")).await.expect("memory");
        assert_eq!(claimed.found, Found::Record(record("perth")));
        target
    }

    /// A package at the source whose `descpkg` has this time.
    fn item(&self, id: &str, content: &[u8], time: i64, rule: Rule) -> TransferItem {
        let package: PackageId = id.parse().expect("a package");
        let path = self.scratch.path().join("source").join(package.path());
        fs::create_dir_all(&path).expect("a folder");
        fs::write(path.join("a"), content).expect("a file");
        fs::write(path.join("descpkg"), "x").expect("a file");
        let mtime = SystemTime::UNIX_EPOCH + Duration::from_secs(time.unsigned_abs());
        for name in ["a", "descpkg"] {
            File::options()
                .write(true)
                .open(path.join(name))
                .and_then(|file| file.set_modified(mtime))
                .expect("a time");
        }
        let archive = self.scratch.path().join("source").into();
        TransferItem { package, archive, time, size: Size::default(), rule, tagged: None, print: None, orders: None }
    }

    async fn send(&self, target: &S3Target, items: &[TransferItem]) -> Vec<Delivery> {
        let heard = Mutex::new(Vec::new());
        let told = |news| heard.lock().expect("one thread").extend(news);
        target.receive(items, &Arc::default(), &told).await.expect("memory");
        let mut heard: Vec<(PackageId, Delivery)> = heard.into_inner().expect("one thread");
        heard.sort_by(|a, b| a.0.cmp(&b.0));
        heard.into_iter().map(|(_, delivery)| delivery).collect()
    }

    /// A bucket with core@1 and core@2, and the target that filled it.
    async fn filled(&self) -> S3Target {
        let target = self.owning().await;
        self.shelf.puts.store(0, Ordering::Relaxed);
        let items = ["core@1", "core@2"].map(|id| self.item(id, id.as_bytes(), 100, Rule::New));
        assert_eq!(self.send(&target, &items).await, [Delivery::Published, Delivery::Published]);
        inventory(&target).await;
        target
    }

    fn heads(&self) -> usize {
        self.shelf.heads.swap(0, Ordering::Relaxed)
    }
}

/// What a target of the test's home tree writes.
fn record(target: &str) -> Record {
    let id = |byte| RandomId::from_random([byte; 16]);
    Record { archive: id(7), owner: Owner { home: id(1), target: target.parse().expect("a name") } }
}

fn id(text: &str) -> PackageId {
    text.parse().expect("a package")
}

fn link(package: &str, to: &str) -> Link {
    Link { package: id(package), to: to.parse().expect("a version"), instead_of: None, reasons: Default::default() }
}

async fn seen(target: &S3Target, key: &str) -> ObjectHead {
    let bucket = target.bucket().await.expect("memory");
    target.look(bucket, key).await.expect("memory").expect("an object")
}

async fn inventory(target: &S3Target) -> Arc<Inventory> {
    target.inventory().await.expect("a whole listing")
}

#[tokio::test]
async fn what_is_remembered_is_not_asked_for_and_what_is_forgotten_is_asked_for_once() {
    let world = World::new();
    let first = inventory(&world.filled().await).await;
    assert_eq!(
        first.packages.iter().map(|(id, time)| format!("{id} {time}")).collect::<Vec<_>>(),
        ["core@1 100", "core@2 100"]
    );
    assert_eq!((first.clock, world.heads()), (Some(NOW), 0), "what was sent is known");
    assert_eq!((inventory(&world.target()).await, world.heads()), (first.clone(), 0), "another agent reads it");

    let file = world.scratch.path().join("state/bucket.txt");
    for damage in [None, Some("# blat bucket 1 memory\npackage core 1 5"), Some("\u{1b}")] {
        match damage {
            None => fs::remove_file(&file).expect("a file"),
            Some(text) => fs::write(&file, text).expect("a file"),
        }
        assert_eq!((inventory(&world.target()).await, world.heads()), (first.clone(), 2), "{damage:?}");
        assert_eq!((inventory(&world.target()).await, world.heads()), (first.clone(), 0));
    }
}

#[tokio::test]
async fn a_page_that_cannot_be_had_is_no_inventory() {
    let world = World::new();
    let target = world.filled().await;
    for key in ["p/x", "p/y"] {
        world.shelf.put_foreign(key).await;
    }
    for page in [1, 2] {
        world.shelf.bad_page.store(page, Ordering::Relaxed);
        assert!(target.inventory().await.is_err());
    }
    world.shelf.bad_page.store(0, Ordering::Relaxed);
    let whole = inventory(&target).await;
    assert_eq!(
        (whole.packages.len(), whole.foreign.count, whole.foreign.examples.join(" ")),
        (2, 2, "p/x p/y".to_owned())
    );
}

#[tokio::test]
async fn a_listing_in_parts_is_the_whole_listing_wherever_they_begin() {
    let world = World::new();
    let target = world.filled().await;
    for key in ["p/PackageList.txt", "p/core/0", "p/core/10.zip", "p/x", "p/x y"] {
        world.shelf.put_foreign(key).await;
    }
    let bucket = target.bucket().await.expect("memory");
    let of = |listed: Listed| {
        let mut unknown = listed.unknown;
        unknown.sort();
        (listed.objects, unknown, listed.list, listed.inventory.foreign.count)
    };
    let (whole, _) = target.listed(bucket, &[]).await.expect("memory");
    let whole = of(whole);
    assert_eq!((whole.0.len(), whole.1.len(), whole.3), (2, 1, 3));
    let bounds = ["o", "p/", "p/core/1.zip", "p/core/10.zip", "p/core/15.zip", "p/x", "q"];
    for chosen in 0..1u32 << bounds.len() {
        let chosen: Vec<String> =
            (0..).zip(bounds).filter(|(bit, _)| chosen & 1 << bit != 0).map(|(_, bound)| bound.to_owned()).collect();
        let (parts, clock) = target.listed(bucket, &chosen).await.expect("memory");
        assert_eq!((of(parts), clock), (whole.clone(), Some(NOW)), "{chosen:?}");
    }
}

#[tokio::test]
async fn a_server_that_knows_no_parts_is_asked_page_by_page() {
    let world = World::new();
    let target = world.filled().await;
    let first = inventory(&target).await;
    let remember = || {
        for number in 0..2 * PAGE {
            target.note(&id(&format!("p{number}@1")), "e", 5, What::Package { time: 1 });
        }
    };
    remember();
    assert_eq!((target.bounds().len(), inventory(&target).await), (2, first.clone()));
    remember();
    world.shelf.starts_at_the_start.store(true, Ordering::Relaxed);
    assert_eq!(inventory(&target).await, first);
    remember();
    assert!(target.bounds().is_empty(), "it is known now");
}

#[tokio::test]
async fn other_bytes_under_the_same_time_are_an_alarm_and_another_time_is_a_replacement() {
    let world = World::new();
    let target = world.filled().await;
    let before = world.shelf.bytes("p/core/1.zip").await;
    let send = async |content: &[u8], time, rule| {
        let item = world.item("core@1", content, time, rule);
        world.send(&target, &[item]).await.remove(0)
    };
    assert_eq!(
        send(b"core@1", 100, Rule::New).await,
        Delivery::Published,
        "the very same, as if an answer had been lost"
    );
    assert!(matches!(send(b"other", 100, Rule::New).await, Delivery::Differs(why) if why.contains("SHA-256")));
    assert!(matches!(send(b"other", 200, Rule::New).await, Delivery::Failed(why) if why.contains("time 100")));
    assert_eq!(send(b"other", 100, Rule::Replace).await, Delivery::Already, "times are equal");
    assert_eq!(world.shelf.bytes("p/core/1.zip").await, before);
    assert_eq!(send(b"other", 200, Rule::Replace).await, Delivery::Replaced);
    assert_eq!(inventory(&target).await.packages[&id("core@1")], 200);
    assert_eq!(send(b"third", 200, Rule::Repair).await, Delivery::Replaced);
    assert_ne!(world.shelf.bytes("p/core/1.zip").await, before);
}

#[tokio::test]
async fn an_object_of_somebody_else_stays_where_a_package_or_a_link_should_go() {
    let world = World::new();
    let target = world.filled().await;
    let large = vec![7; 100];
    for key in ["p/core/3.zip", "p/core/now.zip"] {
        world.shelf.put_foreign(key).await;
    }
    for is_listed in [false, true] {
        for rule in [Rule::New, Rule::Replace, Rule::Repair] {
            let sent = world.send(&target, &[world.item("core@3", &large, 100, rule)]).await.remove(0);
            assert!(matches!(sent, Delivery::Failed(why) if why.contains("left alone")), "{rule:?}, {is_listed}");
        }
        let linked = target.link(&[link("core@now", "1")]).await.expect("memory").remove(0).1;
        assert!(matches!(linked, Delivery::Failed(why) if why.contains("left alone")));
        assert_eq!(inventory(&target).await.foreign.count, 2);
    }
    assert_eq!(world.shelf.bytes("p/core/3.zip").await, b"theirs");
    let taken = target.link(&[link("core@2", "1")]).await.expect("memory").remove(0).1;
    assert!(matches!(taken, Delivery::Failed(why) if why.contains("is a package")));
}

#[tokio::test]
async fn a_link_is_a_copy_that_counts_only_while_its_addressee_is_the_same() {
    let world = World::new();
    let target = world.filled().await;
    let chain = [link("core@now", "1"), link("core@newest", "now")];
    assert!(target.link(&chain).await.expect("memory").iter().all(|(_, delivery)| *delivery == Delivery::Linked));
    assert_eq!(world.shelf.bytes("p/core/newest.zip").await, world.shelf.bytes("p/core/1.zip").await);
    world.heads();
    let held = inventory(&target).await;
    assert_eq!(held.links, BTreeMap::from([(id("core@newest"), "now".to_owned()), (id("core@now"), "1".to_owned())]));
    assert_eq!((held.packages.len(), world.heads()), (2, 0));

    world.send(&target, &[world.item("core@1", b"anew", 300, Rule::Replace)]).await;
    let renewed = inventory(&target).await;
    assert_eq!((&renewed.links, renewed.packages[&id("core@1")]), (&held.links, 300), "its links were renewed with it");
    assert_eq!(world.shelf.bytes("p/core/newest.zip").await, world.shelf.bytes("p/core/1.zip").await);

    // As if the agent had died between the two.
    let card = ObjectMetadata { time: 400, ..seen(&target, "p/core/1.zip").await.card.expect("a card") };
    let options = PutOptions { attributes: card.attributes(), ..PutOptions::default() };
    let path = keys::path("p/core/1.zip").expect("a key");
    world.shelf.memory.put_opts(&path, PutPayload::from_static(b"anew"), options).await.expect("memory");
    assert_eq!(inventory(&target).await.links, BTreeMap::new(), "both are to be put anew");
    target.link(&[link("core@now", "2")]).await.expect("memory");
    assert_eq!(world.shelf.bytes("p/core/now.zip").await, world.shelf.bytes("p/core/2.zip").await);
    let dangling = target.link(&[link("core@odd", "9")]).await.expect("memory").remove(0).1;
    assert!(matches!(dangling, Delivery::Failed(why) if why.contains("not there")));
}

#[tokio::test]
async fn a_large_package_goes_in_parts_and_what_a_dead_agent_left_is_given_up() {
    let world = World::new();
    let theirs =
        world.shelf.create_multipart_opts(&keys::path("p/notes").expect("a key"), PutMultipartOptions::default()).await;
    let left = world
        .shelf
        .create_multipart_opts(&keys::path("p/core/1.zip").expect("a key"), PutMultipartOptions::default())
        .await;
    let left = left.expect("memory");
    let dead = world.target();
    dead.bucket().await.expect("memory");
    dead.begun.has_begun("p/core/1.zip", &left);
    let target = world.target();
    let noise = noise(20 << 20);
    assert_eq!(world.send(&target, &[world.item("big@1", &noise, 100, Rule::New)]).await, [Delivery::Published]);
    assert_eq!(world.shelf.puts.load(Ordering::Relaxed), 0);
    assert_eq!(target.verify(&[id("big@1"), id("none@1")]).await.expect("memory").len(), 2);
    let verdict = target.verify(&[id("big@1")]).await.expect("memory").remove(0).1;
    let here = Root::open(&world.scratch.path().join("source"), &id("big@1")).expect("a package");
    let here = target.digests(&here).expect("a package");
    assert_eq!(verdict, Verdict::Good(here), "what is there is what the source would send");

    assert!(world.shelf.unfinished.lock().expect("one thread").iter().any(|upload| upload.id == left));
    target.sweep(&BTreeSet::new()).await.expect("memory");
    let unfinished = world.shelf.unfinished.lock().expect("one thread").clone();
    assert_eq!(unfinished.into_iter().map(|upload| upload.id).collect::<Vec<_>>(), [theirs.expect("memory")]);
}

/// What no compression makes smaller.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    noise.take(bytes).collect()
}

#[tokio::test]
async fn where_nobody_can_tell_what_is_in_its_place_a_large_package_is_not_sent() {
    let world = World::new();
    let target = world.target();
    world.shelf.heads_fail.store(true, Ordering::Relaxed);
    let item = world.item("big@1", &noise(20 << 20), 100, Rule::New);
    let sent = world.send(&target, &[item]).await.remove(0);
    assert!(matches!(&sent, Delivery::Failed(why) if why.contains("no answer")), "{sent:?}");
    assert!(world.shelf.keys().await.is_empty() && world.shelf.unfinished.lock().expect("one thread").is_empty());
}

/// What somebody else sends meanwhile stays: while parts go, while the server ends the upload, and where it knows no conditions.
#[tokio::test]
async fn a_package_that_comes_while_another_is_sent_in_parts_stays() {
    let theirs = || Some(("p/big/1.zip", "theirs".to_owned()));
    for (refused, is_at_part) in [(0, true), (0, false), (1, false)] {
        let world = World::new();
        let target = world.target();
        world.shelf.refused_conditions.store(refused, Ordering::Relaxed);
        let shelf = &world.shelf;
        let when = if is_at_part { &shelf.put_at_next_part } else { &shelf.put_at_next_complete };
        *when.lock().expect("one thread") = theirs();
        let sent = world.send(&target, &[world.item("big@1", &noise(20 << 20), 100, Rule::New)]).await.remove(0);
        assert!(matches!(&sent, Delivery::Failed(why) if why.contains("left alone")), "{refused}: {sent:?}");
        assert_eq!(shelf.bytes("p/big/1.zip").await, b"theirs");
        assert!(shelf.unfinished.lock().expect("one thread").is_empty(), "the upload is given up");
        assert_eq!(shelf.conditions.load(Ordering::Relaxed), usize::from(!is_at_part && refused == 0));
    }
    let world = World::new();
    let target = world.target();
    world.shelf.refused_conditions.store(1, Ordering::Relaxed);
    let sent = world.send(&target, &[world.item("big@1", &noise(20 << 20), 100, Rule::New)]).await;
    assert_eq!(sent, [Delivery::Published], "where nothing came, no condition is needed");
}

#[tokio::test]
async fn an_object_that_comes_while_a_link_is_copied_stays() {
    let world = World::new();
    let target = world.filled().await;
    *world.shelf.put_at_next_copy.lock().expect("one thread") = Some(("p/core/now.zip", "theirs".to_owned()));
    let linked = target.link(&[link("core@now", "1")]).await.expect("memory").remove(0).1;
    assert!(matches!(&linked, Delivery::Failed(why) if why.contains("meanwhile")), "{linked:?}");
    assert_eq!(world.shelf.bytes("p/core/now.zip").await, b"theirs");
}

#[tokio::test]
async fn what_rotted_or_says_nothing_of_itself_is_not_good() {
    let world = World::new();
    let target = world.filled().await;
    let card = seen(&target, "p/core/1.zip").await.card;
    let options = PutOptions { attributes: card.expect("a card").attributes(), ..PutOptions::default() };
    let path = keys::path("p/core/1.zip").expect("a key");
    world.shelf.memory.put_opts(&path, PutPayload::from_static(b"rotten"), options).await.expect("memory");
    world.shelf.put_foreign("p/core/2.zip").await;
    let verdict = target.verify(&[id("core@1")]).await.expect("memory").remove(0).1;
    assert!(matches!(verdict, Verdict::Unknown(why) if why.contains("not the one that was listed")));
    inventory(&target).await;
    let mut verdicts = target.verify(&[id("core@1"), id("core@2"), id("core@3")]).await.expect("memory");
    verdicts.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(matches!(&verdicts[0].1, Verdict::Bad(why) if why.contains("was sent")));
    assert!(matches!(&verdicts[1].1, Verdict::Unknown(_)) && verdicts[2].1 == Verdict::Absent);
    world.shelf.is_endless.store(true, Ordering::Relaxed);
    let verdict = target.verify(&[id("core@1")]).await.expect("memory").remove(0).1;
    assert!(matches!(&verdict, Verdict::Bad(why) if why.contains("more than the 6 bytes")), "{verdict:?}");
}

#[tokio::test]
async fn a_package_list_that_is_there_already_is_not_sent_again() {
    let world = World::new();
    let list = "core 1\n# end 1\n";
    let store = async |target: &S3Target, list: &str| {
        inventory(target).await;
        target.store_list(&record("perth"), list, Purge::Held).await.expect("memory");
        world.shelf.puts.swap(0, Ordering::Relaxed)
    };
    let target = world.owning().await;
    world.shelf.puts.store(0, Ordering::Relaxed);
    assert_eq!([store(&target, list).await, store(&target, list).await], [1, 0]);
    assert_eq!(store(&world.target(), list).await, 0, "another agent reads what is known");
    assert_eq!(store(&target, "# end 0\n").await, 1);
    world.shelf.put_foreign("p/PackageList.txt").await;
    assert_eq!(store(&target, "# end 0\n").await, 1, "somebody changed it");
    world.shelf.memory.delete(&keys::path("p/PackageList.txt").expect("a key")).await.expect("memory");
    assert_eq!(store(&target, "# end 0\n").await, 1, "somebody took it away");
}

#[tokio::test]
async fn marks_keep_their_time_and_only_what_is_due_unlisted_and_unchanged_goes() {
    let world = World::new();
    let target = world.filled().await;
    let retire = async |how, package: &str, time| {
        target.retire(&record("perth"), how, &[Leaving::new(id(package), time)]).await.expect("memory").remove(0).1
    };
    assert_eq!(retire(Retirement::Unmark, "core@1", None).await, Retired::Absent);
    assert_eq!(retire(Retirement::Mark(50), "none@1", None).await, Retired::Absent);
    assert_eq!(retire(Retirement::Mark(50), "core@1", None).await, Retired::Done);
    assert_eq!(inventory(&target).await.marks[&id("core@1")], Mark { at: NOW, wait: 50 });
    let unlisted = target.retire(&record("perth"), Retirement::Delete, &[Leaving::new(id("core@1"), Some(100))]).await;
    assert!(matches!(unlisted, Err(TargetError::Refused(why)) if why.contains("nobody knows what is wanted")));
    assert_eq!(target.store_list(&record("perth"), "other 1\n# end 1\n", Purge::Held).await, Ok(Former::Missing));
    assert!(matches!(retire(Retirement::DeleteDue, "core@1", Some(100)).await, Retired::Kept(_)), "it has not waited");

    // As if it had been marked before, and now the time to wait is another.
    world
        .shelf
        .memory
        .delete(&keys::path(&target.keys.mark(&id("core@1"), Mark { at: NOW, wait: 50 })).expect("a key"))
        .await
        .expect("memory");
    world.shelf.put_foreign(&target.keys.mark(&id("core@1"), Mark { at: NOW - 60, wait: 50 })).await;
    assert_eq!(retire(Retirement::Mark(60), "core@1", None).await, Retired::Done);
    assert_eq!(inventory(&target).await.marks[&id("core@1")], Mark { at: NOW - 60, wait: 60 });

    assert_eq!(target.store_list(&record("perth"), "core 1\n# end 1\n", Purge::Held).await, Ok(Former::Whole));
    assert!(
        matches!(retire(Retirement::DeleteDue, "core@1", Some(100)).await, Retired::Kept(why) if why.contains("PackageList"))
    );
    target.store_list(&record("perth"), "# end 0\n", Purge::Held).await.expect("memory");
    let by_nothing =
        target.retire(&record("perth"), Retirement::Delete, &[Leaving::new(id("core@1"), Some(100))]).await;
    assert!(matches!(by_nothing, Err(TargetError::Refused(why)) if why.contains("empty or cut short")));
    assert_eq!(target.store_list(&record("perth"), "other 1\n# end 1\n", Purge::Held).await, Ok(Former::Damaged));
    assert!(
        matches!(retire(Retirement::DeleteDue, "core@1", Some(101)).await, Retired::Kept(why) if why.contains("replaced"))
    );
    assert!(matches!(retire(Retirement::Delete, "core@1", None).await, Retired::Kept(_)), "it is no link");
    assert_eq!(retire(Retirement::DeleteDue, "core@1", Some(100)).await, Retired::Done);
    assert_eq!(retire(Retirement::Delete, "core@1", Some(100)).await, Retired::Absent);
    assert_eq!(
        world.shelf.keys().await,
        ["p/.blat/archive", "p/PackageList.txt", "p/core/2.zip"],
        "its mark went with it"
    );

    world.shelf.put_foreign("p/core/2.zip").await;
    assert!(
        matches!(retire(Retirement::Delete, "core@2", Some(100)).await, Retired::Kept(why) if why.contains("not one of ours"))
    );
}

#[tokio::test]
async fn a_condition_that_was_refused_once_is_made_again_and_without_it_nothing_is_replaced() {
    let world = World::new();
    let target = world.target();
    world.shelf.refused_conditions.store(1, Ordering::Relaxed);
    let first = world.send(&target, &[world.item("core@1", b"1", 100, Rule::New)]).await;
    assert_eq!((first, world.shelf.conditions.load(Ordering::Relaxed)), (vec![Delivery::Published], 0));
    let second = world.send(&target, &[world.item("core@2", b"2", 100, Rule::New)]).await;
    assert_eq!((second, world.shelf.conditions.load(Ordering::Relaxed)), (vec![Delivery::Published], 1));

    // It came after the listing, and the server knows no conditions.
    world.shelf.put_foreign("p/core/3.zip").await;
    world.shelf.refused_conditions.store(1, Ordering::Relaxed);
    let third = world.send(&target, &[world.item("core@3", b"3", 100, Rule::New)]).await.remove(0);
    assert!(matches!(third, Delivery::Failed(why) if why.contains("left alone")));
    assert_eq!(world.shelf.bytes("p/core/3.zip").await, b"theirs");
}
