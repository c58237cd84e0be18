//! The form of a ZIP, written as a stream: a header before each entry, its checksum and lengths behind its bytes, and at the end a directory of all
//! entries.
//!
//! That directory is kept in a [`Spool`]: memory does not grow with the number of entries. Numbers that do not fit into the old fields stand in
//! those of ZIP64. Byte for byte it is what the `zip` library writes, by which earlier versions filled buckets.

use std::io::{self, Read as _, Write};

use flate2::Compression;
use flate2::write::DeflateEncoder;

use super::ZipError;
use super::sink::Sink;
use super::stamp::ZipTime;
use crate::spool::Spool;

/// A fast link waits for the packing, a slow one for the bytes: of the levels that do not hold up the first, the one that saves most.
const LEVEL: u32 = 3;
/// In the place of a number that stands in a field of ZIP64.
const ELSEWHERE: u32 = u32::MAX;
/// Names are UTF-8.
const UTF8: u16 = 1 << 11;
/// Checksum and lengths come behind the bytes.
const BEHIND: u16 = 1 << 3;
/// Modes are those of Unix.
const UNIX: u16 = 3 << 8;
/// The extra field of ZIP64.
const ZIP64: u16 = 1;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ZipKind {
    Directory,
    Link,
    File {
        /// Whether its bytes are compressed.
        deflated: bool,
        /// Whether its lengths may not fit into 32 bits.
        large: bool,
    },
}

/// An entry, before its bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct ZipHeader<'a> {
    /// Its path, without a slash at its end.
    pub(super) name: &'a str,
    pub(super) kind: ZipKind,
    /// The nine bits of its mode.
    pub(super) permissions: u32,
    pub(super) stamp: ZipTime,
}

/// An entry whose bytes are being written.
#[derive(Debug)]
pub(super) struct ZipEntry<'a> {
    head: ZipHeader<'a>,
    offset: u64,
    checksum: crc32fast::Hasher,
    bytes: u64,
    /// How many bytes came of these.
    written: u64,
}

/// A ZIP that grows.
pub(super) struct Writer<W: Write> {
    out: Sink<W>,
    directory: Spool,
    entries: u64,
    /// What a reader must know, as the version of a program that did first.
    version: u16,
    /// One for all entries: making one takes long.
    deflate: DeflateEncoder<Vec<u8>>,
}

/// Numbers as they follow each other.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn two(mut self, numbers: &[u16]) -> Self {
        self.0.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        self
    }

    fn four(mut self, numbers: &[u32]) -> Self {
        self.0.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        self
    }

    fn eight(mut self, numbers: &[u64]) -> Self {
        self.0.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

impl ZipHeader<'_> {
    fn is_large(&self) -> bool {
        matches!(self.kind, ZipKind::File { large: true, .. })
    }

    fn mode(&self) -> u32 {
        let kind = match self.kind {
            ZipKind::Directory => 0o040_000,
            ZipKind::Link => 0o120_000,
            ZipKind::File { .. } => 0o100_000,
        };
        kind | self.permissions
    }

    fn version(&self) -> u16 {
        match self.kind {
            ZipKind::File { large: true, .. } => 45,
            ZipKind::Directory | ZipKind::File { deflated: true, .. } => 20,
            ZipKind::Link | ZipKind::File { .. } => 10,
        }
    }

    /// What both headers say of it first.
    fn begin(&self, magic: u32, made_by: &[u16]) -> Fields {
        let utf8 = if self.name.is_ascii() { 0 } else { UTF8 };
        let behind = if self.kind == ZipKind::Directory { 0 } else { BEHIND };
        let method = if matches!(self.kind, ZipKind::File { deflated: true, .. }) { 8 } else { 0 };
        let ZipTime { time, date, .. } = self.stamp;
        Fields::default().four(&[magic]).two(made_by).two(&[self.version(), utf8 | behind, method, time, date])
    }

    /// Its path as both headers have it.
    fn name(&self) -> Vec<u8> {
        let slash: &[u8] = if self.kind == ZipKind::Directory { b"/" } else { b"" };
        [self.name.as_bytes(), slash].concat()
    }

    /// Extra fields: these of ZIP64, then its time.
    fn extra(&self, zip64: &[u64]) -> Vec<u8> {
        let long = if zip64.is_empty() {
            Fields::default()
        } else {
            Fields::default().two(&[ZIP64, short(zip64.len() * 8)]).eight(zip64)
        };
        long.bytes(&self.stamp.extra()).0
    }
}

