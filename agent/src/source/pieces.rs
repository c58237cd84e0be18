//! Packages as the frames that a receiver takes: entries first, then their bytes in pieces of bounded size.
//!
//! Everything is read once, hashed on the way, and held for no longer than its piece. What the target verifies is what was read here.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use blat_domain::frames::{Entry, HEADER, Kind, LONGEST_BODY, Lane, MOST_DATA, Part, Piece, Request, Time, append};
use blat_domain::text::printable;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use walkdir::{DirEntry, WalkDir};

use super::DESCPKG;
use super::pack::{GivenUp, below, manifest_line, open, same_version};
use crate::progress::Progress;
use crate::target::Parcel;

/// A piece is closed at this many bytes: a cut link costs little, and packing, link and target work side by side.
const PIECE: usize = 4 << 20;
/// Entries are told when so many of them have gathered, whatever the bytes of their files.
const ENTRIES: usize = 512;
/// Or when telling them takes so much of a frame.
const TOLD: usize = LONGEST_BODY / 2;
/// The level at which zstd keeps up with a fast link on one core.
const ZSTD_LEVEL: i32 = 1;

/// How pieces are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// Not at all.
    Plain,
    /// By zstd, where that makes them smaller.
    Zstd,
}

/// One try at sending a package.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    /// The number that answers bear.
    pub(crate) number: u32,
    /// The package.
    pub(crate) parcel: Parcel,
    /// Whether an interrupted try may have left files at the target.
    pub(crate) ask: bool,
    /// Whether nothing that the target holds may be made use of.
    pub(crate) from_scratch: bool,
}

/// Files that an interrupted try left: by entry, with the digest of what is there.
#[derive(Debug)]
pub(crate) struct Held {
    /// The number of the attempt.
    pub(crate) number: u32,
    /// Which files.
    pub(crate) files: Vec<(u32, [u8; 32])>,
}

/// Packs one attempt after the other into `frames`, and gives back those whose package could not be read. Ends early when nobody takes the
/// frames any more.
pub(crate) fn pack(
    attempts: Vec<Attempt>,
    lane: Lane,
    codec: Codec,
    progress: &Progress,
    frames: &mpsc::Sender<Vec<u8>>,
    held: &std::sync::mpsc::Receiver<Held>,
) -> GivenUp {
    let mut given_up = GivenUp::new();
    let mut packer = match Packer::new(lane, codec, frames) {
        Ok(packer) => packer,
        Err(error) => {
            let why = format!("zstd cannot be set up: {error}");
            return attempts.into_iter().map(|attempt| (attempt.parcel.package, why.clone())).collect();
        }
    };
    for attempt in attempts {
        progress.begin(&attempt.parcel.package, attempt.parcel.size);
        match packer.package(&attempt, progress, held) {
            Ok(()) => {}
            Err(Trouble::Package(why)) => {
                given_up.push((attempt.parcel.package, why));
                if packer.say(&Request::Forget).is_err() {
                    break;
                }
            }
            // Whoever drove the lane knows why, and says so.
            Err(Trouble::HungUp) => break,
        }
    }
    given_up
}

/// Why packing a package came to an end.
enum Trouble {
    /// It cannot be sent, and why.
    Package(String),
    /// Nobody takes the frames any more.
    HungUp,
}

type Packed<T> = Result<T, Trouble>;

fn unreadable(what: &Path, error: &dyn std::fmt::Display) -> Trouble {
    Trouble::Package(format!("cannot read {} at the source: {error}", printable(&what.to_string_lossy())))
}

struct Packer<'a> {
    lane: Lane,
    frames: &'a mpsc::Sender<Vec<u8>>,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    /// The bytes of the piece that is being filled.
    raw: Vec<u8>,
    parts: Vec<Part>,
}

/// A package on its way.
struct Course<'a> {
    attempt: &'a Attempt,
    progress: &'a Progress,
    held: &'a std::sync::mpsc::Receiver<Held>,
    /// Entries not told of yet, with the files among them.
    entries: Vec<Entry>,
    files: Vec<(u32, PathBuf, u64)>,
    waiting_bytes: u64,
    told_bytes: usize,
    count: u32,
    lines: Sha256,
}

