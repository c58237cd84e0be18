//! A file with several names in a package comes once, and no link is made to anything but such a file.

mod support;

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::Command;

use blat_domain::protocol::frames::{Entry, Kind, Lane, MOST_SHARED, Part, Piece, Request, Rule, Time};
use support::package::{How, Node, Package, noise};
use support::{Agent, Archive, Said, id, wait_for};

const TIME: Time = Time { seconds: 5, nanoseconds: 0 };

/// Names of one file in several folders, one of which nobody may write, and of one that its owner may not read.
fn package() -> Package {
    Package::new("p", "1")
        .file("bin/tool", noise(1, 200_000))
        .name("bin/tool-1.0", "bin/tool")
        .name("shut/deep/tool", "bin/tool")
        .directory("shut", 0o555)
        .directory("shut/deep", 0o500)
        .node(b"closed", Node::File(b"for nobody".to_vec(), 0))
        .name("closed.too", "closed")
        .file("other", noise(1, 200_000))
}

fn of(archive: &Archive, path: &str) -> fs::Metadata {
    fs::symlink_metadata(archive.path.join("p/1").join(path)).expect("an entry")
}

/// Fails unless these are all the names of one file.
fn assert_same(archive: &Archive, names: &[&str]) {
    for name in names {
        let there = of(archive, name);
        assert!(there.is_file() && there.nlink() == names.len() as u64, "{name} has {} names", there.nlink());
        assert_eq!(there.ino(), of(archive, names[0]).ino(), "{name}");
    }
}

fn assert_as_sent(archive: &Archive) {
    assert_same(archive, &["bin/tool", "bin/tool-1.0", "shut/deep/tool"]);
    assert_same(archive, &["closed", "closed.too"]);
    assert_same(archive, &["other"]);
    let manifest = fs::read(archive.house("manifests/p/1")).expect("a manifest");
    assert_eq!(manifest, package().manifest());
    assert_eq!(fs::read(archive.house("manifests/p/.1.tree")).expect("a tree file"), package().tree());
    assert_eq!(fs::read_dir(archive.house("stage")).expect("a directory").count(), 0);
}

#[test]
fn a_file_with_several_names_is_linked_for_an_ordinary_user_whatever_its_mode_and_folders() {
    for piece in [1 << 20, 30_000] {
        let archive = Archive::new();
        let mut agent = Agent::start_unprivileged(&archive);
        assert_eq!(package().deliver(&mut agent, &How { piece, ..How::default() }), "published p 1");
        assert_as_sent(&archive);
        let lines = agent.ask(Lane::CONTROL, &Request::Verify { packages: vec![id("p@1")] }).expect("an answer");
        assert!(lines[0].starts_with("closed p 1 closed"), "all else is as it was sent: {lines:?}");
    }
}

#[test]
fn a_file_that_is_copied_from_another_version_gets_its_names_too() {
    let archive = Archive::new();
    let old = Package::new("p", "0").file("bin/tool", noise(1, 200_000));
    old.write(&archive.path);
    let mut agent = Agent::start(&archive.path);
    let how = How { base: Some(old), copy: true, ..How::default() };
    assert_eq!(package().deliver(&mut agent, &how), "published p 1");
    assert_as_sent(&archive);
}

