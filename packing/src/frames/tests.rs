//! What is packed, unpacked again from its frames alone, is the package.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, UNIX_EPOCH};

use blat_domain::package::name::PackageId;
use blat_domain::policy::plan::Size;
use blat_domain::protocol::frames::{HEADER, Lane, MOST_BASE, MOST_PIECE, Rule, decode, header};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::*;

mod sharing;

const LANE: Lane = Lane(3);
const TIME: u64 = 1_700_000_000;

/// Files of a package by their paths.
type Files = BTreeMap<Vec<u8>, Vec<u8>>;

/// A scratch archive.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a scratch directory"))
    }

    /// A package of these files, with a `descpkg`.
    fn package(&self, id: &str, files: &[(&[u8], &[u8])]) -> TransferItem {
        let package: PackageId = id.parse().expect("a package");
        let path = self.0.path().join(package.path());
        let descpkg = package.version.as_str().as_bytes().to_vec();
        for (below, bytes) in files.iter().chain([&(&b"descpkg"[..], &descpkg[..])]) {
            let file = path.join(OsStr::from_bytes(below));
            fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
            fs::write(&file, bytes).expect("a file");
        }
        set_time(&path.join("descpkg"), TIME);
        let (archive, size) = (self.0.path().into(), Size::default());
        TransferItem {
            package,
            archive,
            time: TIME as i64,
            size,
            rule: Rule::New,
            tagged: None,
            print: None,
            orders: None,
        }
    }
}

/// Where a package lies.
fn place(item: &TransferItem) -> PathBuf {
    item.archive.join(item.package.path())
}

fn set_time(path: &Path, seconds: u64) {
    let file = File::options().append(true).open(path).expect("a file");
    file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).expect("a time");
}

/// What came out of packing.
#[derive(Default)]
struct Unpacked {
    files: Files,
    links: Files,
    directories: Vec<Vec<u8>>,
    /// Other names of files, with the entries of those.
    again: BTreeMap<Vec<u8>, u32>,
    linked: Vec<(Vec<u8>, Vec<u8>)>,
    /// Paths of files that are copied from the delta base.
    copied: Vec<Vec<u8>>,
    /// Bytes of data, as they went over the link.
    packed: usize,
    /// Pieces, and how many of them refer to held files.
    pieces: (usize, usize),
    whole: bool,
    forgotten: bool,
    given_up: GivenUp,
}

static WANTED: AtomicBool = AtomicBool::new(false);

impl FrameSink for mpsc::Sender<Vec<u8>> {
    fn send(&self, frame: Vec<u8>) -> bool {
        self.blocking_send(frame).is_ok()
    }

    fn offer(&self, frame: Vec<u8>) -> Offer {
        match self.try_send(frame) {
            Ok(()) => Offer::Taken,
            Err(TrySendError::Full(_)) => Offer::Full,
            Err(TrySendError::Closed(_)) => Offer::Closed,
        }
    }

    fn has_room(&self) -> bool {
        self.capacity() > 0
    }

    fn is_closed(&self) -> bool {
        mpsc::Sender::is_closed(self)
    }
}

/// The way to a lane that wants everything.
fn outlet(frames: &mpsc::Sender<Vec<u8>>) -> Outlet<'_> {
    Outlet::new(LANE, frames, &WANTED)
}

/// A pack cache that nobody shares.
fn unshared() -> PackCache {
    PackCache::new("/nowhere".into())
}

/// Packs and unpacks one package, whose delta base is `held` where there is one.
fn sent(item: &TransferItem, codec: Codec, held: Option<&TransferItem>) -> Unpacked {
    sent_by(&unshared(), item, codec, held)
}

/// The same by an agent with this cache.
fn sent_by(cache: &PackCache, item: &TransferItem, codec: Codec, held: Option<&TransferItem>) -> Unpacked {
    sent_on(LANE, cache, item, codec, held)
}

