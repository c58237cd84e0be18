//! `blat verify`, and the alarm where bytes differ under the same time: nothing is overwritten before somebody says so.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use blat_tests::{Lab, tree};

use super::WAY;

/// A lab whose target has what its source has: core@1, tools@1.
fn synced(name: &str) -> Lab {
    let lab = WAY.lab(name);
    lab.package("core", "1", |p| p.file("bin/a", "1").file("odd\nname", "x").noise("data", 50_000));
    lab.package("tools", "1", |p| p.file("a", "1"));
    lab.release(&[("core", "1"), ("tools", "1")]);
    lab.config("perth", "");
    lab.agent_once("perth").expect_success();
    lab
}

/// Changes a file on the target as its owner could.
fn spoil(lab: &Lab, path: &Path) {
    let text = path.to_str().expect("text");
    lab.as_target_user(&["chmod", "u+w", text]).expect_success();
    lab.as_target_user(&["sh", "-c", "echo spoilt >\"$0\"", text]).expect_success();
}

/// Builds core@1 again in the source: other bytes, the same time of descpkg.
fn rebuild(lab: &Lab) {
    tree::remove(&lab.source().join("core/1"));
    lab.package("core", "1", |p| p.file("bin/a", "built again").noise("data", 50_000));
}

#[test]
fn verify_finds_every_package_good_that_is_as_it_was_sent() {
    let lab = synced("good");
    lab.blat(&["verify", "perth"]).expect_success().says("verified 2 packages: 2 good, 0 repaired, 0 wrong");
    lab.blat(&["verify", "nobody"]).expect(2);
}

#[test]
fn verify_names_a_package_whose_bytes_went_bad_and_repair_sends_it_again_atomically() {
    let lab = synced("bad");
    spoil(&lab, &lab.on_target("core", "1").join("bin/a"));
    lab.agent_once("perth").expect_success().says("0 sent");

    let outcome = lab.blat(&["verify", "perth"]);
    outcome.expect(1).says("bad       core@1  bin/a: FAILED").says("1 good, 0 repaired, 1 wrong");
    assert_eq!(fs::read_to_string(lab.on_target("core", "1").join("bin/a")).expect("a file"), "spoilt\n");

    lab.blat(&["verify", "perth", "--repair"]).expect_success().says("repaired  core@1").says("1 repaired, 0 wrong");
    lab.assert_published("core", "1");
    lab.blat(&["verify", "perth"]).expect_success().says("2 good");
}

/// What may happen to a package on its target beside its bytes, as its owner does it, and how `blat verify` says it.
const CHANGES: [(&str, &str); 8] = [
    (
        "chmod 755 lib; ln -sfn elsewhere lib/link; chmod 555 lib",
        "lib/link: is link elsewhere, was sent as link ../bin/a",
    ),
    ("chmod 755 lib; rm lib/link; chmod 555 lib", "lib/link: missing"),
    ("chmod 700 bin/a", "bin/a: is file 700, was sent as file 555"),
    ("chmod 700 bin", "bin: is dir 700, was sent as dir 555"),
    ("chmod 755 .; rmdir empty; chmod 555 .", "empty: missing"),
    ("chmod 755 bin; mkdir bin/more; chmod 555 bin", "bin/more: was not sent"),
    ("chmod 755 bin; ln -s a bin/more; chmod 555 bin", "bin/more: was not sent"),
    ("chmod 755 bin; touch bin/more; chmod 555 bin", "bin/more: was not sent"),
];

#[test]
fn verify_sees_links_modes_directories_and_entries_that_changed_and_repair_brings_them_back() {
    let lab = WAY.lab("entries");
    lab.package("core", "1", |p| p.exec("bin/a", "1").symlink("lib/link", "../bin/a").empty_dir("empty"));
    lab.release(&[("core", "1")]);
    lab.config("perth", "");
    lab.agent_once("perth").expect_success();
    lab.blat(&["verify", "perth"]).expect_success().says("verified 1 packages: 1 good");
    let place = lab.on_target("core", "1");
    for (change, finding) in CHANGES {
        let text = format!("cd {} && {change}", place.display());
        lab.as_target_user(&["sh", "-c", &text]).expect_success();

        lab.blat(&["verify", "perth"]).expect(1).says(&format!("bad       core@1  {finding}"));
        lab.blat(&["verify", "perth", "--repair"]).expect_success().says("repaired  core@1");

        lab.assert_published("core", "1");
    }
    lab.blat(&["verify", "perth"]).expect_success().says("1 good, 0 repaired, 0 wrong");
}

