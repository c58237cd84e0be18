//! Packages as the frames that a receiver takes: entries first, then their bytes in pieces of bounded size.
//!
//! Everything is read once, hashed on the way, and held for no longer than its piece. What the target verifies is what was read here.

mod course;
mod outlet;
mod sharing;

use std::fs::File;
use std::io::{self, Read, Write};

use blat_domain::frames::{Base, Entry, Kind, LONGEST_BODY, MOST_DATA, Part, Piece, Request, Time};
use blat_domain::manifest::line as manifest_line;
use sha2::{Digest, Sha256};
use zstd::stream::raw::CParameter;

pub(super) use self::course::permissions;
use self::course::{Course, Waiting, path_of};
pub(crate) use self::outlet::Outlet;
use super::ancestor::Ancestor;
use super::pack::GivenUp;
use super::store::Store;
use super::walker::{FileType, Node, Order, SourceError};
use crate::orders::Orders;
use crate::progress::Progress;
use crate::target::Parcel;

/// A piece is closed at this many bytes: a cut link costs little, and packing, link and target work side by side.
const PIECE: usize = 4 << 20;
/// Or at this many where it refers to a held file: the prefix costs the more, the shorter the pieces.
const REFERRING_PIECE: usize = 8 << 20;
/// The level for a slow link, and for what another target may take from the store: that is packed once, whatever the links.
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
pub(crate) enum Codec {
    /// Not at all.
    Plain,
    /// By zstd, where that makes them smaller.
    Zstd,
    /// By zstd, with the files of a version that the target holds as prefix: costs time here and saves it on the link.
    Referring,
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
    /// A version that the target holds, which may be made use of.
    pub(crate) ancestor: Option<Ancestor>,
}

/// Files that an interrupted try left: by entry, with the digest of what is there.
#[derive(Debug)]
pub(crate) struct Held {
    /// The number of the attempt.
    pub(crate) number: u32,
    /// Which files.
    pub(crate) files: Vec<(u32, [u8; 32])>,
}

/// Packs one attempt after the other, and gives back those whose package could not be read. What was packed for another target is taken from
/// the store. Ends early when nobody takes the frames any more.
pub(crate) fn pack(
    attempts: Vec<Attempt>,
    codec: Codec,
    outlet: Outlet<'_>,
    store: &Store,
    progress: &Progress,
    held: &std::sync::mpsc::Receiver<Held>,
) -> GivenUp {
    let mut given_up = GivenUp::new();
    let mut packer = match Packer::new(codec, outlet, store) {
        Ok(packer) => packer,
        Err(error) => {
            let why = format!("zstd cannot be set up: {error}");
            return attempts.into_iter().map(|attempt| (attempt.parcel.package, why.clone())).collect();
        }
    };
    for attempt in attempts {
        if attempt.parcel.is_superseded() {
            given_up.push((attempt.parcel.package, Orders::problem().text));
            continue;
        }
        progress.begin(&attempt.parcel.package, attempt.parcel.size);
        match packer.package(&attempt, progress, held) {
            Ok(()) => {}
            Err(Trouble::Package(why)) => {
                given_up.push((attempt.parcel.package, why));
                if packer.say(&Request::Forget).is_err() {
                    break;
                }
            }
            // Whoever drives the lane knows why, and says so. A package that was begun is ended all the same.
            Err(Trouble::InVain) => {
                let _ = packer.say(&Request::Forget);
                break;
            }
            Err(Trouble::HungUp) => break,
        }
    }
    given_up
}

/// Why packing a package came to an end.
enum Trouble {
    /// It cannot be sent, and why.
    Package(String),
    /// The target has said that it will take none of it.
    InVain,
    /// Nobody takes the frames any more.
    HungUp,
}

type Packed<T> = Result<T, Trouble>;

impl From<SourceError> for Trouble {
    fn from(error: SourceError) -> Self {
        Self::Package(error.to_string())
    }
}

