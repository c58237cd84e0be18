//! What tags brought outlives `state/`, a full disk, a damaged memory and an older backup: what no release lists yet is not deleted for want of
//! memory.

use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use blat_tests::{Disk, Lab, tree};
use rustix::process::Signal;

/// What lets everything go that nothing wants.
const EAGER: &str = "aging: immediate\nmax_delete: 100%";
/// What the agent says whose memory lacks something.
const UNKNOWN: &str = "does not know what tags brought before";

/// A lab that has synced core@1, with fresh@1 in the source, by releases that were written an hour ago.
fn lab(name: &str) -> Lab {
    lab_with(name, "")
}

fn lab_with(name: &str, config: &str) -> Lab {
    let lab = Lab::new(name);
    ["core", "fresh"].iter().for_each(|name| drop(lab.package(name, "1", |p| p.file("a", name))));
    lab.release(&[("core", "1")]);
    set_written(&lab, SystemTime::now() - Duration::from_secs(3_600));
    lab.config("perth", &format!("{EAGER}\n{config}"));
    lab.agent_once("perth").expect_success();
    lab
}

fn set_written(lab: &Lab, at: SystemTime) {
    let releases = lab.home().join("releases.yaml");
    fs::File::options().write(true).open(releases).and_then(|file| file.set_modified(at)).expect("an own file");
}

fn known(lab: &Lab) -> PathBuf {
    lab.home().join("config/.known/perth.json")
}

fn tag_fresh(lab: &mut Lab) {
    lab.start_master();
    lab.blat(&["tag", "fresh", "1", "--target", "perth", "--wait"]).expect_success();
    lab.end_master(Signal::TERM).expect_success();
}

/// The packages that the releases do not list yet are there still, and not because they were sent anew.
fn assert_kept(lab: &Lab, why: &str) {
    assert_eq!(lab.visible(), ["core@1", "fresh@1"], "{why}");
    let log = fs::read_to_string(lab.home().join("log/perth.log")).expect("a log");
    assert!(!log.contains("INFO  deleted: "), "{why}: {log}");
}

#[test]
fn what_tags_brought_is_known_without_state_and_held_back_for_where_the_memory_is_lost() {
    let mut lab = lab("tagmemory");
    let older = fs::read(known(&lab)).expect("a memory");
    tag_fresh(&mut lab);
    let latest = fs::read(known(&lab)).expect("a memory");

    fs::remove_dir_all(lab.home().join("state")).expect("an own folder");
    lab.agent_once("perth").expect_success();
    assert_kept(&lab, "state/ may be removed at any time");
    fs::write(known(&lab), "").expect("an own file");
    lab.agent_once("perth").expect(1).says("config/.known/perth.json");
    assert_kept(&lab, "a damaged memory holds deletions back");

    fs::write(known(&lab), older).expect("an own file");
    lab.blat(&["plan", "perth"]).expect_success().says("does not know what tags brought before");
    lab.agent_once("perth").expect_success().says("does not know what tags brought before").says("--allow-delete");
    lab.agent_once("perth").expect_success().says("does not know what tags brought before");
    assert_kept(&lab, "an older backup knows nothing of the tag");
    fs::remove_file(known(&lab)).expect("an own file");
    lab.agent_once("perth").expect_success().says("does not know what tags brought before");
    lab.agent_once("perth").expect_success().says("does not know what tags brought before");
    assert_kept(&lab, "the archive is ours, and nothing is known of it");

    // One that was copied back whole knows the tag, whatever Release Manager confirms.
    fs::write(known(&lab), latest).expect("an own file");
    lab.start_master();
    lab.blat(&["sync", "perth", "--wait", "--allow-delete"]).expect_success();
    lab.end_master(Signal::TERM).expect_success();
    assert_kept(&lab, "a tag counts beside what an operator confirms");
}

