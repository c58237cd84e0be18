//! Nothing is listed, marked or deleted by yesterday's orders: neither by settings that others have replaced, nor by what Release Manager says
//! no longer, or says in two ways.

use std::fs;

use blat_tests::Lab;
use serde_json::Value;

/// At this rate `bulk@1` takes minutes, so that whatever is to happen in mid-sync does.
const SLOW: &str = "bandwidth: 64k";

/// A target that holds core@1 and core@2, where nothing wants core@2 any more; a sync under way sends bulk@1, slowly, before it deletes that.
fn in_mid_sync(name: &str) -> Lab {
    let mut lab = Lab::new(name);
    for version in ["1", "2"] {
        lab.package("core", version, |p| p.file("a", version));
    }
    lab.package("bulk", "1", |p| p.noise("a", 24 << 20));
    lab.release(&[("core", "1"), ("core", "2")]);
    lab.config("perth", "");
    lab.agent_once("perth").expect_success();
    lab.release(&[("core", "1"), ("bulk", "1")]);
    lab.config("perth", &format!("{SLOW}\naging: immediate\nmax_delete: 100%"));
    lab.start_master();
    lab.wait_for_status("perth", "sending the bulk", |s| {
        s["state"] == "syncing" && s["current"]["done"].as_u64().is_some_and(|done| done > 0)
    });
    lab
}

fn log(lab: &Lab) -> String {
    fs::read_to_string(lab.home().join("log/perth.log")).expect("the agent's log")
}

fn wait_until_in_force(lab: &Lab) {
    lab.wait_for("the config to be in force", || log(lab).contains("the config changed and is in force").then_some(()));
}

/// What the target held is there still, and not because it was sent once more.
fn assert_nothing_went(lab: &Lab) {
    lab.assert_published("core", "2");
    let log = log(lab);
    assert!(!log.contains("deleted: ") && !log.contains("marked for deletion: "), "{log}");
}

fn is_done(status: &Value, wanted: u64) -> bool {
    let last = &status["last_sync"];
    status["state"] == "idle" && last["result"] == "ok" && last["wanted"] == wanted && last["present"] == wanted
}

#[test]
fn a_sync_deletes_nothing_that_the_settings_now_in_force_pin() {
    let lab = in_mid_sync("pinned");
    // Without a limit, the sync by the former settings goes on as fast as it can.
    lab.config("perth", "aging: none\npkg: {core: 2}");
    wait_until_in_force(&lab);
    lab.wait_for_status("perth", "done by the new settings", |s| is_done(s, 3));
    assert_nothing_went(&lab);
    assert_eq!(lab.package_list(), ["bulk 1", "core 1", "core 2"]);
    let log = log(&lab);
    assert!(!log.contains(" WARN ") && !log.contains(" ERROR "), "other settings are no failure: {log}");
}

#[test]
fn a_sync_in_the_foreground_ends_early_when_its_config_changes() {
    let lab = Lab::new("foreground");
    for version in ["1", "2"] {
        lab.package("core", version, |p| p.file("a", version));
    }
    lab.package("bulk", "1", |p| p.noise("a", 1 << 20));
    lab.release(&[("core", "1"), ("core", "2")]);
    lab.config("perth", "");
    lab.agent_once("perth").expect_success();
    lab.release(&[("core", "1"), ("bulk", "1")]);
    lab.config("perth", "bandwidth: 256k\naging: immediate\nmax_delete: 100%");
    let sync = lab.start_agent_once("perth");
    lab.wait_for("the bulk to be on its way", || {
        let stage = lab.target_archive().join(".dpkg_archive/stage");
        fs::read_dir(stage).ok()?.next().map(drop)
    });
    lab.config("perth", "aging: none\npkg: {core: 2}");
    sync.finish().expect(75).says("the config changed");
    lab.assert_published("core", "2");
    assert_eq!(lab.package_list(), ["core 1", "core 2"], "the list is left to the next sync, too");
}

#[test]
fn the_agent_of_a_target_that_is_removed_deletes_nothing_more() {
    let lab = in_mid_sync("removed");
    fs::remove_file(lab.home().join("config/perth.conf")).expect("an own file");
    lab.wait_for("the agent to leave", || lab.target_status("perth").is_null().then_some(()));
    lab.wait_for("all of it to leave", || {
        let left = lab.local_processes();
        (!left.iter().any(|process| process.name.starts_with("blat-agent"))).then_some(())
    });
    assert_nothing_went(&lab);
}

#[test]
fn a_tag_in_flight_to_the_former_archive_is_sent_to_the_present_one() {
    let mut lab = Lab::new("elsewhere");
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.package("bulk", "1", |p| p.noise("a", 24 << 20));
    lab.release(&[("core", "1")]);
    lab.config("perth", SLOW);
    lab.start_master();
    lab.wait_for_status("perth", "idle", |s| is_done(s, 1));
    let tag = lab.drop_tag("perth", "bulk", "1");
    lab.wait_for_status("perth", "sending for the tag", |s| s["current"]["package"] == "bulk@1");

    let second = lab.target_archive().with_file_name("second");
    lab.as_target_user(&["mkdir", second.to_str().expect("UTF-8")]).expect_success();
    lab.config("perth", &format!("archive: {}", second.display()));
    wait_until_in_force(&lab);
    // Long before the former archive could have got all of it.
    lab.wait_for("the tag to be consumed", || (!tag.exists()).then_some(()));
    assert!(second.join("bulk/1/descpkg").exists(), "it was consumed, and its package is not where it should be");
    assert!(!lab.on_target("bulk", "1").exists());
}
