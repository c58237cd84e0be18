//! Listings: the same as the scripts', only what differs, never short.

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use blat_domain::archive::inventory::Inventory;
use blat_domain::archive::listing_digest::{USUAL, bucket};
use blat_domain::protocol::frames::{Class, Lane, Request};
use support::{Agent, Archive, Said};

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.retain(|line| !["clock ", "free ", "place "].iter().any(|kind| line.starts_with(kind)));
    lines.sort();
    lines
}

/// An archive of packages, links and marks, and of much that is none.
fn furnished() -> Archive {
    let archive = Archive::new();
    for number in 0..40 {
        archive.put(&format!("name{}", number % 7), &format!("1.{number}"), &[("f", "x")], 1_600_000_000 + number);
    }
    archive.put("old", "1", &[], 5);
    let path = |path: &str| archive.path.join(path);
    symlink("1.0", path("name0/current")).expect("a link");
    symlink("no\nsuch \u{e9}", path("name0/odd")).expect("a link");
    symlink("name0", path("linked")).expect("a link");
    for directory in [
        "lost+found/x",
        "name0/lost+found",
        "name0/.hidden",
        ".name/1",
        "name0/not a name",
        "name0/hollow",
        "name0/dir/descpkg",
        "bad name/1",
    ] {
        fs::create_dir_all(path(directory)).expect("a directory");
    }
    fs::write(path("name0/file"), "").expect("a file");
    fs::write(path("lost+found/x/descpkg"), "").expect("a file");
    fs::write(path("name0/lost+found/descpkg"), "").expect("a file");
    fs::write(path("file"), "").expect("a file");
    fs::create_dir_all(path("name0/linkpkg")).expect("a directory");
    symlink("../1.0/descpkg", path("name0/linkpkg/descpkg")).expect("a link");
    fs::create_dir_all(archive.house("aged")).expect("a directory");
    for (mark, text) in [
        ("name0@1.0", "1700000000\n86400\n"),
        ("gone@3", "7\n8\n"),
        ("name0@1.7", "soon\n5\n"),
        ("x", "1\n2\n"),
        ("name1@1", "3\n"),
    ] {
        fs::write(archive.house("aged").join(mark), text).expect("a mark");
    }
    archive
}

fn list(agent: &mut Agent, buckets: Vec<[u8; 16]>) -> (Vec<String>, Vec<u16>) {
    agent.send(Lane::CONTROL, &Request::List { buckets, installed: vec![] });
    let (mut lines, mut listed) = (Vec::new(), None);
    loop {
        match agent.hear(Lane::CONTROL).expect("an answer") {
            Said::Lines(text) => lines.extend(text.lines().map(str::to_owned)),
            Said::Listed(numbers) => listed = Some(numbers),
            Said::Done => return (lines, listed.expect("the numbers of buckets")),
            other => panic!("{other:?} is no listing"),
        }
    }
}

fn inventory(lines: &[String]) -> Inventory {
    let mut inventory = Inventory::default();
    lines.iter().for_each(|line| inventory.add_line(line));
    assert_eq!(inventory.foreign.count, 0, "{:?}", inventory.foreign);
    inventory
}

#[test]
fn a_listing_has_the_lines_of_the_scripts_listing() {
    let archive = furnished();
    let mut agent = Agent::start(&archive.path);
    agent.remains();
    let (lines, buckets) = list(&mut agent, vec![]);
    assert_eq!(buckets, [0]);
    assert_eq!(sorted(lines.clone()), sorted(archive.script("get_plist", &[], "")));
    let inventory = inventory(&lines);
    assert!(inventory.clock.is_some() && inventory.free.is_some_and(|free| free > 0));
    assert!(!archive.house("stage").exists(), "a listing changes nothing");
}

#[test]
fn what_is_the_same_is_not_told_and_a_change_brings_its_bucket_alone() {
    let archive = furnished();
    let mut agent = Agent::start(&archive.path);
    agent.remains();
    let mut known = inventory(&list(&mut agent, vec![]).0);
    let (lines, differing) = list(&mut agent, known.digests(USUAL));
    assert_eq!((sorted(lines), differing), (vec![], vec![]));

    fs::remove_file(archive.path.join("old/1/descpkg")).expect("a file");
    archive.put("name3", "9", &[], 77);
    let (lines, differing) = list(&mut agent, known.digests(USUAL));
    let number = |name| bucket(name, USUAL).and_then(|bucket| u16::try_from(bucket).ok()).expect("a bucket");
    let mut expected = [number("old"), number("name3")];
    expected.sort_unstable();
    assert_eq!(differing, expected);
    assert!(
        lines.contains(&"package name3 9 77".to_owned()) && !lines.iter().any(|line| line.starts_with("package name0"))
    );
    known.empty_buckets(&differing, USUAL);
    lines.iter().for_each(|line| known.add_line(line));
    assert_eq!(list(&mut agent, known.digests(USUAL)).1, Vec::<u16>::new());
}

