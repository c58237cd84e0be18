//! The pack cache is bounded: what was not used for longest goes, and so do unfinished files that nobody makes any more.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use walkdir::WalkDir;

use super::PackCache;
use super::making::{is_at, remove};

/// An agent that has added this part of the bound looks whether there is too much. So much, from each agent, may go over what is kept.
const LOOK: u64 = 64;
/// This part of the bound is left free then, so that what several agents add until they look fits below it.
const SLACK: u64 = 8;

impl PackCache {
    /// So many bytes were added: if that is much, what is too much goes.
    pub(super) fn has_grown(&self, bytes: u64) {
        if self.added.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.most / LOOK {
            return;
        }
        self.added.store(0, Ordering::Relaxed);
        match self.tidy() {
            // Where it was deleted there is nothing to tidy.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(directory = %self.directory.display(), %error, "cannot tidy up the store");
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Deletes what was used least recently, until there is room, and what the dead left unfinished. Only one tidies at a time.
    pub(super) fn tidy(&self) -> io::Result<()> {
        let directory = File::open(&self.directory)?;
        match directory.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let mut entries = Vec::new();
        let mut total = 0;
        // Its errors name the file, which is the one thing that helps here.
        for found in WalkDir::new(&self.directory).min_depth(1).max_depth(1) {
            let path = found?.into_path();
            if path.extension().is_some_and(|extension| extension == "part") {
                remove_if_left(&path)?;
            } else if let Some((used, bytes)) = look(&path)? {
                total += bytes;
                entries.push((used, bytes, path));
            }
        }
        if total > self.most - self.most / SLACK {
            self.evict(entries, total)?;
        }
        Ok(())
    }

    fn evict(&self, mut entries: Vec<(SystemTime, u64, PathBuf)>, mut total: u64) -> io::Result<()> {
        entries.sort();
        for (_, bytes, path) in entries {
            if total <= self.most - self.most / SLACK {
                break;
            }
            // Whoever reads it has it open, and reads it to its end.
            remove(&path)?;
            total -= bytes;
        }
        Ok(())
    }
}

/// When an entry was used last and what it takes on the disk; none where it is gone.
fn look(path: &Path) -> io::Result<Option<(SystemTime, u64)>> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some((found.modified()?, found.blocks() * 512))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Deletes an unfinished entry, unless somebody makes it. Whoever opened it meanwhile sees that it is gone.
fn remove_if_left(path: &Path) -> io::Result<()> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    match file.try_lock() {
        Ok(()) if is_at(&file, path)? => remove(path),
        Ok(()) | Err(TryLockError::WouldBlock) => Ok(()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}
