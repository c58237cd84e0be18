//! What is published, or said to be there already, is durable, by the handles that wrote it; what the disk refused is never published. The disk's errors
//! are made by strace.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use blat_domain::protocol::frames::{Class, Lane, Request};
use support::package::{How, Node, Package, noise};
use support::{Agent, Archive, Said, wait_for};

/// A receiver under strace, which makes some of its system calls fail and writes down what it is asked to.
fn injected(archive: &Archive, is_old_kernel: bool, arguments: &[&str]) -> Agent {
    let mut command = match is_old_kernel {
        // The receiver sees a 2.6 kernel.
        true => {
            let mut command = Command::new("setarch");
            command.args(["--uname-2.6", "strace"]);
            command
        }
        false => Command::new("strace"),
    };
    command.args(["-f", "-y", "-o"]).arg(archive.beside("trace")).args(arguments);
    command.arg(env!("CARGO_BIN_EXE_blat-receiver")).arg("--archive").arg(&archive.path);
    let mut agent = Agent::start_command(command);
    agent.send(Lane::CONTROL, &Request::Hello { protocol: blat_domain::protocol::frames::PROTOCOL });
    agent
}

/// Whether strace has seen a call on just this path.
fn is_traced(archive: &Archive, call: &str, path: &Path) -> bool {
    let trace = fs::read_to_string(archive.beside("trace")).expect("strace's output");
    let on = format!("<{}>", path.display());
    trace.lines().any(|line| line.contains(&format!("{call}(")) && line.contains(&on))
}

fn stages_are_empty(archive: &Archive) {
    let left =
        fs::read_dir(archive.house("stage")).expect("a directory").map(|entry| entry.expect("an entry").file_name());
    assert_eq!(left.collect::<Vec<_>>(), Vec::<std::ffi::OsString>::new());
}

/// So many files that their handles are not kept.
fn many_files(name: &str) -> Package {
    (0..100u64).fold(Package::new(name, "1"), |package, n| package.file(&format!("d{}/f{n}", n % 9), noise(n, 300)))
}

#[test]
fn what_the_owner_may_not_read_goes_in_a_small_batch_and_its_neighbours_too() {
    let archive = Archive::new();
    let mut agent = Agent::start_unprivileged(&archive);
    let closed = Package::new("closed", "1")
        .node(b"others", Node::File(b"for others alone".to_vec(), 0o044))
        .node(b"nobody", Node::File(b"for nobody".to_vec(), 0))
        .node(b"dir", Node::Directory(0o311))
        .node(b"dir/tight", Node::Directory(0o000))
        .node(b"dir/tight/file", Node::File(b"deep".to_vec(), 0o400));
    Package::new("before", "1").send(&mut agent, &How::default());
    closed.send(&mut agent, &How { number: 2, ..How::default() });
    Package::new("after", "1").send(&mut agent, &How { number: 3, ..How::default() });
    let mut lines = agent.ask(Lane::BULK, &Request::Publish).expect("an answer");
    lines.sort();
    assert_eq!(lines, ["published after 1", "published before 1", "published closed 1"]);
    for (path, mode) in [("others", 0o044), ("nobody", 0), ("dir", 0o311)] {
        let there = fs::symlink_metadata(archive.path.join("closed/1").join(path)).expect("an entry");
        assert_eq!(there.permissions().mode() & 0o7777, mode, "{path}");
    }
    assert!(
        agent.ask(Lane::CONTROL, &Request::List { buckets: vec![], installed: vec![] }).expect("a listing").len() >= 3
    );
}