/// The same on another lane.
fn sent_on(lane: Lane, cache: &PackCache, item: &TransferItem, codec: Codec, held: Option<&TransferItem>) -> Unpacked {
    let delta_base =
        held.map(|held| DeltaBase::new(held.package.version.clone(), held.time, None, &item.package, &item.archive));
    let attempt = Attempt { number: 1, item: item.clone(), ask: false, delta_base };
    let (frames, packed) = mpsc::channel(100_000);
    let (_answers, held_files) = std::sync::mpsc::channel();
    let outlet = Outlet::new(lane, &frames, &WANTED);
    let given_up = pack(vec![attempt], codec, outlet, cache, &Progress::default(), &held_files);
    drop(frames);
    Unpacked { given_up, ..unpacked(packed, held) }
}

/// What these frames bring.
fn unpacked(mut packed: mpsc::Receiver<Vec<u8>>, held: Option<&TransferItem>) -> Unpacked {
    let mut unpacked = Unpacked::default();
    let (mut entries, mut digests) = (Vec::new(), Sha256::new());
    while let Some(frame) = packed.blocking_recv() {
        let (head, body) = frame.split_first_chunk::<HEADER>().expect("a header");
        assert!(matches!(header(*head), Ok((length, LANE | Lane::TAGS)) if length == body.len()));
        match decode(body).expect("a request") {
            Request::Package { .. } => {
                (entries, digests) = (Vec::new(), Sha256::new());
                unpacked.files.clear();
            }
            Request::Entries { entries: more } => {
                more.iter().for_each(|entry| unpacked.entry(entry, held));
                entries.extend(more);
            }
            Request::Piece(piece) => unpacked.piece(&piece, &entries, held, &mut packed),
            Request::Whole { entries: count, manifest } => {
                for (path, to) in std::mem::take(&mut unpacked.again) {
                    let of = &entries[to as usize];
                    assert!(matches!(of.kind, Kind::File { shared: true, .. }), "{path:?} is another name of {of:?}");
                    unpacked.files.insert(path.clone(), unpacked.files[&of.path].clone());
                    unpacked.linked.push((path, of.path.clone()));
                }
                let is_file = |entry: &&Entry| matches!(entry.kind, Kind::File { .. } | Kind::HardLink { .. });
                for entry in entries.iter().filter(is_file) {
                    digests.update(manifest_line(&Sha256::digest(&unpacked.files[&entry.path]), &entry.path));
                }
                assert_eq!(count, entries.len() as u64);
                assert_eq!(manifest, <[u8; 32]>::from(digests.clone().finalize()));
                assert_eq!(entries.last().map(|entry| &entry.path[..]), Some(&b"descpkg"[..]));
                unpacked.whole = true;
            }
            Request::Forget => unpacked.forgotten = true,
            other => panic!("{other:?} is no part of a package"),
        }
    }
    unpacked
}

impl Unpacked {
    fn entry(&mut self, entry: &Entry, held: Option<&TransferItem>) {
        match &entry.kind {
            Kind::Directory { .. } => self.directories.push(entry.path.clone()),
            Kind::Link { to } => drop(self.links.insert(entry.path.clone(), to.clone())),
            Kind::File { copy: Some(copy), .. } => {
                let from = copy.path.as_ref().unwrap_or(&entry.path);
                let bytes = fs::read(place(held.expect("an ancestor")).join(OsStr::from_bytes(from)));
                let bytes = bytes.expect("a held file");
                self.files.insert(entry.path.clone(), bytes);
                self.copied.push(entry.path.clone());
            }
            Kind::File { copy: None, .. } => {}
            Kind::HardLink { to } => drop(self.again.insert(entry.path.clone(), *to)),
        }
    }

