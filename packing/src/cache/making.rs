//! Who makes an entry: one at a time, by a kernel lock on the unfinished file, which no death leaves behind.
//!
//! Nobody waits here for anybody's target. Whoever makes an entry writes it as fast as it can be packed, and its own target gets the frames as
//! fast as it takes them, in the end from the file. So what the others wait for is work that they are spared.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blat_domain::protocol::frames::Lane;
use blat_paths::private;

use super::entry::{At, CacheEntry, checksum, end, read_frame, taken};
use super::{CacheKey, PackCache};

/// Whoever makes an entry and writes nothing for so long is stopped, or reads from something that hangs: it is not waited for. Packing one
/// piece on a busy machine may well take a second.
const STANDS_STILL: Duration = Duration::from_secs(2);
/// How often a lock is asked for again: the longer it was waited for, the less often, so that little is lost either way. There is no way to
/// wait for a lock that also ends when the lane is given up.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_micros(500), Duration::from_millis(20));

/// What is to be done for a package.
#[derive(Debug)]
pub(crate) enum CacheLookup {
    /// Take it from here.
    Ready(CacheEntry),
    /// Make it, and put it there.
    Make(Making),
    /// Make it for yourself alone: the pack cache is of no use now, or the lane is given up.
    Alone,
}

/// An entry that is being made. What is dropped before it is sealed leaves nothing.
#[derive(Debug)]
pub(crate) struct Making {
    file: File,
    part: PathBuf,
    entry: PathBuf,
    /// Bytes in the file.
    written: u64,
    /// Whether it may still become an entry.
    is_open: bool,
}

/// What one look comes to.
enum LookupStep {
    Done(CacheLookup),
    /// Somebody else makes it, in this file.
    Taken(File),
    /// What was seen has just changed.
    Again,
}

impl PackCache {
    /// Waits until the entry is there, or it falls to us to make it. `is_given_up` tells that nobody wants it any more.
    pub(crate) fn look_up(&self, key: &CacheKey, is_given_up: impl Fn() -> bool) -> CacheLookup {
        while !is_given_up() {
            match self.look(key) {
                Ok(LookupStep::Done(lookup)) => return lookup,
                Ok(LookupStep::Taken(by)) if !wait(&by, &is_given_up) => return CacheLookup::Alone,
                Ok(LookupStep::Taken(_) | LookupStep::Again) => {}
                Err(error) => {
                    let directory = self.directory.display();
                    tracing::warn!(%directory, %error, "the store cannot be used; it is done without");
                    return CacheLookup::Alone;
                }
            }
        }
        CacheLookup::Alone
    }

    /// The entry if it is there, or will be as soon as whoever makes it now has finished. It never falls to us to make it.
    pub(crate) fn made(&self, key: &CacheKey, is_given_up: impl Fn() -> bool) -> Option<CacheEntry> {
        let entry = self.directory.join(&key.0);
        // Whatever is wrong with the pack cache is told when our own entry is looked up.
        let open = || CacheEntry::open(&entry).ok().flatten();
        open().or_else(|| {
            wait(&File::open(entry.with_extension("part")).ok()?, is_given_up);
            open()
        })
    }

    fn look(&self, key: &CacheKey) -> io::Result<LookupStep> {
        let entry = self.directory.join(&key.0);
        match CacheEntry::open(&entry) {
            Ok(Some(entry)) => return Ok(LookupStep::Done(CacheLookup::Ready(entry))),
            Ok(None) => {}
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                tracing::warn!(entry = %entry.display(), %error, "a damaged entry of the store is deleted and made anew");
                remove(&entry)?;
            }
            Err(error) => return Err(error),
        }
        let part = entry.with_extension("part");
        let file = self.open(&part)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(LookupStep::Taken(file)),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if !is_at(&file, &part)? {
            return Ok(LookupStep::Again);
        }
        // Whoever made it may have finished between our two looks.
        if entry.try_exists()? {
            remove(&part)?;
            return Ok(LookupStep::Again);
        }
        // What a killed one left.
        file.set_len(0)?;
        Ok(LookupStep::Done(CacheLookup::Make(Making { file, part, entry, written: 0, is_open: true })))
    }

    /// Opens or makes an unfinished entry. The directory may be deleted at any time.
    fn open(&self, part: &Path) -> io::Result<File> {
        let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(part);
        match open() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                private::directory(&self.directory)?;
                open()
            }
            opened => opened,
        }
    }
}

/// Waits until whoever holds the lock on this file lets go of it: false where it stands still, or the lane is given up.
fn wait(by: &File, is_given_up: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    let (mut length, mut grown) = (0, begun);
    while !is_given_up() {
        match by.try_lock() {
            // It is finished, given up or dead, which the next look finds out.
            Ok(()) => return true,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(_)) => return false,
        }
        let now_long = by.metadata().map_or(0, |found| found.len());
        if now_long != length {
            (length, grown) = (now_long, Instant::now());
        } else if grown.elapsed() > STANDS_STILL {
            tracing::debug!("whoever packs a package stands still; it is not waited for");
            return false;
        }
        let (least, most) = ASK_AGAIN;
        std::thread::sleep((begun.elapsed() / 8).clamp(least, most));
    }
    false
}

impl Making {
    /// Writes a frame, which stays as it is.
    pub(crate) fn append(&mut self, frame: &mut Vec<u8>) -> io::Result<()> {
        let length = frame.len();
        // One write a frame: others see only by the length that it grows.
        frame.extend(checksum(frame));
        let result = self.file.write_all(frame);
        frame.truncate(length);
        result?;
        self.written += taken(frame);
        Ok(())
    }

    /// How many bytes of frames are in the file.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Whether this frame, the last one written, is the one at `offset`.
    pub(crate) fn is_last(&self, offset: u64, frame: &[u8]) -> bool {
        offset + taken(frame) == self.written
    }

    /// The frame at `offset`, for this lane, and where the next one begins.
    pub(crate) fn frame_at(&self, offset: u64, lane: Lane) -> io::Result<(Vec<u8>, u64)> {
        let frame = read_frame(&mut At { file: &self.file, offset }, lane)?.ok_or(ErrorKind::UnexpectedEof)?;
        let next = offset + taken(&frame);
        Ok((frame, next))
    }

    /// Makes it an entry for everybody, and lets go of the lock. Its frames can still be read here.
    pub(crate) fn seal(&mut self, cache: &PackCache) -> io::Result<()> {
        self.file.write_all(&end(self.written))?;
        // The directory may have been deleted, and another may make the same in a new one.
        if !is_at(&self.file, &self.part)? {
            return Err(io::Error::new(ErrorKind::NotFound, "it was deleted meanwhile"));
        }
        std::fs::rename(&self.part, &self.entry)?;
        self.is_open = false;
        self.file.unlock()?;
        cache.has_grown(self.written);
        Ok(())
    }

    /// Lets go of it: the next one makes it. Its frames can still be read here.
    pub(crate) fn give_up(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.is_open, false) && is_at(&self.file, &self.part)? {
            remove(&self.part)?;
        }
        self.file.unlock()
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        // What cannot be deleted is a leftover that nobody locks, and goes when somebody tidies up.
        let _ = self.give_up();
    }
}

/// Whether this very file is at that path.
pub(super) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    private::is_at(&file.metadata()?, path)
}

/// Deletes a file that may be gone already.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
