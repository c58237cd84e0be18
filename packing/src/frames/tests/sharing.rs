//! What was packed for one target, given to another.

use super::*;

/// A pack cache that others share, and where it lies.
fn shared(scratch: &Scratch) -> (PackCache, PathBuf) {
    let directory = scratch.0.path().join("store");
    let cache = PackCache::new(directory.clone());
    cache.share(true);
    (cache, directory)
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(directory).into_iter().flatten();
    let mut paths: Vec<PathBuf> = found.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}

#[test]
fn a_second_target_gets_the_same_from_the_store() {
    let old = noise(2, PIECE + 4000);
    let mut new = old.clone();
    new[5000..6000].copy_from_slice(&noise(3, 1000));
    let scratch = Scratch::new();
    let held = scratch.package("p@1", &[(b"same", b"same"), (b"changed", &old)]);
    let files: &[(&[u8], &[u8])] = &[(b"same", b"same"), (b"changed", &new), (b"text", &[b'x'; 50_000])];
    let item = scratch.package("p@2", files);
    let (cache, directory) = shared(&scratch);
    for (codec, held) in [(Codec::Zstd, None), (Codec::Zstd, Some(&held)), (Codec::Referring, Some(&held))] {
        let before = entries(&directory);
        let (first, second) = (sent_by(&cache, &item, codec, held), sent_by(&cache, &item, codec, held));
        assert_is(&first, files, "2");
        assert_is(&second, files, "2");
        assert_eq!((first.packed, first.pieces, first.copied), (second.packed, second.pieces, second.copied));
        assert_eq!(entries(&directory).len(), before.len() + 1, "{codec:?}: one entry for both");
    }
}

#[test]
fn what_is_in_the_store_is_not_packed_again() {
    let scratch = Scratch::new();
    let (cache, directory) = shared(&scratch);
    let (one, two) = (scratch.package("one@1", &[(b"a", b"of one")]), scratch.package("two@1", &[(b"a", b"of two")]));
    sent_by(&cache, &one, Codec::Zstd, None);
    let place = entries(&directory).remove(0);
    sent_by(&cache, &two, Codec::Zstd, None);
    let other = entries(&directory).into_iter().find(|path| *path != place).expect("two entries");
    fs::rename(other, place).expect("an own directory");
    // Only so it can be told where the bytes come from.
    assert_is(&sent_by(&cache, &one, Codec::Zstd, None), &[(b"a", b"of two")], "1");
}

#[test]
fn progress_counts_what_comes_from_the_store() {
    let scratch = Scratch::new();
    let (cache, _) = shared(&scratch);
    let held = scratch.package("p@1", &[(b"same", &[1; 700])]);
    let item = scratch.package("p@2", &[(b"same", &[1; 700]), (b"more", &[2; 900])]);
    let mut counted = Vec::new();
    for _ in 0..2 {
        let delta_base = DeltaBase::new(held.package.version.clone(), held.time, None, &item.package, &item.archive);
        let attempt = Attempt { number: 1, item: item.clone(), ask: false, delta_base: Some(delta_base) };
        let (progress, (frames, _taken)) = (Progress::default(), mpsc::channel(1000));
        let (_answers, held_files) = std::sync::mpsc::channel();
        pack(vec![attempt], Codec::Zstd, outlet(&frames), &cache, &progress, &held_files);
        counted.push(progress.snapshot().bytes_done);
    }
    assert_eq!(counted, [700 + 900 + 1; 2]);
}

#[test]
fn a_target_that_takes_nothing_holds_up_nobody_and_gets_all_in_the_end() {
    let files: &[(&[u8], &[u8])] = &[(b"large", &noise(5, PIECE * 3))];
    let scratch = Scratch::new();
    let item = scratch.package("p@1", files);
    let (cache, directory) = shared(&scratch);
    let attempt = Attempt { number: 1, item: item.clone(), ask: false, delta_base: None };
    let (frames, taken) = mpsc::channel(2);
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| {
            let (frames, (_answers, held)) = (frames, std::sync::mpsc::channel());
            pack(vec![attempt], Codec::Zstd, outlet(&frames), &cache, &Progress::default(), &held)
        });
        while entries(&directory).is_empty() {
            assert!(!slow.is_finished(), "it ended without an entry");
            std::thread::yield_now();
        }
        // It begins later, and ends while the other one has not taken a single frame.
        assert_is(&sent_by(&cache, &item, Codec::Zstd, None), files, "1");
        assert_eq!(entries(&directory).len(), 1);
        assert!(!slow.is_finished() && taken.len() == 2);
        assert_is(&unpacked(taken, None), files, "1");
        assert!(slow.join().expect("packing").is_empty());
    });
}

#[test]
fn a_damaged_entry_is_made_anew_and_what_was_given_of_it_forgotten() {
    let files: &[(&[u8], &[u8])] = &[(b"a", b"small"), (b"large", &noise(6, PIECE * 2))];
    let scratch = Scratch::new();
    let item = scratch.package("p@1", files);
    let (cache, directory) = shared(&scratch);
    sent_by(&cache, &item, Codec::Zstd, None);
    let entry = entries(&directory).remove(0);
    let whole = fs::read(&entry).expect("an entry");
    let mut bytes = whole.clone();
    // In the second piece: the first is on its way by then.
    bytes[whole.len() - 5000] ^= 1;
    fs::write(&entry, &bytes).expect("an own file");

    let again = sent_by(&cache, &item, Codec::Zstd, None);
    assert_is(&again, files, "1");
    assert!(again.forgotten);
    assert!(fs::read(&entry).expect("an entry") == whole, "it is whole again");
    let after = sent_by(&cache, &item, Codec::Zstd, None);
    assert_is(&after, files, "1");
    assert!(!after.forgotten);
}

#[test]
fn what_cannot_be_packed_is_asked_for_plain_or_resumed_leaves_no_entry() {
    let scratch = Scratch::new();
    let (cache, directory) = shared(&scratch);
    let broken = scratch.package("broken@1", &[(b"a", b"a")]);
    fs::remove_file(place(&broken).join("descpkg")).expect("a file");
    let unpacked = sent_by(&cache, &broken, Codec::Zstd, None);
    assert!(unpacked.forgotten && unpacked.given_up.len() == 1);
    assert!(entries(&directory).is_empty(), "nothing unfinished stays either");

    let item = scratch.package("p@1", &[(b"a", b"a")]);
    assert_is(&sent_by(&cache, &item, Codec::Plain, None), &[(b"a", b"a")], "1");
    let attempt = Attempt { number: 1, item, ask: true, delta_base: None };
    let (frames, _taken) = mpsc::channel(1000);
    let (answers, held) = std::sync::mpsc::channel();
    answers.send(PartialFiles { number: 1, files: Vec::new() }).expect("it is heard");
    assert!(pack(vec![attempt], Codec::Zstd, outlet(&frames), &cache, &Progress::default(), &held).is_empty());
    assert!(entries(&directory).is_empty());
}

#[test]
fn the_store_may_be_deleted_between_any_two_packages() {
    let scratch = Scratch::new();
    let (cache, directory) = shared(&scratch);
    for id in ["p@1", "q@1", "r@1"] {
        let item = scratch.package(id, &[(b"a", b"a")]);
        assert_is(&sent_by(&cache, &item, Codec::Zstd, None), &[(b"a", b"a")], "1");
        assert_eq!(entries(&directory).len(), 1);
        fs::remove_dir_all(&directory).expect("an own directory");
    }
}
