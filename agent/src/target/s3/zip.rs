//! A package as a ZIP, made as a stream: the same package gives the same bytes, whenever and wherever it is packed.
//!
//! Entries stand in the order of their paths, bytewise, and carry nothing but what the package itself has: path, mode, time and bytes.
//! Nothing seeks and nothing is held whole, so lengths and checksums follow each file's bytes and stand in the directory at the end.

mod sink;
mod stamp;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use blat_domain::text::printable;
use flate2::Compression;
use flate2::write::DeflateEncoder;
use walkdir::{DirEntry, WalkDir};
use zip::write::StreamWriter;
use zip::{CompressionMethod, ZipWriter};

use crate::progress::Progress;
use crate::source::DESCPKG;
use crate::source::pack::{open, same_version};
use sink::{Sink, Valve};

/// One read of a file.
const READ: usize = 128 << 10;
/// So much of a file's beginning is compressed to see whether that is worth while.
const SAMPLE: usize = 4 << 10;
/// A fast link waits for the packing, a slow one for the bytes: of the levels that do not hold up the first, the one that saves most.
const LEVEL: u32 = 3;
/// From this length on, what comes out might need more than 32 bits: incompressible bytes grow a little.
const LARGE: u64 = 0xf000_0000;

/// What a ZIP came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Zipped {
    /// SHA-256 of all its bytes.
    pub(crate) digest: [u8; 32],
    /// Its length in bytes.
    pub(crate) bytes: u64,
    /// Regular files in it.
    pub(crate) files: u64,
}

/// Why there is no ZIP. Whatever was written until then is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ZipError {
    /// The package cannot be read, or holds what a ZIP cannot: no other package is concerned.
    #[error("{0}")]
    Package(String),
    /// The stream was not taken to its end; whoever takes it knows why.
    #[error("cannot write the ZIP: {0}")]
    Stream(#[from] io::Error),
}

impl From<zip::result::ZipError> for ZipError {
    fn from(error: zip::result::ZipError) -> Self {
        Self::Stream(error.into())
    }
}

/// Writes the package at `root` to `out` as a ZIP of paths relative to `root`. Blocks. Memory grows with the number of entries, never
/// with their lengths. `progress` hears of the bytes that were read.
///
/// # Errors
/// The package's or the stream's. Only when this returns well, `out` got a whole ZIP.
pub(crate) fn zip(root: &Path, progress: &Progress, out: impl Write) -> Result<Zipped, ZipError> {
    let valve = Valve::default();
    let zip = ZipWriter::new_stream(Sink::new(out, valve.clone()));
    let sampler = DeflateEncoder::new(Vec::new(), Compression::fast());
    let mut packing = Packing { zip, valve: valve.clone(), progress, buffer: vec![0; READ], sampler };
    let packed = packing.package(root);
    if packed.is_err() {
        valve.shut();
    }
    let files = packed?;
    let sink = packing.zip.finish()?.into_inner();
    valve.check()?;
    let (digest, bytes) = sink.finish()?;
    Ok(Zipped { digest, bytes, files })
}

struct Packing<'a, W: Write> {
    zip: ZipWriter<StreamWriter<Sink<W>>>,
    valve: Valve,
    progress: &'a Progress,
    buffer: Vec<u8>,
    /// One for all files: making one costs more than a sample.
    sampler: DeflateEncoder<Vec<u8>>,
}