#[test]
fn the_manifest_is_read_by_every_sha256sum() {
    let lab = WAY.lab("sums");
    lab.package("core", "1", |p| p.file("bin/a", "1").symlink("lib/link", "../bin/a").empty_dir("empty"));
    lab.release(&[("core", "1")]);
    lab.config("perth", "");
    lab.agent_once("perth").expect_success();
    let manifest = lab.target_archive().join(".dpkg_archive/manifests/core/1");
    for tool in ["sha256sum", "busybox sha256sum"] {
        let text = format!("cd {} && {tool} -c {}", lab.on_target("core", "1").display(), manifest.display());
        lab.as_target_user(&["sh", "-c", &text]).expect_success().says("bin/a: OK");
    }
}

/// What an older version published has no tree file.
#[test]
fn a_package_without_a_tree_file_is_verified_by_its_files_neither_alarms_nor_is_sent_again_and_that_is_said() {
    let lab = synced("notree");
    let manifests = lab.target_archive().join(".dpkg_archive/manifests");
    fs::remove_file(manifests.join("core/.1.tree")).expect("a tree file");

    lab.blat(&["verify", "perth"])
        .expect_success()
        .says("verified 2 packages: 2 good, 0 repaired, 0 wrong")
        .says("of 1 good packages only the files were verified");
    lab.agent_once("perth").expect_success().says("0 sent");
    lab.blat(&["tag", "core", "1", "--target", "perth"]).expect_success();
    lab.agent_once("perth").expect_success().says("0 sent");

    spoil(&lab, &lab.on_target("core", "1").join("bin/a"));
    lab.blat(&["verify", "perth", "--repair"]).expect_success().says("bad       core@1  bin/a: FAILED");
    assert!(manifests.join("core/.1.tree").is_file(), "what is sent now has a tree file");
    lab.blat(&["verify", "perth"]).expect_success().says("2 good, 0 repaired, 0 wrong");
}

#[test]
fn a_source_with_other_links_or_modes_under_the_same_time_differs() {
    let lab = synced("sourcemode");
    let file = lab.source().join("core/1/bin/a");
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("an own file");

    lab.blat(&["verify", "perth"]).expect(1).says("differs   core@1  the source has other links, modes or directories");
    lab.blat(&["verify", "perth", "--repair"]).expect_success().says("repaired  core@1");

    lab.assert_published("core", "1");
}

/// What is no regular file in the place of a record is no absence: somebody put it there.
#[test]
fn a_manifest_or_tree_file_that_is_no_regular_file_is_bad_and_named() {
    let lab = synced("records");
    let manifests = lab.target_archive().join(".dpkg_archive/manifests/core");
    for (record, what) in [(".1.tree", "its tree file"), ("1", "its manifest")] {
        for put in ["mkfifo", "ln -s /dev/null", "mkdir"] {
            let text = format!("cd {} && mv {record} .kept && {put} {record}", manifests.display());
            lab.as_target_user(&["sh", "-c", &text]).expect_success();
            let finding = format!("bad       core@1  {what} .dpkg_archive/manifests/core/{record} is no regular file");
            lab.blat(&["verify", "perth"]).expect(1).says(&finding).says("1 good, 0 repaired, 1 wrong");
            let text = format!("cd {} && rm -d {record} && mv .kept {record}", manifests.display());
            lab.as_target_user(&["sh", "-c", &text]).expect_success();
        }
    }
    lab.blat(&["verify", "perth"]).expect_success().says("2 good");
}

