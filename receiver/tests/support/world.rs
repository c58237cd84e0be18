//! An archive with a world around it that no conversation may touch: for those who say anything at all to a receiver.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use blat_domain::archive::package_list::Purge;
use blat_domain::package::manifest;
use blat_domain::package::name::PackageId;
use blat_domain::protocol::frames::{
    self, Copy, Entry, HEADER, Kind, Lane, Leaving, MARKER, PROTOCOL, Part, Piece, Reply, Request, Retirement, Rule,
    Time,
};
use sha2::{Digest as _, Sha256};

/// What is at each path: mode, time, and bytes or where a link leads.
type Picture = BTreeMap<PathBuf, (u32, i64, i64, Vec<u8>)>;

/// A scratch directory with an archive, in which links lead out of it, and something beside it.
pub struct World {
    scratch: tempfile::TempDir,
    outside: Picture,
}

impl World {
    pub fn new() -> io::Result<Self> {
        let scratch = tempfile::tempdir()?;
        let (archive, outside) = (scratch.path().join("archive"), scratch.path().join("outside"));
        for (version, time) in [("1", 5), ("2", 6)] {
            for root in [archive.join("p"), outside.join("p"), outside.clone()] {
                let package = root.join(version);
                fs::create_dir_all(package.join("lib"))?;
                fs::write(package.join("lib/held"), HELD)?;
                fs::write(package.join("descpkg"), DESCPKG)?;
                let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(time);
                fs::File::options().append(true).open(package.join("descpkg"))?.set_modified(time)?;
            }
        }
        symlink("../outside", archive.join("away"))?;
        symlink("../../../outside", archive.join("p/1/lib/away"))?;
        symlink("../../outside", archive.join("p/away"))?;
        let mut world = Self { scratch, outside: Picture::new() };
        world.outside = world.picture()?;
        Ok(world)
    }

    pub fn archive(&self) -> PathBuf {
        self.scratch.path().join("archive")
    }

    /// Says all of it to a receiver; what that said, once it has dealt with it. Every word of it has to be a frame, and no lane may panic.
    pub fn hear(&self, said: &[u8]) -> io::Result<Vec<u8>> {
        WATCHED.call_once(watch_lanes);
        let (mut from_receiver, to_agent) = io::pipe()?;
        let hearing = thread::spawn(move || {
            let mut heard = Vec::new();
            from_receiver.read_to_end(&mut heard).map(|_| heard)
        });
        // How it ends is told in what it says.
        let _ = blat_receiver::serve(&self.archive(), said, to_agent.into(), || {});
        let heard = hearing.join().expect("a listener")?;
        assert!(!PANICKED.load(Ordering::Relaxed), "a lane panicked");
        assert_speaks_in_frames(&heard);
        Ok(heard)
    }

    /// Whether all beside the archive is as it was.
    pub fn is_untouched(&self) -> io::Result<bool> {
        Ok(self.picture()? == self.outside)
    }

    /// All in the scratch directory but what is in the archive.
    fn picture(&self) -> io::Result<Picture> {
        let mut picture = Picture::new();
        let mut directories = vec![self.scratch.path().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                let (path, metadata) = (entry.path(), entry.metadata()?);
                if path == self.archive() {
                    continue;
                }
                let content = if metadata.is_dir() {
                    directories.push(path.clone());
                    Vec::new()
                } else if metadata.is_symlink() {
                    fs::read_link(&path)?.into_os_string().into_encoded_bytes()
                } else {
                    fs::read(&path)?
                };
                picture.insert(path, (metadata.mode(), metadata.mtime(), metadata.mtime_nsec(), content));
            }
        }
        Ok(picture)
    }

    /// Something of the archive, if it is there.
    pub fn read(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        fs::read(self.archive().join(path)).ok()
    }
}

static WATCHED: Once = Once::new();
static PANICKED: AtomicBool = AtomicBool::new(false);

/// A lane that panics takes only its own thread with it: this tells of it.
fn watch_lanes() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if thread::current().name().is_some_and(|name| name.starts_with("lane ")) {
            PANICKED.store(true, Ordering::Relaxed);
        }
        usual(panic);
    }));
}

