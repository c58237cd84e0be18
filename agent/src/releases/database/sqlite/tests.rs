use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use sqlx::Row as _;
use tempfile::TempDir;

use super::*;

const LIMIT: Duration = Duration::from_secs(60);

/// A folder with a database `r.db`, and beside it what a writer that is in the middle of its work keeps. Copies of it are read, since SQLite
/// makes one of readers and writers in the same process.
struct World {
    scratch: TempDir,
    writer: SqliteConnection,
}

impl World {
    async fn new(mode: &str) -> Self {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        fs::create_dir(scratch.path().join("live")).expect("a folder");
        let options = SqliteConnectOptions::new().filename(scratch.path().join("live/r.db")).create_if_missing(true);
        let writer = options.connect().await.expect("a new database");
        let mut world = Self { scratch, writer };
        world.write(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(x); INSERT INTO t VALUES ('first')")).await;
        world
    }

    async fn write(&mut self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut self.writer).await.expect(sql);
    }

    fn live(&self) -> PathBuf {
        self.scratch.path().join("live")
    }

    fn place(&self) -> PathBuf {
        self.scratch.path().join("state")
    }

    /// As a crash of the machine leaves the files, without those that end in one of these.
    fn crashed(&self, without: &[&str]) -> PathBuf {
        let folder = self.scratch.path().join(format!("crashed{}", without.concat()));
        fs::create_dir(&folder).expect("a new folder");
        for (name, bytes) in all_of(&self.live()) {
            if !without.iter().any(|end| name.ends_with(end)) {
                fs::write(folder.join(name), bytes).expect("a copy");
            }
        }
        folder
    }

    /// All that is read of the database in this folder, in which nothing changes by that.
    async fn read(&self, folder: &Path) -> Result<Vec<String>, String> {
        let before = all_of(folder);
        let rows = read(&folder.join("r.db"), &self.place()).await;
        assert_eq!(names(&all_of(folder)), names(&before), "nothing is made or removed");
        assert!(all_of(folder) == before, "nothing is written");
        assert!(!self.place().join("database").exists(), "no copy stays");
        rows
    }
}

async fn read(path: &Path, place: &Path) -> Result<Vec<String>, String> {
    let mut opened = open(path, LIMIT, place).await?;
    let rows = sqlx::raw_sql("SELECT x FROM t").fetch_all(&mut opened.connection).await;
    assert!(opened.is_whole()?, "nobody writes");
    opened.close().await.map_err(|error| said(&error))?;
    Ok(rows.map_err(|error| said(&error))?.iter().map(|row| row.get(0)).collect())
}

fn all_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    entries
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("a file")))
        .collect()
}

fn names(files: &BTreeMap<String, Vec<u8>>) -> Vec<&str> {
    files.keys().map(String::as_str).collect()
}

#[tokio::test]
async fn a_database_in_wal_mode_is_read_in_every_state_and_nothing_beside_it_changes() {
    let mut world = World::new("wal").await;
    world.write("INSERT INTO t VALUES ('second')").await;
    assert_eq!(names(&all_of(&world.live())), ["r.db", "r.db-shm", "r.db-wal"]);
    assert_eq!(world.read(&world.crashed(&[])).await.expect("a writer that died"), ["first", "second"]);
    assert_eq!(world.read(&world.crashed(&["-shm"])).await.expect("only -wal"), ["first", "second"]);

    world.write("PRAGMA wal_checkpoint(TRUNCATE)").await;
    assert_eq!(fs::metadata(world.live().join("r.db-wal")).expect("it stays").len(), 0);
    fs::remove_dir_all(world.scratch.path().join("crashed-shm")).expect("an own folder");
    assert_eq!(world.read(&world.crashed(&["-shm"])).await.expect("an empty -wal"), ["first", "second"]);
    assert_eq!(world.read(&world.crashed(&["-wal", "-shm"])).await.expect("nothing beside it"), ["first", "second"]);
    assert_eq!(world.read(&world.crashed(&["-wal"])).await.expect("a -shm that is left"), ["first", "second"]);
}

