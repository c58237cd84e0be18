//! Whoever may write the releases, or is the server that they are asked of, makes nobody delete a package, and takes neither memory nor time.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use blat_tests::accounts::Account;
use blat_tests::database::PASSWORD;
use blat_tests::fake_database::{self, Malice};
use blat_tests::memory::{MOST_MORE, watched};
use blat_tests::process::most_memory;
use blat_tests::{Database, Kind, Lab};

/// A lab that holds core@1.1 and core@1.10 at the target, where whatever is not wanted goes at once.
fn lab(name: &str) -> Lab {
    let lab = Lab::new(name);
    for version in ["1.1", "1.10"] {
        lab.package("core", version, |p| p.file("a", version));
    }
    lab.package("other", "1", |p| p.file("a", "1"));
    lab.release(&[("core", "1.1"), ("core", "1.10")]);
    lab.config("perth", "");
    lab.agent_once("perth").expect_success();
    lab
}

const DELETES: &str = "aging: immediate\nmax_delete: 100%";

/// What a row that may mean something else says, in each kind of database: its package table, and words of the report.
fn rows_that_may_mean_something_else(kind: Kind, tables: &[(&str, &str)]) {
    let lab = lab(&format!("oddrows{kind}"));
    let database = Database::new(&lab, kind);
    let to = if kind == Kind::Postgres { "blat" } else { "'blat'@'%'" };
    database.release(10, "Lab 1", "open", &[("core", "1.10")]);
    lab.config("perth", &format!("{}\n{DELETES}", database.config_with(PASSWORD, "")));
    for (table, words) in tables {
        database.sql(&format!(
            "DROP TABLE release_package; CREATE TABLE release_package {table} GRANT SELECT ON release_package TO {to};"
        ));
        let outcome = lab.agent_once("perth");
        match *words {
            "" => {
                outcome.expect_success();
                assert_eq!(lab.package_list(), ["core 1.1", "core 1.10"], "{table}");
            }
            words => {
                outcome.says(words);
            }
        }
        assert_eq!(lab.visible(), ["core@1.1", "core@1.10"], "{table}: nothing goes");
    }
}

#[test]
fn rows_of_postgres_that_may_mean_something_else_hold_deletions_back() {
    let both = "INSERT INTO release_package VALUES";
    rows_that_may_mean_something_else(
        Kind::Postgres,
        &[
            (
                &format!(
                    "(release_id text, package_name char(30), package_version varchar(9)); {both} ('10', 'core', '1.1'), ('10', 'core', '1.10');"
                ),
                "",
            ),
            (
                &format!(
                    "(release_id numeric, package_name text, package_version text); {both} (10, 'core', '1.1'), (10, 'core', '1.10');"
                ),
                "",
            ),
            (
                &format!(
                    "(release_id int, package_name text, package_version numeric(10,2)); {both} (10, 'core', 1.1);"
                ),
                "the number 1.10",
            ),
            (
                &format!("(release_id int, package_name text, package_version float8); {both} (10, 'core', 1.10);"),
                "a value of type FLOAT8 (1.1)",
            ),
            (
                &format!(
                    "(release_id text, package_name text, package_version text); {both} ('10', 'core', '1.10'), ('010', 'core', '1.1');"
                ),
                "write it as 10",
            ),
            (
                &format!(
                    "(release_id numeric(10,2), package_name text, package_version text); {both} (10.5, 'core', '1.10');"
                ),
                "10.50",
            ),
            (
                &format!(
                    "(release_id numeric(10,2), package_name varchar(30), package_version char(9)); {both} (10, 'core  ', '1.1'), (10, 'core', '1.10'), \
                     (20, 'core', '3');"
                ),
                "",
            ),
            (
                &format!("(release_id int, package_name bytea, package_version text); {both} (10, 'core', '1.10');"),
                "of type BYTEA",
            ),
            (
                &format!(
                    "(release_id int, package_name text, package_version text[]); {both} (10, 'core', '{{1.10}}');"
                ),
                "of type TEXT[]",
            ),
            (
                &format!(
                    "(release_id int, package_name text, package_version date); {both} (10, 'core', '2026-01-02');"
                ),
                "of type DATE",
            ),
            (
                &format!(
                    "(release_id int, package_name text, package_version text); {both} (10, 'core', '1.10'), (NULL, 'core', '1.1');"
                ),
                "its release_id is missing",
            ),
        ],
    );
}

