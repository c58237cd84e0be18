//! What a cut connection leaves is told, verified and made use of, or swept.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use blat_domain::protocol::frames::{Lane, Request};
use support::package::{How, Package, noise};
use support::{Agent, Archive, Said, id, wait_for};

fn package() -> Package {
    (0..8u64)
        .fold(Package::new("p", "1"), |package, number| {
            package.file(&format!("d/f{number}"), noise(number, 20_000 + number as usize))
        })
        .directory("d", 0o555)
        .link("link", "d")
}

/// Sends a part of a package and kills the receiver.
fn interrupted(archive: &Archive) {
    let mut agent = Agent::start(&archive.path);
    let package = package();
    let how = How { piece: 25_000, ..How::default() };
    package.send_entries(&mut agent, &how);
    // All but the last two of the directory, and descpkg.
    package.send_files(&mut agent, &how, &[8, 9, 11]);
    let staged = archive.house("stage/p@1/package/d");
    wait_for("the files", || staged.join("f5").metadata().is_ok_and(|file| file.len() == 20_005));
    agent.kill();
}

/// Asks for what is staged of the package.
fn held(agent: &mut Agent, package: &Package, how: &How) -> Vec<u32> {
    package.send_entries(agent, how);
    match agent.hear(how.lane) {
        Some(Said::Held(number, files)) => {
            assert_eq!(number, how.number);
            files.iter().map(|(entry, _)| *entry).collect()
        }
        other => panic!("{other:?} does not tell what is held"),
    }
}

#[test]
fn what_was_whole_when_the_receiver_was_killed_is_not_sent_again() {
    let archive = Archive::new();
    interrupted(&archive);
    // As a crash of the machine leaves it: one file short, one of the right length and other bytes.
    let staged = archive.house("stage/p@1/package/d");
    fs::write(staged.join("f0"), noise(0, 19_999)).expect("a file");
    fs::write(staged.join("f1"), noise(77, 20_001)).expect("a file");
    let mut agent = Agent::start(&archive.path);
    assert_eq!(agent.remains(), ["p@1"]);
    let (package, how) = (package(), How { ask: true, number: 9, ..How::default() });
    let held = held(&mut agent, &package, &how);
    assert_eq!(held, [3, 4, 5, 6, 7]);
    // Entry 3 is held with other bytes than it should have: the agent sees that by its digest.
    package.send_files(&mut agent, &how, &[4, 5, 6, 7]);
    let entries = package.nodes.len() as u64 + 1;
    agent.send(how.lane, &Request::Whole { entries, manifest: package.manifest_digest() });
    assert_eq!(agent.ask(how.lane, &Request::Publish), Ok(vec!["published p 1".into()]));
    assert_eq!(archive.script("get_plist", &["--verify"], "p 1\n").len(), 1);
    assert!(archive.script("get_plist", &["--verify"], "p 1\n")[0].starts_with("good p 1 "));
    assert_eq!(fs::read_link(archive.path.join("p/1/link")).expect("a link").to_str(), Some("d"));
    assert_eq!(agent.ask(how.lane, &Request::Publish), Ok(vec![]));
    assert_eq!(fs::read_dir(archive.house("stage")).expect("a directory").count(), 0);
}

#[test]
fn staged_files_that_are_none_of_the_package_s_are_never_published() {
    let archive = Archive::new();
    interrupted(&archive);
    fs::write(archive.house("stage/p@1/package/d/stray"), "stray").expect("a file");
    let mut agent = Agent::start(&archive.path);
    let (package, how) = (package(), How { ask: true, number: 2, ..How::default() });
    let held = held(&mut agent, &package, &how);
    package.send_files(&mut agent, &how, &held);
    let entries = package.nodes.len() as u64 + 1;
    agent.send(how.lane, &Request::Whole { entries, manifest: package.manifest_digest() });
    assert_eq!(agent.hear(how.lane), Some(Said::Lacks(2)));
    assert_eq!(package.deliver(&mut agent, &How::default()), "published p 1");
    assert!(!archive.path.join("p/1/d/stray").exists());
}

#[test]
fn whoever_does_not_ask_begins_anew() {
    let archive = Archive::new();
    interrupted(&archive);
    fs::write(archive.house("stage/p@1/package/d/stray"), "stray").expect("a file");
    let mut agent = Agent::start(&archive.path);
    assert_eq!(package().deliver(&mut agent, &How::default()), "published p 1");
    assert!(!archive.path.join("p/1/d/stray").exists());
}