/// As an exchanged database leaves them: SQLite would read the old one's `-wal` as a part of the new one.
#[tokio::test]
async fn what_lies_beside_a_database_that_is_not_in_wal_mode_is_refused_by_name_and_stays() {
    let mut old = World::new("wal").await;
    old.write("INSERT INTO t VALUES ('second')").await;
    let mut new = World::new("delete").await;
    new.write("INSERT INTO t VALUES ('new')").await;
    for without in [&[][..], &["-shm"]] {
        let folder = old.crashed(without);
        fs::copy(new.live().join("r.db"), folder.join("r.db")).expect("a copy");
        let why = old.read(&folder).await.expect_err("another's -wal");
        let wal = folder.join("r.db-wal");
        assert!(why.contains(&format!("remove {}", wal.display())) && why.contains("not in WAL mode"), "{why}");
        fs::write(&wal, "").expect("an own file");
        assert_eq!(old.read(&folder).await.expect("an empty -wal says nothing"), ["first", "new"]);
    }
}

#[tokio::test]
async fn a_database_of_no_bytes_is_an_error_and_what_lies_beside_it_stays() {
    for without in [&[][..], &["-shm"], &["-wal", "-shm"]] {
        let mut world = World::new("wal").await;
        world.write("INSERT INTO t VALUES ('second')").await;
        let folder = world.crashed(without);
        fs::write(folder.join("r.db"), "").expect("an own file");
        let why = world.read(&folder).await.expect_err("no database");
        assert!(why.contains("it has 0 bytes"), "{why}");
    }
}

/// SQLite removes neither `-wal` nor `-shm` while anybody has a lock on the database: a reader that has looked never meets a state in which
/// it would make them.
#[tokio::test]
async fn what_a_writer_does_while_a_database_is_read_is_seen_and_read_again() {
    let world = World::new("wal").await;
    let path = world.live().join("r.db");
    let World { scratch, writer } = world;
    writer.close().await.expect("closed");
    let opened = open(&path, LIMIT, &scratch.path().join("state")).await.expect("nothing beside it");
    assert!(opened.is_whole().expect("it is there"));
    // A process of its own: locks are between processes.
    let sql = "INSERT INTO t VALUES ('third')";
    let wrote = std::process::Command::new("sqlite3").arg(&path).arg(sql).status().expect("sqlite3 is installed");
    assert!(wrote.success(), "a reader keeps no writer off");
    assert!(!opened.is_whole().expect("it is there"), "it changed");
    opened.close().await.expect("closed");
    assert_eq!(read(&path, &scratch.path().join("state")).await.expect("again"), ["first", "third"]);
}

/// A writer that is in the middle of a large transaction, in the mode of a rollback journal.
async fn interrupted() -> World {
    let mut world = World::new("delete").await;
    world
        .write("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 500) INSERT INTO t SELECT hex(zeroblob(500)) FROM n")
        .await;
    world.write("PRAGMA cache_size = 5; BEGIN; UPDATE t SET x = 'half'").await;
    assert_eq!(names(&all_of(&world.live())), ["r.db", "r.db-journal"]);
    world
}

#[tokio::test]
async fn an_interrupted_transaction_is_rolled_back_in_a_private_copy() {
    let world = interrupted().await;
    let rows = world.read(&world.crashed(&[])).await.expect("rolled back");
    assert_eq!((rows.len(), rows[0].as_str()), (501, "first"));
    assert!(!rows.contains(&"half".to_owned()), "nothing of the transaction");
    let alone = read(&world.crashed(&["-journal"]).join("r.db"), &world.place()).await;
    assert_ne!(alone, Ok(rows), "the transaction had reached the database");
}

#[tokio::test]
async fn a_journal_that_names_another_file_is_refused_and_that_file_stays() {
    let world = interrupted().await;
    let crashed = world.crashed(&[]);
    let victim = world.scratch.path().join("victim");
    fs::write(&victim, "a file of the master's, of some length").expect("a file");
    let name = victim.to_str().expect("UTF-8").as_bytes();
    let mut journal = fs::read(crashed.join("r.db-journal")).expect("a journal");
    journal.extend(262_145_u32.to_be_bytes());
    journal.extend(name);
    journal.extend(u32::try_from(name.len()).expect("short").to_be_bytes());
    journal.extend(name.iter().map(|byte| u32::from(*byte)).sum::<u32>().to_be_bytes());
    journal.extend([0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7]);
    fs::write(crashed.join("r.db-journal"), journal).expect("a journal");
    let refused = world.read(&crashed).await;
    assert!(victim.exists(), "whoever writes the journal has no file of the master's removed");
    assert!(refused.as_ref().is_err_and(|why| why.contains("several databases")), "{refused:?}");
}

#[tokio::test]
async fn what_takes_too_much_for_a_copy_is_refused_with_what_to_do() {
    let world = interrupted().await;
    let crashed = world.crashed(&[]);
    let journal = fs::OpenOptions::new().write(true).open(crashed.join("r.db-journal")).expect("a journal");
    journal.set_len(crate::releases::file::LARGEST + 1).expect("a sparse file");
    let why = read(&crashed.join("r.db"), &world.place()).await.expect_err("too large");
    assert!(why.contains("256 MiB") && why.contains("open it once"), "{why}");
}