#[test]
fn a_package_whose_own_directory_is_closed_to_its_owner_fails_alone_for_no_listing_could_look_into_it() {
    for mode in [0o044, 0o300, 0o600, 0] {
        let archive = Archive::new();
        let mut agent = Agent::start_unprivileged(&archive);
        Package::new("p", "1").mode(mode).send(&mut agent, &How::default());
        Package::new("q", "1").send(&mut agent, &How { number: 2, ..How::default() });
        let lines = agent.ask(Lane::BULK, &Request::Publish).expect("an answer");
        assert!(
            lines[0].starts_with("failed p 1 foreign ") && lines[0].contains("closes it to its owner"),
            "{lines:?}"
        );
        assert_eq!(lines[1..], ["published q 1"]);
        agent.ask(Lane::CONTROL, &Request::List { buckets: vec![], installed: vec![] }).expect("a listing");
    }
}

#[test]
fn of_a_small_batch_the_package_that_the_disk_refuses_fails_alone() {
    let archive = Archive::new();
    let bad = archive.house("stage/p@1/package/f");
    let path = bad.to_str().expect("a plain path");
    let mut agent = injected(&archive, false, &["-P", path, "-e", "inject=fsync:error=EIO"]);
    Package::new("p", "1").file("f", "lost").send(&mut agent, &How::default());
    Package::new("q", "1").file("f", "kept").send(&mut agent, &How { number: 2, ..How::default() });
    let lines = agent.ask(Lane::BULK, &Request::Publish).expect("an answer");
    assert!(lines[0].starts_with("failed p 1 io making it durable failed: "), "{lines:?}");
    assert_eq!(lines[1..], ["published q 1"]);
    assert!(is_traced(&archive, "fsync", &bad), "this shows nothing");
    agent.ask(Lane::BULK, &Request::Publish).expect("an answer");
    stages_are_empty(&archive);
}

#[test]
fn when_the_disk_refuses_what_is_written_early_all_that_is_staged_is_discarded_at_once() {
    let archive = Archive::new();
    let mut agent = injected(&archive, false, &["-e", "trace=syncfs", "-e", "inject=syncfs:error=EIO:when=1"]);
    let small = Package::new("small", "1");
    let large =
        (0..8u64).fold(Package::new("large", "1"), |package, n| package.file(&format!("f{n}"), noise(n, 1 << 20)));
    small.send(&mut agent, &How::default());
    let how = How { number: 2, zstd: false, ..How::default() };
    let entries = large.send_entries(&mut agent, &how).len() as u64;
    large.send_files(&mut agent, &how, &[]);
    loop {
        match agent.hear(Lane::BULK) {
            Some(Said::Failed(Class::Refused, text)) => {
                assert!(text.contains("all of it is discarded") && text.contains("Input/output error"), "{text}");
                break;
            }
            // It may have waited long enough to be published before.
            Some(Said::Lines(line)) => assert_eq!(line, "published small 1\n"),
            other => panic!("{other:?} is no failure"),
        }
    }
    wait_for("an empty stage", || fs::read_dir(archive.house("stage")).is_ok_and(|stage| stage.count() == 0));
    agent.send(Lane::BULK, &Request::Whole { entries, manifest: large.manifest_digest() });
    assert_eq!(agent.ask(Lane::BULK, &Request::Publish), Ok(vec![]), "what is left of it is dropped");
    assert!(!archive.path.join("large").exists());
    assert_eq!(large.deliver(&mut agent, &How { number: 3, ..how }), "published large 1", "the lane goes on");
}

