//! Whether files are still as they were when they were read, without reading them again.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A file that changed so shortly ago may change once more within the same tick of its file system's clock, and not show it.
const STEADY: Duration = Duration::from_secs(2);

/// What tells each of some files from any later state of it, in their order; none for a file that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamps(Vec<Option<FileStamp>>);

/// Device, inode, size, mode and owner, time of modification, time of change.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FileStamp {
    file: (u64, u64, u64),
    mode: (u32, u32, u32),
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamps {
    /// Looks at these files; none where one of them cannot be looked at.
    pub(super) fn of(paths: &[&Path]) -> Option<Self> {
        let stamp = |path: &&Path| match fs::metadata(path) {
            Ok(found) => Some(Some(FileStamp {
                file: (found.dev(), found.ino(), found.size()),
                mode: (found.mode(), found.uid(), found.gid()),
                modified: (found.mtime(), found.mtime_nsec()),
                changed: (found.ctime(), found.ctime_nsec()),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(None),
            // Then they are read, and reading says why.
            Err(_) => None,
        };
        paths.iter().map(stamp).collect::<Option<_>>().map(Self)
    }

    /// Whether a change after this look shows for sure.
    fn are_steady(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(STEADY).as_secs();
        self.0.iter().flatten().all(|stamp| u64::try_from(stamp.changed.0).is_ok_and(|changed| changed < now))
    }
}

/// How files were when they were last read and found to say what was expected.
#[derive(Debug, Default)]
pub(super) struct LastRead(Mutex<Option<Stamps>>);

impl LastRead {
    /// `expected`, where the files are as they were when `read` last found that; else what `read` finds now. `stamps` are from a look before this.
    pub(super) fn unless_unchanged<T: PartialEq>(
        &self,
        stamps: Option<Stamps>,
        expected: T,
        read: impl FnOnce() -> T,
    ) -> T {
        let last = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if stamps.is_some() && *last() == stamps {
            return expected;
        }
        let found = read();
        *last() = stamps.filter(|stamps| found == expected && stamps.are_steady(SystemTime::now()));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a look at `path` finds, as if it was read as `read`; and whether it was read at all.
    fn look(last: &LastRead, paths: &[&Path], read: &str) -> (String, bool) {
        let mut is_read = false;
        let found = last.unless_unchanged(Stamps::of(paths), "same".to_owned(), || {
            is_read = true;
            read.to_owned()
        });
        (found, is_read)
    }

    #[test]
    fn a_file_is_read_once_and_again_when_anything_about_it_changed() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let (path, absent) = (scratch.path().join("a.conf"), scratch.path().join("absent"));
        fs::write(&path, "1").expect("a file");
        let last = LastRead::default();
        let paths: [&Path; 2] = [&path, &absent];
        assert_eq!(look(&last, &paths, "same"), ("same".into(), true));
        assert_eq!(
            look(&last, &paths, "same"),
            ("same".into(), true),
            "it changed just now, and may do so again unseen"
        );
        // The time of change is the system's own: a file that is old for sure is one of the system's.
        let steady: [&Path; 2] = [Path::new("/bin/sh"), &absent];
        assert_eq!(look(&last, &steady, "same"), ("same".into(), true));
        assert_eq!(look(&last, &steady, "other"), ("same".into(), false), "nobody has to read it");
        fs::write(&absent, "").expect("a file");
        assert_eq!(look(&last, &steady, "other"), ("other".into(), true));
        fs::remove_file(&absent).expect("an own file");
        assert_eq!(look(&last, &steady, "same"), ("same".into(), true), "what was found last was something else");
    }
}
