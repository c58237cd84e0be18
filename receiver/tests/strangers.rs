//! What other accounts at the target, its file system and its root put in the way: one package or nobody suffers, and it is said by name.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use blat_domain::archive::package_list::Purge;
use blat_domain::protocol::frames::{Lane, Request};
use sha2::{Digest as _, Sha256};
use support::package::{How, Package};
use support::{Agent, Archive, Said, wait_for};

/// An account that is neither root nor the archive's owner.
const STRANGER: u32 = 54_321;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).mode() & 0o7777
}

/// Stores a PackageList; the lines of the answer.
fn store(agent: &mut Agent) -> Vec<String> {
    let list = b"# end 0\n";
    agent.send(
        Lane::CONTROL,
        &Request::Store { bytes: list.len() as u64, digest: Sha256::digest(list).into(), purge: Purge::Allowed },
    );
    agent.send(Lane::CONTROL, &Request::Data(list));
    let mut lines = agent.lines(Lane::CONTROL).expect("it is stored");
    lines.retain(|line| !line.starts_with("former "));
    lines
}

#[test]
fn more_leftovers_than_a_greeting_can_name_lock_nobody_out_and_are_swept() {
    let archive = Archive::new();
    let long = "l".repeat(100);
    // Their names alone are longer than any frame.
    for number in 0..3000 {
        fs::create_dir_all(archive.house(&format!("stage/{long}{number}@1/package"))).expect("a directory");
    }
    let mut agent = Agent::start(&archive.path);
    let remains = agent.remains();
    assert!((400..1000).contains(&remains.len()), "{} are named", remains.len());
    assert_eq!(Package::new("p", "1").deliver(&mut agent, &How::default()), "published p 1");
    let count = || fs::read_dir(archive.house("stage")).map_or(0, Iterator::count);
    wait_for("the sweeping of all others", || count() == remains.len());
    assert!(remains.iter().all(|package| archive.house(&format!("stage/{package}")).exists()));
    agent.ask(Lane::CONTROL, &Request::Sweep { keep: vec![] }).expect("a sweep");
    assert_eq!(count(), 0);
    drop(agent);
    assert_eq!(Agent::start(&archive.path).remains(), Vec::<String>::new());
}

#[test]
fn locks_and_stages_are_closed_to_others_also_those_of_an_older_version() {
    let archive = Archive::new();
    for room in ["stage", "trash", "manifests"] {
        fs::create_dir_all(archive.house(room)).expect("a directory");
        fs::set_permissions(archive.house(room), fs::Permissions::from_mode(0o755)).expect("a mode");
    }
    for lock in ["publish.lock", "stage/p@1.lock", "stage/delete-1-1.lock"] {
        fs::write(archive.house(lock), "").expect("a file");
        fs::set_permissions(archive.house(lock), fs::Permissions::from_mode(0o664)).expect("a mode");
    }
    let mut agent = Agent::start(&archive.path);
    let package = Package::new("p", "1").mode(0o755);
    let entries = package.send_entries(&mut agent, &How::default()).len() as u64;
    wait_for("the stage", || archive.house("stage/p@1/package").exists());
    assert_eq!([mode(&archive.house("stage/p@1.lock")), mode(&archive.house("stage/p@1"))], [0o600, 0o700]);
    package.send_files(&mut agent, &How::default(), &[]);
    agent.send(Lane::BULK, &Request::Whole { entries, manifest: package.manifest_digest() });
    assert_eq!(agent.ask(Lane::BULK, &Request::Publish), Ok(vec!["published p 1".into()]));
    assert_eq!(store(&mut agent), Vec::<String>::new());
    let house = ["publish.lock", "stage", "trash", "", "manifests"].map(|path| mode(&archive.house(path)));
    assert_eq!(house, [0o600, 0o700, 0o700, 0o755, 0o755]);
    assert_eq!(mode(&archive.path.join("p/1")), 0o755);
}