#[test]
fn an_interrupted_package_goes_on_and_its_names_are_made_anew() {
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    let entries = package().send_entries(&mut agent, &How::default());
    let (of_tool, of_other) = (package().number(b"bin/tool"), package().number(b"other"));
    let bytes = |number: u32| if number == of_other || number == of_tool { 200_000 } else { 10 };
    let numbers = [of_tool, package().number(b"closed"), of_other];
    let parts: Vec<Part> = numbers.map(|entry| Part { entry, bytes: bytes(entry) }).to_vec();
    let content = [&noise(1, 200_000)[..], b"for nobody", &noise(1, 200_000)[..50_000]].concat();
    agent.send(Lane::BULK, &Request::Piece(Piece { packed: 400_010, zstd: false, parts, base: vec![] }));
    content.chunks(50_000).for_each(|data| agent.send(Lane::BULK, &Request::Data(data)));
    let staged = archive.house("stage/p@1/package");
    wait_for("its names", || staged.join("bin/tool-1.0").exists() && staged.join("closed.too").exists());
    agent.kill();
    let before = fs::metadata(staged.join("bin/tool")).expect("a file").ino();

    let mut agent = Agent::start(&archive.path);
    let how = How { ask: true, number: 2, ..How::default() };
    assert_eq!(package().send_entries(&mut agent, &how), entries);
    let Some(Said::Held(2, held)) = agent.hear(how.lane) else { panic!("nothing is held") };
    let held: Vec<u32> = held.into_iter().map(|(entry, _)| entry).collect();
    assert!(held.contains(&of_tool) && !held.contains(&of_other), "{held:?}");
    package().send_files(&mut agent, &how, &held);
    agent.send(how.lane, &Request::Whole { entries: entries.len() as u64, manifest: package().manifest_digest() });
    assert_eq!(agent.ask(how.lane, &Request::Publish), Ok(vec!["published p 1".into()]));
    assert_as_sent(&archive);
    assert_ne!(of(&archive, "bin/tool").ino(), before, "what somebody else wrote is written once more");
}

#[test]
fn where_the_file_system_makes_no_more_links_a_name_gets_a_copy() {
    for error in ["EPERM", "EMLINK", "EOPNOTSUPP"] {
        let archive = Archive::new();
        let mut command = Command::new("strace");
        command.args(["-f", "-o"]).arg(archive.beside("trace")).arg(format!("--inject=linkat:error={error}"));
        command.arg(env!("CARGO_BIN_EXE_blat-receiver")).arg("--archive").arg(&archive.path);
        let mut agent = Agent::start_command(command);
        agent.send(Lane::CONTROL, &Request::Hello { protocol: blat_domain::protocol::frames::PROTOCOL });
        let package = Package::new("p", "1").file("a", "bytes").name("b", "a").name("c/d", "a");
        assert_eq!(package.deliver(&mut agent, &How::default()), "published p 1", "{error}");
        for name in ["a", "b", "c/d"] {
            assert_same(&archive, &[name]);
            assert_eq!(fs::read(archive.path.join("p/1").join(name)).expect("a file"), b"bytes");
        }
        assert_eq!(fs::read(archive.house("manifests/p/1")).expect("a manifest"), package.manifest());
    }
}

/// How much work lanes have done, all in all: a step for each 128 KiB that is hashed, and a few for each file.
fn work(agent: &mut Agent) -> u64 {
    agent.send(Lane::CONTROL, &Request::Ping { beat: 7 });
    loop {
        if let Said::Pong(7, work) = agent.hear(Lane::CONTROL).expect("an answer") {
            return work.iter().sum();
        }
    }
}

#[test]
fn a_file_with_several_names_is_hashed_once_and_compared_by_each() {
    const NAMES: u64 = 50;
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    let package = (0..NAMES).fold(Package::new("p", "1").file("a", noise(1, 4 << 20)), |package, number| {
        package.name(&format!("d/{number}"), "a")
    });
    assert_eq!(package.deliver(&mut agent, &How::default()), "published p 1");
    let mut verify = || {
        let before = work(&mut agent);
        let lines = agent.ask(Lane::CONTROL, &Request::Verify { packages: vec![id("p@1")] }).expect("an answer");
        (lines.concat(), work(&mut agent) - before)
    };
    let (line, steps) = verify();
    assert!(line.starts_with("good p 1 "), "{line}");
    assert!((32..32 + 8 * NAMES).contains(&steps), "{steps} steps: the file has 32 times 128 KiB, and {NAMES} names");

    let file = archive.path.join("p/1/d/30");
    fs::remove_file(&file).expect("a file");
    fs::write(&file, noise(2, 4 << 20)).expect("room");
    assert_eq!(verify().0, "bad p 1 d/30: FAILED", "one of them is another file");
    fs::remove_file(&file).expect("a file");
    fs::hard_link(archive.path.join("p/1/descpkg"), &file).expect("a link");
    assert_eq!(verify().0, "bad p 1 d/30: FAILED", "a name of another file of the package");
    fs::remove_file(&file).expect("a file");
    fs::hard_link(archive.path.join("p/1/a"), &file).expect("a link");
    fs::write(&file, "other").expect("room");
    assert_eq!(verify().0, "bad p 1 a: FAILED", "damaged by one of them, it is damaged by the first");
}

