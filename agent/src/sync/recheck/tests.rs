//! A sync that takes long, by a clock of its own and a target that keeps what it is told.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Mutex, Once};

use blat_config::{Home, load_target};
use blat_domain::archive::record::{Found, Owner};
use blat_domain::protocol::status::{SyncReport, SyncResult};
use blat_domain::util::random_id::RandomId;

use super::*;
use crate::sync::Synced;
use crate::targets::fake::Fake;

thread_local! {
    static UPTIME: Cell<u64> = const { Cell::new(1_000) };
}

/// What Release Manager says: one release of these packages.
fn release(path: &Path, packages: &str) {
    let packages: Vec<&str> = packages.split(", ").collect();
    let release = serde_json::json!({"id": 1, "name": "R", "packages": packages});
    let text = serde_json::json!({"projects": [{"name": "Lab", "releases": [release]}]}).to_string();
    fs::write(path, text).expect("a file");
}

/// One sync that lasts so many seconds, in which `during` happens; how it ended, and what was deleted.
async fn sync(
    seconds: u64,
    during: impl Fn(&Path) + Send + Sync + 'static,
) -> (SyncReport, Option<Problem>, Vec<String>) {
    sync_from("{file: releases.yaml}", |releases| release(releases, "a@1"), seconds, during).await
}

/// The same, where Release Manager is this one and begins with what `begin` writes.
async fn sync_from(
    manager: &str,
    begin: impl Fn(&Path),
    seconds: u64,
    during: impl Fn(&Path) + Send + Sync + 'static,
) -> (SyncReport, Option<Problem>, Vec<String>) {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let root = scratch.path();
    for folder in ["config", "source/a/1", "archive"] {
        fs::create_dir_all(root.join(folder)).expect("an own folder");
    }
    fs::write(root.join("source/a/1/descpkg"), "a").expect("a file");
    let releases = root.join("releases.yaml");
    begin(&releases);
    let home = Home::at(root).expect("a path");
    let name = "perth".parse().expect("a name");
    let config = format!(
        "transport: local\nsource: {0}/source\narchive: {0}/archive\nrelease_manager: {manager}\nprojects: [Lab]\n\
         aging: immediate\nmax_delete: 100%\n",
        root.display()
    );
    fs::write(home.target_config(&name), config).expect("a config");
    let settings = load_target(&home, &name).expect("valid settings");
    let happens = Once::new();
    let slow = Arc::new(Fake {
        packages: &["a@1", "b@1", "c@1"],
        // After the first answer, and before the PackageList.
        claim: Box::new(move |_, record| {
            happens.call_once(|| {
                UPTIME.set(UPTIME.get() + seconds);
                during(&releases);
            });
            Found::Record(record.clone())
        }),
        during: Box::new(|| ()),
        changed: Mutex::default(),
    });
    let owner = Owner { home: RandomId::from_random([1; 16]), target: name };
    let mut context = SyncContext::new(&home, settings, owner);
    (context.target, context.uptime) = (slow.clone(), || Duration::from_secs(UPTIME.get()));
    let Synced::Ended(report, problem) = context.sync(None).await else { panic!("no other settings are there") };
    let deleted = slow.changed().into_iter().filter(|what| what.contains('@')).collect();
    (*report, problem, deleted)
}

#[tokio::test]
async fn what_became_wanted_while_a_long_sync_ran_stays() {
    let (report, problem, deleted) = sync(301, |releases| release(releases, "a@1, b@1")).await;
    assert_eq!((problem, report.result, report.deleted), (None, SyncResult::Ok, 1));
    assert_eq!(deleted, ["c@1"]);
}

/// A command that gives what lies in `releases.yaml`, and notes when it was asked.
fn asked_anew(releases: &Path) {
    release(releases, "a@1");
    fs::write(releases.with_file_name("ask"), "date +%s%N >>asked; cat releases.yaml").expect("a file");
}

