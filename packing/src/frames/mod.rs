//! Packages as the frames that a receiver takes: entries first, then their bytes in pieces of bounded size.
//!
//! Everything is read once, hashed on the way, and held for no longer than its piece. What the target verifies is what was read here.

mod entry_tracker;
mod outlet;
mod sharing;

use std::fs::File;
use std::io::{self, Read, Write};

use blat_domain::package::manifest::line as manifest_line;
use blat_domain::protocol::frames::{Base, Entry, Kind, LONGEST_BODY, MOST_DATA, Part, Piece, Request, Time};
use sha2::{Digest, Sha256};
use zstd::stream::raw::CParameter;

pub use self::entry_tracker::permissions;
use self::entry_tracker::{EntryTracker, PendingFile, path_of};
pub use self::outlet::{FrameSink, Offer, Outlet};
use super::walker::{FileType, Node, SourceError, WalkOrder};
use crate::cache::PackCache;
use crate::delta_base::DeltaBase;
use crate::item::TransferItem;
use crate::progress::Progress;
use crate::tar::GivenUp;

/// A piece is closed at this many bytes: a cut link costs little, and packing, link and target work side by side.
const PIECE: usize = 4 << 20;
/// Or at this many where it refers to a held file: the prefix costs the more, the shorter the pieces.
const REFERRING_PIECE: usize = 8 << 20;
/// The level for a slow link, and for what another target may take from the pack cache: that is packed once, whatever the links.
const REFERRING_LEVEL: i32 = 3;
/// The level for a piece that refers to held files and that somebody waits for: takes as long again, and a fifth off text.
const THOROUGH_LEVEL: i32 = 9;
/// The longest window of such a piece, as a power of two: with a longer one, packing would take longer than what it spares the link.
const THOROUGH_WINDOW: u32 = 23;
/// The longest tables of an encoder, as powers of two: they reach over most of a prefix, and take 16 MiB.
const TABLE: u32 = 21;
/// A file below this size costs less than telling what it refers to.
const WORTH_REFERRING: u64 = 512;
/// Entries are told when so many of them have gathered, whatever the bytes of their files.
const ENTRIES: usize = 512;
/// Or when telling them takes so much of a frame.
const TOLD: usize = LONGEST_BODY / 2;
/// The level at which zstd keeps up with a fast link on one core.
const ZSTD_LEVEL: i32 = 1;

/// How pieces are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    Plain,
    /// By zstd, where that makes them smaller.
    Zstd,
    /// By zstd, with the files of a version that the target holds as prefix: costs time here and saves it on the link.
    Referring,
}

/// One try at sending a package.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The number that answers bear.
    pub number: u32,
    /// The package.
    pub item: TransferItem,
    /// Whether an interrupted try may have left files at the target.
    pub ask: bool,
    /// A version that the target holds, which may be made use of.
    pub delta_base: Option<DeltaBase>,
}

/// Files that an interrupted try left: by entry, with the digest of what is there.
#[derive(Debug)]
pub struct PartialFiles {
    /// The number of the attempt.
    pub number: u32,
    /// Which files.
    pub files: Vec<(u32, [u8; 32])>,
}

/// Packs one attempt after the other, and gives back those whose package could not be read. What was packed for another target is taken from
/// the pack cache. Ends early when nobody takes the frames any more.
pub fn pack(
    attempts: Vec<Attempt>,
    codec: Codec,
    outlet: Outlet<'_>,
    cache: &PackCache,
    progress: &Progress,
    held: &std::sync::mpsc::Receiver<PartialFiles>,
) -> GivenUp {
    let mut given_up = GivenUp::new();
    let mut packer = match Packer::new(codec, outlet, cache) {
        Ok(packer) => packer,
        Err(error) => {
            let why = format!("zstd cannot be set up: {error}");
            return attempts.into_iter().map(|attempt| (attempt.item.package, why.clone())).collect();
        }
    };
    for attempt in attempts {
        if let Some(why) = attempt.item.superseded() {
            given_up.push((attempt.item.package, why));
            continue;
        }
        progress.begin(&attempt.item.package, attempt.item.size);
        match packer.package(&attempt, progress, held) {
            Ok(()) => {}
            Err(PackAborted::Package(why)) => {
                given_up.push((attempt.item.package, why));
                if packer.say(&Request::Forget).is_err() {
                    break;
                }
            }
            // Whoever drives the lane knows why, and says so. A package that was begun is ended all the same.
            Err(PackAborted::InVain) => {
                let _ = packer.say(&Request::Forget);
                break;
            }
            Err(PackAborted::HungUp) => break,
        }
    }
    given_up
}

/// Why packing a package came to an end.
enum PackAborted {
    /// It cannot be sent, and why.
    Package(String),
    /// The target has said that it will take none of it.
    InVain,
    /// Nobody takes the frames any more.
    HungUp,
}