#[test]
fn hashing_ends_with_the_agent() {
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    let package = Package::new("p", "1").file("endless", "bytes");
    assert_eq!(package.deliver(&mut agent, &How::default()), "published p 1");
    let endless = fs::File::options().write(true).open(archive.path.join("p/1/endless")).expect("a file");
    endless.set_len(1 << 42).expect("a file system with holes");
    let before = work(&mut agent);
    agent.send(Lane::CONTROL, &Request::Verify { packages: vec![id("p@1")] });
    let agent = RefCell::new(agent);
    wait_for("it to hash", || work(&mut agent.borrow_mut()) > before + 100);
    assert!(agent.into_inner().end().success());
}

fn entry(path: &[u8], kind: Kind) -> Entry {
    Entry { path: path.to_vec(), kind, time: TIME }
}

fn file(path: &[u8], shared: bool) -> Entry {
    entry(path, Kind::File { mode: 0o644, size: 0, copy: None, shared })
}

/// What becomes of p@1 with these entries behind its root, whose files are all empty.
fn refused(archive: &Archive, entries: Vec<Entry>) -> String {
    let mut agent = Agent::start(&archive.path);
    let package = Request::Package {
        number: 1,
        package: id("p@1"),
        time: TIME.seconds,
        mode: 0o755,
        rule: Rule::New,
        manifest: None,
        ask: false,
    };
    agent.send(Lane::BULK, &package);
    let entries = [vec![entry(b"", Kind::Directory { mode: 0o755 })], entries].concat();
    let is_file = |number: &u32| matches!(entries[*number as usize].kind, Kind::File { .. });
    let count = entries.len() as u32;
    let parts = (0..count).filter(is_file).map(|entry| Part { entry, bytes: 0 }).collect();
    agent.send(Lane::BULK, &Request::Entries { entries: entries.clone() });
    agent.send(Lane::BULK, &Request::Piece(Piece { packed: 0, zstd: false, parts, base: vec![] }));
    agent.send(Lane::BULK, &Request::Whole { entries: count.into(), manifest: [0; 32] });
    let lines = agent.ask(Lane::BULK, &Request::Publish).expect("an answer");
    assert_eq!(fs::read_dir(&archive.path).expect("an archive").count(), 1, "{lines:?}");
    lines.concat()
}