#[test]
fn verify_tells_of_a_package_without_manifest_and_repair_brings_it_one() {
    let lab = synced("nomanifest");
    let manifest = lab.target_archive().join(".dpkg_archive/manifests/core/1");
    fs::remove_file(&manifest).expect("a manifest");

    lab.blat(&["verify", "perth"]).expect(1).says("unknown   core@1  its manifest is gone");
    lab.blat(&["verify", "perth", "--repair"]).expect_success().says("repaired  core@1");

    assert!(manifest.is_file());
    lab.blat(&["verify", "perth"]).expect_success();
}

#[test]
fn what_the_source_has_no_more_is_told_and_left() {
    let lab = synced("nosource");
    spoil(&lab, &lab.on_target("core", "1").join("bin/a"));
    tree::remove(&lab.source().join("core/1"));

    let outcome = lab.blat(&["verify", "perth", "--repair"]);

    outcome.expect(1).says("left      core@1  cannot be repaired: the source has no such package");
    assert!(lab.on_target("core", "1").join("bin/a").exists());
}

#[test]
fn same_time_but_different_bytes_is_an_alarm_in_status_and_log_and_nothing_is_overwritten() {
    let mut lab = synced("alarm");
    let before = tree::read(&lab.on_target("core", "1")).expect("a package");
    rebuild(&lab);
    lab.start_master();

    let tag = lab.drop_tag("perth", "core", "1");
    let alarm = |s: &serde_json::Value| {
        let error = &s["last_error"];
        error["package"] == "core@1" && error["text"].as_str().is_some_and(|text| text.contains("same time of descpkg"))
    };
    lab.wait_for_status("perth", "alarmed", alarm);
    lab.blat(&["logs", "perth"]).expect_success().says("core@1").says("other bytes");
    lab.blat(&["sync", "perth", "--wait"]).expect_success();

    let after = tree::read(&lab.on_target("core", "1")).expect("a package");
    assert_eq!(tree::differences(&before, &after), "", "nothing is overwritten");
    assert!(tag.exists(), "the tag waits for somebody to settle it");
}

#[test]
fn verify_repair_settles_a_package_that_differs_from_the_source_and_its_tag() {
    let mut lab = synced("settle");
    rebuild(&lab);
    lab.start_master();
    let tag = lab.drop_tag("perth", "core", "1");
    lab.wait_for_status("perth", "alarmed", |s| s["last_error"]["package"] == "core@1");

    lab.blat(&["verify", "perth"]).expect(1).says("differs   core@1");
    lab.blat(&["verify", "perth", "--repair"]).expect_success().says("repaired  core@1");

    lab.assert_published("core", "1");
    lab.wait_for("the tag to be consumed", || (!tag.exists()).then_some(()));
    lab.wait_for_status("perth", "well again", |s| s["last_error"].is_null());
}

#[test]
fn a_new_descpkg_time_settles_it_as_well() {
    let lab = synced("newtime");
    tree::remove(&lab.source().join("core/1"));
    lab.package("core", "1", |p| p.file("bin/a", "built again").time(1_800_000_000));
    let mode = fs::metadata(lab.on_target("core", "1")).expect("a package").permissions().mode();
    assert_ne!(mode & 0o400, 0);

    lab.agent_once("perth").expect_success().says("1 sent");

    lab.assert_published("core", "1");
    lab.blat(&["verify", "perth"]).expect_success().says("2 good");
}

#[test]
fn plan_and_verify_leave_the_running_agents_connection_alone() {
    let mut lab = synced("visitors");
    lab.start_master();
    lab.wait_for_status("perth", "done with its first sync", |s| s["last_sync"]["result"] == "ok");
    let clients = |lab: &Lab| -> Vec<u32> {
        lab.local_processes().iter().filter(|process| process.name == "ssh").map(|process| process.pid).collect()
    };
    let before = clients(&lab);
    assert_eq!(before.len(), 1, "{:#?}", lab.local_processes());

    lab.blat(&["plan", "perth"]).expect_success();
    lab.blat(&["verify", "perth", "--repair"]).expect_success();

    assert_eq!(clients(&lab), before, "the agent's ssh client lives");
}