#[tokio::test]
async fn nothing_goes_by_the_first_answer_of_a_command_alone() {
    let during = |releases: &Path| release(releases, "a@1, b@1");
    let begun = std::time::Instant::now();
    let (report, problem, deleted) = sync_from("{command: [sh, ask]}", asked_anew, 0, during).await;
    assert_eq!((problem, report.result), (None, SyncResult::Ok));
    assert_eq!(deleted, ["c@1"]);
    assert!(begun.elapsed() >= Duration::from_secs(2), "a lock that the first one waited for may still be held");
}

#[tokio::test]
async fn a_sync_that_lets_nothing_go_asks_once() {
    let begin = |releases: &Path| {
        asked_anew(releases);
        release(releases, "a@1, b@1, c@1");
    };
    let during = |releases: &Path| fs::remove_file(releases).expect("a file");
    let (report, problem, deleted) = sync_from("{command: [sh, ask]}", begin, 299, during).await;
    // The source lacks b@1 and c@1, which are there.
    assert_eq!((problem, report.result, deleted.len()), (None, SyncResult::Ok, 0));
}

#[tokio::test]
async fn a_file_that_was_read_while_it_was_written_takes_nothing_that_it_names_in_the_end() {
    // A file server may have another clock, and any program sets these times as it likes.
    let now = std::time::SystemTime::now();
    let (day, moments) = (Duration::from_secs(86_400), Duration::from_secs(4));
    tokio::join!(written_at(now), written_at(now - day), written_at(now + day), written_at(now - moments));
}

/// A file whose two halves have this time, and the second follows when the first was read.
async fn written_at(time: std::time::SystemTime) {
    let write = move |releases: &Path, packages: &str| {
        release(releases, packages);
        let file = fs::File::options().append(true).open(releases).expect("a file");
        file.set_modified(time).expect("an own file");
    };
    let begin = |releases: &Path| write(releases, "a@1");
    let during = move |releases: &Path| write(releases, "a@1, b@1");
    let (report, problem, deleted) = sync_from("{file: releases.yaml}", begin, 0, during).await;
    assert_eq!((problem, report.result), (None, SyncResult::Ok), "{time:?}");
    assert_eq!(deleted, ["c@1"], "{time:?}: b@1 was not written yet when the file was read first");
}

#[tokio::test]
async fn a_file_that_is_replaced_within_two_seconds_is_read_again_as_well() {
    let replace = |releases: &Path| {
        let aside = releases.with_extension("new");
        release(&aside, "a@1, b@1");
        fs::rename(aside, releases).expect("an own folder");
    };
    let (report, problem, deleted) = sync(0, replace).await;
    assert_eq!((problem, report.result), (None, SyncResult::Ok));
    assert_eq!(deleted, ["c@1"]);
}

#[tokio::test]
async fn where_the_releases_cannot_be_read_again_nothing_goes() {
    let (_, problem, deleted) = sync(301, |releases| fs::remove_file(releases).expect("a file")).await;
    let problem = problem.expect("the second question failed");
    assert!(problem.text.contains("cannot read the releases"), "{}", problem.text);
    assert_eq!(deleted, Vec::<String>::new());
}

#[tokio::test]
async fn a_second_answer_that_is_not_trusted_takes_nothing() {
    let (report, problem, deleted) = sync(301, |releases| release(releases, "a@1, ../x@1")).await;
    let held_back = report.held_back.expect("the status says so");
    assert!(held_back.contains("release R (1)") && problem.is_some(), "{held_back}");
    assert_eq!(deleted, Vec::<String>::new());
}

/// What the program sqlite3 says to this.
fn sqlite(database: &Path, sql: &str) -> String {
    let ran = std::process::Command::new("sqlite3").arg(database).arg(sql).output().expect("sqlite3 is installed");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).expect("UTF-8").trim().to_owned()
}

/// Makes a database that wants a@1 and b@1.
fn database(path: &Path) {
    sqlite(
        path,
        "CREATE TABLE project(project_id INTEGER PRIMARY KEY, project_name TEXT);
         CREATE TABLE release(release_id INTEGER PRIMARY KEY, project_id INTEGER, release_name TEXT, state TEXT, s3sync INTEGER);
         CREATE TABLE release_package(release_id INTEGER, package_name TEXT, package_version TEXT);
         CREATE INDEX i ON release_package(release_id, package_name, package_version);
         INSERT INTO project VALUES (1, 'Lab'); INSERT INTO release VALUES (1, 1, 'R', 'open', 0);
         INSERT INTO release_package VALUES (1, 'a', '1')",
    );
}

