//! Versions that are symbolic links: what they bring, how they are replaced and restored, which are refused.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use blat_tests::Lab;

use super::WAY;

/// A lab whose source holds core@1.2 and core@1.3, with `current` addressing the first, and a target that pins `pkg`.
fn lab(name: &str, pkg: &str) -> Lab {
    let lab = WAY.lab(name);
    lab.package("core", "1.2", |p| p.file("a", "old").noise("data", 20_000));
    lab.package("core", "1.3", |p| p.file("a", "new"));
    lab.release(&[]);
    lab.config("perth", &format!("pkg: {{{pkg}}}"));
    point(&lab, "current", "1.2");
    lab
}

/// Makes a version of core a link in the source, whatever was there.
fn point(lab: &Lab, version: &str, to: &str) {
    let link = lab.source().join("core").join(version);
    let _ = fs::remove_file(&link);
    symlink(to, link).expect("a free name");
}

/// What a version of core addresses on the target.
fn leads(lab: &Lab, version: &str) -> Option<String> {
    fs::read_link(lab.on_target("core", version)).ok().map(|to| to.display().to_string())
}

#[test]
fn a_pinned_link_brings_link_and_addressee_and_both_are_listed() {
    let lab = lab("pinlink", "core: current");

    lab.blat(&["plan", "perth"]).expect_success().says("core@current -> 1.2").says("core@current is a link to it");
    lab.agent_once("perth").expect_success();

    assert_eq!(leads(&lab, "current").as_deref(), Some("1.2"));
    lab.assert_published("core", "1.2");
    assert!(!lab.on_target("core", "1.3").exists(), "nothing addresses it");
    assert_eq!(lab.package_list(), ["core 1.2", "core current"]);

    let before = fs::symlink_metadata(lab.on_target("core", "current")).expect("a link");
    lab.agent_once("perth").expect_success().says("2 of 2 wanted packages are there, 0 sent");
    let after = fs::symlink_metadata(lab.on_target("core", "current")).expect("a link");
    assert_eq!((before.ino(), before.ctime_nsec()), (after.ino(), after.ctime_nsec()), "it was not touched");
}

#[test]
fn a_linked_version_that_comes_through_a_release_behaves_the_same() {
    let lab = lab("rellink", "");
    lab.release(&[("core", "stable")]);
    point(&lab, "stable", "current");

    lab.agent_once("perth").expect_success();

    assert_eq!((leads(&lab, "stable").as_deref(), leads(&lab, "current").as_deref()), (Some("current"), Some("1.2")));
    lab.assert_published("core", "1.2");
    assert_eq!(lab.package_list(), ["core 1.2", "core current", "core stable"], "a chain is there and listed whole");
}

#[test]
fn a_repointed_link_is_replaced_atomically() {
    let lab = lab("repoint", "core: current");
    // While releases want nothing at all, the list goes on naming what it named.
    lab.release(&[("core", "1.3")]);
    lab.agent_once("perth").expect_success();
    let link = lab.on_target("core", "current");
    let done = AtomicBool::new(false);

    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut seen = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let to = fs::read_link(&link).map(|to| to.display().to_string());
                if seen.last() != Some(&to.as_ref().ok().cloned()) {
                    seen.push(to.ok());
                }
            }
            seen
        });
        point(&lab, "current", "1.3");
        lab.agent_once("perth").expect_success();
        done.store(true, Ordering::Relaxed);
        let seen = looking.join().expect("a reader");
        let whole: Vec<_> = seen.iter().map(|to| to.as_deref().unwrap_or("nothing")).collect();
        assert!(whole.iter().all(|to| ["1.2", "1.3"].contains(to)), "a reader saw {whole:?}");
    });

    assert_eq!(leads(&lab, "current").as_deref(), Some("1.3"));
    lab.assert_published("core", "1.3");
    assert_eq!(lab.package_list(), ["core 1.3", "core current"]);
    lab.assert_published("core", "1.2");
}