struct Packer<'a> {
    outlet: Outlet<'a>,
    store: &'a Store,
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
    fn new(codec: Codec, outlet: Outlet<'a>, store: &'a Store) -> io::Result<Self> {
        let zstd = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
        let (raw, prefix) = (Vec::new(), Vec::new());
        Ok(Self { outlet, store, codec, zstd, raw, parts: Vec::new(), prefix, base: Vec::new() })
    }

    fn say(&mut self, request: &Request<'_>) -> Packed<()> {
        self.outlet.say(request)
    }

    /// Packs a package, from its root to its end.
    fn make(&mut self, mut course: Course<'_>) -> Packed<()> {
        self.begin_piece();
        let Parcel { size, .. } = &course.attempt.parcel;
        let is_hard = self.codec == Codec::Referring || self.store.takes(size.bytes);
        let level = if is_hard { REFERRING_LEVEL } else { ZSTD_LEVEL };
        let zstd_trouble = |error: io::Error| Trouble::Package(format!("zstd cannot be set up: {error}"));
        self.zstd.set_compression_level(level).map_err(zstd_trouble)?;
        let mut descpkg = None;
        for node in course.root.walk(Order::Name) {
            let node = node?;
            if node.is_descpkg() {
                descpkg = Some(node);
            } else {
                self.entry(&mut course, node)?;
            }
        }
        let descpkg = descpkg.ok_or_else(|| Trouble::Package("its descpkg vanished from the source".into()))?;
        self.entry(&mut course, descpkg)?;
        self.tell(&mut course)?;
        self.say(&Request::Whole { entries: course.count.into(), manifest: course.lines.finalize().into() })
    }

    fn entry(&mut self, course: &mut Course<'_>, node: Node) -> Packed<()> {
        let kind = match node.stat.kind() {
            FileType::Directory => Kind::Directory { mode: permissions(&node.stat) },
            FileType::Symlink => Kind::Link { to: course.root.link(&node)? },
            FileType::RegularFile => course.file(&node)?,
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => return Err(SourceError::Odd(course.root.shown(&node.path)).into()),
        };
        let (seconds, nanoseconds) = node.stat.modified;
        let (time, below) = (Time { seconds, nanoseconds }, node.path);
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
        for file in std::mem::take(&mut course.files) {
            let there = held.iter().find(|(entry, _)| *entry == file.number).map(|(_, there)| there);
            let digest = match (file.copied, there) {
                _ if file.is_again => course.names.digest(course.root, &file.node)?,
                (Some(digest), _) => digest,
                (None, Some(there)) => self.held_file(course, &file, there)?,
                (None, None) => self.file(course, &file)?,
            };
            course.names.keep(&file.node, &digest);
            let below = &entries[(file.number - first) as usize].path;
            course.lines.update(manifest_line(&digest, below));
        }
        self.piece()
    }

    fn hear_held(&self, course: &Course<'_>) -> Packed<Vec<(u32, [u8; 32])>> {
        let held = course.held.recv().map_err(|_| Trouble::HungUp)?;
        if held.number == course.attempt.number {
            return Ok(held.files);
        }
        Err(Trouble::Package("protocol error: the target tells what it holds of another package".into()))
    }

    /// A file of which the target has something: sent only if it is not the same.
    fn held_file(&mut self, course: &Course<'_>, file: &Waiting, there: &[u8; 32]) -> Packed<[u8; 32]> {
        let mut opened = course.root.file(&file.node)?;
        let digest = digest_of(&mut opened).map_err(|error| course.root.unreadable(&file.node.path, error))?;
        course.root.check_unchanged(&file.node, &opened)?;
        if digest == *there {
            course.progress.advance(file.node.stat.size);
            return Ok(digest);
        }
        self.file(course, file)
    }

    /// Puts a file's bytes into pieces.
    fn file(&mut self, course: &Course<'_>, waiting: &Waiting) -> Packed<[u8; 32]> {
        let Waiting { number, node, relative, .. } = waiting;
        let (size, mut file) = (&node.stat.size, course.root.file(node)?);
        let relative = relative.as_ref().filter(|_| self.codec == Codec::Referring && *size >= WORTH_REFERRING);
        let most = if relative.is_some() { REFERRING_PIECE } else { PIECE };
        let (mut digest, mut left) = (Sha256::new(), *size);
        loop {
            if self.raw.len() >= most {
                self.piece()?;
            }
            let start = self.raw.len();
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(most - start);
            if let Some(relative) = relative {
                let base = relative.prefix((*size - left, take as u64, *size), &mut self.prefix);
                // What cannot be read is not referred to.
                self.base.extend(base.unwrap_or_default());
            }
            self.raw.resize(start + take, 0);
            file.read_exact(&mut self.raw[start..]).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => course.root.changed(&node.path),
                _ => course.root.unreadable(&node.path, error),
            })?;
            digest.update(&self.raw[start..]);
            course.progress.advance(take as u64);
            left -= take as u64;
            self.parts.push(Part { entry: *number, bytes: u32::try_from(take).unwrap_or(u32::MAX) });
            if left == 0 {
                course.root.check_unchanged(node, &file)?;
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
        let packed = self.packed().map_err(|error| Trouble::Package(format!("packing it failed: {error}")))?;
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
