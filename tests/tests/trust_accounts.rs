//! What other accounts at a target can do to it: nothing stops it, and what only root can remove is named.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use blat_tests::accounts::Account;
use blat_tests::{Lab, process, tree};

use super::WAY;

/// A lab with three versions of a package; the first version is wanted.
fn lab(name: &str) -> Lab {
    let lab = WAY.lab(name);
    for version in ["1", "2", "3"] {
        lab.package("core", version, |p| p.file("a", version).file("bin/tool", "x"));
    }
    lab.release(&[("core", "1")]);
    lab.config("perth", "aging: immediate\nmax_delete: 100%");
    lab
}

fn house(lab: &Lab, path: &str) -> String {
    lab.target_archive().join(".dpkg_archive").join(path).display().to_string()
}

#[test]
fn as_root_a_stranger_who_takes_every_lock_that_he_can_open_stops_no_sync() {
    let lab = lab("flocks");
    lab.agent_once("perth").expect_success();
    // As an older version left them.
    for (path, mode) in [("publish.lock", 0o644), ("stage", 0o755), ("trash", 0o755)] {
        fs::set_permissions(house(&lab, path), fs::Permissions::from_mode(mode)).expect("root may");
    }
    lab.release(&[("core", "1"), ("core", "2")]);
    lab.agent_once("perth").expect_success();
    let read = lab.run_as(Account::Stranger, &["cat", &house(&lab, "PackageList.txt")]);
    read.expect_success().says("core 2");

    for path in ["publish.lock", "stage", "trash"] {
        let tried = lab.run_as(Account::Stranger, &["flock", "--nonblock", &house(&lab, path), "true"]);
        assert_ne!(tried.code, Some(0), "{path}: {tried}");
        tried.says("Permission denied");
    }
    lab.release(&[("core", "3")]);
    lab.agent_once("perth").expect_success().says("2 deleted");
    assert_eq!(lab.visible(), ["core@3"]);
    assert_eq!(fs::metadata(lab.on_target("core", "3")).expect("a package").mode() & 0o055, 0o055, "for all to read");
}

#[test]
fn as_root_a_folder_that_only_root_can_remove_is_named_once_a_sync_and_everything_goes_on() {
    let mut lab = lab("rootfolder");
    lab.agent_once("perth").expect_success();
    let planted = lab.on_target("core", "1").join("work");
    fs::create_dir(&planted).expect("root may");
    fs::write(planted.join("file"), "root's").expect("root may");
    lab.release(&[("core", "2")]);
    lab.agent_once("perth").expect_success().says("1 deleted");
    assert_eq!(lab.visible(), ["core@2"]);

    for version in ["3", "2"] {
        lab.release(&[("core", version)]);
        let outcome = lab.agent_once("perth");
        outcome.expect_success().says("1 deleted").says(".dpkg_archive/trash/").says("core@1/work/file");
        let said = outcome.to_string().matches("cannot remove a leftover").count();
        assert_eq!(said, 1, "{outcome}");
        assert_eq!(lab.visible(), [format!("core@{version}")]);
    }
    // The master's agent shows them, too, until a sync finds them gone.
    lab.start_master();
    let found = |status: &serde_json::Value| status["leftovers"].as_array().is_some_and(|all| !all.is_empty());
    let status = lab.wait_for_status("perth", "seen with a leftover", found);
    let leftover = &status["leftovers"][0];
    assert!(leftover["path"].as_str().is_some_and(|path| path.starts_with(".dpkg_archive/trash/")), "{leftover}");
    assert_eq!(leftover["owner"], 0, "{leftover}");
    lab.blat(&["status"]).expect_success().says("a leftover takes space on the target: .dpkg_archive/trash/");
    let trash = lab.target_archive().join(".dpkg_archive/trash");
    let left = fs::read_dir(&trash).expect("root may").map(|entry| entry.expect("an entry").path());
    left.for_each(|path| tree::remove(&path));
    lab.blat(&["sync", "perth", "--wait"]).expect_success();
    lab.wait_for_status("perth", "seen without leftovers", |status| !found(status));
    lab.end_master(rustix::process::Signal::TERM);
    let outcome = lab.agent_once("perth");
    assert!(!outcome.expect_success().to_string().contains("leftover"), "{outcome}");
    assert_eq!(fs::read_dir(&trash).expect("root may").count(), 0);
}