#[test]
fn what_somebody_else_staged_is_written_anew_for_its_error_may_have_been_told_to_him() {
    let archive = Archive::new();
    let bytes = noise(1, 3 << 20);
    let package = Package::new("p", "1").file("a", &bytes).file("z", "end");
    let mut agent = Agent::start(&archive.path);
    let how = How { zstd: false, ..How::default() };
    package.send_entries(&mut agent, &how);
    package.send_files(&mut agent, &how, &[2, 3]);
    let staged = archive.house("stage/p@1/package/a");
    wait_for("the file", || fs::metadata(&staged).is_ok_and(|file| file.len() == 3 << 20));
    agent.kill();
    // Its pages read as they should, whatever is on the disk. It stays open here, so that no other file gets its number.
    let staged = fs::File::open(&staged).and_then(|file| Ok((file.metadata()?.ino(), file))).expect("a file");

    // Nor can its blocks be shared: what is read through another file comes from the disk.
    let mut agent = injected(&archive, false, &["-e", "trace=ioctl", "-e", "inject=ioctl:error=EOPNOTSUPP"]);
    assert_eq!(agent.remains(), ["p@1"]);
    let how = How { ask: true, number: 2, ..how };
    let entries = package.send_entries(&mut agent, &how).len() as u64;
    let held = match agent.hear(how.lane) {
        Some(Said::Held(2, files)) => files.iter().map(|(entry, _)| *entry).collect::<Vec<_>>(),
        other => panic!("{other:?} does not tell what is held"),
    };
    assert!(held == [1], "the file is made use of: {held:?}");
    package.send_files(&mut agent, &how, &held);
    agent.send(how.lane, &Request::Whole { entries, manifest: package.manifest_digest() });
    assert_eq!(agent.ask(how.lane, &Request::Publish), Ok(vec!["published p 1".into()]));
    let published = fs::metadata(archive.path.join("p/1/a")).expect("a file");
    assert!(published.ino() != staged.0, "what he wrote is published");
    assert!(published.blocks() * 512 >= 3 << 20, "only {} blocks of it were ever written", published.blocks());
}

#[test]
fn on_a_kernel_whose_syncfs_reports_nothing_each_file_is_made_durable_and_its_error_seen() {
    let archive = Archive::new();
    let bad = archive.house("stage/p@1/package/d3/f3");
    let path = bad.to_str().expect("a plain path");
    let mut agent = injected(&archive, true, &["-P", path, "-e", "inject=fsync:error=EIO"]);
    let line = many_files("p").deliver(&mut agent, &How::default());
    assert!(line.starts_with("failed p 1 io "), "{line}");
    assert_eq!(many_files("q").deliver(&mut agent, &How { number: 2, ..How::default() }), "published q 1");
    agent.ask(Lane::BULK, &Request::Publish).expect("an answer");
    stages_are_empty(&archive);
}

#[test]
fn on_an_old_kernel_all_that_was_written_or_renamed_is_made_durable_one_by_one() {
    let archive = Archive::new();
    let mut agent = injected(&archive, true, &["-e", "trace=fsync"]);
    assert_eq!(many_files("p").deliver(&mut agent, &How::default()), "published p 1");
    let package = archive.house("stage/p@1/package");
    for (path, _) in many_files("p").ordered() {
        let path = package.join(str::from_utf8(path).expect("a plain path"));
        assert!(is_traced(&archive, "fsync", &path), "{} is not durable", path.display());
    }
    for path in [package, archive.house("stage/p@1/manifest"), archive.house("stage/p@1"), archive.path.join("p")] {
        assert!(is_traced(&archive, "fsync", &path), "{} is not durable", path.display());
    }
}

#[test]
fn what_is_there_already_is_said_to_be_so_once_its_directories_are_durable() {
    let archive = Archive::new();
    let package = Package::new("p", "1");
    assert_eq!(package.deliver(&mut Agent::start(&archive.path), &How::default()), "published p 1");
    let name = archive.path.join("p");
    let mut agent = injected(&archive, false, &["-e", "trace=fsync"]);
    assert_eq!(package.deliver(&mut agent, &How::default()), "already p 1");
    for path in [&archive.path, &name, &archive.house("manifests"), &archive.house("manifests/p")] {
        assert!(is_traced(&archive, "fsync", path), "{} is not durable", path.display());
    }
    drop(agent);
    let path = name.to_str().expect("a plain path");
    let mut agent = injected(&archive, false, &["-P", path, "-e", "inject=fsync:error=EIO"]);
    package.send(&mut agent, &How::default());
    let (class, text) = agent.ask(Lane::BULK, &Request::Publish).expect_err("a failure");
    assert!(class == Class::Refused && text.starts_with("making the renames in "), "{text}");
}