#[test]
fn a_link_deleted_or_changed_on_the_target_is_restored_at_the_next_sync() {
    let lab = lab("restore", "core: [current, '1.3']");
    lab.agent_once("perth").expect_success();
    let link = lab.on_target("core", "current");

    fs::remove_file(&link).expect("a link");
    lab.agent_once("perth").expect_success();
    assert_eq!(leads(&lab, "current").as_deref(), Some("1.2"), "it was deleted");

    for other in ["1.3", "/etc", "../../elsewhere"] {
        fs::remove_file(&link).expect("a link");
        symlink(other, &link).expect("a free name");
        lab.agent_once("perth").expect_success();
        assert_eq!(leads(&lab, "current").as_deref(), Some("1.2"), "it was made to lead to {other}");
    }
}

#[test]
fn foreign_absolute_escaping_and_looping_links_are_refused_naming_link_and_addressee() {
    let lab = lab("badlinks", "core: current, tools: [1]");
    lab.package("tools", "1", |p| p.file("a", "1"));
    let absolute = lab.source().join("core/1.2").display().to_string();
    for (to, why) in [
        ("../tools/1", "leads out of core"),
        (absolute.as_str(), "absolute"),
        ("../../../etc", "leads out of core"),
        ("current", "comes back to core@current"),
    ] {
        point(&lab, "current", to);
        let outcome = lab.agent_once("perth");
        outcome.expect(1).says("core@current").says(to).says(why);
        assert_eq!(lab.visible(), ["tools@1"], "the others go on\n{outcome}");
    }
    point(&lab, "current", "other");
    point(&lab, "other", "current");
    lab.agent_once("perth").expect(1).says("core@current").says("\"other\"").says("comes back");
    for n in 0..9 {
        point(&lab, &format!("l{n}"), &format!("l{}", n + 1));
    }
    point(&lab, "current", "l0");
    point(&lab, "l9", "1.2");
    lab.agent_once("perth").expect(1).says("core@current").says("more than 8 links");
    assert_eq!(leads(&lab, "current"), None);
}

#[test]
fn a_link_to_what_cannot_be_sent_yet_waits_and_no_list_names_it() {
    let lab = lab("linkwaits", "core: late");
    lab.package("core", "2", |p| p.file("a", "1").writable());
    point(&lab, "late", "2");

    lab.agent_once("perth").expect_success();

    assert_eq!((leads(&lab, "late"), lab.visible()), (None, vec![]));
    assert!(!lab.target_archive().join(".dpkg_archive/PackageList.txt").exists());
    lab.blat(&["plan", "perth"]).expect_success().says("waits: it is a link to core@2");
}

#[test]
fn a_directory_in_the_place_of_a_link_is_never_replaced() {
    let lab = lab("linkdir", "core: current");
    let place = lab.on_target("core", "current");
    lab.as_target_user(&["mkdir", "-p", place.to_str().expect("text")]).expect_success();

    lab.agent_once("perth").expect(1).says("core@current").says("no link");

    assert!(place.is_dir() && leads(&lab, "current").is_none());
    lab.assert_published("core", "1.2");
}

#[test]
fn a_tag_that_names_a_linked_version_brings_link_and_addressee() {
    let mut lab = lab("linktag", "");
    lab.start_master();
    lab.wait_for_status("perth", "done with its first sync", |s| s["last_sync"]["result"] == "ok");

    lab.blat(&["tag", "core", "current", "--wait"]).expect_success();

    assert_eq!(leads(&lab, "current").as_deref(), Some("1.2"));
    lab.assert_published("core", "1.2");

    point(&lab, "current", "../tools/1");
    lab.blat(&["tag", "core", "current", "--wait"]).expect(1).says("leads out of core");
    assert_eq!(leads(&lab, "current").as_deref(), Some("1.2"), "the old one stays");
}