/// As a copy in place leaves it in the middle: a page of the one database, and the others of the other. All rows are in the table.
#[tokio::test]
async fn a_database_of_which_half_is_an_older_one_takes_nothing() {
    for is_torn in [false, true] {
        let begin = |releases: &Path| {
            database(releases);
            let old = fs::read(releases).expect("a database");
            let pages = sqlite(
                releases,
                "INSERT INTO release_package VALUES (1, 'b', '1'); SELECT rootpage - 1 FROM sqlite_schema WHERE name = 'i'",
            );
            let place = pages.parse::<usize>().expect("a page") * 4096;
            let file = fs::File::options().write(true).open(releases).expect("an own file");
            if is_torn {
                file.write_all_at(&old[place..place + 4096], place as u64).expect("one old page");
            }
        };
        let (_, problem, deleted) = sync_from("{sqlite: releases.yaml}", begin, 0, |_| ()).await;
        if is_torn {
            let problem = problem.expect("it is looked over before anything goes").text;
            assert!(problem.contains("it is damaged, or is being overwritten in place"), "{problem}");
            assert_eq!(deleted, Vec::<String>::new());
        } else {
            assert_eq!((problem, deleted), (None, vec!["c@1".to_owned()]));
        }
    }
}

/// The first half of a copy stands for a moment, undamaged; the rest follows within two seconds, and its application may write at once.
#[tokio::test]
async fn a_database_that_is_overwritten_in_place_takes_nothing_that_it_wants_in_the_end() {
    let begin = |releases: &Path| {
        database(releases);
        let later = releases.with_extension("later");
        fs::copy(releases, &later).expect("a copy");
        sqlite(&later, "INSERT INTO release_package VALUES (1, 'b', '1')");
        // The page with SQLite's counter comes first.
        let page = fs::read(&later).expect("a database")[..4096].to_vec();
        fs::File::options().write(true).open(releases).and_then(|file| file.write_all_at(&page, 0)).expect("written");
    };
    for then in [None, Some("INSERT INTO release_package VALUES (9, 'z', '1')")] {
        let during = move |releases: &Path| {
            let (releases, later) = (releases.to_owned(), releases.with_extension("later"));
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_secs(1));
                let all = fs::read(later).expect("a database");
                let file = fs::File::options().write(true).open(&releases).expect("an own file");
                file.write_all_at(&all[4096..], 4096).expect("written");
                then.iter().for_each(|sql| drop(sqlite(&releases, sql)));
            });
        };
        let (report, problem, deleted) = sync_from("{sqlite: releases.yaml}", begin, 0, during).await;
        assert_eq!((problem, report.result), (None, SyncResult::Ok));
        assert_eq!(deleted, ["c@1"], "b@1 was not written yet when the database was read first; {then:?}");
    }
}

/// Its writers are kept waiting then.
#[tokio::test]
async fn a_database_that_its_application_writes_all_the_time_holds_no_deletion_back() {
    let begin = |releases: &Path| {
        database(releases);
        let releases = releases.to_owned();
        std::thread::spawn(move || {
            // Until the folder is gone.
            while releases.exists() {
                let sql = ["-cmd", ".timeout 60000", "INSERT INTO release_package VALUES (9, 'z', '1')"];
                let _gone = std::process::Command::new("sqlite3").arg("-bail").arg(&releases).args(sql).output();
                std::thread::sleep(Duration::from_millis(200));
            }
        });
    };
    let (report, problem, deleted) = sync_from("{sqlite: releases.yaml}", begin, 0, |_| ()).await;
    assert_eq!((problem, report.result), (None, SyncResult::Ok));
    assert_eq!(deleted, ["b@1", "c@1"]);
}
