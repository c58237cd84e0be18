//! Entries that are made, found, waited for, damaged and deleted.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, SystemTime};

use blat_domain::package::name::{PackageId, Version};
use blat_domain::protocol::frames::{HEADER, Lane, Part, Piece, Request, append};

use super::*;

const LANE: Lane = Lane(3);

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a scratch directory")
}

fn cache(scratch: &tempfile::TempDir) -> PackCache {
    PackCache::new(scratch.path().join("store"))
}

fn key(name: &str) -> CacheKey {
    CacheKey(name.to_owned())
}

fn frame(request: &Request<'_>) -> Vec<u8> {
    let mut frame = Vec::new();
    append(&mut frame, LANE, request).expect("a frame");
    frame
}

/// The frames of a package of one file of so many bytes.
fn frames(bytes: u32) -> Vec<Vec<u8>> {
    let parts = vec![Part { entry: 1, bytes }];
    let data = vec![7; bytes as usize];
    let mut frames = vec![frame(&Request::Piece(Piece { packed: bytes, zstd: false, parts, base: Vec::new() }))];
    frames.extend(data.chunks(1000).map(|data| frame(&Request::Data(data))));
    frames.push(frame(&Request::Whole { entries: 2, manifest: [1; 32] }));
    frames
}

fn make(mut making: Making, cache: &PackCache, bytes: u32) {
    frames(bytes).iter_mut().for_each(|frame| making.append(frame).expect("a write"));
    making.seal(cache).expect("an entry");
}

fn made(cache: &PackCache, name: &str, bytes: u32) {
    let CacheLookup::Make(making) = cache.look_up(&key(name), || false) else { panic!("{name} is there already") };
    make(making, cache, bytes);
}

/// All frames of an entry, or what is wrong with it.
fn read(mut entry: CacheEntry) -> std::io::Result<Vec<Vec<u8>>> {
    let mut frames = Vec::new();
    while let Some(stretch) = entry.next(LANE)? {
        frames.extend(stretch.frames);
    }
    Ok(frames)
}

fn names(cache: &PackCache) -> Vec<String> {
    let found = fs::read_dir(&cache.directory).expect("a directory");
    let mut names: Vec<String> =
        found.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn an_entry_is_found_by_the_same_ingredients_and_by_no_others() {
    let (package, other): (PackageId, PackageId) = ("p@1".parse().expect("a package"), "p@2".parse().expect("one"));
    let version: Version = "0".parse().expect("a version");
    let (tree, base) = ([1; 32], [2; 32]);
    let first = Ingredients { package: &package, time: 5, tree: &tree, form: "Zstd 1", base: None };
    let mut keys = [
        Ingredients { package: &other, ..first },
        Ingredients { time: 6, ..first },
        Ingredients { tree: &base, ..first },
        Ingredients { form: "Zstd 2", ..first },
        Ingredients { base: Some((&version, 4, &base)), ..first },
        Ingredients { base: Some((&version, 4, &tree)), ..first },
        Ingredients { base: Some((&version, 3, &base)), ..first },
        Ingredients { base: Some((&package.version, 4, &base)), ..first },
    ]
    .map(|ingredients| CacheKey::of(&ingredients).0)
    .to_vec();
    keys.push(CacheKey::of(&first).0);
    assert!(keys.contains(&CacheKey::of(&first).0), "the same again");
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 9, "every one is another");
}

#[test]
fn what_was_made_is_read_for_any_lane_and_by_its_owner_alone() {
    let scratch = scratch();
    let cache = cache(&scratch);
    made(&cache, "one", 2500);
    assert_eq!(names(&cache), ["one"]);
    let mode = |path: &Path| fs::metadata(path).expect("it is there").mode() & 0o777;
    assert_eq!((mode(&cache.directory), mode(&cache.directory.join("one"))), (0o700, 0o600));

    let CacheLookup::Ready(mut entry) = cache.look_up(&key("one"), || false) else { panic!("it is not there") };
    let piece = entry.next(Lane(5)).expect("a good entry").expect("a piece");
    assert_eq!((piece.frames.len(), piece.bytes), (4, 2500), "with all its data");
    assert!(piece.frames.iter().all(|frame| frame[HEADER - 1] == 5));
    let CacheLookup::Ready(entry) = cache.look_up(&key("one"), || false) else { panic!("it is not there") };
    assert!(read(entry).expect("a good entry") == frames(2500));
}