/// A home that was tried out as a copy, or saved by hard links, and put back: its files are the very ones, and only the archive knows better.
#[test]
fn a_home_that_was_put_back_by_a_rename_is_known_by_the_archive() {
    for served in ["receiver: auto", "receiver: never"] {
        for (way, is_moved) in [("-a", true), ("-al", false)] {
            let mut lab = lab_with("putback", served);
            let (home, week) = (lab.home(), lab.home().with_file_name("week"));
            let (from, to) = if is_moved { (&week, &home) } else { (&home, &week) };
            if is_moved {
                fs::rename(&home, &week).expect("an own folder");
            }
            assert!(Command::new("cp").arg(way).args([from, to]).status().expect("cp").success());
            tag_fresh(&mut lab);
            tree::remove(&home);
            fs::rename(&week, &home).expect("an own folder");
            for _ in 0..2 {
                lab.agent_once("perth").expect_success().says(UNKNOWN);
                assert_eq!(lab.visible(), ["core@1", "fresh@1"], "{served}: {way}");
            }
        }
    }
}

/// As a snapshot of a machine that runs has it: the agent that saw the archive last is the same, and served a tag since.
#[test]
fn a_memory_of_before_a_tag_is_known_though_the_same_agent_wrote_it() {
    for served in ["receiver: auto", "receiver: never"] {
        let mut lab = lab_with("snapshot", served);
        let file = lab.target_archive().join(".dpkg_archive/visit");
        let visit = || fs::read_to_string(&file).expect("a visit");
        let after =
            |lab: &Lab, before: String| lab.wait_for("a visit", || Some(visit()).filter(|visit| *visit != before));
        let once = visit();
        lab.start_master();
        let served_by = after(&lab, once);
        let snapshot = lab.home().join("snapshot");
        fs::hard_link(known(&lab), &snapshot).expect("an own folder");
        lab.blat(&["tag", "fresh", "1", "--target", "perth", "--wait"]).expect_success();
        after(&lab, served_by);
        lab.end_master(Signal::TERM).expect_success();
        fs::rename(&snapshot, known(&lab)).expect("an own folder");
        lab.agent_once("perth").expect_success().says(UNKNOWN);
        assert_kept(&lab, served);
    }
}

/// Its files do not say which ones they are, and its archives have no visits.
#[test]
fn a_memory_of_a_former_version_is_doubted_only_where_the_archive_knows_a_later_one() {
    let mut lab = lab("formermemory");
    let text = fs::read_to_string(known(&lab)).expect("a memory");
    let mut former: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let fields = former.as_object_mut().expect("a memory");
    assert!(fields.remove("born").is_some() && fields.remove("visits").is_some(), "{text}");
    tag_fresh(&mut lab);
    fs::write(known(&lab), former.to_string()).expect("an own file");
    lab.agent_once("perth").expect_success().says(UNKNOWN);
    assert_kept(&lab, "somebody put it back");
    fs::remove_file(lab.target_archive().join(".dpkg_archive/visit")).expect("a visit");
    fs::write(known(&lab), former.to_string()).expect("an own file");
    lab.agent_once("perth").expect_success().says("1 deleted");
}

/// The hold ends by itself, once the releases are known to be newer.
#[test]
fn a_lost_memory_holds_deletions_back_until_the_releases_are_written_anew() {
    let mut lab = lab("tagmemoryends");
    tag_fresh(&mut lab);
    fs::remove_file(known(&lab)).expect("an own file");
    lab.agent_once("perth").expect_success().says("does not know what tags brought before");
    let began = SystemTime::now();
    lab.wait_for("a later second", || began.elapsed().is_ok_and(|since| since.as_secs() > 1).then_some(()));
    lab.release(&[("core", "1")]);
    lab.agent_once("perth").expect_success().says("1 deleted");
    assert_eq!(lab.visible(), ["core@1"]);
}

#[test]
fn a_tag_stays_until_what_it_brings_is_noted_down() {
    let mut lab = lab("tagunnoted");
    // Nothing new can be written there: as with a full disk.
    let folder = known(&lab).parent().expect("a folder").to_owned();
    let closed = |mode| fs::set_permissions(&folder, Permissions::from_mode(mode)).expect("an own folder");
    closed(0o500);
    lab.start_master();
    let tag = lab.drop_tag("perth", "fresh", "1");
    lab.wait_until_published("fresh", "1");
    let said = |s: &serde_json::Value| s.to_string().contains("cannot write config/.known/perth.json");
    lab.wait_for_status("perth", "that the memory cannot be written", said);
    assert!(tag.exists(), "the tag is the only memory there is");
    lab.blat(&["sync", "perth", "--wait"]).expect(1).says("config/.known/perth.json");
    assert_kept(&lab, "nothing is deleted meanwhile");

    closed(0o700);
    lab.wait_for("the tag to be consumed", || (!tag.exists()).then_some(()));
    lab.end_master(Signal::KILL);
    lab.wait_until_nothing_runs();
    fs::remove_dir_all(lab.home().join("state")).expect("an own folder");
    lab.agent_once("perth").expect_success();
    assert_kept(&lab, "what was noted down outlives the processes");
}