/// Paths have 4,095 bytes at most, and extra fields a few.
fn short(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

fn or_elsewhere(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(ELSEWHERE)
}

impl<W: Write> Writer<W> {
    /// An empty ZIP on its way to `out`.
    pub(super) fn new(out: Sink<W>, directory: Spool) -> Self {
        let deflate = DeflateEncoder::new(Vec::new(), Compression::new(LEVEL));
        Self { out, directory, entries: 0, version: 10, deflate }
    }

    /// Begins an entry.
    pub(super) fn begin<'a>(&mut self, head: ZipHeader<'a>) -> io::Result<ZipEntry<'a>> {
        let offset = self.out.written();
        // Its lengths are not known yet.
        let (name, extra) = (head.name(), head.extra(if head.is_large() { &[0, 0] } else { &[] }));
        let header = head.begin(0x0403_4b50, &[]).four(&[0; 3]).two(&[short(name.len()), short(extra.len())]);
        self.out.write_all(&header.bytes(&name).bytes(&extra).0)?;
        Ok(ZipEntry { head, offset, checksum: crc32fast::Hasher::new(), bytes: 0, written: 0 })
    }

    /// Writes some of an entry's bytes.
    pub(super) fn add(&mut self, entry: &mut ZipEntry<'_>, bytes: &[u8]) -> io::Result<()> {
        entry.checksum.update(bytes);
        entry.bytes += bytes.len() as u64;
        if !matches!(entry.head.kind, ZipKind::File { deflated: true, .. }) {
            entry.written += bytes.len() as u64;
            return self.out.write_all(bytes);
        }
        self.deflate.write_all(bytes)?;
        let deflated = self.deflate.get_mut();
        entry.written += deflated.len() as u64;
        self.out.write_all(deflated)?;
        deflated.clear();
        Ok(())
    }

    /// Ends an entry.
    pub(super) fn end(&mut self, mut entry: ZipEntry<'_>) -> Result<(), ZipError> {
        if matches!(entry.head.kind, ZipKind::File { deflated: true, .. }) {
            let rest = self.deflate.reset(Vec::new())?;
            entry.written += rest.len() as u64;
            self.out.write_all(&rest)?;
        }
        let ZipEntry { head, offset, checksum, bytes, written } = entry;
        let (checksum, is_large) = (checksum.finalize(), head.is_large());
        if head.kind != ZipKind::Directory {
            let behind = Fields::default().four(&[0x0807_4b50, checksum]);
            let behind = match is_large {
                true => behind.eight(&[written, bytes]),
                false => behind.four(&[or_elsewhere(written), or_elsewhere(bytes)]),
            };
            self.out.write_all(&behind.0)?;
        }
        let lengths = if is_large { [ELSEWHERE; 2] } else { [written, bytes].map(or_elsewhere) };
        let mut zip64 = if is_large { vec![bytes, written] } else { Vec::new() };
        zip64.extend((offset >= ELSEWHERE.into()).then_some(offset));
        let (name, extra) = (head.name(), head.extra(&zip64));
        let header = head.begin(0x0201_4b50, &[UNIX | head.version()]).four(&[checksum]).four(&lengths);
        let header = header.two(&[short(name.len()), short(extra.len()), 0, 0, 0]);
        let header = header.four(&[head.mode() << 16, or_elsewhere(offset)]).bytes(&name).bytes(&extra);
        self.directory.add(&header.0)?;
        self.entries += 1;
        self.version = self.version.max(head.version());
        Ok(())
    }

    /// Writes the directory. Gives the digest and number of all bytes.
    pub(super) fn finish(mut self) -> Result<([u8; 32], u64), ZipError> {
        let (start, bytes) = (self.out.written(), self.directory.bytes());
        self.copy_directory()?;
        let is_long = self.entries > u16::MAX.into() || bytes.max(start) > ELSEWHERE.into();
        let mut end = Fields::default();
        if is_long {
            end = end.four(&[0x0606_4b50]).eight(&[44]).two(&[self.version; 2]).four(&[0, 0]);
            end = end.eight(&[self.entries, self.entries, bytes, start]);
            end = end.four(&[0x0706_4b50, 0]).eight(&[start + bytes]).four(&[1]);
        }
        let entries = u16::try_from(self.entries).unwrap_or(u16::MAX);
        let length = if is_long { ELSEWHERE } else { or_elsewhere(bytes) };
        end = end.four(&[0x0605_4b50]).two(&[0, 0, entries, entries]).four(&[length, or_elsewhere(start)]).two(&[0]);
        self.out.write_all(&end.0)?;
        Ok(self.out.finish()?)
    }

    fn copy_directory(&mut self) -> Result<(), ZipError> {
        let mut block = vec![0; 64 << 10];
        let mut reader = self.directory.reader()?;
        loop {
            match reader.read(&mut block) {
                Ok(0) => return Ok(()),
                Ok(read) => self.out.write_all(&block[..read])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    drop(reader);
                    return Err(self.directory.error(error).into());
                }
            }
        }
    }
}
