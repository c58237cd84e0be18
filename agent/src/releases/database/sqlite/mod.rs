//! Opening a SQLite database so that nothing is written, made or left beside it, and no permission to write is needed.
//!
//! By itself SQLite does not keep to that: a reader of a database in WAL mode makes the files `-wal` and `-shm` where they are missing.
//! They belong to the reader then, and the database's owner cannot write any longer. So the state of the files decides how they are read:
//!
//! | state | way |
//! | --- | --- |
//! | no bytes at all | refused: SQLite takes it for an empty database, and whoever may write removes what lies beside it |
//! | no WAL mode, and a `-wal` that is not empty | refused: it is another database's, and SQLite would read it as a part of this one |
//! | no WAL mode | read-only, under SQLite's locks |
//! | WAL mode, `-wal` missing or empty, no `-shm` | as a file that nobody changes; a change is seen afterwards, and all is read again |
//! | WAL mode, `-wal` and `-shm` there | read-only, with a `-shm` that is never written |
//! | WAL mode and only `-wal` there, or a journal to roll back by | a private copy, which SQLite recovers |
//!
//! In WAL mode we hold a lock for reading on the whole file: as long as any process has one, SQLite removes neither `-wal` nor `-shm`, so
//! that the state does not change to one in which SQLite makes files. Other modes need the byte of that lock for themselves, and there
//! SQLite's own locks are enough. Only whoever writes the file without SQLite, as `cp` does, keeps to no lock: where it changes while it is locked, all
//! is read again.

mod check;
mod copy;
mod look;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Error, SqliteConnection};

use copy::{PrivateCopy, RECOVER};
use look::{Database, DatabaseFiles, PERMISSIONS};

use super::connection::said;
use crate::releases::freshness::{FileState, QUIET};

/// How long a writer may hold a database before the sync fails and is tried again later.
const BUSY: Duration = Duration::from_secs(10);
/// How long to wait before the next look.
const PAUSE: Duration = Duration::from_millis(50);
/// So often a database is read anew that changes while it is read.
pub(super) const TRIES: usize = 20;
/// SQLite looks at the clock after this many of its instructions.
const INSTRUCTIONS: i32 = 100_000;
/// The most memory that SQLite takes, in bytes; a query that needs more fails.
const MOST_HEAP: u64 = 64 << 20;
/// Something to read, so that SQLite takes its lock and looks at the schema.
const READS: &str = "SELECT 1 FROM sqlite_schema LIMIT 1";
/// SQLite's code for a journal that a reader without permission to write cannot roll back by.
const READONLY_ROLLBACK: &str = "776";

/// How a database comes to another's files.
const EXCHANGE: &str =
    "to exchange a database, end its application, and remove -wal, -shm and -journal with the old file";

/// How the files' state has them read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SqliteMode {
    Ordinary,
    Alone,
    Shared,
    Copied,
}

/// A connection, and what must stay as it is until all is read.
pub(super) struct Opened {
    pub(super) connection: SqliteConnection,
    /// Goes after the connection: closing it gives up the lock.
    database: Database,
    mode: SqliteMode,
    unchanged: Option<DatabaseFiles>,
    /// How the file was since SQLite's lock keeps its writers off; none where they write all the same, into a `-wal`.
    locked: Option<FileState>,
    _copy: Option<PrivateCopy>,
}

impl Opened {
    /// Begins to read in the transaction that was begun. Where it `is_checked`, the database is looked over for damage, as far as these queries
    /// can meet it.
    pub(super) async fn begin_reading(&mut self, is_checked: bool, queries: &[&str]) -> Result<(), String> {
        // SQLite takes its lock with the first thing that is read.
        sqlx::raw_sql(READS).execute(&mut self.connection).await.map_err(|error| said(&error))?;
        if self.mode == SqliteMode::Ordinary {
            self.locked = Some(self.state()?);
        }
        if is_checked { check::expect_undamaged(&mut self.connection, queries).await } else { Ok(()) }
    }