    fn piece(
        &mut self,
        piece: &Piece,
        entries: &[Entry],
        held: Option<&TransferItem>,
        frames: &mut mpsc::Receiver<Vec<u8>>,
    ) {
        let mut bytes = Vec::new();
        while bytes.len() < piece.packed as usize {
            let frame = frames.blocking_recv().expect("data");
            let Ok(Request::Data(data)) = decode(&frame[HEADER..]) else { panic!("no data") };
            bytes.extend_from_slice(data);
        }
        assert_eq!(bytes.len(), piece.packed as usize);
        self.packed += bytes.len();
        self.pieces.0 += 1;
        self.pieces.1 += usize::from(!piece.base.is_empty());
        let total: u64 = piece.parts.iter().map(|part| u64::from(part.bytes)).sum();
        assert!(total <= MOST_PIECE, "a piece of {total} bytes");
        let mut prefix = Vec::new();
        for base in &piece.base {
            let mut part = vec![0; base.bytes as usize];
            let path = place(held.expect("an ancestor")).join(OsStr::from_bytes(&base.path));
            File::open(path).and_then(|file| file.read_exact_at(&mut part, base.offset)).expect("a held file");
            prefix.extend(part);
        }
        assert!(prefix.len() as u64 <= MOST_BASE);
        if piece.zstd {
            let mut decoder = zstd::Decoder::with_ref_prefix(&bytes[..], &prefix).expect("a decoder");
            let mut plain = Vec::new();
            decoder.read_to_end(&mut plain).expect("a zstd frame");
            bytes = plain;
        }
        assert_eq!(bytes.len() as u64, total);
        let mut rest = &bytes[..];
        for part in &piece.parts {
            let (taken, after) = rest.split_at(part.bytes as usize);
            let file = self.files.entry(entries[part.entry as usize].path.clone()).or_default();
            file.extend_from_slice(taken);
            rest = after;
        }
    }
}

/// Bytes that do not compress, the same for the same seed.
fn noise(seed: u8, length: usize) -> Vec<u8> {
    let blocks =
        (0u64..).flat_map(|block| <[u8; 32]>::from(Sha256::digest([&[seed][..], &block.to_le_bytes()].concat())));
    blocks.take(length).collect()
}

fn assert_is(unpacked: &Unpacked, files: &[(&[u8], &[u8])], version: &str) {
    let expected = files.iter().copied().chain([(&b"descpkg"[..], version.as_bytes())]);
    let expected: Files = expected.map(|(path, bytes)| (path.to_vec(), bytes.to_vec())).collect();
    assert!(unpacked.whole && unpacked.given_up.is_empty() && unpacked.files == expected);
}

#[test]
fn what_is_unpacked_is_the_package_whatever_the_codec() {
    let (large, text) = (noise(1, PIECE * 2 + 12_345), b"again and ".repeat(1000));
    let files: &[(&[u8], &[u8])] = &[
        (b"a/b/c/deep", b"deep"),
        (b"a/empty", b""),
        (b"empty too", b""),
        (b"large", &large),
        (b"line\nfeed \xff 'quoted' -rf", b"odd"),
        (b"text", &text),
    ];
    let scratch = Scratch::new();
    let item = scratch.package("p@1", files);
    symlink("../..//x \n", place(&item).join("a/link")).expect("a link");
    fs::create_dir(place(&item).join("a/hollow")).expect("a directory");
    for codec in [Codec::Plain, Codec::Zstd, Codec::Referring] {
        let unpacked = sent(&item, codec, None);
        assert_is(&unpacked, files, "1");
        assert_eq!(unpacked.links, Files::from([(b"a/link".to_vec(), b"../..//x \n".to_vec())]));
        assert_eq!(unpacked.directories, [&b""[..], b"a", b"a/b", b"a/b/c", b"a/hollow"]);
        assert!((3..=6).contains(&unpacked.pieces.0), "{codec:?}: {} pieces", unpacked.pieces.0);
        let total = large.len() + text.len();
        assert_eq!(unpacked.packed < total, codec != Codec::Plain, "{codec:?}: {} of {total}", unpacked.packed);
    }
}

