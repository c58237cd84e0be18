//! `bandwidth`: what is sent is held back, tags go before the rest all the same, and another limit is in force at once.

use std::fs;

use blat_tests::Lab;

use super::WAY;

/// At this rate the bulk takes longer than any test waits.
const SLOW: &str = "32k";

/// A lab whose target is sent a package that takes minutes at its limit, once that is under way.
fn lab_with_a_slow_sync(name: &str, bandwidth: &str) -> Lab {
    let mut lab = WAY.lab(name);
    lab.package("bulk", "1", |p| p.noise("a", 24 << 20));
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.release(&[("bulk", "1")]);
    lab.config("perth", bandwidth);
    lab.start_master();
    lab.wait_for_status("perth", "sending the bulk", |s| {
        s["state"] == "syncing" && s["current"]["done"].as_u64().is_some_and(|done| done > 0)
    });
    lab
}

#[test]
fn a_tag_goes_before_a_sync_that_is_held_back_and_without_the_limit_the_sync_ends() {
    let lab = lab_with_a_slow_sync("bandwidth", &format!("bandwidth: {SLOW}"));
    let (agent, link) = (lab.target_status("perth")["pid"].clone(), lab.link_processes());

    let tag = lab.drop_tag("perth", "core", "1");
    lab.wait_until_published("core", "1");
    lab.wait_for("the tag to be removed", || (!tag.exists()).then_some(()));
    lab.wait_for_status("perth", "with the bulk still before it", |s| {
        s["state"] == "syncing" && s["queue"]["packages"] == 1 && s["queue"]["tags"] == 0
    });
    assert!(!lab.on_target("bulk", "1").exists(), "it cannot all have been sent");

    lab.config("perth", "bandwidth: 0");
    lab.wait_until_published("bulk", "1");
    lab.wait_for_status("perth", "done", |s| s["last_sync"]["result"] == "ok" && s["state"] == "idle");
    lab.assert_published("bulk", "1");
    assert_eq!(lab.target_status("perth")["pid"], agent);
    assert_eq!(lab.link_processes(), link, "the connection is the same");
    let log = fs::read_to_string(lab.home().join("log/perth.log")).expect("the agent's log");
    assert!(!log.contains(" WARN "), "nothing was tried again: {log}");
}

#[test]
fn a_window_that_holds_now_limits_and_one_that_does_not_limits_nothing() {
    let all_day = |rate: &str| format!("bandwidth: [{{from: '00:00', to: '24:00', rate: {rate}}}]");
    let lab = lab_with_a_slow_sync("windows", &all_day(SLOW));
    lab.drop_tag("perth", "core", "1");
    lab.wait_until_published("core", "1");
    assert!(!lab.on_target("bulk", "1").exists(), "it cannot all have been sent");

    // The first window that holds counts: this one says that there is no limit.
    lab.config(
        "perth",
        &format!(
            "bandwidth:\n- {{from: '00:00', to: '24:00', rate: 0}}\n- {{from: '00:00', to: '24:00', rate: {SLOW}}}"
        ),
    );
    lab.wait_until_published("bulk", "1");
}
