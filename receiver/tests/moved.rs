//! Another archive takes the place of the one that is served: nothing is changed in that one any more, and nothing is said of it.

mod support;

use std::fs;
use std::os::unix::fs::{chown, lchown, symlink};
use std::path::{Path, PathBuf};

use blat_domain::archive::package_list::Purge;
use blat_domain::archive::record::Claim;
use blat_domain::protocol::frames::{Lane, Leaving, Request, Retirement};
use sha2::{Digest as _, Sha256};
use support::package::{How, Package};
use support::{Agent, Archive, NOBODY, Said, id};

/// The PackageList of the archive that is served at first.
const LIST: &str = "q 1\n# end 1\n";
/// Another one, which names what is there.
const OTHER_LIST: &str = "p 1\n# end 1\n";

/// An archive with one package that is not wanted.
fn furnished() -> Archive {
    let archive = Archive::new();
    archive.put("p", "1", &[("f", "x")], 5);
    fs::write(archive.house("PackageList.txt"), LIST).expect("a list");
    archive
}

/// What is asked of the receiver.
type Act<'a> = &'a dyn Fn(&mut Agent);

/// From now on an empty archive is in the place of this one, and this one where it is said.
fn replace(archive: &Archive) -> PathBuf {
    let aside = archive.beside("aside");
    fs::rename(&archive.path, &aside).and_then(|()| fs::create_dir(&archive.path)).expect("an own folder");
    aside
}

/// The conversation ends, for the archive that was served.
fn assert_ends(agent: &mut Agent, lane: Lane, what: &str) {
    let failure = agent.lines(lane).expect_err(what);
    assert!(failure.1.contains("another directory is there since"), "{what}: {failure:?}");
    assert!(!agent.ended().success(), "{what}");
}

fn store(agent: &mut Agent) {
    let digest = Sha256::digest(OTHER_LIST).into();
    agent.send(Lane::BULK, &Request::Store { bytes: OTHER_LIST.len() as u64, digest, purge: Purge::Allowed });
    agent.send(Lane::BULK, &Request::Data(OTHER_LIST.as_bytes()));
}

fn retire(agent: &mut Agent, how: Retirement) {
    agent.send(Lane::BULK, &Request::Retire { how, packages: vec![Leaving::new(id("p@1"), None)] });
}