#[test]
fn a_file_with_several_names_is_sent_once_whatever_the_codec() {
    let large = noise(1, PIECE + 12_345);
    let files: &[(&[u8], &[u8])] = &[(b"a/large", &large), (b"b", b"b")];
    let scratch = Scratch::new();
    let held = scratch.package("p@1", files);
    let item = scratch.package("p@2", files);
    let link = |of: &str, name: &str| fs::hard_link(place(&item).join(of), place(&item).join(name));
    link("a/large", "c").and_then(|()| link("a/large", "a/again")).expect("a hard link");
    // More than one frame tells of.
    for number in 0..ENTRIES {
        link("b", &format!("a/z{number}")).expect("a hard link");
    }
    let numbers: Vec<String> = (0..ENTRIES).map(|number| format!("a/z{number}")).collect();
    let mut expected = files.to_vec();
    expected.extend([(&b"a/again"[..], &large[..]), (b"c", &large)]);
    expected.extend(numbers.iter().map(|name| (name.as_bytes(), &b"b"[..])));
    let cache = PackCache::new(scratch.0.path().join("store"));
    cache.share(true);
    for (codec, held) in [(Codec::Plain, None), (Codec::Zstd, None), (Codec::Referring, Some(&held))] {
        for _ in 0..2 {
            let sent = sent_by(&cache, &item, codec, held);
            assert_is(&sent, &expected, "2");
            assert_eq!(sent.linked.len(), ENTRIES + 2, "{codec:?}");
            assert!(sent.packed < large.len() + 1000, "{codec:?}: {} bytes", sent.packed);
        }
    }
}

#[test]
fn more_small_files_than_one_frame_tells_of_share_pieces() {
    let names: Vec<String> = (0..ENTRIES * 3).map(|number| format!("d/{number:05}")).collect();
    let files: Vec<(&[u8], &[u8])> = names.iter().map(|name| (name.as_bytes(), name.as_bytes())).collect();
    let scratch = Scratch::new();
    let unpacked = sent(&scratch.package("p@1", &files), Codec::Zstd, None);
    assert_is(&unpacked, &files, "1");
    assert!(unpacked.pieces.0 <= 4, "{} pieces", unpacked.pieces.0);
}

#[test]
fn what_a_held_version_has_too_is_copied_and_what_resembles_it_refers_to_it() {
    let old = noise(2, 3 << 20);
    let mut new = old.clone();
    new[1 << 20..(1 << 20) + 1000].copy_from_slice(&noise(3, 1000));
    let scratch = Scratch::new();
    let held = scratch.package("p@1", &[(b"same", b"same"), (b"lib-1.so", b"renamed"), (b"changed", &old)]);
    let files: &[(&[u8], &[u8])] = &[(b"same", b"same"), (b"lib-2.so", b"renamed"), (b"changed", &new)];
    let item = scratch.package("p@2", files);

    let plain = sent(&item, Codec::Zstd, Some(&held));
    assert_is(&plain, files, "2");
    assert!(plain.pieces.1 == 0 && plain.packed > old.len(), "{:?} {}", plain.pieces, plain.packed);

    let referring = sent(&item, Codec::Referring, Some(&held));
    assert_is(&referring, files, "2");
    assert_eq!(referring.copied, [&b"lib-2.so"[..], b"same"]);
    assert!(referring.pieces.1 > 0 && referring.packed < 10_000, "{:?} {}", referring.pieces, referring.packed);
}

#[test]
fn what_a_tag_asks_for_is_packed_harder_where_it_refers_to_a_held_version() {
    let words = |seed| {
        let words = noise(seed, 40_000).into_iter().map(|byte| format!("{} ", u32::from(byte) * u32::from(byte) % 997));
        words.collect::<String>().into_bytes()
    };
    let (old, new) = (words(8), [words(8), words(9)].concat());
    let scratch = Scratch::new();
    let held = scratch.package("p@1", &[(b"text", &old)]);
    let files: &[(&[u8], &[u8])] = &[(b"text", &new)];
    let item = scratch.package("p@2", files);
    let [bulk, tags] = [LANE, Lane::TAGS].map(|lane| sent_on(lane, &unshared(), &item, Codec::Referring, Some(&held)));
    assert_is(&bulk, files, "2");
    assert_is(&tags, files, "2");
    assert!(tags.packed < bulk.packed && bulk.pieces.1 > 0, "{} {}", tags.packed, bulk.packed);
}