type Packed<T> = Result<T, PackAborted>;

impl From<SourceError> for PackAborted {
    fn from(error: SourceError) -> Self {
        Self::Package(error.to_string())
    }
}

struct Packer<'a> {
    outlet: Outlet<'a>,
    cache: &'a PackCache,
    codec: Codec,
    zstd: zstd::bulk::Compressor<'static>,
    /// The bytes of the piece that is being filled.
    raw: Vec<u8>,
    parts: Vec<Part>,
    /// What it refers to.
    prefix: Vec<u8>,
    base: Vec<Base>,
}

impl<'a> Packer<'a> {
    fn new(codec: Codec, outlet: Outlet<'a>, cache: &'a PackCache) -> io::Result<Self> {
        let zstd = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
        let (raw, prefix) = (Vec::new(), Vec::new());
        Ok(Self { outlet, cache, codec, zstd, raw, parts: Vec::new(), prefix, base: Vec::new() })
    }

    fn say(&mut self, request: &Request<'_>) -> Packed<()> {
        self.outlet.say(request)
    }

    /// Packs a package, from its root to its end.
    fn make(&mut self, mut tracker: EntryTracker<'_>) -> Packed<()> {
        self.begin_piece();
        let TransferItem { size, .. } = &tracker.attempt.item;
        let is_hard = self.codec == Codec::Referring || self.cache.takes(size.bytes);
        let level = if is_hard { REFERRING_LEVEL } else { ZSTD_LEVEL };
        let zstd_trouble = |error: io::Error| PackAborted::Package(format!("zstd cannot be set up: {error}"));
        self.zstd.set_compression_level(level).map_err(zstd_trouble)?;
        let mut descpkg = None;
        for node in tracker.root.walk(WalkOrder::Name) {
            let node = node?;
            if node.is_descpkg() {
                descpkg = Some(node);
            } else {
                self.entry(&mut tracker, node)?;
            }
        }
        let descpkg = descpkg.ok_or_else(|| PackAborted::Package("its descpkg vanished from the source".into()))?;
        self.entry(&mut tracker, descpkg)?;
        self.tell(&mut tracker)?;
        self.say(&Request::Whole { entries: tracker.count.into(), manifest: tracker.lines.finalize().into() })
    }

    fn entry(&mut self, tracker: &mut EntryTracker<'_>, node: Node) -> Packed<()> {
        let kind = match node.stat.kind() {
            FileType::Directory => Kind::Directory { mode: permissions(&node.stat) },
            FileType::Symlink => Kind::Link { to: tracker.root.link(&node)? },
            FileType::RegularFile => tracker.file(&node)?,
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => return Err(SourceError::Odd(tracker.root.shown(&node.path)).into()),
        };
        let (seconds, nanoseconds) = node.stat.modified;
        let (time, below) = (Time { seconds, nanoseconds }, node.path);
        tracker.told_bytes += below.len() + path_of(&kind).len() + 64;
        tracker.entries.push(Entry { path: below, kind, time });
        tracker.count += 1;
        let is_enough =
            tracker.waiting_bytes >= PIECE as u64 || tracker.entries.len() >= ENTRIES || tracker.told_bytes >= TOLD;
        if is_enough { self.tell(tracker) } else { Ok(()) }
    }

    /// Tells of the entries that have gathered, then sends the bytes of the files among them.
    fn tell(&mut self, tracker: &mut EntryTracker<'_>) -> Packed<()> {
        if tracker.entries.is_empty() {
            return Ok(());
        }
        let entries = std::mem::take(&mut tracker.entries);
        let first = tracker.count - entries.len() as u32;
        self.say(&Request::Entries { entries: entries.clone() })?;
        (tracker.waiting_bytes, tracker.told_bytes) = (0, 0);
        let held = if tracker.attempt.ask { self.hear_held(tracker)? } else { Vec::new() };
        for file in std::mem::take(&mut tracker.files) {
            let there = held.iter().find(|(entry, _)| *entry == file.number).map(|(_, there)| there);
            let digest = match (file.copied, there) {
                _ if file.is_again => tracker.names.digest(tracker.root, &file.node)?,
                (Some(digest), _) => digest,
                (None, Some(there)) => self.held_file(tracker, &file, there)?,
                (None, None) => self.file(tracker, &file)?,
            };
            tracker.names.keep(&file.node, &digest);
            let below = &entries[(file.number - first) as usize].path;
            tracker.lines.update(manifest_line(&digest, below));
        }
        self.piece()
    }

    fn hear_held(&self, tracker: &EntryTracker<'_>) -> Packed<Vec<(u32, [u8; 32])>> {
        let held = tracker.held.recv().map_err(|_| PackAborted::HungUp)?;
        if held.number == tracker.attempt.number {
            return Ok(held.files);
        }
        Err(PackAborted::Package("protocol error: the target tells what it holds of another package".into()))
    }