#[test]
fn what_waits_to_be_changed_when_another_archive_takes_its_place_is_not_changed() {
    let record = "0123456789abcdef0123456789abcdef\n00000000000000000000000000000001 perth\n";
    let tag = How { lane: Lane::TAGS, ..How::default() };
    let cases: [(&str, Lane, Act<'_>); 7] = [
        ("a tag's package", Lane::TAGS, &|agent| Package::new("new", "1").send(agent, &tag)),
        ("a package", Lane::BULK, &|agent| Package::new("new", "1").send(agent, &How::default())),
        ("a link", Lane::BULK, &|agent| {
            agent.send(Lane::BULK, &Request::Link { links: vec![(id("p@2"), "1".parse().expect("a version"))] });
        }),
        ("a list", Lane::BULK, &store),
        ("a mark", Lane::BULK, &|agent| retire(agent, Retirement::Mark(60))),
        ("a deletion", Lane::BULK, &|agent| retire(agent, Retirement::Delete)),
        ("a claim", Lane::BULK, &|agent| agent.send(Lane::BULK, &Request::Claim { how: Claim::Adopt, record })),
    ];
    for (what, lane, ask) in cases {
        let archive = furnished();
        let mut agent = Agent::start(&archive.path);
        agent.remains();
        // Whatever is asked for waits for this.
        let lock = fs::File::create(archive.house("publish.lock")).expect("a lock");
        lock.lock().expect("a lock");
        ask(&mut agent);
        // By then all of it has come.
        support::wait_for(what, || fs::read_dir(archive.house("stage")).is_ok_and(|stages| stages.count() > 0));
        let aside = replace(&archive);
        drop(lock);
        assert_ends(&mut agent, lane, what);

        assert_eq!(fs::read_dir(&archive.path).expect("an archive").count(), 0, "{what}");
        let there = |path: &str| aside.join(path).symlink_metadata().is_ok();
        assert!(there("p/1/descpkg") && !there("p/2") && !there("new"), "{what}");
        assert!(!there(".dpkg_archive/aged/p@1") && !there(".dpkg_archive/archive"), "{what}");
        assert_eq!(fs::read_to_string(aside.join(".dpkg_archive/PackageList.txt")).expect("a list"), LIST, "{what}");
    }
}

#[test]
fn nothing_is_said_of_an_archive_that_is_not_in_its_place_any_more() {
    let package = Package::new("p", "2").file("f", "x");
    let cases: [(&str, Act<'_>); 3] = [
        ("a verdict", &|agent| agent.send(Lane::BULK, &Request::Verify { packages: vec![id("p@1")] })),
        ("what it holds", &|agent| {
            package.send_entries(agent, &How { ask: true, ..How::default() });
        }),
        ("that all is published", &|agent| agent.send(Lane::BULK, &Request::Publish)),
    ];
    for (what, ask) in cases {
        let archive = furnished();
        let mut agent = Agent::start(&archive.path);
        agent.remains();
        replace(&archive);
        ask(&mut agent);
        assert_ends(&mut agent, Lane::BULK, what);
    }
}

/// An account that is neither root nor the archive's owner.
const STRANGER: u32 = 54_321;

/// An archive with another folder of its owner's beside it, and a folder of this account's with a link to one of them that is another one's.
fn beside_folder_of(keeper: u32, to: &str, owner: u32) -> (Archive, PathBuf) {
    let archive = furnished();
    let (area, other) = (archive.beside("area"), archive.beside("other"));
    fs::create_dir(&area).and_then(|()| fs::create_dir(&other)).expect("a directory");
    chown(&area, Some(keeper), None).and_then(|()| chown(&other, Some(NOBODY), None)).expect("root may");
    plant(to, &area.join("arch"), owner);
    let way = area.join("arch");
    (archive, way)
}

fn plant(to: &str, link: &Path, owner: u32) {
    symlink(to, link).and_then(|()| lchown(link, Some(owner), None)).expect("root may");
}

#[test]
fn as_root_an_archive_behind_a_stranger_s_link_is_not_served_and_behind_own_links_it_is() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    for (keeper, owner) in
        [(NOBODY, 0), (0, NOBODY), (NOBODY, NOBODY), (NOBODY, STRANGER), (STRANGER, NOBODY), (STRANGER, 0)]
    {
        for to in ["../archive", "../other/../archive"] {
            let (archive, way) = beside_folder_of(keeper, to, owner);
            plant("area/arch", &archive.beside("link"), NOBODY);
            for path in [&way, &archive.beside("link")] {
                let mut agent = Agent::start_unprivileged_by(&archive, path);
                if [keeper, owner].contains(&STRANGER) {
                    assert_eq!(agent.ended().code(), Some(1));
                } else {
                    assert_eq!(Package::new("new", "1").deliver(&mut agent, &How::default()), "published new 1");
                    fs::remove_dir_all(archive.path.join("new")).expect("root may");
                }
            }
            assert!(!archive.path.join("new").exists());
        }
    }
}

#[test]
fn as_root_a_stranger_who_exchanges_the_archive_for_a_link_has_nothing_changed_where_that_leads() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Also a link to the very archive that is served: the next one would lead elsewhere.
    for to in ["../other", "../archive"] {
        let (archive, way) = beside_folder_of(NOBODY, "../archive", NOBODY);
        let mut agent = Agent::start_unprivileged_by(&archive, &way);
        agent.remains();
        fs::remove_file(&way).expect("a link");
        plant(to, &way, STRANGER);
        let failure = agent.ask(Lane::BULK, &Request::Verify { packages: vec![id("p@1")] }).expect_err("it ends").1;
        let link = format!("{} is a link that the account {STRANGER} made; name the real path", way.display());
        assert!(failure.starts_with("entering the archive ") && failure.contains(&link), "{failure}");
        assert!(!agent.ended().success());
        assert_eq!(fs::read_dir(archive.beside("other")).expect("a folder").count(), 0);
    }
    // And what comes after it is refused as well.
    let (archive, way) = beside_folder_of(NOBODY, "../other", STRANGER);
    let mut agent = Agent::start_unprivileged_by(&archive, &way);
    assert!(!agent.ended().success());
    assert!(!matches!(agent.hear(Lane::CONTROL), Some(Said::Welcome(_))));
    assert_eq!(fs::read_dir(archive.beside("other")).expect("a folder").count(), 0);
}
