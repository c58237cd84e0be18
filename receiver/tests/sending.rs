//! Packages that come whole are published as they were: bytes, modes, times to the nanosecond, links.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use blat_domain::frames::{Lane, Request, Rule};
use support::package::{How, Node, Package, noise};
use support::{Agent, Archive};

/// Fails unless the archive's package is this one, and all of it.
fn assert_published(archive: &Archive, package: &Package) {
    use std::os::unix::ffi::OsStrExt as _;
    let root = archive.path.join(package.id.path());
    let look = |path: &std::path::Path| {
        fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let mut expected = vec![(root.clone(), &Node::Directory(0o1))];
    expected.extend(package.ordered().iter().map(|(path, node)| (root.join(std::ffi::OsStr::from_bytes(path)), *node)));
    for (path, node) in &expected {
        let there = look(path);
        assert_eq!(
            (there.mtime(), there.mtime_nsec()),
            (package.time.seconds, package.time.nanoseconds.into()),
            "{}",
            path.display()
        );
        match node {
            Node::Directory(mode) => {
                let mode = if *path == root { package.mode } else { *mode };
                assert!(
                    there.is_dir() && there.mode() & 0o7777 == u32::from(mode),
                    "{}: {:o}",
                    path.display(),
                    there.mode()
                );
            }
            Node::Link(to) => assert_eq!(fs::read_link(path).expect("a link").as_os_str().as_bytes(), to),
            Node::File(bytes, mode) => {
                assert!(
                    there.is_file() && there.mode() & 0o7777 == u32::from(*mode & 0o777),
                    "{}: {:o}",
                    path.display(),
                    there.mode()
                );
                assert!(fs::read(path).expect("a file") == *bytes, "{} differs", path.display());
            }
        }
    }
    let mut count = 0;
    let mut rooms = vec![root];
    while let Some(room) = rooms.pop() {
        for entry in fs::read_dir(room).expect("a directory") {
            let entry = entry.expect("an entry");
            count += 1;
            if entry.file_type().expect("a type").is_dir() {
                rooms.push(entry.path());
            }
        }
    }
    assert_eq!(count, package.nodes.len());
    let manifest = archive.house(&format!("manifests/{}", package.id.path()));
    assert_eq!(fs::read(manifest).expect("a manifest"), package.manifest());
    let stages =
        fs::read_dir(archive.house("stage")).expect("a stage").map(|stage| stage.expect("a stage").file_name());
    assert_eq!(stages.collect::<Vec<_>>(), Vec::<std::ffi::OsString>::new());
}

fn every_kind() -> Package {
    Package::new("core_devl", "2.1.0.cr")
        .file("a b", "text")
        .file("empty", "")
        .file("deep/er/file", noise(3, 300_000))
        .node(b"odd \\ \n name", Node::File(b"odd".to_vec(), 0o4755))
        .node(b"-", Node::File(b"dash".to_vec(), 0o600))
        .node(b"bytes \xff\xfe", Node::File(b"latin".to_vec(), 0o400))
        .link("deep/link", "../a b")
        .link("dangling", "/nowhere/at all")
        .directory("hollow", 0o700)
        .file("closed/file", "in a directory that nobody may write")
        .directory("closed", 0o555)
        .file("closed/tight/file", "deeper")
        .directory("closed/tight", 0o500)
}

#[test]
fn a_package_of_every_kind_of_entry_is_published_as_it_was() {
    for (zstd, piece) in [(true, 1 << 20), (false, 1 << 20), (true, 1000), (false, 70_000)] {
        let archive = Archive::new();
        let mut agent = Agent::start(&archive.path);
        assert_eq!(agent.remains(), Vec::<String>::new());
        let package = every_kind();
        let how = How { zstd, piece, ..How::default() };
        assert_eq!(agent.ask(how.lane, &Request::Begin { bytes: 400_000, entries: 20, reserve: 0 }), Ok(vec![]));
        assert_eq!(package.deliver(&mut agent, &how), "published core_devl 2.1.0.cr");
        assert_eq!(package.deliver(&mut agent, &How { number: 2, ..how }), "already core_devl 2.1.0.cr");
        assert_published(&archive, &package);
        assert!(agent.end().success());
    }
}

#[test]
fn a_package_whose_root_nobody_may_write_is_published_and_replaced() {
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    let package = every_kind().mode(0o555);
    assert_eq!(package.deliver(&mut agent, &How::default()), "published core_devl 2.1.0.cr");
    assert_published(&archive, &package);
    let newer = package.file("more", "new").time(1_700_000_001);
    assert_eq!(
        newer.deliver(&mut agent, &How { rule: Rule::Replace, ..How::default() }),
        "replaced core_devl 2.1.0.cr"
    );
    agent.ask(Lane::BULK, &Request::Publish).expect("an answer");
    assert_published(&archive, &newer);
}