#[test]
fn whatever_is_damaged_is_noticed_before_it_is_used() {
    let scratch = scratch();
    let cache = cache(&scratch);
    made(&cache, "one", 2500);
    let path = cache.directory.join("one");
    let whole = fs::read(&path).expect("an entry");
    for place in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x40;
        fs::write(&path, &bytes).expect("an own file");
        let is_good = CacheEntry::open(&path).is_ok_and(|entry| entry.is_some_and(|entry| read(entry).is_ok()));
        assert!(!is_good, "byte {place} of {}", whole.len());
    }
    for length in [0, 5, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).expect("an own file");
        let CacheLookup::Make(making) = cache.look_up(&key("one"), || false) else {
            panic!("{length} bytes are no entry")
        };
        make(making, &cache, 2500);
        assert!(fs::read(&path).expect("an entry") == whole, "it is made anew");
    }
}

#[test]
fn one_makes_it_while_the_others_wait() {
    let scratch = scratch();
    let (cache, makers) = (cache(&scratch), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| match cache.look_up(&key("one"), || false) {
                CacheLookup::Make(making) if makers.fetch_add(1, Ordering::SeqCst) < 2 => drop(making),
                CacheLookup::Make(making) => make(making, &cache, 2500),
                CacheLookup::Ready(entry) => assert!(read(entry).expect("a good entry") == frames(2500)),
                CacheLookup::Alone => panic!("nobody stands still"),
            });
        }
    });
    assert_eq!(makers.load(Ordering::SeqCst), 3, "two gave up, the third made it");
    assert_eq!(names(&cache), ["one"]);
}

#[test]
fn whoever_looks_while_it_is_finished_does_not_make_it_again() {
    let scratch = scratch();
    let (cache, makers) = (cache(&scratch), AtomicUsize::new(0));
    const ROUNDS: usize = 200;
    for round in 0..ROUNDS {
        let key = key(&round.to_string());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    if let CacheLookup::Make(making) = cache.look_up(&key, || false) {
                        makers.fetch_add(1, Ordering::SeqCst);
                        make(making, &cache, 1);
                    }
                });
            }
        });
    }
    assert_eq!(makers.load(Ordering::SeqCst), ROUNDS);
}

#[test]
fn what_a_killed_one_left_is_made_by_the_next() {
    let scratch = scratch();
    let cache = cache(&scratch);
    fs::create_dir(&cache.directory).expect("a directory");
    let part = cache.directory.join("one.part");
    let mut killed = File::create(&part).expect("a file");
    killed.try_lock().expect("a lock");
    killed.write_all(&[9; 5000]).expect("a write");
    std::thread::scope(|scope| {
        let next = scope.spawn(|| cache.look_up(&key("one"), || false));
        // The kernel does the same to one that is killed.
        drop(killed);
        let CacheLookup::Make(making) = next.join().expect("a turn") else { panic!("it falls to nobody") };
        make(making, &cache, 100);
    });
    let CacheLookup::Ready(entry) = cache.look_up(&key("one"), || false) else { panic!("it is not there") };
    assert!(read(entry).expect("a good entry") == frames(100));
}

#[test]
fn whoever_stands_still_is_not_waited_for() {
    let scratch = scratch();
    let cache = cache(&scratch);
    let CacheLookup::Make(_stopped) = cache.look_up(&key("one"), || false) else { panic!("it is there already") };
    assert!(matches!(cache.look_up(&key("one"), || false), CacheLookup::Alone));
}