/// A time that somebody sets ahead says nothing, now or later.
#[test]
fn releases_whose_time_lies_ahead_are_not_newer_than_a_tag_when_the_clock_reaches_it() {
    let mut lab = lab("timeahead");
    let ahead = SystemTime::now() + Duration::from_secs(6);
    set_written(&lab, ahead);
    tag_fresh(&mut lab);
    lab.wait_for("the clock to reach it", || {
        SystemTime::now().duration_since(ahead).is_ok_and(|since| since.as_secs() > 0).then_some(())
    });
    lab.agent_once("perth").expect_success();
    assert_kept(&lab, "the releases were written before the tag");
}

/// As if the master's clock had been an hour ahead until the agent ended, and were right again.
#[test]
fn releases_that_were_there_when_a_tag_came_are_not_newer_once_the_clock_is_set_back() {
    let mut lab = lab("clockback");
    set_written(&lab, SystemTime::now() - Duration::from_secs(5));
    tag_fresh(&mut lab);
    let noted = fs::read_to_string(known(&lab)).expect("a memory");
    let start = noted.split_once(r#""start":"#).and_then(|(_, rest)| rest.split(['}', ',']).next()).expect("a clock");
    let ahead = start.parse::<i64>().expect("an epoch second") + 3_600;
    let noted = noted.replace(&format!(r#""start":{start}"#), &format!(r#""start":{ahead}"#));
    fs::write(known(&lab), noted).expect("an own file");
    lab.agent_once("perth").expect_success();
    assert_kept(&lab, "the releases were written before the tag");
    lab.release(&[("core", "1")]);
    lab.agent_once("perth").expect_success().says("1 deleted");
}

/// Giving it another name, or another mode, changes the file, and not what it says.
#[test]
fn releases_whose_time_lies_ahead_are_not_newer_than_a_tag_when_the_file_gets_another_name_or_mode() {
    let mut lab = lab("timeset");
    set_written(&lab, SystemTime::now() + Duration::from_secs(3_600));
    tag_fresh(&mut lab);
    let tagged = SystemTime::now();
    lab.wait_for("a later second", || tagged.elapsed().is_ok_and(|since| since.as_secs() > 1).then_some(()));
    let releases = lab.home().join("releases.yaml");
    fs::hard_link(&releases, lab.home().join("other.yaml")).expect("a link");
    lab.agent_once("perth").expect_success();
    assert_kept(&lab, "the releases have another name as well");
    fs::set_permissions(&releases, fs::Permissions::from_mode(0o640)).expect("an own file");
    lab.agent_once("perth").expect_success();
    assert_kept(&lab, "the releases have another mode");
    lab.release(&[("core", "1")]);
    lab.agent_once("perth").expect_success().says("1 deleted");
}

/// The files of a database change when no row does.
#[test]
fn a_sqlite_database_that_is_tidied_up_or_merely_opened_is_not_newer_than_a_tag() {
    let mut lab = lab("sqlitetrails");
    let sql = |lab: &Lab, text: &str| {
        let mut command = std::process::Command::new("sqlite3");
        blat_tests::process::run(command.arg(lab.home().join("rm.db")).arg(text), &lab.home()).expect_success();
    };
    sql(
        &lab,
        "PRAGMA journal_mode = WAL;
         CREATE TABLE project (project_id, project_name);
         CREATE TABLE release (release_id, project_id, release_name, state, s3sync);
         CREATE TABLE release_package (release_id, package_name, package_version);
         INSERT INTO project VALUES (1, 'Perth');
         INSERT INTO release VALUES (10, 1, 'R', 'open', 0);
         INSERT INTO release_package VALUES (10, 'core', '1');",
    );
    lab.config(
        "perth",
        &format!("release_manager: {{sqlite: {}}}\nprojects: [Perth]\n{EAGER}", lab.home().join("rm.db").display()),
    );
    tag_fresh(&mut lab);
    let tagged = SystemTime::now();
    lab.wait_for("a later second", || tagged.elapsed().is_ok_and(|since| since.as_secs() > 1).then_some(()));
    for (what, text) in
        [("checkpoint", "PRAGMA wal_checkpoint(TRUNCATE)"), ("VACUUM", "VACUUM"), ("look", "SELECT 1 FROM project")]
    {
        sql(&lab, text);
        lab.agent_once("perth").expect_success();
        assert_kept(&lab, what);
    }
    // What a release lists, no tag has to vouch for any more.
    sql(&lab, "INSERT INTO release_package VALUES (10, 'fresh', '1')");
    lab.agent_once("perth").expect_success();
    sql(&lab, "DELETE FROM release_package WHERE package_name = 'fresh'");
    lab.agent_once("perth").expect_success().says("1 deleted");
    assert_eq!(lab.visible(), ["core@1"]);
}

/// A tmpfs does not tell that a file was written through memory: its times stay, and so does all else that can be looked up.
#[test]
fn as_root_nothing_is_deleted_by_a_file_of_releases_that_was_not_read_for_it() {
    let mut lab = Lab::new("mapped");
    for (name, version) in [("core", "1.1"), ("core", "1.10"), ("other", "1.0")] {
        lab.package(name, version, |p| p.file("a", version));
    }
    lab.release(&[("core", "1.1"), ("core", "1.10")]);
    lab.config("perth", "");
    lab.agent_once("perth").expect_success();
    let folder = lab.home().join("mapped");
    fs::create_dir(&folder).expect("a scratch folder");
    lab.hand_over();
    let _disk = Disk::mount(folder.clone(), "size=1m");
    let file = folder.join("releases.yaml");
    let releases = |last: &str| {
        format!("projects: [{{name: Lab, releases: [{{id: 1, name: R, packages: [core@1.10, {last}]}}]}}]\n")
    };
    fs::write(&file, releases("other@1.0")).expect("a scratch file");
    // What is written where the mapping was written to before leaves no trace.
    let mapped = "import mmap, sys\nfile = open(sys.argv[1], 'r+b')\nmapped = mmap.mmap(file.fileno(), 0)\n\
                  mapped[:] = mapped[:]\nprint(flush=True)\nmapped[:] = sys.stdin.buffer.read()\n";
    let mut writer = Command::new("python3")
        .args(["-c", mapped])
        .arg(&file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3, which tests/lab/setup installs");
    writer.stdout.take().expect("a pipe").read_exact(&mut [0]).expect("a writer");
    let aging = "aging: {by: master, after: 15s}\nmax_delete: 100%\nsync: 1s";
    lab.config("perth", &format!("release_manager: {{file: {}}}\n{aging}", file.display()));
    lab.start_master();
    let mark = lab.target_archive().join(".dpkg_archive/aged/core@1.1");
    lab.wait_for("core@1.1 to be marked", || mark.exists().then_some(()));
    let marked = Instant::now();
    // By then the file is no longer read each time.
    thread::sleep(Duration::from_secs(8));
    let before = fs::metadata(&file).expect("a file");
    writer.stdin.take().expect("a pipe").write_all(releases("core@1.1 ").as_bytes()).expect("a writer");
    assert!(writer.wait().expect("a child").success());
    let after = fs::metadata(&file).expect("a file");
    assert_eq!(
        (before.mtime_nsec(), before.ctime_nsec()),
        (after.mtime_nsec(), after.ctime_nsec()),
        "this shows nothing"
    );
    lab.wait_for("the mark's time to pass", || (marked.elapsed() > Duration::from_secs(16)).then_some(()));
    lab.blat(&["sync", "perth", "--wait"]);
    lab.wait_for("the mark to go", || (!mark.exists()).then_some(()));
    lab.assert_published("core", "1.1");
}
