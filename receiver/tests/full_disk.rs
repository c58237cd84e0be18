//! A disk that is full. Mounting one takes root.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use blat_domain::archive::package_list::Purge;
use blat_domain::protocol::frames::{Class, Lane, Request, Rule};
use sha2::{Digest as _, Sha256};
use support::package::{How, Package, noise};
use support::{Agent, Archive};

/// A small disk over a directory.
struct Disk(PathBuf);

impl Disk {
    fn mount(over: PathBuf, options: &str) -> Self {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&over).status();
        assert!(mounted.expect("a command of every Linux").success());
        Self(over)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn as_root_a_package_that_does_not_fit_fails_for_want_of_space_and_the_next_one_goes_in() {
    for options in ["size=1m", "size=64m,nr_inodes=40"] {
        let archive = Archive::new();
        let _disk = Disk::mount(archive.path.clone(), options);
        let mut agent = Agent::start(&archive.path);
        let old = Package::new("p", "1").file("f", "old");
        assert_eq!(old.deliver(&mut agent, &How::default()), "published p 1");
        let large = (0..60u64).fold(Package::new("p", "1").time(1_700_000_009), |package, number| {
            package.file(&format!("d/f{number}"), noise(number, 40_000))
        });
        let line = large.deliver(&mut agent, &How { rule: Rule::Replace, ..How::default() });
        assert!(line.starts_with("failed p 1 space "), "{line}");
        assert_eq!(fs::read(archive.path.join("p/1/f")).expect("a file"), b"old");
        assert_eq!(Package::new("q", "1").deliver(&mut agent, &How::default()), "published q 1");
        agent.ask(Lane::BULK, &Request::Publish).expect("an answer");
        assert_eq!(fs::read_dir(archive.house("stage")).expect("a directory").count(), 0);
    }
}

#[test]
fn as_root_what_will_not_fit_is_refused_beforehand_and_a_list_that_does_not_leaves_the_old_one() {
    let archive = Archive::new();
    let _disk = Disk::mount(archive.path.clone(), "size=1m");
    let mut agent = Agent::start(&archive.path);
    let mut begin = |bytes, entries, reserve| agent.ask(Lane::BULK, &Request::Begin { bytes, entries, reserve });
    assert_eq!(begin(500 << 10, 10, 100 << 10), Ok(vec![]));
    for (bytes, entries, reserve) in [(2 << 20, 1, 0), (1, 300, 0), (1, 1, 1 << 20), (u64::MAX, u64::MAX, u64::MAX)] {
        let failure = begin(bytes, entries, reserve).expect_err("a failure");
        assert!(failure.0 == Class::Space && failure.1.contains("make space"), "{failure:?}");
    }
    fs::write(archive.house("PackageList.txt"), "# end 0\n").expect("a list");
    let list = vec![b'x'; 3 << 20];
    agent.send(
        Lane::BULK,
        &Request::Store { bytes: list.len() as u64, digest: Sha256::digest(&list).into(), purge: Purge::Allowed },
    );
    list.chunks(60_000).for_each(|data| agent.send(Lane::BULK, &Request::Data(data)));
    let failure = agent.lines(Lane::BULK).expect_err("a failure");
    assert_eq!(failure.0, Class::Space, "{failure:?}");
    assert_eq!(fs::read_to_string(archive.house("PackageList.txt")).expect("a list"), "# end 0\n");
}

#[test]
fn as_root_a_stage_on_another_file_system_is_refused() {
    let archive = Archive::new();
    fs::create_dir_all(archive.house("stage")).expect("a directory");
    let _disk = Disk::mount(archive.house("stage"), "size=1m");
    let mut agent = Agent::start(&archive.path);
    let failure = agent.ask(Lane::BULK, &Request::Begin { bytes: 1, entries: 1, reserve: 0 }).expect_err("a failure");
    assert!(failure.0 == Class::Refused && failure.1.contains("is on another file system"), "{failure:?}");
}

#[test]
fn as_root_a_name_that_gets_no_hard_link_is_copied_only_if_there_is_room_beside_what_is_still_to_come() {
    let package =
        Package::new("p", "1").file("a", noise(1, 1 << 20)).name("b", "a").name("c", "a").file("z", noise(2, 1 << 20));
    // Of 8 MiB: what the archive holds is less than 1, a, b and z take one each; a second copy would take what is kept.
    for (reserve, first, fits) in [(1 << 20, "b", true), (5 << 20, "b", false), (4 << 20, "c", false)] {
        let archive = Archive::new();
        let _disk = Disk::mount(archive.path.clone(), "size=8m");
        let mut command = Command::new("strace");
        command.args(["-f", "-o"]).arg(archive.beside("trace")).arg("--inject=linkat:error=EMLINK");
        command.arg(env!("CARGO_BIN_EXE_blat-receiver")).arg("--archive").arg(&archive.path);
        let mut agent = Agent::start_command(command);
        agent.send(Lane::CONTROL, &Request::Hello { protocol: blat_domain::protocol::frames::PROTOCOL });
        let announced = Request::Begin { bytes: 2 << 20, entries: 6, reserve };
        assert_eq!(agent.ask(Lane::BULK, &announced), Ok(vec![]), "it fits where links are made: {reserve}");
        let line = package.deliver(&mut agent, &How::default());
        if fits {
            assert_eq!(line, "published p 1");
            assert_eq!(fs::metadata(archive.path.join("p/1/c")).expect("a file").len(), 1 << 20);
        } else {
            let why = format!("failed p 1 space \"{first}\" gets no hard link (");
            assert!(line.starts_with(&why) && line.contains("and for a copy finding space in "), "{reserve}: {line}");
            assert!(line.contains(&format!("a reserve of {} KiB", reserve >> 10)), "{line}");
            assert_eq!(fs::read_dir(archive.house("stage")).expect("a directory").count(), 0);
        }
    }
}