#[test]
fn many_names_are_listed_by_several_threads_and_agree_with_one() {
    let archive = Archive::new();
    for number in 0..700 {
        let version = archive.path.join(format!("n{number}/1"));
        fs::create_dir_all(&version).expect("a directory");
        fs::write(version.join("descpkg"), "").expect("a file");
    }
    let mut agent = Agent::start(&archive.path);
    agent.remains();
    let known = inventory(&list(&mut agent, vec![]).0);
    assert_eq!(known.packages.len(), 700);
    assert_eq!(list(&mut agent, known.digests(USUAL)).1, Vec::<u16>::new());
}

#[test]
fn what_cannot_be_read_makes_the_listing_fail() {
    let archive = furnished();
    let mut agent = Agent::start_unprivileged(&archive);
    for (path, mode) in [("name3", 0o000), ("name3/1.3", 0o600), (".dpkg_archive/aged", 0o300)] {
        let path = archive.path.join(path);
        let before = fs::metadata(&path).expect("a directory").permissions();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
        let failure = agent
            .ask(Lane::BULK, &Request::List { buckets: vec![[1; 16]; 4], installed: vec![] })
            .expect_err("a failure");
        assert!(failure.0 == Class::Refused && failure.1.contains("Permission denied"), "{failure:?}");
        fs::set_permissions(&path, before).expect("a mode");
        agent.ask(Lane::BULK, &Request::List { buckets: vec![], installed: vec![] }).expect("a listing");
    }
}

#[test]
fn foreign_folders_that_cannot_be_read_do_not_fail_the_listing() {
    let archive = Archive::new();
    archive.put("core", "1", &[], 5);
    let long = "x".repeat(129);
    let names = ["@eaDir", ".snapshot", "#recycle", "System Volume Information", "lost+found", &long];
    let closed: Vec<_> = names.iter().flat_map(|name| [(*name).to_owned(), format!("core/{name}")]).collect();
    for path in &closed {
        fs::create_dir_all(archive.path.join(path).join("1")).expect("a directory");
    }
    let mut agent = Agent::start_unprivileged(&archive);
    agent.remains();
    let set_modes = |mode| {
        for path in &closed {
            fs::set_permissions(archive.path.join(path), fs::Permissions::from_mode(mode)).expect("a mode");
        }
    };
    set_modes(0o000);
    let (lines, _) = list(&mut agent, vec![]);
    let known = inventory(&lines);
    assert_eq!(sorted(lines), ["package core 1 5"]);
    assert_eq!(list(&mut agent, known.digests(USUAL)).1, Vec::<u16>::new());
    set_modes(0o755);
}

#[test]
fn an_archive_that_was_moved_or_mounted_over_ends_the_conversation_so_that_the_next_serves_what_is_there() {
    let ask = |agent: &mut Agent| {
        let failure = agent.ask(Lane::BULK, &Request::List { buckets: vec![], installed: vec![] });
        assert!(!agent.ended().success());
        failure.expect_err("a failure").1
    };
    let archive = furnished();
    let [mut first, mut second] = [(), ()].map(|()| Agent::start(&archive.path));
    first.remains();
    second.remains();
    fs::rename(&archive.path, archive.beside("moved")).expect("a rename");
    let failure = ask(&mut first);
    assert!(failure.starts_with("entering the archive "), "{failure:?}");
    fs::create_dir(&archive.path).expect("a directory");
    let failure = ask(&mut second);
    assert!(failure.contains("another directory is there since"), "{failure:?}");
    let mut third = Agent::start(&archive.path);
    third.remains();
    assert!(list(&mut third, vec![]).0.iter().all(|line| !line.starts_with("package ")), "it is empty");
}

#[test]
fn more_buckets_than_any_may_ask_for_are_refused() {
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    let failure = agent
        .ask(Lane::BULK, &Request::List { buckets: vec![[0; 16]; 8193], installed: vec![] })
        .expect_err("a failure");
    assert_eq!(failure.0, Class::Refused);
}

#[test]
fn an_archive_that_is_not_there_is_an_error_and_no_empty_listing() {
    let archive = Archive::new();
    let mut agent = Agent::start_without_greeting(&archive.beside("missing"));
    assert_eq!(agent.ended().code(), Some(1));
    assert_eq!(agent.hear(Lane::CONTROL), None);
}
