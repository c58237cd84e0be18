//! Notifications of tags, where the system allows few: one inotify instance serves all agents, and where there is none, status and log
//! say so once.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use blat_tests::{Lab, process};
use rustix::process::Signal;

const TARGETS: [&str; 3] = ["oslo", "perth", "rome"];
const MANY: u32 = 1_000;
/// One for all tag directories, and one for the configuration.
const INSTANCES: u32 = 2;

/// A lab of some targets whose tags are polled so often, and a package that nobody wants yet.
fn lab(name: &str, poll: &str) -> Lab {
    let lab = Lab::new(name);
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.release(&[]);
    lab.keep_keys_at_home();
    for target in TARGETS {
        let own = lab.own_archive(target);
        let keys = "identity: ssh/id_ed25519\nknown_hosts: ssh/known_hosts";
        lab.config(target, &format!("{own}\ntag_poll: {poll}\n{keys}"));
    }
    lab
}

fn wait_until_idle(lab: &Lab) {
    for target in TARGETS {
        lab.wait_for_status(target, "idle", |s| s["last_sync"]["result"] == "ok" && s["state"] == "idle");
    }
}

/// Drops a tag for each target, and waits until all are served.
fn serve_tags(lab: &Lab) {
    let tags = TARGETS.map(|target| lab.drop_tag(target, "core", "1"));
    for tag in tags {
        lab.wait_for(&format!("the tag {} to be removed", tag.display()), || (!tag.exists()).then_some(()));
    }
}

/// What is wrong with the master itself; empty where nothing is.
fn trouble(lab: &Lab) -> String {
    lab.status()["supervisor"]["last_error"]["text"].as_str().unwrap_or_default().to_owned()
}

fn wait_for_trouble(lab: &Lab, text: &str) {
    lab.wait_for(text, || (trouble(lab) == text).then_some(()));
}

/// The lines of all logs with these words.
fn said(lab: &Lab, words: &str) -> Vec<String> {
    let logs = fs::read_dir(lab.home().join("log")).expect("log/").map(|entry| entry.expect("a log").path());
    let text: String = logs.map(|path| fs::read_to_string(path).expect("a log")).collect();
    text.lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
}

fn exchange(lab: &Lab, target: &str) {
    let (there, new) = (lab.home().join("tags").join(target), lab.home().join("tags").join(".new"));
    fs::create_dir(&new).expect("an own folder");
    lab.hand_over();
    fs::rename(&there, Path::new(&there).with_extension("old")).expect("an own folder");
    fs::rename(&new, &there).expect("nothing, or an empty folder of the agent's");
}

#[test]
fn one_instance_serves_all_targets_also_after_an_agent_or_a_directory_was_replaced() {
    let mut lab = lab("oneinstance", "100d");
    lab.start_master_with_notifications(INSTANCES, MANY);
    wait_until_idle(&lab);
    serve_tags(&lab);
    assert_eq!(trouble(&lab), "");

    let agent = lab.target_status("perth")["pid"].as_u64().expect("an agent");
    process::signal(agent.try_into().expect("a pid"), Signal::KILL);
    lab.wait_for_status("perth", "served by another agent", |s| {
        s["pid"].as_u64().is_some_and(|pid| pid != agent) && s["state"] == "idle" && s["last_sync"]["result"] == "ok"
    });
    serve_tags(&lab);

    exchange(&lab, "rome");
    serve_tags(&lab);
    assert_eq!(trouble(&lab), "");
}

#[test]
fn without_an_instance_status_and_log_say_so_once_and_it_is_tried_again() {
    let mut lab = lab("noinstance", "1s");
    let master = lab.start_master_with_notifications(0, MANY);
    wait_until_idle(&lab);
    let why = "no notifications of files: the account may have no more inotify instances: user.max_inotify_instances is 0; raise it \
               (sysctl -w user.max_inotify_instances=…)";
    wait_for_trouble(&lab, &format!("{why}; the tags of 3 targets are found by polling alone"));
    serve_tags(&lab);
    lab.blat(&["status"]).expect_success().says(why);
    assert_eq!(said(&lab, "inotify").len(), 1, "{:#?}", said(&lab, "inotify"));

    lab.limit_notifications(master, INSTANCES, MANY);
    wait_for_trouble(&lab, "");
    for target in TARGETS {
        let own = lab.own_archive(target);
        lab.config(target, &format!("{own}\ntag_poll: 100d\nidentity: ssh/id_ed25519\nknown_hosts: ssh/known_hosts"));
    }
    let is_in_force = || (said(&lab, "the config changed and is in force").len() == TARGETS.len()).then_some(());
    lab.wait_for("other settings to be in force", is_in_force);
    serve_tags(&lab);
}

#[test]
fn a_directory_that_may_not_be_watched_is_polled_and_the_limit_named_once() {
    let mut lab = lab("fewwatches", "1s");
    // The configuration's, and those of two targets.
    let master = lab.start_master_with_notifications(INSTANCES, 3);
    wait_until_idle(&lab);
    let why = "not all tag directories are watched: the account may watch no more directories: user.max_inotify_watches is 3; raise it \
               (sysctl -w user.max_inotify_watches=…)";
    wait_for_trouble(&lab, &format!("{why}; the tags of 1 target are found by polling alone"));
    serve_tags(&lab);
    assert_eq!(said(&lab, "inotify").len(), 1, "{:#?}", said(&lab, "inotify"));

    lab.limit_notifications(master, INSTANCES, MANY);
    wait_for_trouble(&lab, "");
    serve_tags(&lab);
}

/// Renames a file in this directory so often, or until `over` says so. Its names mean nothing to the agent.
fn flood(directory: &Path, most: u64, over: &AtomicBool) {
    let (here, there) = (directory.join(".here"), directory.join(".there"));
    fs::write(&here, "").expect("an own folder");
    for _ in 0..most {
        fs::rename(&here, &there).expect("an own file");
        fs::rename(&there, &here).expect("an own file");
        if over.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// All targets share what the system keeps of notifications. What one directory makes of them beyond that is lost for all, and all look.
#[test]
fn a_flood_in_one_directory_leaves_the_tags_of_all_served_and_what_is_lost_is_named() {
    let mut lab = lab("flood", "100d");
    let master = lab.start_master_with_notifications(INSTANCES, MANY);
    wait_until_idle(&lab);
    let (over, perth) = (AtomicBool::new(false), lab.home().join("tags/perth"));
    std::thread::scope(|scope| {
        scope.spawn(|| flood(&perth, u64::MAX, &over));
        serve_tags(&lab);
        over.store(true, Ordering::Relaxed);
    });

    let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("a setting of the system");
    process::signal(master, Signal::STOP);
    flood(&perth, most.trim().parse().expect("a number"), &AtomicBool::new(false));
    let tags = TARGETS.map(|target| lab.drop_tag(target, "core", "1"));
    process::signal(master, Signal::CONT);
    for tag in tags {
        lab.wait_for(&format!("the tag {} to be removed", tag.display()), || (!tag.exists()).then_some(()));
    }
    let named = format!("fs.inotify.max_queued_events is {}", most.trim());
    lab.wait_for("the limit to be named", || trouble(&lab).contains(&named).then_some(()));
    assert_eq!(said(&lab, &named).len(), 1, "{:#?}", said(&lab, &named));
}
