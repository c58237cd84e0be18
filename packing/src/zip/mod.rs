//! A package as a ZIP, made as a stream: the same package gives the same bytes, whenever and wherever it is packed.
//!
//! Entries stand in the order of their paths, bytewise, and carry nothing but what the package itself has: path, mode, time and bytes.
//! Nothing seeks and nothing is held whole, so lengths and checksums follow each file's bytes and stand in the directory at the end.

mod sink;
mod stamp;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use blat_domain::policy::capacity::{MOST_IN_OBJECT, too_large};
use flate2::Compression;
use flate2::write::DeflateEncoder;

use sink::Sink;
use stamp::ZipTime;
use writer::{Writer, ZipHeader, ZipKind};

use crate::progress::Progress;
use crate::spool::{Spool, SpoolError};
use crate::walker::{FileType, Node, Root, SourceError, WalkOrder};

/// One read of a file.
const READ: usize = 128 << 10;
/// So much of a file's beginning is compressed to see whether that is worth while.
const SAMPLE: usize = 4 << 10;
/// From this length on, what comes out might need more than 32 bits: incompressible bytes grow a little.
const LARGE: u64 = 0xf000_0000;

/// What a ZIP came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zipped {
    /// SHA-256 of all its bytes.
    pub digest: [u8; 32],
    /// Its length in bytes.
    pub bytes: u64,
    /// Regular files in it.
    pub files: u64,
}

/// Why there is no ZIP. Whatever was written until then is none.
#[derive(Debug, thiserror::Error)]
pub enum ZipError {
    /// The package cannot be read, or holds what a ZIP cannot: no other package is concerned.
    #[error("{0}")]
    Package(String),
    /// The stream was not taken to its end; whoever takes it knows why.
    #[error("cannot write the ZIP: {0}")]
    Stream(#[from] io::Error),
}

impl From<SourceError> for ZipError {
    fn from(error: SourceError) -> Self {
        Self::Package(error.to_string())
    }
}

impl From<SpoolError> for ZipError {
    fn from(error: SpoolError) -> Self {
        Self::Package(error.to_string())
    }
}

/// Writes the package `root` to `out` as a ZIP of paths relative to `root`. Blocks. What does not fit into memory meanwhile is kept below `place`.
/// `progress` hears of the bytes that were read.
///
/// # Errors
/// The package's or the stream's. Only when this returns well, `out` got a whole ZIP.
pub fn zip(root: &Root, progress: &Progress, place: &Path, out: impl Write) -> Result<Zipped, ZipError> {
    let zip = Writer::new(Sink::new(out), Spool::new(place));
    let sampler = DeflateEncoder::new(Vec::new(), Compression::fast());
    let mut packing = Packing { zip, progress, buffer: vec![0; READ], sampler, left: MOST_IN_OBJECT };
    let files = packing.package(root)?;
    let (digest, bytes) = packing.zip.finish()?;
    Ok(Zipped { digest, bytes, files })
}

struct Packing<'a, W: Write> {
    zip: Writer<W>,
    progress: &'a Progress,
    buffer: Vec<u8>,
    /// One for all files: making one costs more than a sample.
    sampler: DeflateEncoder<Vec<u8>>,
    /// How many bytes its files may still have. A file with a hole says any number, which takes hours to read.
    left: u64,
}

impl<W: Write> Packing<'_, W> {
    /// All of a package; gives the number of its files.
    fn package(&mut self, root: &Root) -> Result<u64, ZipError> {
        let (mut files, mut described) = (0, false);
        for node in root.walk(WalkOrder::Path).skip_while(|node| node.as_ref().is_ok_and(|node| node.path.is_empty())) {
            let node = node?;
            let (name, stamp) = (text(root, &node, &node.path)?, ZipTime::of(&node.stat));
            match node.stat.kind() {
                FileType::Directory => {
                    let permissions = node.stat.permissions();
                    let entry = self.zip.begin(ZipHeader { name, kind: ZipKind::Directory, permissions, stamp })?;
                    self.zip.end(entry)?;
                }
                FileType::Symlink => {
                    let to = root.link(&node)?;
                    let mut entry =
                        self.zip.begin(ZipHeader { name, kind: ZipKind::Link, permissions: 0o777, stamp })?;
                    self.zip.add(&mut entry, text(root, &node, &to)?.as_bytes())?;
                    self.zip.end(entry)?;
                }
                FileType::RegularFile
                | FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Unknown => {
                    self.file(root, &node, name)?;
                    files += 1;
                    described |= node.is_descpkg();
                }
            }
        }
        if described { Ok(files) } else { Err(ZipError::Package("its descpkg vanished from the source".into())) }
    }

    fn file(&mut self, root: &Root, node: &Node, name: &str) -> Result<(), ZipError> {
        let (mut file, mut left) = (root.file(node)?, node.stat.size);
        let most = || ZipError::Package(too_large(MOST_IN_OBJECT));
        self.left = self.left.checked_sub(left).ok_or_else(most)?;
        let mut filled = self.fill(&mut file, root, node, left)?;
        let (deflated, large) = (self.shrinks(filled.min(SAMPLE))?, left >= LARGE);
        let (kind, permissions) = (ZipKind::File { deflated, large }, node.stat.permissions());
        let mut entry = self.zip.begin(ZipHeader { name, kind, permissions, stamp: ZipTime::of(&node.stat) })?;
        while filled > 0 {
            self.zip.add(&mut entry, &self.buffer[..filled])?;
            self.progress.advance(filled as u64);
            left -= filled as u64;
            filled = self.fill(&mut file, root, node, left)?;
        }
        self.zip.end(entry)?;
        Ok(root.check_unchanged(node, &file)?)
    }

    /// Whether compressing takes at least a sixteenth off a file that begins like the buffer. What a name ends in does not matter.
    fn shrinks(&mut self, sample: usize) -> io::Result<bool> {
        self.sampler.write_all(&self.buffer[..sample])?;
        let compressed = self.sampler.reset(Vec::with_capacity(sample))?;
        Ok(compressed.len() < sample - sample / 16)
    }

    /// As much of what is `left` as the buffer takes; 0 when nothing is left.
    fn fill(&mut self, file: &mut File, root: &Root, node: &Node, left: u64) -> Result<usize, ZipError> {
        let wanted = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match file.read_exact(&mut self.buffer[..wanted]) {
            Ok(()) => Ok(wanted),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(root.changed(&node.path).into()),
            Err(error) => Err(root.unreadable(&node.path, error).into()),
        }
    }
}

/// ZIPs say names in UTF-8, and readers make other names of anything else.
fn text<'a>(root: &Root, node: &Node, bytes: &'a [u8]) -> Result<&'a str, ZipError> {
    std::str::from_utf8(bytes).map_err(|_| {
        let shown = root.shown(&node.path);
        ZipError::Package(format!(
            "{shown} or what it links to is not named in UTF-8, which a ZIP cannot keep; rename it"
        ))
    })
}
