//! A private copy of a database that a writer left in the middle: only recovery makes it readable, and recovery writes.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use blat_paths::private;

use super::look::{Database, DatabaseFiles, PERMISSIONS, SqliteFileState, open, shown, state_of};
use super::{BUSY, PAUSE};
use crate::releases::file::LARGEST;

/// The folder of the copy and its lock, in the target's part of `state/`.
const FOLDER: &str = "database";
const LOCK: &str = "database.lock";
/// The file in [`FOLDER`], beside which its journals are.
const FILE: &str = "copy";
/// A journal that ends so names another file, which SQLite deletes after recovery.
const NAMES_ANOTHER: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
/// So much is copied at once.
const PIECE: usize = 1 << 16;

/// What an operator can do to make such a database readable.
pub(super) const RECOVER: &str =
    "open it once with Release Manager or with the program sqlite3, as its owner, so that SQLite recovers it";

/// The copy. It goes when this is dropped; where that fails or this process is killed, the next reader removes it.
pub(super) struct PrivateCopy {
    folder: PathBuf,
    _lock: File,
}

impl PrivateCopy {
    /// Copies all that recovery needs; none where somebody changed it meanwhile.
    pub(super) async fn of(database: &Database, look: &DatabaseFiles, place: &Path) -> Result<Option<Self>, String> {
        let folder = place.join(FOLDER);
        let failed = |error: io::Error| format!("cannot copy it to {}: {error}", shown(&folder));
        let lock = lock(place).await?;
        clear(&folder).map_err(failed)?;
        DirBuilder::new().mode(0o700).create(&folder).map_err(failed)?;
        let copy = Self { folder: folder.clone(), _lock: lock };

        let Some(main) = look.database else { return Ok(None) };
        let beside = [("-wal", look.wal), ("-journal", look.journal)];
        let size =
            beside.iter().filter_map(|(_, state)| *state).map(|state| state.size).fold(main.size, u64::saturating_add);
        if size > LARGEST {
            return Err(format!(
                "a writer left it in the middle of a change, and a private copy takes more than {} MiB; {RECOVER}",
                LARGEST >> 20
            ));
        }
        pour(&database.file, main.size, &copy.path("")).map_err(failed)?;
        for (suffix, state) in beside {
            let Some(state) = state else { continue };
            if !copy.take(&database.beside(suffix), suffix, state)? {
                return Ok(None);
            }
        }
        if database.look()? != *look {
            return Ok(None);
        }
        copy.expect_one_database()?;
        Ok(Some(copy))
    }

    /// Its database.
    pub(super) fn database(&self) -> PathBuf {
        self.path("")
    }

    /// Whether there is a journal to roll back by.
    pub(super) fn has_journal(&self) -> bool {
        self.path("-journal").exists()
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.folder.join(format!("{FILE}{suffix}"))
    }

    /// Copies one of the files beside the database; false where it is not the one that was seen.
    fn take(&self, from: &Path, suffix: &str, seen: SqliteFileState) -> Result<bool, String> {
        let file = match open(from) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(format!("cannot read {}: {error}; {PERMISSIONS}", shown(from))),
        };
        let failed = |error: io::Error| format!("cannot copy {} to {}: {error}", shown(from), shown(&self.folder));
        if state_of(&file.metadata().map_err(failed)?) != seen {
            return Ok(false);
        }
        pour(&file, seen.size, &self.path(suffix)).map_err(failed)?;
        Ok(true)
    }

    /// The end of a journal may name the journal of a transaction over several databases. SQLite deletes the file of that name after it
    /// rolled back, and whoever may write the folder of the database may have it name any file of the master's.
    fn expect_one_database(&self) -> Result<(), String> {
        let path = self.path("-journal");
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other.map_err(|error| format!("cannot read {}: {error}", shown(&path)))?,
        };
        let mut end = [0; NAMES_ANOTHER.len()];
        let size = file.metadata().map_err(|error| format!("cannot read {}: {error}", shown(&path)))?.len();
        if let Some(place) = size.checked_sub(end.len() as u64) {
            file.read_exact_at(&mut end, place).map_err(|error| format!("cannot read {}: {error}", shown(&path)))?;
        }
        if end == NAMES_ANOTHER {
            return Err(format!("its -journal is part of a transaction over several databases; {RECOVER}"));
        }
        Ok(())
    }
}

impl Drop for PrivateCopy {
    fn drop(&mut self) {
        // What cannot be removed now is an error of the next copy, and lies where only the owner looks.
        let _removed = fs::remove_dir_all(&self.folder);
    }
}

/// Removes what a killed reader left, where none is at work.
pub(super) fn sweep(place: &Path) -> Result<(), String> {
    let folder = place.join(FOLDER);
    if fs::symlink_metadata(&folder).is_err() {
        return Ok(());
    }
    let failed = |error: io::Error| format!("cannot remove the leftover copy {}: {error}", shown(&folder));
    match private::try_lock(&place.join(LOCK)).map_err(failed)? {
        Some(_lock) => clear(&folder).map_err(failed),
        None => Ok(()),
    }
}

/// One process at a time has a copy.
async fn lock(place: &Path) -> Result<File, String> {
    let path = place.join(LOCK);
    private::directory(place).map_err(|error| format!("cannot use {}: {error}", shown(place)))?;
    let until = Instant::now() + BUSY;
    loop {
        match private::try_lock(&path).map_err(|error| format!("cannot lock {}: {error}", shown(&path)))? {
            Some(lock) => return Ok(lock),
            None if Instant::now() < until => tokio::time::sleep(PAUSE).await,
            None => return Err(format!("another process keeps {} locked; try again once it ended", shown(&path))),
        }
    }
}

fn clear(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Copies by place, so that the handle is not closed or doubled: closing any handle of a file gives up all locks that the process has on it.
fn pour(from: &File, size: u64, to: &Path) -> io::Result<()> {
    let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let (mut piece, mut place) = (vec![0; PIECE], 0);
    while place < size {
        let most = usize::try_from(size - place).unwrap_or(PIECE).min(PIECE);
        let read = from.read_at(&mut piece[..most], place)?;
        if read == 0 {
            // It became shorter: the look after it says so.
            break;
        }
        to.write_all(&piece[..read])?;
        place += read as u64;
    }
    Ok(())
}
