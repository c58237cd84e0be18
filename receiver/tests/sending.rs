//! Packages that come whole are published as they were: bytes, modes, times to the nanosecond, links.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use blat_domain::protocol::frames::{Lane, Leaving, Request, Retirement, Rule};
use support::package::{How, Node, Package, noise};
use support::{Agent, Archive, Said};

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
            Node::File(..) | Node::Name(_) => {
                let (bytes, mode) = package.content(node).expect("a file");
                assert!(
                    there.is_file() && there.mode() & 0o7777 == u32::from(mode & 0o777),
                    "{}: {:o}",
                    path.display(),
                    there.mode()
                );
                assert!(fs::read(path).expect("a file") == bytes, "{} differs", path.display());
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
    let tree = archive.house(&format!("manifests/{}/.{}.tree", package.id.name, package.id.version));
    assert_eq!(fs::read(tree).expect("a tree file"), package.tree());
    let stages =
        fs::read_dir(archive.house("stage")).expect("a stage").map(|stage| stage.expect("a stage").file_name());
    assert_eq!(stages.collect::<Vec<_>>(), Vec::<std::ffi::OsString>::new());
}

fn every_kind() -> Package {
    Package::new("core_devl", "2.1.0.cr")
        .file("a b", "text")
        .file("empty", "")
        .file("deep/er/file", noise(3, 300_000))
        .name("deep/er/name", "deep/er/file")
        .name("other/name", "deep/er/file")
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

/// A group that nobody is a member of on any machine, by its number.
const TEAM: u32 = 54_321;

/// What a package that a setgid archive gets looks like to the group, served as an ordinary user whose groups are these.
fn groups_of_published(groups: &str, archive_group: u32, name_group: Option<u32>) -> Vec<(u32, u32)> {
    let archive = Archive::new();
    let mut agent = Agent::start_with_groups(&archive, groups, archive_group);
    if let Some(group) = name_group {
        let name = archive.path.join("core_devl");
        fs::create_dir(&name).expect("a directory");
        std::os::unix::fs::chown(&name, Some(support::NOBODY), Some(group)).expect("root may");
        fs::set_permissions(&name, fs::Permissions::from_mode(0o2755)).expect("root may");
    }
    let package = every_kind().mode(0o555);
    assert_eq!(package.deliver(&mut agent, &How::default()), "published core_devl 2.1.0.cr");
    assert_published(&archive, &package);
    let name = fs::metadata(archive.path.join("core_devl")).expect("a directory");
    let root = archive.path.join(package.id.path());
    let mut seen = vec![(name.gid(), name.mode() & 0o7777)];
    for path in ["", "a b", "deep/link", "closed", "closed/tight/file"] {
        let there = fs::symlink_metadata(root.join(path)).expect("an entry");
        seen.push((there.gid(), there.mode() & 0o7000));
    }
    seen
}

/// The groups of its name, and of five entries of it.
fn all_of(name: u32, entries: u32) -> Vec<(u32, u32)> {
    let mut expected = vec![(name, 0o2755)];
    expected.extend([(entries, 0); 5]);
    expected
}

#[test]
fn as_root_a_package_gets_the_group_of_the_setgid_directory_that_it_goes_into() {
    let nobody = support::NOBODY;
    let both = format!("{TEAM},{}", TEAM + 1);
    assert_eq!(groups_of_published(&both, TEAM, None), all_of(TEAM, TEAM), "of the archive");
    assert_eq!(groups_of_published(&both, TEAM, Some(TEAM + 1)), all_of(TEAM + 1, TEAM + 1), "of its name");
    let stranger = groups_of_published(&nobody.to_string(), TEAM, None);
    assert_eq!(stranger, all_of(TEAM, TEAM), "whoever is no member has it from the stage, which is in the archive");
    let stranger = groups_of_published(&nobody.to_string(), TEAM, Some(TEAM + 1));
    assert_eq!(stranger, all_of(TEAM + 1, nobody), "and goes on with his own where it is refused");
}

#[test]
fn a_package_whose_root_nobody_may_write_is_published_and_replaced_by_an_ordinary_user() {
    let archive = Archive::new();
    let mut agent = Agent::start_unprivileged(&archive);
    let package = every_kind().mode(0o555);
    assert_eq!(package.deliver(&mut agent, &How::default()), "published core_devl 2.1.0.cr");
    assert_published(&archive, &package);
    for second in 1..4 {
        let newer = package
            .clone()
            .file("more", "new")
            .mode(if second == 2 { 0o755 } else { 0o500 })
            .time(1_700_000_000 + second);
        assert_eq!(
            newer.deliver(&mut agent, &How { rule: Rule::Replace, ..How::default() }),
            "replaced core_devl 2.1.0.cr"
        );
        agent.ask(Lane::BULK, &Request::Publish).expect("an answer");
        assert_published(&archive, &newer);
    }
    let retire = Request::Retire { how: Retirement::Mark(5), packages: vec![Leaving::new(package.id, None)] };
    assert_eq!(agent.ask(Lane::BULK, &retire), Ok(vec!["marked core_devl 2.1.0.cr".into()]));
}

#[test]
fn files_of_another_version_are_referred_to_and_copied() {
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    let big = noise(1, 3_000_000);
    let first = Package::new("p", "1").file("big", &big).file("same", noise(2, 50_000)).file("small", "one");
    assert_eq!(first.deliver(&mut agent, &How::default()), "published p 1");
    let mut changed = big.clone();
    changed[1_000_000..1_000_100].fill(7);
    let second = Package::new("p", "2").file("big", &changed).file("small", "two");
    let second = second.file("same", noise(2, 50_000)).file("renamed", noise(2, 50_000));
    let how = How { base: Some(first.clone()), copy: true, number: 2, piece: 4 << 20, ..How::default() };
    assert_eq!(second.deliver(&mut agent, &how), "published p 2");
    assert_published(&archive, &first);
    assert_published(&archive, &second);
}

#[test]
fn a_file_of_zeros_takes_no_space_whether_its_bytes_come_or_are_copied() {
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    let image = [noise(1, 5_000), vec![0; 3 << 20], noise(2, 5_000), vec![0; 2 << 20]].concat();
    let package = |version| Package::new("image", version).file("disk", &image);
    assert_eq!(package("1").deliver(&mut agent, &How::default()), "published image 1");
    let copied = How { number: 2, base: Some(package("1")), copy: true, ..How::default() };
    assert_eq!(package("2").deliver(&mut agent, &copied), "published image 2");
    for version in ["1", "2"] {
        assert_published(&archive, &package(version));
        let taken = fs::metadata(archive.path.join("image").join(version).join("disk")).expect("a file").blocks() * 512;
        assert!(taken < 1 << 20, "{version}: {taken} of {} bytes", image.len());
    }
}

#[test]
fn a_version_that_waits_to_be_published_can_be_referred_to() {
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    let versions: Vec<_> = (0..6u64)
        .map(|number| {
            Package::new("p", &number.to_string()).file("same", noise(9, 200_000)).file("other", noise(number, 1000))
        })
        .collect();
    for (number, version) in (0u32..).zip(&versions) {
        let base = number.checked_sub(1).map(|before| versions[before as usize].clone());
        version.send(&mut agent, &How { number, base, copy: number % 2 == 0, ..How::default() });
    }
    let lines = agent.ask(Lane::BULK, &Request::Publish).expect("an answer");
    let expected: Vec<_> = (0..6).map(|number| format!("published p {number}")).collect();
    assert_eq!(lines, expected);
    agent.ask(Lane::BULK, &Request::Publish).expect("an answer");
    versions.iter().for_each(|version| assert_published(&archive, version));
}

#[test]
fn what_refers_to_something_that_is_gone_or_changed_is_to_be_sent_again_without_it() {
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    let first = Package::new("p", "1").file("f", noise(1, 100_000));
    let second = Package::new("p", "2").file("f", noise(1, 100_000));
    let write_wrong = |bytes: &[u8]| fs::write(archive.path.join("p/1/f"), bytes).expect("a file");
    for (copy, number) in [(true, 1), (false, 2)] {
        let how = How { base: Some(first.clone()), copy, number, ..How::default() };
        fs::remove_dir_all(archive.path.join("p/1")).ok();
        second.send(&mut agent, &how);
        assert_eq!(agent.hear(Lane::BULK), Some(Said::Lacks(number)));
        first.write(&archive.path);
        write_wrong(&noise(4, 100_000));
        second.send(&mut agent, &how);
        assert_eq!(agent.hear(Lane::BULK), Some(Said::Lacks(number)));
    }
    assert_eq!(second.deliver(&mut agent, &How { number: 3, ..How::default() }), "published p 2");
    assert_published(&archive, &second);
}

#[test]
fn a_package_of_many_small_files_takes_a_piece_and_not_a_frame_each() {
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    let package = (0..3000u64).fold(Package::new("many", "1"), |package, number| {
        package.file(&format!("d{}/f{number}", number % 7), noise(number, (number % 90) as usize))
    });
    assert_eq!(package.deliver(&mut agent, &How::default()), "published many 1");
    assert_published(&archive, &package);
}

#[test]
fn a_version_in_place_is_replaced_kept_or_complained_about_as_its_rule_says() {
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    let old = Package::new("p", "1").file("f", "old");
    let newer = Package::new("p", "1").file("f", "new").time(1_700_000_005);
    let other = Package::new("p", "1").file("f", "other");
    assert_eq!(old.deliver(&mut agent, &How::default()), "published p 1");
    let mut answer = |package: &Package, rule| package.deliver(&mut agent, &How { rule, ..How::default() });
    assert!(answer(&newer, Rule::New).starts_with(
        "failed p 1 conflict another one is there, whose descpkg has the time 1700000000, not 1700000005"
    ));
    assert!(answer(&other, Rule::Replace).starts_with("failed p 1 differs "));
    assert_eq!(answer(&old, Rule::Replace), "already p 1");
    fs::create_dir_all(archive.house("aged")).expect("a directory");
    fs::write(archive.house("aged/p@1"), "1\n2\n").expect("a mark");
    assert_eq!(answer(&newer, Rule::Replace), "replaced p 1");
    assert!(!archive.house("aged/p@1").exists(), "a mark outlives that somebody wants its package");
    assert_eq!(answer(&other, Rule::Repair), "replaced p 1");
    assert_eq!(answer(&other, Rule::Repair), "replaced p 1");
    fs::create_dir_all(archive.path.join("q/1/inner")).expect("a directory");
    std::os::unix::fs::symlink("1", archive.path.join("q/2")).expect("a link");
    fs::write(archive.path.join("r"), "").expect("a file");
    for (name, version) in [("q", "1"), ("q", "2"), ("r", "1")] {
        let line = answer(&Package::new(name, version), Rule::Repair);
        assert!(line.starts_with(&format!("failed {name} {version} foreign ")), "{line}");
    }
    agent.ask(Lane::BULK, &Request::Publish).expect("an answer");
    assert_published(&archive, &other);
}

#[test]
fn replacing_never_shows_anything_but_a_whole_version() {
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    let version = |second: i64| {
        let bytes = [second as u8; 1000];
        Package::new("p", "1").file("a", bytes).file("b", bytes).time(1_700_000_000 + second)
    };
    assert_eq!(version(0).deliver(&mut agent, &How::default()), "published p 1");
    let place = archive.path.join("p/1");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut looks = 0u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let handle = fs::File::open(&place).expect("a version is always there");
                let below = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&handle));
                // An old one may be on its way out while it is read, but never in pieces of two.
                if let (Ok(a), Ok(b)) = (fs::read(format!("{below}/a")), fs::read(format!("{below}/b"))) {
                    assert_eq!(a, b);
                }
                looks += 1;
            }
            looks
        });
        for second in 1..60 {
            let how = How { rule: Rule::Replace, ..How::default() };
            assert_eq!(version(second).deliver(&mut agent, &how), "replaced p 1");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(looks.join().expect("looks") > 0);
    });
}