#[test]
fn as_root_no_other_account_can_hold_a_lock_so_nobody_stops_publishing() {
    let archive = Archive::new();
    // As an older version left it.
    fs::create_dir_all(archive.house("stage")).expect("a directory");
    fs::write(archive.house("publish.lock"), "").expect("a file");
    let mut agent = Agent::start_unprivileged(&archive);
    assert_eq!(Package::new("p", "1").deliver(&mut agent, &How::default()), "published p 1");
    let waiting = Package::new("q", "1");
    let entries = waiting.send_entries(&mut agent, &How { number: 2, ..How::default() }).len() as u64;
    wait_for("its stage", || archive.house("stage/q@1/package").exists());
    for lock in ["publish.lock", "stage/q@1.lock", "stage", "trash"] {
        let mut command = Command::new("flock");
        command.args(["--exclusive", "--nonblock"]).arg(archive.house(lock)).arg("true").uid(STRANGER).gid(STRANGER);
        let output = command.output().expect("a command of every Linux");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("Permission denied"), "{lock}: {said}");
    }
    waiting.send_files(&mut agent, &How::default(), &[]);
    agent.send(Lane::BULK, &Request::Whole { entries, manifest: waiting.manifest_digest() });
    assert_eq!(agent.ask(Lane::BULK, &Request::Publish), Ok(vec!["published q 1".into()]));
}

/// A small ext4 over a directory, whose inodes hold no time after 2038 or before 1901.
struct SmallInodes<'a>(&'a Path);

impl<'a> SmallInodes<'a> {
    fn mount(archive: &'a Archive) -> Self {
        let image = archive.beside("disk");
        fs::File::create(&image).and_then(|file| file.set_len(16 << 20)).expect("a file");
        let made = Command::new("mkfs.ext4").args(["-q", "-F", "-I", "128"]).arg(&image).status();
        assert!(made.expect("a command of the lab").success());
        let mounted = Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&archive.path).status();
        assert!(mounted.expect("a command of every Linux").success());
        Self(&archive.path)
    }
}

impl Drop for SmallInodes<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[test]
fn as_root_a_time_that_the_file_system_cannot_hold_is_a_failure_that_says_so_and_nothing_is_published() {
    let archive = Archive::new();
    let _disk = SmallInodes::mount(&archive);
    let mut agent = Agent::start(&archive.path);
    for (time, got) in [(4_300_000_000, 2_147_483_647), (-3_000_000_000, -2_147_483_648_i64)] {
        let line = Package::new("p", "1").time(time).deliver(&mut agent, &How::default());
        let why = format!("cannot have the time {time} on this file system, which makes {got} of it");
        assert!(line.starts_with("failed p 1 foreign ") && line.contains(&why), "{line}");
        assert!(!archive.path.join("p").exists());
    }
    assert_eq!(Package::new("p", "1").deliver(&mut agent, &How::default()), "published p 1");
}

/// Something that only root can remove.
fn plant(path: &Path) {
    fs::create_dir_all(path).expect("a directory");
    fs::write(path.join("file"), "root's").expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a mode");
}

fn give_to_nobody(path: &Path) {
    chown(path, Some(65_534), Some(65_534)).expect("root may");
}

#[test]
fn as_root_a_folder_of_root_in_the_trash_is_named_and_left_and_everything_goes_on() {
    let archive = Archive::new();
    let mut agent = Agent::start_unprivileged(&archive);
    assert_eq!(store(&mut agent), Vec::<String>::new());
    let dead = archive.house("trash/delete-1-1");
    plant(&dead.join("old@1/work dir"));
    fs::write(dead.join("old@1/own"), "").expect("a file");
    give_to_nobody(&dead);
    give_to_nobody(&dead.join("old@1"));
    let named = |lines: Vec<String>| {
        let expected =
            "leftover .dpkg_archive/trash/delete-1-1/old@1/work?dir/file user=0 removing it failed: Permission denied";
        assert!(lines.iter().any(|line| line.starts_with(expected)), "{lines:?}");
        assert_eq!(lines.iter().filter(|line| line.starts_with("leftover ")).count(), 1, "{lines:?}");
    };
    named(store(&mut agent));
    named(agent.ask(Lane::CONTROL, &Request::Sweep { keep: vec![] }).expect("a sweep"));
    let retire = Request::Retire { how: blat_domain::protocol::frames::Retirement::Unmark, packages: vec![] };
    named(agent.ask(Lane::CONTROL, &retire).expect("an answer"));
    assert!(!dead.join("old@1/own").exists(), "what can go goes");
    // Once root has cleared it away nobody speaks of it any more.
    fs::remove_dir_all(dead.join("old@1/work dir")).expect("root may");
    assert_eq!(store(&mut agent), Vec::<String>::new());
    assert!(!dead.exists());
}

