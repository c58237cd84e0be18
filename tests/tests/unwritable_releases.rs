//! Databases of releases where nobody may write: replicas of servers, file systems that are read-only, files that are others' own.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use blat_tests::accounts::Account;
use blat_tests::database::PASSWORD;
use blat_tests::disk::Disk;
use blat_tests::{Database, Kind, Lab};

fn lab(name: &str) -> Lab {
    let lab = Lab::new(name);
    for version in ["1.1", "1.10"] {
        lab.package("core", version, |p| p.file("a", version));
    }
    lab
}

/// A replica of this kind serves as its primary does.
fn replica(kind: Kind) -> (Lab, Database) {
    let lab = lab(&format!("replica{kind}"));
    let database = Database::new(&lab, kind);
    database.release(10, "Lab 1", "open", &[("core", "1.10")]);
    database.become_replica();
    lab.config("perth", &database.config_with(PASSWORD, ""));
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.package_list(), ["core 1.10"], "{kind}");
    (lab, database)
}

#[test]
fn releases_are_read_from_a_standby_of_postgres_and_a_query_that_locks_is_named() {
    let (lab, database) = replica(Kind::Postgres);
    assert_eq!(database.sql("SELECT pg_is_in_recovery()").trim(), "t");
    let locking = "SELECT project_id, release_id, release_name, state, s3sync FROM release FOR UPDATE";
    lab.config("perth", &database.config_with(PASSWORD, &format!(", queries: {{releases: \"{locking}\"}}")));
    lab.agent_once("perth").expect(1).says("SELECT FOR UPDATE").says("locks no rows (no FOR UPDATE)");
    assert_eq!(lab.package_list(), ["core 1.10"], "nothing changed");
}

#[test]
fn releases_are_read_from_a_read_only_server_of_mariadb() {
    let (_lab, database) = replica(Kind::MariaDb);
    assert_eq!(database.sql("SELECT @@global.read_only").trim(), "1");
}

/// Puts a database in WAL mode there, with core@1.1 in it and core@1.10 in what a writer that died left in the file `-wal`; its owner is Release
/// Manager.
fn database(lab: &Lab, folder: &Path) {
    let own = |path: &Path| chown(path, Some(Account::ReleaseManager.ids().0), None).expect("root may");
    let live = lab.home().with_file_name("live");
    fs::create_dir(&live).expect("a scratch folder");
    own(&live);
    own(folder);
    let [from, to] = [live.join("r.db"), folder.join("r.db")].map(|path| path.display().to_string());
    // It is copied while it is open, as a crash of the machine leaves it.
    let script = format!(
        "PRAGMA journal_mode = wal; CREATE TABLE project(project_id, project_name);
         CREATE TABLE release(release_id, project_id, release_name, state, s3sync);
         CREATE TABLE release_package(release_id, package_name, package_version);
         INSERT INTO project VALUES (1, 'Lab'); INSERT INTO release VALUES (10, 1, 'L', 'open', 0);
         INSERT INTO release_package VALUES (10, 'core', '1.1'); PRAGMA wal_checkpoint(TRUNCATE);
         INSERT INTO release_package VALUES (10, 'core', '1.10');
         .shell cp '{from}' '{to}'; cp '{from}-wal' '{to}-wal'; cp '{from}-shm' '{to}-shm'"
    );
    let lines: Vec<&str> = script.split('\n').map(str::trim).collect();
    let arguments: Vec<&str> = ["sqlite3", "-bail", &from].into_iter().chain(lines.iter().copied()).collect();
    lab.run_as(Account::ReleaseManager, &arguments).expect_success();
    lab.config("perth", &format!("release_manager: {{sqlite: {to}}}"));
}

#[test]
fn as_root_a_sqlite_database_on_a_read_only_file_system_is_read_in_every_state_of_its_wal() {
    let lab = lab("readonlydisk");
    let folder = lab.home().with_file_name("disk");
    fs::create_dir(&folder).expect("a scratch folder");
    let disk = Disk::mount(folder.clone(), "size=8m");
    database(&lab, &folder);
    for (gone, wanted) in [
        (None, &["core 1.1", "core 1.10"][..]),
        (Some("r.db-shm"), &["core 1.1", "core 1.10"]),
        (Some("r.db-wal"), &["core 1.1"]),
    ] {
        if let Some(gone) = gone {
            disk.change("rw");
            fs::remove_file(folder.join(gone)).expect("root may");
        }
        disk.change("ro");
        lab.agent_once("perth").expect_success();
        assert_eq!(lab.package_list(), wanted, "without {gone:?}");
    }
}

#[test]
fn as_root_a_sqlite_database_that_the_master_may_not_read_says_what_to_let_it() {
    let lab = lab("closedfiles");
    let folder = lab.home().with_file_name("releases");
    fs::create_dir(&folder).expect("a scratch folder");
    database(&lab, &folder);
    let mode = |path: &Path, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("root may");
    };
    lab.agent_once("perth").expect_success();
    for (path, closed, open) in [
        (folder.clone(), 0o700, 0o755),
        (folder.join("r.db"), 0o600, 0o644),
        (folder.join("r.db-wal"), 0o600, 0o644),
        (folder.join("r.db-shm"), 0o600, 0o644),
    ] {
        mode(&path, closed);
        let outcome = lab.agent_once("perth");
        outcome.expect(1).says("let the master's account enter the folder, and read the database and the files -wal");
        mode(&path, open);
    }
    lab.agent_once("perth").expect_success();
}