#[test]
fn two_receivers_fill_one_archive_and_one_yields_where_both_bring_the_same() {
    let archive = Archive::new();
    let mut agents = [Agent::start(&archive.path), Agent::start(&archive.path)];
    let package = |number: usize| Package::new("p", &number.to_string()).file("f", noise(number as u64, 10_000));
    for number in 0..40 {
        package(number).send(&mut agents[number % 2], &How::default());
    }
    let mut lines: Vec<_> =
        agents.iter_mut().flat_map(|agent| agent.ask(Lane::BULK, &Request::Publish).expect("an answer")).collect();
    lines.sort();
    let mut expected: Vec<_> = (0..40).map(|number| format!("published p {number}")).collect();
    expected.sort();
    assert_eq!(lines, expected);
    let same = Package::new("q", "1");
    same.send_entries(&mut agents[0], &How::default());
    support::wait_for("its stage", || archive.house("stage/q@1/package").exists());
    let line = same.deliver(&mut agents[1], &How::default());
    assert!(line.contains("q 1 io") && line.contains("another process receives it"), "{line}");
}

#[test]
fn a_tag_s_package_is_told_while_a_bulk_lane_stands_in_mid_piece() {
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    let bulk = Package::new("bulk", "1").file("f", noise(1, 1 << 20));
    bulk.send_entries(&mut agent, &How::default());
    let tagged = Package::new("tagged", "1");
    assert_eq!(
        tagged.deliver(&mut agent, &How { lane: Lane::TAGS, number: 7, ..How::default() }),
        "published tagged 1"
    );
    bulk.send_files(&mut agent, &How::default(), &[]);
    let entries = bulk.nodes.len() as u64 + 1;
    agent.send(Lane::BULK, &Request::Whole { entries, manifest: bulk.manifest_digest() });
    // Whole packages are published without being asked for, as soon as nothing waits.
    assert_eq!(agent.hear(Lane::BULK), Some(Said::Lines("published bulk 1\n".into())));
}
