//! An entry: the frames of one package after its `Package`, each followed by a checksum; then a frame of no bytes and the length of it all.
//!
//! Entries are written without waiting for the disk, so a power cut may leave one that is short, or full of zeros: its length and the
//! checksums tell. They are CRC-32, which costs next to nothing: against harm, not against enemies, who could not write here anyway. What
//! is in the files is verified by the target, wherever it came from.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use blat_domain::protocol::frames::{HEADER, Kind, Lane, MOST_PIECE, Request, decode, header};

/// One read of an entry.
const READ: usize = 256 << 10;
/// Bytes of a checksum.
const CHECKSUM: usize = 4;
/// Bytes of an entry's length.
const LENGTH: usize = 8;
/// Bytes that end an entry: a header and the length.
const END: u64 = (HEADER + LENGTH) as u64;
/// The time of the last use is noted no more often than this.
const USED: Duration = Duration::from_secs(60);

/// A whole entry, opened for reading. It can be read to its end even if it is deleted meanwhile.
#[derive(Debug)]
pub(crate) struct CacheEntry {
    reader: BufReader<File>,
    path: PathBuf,
}

/// Frames that belong together: a piece with all its data, or a single frame. What was said up to their end may be broken off.
#[derive(Debug, Default)]
pub(crate) struct Stretch {
    /// The frames.
    pub frames: Vec<Vec<u8>>,
    /// Bytes of files that they bring, unpacked.
    pub bytes: u64,
}

impl CacheEntry {
    /// Opens the entry at `path` if its end is there; none where there is no such entry.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let found = file.metadata()?;
        let mut end = [0; LENGTH];
        let is_whole = found.len() >= END
            && file.read_exact_at(&mut end, found.len() - LENGTH as u64).is_ok()
            && u64::from_le_bytes(end) == found.len();
        if !is_whole {
            return Err(damaged("its end is missing"));
        }
        let now = SystemTime::now();
        if found.modified().is_ok_and(|used| now.duration_since(used).is_ok_and(|ago| ago > USED)) {
            // Where that fails it is deleted sooner than others, which is all.
            let _ = file.set_modified(now);
        }
        Ok(Some(Self { reader: BufReader::with_capacity(READ, file), path: path.to_owned() }))
    }

    /// The next frames, for this lane; none at the end. They are good; an error says what is wrong with the entry.
    pub(crate) fn next(&mut self, lane: Lane) -> io::Result<Option<Stretch>> {
        let Some(first) = read_frame(&mut self.reader, lane)? else { return Ok(None) };
        let mut stretch = Stretch::default();
        let mut data = 0;
        match understand(&first)? {
            Request::Entries { entries } => stretch.bytes = entries.iter().map(|entry| copied(&entry.kind)).sum(),
            Request::Piece(piece) => {
                stretch.bytes = piece.parts.iter().map(|part| u64::from(part.bytes)).sum();
                data = u64::from(piece.packed);
            }
            Request::Whole { .. } => {}
            Request::Hello { .. }
            | Request::Ping { .. }
            | Request::Padding(_)
            | Request::List { .. }
            | Request::Store { .. }
            | Request::Link { .. }
            | Request::Retire { .. }
            | Request::Verify { .. }
            | Request::Begin { .. }
            | Request::Package { .. }
            | Request::Data(_)
            | Request::Forget
            | Request::Publish
            | Request::Own { .. }
            | Request::Claim { .. }
            | Request::Go
            | Request::Sweep { .. } => return Err(damaged("it holds a frame that is out of place")),
        }
        if data > MOST_PIECE {
            return Err(damaged("it holds a piece that is too long"));
        }
        stretch.frames.push(first);
        while data > 0 {
            let frame =
                read_frame(&mut self.reader, lane)?.ok_or_else(|| damaged("it ends in the midst of a piece"))?;
            let Request::Data(bytes) = understand(&frame)? else { return Err(damaged("a piece lacks data")) };
            let left = data.checked_sub(bytes.len() as u64).filter(|_| !bytes.is_empty());
            data = left.ok_or_else(|| damaged("a piece has data of another length"))?;
            stretch.frames.push(frame);
        }
        Ok(Some(stretch))
    }

    /// Deletes it, since it is not as it was written.
    pub(crate) fn discard(self) -> io::Result<()> {
        std::fs::remove_file(self.path)
    }
}

/// Bytes of a file that the target copies.
fn copied(kind: &Kind) -> u64 {
    match kind {
        Kind::File { size, copy: Some(_), .. } => *size,
        Kind::File { copy: None, .. } | Kind::HardLink { .. } | Kind::Directory { .. } | Kind::Link { .. } => 0,
    }
}

fn understand(frame: &[u8]) -> io::Result<Request<'_>> {
    decode(frame.get(HEADER..).unwrap_or_default()).map_err(|error| damaged(&error.to_string()))
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

/// What is written behind a frame.
pub(super) fn checksum(frame: &[u8]) -> [u8; CHECKSUM] {
    crc32fast::hash(frame).to_le_bytes()
}

/// What is written behind the last frame of an entry that is `written` bytes long so far.
pub(super) fn end(written: u64) -> Vec<u8> {
    let mut end = vec![0; HEADER];
    end.extend((written + END).to_le_bytes());
    end
}

/// The next frame, for this lane; none at the end.
pub(super) fn read_frame(from: &mut impl Read, lane: Lane) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; HEADER];
    from.read_exact(&mut head)?;
    let (length, _) = header(head).map_err(|error| damaged(&error.to_string()))?;
    if length == 0 {
        return Ok(None);
    }
    let rest = length + CHECKSUM;
    let mut frame = Vec::with_capacity(HEADER + rest);
    frame.extend(head);
    if from.take(rest as u64).read_to_end(&mut frame)? < rest {
        return Err(damaged("it ends in the midst of a frame"));
    }
    let said = frame.split_off(HEADER + length);
    if said != checksum(&frame) {
        return Err(damaged("a checksum is wrong"));
    }
    // Frames of several lanes differ in nothing else.
    if let Some(place) = frame.get_mut(HEADER - 1) {
        *place = lane.0;
    }
    Ok(Some(frame))
}

/// Bytes that lie behind one frame of this length, and the frame itself, in an entry.
pub(super) fn taken(frame: &[u8]) -> u64 {
    (frame.len() + CHECKSUM) as u64
}

/// A file from some offset on, whatever else is done with its handle.
pub(super) struct At<'a> {
    pub(super) file: &'a File,
    pub(super) offset: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}