#[tokio::test]
async fn what_a_killed_reader_left_is_removed_by_the_next_one() {
    let world = World::new("wal").await;
    let leftover = world.place().join("database");
    fs::create_dir_all(&leftover).and_then(|()| fs::write(leftover.join("copy"), "half")).expect("a leftover");
    assert_eq!(world.read(&world.crashed(&[])).await.expect("a writer that died"), ["first"]);
}

#[tokio::test]
async fn a_database_whose_pages_are_of_two_states_is_refused_where_it_is_checked() {
    let mut world = World::new("delete").await;
    world.write("CREATE INDEX i ON t(x)").await;
    let old = fs::read(world.live().join("r.db")).expect("a database");
    world.write("INSERT INTO t VALUES ('second')").await;
    let numbers = sqlx::raw_sql("SELECT rootpage - 1 FROM sqlite_schema WHERE name = 'i'");
    let number: i64 = numbers.fetch_one(&mut world.writer).await.expect("the index").get(0);
    let path = world.crashed(&[]).join("r.db");
    let check = async || {
        let mut opened = open(&path, LIMIT, &world.place()).await.expect("it opens");
        let begun = opened.begin_reading(true, &[]).await;
        opened.close().await.expect("closed");
        begun
    };
    assert_eq!(check().await, Ok(()));
    let place = usize::try_from(number).expect("a page") * 4096;
    let file = fs::File::options().write(true).open(&path).expect("an own file");
    file.write_all_at(&old[place..place + 4096], place as u64).expect("one old page");
    let why = check().await.expect_err("a row is in the table alone");
    assert!(why.contains("it is damaged") && why.contains("index i"), "{why}");
}

#[tokio::test]
async fn what_is_written_without_sqlites_locks_while_it_is_read_is_seen() {
    for (mode, is_seen) in [("delete", true), ("wal", false)] {
        let world = World::new(mode).await;
        let path = world.crashed(&[]).join("r.db");
        let mut opened = open(&path, LIMIT, &world.place()).await.expect("it opens");
        opened.begin_reading(false, &[]).await.expect("it is read");
        assert!(opened.is_whole().expect("it is there"));
        assert_eq!(opened.locked().is_some(), is_seen, "a checkpoint may change it meanwhile");
        // The clock of the file system goes by steps.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let first = fs::read(&path).expect("a database")[0];
        let file = fs::File::options().write(true).open(&path).expect("an own file");
        file.write_all_at(&[first], 0).expect("a copy that begins");
        assert_eq!(opened.is_whole().expect("it is there"), !is_seen, "{mode}");
        opened.close().await.expect("closed");
    }
}

#[tokio::test]
async fn a_database_that_is_held_still_keeps_sqlites_writers_waiting_and_nobody_else() {
    let world = World::new("delete").await;
    let path = world.crashed(&[]).join("r.db");
    for is_copied_over in [false, true] {
        let mut opened = open(&path, LIMIT, &world.place()).await.expect("it opens");
        sqlx::raw_sql("BEGIN").execute(&mut opened.connection).await.expect("it begins");
        opened.begin_reading(false, &[]).await.expect("it is read");
        let sql = ".timeout 60000\nINSERT INTO t VALUES ('third');";
        let mut writer = std::process::Command::new("sqlite3");
        let mut writer = writer.arg(&path).stdin(std::process::Stdio::piped()).spawn().expect("sqlite3 is installed");
        std::io::Write::write_all(&mut writer.stdin.take().expect("a pipe"), sql.as_bytes()).expect("it reads");
        let copying = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if is_copied_over {
                // Not by this process, whose locks on the file end with any handle that it closes.
                let over = format!("of={}", path.display());
                let from = format!("if={}", path.display());
                let copied =
                    std::process::Command::new("dd").args([&from, &over, "bs=1", "count=1", "conv=notrunc"]).status();
                assert!(copied.expect("dd is installed").success());
            }
        };
        let (is_still, ()) = tokio::join!(opened.hold_still(), copying);
        assert!(is_still);
        assert!(writer.try_wait().expect("an own child").is_none(), "it waits");
        assert_eq!(opened.is_whole().expect("it is there"), !is_copied_over);
        opened.close().await.expect("closed");
        assert!(writer.wait().expect("an own child").success(), "it waited");
    }
}