#[test]
fn waiting_ends_when_the_lane_is_given_up() {
    let scratch = scratch();
    let cache = cache(&scratch);
    let CacheLookup::Make(mut making) = cache.look_up(&key("one"), || false) else { panic!("it is there already") };
    let asked = AtomicUsize::new(0);
    // The one who makes it goes on and on.
    let is_given_up = || asked.fetch_add(1, Ordering::SeqCst) >= 10;
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| cache.look_up(&key("one"), is_given_up));
        while !waiting.is_finished() {
            making.append(&mut frame(&Request::Data(&[1]))).expect("a write");
        }
        assert!(matches!(waiting.join().expect("a turn"), CacheLookup::Alone));
    });
}

#[test]
fn the_directory_may_be_deleted_while_an_entry_is_made() {
    let scratch = scratch();
    let cache = cache(&scratch);
    let CacheLookup::Make(mut making) = cache.look_up(&key("one"), || false) else { panic!("it is there already") };
    let mut one = frames(100).remove(0);
    making.append(&mut one).expect("a write");
    fs::remove_dir_all(&cache.directory).expect("an own directory");
    assert!(making.seal(&cache).is_err());
    // Another makes the same meanwhile, and is not disturbed.
    let CacheLookup::Make(mut second) = cache.look_up(&key("one"), || false) else { panic!("nobody has made it") };
    assert!(making.seal(&cache).is_err());
    assert!(making.frame_at(0, LANE).expect("what was written").0 == one, "what was packed is there for its own lane");
    drop(making);
    frames(100).iter_mut().for_each(|frame| second.append(frame).expect("a write"));
    second.seal(&cache).expect("an entry");
    assert_eq!(names(&cache), ["one"]);
}

#[test]
fn what_is_only_looked_for_is_waited_for_where_it_is_being_made_and_never_begun() {
    let scratch = scratch();
    let cache = cache(&scratch);
    assert!(cache.made(&key("one"), || false).is_none());
    assert!(!cache.directory.exists(), "nothing is begun");

    let CacheLookup::Make(mut making) = cache.look_up(&key("one"), || false) else { panic!("nobody has made it") };
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| cache.made(&key("one"), || false).is_some());
        frames(100).iter_mut().for_each(|frame| making.append(frame).expect("a write"));
        making.seal(&cache).expect("an entry");
        assert!(waiting.join().expect("no panic"));
    });

    fs::write(cache.directory.join("two.part"), "x").expect("what a killed one left");
    assert!(cache.made(&key("two"), || false).is_none());
}

#[test]
fn what_was_used_least_recently_goes_and_so_do_leftovers() {
    let scratch = scratch();
    let mut cache = cache(&scratch);
    cache.most = 1 << 20;
    for (name, age) in [("old", 500), ("used", 5000), ("new", 400)] {
        made(&cache, name, 250_000);
        let file = File::options().write(true).open(cache.directory.join(name)).expect("an entry");
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).expect("a time");
    }
    drop(cache.look_up(&key("used"), || false));
    fs::write(cache.directory.join("dead.part"), "x").expect("a leftover");
    let CacheLookup::Make(_making) = cache.look_up(&key("busy"), || false) else { panic!("it is there already") };
    made(&cache, "last", 250_000);
    assert_eq!(names(&cache), ["busy.part", "last", "new", "used"]);
}

#[test]
fn without_peers_or_for_a_quarter_of_it_all_nothing_is_kept() {
    let cache = PackCache::new("/nowhere".into());
    assert!(!cache.takes(1), "nobody shares it");
    cache.share(true);
    assert!(cache.takes(MOST / 4) && !cache.takes(MOST / 4 + 1));
    cache.share(false);
    assert!(!cache.takes(1));
}

#[test]
fn where_the_store_cannot_be_used_it_is_done_without() {
    let scratch = scratch();
    fs::write(scratch.path().join("store"), "a file").expect("a file");
    assert!(matches!(cache(&scratch).look_up(&key("one"), || false), CacheLookup::Alone));
}