#[test]
fn rows_of_mysql_that_may_mean_something_else_hold_deletions_back() {
    let both = "INSERT INTO release_package VALUES";
    rows_that_may_mean_something_else(
        Kind::MariaDb,
        &[
            (
                &format!(
                    "(release_id varchar(9), package_name char(30), package_version varbinary(9)); {both} ('10', 'core', '1.1'), ('10', 'core', '1.10');"
                ),
                "",
            ),
            (
                &format!(
                    "(release_id int(5) unsigned zerofill, package_name text, package_version text); {both} (10, 'core', '1.1'), (10, 'core', '1.10');"
                ),
                "",
            ),
            (
                &format!(
                    "(release_id int, package_name text, package_version decimal(10,2)); {both} (10, 'core', 1.1);"
                ),
                "the number 1.10",
            ),
            (
                &format!("(release_id int, package_name text, package_version double); {both} (10, 'core', 1.10);"),
                "a value of type DOUBLE (1.1)",
            ),
            (
                &format!(
                    "(release_id varchar(9), package_name text, package_version text); {both} ('10', 'core', '1.10'), ('010', 'core', '1.1');"
                ),
                "write it as 10",
            ),
            (
                &format!(
                    "(release_id varchar(9), package_name text, package_version text); {both} ('10', 'core', '1.10'), (' 10', 'core', '1.1');"
                ),
                "write it as 10",
            ),
            (
                &format!(
                    "(release_id char(9), package_name char(30), package_version varchar(9)); {both} ('10', 'core', '1.10'), ('10 ', 'core', '1.1  ');"
                ),
                "",
            ),
            (
                &format!(
                    "(release_id decimal(10,2), package_name text, package_version text); {both} (10, 'core', '1.1'), (10, 'core', '1.10');"
                ),
                "",
            ),
            (
                &format!(
                    "(release_id varchar(9), package_name text, package_version text); {both} ('10', 'core', '1.10'), ('10x', 'core', '1.1');"
                ),
                "no whole number",
            ),
            (
                &format!("(release_id int, package_name text, package_version bit(8)); {both} (10, 'core', 49);"),
                "of type BIT",
            ),
            (
                &format!("(release_id int, package_name text, package_version year); {both} (10, 'core', 2026);"),
                "of type YEAR",
            ),
            (
                &format!(
                    "(release_id int, package_name text, package_version text); {both} (10, 'core', '1.10'), (NULL, 'core', '1.1');"
                ),
                "its release_id is missing",
            ),
        ],
    );
}