fn assert_speaks_in_frames(heard: &[u8]) {
    let greeting = format!("{MARKER}\n");
    let mut rest = heard.strip_prefix(greeting.as_bytes()).expect("its greeting");
    while let Some((header, after)) = rest.split_first_chunk::<HEADER>() {
        let (length, _) = frames::header(*header).expect("a header");
        let (body, after) = after.split_at(length);
        frames::decode::<Reply<'_>>(body).expect("a reply");
        rest = after;
    }
    assert!(rest.is_empty(), "a frame was cut");
}

/// A PackageList.
const LIST: &[u8] = b"p 1\np 3\n# end 2\n";
const HELD: &[u8] = b"held by both versions";
const DESCPKG: &[u8] = b"p\n";
const NEWS: &[u8] = b"new bytes";

/// A conversation about all that there is to say, each frame by itself, whose package `p@3` has something at these paths.
pub fn conversation(paths: &[&[u8]]) -> Vec<Vec<u8>> {
    let id = |text: &str| text.parse::<PackageId>().expect("a package");
    let version = |text: &str| id(&format!("p@{text}")).version;
    let time = Time { seconds: 7, nanoseconds: 0 };
    let entry = |path: &[u8], kind| Entry { path: path.to_vec(), kind, time };
    let shared = |bytes: &[u8], copy| Kind::File { mode: 0o644, size: bytes.len() as u64, copy, shared: true };
    let file = |bytes: &[u8], copy| Kind::File { mode: 0o644, size: bytes.len() as u64, copy, shared: false };
    let directory = || Kind::Directory { mode: 0o755 };
    let digest = |bytes: &[u8]| -> [u8; 32] { Sha256::digest(bytes).into() };
    let held = Copy { version: version("1"), path: None };

    let mut entries = vec![
        entry(b"", directory()),
        entry(b"lib", directory()),
        entry(b"out", Kind::Link { to: b"../../../../../outside".to_vec() }),
        entry(b"lib/held", shared(HELD, Some(held))),
        entry(b"lib/name", Kind::HardLink { to: 3 }),
    ];
    let mut lines = [&b"lib/held"[..], b"lib/name"].map(|path| manifest::line(&digest(HELD), path)).concat();
    let (mut parts, mut bytes) = (Vec::new(), Vec::new());
    for (path, content) in paths.iter().map(|path| (*path, NEWS)).chain([(&b"descpkg"[..], DESCPKG)]) {
        parts.push(Part { entry: entries.len() as u32, bytes: content.len() as u32 });
        entries.push(entry(path, file(content, None)));
        bytes.extend(content);
        lines.extend(manifest::line(&digest(content), path));
    }
    let package = Request::Package {
        number: 1,
        package: id("p@3"),
        time: 7,
        mode: 0o755,
        rule: Rule::New,
        manifest: None,
        ask: true,
    };
    let retire = |how, package: &str| Request::Retire { how, packages: vec![Leaving::new(id(package), None)] };
    let control = [
        Request::Hello { protocol: PROTOCOL },
        Request::List { buckets: vec![], installed: vec![] },
        Request::Verify { packages: vec![id("p@1"), id("away@1")] },
    ];
    let count = entries.len() as u64;
    let bulk = [
        Request::Begin { bytes: 100, entries: count, reserve: 0 },
        package,
        Request::Entries { entries },
        Request::Piece(Piece { packed: bytes.len() as u32, zstd: false, parts, base: vec![] }),
        Request::Data(&bytes),
        Request::Whole { entries: count, manifest: digest(&lines) },
        Request::Publish,
        Request::Store { bytes: LIST.len() as u64, digest: digest(LIST), purge: Purge::Allowed },
        Request::Data(LIST),
        Request::Go,
        Request::Link { links: vec![(id("p@current"), version("3")), (id("away@current"), version("1"))] },
        retire(Retirement::Mark(9), "p@1"),
        Request::Go,
        retire(Retirement::Unmark, "p@1"),
        Request::Go,
        retire(Retirement::Delete, "p@2"),
        Request::Go,
        retire(Retirement::Delete, "away@2"),
        Request::Go,
        Request::Sweep { keep: vec![] },
    ];
    let on = |lane| move |request: &Request<'_>| frame(lane, request);
    control.iter().map(on(Lane::CONTROL)).chain(bulk.iter().map(on(Lane::BULK))).collect()
}

fn frame(lane: Lane, request: &Request<'_>) -> Vec<u8> {
    let mut frame = Vec::new();
    frames::append(&mut frame, lane, request).expect("a message that fits");
    frame
}
