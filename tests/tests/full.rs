//! A target without space: a clear error, the tag kept, and all well once there is room.

use std::path::{Path, PathBuf};

use blat_tests::{Disk, Lab};

use super::WAY;

/// A lab whose target has the disk that `config` and the caller leave it; `big@1` is tagged and can't go there.
fn refused(lab: &mut Lab, config: &str) -> PathBuf {
    lab.package("small", "1", |p| p.file("a", "1"));
    lab.package("big", "1", |p| p.noise("a", 6 << 20).noise("b", 6 << 20));
    lab.release(&[]);
    lab.config("perth", config);
    lab.start_master();
    lab.wait_for_status("perth", "idle", |s| s["state"] == "idle");

    let tag = lab.drop_tag("perth", "big", "1");
    let status = lab.wait_for_status("perth", "out of space", |s| s["last_error"]["package"] == "big@1");
    let text = status["last_error"]["text"].as_str().expect("a text");
    assert!(text.contains("space"), "it says what is wrong: {text}");
    assert!(status["last_error"]["retry_at"].is_string(), "and when it tries again: {status:#}");
    assert!(tag.exists(), "the tag is kept");
    assert_eq!(lab.visible(), Vec::<String>::new());
    tag
}

fn completes(lab: &Lab, tag: &Path) {
    lab.blat(&["sync", "perth"]).expect_success();
    lab.wait_until_published("big", "1");
    lab.wait_for("the tag to be removed", || (!tag.exists()).then_some(()));
    lab.wait_for_status("perth", "well again", |s| s["last_error"].is_null());
}

#[test]
fn the_reserve_is_kept_free() {
    let mut lab = WAY.lab("reserve");
    let tag = refused(&mut lab, "disk_reserve: 100000g");
    lab.config("perth", "disk_reserve: 1m");
    completes(&lab, &tag);
}

/// `blat plan` says it beforehand, the sync does not try it, and the rest goes on, pinned packages first.
#[test]
fn what_does_not_fit_is_deferred_with_what_it_needs_and_the_rest_goes_on() {
    let mut lab = WAY.lab("deferred");
    for name in ["aaa", "pinned", "big", "small"] {
        let size = if name == "big" { 12 << 20 } else { 3 << 20 };
        lab.package(name, "1", |p| p.noise("a", size));
    }
    lab.release(&[("aaa", "1"), ("big", "1"), ("small", "1")]);
    lab.config("perth", "max_size: 7m\npkg: {pinned: 1}");

    lab.blat(&["plan", "perth"]).expect_success().says("does not fit").says("max_size").says("2 to send");
    lab.start_master();
    let status = lab.wait_for_status("perth", "short of room", |s| s["last_error"]["package"] == "big@1");
    assert!(status["last_error"]["text"].as_str().is_some_and(|text| text.contains("12.0 MiB")), "{status:#}");
    assert_eq!(lab.visible(), ["aaa@1", "pinned@1"], "3 MiB more would be 9 of 7");
    assert!(!lab.target_archive().join(".dpkg_archive/PackageList.txt").exists(), "it would name what is not there");

    let tag = lab.drop_tag("perth", "small", "1");
    lab.wait_for_status("perth", "short of room for the tag", |s| s["last_error"]["package"] == "small@1");
    lab.config("perth", "max_size: 10m\npkg: {pinned: 1}");
    lab.wait_until_published("small", "1");
    lab.wait_for("the tag to be removed", || (!tag.exists()).then_some(()));
    lab.config("perth", "pkg: {pinned: 1}");
    lab.wait_until_published("big", "1");
    lab.wait_for_status("perth", "well again", |s| s["last_error"].is_null());
    assert_eq!(lab.package_list().len(), 4);
}

/// Mounting takes root; `make test` leaves out what begins with `as_root` for everybody else, and says so.
#[test]
fn as_root_a_really_full_disk_is_survived() {
    let mut lab = WAY.lab("tmpfs");
    let disk = Disk::mount(lab.target_archive(), "size=8m");
    let tag = refused(&mut lab, "disk_reserve: 0");
    disk.change("size=64m");
    completes(&lab, &tag);
    lab.assert_never_partial();
}