#[test]
fn nothing_but_a_shared_file_that_came_before_gets_another_name() {
    let directory = entry(b"d", Kind::Directory { mode: 0o755 });
    let link = entry(b"link", Kind::Link { to: b"../../../outside".to_vec() });
    let name = |path: &[u8], to| entry(path, Kind::HardLink { to });
    let (plain, shared) = (file(b"a", false), file(b"a", true));
    let cases: [(&str, Vec<Entry>); 8] = [
        ("itself", vec![name(b"n", 1)]),
        ("a later one", vec![name(b"n", 2), shared.clone()]),
        ("none at all", vec![shared.clone(), name(b"n", u32::MAX)]),
        ("the root", vec![name(b"n", 0)]),
        ("a folder", vec![directory.clone(), name(b"n", 1)]),
        ("a symbolic link", vec![link.clone(), name(b"n", 1)]),
        ("a file that is not shared", vec![plain, name(b"n", 1)]),
        ("another name", vec![shared.clone(), name(b"n", 1), name(b"m", 2)]),
    ];
    for (what, entries) in cases {
        let line = refused(&Archive::new(), entries);
        assert!(line.starts_with("failed p 1 foreign ") && line.contains("is a hard link to entry"), "{what}: {line}");
    }
    for path in ["../n", "/n", "link/n", "d/../../n", "a/n", "a", "d", "gone/n", "", "n\0"] {
        let archive = Archive::new();
        fs::create_dir(archive.beside("outside")).expect("a directory");
        let entries = vec![shared.clone(), directory.clone(), link.clone(), name(path.as_bytes(), 1)];
        let line = refused(&archive, entries);
        assert!(line.starts_with("failed p 1 foreign "), "{path}: {line}");
        assert_eq!(fs::read_dir(archive.beside("outside")).expect("a directory").count(), 0, "{path}");
    }
    let line = refused(&Archive::new(), vec![shared, name(b"descpkg", 1)]);
    assert!(line.starts_with("failed p 1 digest its descpkg is no regular file of its own"), "{line}");
}

#[test]
fn shared_files_take_no_more_memory_than_may_be() {
    let archive = Archive::new();
    let long = |number: usize| [format!("{number:08}").as_bytes(), &[b'x'; 240]].concat();
    let deep: Vec<Entry> = (0..MOST_SHARED / 376 + 1).map(|number| file(&long(number), true)).collect();
    let mut agent = Agent::start(&archive.path);
    let package = Package::new("p", "1");
    let mut begun = package.entries(&How::default());
    begun.truncate(1);
    let announce = |time: i64| Request::Package {
        number: 1,
        package: id("p@1"),
        time,
        mode: 0o755,
        rule: Rule::New,
        manifest: None,
        ask: false,
    };
    agent.send(Lane::BULK, &announce(5));
    agent.send(Lane::BULK, &Request::Entries { entries: begun });
    deep.chunks(500).for_each(|entries| agent.send(Lane::BULK, &Request::Entries { entries: entries.to_vec() }));
    agent.send(Lane::BULK, &Request::Forget);
    let lines = agent.ask(Lane::BULK, &Request::Publish).expect("an answer");
    assert!(lines.concat().contains("shared files take more than 8388608 bytes of memory"), "{lines:?}");
}

#[test]
fn a_file_that_is_swapped_before_it_gets_its_name_brings_nothing_of_what_lies_elsewhere() {
    let swaps: [fn(&Path, &Path); 2] = [
        |secret, place| symlink(secret, place).expect("a link"),
        |secret, place| fs::hard_link(secret, place).expect("a link"),
    ];
    for swap in swaps {
        let archive = Archive::new();
        let secret = archive.beside("secret");
        fs::write(&secret, "secret").expect("a file");
        let mut agent = Agent::start(&archive.path);
        let package = Package::new("p", "1").file("a", "bytes").name("b", "a");
        let how = How::default();
        let entries = package.send_entries(&mut agent, &how);
        package.send_files(&mut agent, &how, &[package.number(b"descpkg")]);
        let staged = archive.house("stage/p@1/package");
        wait_for("the file", || fs::metadata(staged.join("a")).is_ok_and(|there| there.mode() & 0o777 == 0o644));
        fs::rename(staged.join("a"), staged.join("away")).expect("a rename");
        swap(&secret, &staged.join("a"));
        package.send_files(&mut agent, &how, &[package.number(b"a")]);
        agent.send(how.lane, &Request::Whole { entries: entries.len() as u64, manifest: package.manifest_digest() });
        let lines = agent.ask(how.lane, &Request::Publish).expect("an answer").concat();
        assert!(lines.starts_with("failed p 1 foreign "), "{lines}");
        assert!(!archive.path.join("p").exists());
        assert_eq!(fs::read(&secret).expect("a file"), b"secret");
        assert_eq!(fs::metadata(&secret).expect("a file").nlink(), 1, "what was linked is gone with the stage");
    }
}