/// A version that is kept as the number 1.1 may have been written as 1.10.
#[test]
fn a_version_that_sqlite_keeps_as_a_number_wants_nothing_and_deletes_nothing() {
    let lab = lab("real");
    let sql = |text: &str| {
        let mut command = std::process::Command::new("sqlite3");
        blat_tests::process::run(command.arg(lab.home().join("rm.db")).arg(text), &lab.home()).expect_success();
    };
    sql("CREATE TABLE project(project_id, project_name); CREATE TABLE release(release_id, project_id, release_name, state, s3sync);
         CREATE TABLE release_package(release_id, package_name, package_version NUMERIC);
         INSERT INTO project VALUES (1, 'Lab'), (2, 'Other'); INSERT INTO release VALUES (10, 1, 'L', 'open', 0), (20, 2, 'O', 'open', 0);
         INSERT INTO release_package VALUES (10, 'core', '1.10');");
    lab.hand_over();
    lab.config("perth", &format!("release_manager: {{sqlite: rm.db}}\n{DELETES}\npkg: {{other: 1}}"));
    lab.agent_once("perth").says("a value of type REAL (1.1)").says("core");
    assert_eq!(lab.visible(), ["core@1.1", "core@1.10", "other@1"], "nothing goes");

    lab.config("perth", &format!("release_manager: {{sqlite: rm.db}}\n{DELETES}"));
    sql("DROP TABLE release_package; CREATE TABLE release_package(release_id, package_name, package_version);
         INSERT INTO release_package VALUES (10, 'core', '1.1'), ('10', 'core', '1.10'), (20, 'core', 1.10);");
    lab.agent_once("perth").expect_success().says("1 deleted");
    assert_eq!(lab.visible(), ["core@1.1", "core@1.10"], "an id is the same as text and as a number");

    sql("DELETE FROM release_package WHERE package_version = '1.10'");
    lab.agent_once("perth").expect_success().says("1 deleted");
    assert_eq!(lab.visible(), ["core@1.1"], "the odd row of a project that nobody selects hinders nobody");
}

#[test]
fn a_null_in_a_file_or_from_a_command_hinders_those_who_select_it_and_nobody_else() {
    let lab = lab("nulls");
    let releases = lab.home().join("releases.yaml");
    let write = |odd: &str| {
        let text = format!(
            "{{\"projects\": [{{\"name\": \"Lab\", \"releases\": [{{\"id\": 1, \"name\": \"L\", \"packages\": [\"core@1.1\"]}}]}}, \
             {{\"name\": \"Other\", \"releases\": [{odd}]}}]}}"
        );
        fs::write(&releases, text).expect("an own file");
        lab.hand_over();
    };
    for odd in
        [r#"{"id": 2, "name": "O", "state": null}"#, r#"{"id": null, "name": "O"}"#, r#"{"id": 2, "name": null}"#]
    {
        for manager in ["release_manager: {file: releases.yaml}", "release_manager: {command: [cat, releases.yaml]}"] {
            write(odd);
            let keep = "pkg: {core: 1.10}";
            lab.config("perth", &format!("{manager}\n{DELETES}\nprojects: [Lab, Other]\n{keep}"));
            lab.agent_once("perth").expect_success();
            lab.config("perth", &format!("{manager}\n{DELETES}\nprojects: [Lab, Other]"));
            lab.agent_once("perth");
            assert_eq!(lab.visible(), ["core@1.1", "core@1.10"], "{manager} with {odd}: it hinders who selects it");
            lab.config("perth", &format!("{manager}\n{DELETES}"));
            lab.agent_once("perth").expect_success().says("1 deleted");
            assert_eq!(lab.visible(), ["core@1.1"], "{manager} with {odd}: nobody else");
        }
    }
}

/// A file or a command is read in another process: neither what it holds nor what it costs to read is the agent's.
#[test]
fn a_large_file_or_command_of_releases_costs_the_agent_little_memory() {
    let lab = lab("large");
    let releases = lab.home().join("releases.yaml");
    let rest = watched(lab.start_agent_once("perth")).1;
    let many = |name: &str, count: usize| {
        let packages: Vec<String> = (0..count).map(|n| format!("\"{name}{}@1.{n}\"", n / 100)).collect();
        packages.join(",")
    };
    let text = format!(
        "{{\"projects\": [{{\"name\": \"Lab\", \"releases\": [{{\"id\": 1, \"name\": \"L\", \"packages\": [\"core@1.1\",{}]}}]}}, \
         {{\"name\": \"Other\", \"releases\": [{{\"id\": 2, \"name\": \"O\", \"packages\": [{}]}}]}}]}}",
        many("mine", 100_000),
        many("theirs", 150_000)
    );
    for manager in ["{file: releases.yaml}", "{command: [cat, releases.yaml]}"] {
        fs::write(&releases, &text).expect("an own file");
        lab.config("perth", &format!("release_manager: {manager}\n{DELETES}\ninclude: [core]\npkg: {{core: 1.10}}"));
        let (outcome, peak) = watched(lab.start_agent_once("perth"));
        outcome.expect_success();
        assert!(peak < rest + MOST_MORE, "{manager}: {peak} bytes, and at rest {rest}");
        assert_eq!(lab.visible(), ["core@1.1", "core@1.10"], "{manager}");
    }
    let file = fs::File::options().write(true).open(&releases).expect("an own file");
    file.set_len((64 << 20) + 1).expect("a file with a hole");
    lab.config("perth", &format!("release_manager: {{file: releases.yaml}}\n{DELETES}"));
    lab.agent_once("perth").expect(1).says("larger than 64 MiB");
    lab.config("perth", &format!("release_manager: {{command: [cat, releases.yaml]}}\n{DELETES}"));
    lab.agent_once("perth").expect(1).says("more than 64 MiB");
    assert_eq!(lab.visible(), ["core@1.1", "core@1.10"], "nothing goes");
}

/// Releases may list whatever they like: what the source lacks costs neither memory nor the log, and what it has arrives.
#[test]
fn a_hundred_thousand_wanted_packages_that_the_source_lacks_cost_little_memory_and_few_lines() {
    let lab = lab("lacking");
    let rest = watched(lab.start_agent_once("perth")).1;
    let mut list: Vec<String> = (0..100_000).map(|number| format!("lacking 1.{number}")).collect();
    list.extend(["other 1".to_owned(), "# end 100001".to_owned()]);
    fs::write(lab.home().join("wanted.txt"), list.join("\n") + "\n").expect("an own file");
    lab.config("perth", &format!("release_manager: {{package_list: wanted.txt}}\nprojects: []\n{DELETES}"));
    let (outcome, peak) = watched(lab.start_agent_once("perth"));
    outcome.expect(1).says("more wanted packages cannot be sent");
    let lines = outcome.stderr.matches("the source has no such package").count();
    assert!((1..50).contains(&lines), "{lines} lines of a hundred thousand: {}", outcome.stderr);
    assert!(peak < rest + MOST_MORE, "{peak} bytes, and at rest {rest}");
    assert!(lab.visible().contains(&"other@1".to_owned()), "{:?}", lab.visible());
}

/// A server that does its worst: the agent says what happened, deletes nothing, and takes no memory.
fn hostile_servers(kind: Kind) {
    let mut lab = lab(&format!("hostile{kind}"));
    lab.release(&[("core", "1.1"), ("core", "1.10")]);
    lab.start_master();
    lab.wait_for_status("perth", "idle", |s| s["state"] == "idle" && s["last_sync"]["result"] == "ok");
    let pid = u32::try_from(lab.target_status("perth")["pid"].as_u64().expect("a pid")).expect("a pid");
    let rest = most_memory(pid);
    for malice in Malice::ALL {
        let port = fake_database::start(kind, malice);
        let scheme = if kind == Kind::Postgres { "postgres" } else { "mysql" };
        let url = format!("{scheme}://blat@127.0.0.1:{port}/rm");
        lab.config("perth", &format!("release_manager: {{{scheme}: \"{url}\", timeout: 8s}}\n{DELETES}"));
        let error = lab.wait_for("the sync to fail by that server", || {
            let text = lab.target_status("perth")["last_error"]["text"].as_str()?.to_owned();
            text.contains(&format!(":{port}/")).then_some(text)
        });
        eprintln!("{kind} {malice:?}: {error}");
        assert!(error.contains("cannot read the releases from") && error.len() < 1000, "{malice:?}: {error}");
        assert!(!error.contains(".rs:"), "{malice:?}: a place in the source is no reason: {error}");
        let now = most_memory(pid);
        assert!(now < rest + (64 << 20), "{malice:?}: {now} bytes, and at rest {rest}");
        assert_eq!(lab.visible(), ["core@1.1", "core@1.10"], "{malice:?}: nothing goes");
    }
    assert_eq!(lab.target_status("perth")["pid"], pid, "the agent lives on");
    lab.wait_for("no process to be left that reads", || {
        let left = lab.local_processes();
        (left.iter().filter(|process| process.name.starts_with("blat-agent")).count() <= 1).then_some(())
    });
}

#[test]
fn a_hostile_postgres_server_costs_neither_memory_nor_packages() {
    hostile_servers(Kind::Postgres);
}

#[test]
fn a_hostile_mysql_server_costs_neither_memory_nor_packages() {
    hostile_servers(Kind::MariaDb);
}

/// Release Manager's database in a folder of its own account, with what that account does there.
struct Releases<'a> {
    lab: &'a Lab,
    folder: PathBuf,
}

impl<'a> Releases<'a> {
    /// In WAL mode, with one release of core@1.1; nobody has it open. The master's group may do in the folder what the mode says.
    fn new(lab: &'a Lab, name: &str, mode: u32) -> Self {
        let folder = lab.home().with_file_name(name);
        fs::create_dir(&folder).expect("a scratch folder");
        let group = Account::Master.ids().1;
        std::os::unix::fs::chown(&folder, Some(Account::ReleaseManager.ids().0), Some(group)).expect("root may");
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).expect("root may");
        let releases = Self { lab, folder };
        releases.sql(
            "PRAGMA journal_mode = wal; CREATE TABLE project(project_id, project_name);
             CREATE TABLE release(release_id, project_id, release_name, state, s3sync);
             CREATE TABLE release_package(release_id, package_name, package_version);
             INSERT INTO project VALUES (1, 'Lab'); INSERT INTO release VALUES (10, 1, 'L', 'open', 0);
             INSERT INTO release_package VALUES (10, 'core', '1.1');",
        );
        lab.config("perth", &format!("release_manager: {{sqlite: {}}}", releases.path("").display()));
        releases
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.folder.join(format!("r.db{suffix}"))
    }

    /// What Release Manager writes in one go.
    fn sql(&self, text: &str) {
        let path = self.path("").display().to_string();
        self.lab.run_as(Account::ReleaseManager, &["sqlite3", "-bail", &path, text]).expect_success();
    }

    /// A process of Release Manager's that did this and keeps the database open.
    fn writer(&self, text: &str) -> Child {
        let mut command = Account::ReleaseManager.command("sqlite3");
        command.arg("-bail").arg(self.path("")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut writer = command.spawn().expect("sqlite3 is installed");
        let stdin = writer.stdin.as_mut().expect("a pipe");
        stdin
            .write_all(format!("{text}\n.shell echo done\n").as_bytes())
            .and_then(|()| stdin.flush())
            .expect("it reads");
        let mut lines = BufReader::new(writer.stdout.take().expect("a pipe")).lines();
        assert!(lines.any(|line| line.expect("UTF-8") == "done"), "it does what it was given");
        writer
    }

    /// Ends a writer in the middle of its work.
    fn kill(mut writer: Child) {
        writer.kill().and_then(|()| writer.wait()).expect("an own child");
    }

    /// The files of the folder, all of them Release Manager's own.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.folder).expect("a folder").map(|entry| entry.expect("an entry"));
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = entry.metadata().expect("a file").uid();
            assert_eq!(owner, Account::ReleaseManager.ids().0, "{name} belongs to Release Manager");
            names.push(name);
        }
        names.sort();
        names
    }

    /// A sync finds this in the database, and the folder's files stay.
    fn syncs(&self, wanted: &[&str], files: &[&str]) {
        assert_eq!(self.files(), files, "before the sync");
        self.lab.agent_once("perth").expect_success();
        assert_eq!(self.lab.package_list(), wanted);
        assert_eq!(self.files(), files, "after the sync");
        let copy = self.lab.home().join("state/perth/database");
        assert!(!copy.exists(), "no copy stays");
    }
}

