//! What is wanted as releases come and go, and packages that are still being written.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use blat_tests::Lab;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

/// What Release Manager knows from now on, a line each: `PROJECT RELEASE STATE PACKAGE…`.
fn releases(lab: &Lab, lines: &[&str]) {
    let mut yaml = String::from("projects:\n");
    let mut projects: Vec<&str> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
    projects.dedup();
    for project in projects {
        yaml += &format!("  - name: {project}\n    releases:\n");
        for (id, line) in lines.iter().enumerate().filter(|(_, line)| line.split(' ').next() == Some(project)) {
            let words: Vec<&str> = line.split(' ').collect();
            let (name, state, packages) = (words[1], words[2], words[3..].join(", "));
            yaml += &format!("      - {{id: {id}, name: {name}, state: {state}, packages: [{packages}]}}\n");
        }
    }
    fs::write(lab.home().join("releases.yaml"), yaml).expect("an own folder");
}

fn lab(name: &str, config: &str) -> Lab {
    let lab = Lab::new(name);
    for version in ["1", "2", "3", "4"] {
        lab.package("core", version, |p| p.file("a", version));
    }
    lab.config("perth", config);
    lab
}

#[test]
fn several_releases_and_projects_on_one_target_are_the_union() {
    let lab = lab("union", "projects: [Perth, Oslo]\nreleases: [old, B1]");
    let all = [
        "Perth P1 open core@1 core@2",
        "Perth P2 restricted core@2",
        "Oslo O1 open core@3",
        "Berlin B1 open core@4 core@1",
        "Berlin B2 open core@9",
        "Rome old closed core@3",
    ];
    releases(&lab, &all);

    lab.agent_once("perth").expect_success();

    lab.assert_never_partial();
    assert_eq!(lab.package_list(), ["core 1", "core 2", "core 3", "core 4"]);
    assert_eq!(lab.visible(), ["core@1", "core@2", "core@3", "core@4"]);
}

#[test]
fn closing_a_release_drops_its_exclusive_packages_at_the_next_sync() {
    let lab = lab("closing", "projects: [Perth]");
    releases(&lab, &["Perth P1 open core@1 core@2", "Perth P2 open core@2 core@3"]);
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.package_list(), ["core 1", "core 2", "core 3"]);

    releases(&lab, &["Perth P1 closed core@1 core@2", "Perth P2 open core@2 core@3"]);
    lab.agent_once("perth").expect_success();

    assert_eq!(lab.package_list(), ["core 2", "core 3"], "what the other release wants too stays wanted");
    lab.blat(&["plan", "perth"]).expect_success().says("extra  core@1");
}

#[test]
fn a_new_release_of_a_named_project_joins_by_itself() {
    let mut lab = lab("joining", "projects: [Perth]\nsync: 1s");
    releases(&lab, &["Perth P1 open core@1"]);
    lab.start_master();
    lab.wait_until_published("core", "1");

    releases(&lab, &["Perth P1 open core@1", "Perth P2 open core@4", "Oslo O1 open core@3"]);

    lab.wait_until_published("core", "4");
    lab.wait_for("the new list", || (lab.package_list() == ["core 1", "core 4"]).then_some(()));
    assert_eq!(lab.visible(), ["core@1", "core@4"]);
}

/// Gives a path a time so many seconds ago.
fn age(path: &Path, seconds: i64) {
    let now = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_secs() as i64;
    let stamp = Timespec { tv_sec: now - seconds, tv_nsec: 0 };
    let stamps = Timestamps { last_access: stamp, last_modification: stamp };
    rustix::fs::utimensat(CWD, path, &stamps, AtFlags::empty()).expect("an own file");
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("an own file");
}

#[test]
fn a_package_with_any_write_bit_on_directory_or_descpkg_waits_and_a_read_only_one_goes_at_once() {
    let lab = Lab::new("writebits");
    for (version, directory, descpkg) in
        [("1", 0o555, 0o444), ("2", 0o755, 0o444), ("3", 0o555, 0o644), ("4", 0o575, 0o444), ("5", 0o555, 0o446)]
    {
        let root = lab.package("core", version, |p| p.file("a", version).writable());
        set_mode(&root.join("descpkg"), descpkg);
        set_mode(&root, directory);
    }
    releases(&lab, &["Lab L1 open core@1 core@2 core@3 core@4 core@5"]);
    lab.config("perth", "");

    lab.agent_once("perth").expect_success().says("1 of 5 wanted packages are there, 1 sent");

    assert_eq!(lab.visible(), ["core@1"]);
    lab.blat(&["plan", "perth"])
        .expect_success()
        .says("core@2  waits: still writable")
        .says("core@5  waits: still writable");
}

#[test]
fn a_writable_package_goes_once_directory_and_descpkg_were_left_alone_for_the_configured_time() {
    let lab = Lab::new("patience");
    for (version, directory, descpkg) in [("1", 7000, 7000), ("2", 7000, 100), ("3", 100, 7000)] {
        let root = lab.package("core", version, |p| p.file("a", version).writable());
        age(&root.join("descpkg"), descpkg);
        age(&root, directory);
    }
    releases(&lab, &["Lab L1 open core@1 core@2 core@3"]);
    lab.config("perth", "writable: 1h");

    lab.agent_once("perth").expect_success();

    assert_eq!(lab.visible(), ["core@1"], "the newest of the two times counts");
}

#[test]
fn a_tag_for_a_writable_package_waits_and_is_sent_once_that_is_read_only() {
    let mut lab = Lab::new("tagwaits");
    let root = lab.package("core", "1", |p| p.file("a", "1").writable());
    releases(&lab, &["Lab L1 open"]);
    lab.config("perth", "tag_poll: 1s");
    lab.start_master();
    let tag = lab.drop_tag("perth", "core", "1");
    lab.wait_for_status("perth", "waiting for the package", |s| {
        s["last_error"]["text"].as_str().is_some_and(|text| text.contains("still writable"))
    });
    assert!(tag.exists() && lab.visible().is_empty());

    set_mode(&root.join("descpkg"), 0o444);
    set_mode(&root, 0o555);

    lab.wait_until_published("core", "1");
    lab.wait_for("the tag to be consumed", || (!tag.exists()).then_some(()));
}
