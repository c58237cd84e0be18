//! Pid files: a kernel lock that says who serves, with the holder's number in it for people and scripts.
//!
//! Only the lock counts. A left-over file blocks nobody, and a number in it is never signalled on its own word.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A locked pid file. Dropping it removes the file and gives the lock back.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: File,
}

/// Why a pid file could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum PidFileError {
    /// Another process holds the lock.
    #[error("{} is locked by process {}", path.display(), holder.map_or("unknown".to_owned(), |pid| pid.to_string()))]
    Busy {
        /// The pid file.
        path: PathBuf,
        /// The number that stands in it, if any does.
        holder: Option<u32>,
    },
    /// The file could not be made, locked or written.
    #[error("cannot use the pid file {}: {error}", path.display())]
    Io {
        /// The pid file.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
}

impl PidFile {
    /// Takes the lock and writes this process's number.
    ///
    /// # Errors
    /// [`PidFileError::Busy`] where another process holds the lock, [`PidFileError::Io`] where the file cannot be used.
    pub fn acquire(path: &Path) -> Result<Self, PidFileError> {
        let failed = |error| PidFileError::Io { path: path.to_owned(), error };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        loop {
            let mut file =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(PidFileError::Busy { path: path.to_owned(), holder: number_in(&mut file) });
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            // A former holder may have removed the file between our opening and our locking it: then the lock is on nothing.
            if !is_same(&file.metadata().map_err(failed)?, path) {
                continue;
            }
            file.set_len(0).map_err(failed)?;
            writeln!(file, "{}", std::process::id()).map_err(failed)?;
            return Ok(Self { path: path.to_owned(), file });
        }
    }

    /// Whether the file still is the one that was locked: somebody who removes it wants this process to stop.
    pub fn is_in_place(&self) -> bool {
        self.file.metadata().is_ok_and(|mine| is_same(&mine, &self.path))
    }

    /// Whether any process holds the lock of the file at `path` now, and the number that stands in it.
    ///
    /// # Errors
    /// Where the file is there and cannot be opened or locked for another reason.
    pub fn holder(path: &Path) -> io::Result<Option<u32>> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => Ok(Some(number_in(&mut file).unwrap_or(0))),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if self.is_in_place() {
            // It blocks nobody where it cannot be removed.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn is_same(mine: &Metadata, path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (mine.dev(), mine.ino()))
}

fn number_in(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_the_first_is() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("run/x.pid");
        let first = PidFile::acquire(&path).expect("free");
        let error = PidFile::acquire(&path).expect_err("taken");
        assert!(matches!(error, PidFileError::Busy { holder: Some(pid), .. } if pid == std::process::id()));
        assert_eq!(PidFile::holder(&path).expect("readable"), Some(std::process::id()));
        drop(first);
        assert!(!path.exists());
        assert_eq!(PidFile::holder(&path).expect("readable"), None);
    }

    #[test]
    fn a_left_over_file_blocks_nobody() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("x.pid");
        fs::write(&path, "1\n").expect("a stale file");
        let held = PidFile::acquire(&path).expect("nobody holds it");
        assert_eq!(fs::read_to_string(&path).expect("readable"), format!("{}\n", std::process::id()));
        fs::remove_file(&path).expect("removed by an operator");
        assert!(!held.is_in_place());
    }
}