    /// Keeps SQLite's writers off for so long that whatever changes the file meanwhile is none of them. Gives whether they can be kept off: not where
    /// they write into a `-wal`.
    pub(super) async fn hold_still(&self) -> bool {
        if self.locked.is_some() {
            tokio::time::sleep(QUIET).await;
        }
        self.locked.is_some()
    }

    /// Whether what was read is one state of the database. It must be asked before the connection ends, which gives up the lock.
    pub(super) fn is_whole(&self) -> Result<bool, String> {
        if let Some(state) = self.locked
            && self.state()? != state
        {
            return Ok(false);
        }
        self.unchanged.as_ref().map_or(Ok(true), |look| Ok(self.database.look()? == *look))
    }

    /// How the file was while it was read, where that says whether anybody but SQLite was writing it.
    pub(super) fn locked(&self) -> Option<FileState> {
        self.locked
    }

    fn state(&self) -> Result<FileState, String> {
        // The handle stays open: closing any of a file gives up all locks that the process has on it.
        let found = self.database.file.metadata().map_err(|error| format!("cannot look at it: {error}"))?;
        Ok(FileState::of(&found))
    }

    /// Takes leave, before the lock is given up and the copy goes.
    pub(super) async fn close(self) -> Result<(), Error> {
        let Self { connection, database: _held, mode: _, unchanged: _, locked: _, _copy } = self;
        connection.close().await
    }
}