impl<'a> Packer<'a> {
    fn new(lane: Lane, codec: Codec, frames: &'a mpsc::Sender<Vec<u8>>) -> io::Result<Self> {
        let zstd = match codec {
            Codec::Plain => None,
            Codec::Zstd => Some(zstd::bulk::Compressor::new(ZSTD_LEVEL)?),
        };
        Ok(Self { lane, frames, zstd, raw: Vec::with_capacity(PIECE), parts: Vec::new() })
    }

    fn say(&self, request: &Request<'_>) -> Packed<()> {
        let mut frame = Vec::new();
        append(&mut frame, self.lane, request).map_err(|error| Trouble::Package(error.to_string()))?;
        self.frames.blocking_send(frame).map_err(|_| Trouble::HungUp)
    }

    fn package(
        &mut self,
        attempt: &Attempt,
        progress: &Progress,
        held: &std::sync::mpsc::Receiver<Held>,
    ) -> Packed<()> {
        self.raw.clear();
        self.parts.clear();
        let Attempt { number, parcel, ask, from_scratch: _ } = attempt;
        let root = std::fs::symlink_metadata(&parcel.path).map_err(|error| unreadable(&parcel.path, &error))?;
        self.say(&Request::Package {
            number: *number,
            package: parcel.package.clone(),
            time: parcel.time,
            mode: permissions(root.mode()),
            rule: parcel.rule,
            manifest: None,
            ask: *ask,
        })?;
        let mut course = Course {
            attempt,
            progress,
            held,
            entries: Vec::new(),
            files: Vec::new(),
            waiting_bytes: 0,
            told_bytes: 0,
            count: 0,
            lines: Sha256::new(),
        };
        let mut descpkg = None;
        for entry in WalkDir::new(&parcel.path).sort_by_file_name() {
            let entry = entry.map_err(|error| unreadable(&parcel.path, &error))?;
            if entry.depth() == 1 && entry.file_name() == DESCPKG {
                descpkg = Some(entry);
            } else {
                self.entry(&mut course, &entry)?;
            }
        }
        let descpkg = descpkg.ok_or_else(|| Trouble::Package("its descpkg vanished from the source".into()))?;
        self.entry(&mut course, &descpkg)?;
        self.tell(&mut course)?;
        // The root is no entry below itself.
        let entries = u64::from(course.count.saturating_sub(1));
        self.say(&Request::Whole { entries, manifest: course.lines.finalize().into() })
    }

    fn entry(&mut self, course: &mut Course<'_>, entry: &DirEntry) -> Packed<()> {
        let path = entry.path();
        let metadata = entry.metadata().map_err(|error| unreadable(path, &error))?;
        let kind = if metadata.is_dir() {
            Kind::Directory { mode: permissions(metadata.mode()) }
        } else if metadata.is_symlink() {
            let to = std::fs::read_link(path).map_err(|error| unreadable(path, &error))?;
            Kind::Link { to: to.as_os_str().as_bytes().to_vec() }
        } else if metadata.is_file() {
            course.files.push((course.count, path.to_owned(), metadata.len()));
            course.waiting_bytes += metadata.len();
            Kind::File { mode: permissions(metadata.mode()), size: metadata.len(), copy: None }
        } else {
            let shown = printable(&path.to_string_lossy());
            return Err(Trouble::Package(format!("{shown} is neither file, directory nor symbolic link")));
        };
        let seconds_below = u32::try_from(metadata.mtime_nsec()).unwrap_or_default();
        let time = Time { seconds: metadata.mtime(), nanoseconds: seconds_below };
        let below = below(path, &course.attempt.parcel.path);
        course.told_bytes += below.len() + path_of(&kind).len() + 64;
        course.entries.push(Entry { path: below, kind, time });
        course.count += 1;
        let is_enough =
            course.waiting_bytes >= PIECE as u64 || course.entries.len() >= ENTRIES || course.told_bytes >= TOLD;
        if is_enough { self.tell(course) } else { Ok(()) }
    }

    /// Tells of the entries that have gathered, then sends the bytes of the files among them.
    fn tell(&mut self, course: &mut Course<'_>) -> Packed<()> {
        if course.entries.is_empty() {
            return Ok(());
        }
        let entries = std::mem::take(&mut course.entries);
        let first = course.count - entries.len() as u32;
        self.say(&Request::Entries { entries: entries.clone() })?;
        (course.waiting_bytes, course.told_bytes) = (0, 0);
        let held = if course.attempt.ask { self.hear_held(course)? } else { Vec::new() };
        for (number, path, size) in std::mem::take(&mut course.files) {
            let digest = match held.iter().find(|(entry, _)| *entry == number) {
                Some((_, there)) => self.held_file(course, number, &path, size, there)?,
                None => self.file(course, number, &path, size)?,
            };
            let below = &entries[(number - first) as usize].path;
            course.lines.update(manifest_line(&digest, below));
        }
        self.piece()
    }

