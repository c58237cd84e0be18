//! Nothing is deleted for an agent that is gone, and no PackageList names what is gone: both are looked at under the target's own lock.

use std::fs;
use std::path::PathBuf;

use blat_tests::Lab;
use blat_tests::process;
use rustix::process::Signal;

use super::WAY;

/// One more than goes in one run of the target.
const EXTRA: usize = 201;

/// Those of the extra packages that are there.
fn left(lab: &Lab) -> usize {
    lab.visible().iter().filter(|package| package.starts_with("extra")).count()
}

/// The stages of deletions at the target that are of this many packages.
fn deletions_of(lab: &Lab, count: usize) -> Option<PathBuf> {
    let stages = fs::read_dir(lab.target_archive().join(".dpkg_archive/stage")).ok()?.flatten();
    let deletions = stages.filter(|stage| stage.file_name().to_string_lossy().starts_with("delete-"));
    let is_of = |batch: &PathBuf| fs::read_to_string(batch).is_ok_and(|text| text.lines().count() == count);
    deletions.map(|stage| stage.path().join("batch")).find(is_of)
}

#[test]
fn a_deletion_that_waited_for_the_lock_is_left_undone_once_its_agent_is_killed() {
    let lab = WAY.lab("waiting");
    lab.package("core", "1", |p| p.file("a", "1"));
    let names: Vec<String> = (0..EXTRA).map(|number| format!("extra{number}")).collect();
    for name in &names {
        lab.package(name, "1", |p| p);
    }
    let all: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).chain([("core", "1")]).collect();
    lab.release(&all);
    lab.config("perth", "");
    lab.agent_once("perth").expect_success();
    assert_eq!(left(&lab), EXTRA);

    lab.release(&[("core", "1")]);
    lab.config("perth", "aging: immediate\nmax_delete: 100%");
    let agent = lab.start_agent_once("perth");
    lab.wait_for("the first to go", || (left(&lab) < EXTRA).then_some(()));
    // Whoever waits for a lock in the kernel has it before anybody who looks for it now and then.
    let lock = fs::File::options().write(true).open(lab.target_archive().join(".dpkg_archive/publish.lock"));
    let lock = lock.expect("a lock file");
    lock.lock().expect("a lock");
    assert_eq!(left(&lab), 1, "all of the first run went while it had the lock");
    lab.wait_for("the second run to wait for the lock", || deletions_of(&lab, 1));
    process::signal(agent.pid(), Signal::KILL);
    agent.finish();
    lock.unlock().expect("a lock");
    lab.wait_for("the target to have done with it", || lab.remote_processes().is_empty().then_some(()));
    assert_eq!(left(&lab), 1, "nobody is there any more who wants it to go");
    lab.agent_once("perth").expect_success().says("1 deleted");
    assert_eq!(lab.visible(), ["core@1"]);
}

#[test]
fn a_package_list_that_names_what_somebody_took_away_in_mid_sync_is_not_stored() {
    let lab = WAY.lab_with_bulk_to_send("tookaway", 1 << 20);
    // At that rate it takes some seconds.
    lab.config("perth", "bandwidth: 256k\naging: immediate\nmax_delete: 100%");
    let sync = lab.start_agent_once("perth");
    lab.wait_until_receiving();
    blat_tests::tree::remove(&lab.on_target("core", "1"));
    sync.finish().expect(1).says("it names core 1, which is not there any more");
    assert_eq!(lab.package_list(), ["core 1", "core 2"], "the former one stays");
    lab.assert_published("core", "2");
    lab.agent_once("perth").expect_success().says("1 sent").says("1 deleted");
    assert_eq!(lab.visible(), ["bulk@1", "core@1"]);
    assert_eq!(lab.package_list(), ["bulk 1", "core 1"]);
}