/// Opens the database at `path`. A query gives up by itself after `limit`. A copy, where one is needed, is made in `place`, which is
/// made where it is missing.
pub(super) async fn open(path: &Path, limit: Duration, place: &Path) -> Result<Opened, String> {
    copy::sweep(place)?;
    for _ in 0..TRIES {
        if let Some(opened) = try_open(path, limit, place).await? {
            return Ok(opened);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(CHANGES.into())
}

/// Why a database could not be read that was never the same for long enough.
pub(super) const CHANGES: &str = "it changes all the time while it is read; let its writer keep it open, or write less often, and copy another one aside and rename it";

/// None where the files changed meanwhile.
async fn try_open(path: &Path, limit: Duration, place: &Path) -> Result<Option<Opened>, String> {
    let database = Database::open(path)?;
    let look = database.look()?;
    if database.is_wal()? && !database.has_journal(&look)? {
        lock(&database).await?;
    }
    let look = database.look()?;
    if look.database.is_none() {
        return Ok(None);
    }
    let is_wal = database.is_wal()?;
    if let Some(why) = odd(is_wal, &look, &database) {
        // A writer may be about to leave WAL mode.
        return if database.look()? == look { Err(why) } else { Ok(None) };
    }
    let has_journal = is_wal && database.has_journal(&look)?;
    let mode = mode(is_wal, has_journal, &look);
    let real = &database.path;
    let connection = match mode {
        SqliteMode::Ordinary => match connect(read_only(real), limit).await {
            // Run by root, SQLite gives the journal to the database's owner again, so that its time changes.
            Err(error) if is_rollback(&error) => {
                let look = database.look()?;
                return copied(database, look, limit, place).await;
            }
            other => other.map_err(|error| said(&error))?,
        },
        SqliteMode::Alone => match connect(read_only(real).immutable(true), limit).await {
            Err(_) if database.look()? != look => return Ok(None),
            other => other.map_err(|error| said(&error))?,
        },
        SqliteMode::Shared => connect(read_only(&without_writing_shm(real)?), limit)
            .await
            .map_err(|error| format!("it is in WAL mode and has a -wal and a -shm: {}; {PERMISSIONS}", said(&error)))?,
        SqliteMode::Copied => return copied(database, look, limit, place).await,
    };
    let unchanged = (mode == SqliteMode::Alone).then_some(look);
    Ok(Some(Opened { connection, database, mode, unchanged, locked: None, _copy: None }))
}

/// Why SQLite would see another database than the one that was put there, where it would.
fn odd(is_wal: bool, look: &DatabaseFiles, database: &Database) -> Option<String> {
    if look.database.is_some_and(|found| found.size == 0) {
        return Some(format!("it has 0 bytes, so it is no database: put the right one there; {EXCHANGE}"));
    }
    let has_wal = look.wal.is_some_and(|wal| wal.size > 0);
    (!is_wal && has_wal).then(|| {
        let wal = look::shown(&database.beside("-wal"));
        format!("{wal} is not of this database, which is not in WAL mode, and SQLite would read it as a part of it: remove {wal}; {EXCHANGE}")
    })
}

fn mode(is_wal: bool, has_journal: bool, look: &DatabaseFiles) -> SqliteMode {
    match (is_wal, look.wal, look.shm) {
        // Without WAL mode, SQLite itself knows whether a journal's writer is alive.
        (false, _, _) => SqliteMode::Ordinary,
        (true, _, _) if has_journal => SqliteMode::Copied,
        (true, Some(_), Some(_)) => SqliteMode::Shared,
        (true, Some(wal), None) if wal.size > 0 => SqliteMode::Copied,
        (true, _, _) => SqliteMode::Alone,
    }
}

async fn copied(
    database: Database,
    look: DatabaseFiles,
    limit: Duration,
    place: &Path,
) -> Result<Option<Opened>, String> {
    let Some(copy) = PrivateCopy::of(&database, &look, place).await? else { return Ok(None) };
    let failed = |error: &Error| format!("a writer left it in the middle of a change: {}; {RECOVER}", said(error));
    if copy.has_journal() {
        let writing = SqliteConnectOptions::new().filename(copy.database());
        let recovered = connect(writing, limit).await.map_err(|error| failed(&error))?;
        recovered.close().await.map_err(|error| failed(&error))?;
    }
    let connection = connect(read_only(&copy.database()), limit).await.map_err(|error| failed(&error))?;
    Ok(Some(Opened {
        connection,
        database,
        mode: SqliteMode::Copied,
        unchanged: None,
        locked: None,
        _copy: Some(copy),
    }))
}

/// Keeps the writers of a database in WAL mode from removing what lies beside it.
async fn lock(database: &Database) -> Result<(), String> {
    let until = Instant::now() + BUSY;
    loop {
        match fcntl_lock(&database.file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => return Ok(()),
            Err(Errno::AGAIN | Errno::ACCESS) if Instant::now() < until => tokio::time::sleep(PAUSE).await,
            Err(Errno::AGAIN | Errno::ACCESS) => {
                return Err("the database is locked: it is in WAL mode, and a process keeps it to itself; \
                            end that process, or have it leave locking_mode=EXCLUSIVE"
                    .into());
            }
            // Of NFS and the like, mounted without.
            Err(error @ (Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS)) => {
                return Err(format!(
                    "it is in WAL mode, and its file system has no locks: {error}; mount it with locks, keep the \
                                    database on a local disk, or leave WAL mode (PRAGMA journal_mode = delete)"
                ));
            }
            Err(error) => return Err(format!("cannot lock it for reading: {error}")),
        }
    }
}

fn read_only(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new().filename(path).read_only(true)
}

/// The database's URI by which SQLite neither makes nor writes its `-shm`.
fn without_writing_shm(path: &Path) -> Result<std::path::PathBuf, String> {
    let path = path.to_str().ok_or("SQLite takes only paths in UTF-8; rename it")?;
    let escaped = path.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    Ok(format!("file://{escaped}?readonly_shm=1").into())
}

/// A connection that has read the schema: whatever keeps SQLite from reading has shown.
async fn connect(options: SqliteConnectOptions, limit: Duration) -> Result<SqliteConnection, Error> {
    let mut connection = options.busy_timeout(BUSY).disable_statement_logging().connect().await?;
    let until = Instant::now() + limit;
    connection.lock_handle().await?.set_progress_handler(INSTRUCTIONS, move || Instant::now() < until);
    // Whoever may write the database may have one value fill the machine's memory.
    let bound = AssertSqlSafe(format!("PRAGMA hard_heap_limit = {MOST_HEAP}"));
    sqlx::raw_sql(bound).execute(&mut connection).await?;
    sqlx::raw_sql(READS).execute(&mut connection).await?;
    Ok(connection)
}

fn is_rollback(error: &Error) -> bool {
    matches!(error, Error::Database(refusal) if refusal.code().as_deref() == Some(READONLY_ROLLBACK))
}