/// Whether the master could write in the folder or not: Release Manager goes on writing, and the master reads what it wrote.
#[test]
fn as_root_a_sqlite_database_in_wal_mode_stays_its_owners_whatever_the_master_may_write() {
    for (name, mode) in [("shared", 0o2775), ("closed", 0o755)] {
        let lab = lab(&format!("wal{name}"));
        let releases = Releases::new(&lab, name, mode);
        releases.syncs(&["core 1.1"], &["r.db"]);
        releases.sql("UPDATE release_package SET package_version = '1.10'");
        releases.syncs(&["core 1.10"], &["r.db"]);

        let writer = releases.writer("INSERT INTO release_package VALUES (10, 'core', '1.1');");
        releases.syncs(&["core 1.1", "core 1.10"], &["r.db", "r.db-shm", "r.db-wal"]);
        Releases::kill(writer);
        releases.syncs(&["core 1.1", "core 1.10"], &["r.db", "r.db-shm", "r.db-wal"]);
        fs::remove_file(releases.path("-shm")).expect("root may");
        releases.syncs(&["core 1.1", "core 1.10"], &["r.db", "r.db-wal"]);
        releases.sql("DELETE FROM release_package WHERE package_version = '1.1'");
        releases.syncs(&["core 1.10"], &["r.db"]);
    }
}

#[test]
fn as_root_a_transaction_that_release_manager_did_not_end_is_rolled_back_in_a_private_copy() {
    let lab = lab("hotjournal");
    let releases = Releases::new(&lab, "closed", 0o755);
    releases.sql(
        "PRAGMA journal_mode = delete; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 500)
         INSERT INTO release_package SELECT 99, hex(zeroblob(500)), i FROM n;",
    );
    let writer = releases.writer("PRAGMA cache_size = 5; BEGIN; UPDATE release_package SET package_version = '1.10';");
    Releases::kill(writer);
    releases.syncs(&["core 1.1"], &["r.db", "r.db-journal"]);
    releases.sql("UPDATE release_package SET package_version = '1.10'");
    releases.syncs(&["core 1.10"], &["r.db"]);
}