#[test]
fn leftovers_are_swept_but_for_those_that_are_kept_or_worked_on_and_the_scripts_leave_them_alone() {
    let archive = Archive::new();
    interrupted(&archive);
    archive.script("delete_package", &["--unmark"], "# end 0\n");
    let mut agent = Agent::start(&archive.path);
    assert_eq!(agent.remains(), ["p@1"]);
    agent.ask(Lane::CONTROL, &Request::Sweep { keep: vec![id("p@1")] }).expect("a sweep");
    assert!(archive.house("stage/p@1").exists());
    let mut other = Agent::start(&archive.path);
    let coming = Package::new("q", "1");
    coming.send_entries(&mut other, &How::default());
    wait_for("its stage", || archive.house("stage/q@1").exists());
    agent.ask(Lane::CONTROL, &Request::Sweep { keep: vec![] }).expect("a sweep");
    assert!(!archive.house("stage/p@1").exists() && !archive.house("stage/p@1.lock").exists());
    assert!(archive.house("stage/q@1").exists(), "somebody works on it");
    coming.send_files(&mut other, &How::default(), &[]);
    other.send(Lane::BULK, &Request::Whole { entries: 2, manifest: coming.manifest_digest() });
    assert_eq!(other.ask(Lane::BULK, &Request::Publish), Ok(vec!["published q 1".into()]));
}

#[test]
fn what_died_between_two_renames_is_put_back() {
    let archive = Archive::new();
    // A file system without exchange: the old version was moved aside, and the new one never came.
    let place = archive.put("p", "1", &[("f", "old")], 5);
    fs::rename(&place, archive.path.join("p/.1.receiver.old")).expect("a rename");
    fs::create_dir_all(archive.path.join("p/.1.receiver")).expect("a directory");
    fs::create_dir_all(archive.house("stage/p@1")).expect("a directory");
    let mut agent = Agent::start(&archive.path);
    assert_eq!(agent.remains(), ["p@1"]);
    agent.ask(Lane::CONTROL, &Request::Sweep { keep: vec![] }).expect("a sweep");
    assert_eq!(fs::read_to_string(place.join("f")).expect("a file"), "old");
    assert!(!archive.path.join("p/.1.receiver").exists() && !archive.path.join("p/.1.receiver.old").exists());
}

#[test]
fn a_package_that_is_forgotten_leaves_nothing() {
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    package().send_entries(&mut agent, &How::default());
    agent.send(Lane::BULK, &Request::Forget);
    assert_eq!(agent.ask(Lane::BULK, &Request::Publish), Ok(vec![]));
    assert_eq!(fs::read_dir(archive.house("stage")).expect("a directory").count(), 0);
}

#[test]
fn what_was_whole_but_not_published_is_taken_over_by_an_ordinary_user_though_its_directories_are_closed() {
    let archive = Archive::new();
    fs::create_dir_all(archive.house("stage")).expect("a directory");
    let lock = fs::File::create(archive.house("publish.lock")).expect("a lock");
    let package = package().mode(0o555);
    let mut agent = Agent::start_unprivileged(&archive);
    lock.lock().expect("a lock");
    package.send(&mut agent, &How::default());
    wait_for("the whole package", || {
        let closed = |path: &str| {
            fs::metadata(archive.house(path)).is_ok_and(|there| there.permissions().mode() & 0o777 == 0o555)
        };
        closed("stage/p@1/package/d")
    });
    agent.kill();
    drop(lock);
    let mut agent = Agent::start_unprivileged(&archive);
    assert_eq!(agent.remains(), ["p@1"]);
    let how = How { ask: true, ..How::default() };
    let held = held(&mut agent, &package, &how);
    assert_eq!(held, [2, 3, 4, 5, 6, 7, 8, 9, 11]);
    let entries = package.nodes.len() as u64 + 1;
    agent.send(how.lane, &Request::Whole { entries, manifest: package.manifest_digest() });
    assert_eq!(agent.ask(how.lane, &Request::Publish), Ok(vec!["published p 1".into()]));
    let modes = ["p/1", "p/1/d"]
        .map(|path| fs::metadata(archive.path.join(path)).expect("a directory").permissions().mode() & 0o7777);
    assert_eq!(modes, [0o555, 0o555]);
}
