//! What lies at a SQLite database's path at one moment: the file itself, and what its writers keep beside it.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use blat_domain::util::text::printable;
use rustix::fs::OFlags;

/// The bytes that a header needs for its journal mode to be known.
const HEADER: usize = 20;
const MAGIC: &[u8] = b"SQLite format 3\0";
/// The format that readers must know, at this place of the header; [`WAL`] means that changes are kept beside the database.
const READ_VERSION: usize = 19;
const WAL: u8 = 2;

/// The database's file, by the path that SQLite resolves it to.
pub(super) struct Database {
    pub(super) path: PathBuf,
    pub(super) file: File,
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SqliteFileState {
    place: (u64, u64),
    pub(super) size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// All files of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DatabaseFiles {
    /// None where another file took its place since it was opened.
    pub(super) database: Option<SqliteFileState>,
    pub(super) wal: Option<SqliteFileState>,
    pub(super) shm: Option<SqliteFileState>,
    pub(super) journal: Option<SqliteFileState>,
}

impl Database {
    /// Opens the file for reading. Links in the path of the database are followed as SQLite follows them, links beside it are not.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let failed = |error: io::Error| match error.kind() {
            ErrorKind::PermissionDenied => format!("cannot open it: {error}; {PERMISSIONS}"),
            _ => format!("cannot open it: {error}"),
        };
        let path = fs::canonicalize(path).map_err(failed)?;
        let file = open(&path).map_err(failed)?;
        Ok(Self { path, file })
    }

    /// The path of one of the files beside it.
    pub(super) fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(suffix);
        name.into()
    }

    /// Looks at all files as they are now.
    pub(super) fn look(&self) -> Result<DatabaseFiles, String> {
        let handle = self.file.metadata().map_err(|error| format!("cannot look at it: {error}"))?;
        let database = state(&self.path)?.filter(|found| found.place == (handle.dev(), handle.ino()));
        let [wal, shm, journal] = ["-wal", "-shm", "-journal"].map(|suffix| state(&self.beside(suffix)));
        Ok(DatabaseFiles { database, wal: wal?, shm: shm?, journal: journal? })
    }

    /// Whether changes are kept in the file `-wal`, by the header.
    pub(super) fn is_wal(&self) -> Result<bool, String> {
        let mut header = [0; HEADER];
        match self.file.read_exact_at(&mut header, 0) {
            Ok(()) => Ok(header.starts_with(MAGIC) && header[READ_VERSION] == WAL),
            // What is too short for a header is for SQLite to say.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(format!("cannot read its header: {error}")),
        }
    }

    /// Whether a rollback journal lies beside it that says more than that its transaction is over.
    pub(super) fn has_journal(&self, look: &DatabaseFiles) -> Result<bool, String> {
        if look.journal.is_none_or(|journal| journal.size == 0) {
            return Ok(false);
        }
        let mut first = [0];
        let path = self.beside("-journal");
        match open(&path).and_then(|file| file.read_at(&mut first, 0)) {
            Ok(_) => Ok(first != [0]),
            // Its transaction ended just now.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(format!("cannot read {}: {error}; {PERMISSIONS}", shown(&path))),
        }
    }
}

/// What to do where a file beside the database cannot be read.
pub(super) const PERMISSIONS: &str =
    "let the master's account enter the folder, and read the database and the files -wal, -shm and -journal beside it";

/// A regular file, for reading. Opening never waits for a named pipe's writer.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// The state that an open file is in.
pub(super) fn state_of(found: &Metadata) -> SqliteFileState {
    SqliteFileState {
        place: (found.dev(), found.ino()),
        size: found.len(),
        modified: (found.mtime(), found.mtime_nsec()),
        changed: (found.ctime(), found.ctime_nsec()),
    }
}

/// SQLite waits without end for the other end of a pipe.
fn state(path: &Path) -> Result<Option<SqliteFileState>, String> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => Ok(Some(state_of(&found))),
        Ok(_) => Err(format!("{} is not a regular file", shown(path))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot look at {}: {error}", shown(path))),
    }
}

/// A path as it is shown to people.
pub(super) fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy())
}