#[test]
fn a_file_that_moved_and_has_another_digest_in_its_name_refers_to_what_it_was() {
    let (old, other) = (noise(5, 1 << 20), noise(6, 1 << 20));
    let mut new = old.clone();
    new[..100].copy_from_slice(&noise(7, 100));
    new.push(0);
    let scratch = Scratch::new();
    let held = scratch.package("p@1", &[(b"libs/libx-8a7f9d56.so.1", &old), (b"libs/libx-9a.so.1", &other[..1000])]);
    let files: &[(&[u8], &[u8])] = &[(b"lib/libx-c6062d5f.so.2", &new)];
    let referring = sent(&scratch.package("p@2", files), Codec::Referring, Some(&held));
    assert_is(&referring, files, "2");
    assert!(referring.pieces.1 > 0 && referring.packed < 10_000, "{:?} {}", referring.pieces, referring.packed);
}

#[test]
fn an_ancestor_that_is_another_here_than_at_the_target_is_not_used() {
    let scratch = Scratch::new();
    let files: &[(&[u8], &[u8])] = &[(b"same", &[7; 5000])];
    let held = scratch.package("p@1", files);
    let item = scratch.package("p@2", files);
    assert_eq!(sent(&item, Codec::Referring, Some(&held)).copied.len(), 1);
    set_time(&place(&held).join("descpkg"), TIME + 1);
    let unpacked = sent(&item, Codec::Referring, Some(&held));
    assert_is(&unpacked, files, "2");
    assert!(unpacked.copied.is_empty() && unpacked.pieces.1 == 0);
}

#[test]
fn a_package_that_cannot_be_read_or_is_no_package_is_forgotten() {
    let scratch = Scratch::new();
    let socket = scratch.package("socket@1", &[(b"a", b"a")]);
    let _listener = std::os::unix::net::UnixListener::bind(place(&socket).join("socket")).expect("a socket");
    let without = scratch.package("without@1", &[(b"a", b"a")]);
    fs::remove_file(place(&without).join("descpkg")).expect("a file");
    for (item, words) in [(socket, "neither file"), (without, "descpkg vanished")] {
        let unpacked = sent(&item, Codec::Zstd, None);
        assert!(unpacked.forgotten && !unpacked.whole);
        let (package, why) = &unpacked.given_up[0];
        assert!(*package == item.package && why.contains(words), "{why}");
    }
}

#[test]
fn a_file_that_changes_while_it_is_sent_spoils_its_package_and_not_the_next() {
    let scratch = Scratch::new();
    let large = noise(4, PIECE * 2);
    let first = scratch.package("p@1", &[(b"large", &large)]);
    let second = scratch.package("q@1", &[]);
    let attempts =
        [&first, &second].map(|item| Attempt { number: 1, item: item.clone(), ask: false, delta_base: None });
    let (frames, mut packed) = mpsc::channel(1);
    let (_answers, held) = std::sync::mpsc::channel();
    let packing = std::thread::spawn(move || {
        pack(attempts.to_vec(), Codec::Plain, outlet(&frames), &unshared(), &Progress::default(), &held)
    });
    // Package and Entries are out, so the first piece is not yet: no more than two frames are ahead of us.
    let mut ends = Vec::new();
    while let Some(frame) = packed.blocking_recv() {
        match decode(&frame[HEADER..]).expect("a request") {
            Request::Piece(_) => set_time(&place(&first).join("large"), TIME + 5),
            end @ (Request::Whole { .. } | Request::Forget) => ends.push(matches!(end, Request::Whole { .. })),
            _ => {}
        }
    }
    assert_eq!(ends, [false, true]);
    let given_up = packing.join().expect("packing");
    assert!(given_up.len() == 1 && given_up[0].1.contains("changed while it was read"), "{given_up:?}");
}