/// A group's archive: what comes to it belongs to its group, and its directories pass that on, by scripts and by the receiver.
#[test]
fn as_root_what_comes_to_a_group_s_archive_belongs_to_the_group() {
    let lab = lab("groups");
    let (_, other) = Account::Stranger.ids();
    let (owner, own) = Account::Target.ids();
    // One group that the target's account is a member of, and one that it is not.
    for (group, name) in [(own, "own"), (other, "another")] {
        tree::remove(&lab.target_archive());
        fs::create_dir(lab.target_archive()).expect("root may");
        std::os::unix::fs::chown(lab.target_archive(), Some(owner), Some(group)).expect("root may");
        fs::set_permissions(lab.target_archive(), fs::Permissions::from_mode(0o2755)).expect("root may");
        lab.agent_once("perth").expect_success().says("1 sent");
        let root = lab.on_target("core", "1");
        let seen = ["..", "", "a", "bin", "bin/tool", "descpkg"].map(|path| {
            let there = fs::symlink_metadata(root.join(path)).expect("an entry");
            (path, there.gid(), format!("{:o}", there.mode() & 0o7777))
        });
        let due = [("..", "2755"), ("", "555"), ("a", "444"), ("bin", "555"), ("bin/tool", "444"), ("descpkg", "444")];
        assert_eq!(seen, due.map(|(path, mode)| (path, group, mode.to_owned())), "the {name} group");
    }
}

/// Line 26, for whoever serves.
#[test]
fn as_root_what_its_owner_may_not_read_goes_with_its_modes_and_takes_no_neighbour_along() {
    let lab = lab("unreadable");
    let source = lab.package("odd", "1", |p| {
        p.with_mode("others", "for others alone", 0o044).with_mode("d/nobody", "y", 0o004).file("z", "z")
    });
    let shut = lab.package("shut", "1", |p| p.file("a", "a"));
    lab.package("tools", "1", |p| p.file("a", "a"));
    let set_mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("root may");
    set_mode(&source.join("d"), 0o055);
    set_mode(&shut, 0o055);
    // Whoever writes packages is not the master, who reads them as one of the others.
    [&source, &shut].into_iter().for_each(|package| Account::ReleaseManager.own(package));
    lab.release(&[("core", "1"), ("odd", "1"), ("shut", "1"), ("tools", "1")]);
    lab.config("perth", "");
    lab.agent_once("perth").expect(1).says("shut@1").says("has the mode 055, which closes it to its owner");
    assert_eq!(lab.visible(), ["core@1", "odd@1", "tools@1"]);
    lab.assert_published("odd", "1");
    for (path, mode) in [("others", 0o044), ("d", 0o055), ("d/nobody", 0o004), ("z", 0o444)] {
        let there = fs::metadata(lab.on_target("odd", "1").join(path)).expect("an entry").mode() & 0o7777;
        assert_eq!(there, mode, "{path}: {there:o}");
    }
    lab.blat(&["verify", "perth"]).expect_success().says("closed    odd@1");
}

/// What was sent so that its owner may not read it is not bad, and what somebody closed afterwards is.
#[test]
fn as_root_verify_says_of_what_its_owner_may_not_read_that_it_is_closed_and_not_bad() {
    let lab = lab("closed");
    let source = lab.package("odd", "1", |p| {
        p.with_mode("others", "for others alone", 0o044).file("own", "x").file("d/f", "y").file("z", "z")
    });
    let set_mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("root may");
    set_mode(&source.join("d"), 0o055);
    // Whoever writes packages is not the master, who reads them as one of the others.
    Account::ReleaseManager.own(&source);
    lab.release(&[("core", "1"), ("odd", "1")]);
    // Only a receiver can send such a package: it verifies by the handles that wrote. Whoever serves afterwards meets it.
    process::carried_receiver();
    lab.config("perth", "receiver: auto");
    lab.agent_once("perth").expect_success();
    lab.config("perth", "");
    let there = lab.on_target("odd", "1");
    let verify = |words: &[&str]| lab.blat(&[&["verify", "perth"], words].concat());
    for words in [&[][..], &["--repair"]] {
        let outcome = verify(words);
        outcome.expect_success().says("closed    odd@1  d/f: the archive's owner may not read it");
        outcome.says("verified 2 packages: 1 good, 0 repaired, 0 wrong").says("cannot be verified");
    }
    for path in ["own", "z", "d"] {
        let mode = fs::metadata(there.join(path)).expect("an entry").mode();
        set_mode(&there.join(path), 0o011);
        verify(&[]).expect(1).says("bad       odd@1").says(path);
        set_mode(&there.join(path), mode);
    }
    let before = fs::metadata(there.join("z")).expect("a file").modified().expect("a time");
    fs::write(there.join("z"), "Z").expect("root may");
    verify(&[]).expect(1).says("bad       odd@1  z: FAILED");
    fs::write(there.join("z"), "z").expect("root may");
    fs::File::open(there.join("z")).and_then(|file| file.set_modified(before)).expect("root may");
    verify(&[]).expect_success().says("closed    odd@1");
}