    fn hear_held(&self, course: &Course<'_>) -> Packed<Vec<(u32, [u8; 32])>> {
        loop {
            let held = course.held.recv().map_err(|_| Trouble::HungUp)?;
            if held.number == course.attempt.number {
                return Ok(held.files);
            }
        }
    }

    /// A file of which the target has something: sent only if it is not the same.
    fn held_file(
        &mut self,
        course: &Course<'_>,
        number: u32,
        path: &Path,
        size: u64,
        there: &[u8; 32],
    ) -> Packed<[u8; 32]> {
        let (mut file, _) = open(path).map_err(|error| unreadable(path, &error))?;
        let digest = digest_of(&mut file).map_err(|error| unreadable(path, &error))?;
        if digest == *there {
            course.progress.advance(size);
            return Ok(digest);
        }
        self.file(course, number, path, size)
    }

    /// Puts a file's bytes into pieces.
    fn file(&mut self, course: &Course<'_>, number: u32, path: &Path, size: u64) -> Packed<[u8; 32]> {
        let (mut file, before) = open(path).map_err(|error| unreadable(path, &error))?;
        let changed = || Trouble::Package(format!("{} changed while it was sent", printable(&path.to_string_lossy())));
        if !before.is_file() || before.len() != size {
            return Err(changed());
        }
        let (mut digest, mut left) = (Sha256::new(), size);
        loop {
            if self.raw.len() == PIECE {
                self.piece()?;
            }
            let room = PIECE - self.raw.len();
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(room);
            let start = self.raw.len();
            self.raw.resize(start + take, 0);
            file.read_exact(&mut self.raw[start..]).map_err(|error| unreadable(path, &error))?;
            digest.update(&self.raw[start..]);
            course.progress.advance(take as u64);
            left -= take as u64;
            let bytes = u32::try_from(take).unwrap_or(u32::MAX);
            if left == 0 {
                check_unchanged(&file, &before).map_err(|_| changed())?;
                let digest: [u8; 32] = digest.finalize().into();
                self.parts.push(Part { entry: number, bytes, digest: Some(digest) });
                return Ok(digest);
            }
            self.parts.push(Part { entry: number, bytes, digest: None });
        }
    }

    /// Sends the piece that has been filled.
    fn piece(&mut self) -> Packed<()> {
        if self.parts.is_empty() {
            return Ok(());
        }
        let packed = match &mut self.zstd {
            Some(zstd) => {
                let packed =
                    zstd.compress(&self.raw).map_err(|error| Trouble::Package(format!("zstd failed: {error}")))?;
                (packed.len() < self.raw.len()).then_some(packed)
            }
            None => None,
        };
        let (zstd, bytes) = (packed.is_some(), packed.as_ref().unwrap_or(&self.raw));
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let parts = std::mem::take(&mut self.parts);
        self.say(&Request::Piece(Piece { packed: length, zstd, parts, base: Vec::new() }))?;
        for data in bytes.chunks(MOST_DATA) {
            let mut frame = Vec::with_capacity(HEADER + data.len() + 8);
            append(&mut frame, self.lane, &Request::Data(data)).map_err(|error| Trouble::Package(error.to_string()))?;
            self.frames.blocking_send(frame).map_err(|_| Trouble::HungUp)?;
        }
        self.raw.clear();
        Ok(())
    }
}

fn digest_of(file: &mut File) -> io::Result<[u8; 32]> {
    let (mut digest, mut buffer) = (Sha256::new(), vec![0; 256 << 10]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(digest.finalize().into()),
            Ok(read) => digest.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn check_unchanged(file: &File, before: &std::fs::Metadata) -> Result<(), ()> {
    match file.metadata() {
        Ok(after) if same_version(before, &after) => Ok(()),
        Ok(_) | Err(_) => Err(()),
    }
}

/// The nine bits that a package keeps.
fn permissions(mode: u32) -> u16 {
    (mode & 0o777) as u16
}

fn path_of(kind: &Kind) -> &[u8] {
    match kind {
        Kind::Link { to } => to,
        Kind::Directory { .. } | Kind::File { .. } => &[],
    }
}