    /// A file of which the target has something: sent only if it is not the same.
    fn held_file(&mut self, tracker: &EntryTracker<'_>, file: &PendingFile, there: &[u8; 32]) -> Packed<[u8; 32]> {
        let mut opened = tracker.root.file(&file.node)?;
        let digest = digest_of(&mut opened).map_err(|error| tracker.root.unreadable(&file.node.path, error))?;
        tracker.root.check_unchanged(&file.node, &opened)?;
        if digest == *there {
            tracker.progress.advance(file.node.stat.size);
            return Ok(digest);
        }
        self.file(tracker, file)
    }

    /// Puts a file's bytes into pieces.
    fn file(&mut self, tracker: &EntryTracker<'_>, waiting: &PendingFile) -> Packed<[u8; 32]> {
        let PendingFile { number, node, base_file, .. } = waiting;
        let (size, mut file) = (&node.stat.size, tracker.root.file(node)?);
        let base_file = base_file.as_ref().filter(|_| self.codec == Codec::Referring && *size >= WORTH_REFERRING);
        let most = if base_file.is_some() { REFERRING_PIECE } else { PIECE };
        let (mut digest, mut left) = (Sha256::new(), *size);
        loop {
            if self.raw.len() >= most {
                self.piece()?;
            }
            let start = self.raw.len();
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(most - start);
            if let Some(base_file) = base_file {
                let base = base_file.prefix((*size - left, take as u64, *size), &mut self.prefix);
                // What cannot be read is not referred to.
                self.base.extend(base.unwrap_or_default());
            }
            self.raw.resize(start + take, 0);
            file.read_exact(&mut self.raw[start..]).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => tracker.root.changed(&node.path),
                _ => tracker.root.unreadable(&node.path, error),
            })?;
            digest.update(&self.raw[start..]);
            tracker.progress.advance(take as u64);
            left -= take as u64;
            self.parts.push(Part { entry: *number, bytes: u32::try_from(take).unwrap_or(u32::MAX) });
            if left == 0 {
                tracker.root.check_unchanged(node, &file)?;
                return Ok(digest.finalize().into());
            }
        }
    }

    fn begin_piece(&mut self) {
        self.raw.clear();
        self.parts.clear();
        self.prefix.clear();
        self.base.clear();
    }

    /// Sends the piece that has been filled.
    fn piece(&mut self) -> Packed<()> {
        self.outlet.check_use()?;
        if self.parts.is_empty() {
            return Ok(());
        }
        let packed = self.packed().map_err(|error| PackAborted::Package(format!("packing it failed: {error}")))?;
        let packed = packed.filter(|packed| packed.len() < self.raw.len());
        let (zstd, bytes) = (packed.is_some(), packed.as_ref().unwrap_or(&self.raw));
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let base = if zstd { std::mem::take(&mut self.base) } else { Vec::new() };
        let parts = std::mem::take(&mut self.parts);
        self.outlet.say(&Request::Piece(Piece { packed: length, zstd, parts, base }))?;
        for data in bytes.chunks(MOST_DATA) {
            self.outlet.say(&Request::Data(data))?;
        }
        self.begin_piece();
        Ok(())
    }

    /// The piece's bytes, smaller; none where they are to go as they are.
    fn packed(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self.codec {
            Codec::Plain => Ok(None),
            Codec::Zstd => self.zstd.compress(&self.raw).map(Some),
            Codec::Referring if self.base.is_empty() => self.zstd.compress(&self.raw).map(Some),
            Codec::Referring => self.referring().map(Some),
        }
    }

    /// The piece's bytes, packed with the prefix.
    fn referring(&self) -> io::Result<Vec<u8>> {
        let window = window_log(self.prefix.len() + self.raw.len());
        let is_worth_it = self.outlet.is_awaited() && window <= THOROUGH_WINDOW;
        let level = if is_worth_it { THOROUGH_LEVEL } else { REFERRING_LEVEL };
        let mut encoder = zstd::Encoder::with_ref_prefix(Vec::new(), level, &self.prefix)?;
        // A level's own tables soon forget the prefix. Long distance matching would find it again, but prefers what is long to what fits best.
        encoder.window_log(window)?;
        encoder.set_parameter(CParameter::HashLog(window.min(TABLE)))?;
        encoder.set_parameter(CParameter::ChainLog(window.min(TABLE)))?;
        encoder.set_pledged_src_size(Some(self.raw.len() as u64))?;
        encoder.write_all(&self.raw)?;
        encoder.finish()
    }
}

/// The logarithm of the window that reaches over so many bytes.
fn window_log(bytes: usize) -> u32 {
    (usize::BITS - bytes.saturating_sub(1).leading_zeros()).clamp(10, 26)
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

#[cfg(test)]
mod tests;