impl<W: Write> Packing<'_, W> {
    /// All of a package; gives the number of its files.
    fn package(&mut self, root: &Path) -> Result<u64, ZipError> {
        let (mut files, mut described) = (0, false);
        for entry in WalkDir::new(root).min_depth(1).sort_by(by_path) {
            let entry = entry.map_err(|error| unreadable(root, &error))?;
            let path = entry.path();
            let name = text(path, path.strip_prefix(root).unwrap_or(path).as_os_str().as_bytes())?;
            let kind = entry.file_type();
            if kind.is_dir() {
                self.directory(&entry, name)?;
            } else if kind.is_symlink() {
                self.link(&entry, name)?;
            } else {
                self.file(path, name)?;
                files += 1;
                described |= entry.depth() == 1 && entry.file_name() == DESCPKG;
            }
            self.valve.check()?;
        }
        if described { Ok(files) } else { Err(ZipError::Package("its descpkg vanished from the source".into())) }
    }

    fn directory(&mut self, entry: &DirEntry, name: &str) -> Result<(), ZipError> {
        let metadata = entry.metadata().map_err(|error| unreadable(entry.path(), &error))?;
        let options = stamp::stamped(&metadata)?.unix_permissions(metadata.mode());
        Ok(self.zip.add_directory(format!("{name}/"), options)?)
    }

    fn link(&mut self, entry: &DirEntry, name: &str) -> Result<(), ZipError> {
        let metadata = entry.metadata().map_err(|error| unreadable(entry.path(), &error))?;
        let to = std::fs::read_link(entry.path()).map_err(|error| unreadable(entry.path(), &error))?;
        let to = text(entry.path(), to.as_os_str().as_bytes())?;
        let options = stamp::stamped(&metadata)?.unix_permissions(0o777);
        Ok(self.zip.add_symlink(name, to, options)?)
    }

    fn file(&mut self, path: &Path, name: &str) -> Result<(), ZipError> {
        let (mut file, metadata) = open(path).map_err(|error| unreadable(path, &error))?;
        if !metadata.is_file() {
            let why =
                format!("{} is neither file, directory nor symbolic link; remove it from the package", shown(path));
            return Err(ZipError::Package(why));
        }
        let mut filled = self.fill(&mut file, path, metadata.len())?;
        let options = stamp::stamped(&metadata)?.unix_permissions(metadata.mode()).large_file(metadata.len() >= LARGE);
        let options = if self.shrinks(filled.min(SAMPLE))? {
            options.compression_method(CompressionMethod::Deflated).compression_level(Some(LEVEL.into()))
        } else {
            options.compression_method(CompressionMethod::Stored)
        };
        self.zip.start_file(name, options)?;
        let mut left = metadata.len();
        while filled > 0 {
            self.zip.write_all(&self.buffer[..filled])?;
            self.valve.check()?;
            self.progress.advance(filled as u64);
            left -= filled as u64;
            filled = self.fill(&mut file, path, left)?;
        }
        unchanged(&file, path, &metadata)
    }

    /// Whether compressing takes at least a sixteenth off a file that begins like the buffer. What a name ends in does not matter.
    fn shrinks(&mut self, sample: usize) -> io::Result<bool> {
        self.sampler.write_all(&self.buffer[..sample])?;
        let compressed = self.sampler.reset(Vec::with_capacity(sample))?;
        Ok(compressed.len() < sample - sample / 16)
    }

    /// As much of what is `left` as the buffer takes; 0 when nothing is left.
    fn fill(&mut self, file: &mut File, path: &Path, left: u64) -> Result<usize, ZipError> {
        let wanted = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match file.read_exact(&mut self.buffer[..wanted]) {
            Ok(()) => Ok(wanted),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(changed(path)),
            Err(error) => Err(unreadable(path, &error)),
        }
    }
}

/// The order of whole paths, bytewise; a directory's ends in a slash.
fn by_path(one: &DirEntry, other: &DirEntry) -> Ordering {
    last_part(one).cmp(last_part(other))
}

fn last_part(entry: &DirEntry) -> impl Iterator<Item = &u8> {
    let slash: &[u8] = if entry.file_type().is_dir() { b"/" } else { b"" };
    entry.file_name().as_bytes().iter().chain(slash)
}

fn unchanged(file: &File, path: &Path, before: &Metadata) -> Result<(), ZipError> {
    match file.metadata() {
        Ok(after) if same_version(before, &after) => Ok(()),
        Ok(_) => Err(changed(path)),
        Err(error) => Err(unreadable(path, &error)),
    }
}

/// ZIPs say names in UTF-8, and readers make other names of anything else.
fn text<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str, ZipError> {
    std::str::from_utf8(bytes).map_err(|_| {
        let shown = shown(path);
        ZipError::Package(format!(
            "{shown} or what it links to is not named in UTF-8, which a ZIP cannot keep; rename it"
        ))
    })
}

fn changed(path: &Path) -> ZipError {
    ZipError::Package(format!("{} changed while it was packed", shown(path)))
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> ZipError {
    ZipError::Package(format!("cannot read {} at the source: {error}", shown(path)))
}

fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy()).to_string()
}
