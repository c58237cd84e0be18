//! Pid files: a kernel lock that says who serves, with the holder's number in it for people and scripts.
//!
//! Only the lock counts. A left-over file blocks nobody, and a number in it is never signalled on its own word.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use blat_paths::private;

/// A locked pid file. Dropping it removes the file and gives the lock back.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: File,
    /// What the last look met, where it could not tell.
    trouble: Option<String>,
}

/// What a look at the place of a pid file finds.
#[derive(Debug)]
pub enum Presence {
    /// The file is where it was put.
    InPlace,
    /// There is no file, or another one: somebody wants this process to stop.
    Removed,
    /// It cannot be told now, which means nothing.
    Unclear {
        /// Why.
        error: io::Error,
        /// Whether the look before met something else, so that this is worth a line in the log.
        is_news: bool,
    },
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
    /// Takes the lock and writes this process's number. Nobody else can open the file or enter its directory from then on.
    ///
    /// # Errors
    /// [`PidFileError::Busy`] where another process holds the lock, [`PidFileError::Io`] where the file cannot be used.
    pub fn acquire(path: &Path) -> Result<Self, PidFileError> {
        let failed = |error| PidFileError::Io { path: path.to_owned(), error };
        if let Some(directory) = path.parent() {
            private::directory(directory).map_err(failed)?;
        }
        let Some(mut file) = private::try_lock(path).map_err(failed)? else {
            let holder = File::open(path).ok().and_then(|mut file| number_in(&mut file));
            return Err(PidFileError::Busy { path: path.to_owned(), holder });
        };
        file.set_len(0).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, trouble: None })
    }

    /// Looks whether the file still is the one that was locked. Only where it certainly is not does somebody want this process to stop: a
    /// file system that fails for a while says nothing about that.
    pub fn look(&mut self) -> Presence {
        match self.is_in_place() {
            Ok(is_in_place) => {
                self.trouble = None;
                if is_in_place { Presence::InPlace } else { Presence::Removed }
            }
            Err(error) => {
                let is_news = self.trouble.replace(error.to_string()) != self.trouble;
                Presence::Unclear { error, is_news }
            }
        }
    }

    fn is_in_place(&self) -> io::Result<bool> {
        private::is_at(&self.file.metadata()?, &self.path)
    }

    /// Whether any process of ours holds the lock of the file at `path` now, and the number that stands in it.
    ///
    /// # Errors
    /// Where the file is there and cannot be opened or locked for another reason.
    pub fn holder(path: &Path) -> io::Result<Option<u32>> {
        Ok(private::locked(path)?.map(|mut file| number_in(&mut file).unwrap_or(0)))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if self.is_in_place().unwrap_or(false) {
            // It blocks nobody where it cannot be removed.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn number_in(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

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
        let mut held = PidFile::acquire(&path).expect("nobody holds it");
        assert_eq!(fs::read_to_string(&path).expect("readable"), format!("{}\n", std::process::id()));
        fs::remove_file(&path).expect("removed by an operator");
        assert!(matches!(held.look(), Presence::Removed));
    }

    #[test]
    fn only_a_file_that_is_gone_or_another_one_is_a_removal() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let (run, aside) = (scratch.path().join("run"), scratch.path().join("aside"));
        let mut held = PidFile::acquire(&run.join("x.pid")).expect("free");
        assert!(matches!(held.look(), Presence::InPlace));
        fs::rename(&run, &aside).and_then(|()| symlink(&run, &run)).expect("a path that leads nowhere");
        assert!(matches!(held.look(), Presence::Unclear { is_news: true, .. }));
        assert!(matches!(held.look(), Presence::Unclear { is_news: false, .. }), "one line in the log is enough");
        fs::remove_file(&run).and_then(|()| fs::rename(&aside, &run)).expect("healed");
        assert!(matches!(held.look(), Presence::InPlace));
        fs::remove_file(run.join("x.pid")).and_then(|()| fs::write(run.join("x.pid"), "5\n")).expect("another file");
        assert!(matches!(held.look(), Presence::Removed));
        drop(held);
        assert!(run.join("x.pid").exists(), "what somebody else put there is left alone");
    }
}