#[test]
fn as_root_a_folder_of_root_in_a_stage_keeps_nobody_from_sending_that_package_and_is_named() {
    for (ask, planted) in [(false, "package/f"), (true, "package/f"), (true, "package"), (false, "")] {
        let archive = Archive::new();
        let mut agent = Agent::start_unprivileged(&archive);
        assert_eq!(store(&mut agent), Vec::<String>::new());
        let stage = archive.house("stage/p@1");
        plant(&stage.join(planted));
        let own = [&stage, &stage.join("package")];
        own.into_iter()
            .filter(|path| path.exists() && **path != stage.join(planted))
            .for_each(|path| give_to_nobody(path));
        let package = Package::new("p", "1").file("f", "bytes");
        let how = How { ask, ..How::default() };
        let entries = package.send_entries(&mut agent, &how).len() as u64;
        if ask {
            assert!(matches!(agent.hear(Lane::BULK), Some(Said::Held(_, files)) if files.is_empty()));
        }
        package.send_files(&mut agent, &how, &[]);
        agent.send(Lane::BULK, &Request::Whole { entries, manifest: package.manifest_digest() });
        let mut lines = agent.ask(Lane::BULK, &Request::Publish).expect("an answer");
        if lines != ["published p 1"] {
            // What was left of it is found to be of no use while it comes; what was sent again replaces it.
            assert!(ask, "{lines:?}");
            lines = vec![package.deliver(&mut agent, &How { number: 2, ..How::default() })];
        }
        assert_eq!(lines, ["published p 1"], "{planted}");
        let leftovers = store(&mut agent);
        assert!(
            leftovers.len() == 1 && leftovers[0].starts_with("leftover .dpkg_archive/stage/stuck-"),
            "{leftovers:?}"
        );
        assert_eq!(agent.ask(Lane::CONTROL, &Request::Sweep { keep: vec![] }), Ok(leftovers), "it is said each time");
        drop(agent);
        assert_eq!(Agent::start(&archive.path).remains(), Vec::<String>::new());
    }
}

#[test]
fn an_archive_that_everybody_may_write_is_not_served_nor_one_whose_own_folder_is_a_stranger_s() {
    for mode in [0o777, 0o1777] {
        let archive = Archive::new();
        fs::set_permissions(&archive.path, fs::Permissions::from_mode(mode)).expect("a mode");
        assert_eq!(Agent::start(&archive.path).ended().code(), Some(1), "{mode:o}");
        fs::set_permissions(&archive.path, fs::Permissions::from_mode(0o775)).expect("a mode");
        let mut agent = Agent::start(&archive.path);
        assert_eq!(Package::new("p", "1").deliver(&mut agent, &How::default()), "published p 1");
        fs::set_permissions(archive.house("manifests"), fs::Permissions::from_mode(mode)).expect("a mode");
        let failure = Package::new("q", "1").deliver(&mut agent, &How { number: 2, ..How::default() });
        assert!(failure.contains("everybody may write it"), "{failure}");
    }
}

/// It may be as large as they like, and hashing it would never end.
#[test]
fn as_root_a_file_of_a_stranger_in_a_package_is_bad_without_being_read() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    for name in ["p", "q"] {
        let number = if name == "p" { 1 } else { 2 };
        let package = Package::new(name, "1").file("f", "x");
        assert_eq!(package.deliver(&mut agent, &How { number, ..How::default() }), format!("published {name} 1"));
    }
    let file = archive.path.join("p/1/f");
    fs::File::create(&file).and_then(|file| file.set_len(15 << 40)).expect("a sparse file");
    chown(&file, Some(STRANGER), None).expect("root may");
    let packages = ["p@1", "q@1"].map(support::id).to_vec();
    let lines = agent.ask(Lane::CONTROL, &Request::Verify { packages }).expect("an answer");
    assert!(lines.iter().any(|line| line.starts_with("bad p 1 ") && line.contains('f')), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("good q 1 ")), "{lines:?}");
}

/// The same of a file of the account's own that everybody may write: holes cost nothing.
#[test]
fn a_file_that_everybody_may_write_is_bad_without_being_read_once_it_is_mostly_holes() {
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    for (number, name) in [(1, "p"), (2, "q")] {
        let package = Package::new(name, "1").file("f", "x");
        assert_eq!(package.deliver(&mut agent, &How { number, ..How::default() }), format!("published {name} 1"));
    }
    let file = archive.path.join("p/1/f");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).expect("an own file");
    fs::File::options().write(true).open(&file).and_then(|file| file.set_len(15 << 40)).expect("a sparse file");
    let packages = ["p@1", "q@1"].map(support::id).to_vec();
    let lines = agent.ask(Lane::CONTROL, &Request::Verify { packages }).expect("an answer");
    assert!(lines.iter().any(|line| line.starts_with("bad p 1 ") && line.contains('f')), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("good q 1 ")), "{lines:?}");
}
