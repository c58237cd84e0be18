//! Tags: dropped, noticed, sent, removed; kept until then, whatever happens; set aside when they are none.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use blat_tests::{Lab, process};
use rustix::process::Signal;

use super::WAY;

/// A lab with an empty release and one idle target, and a package that nobody wants yet.
fn lab_with_idle_target(name: &str, config: &str) -> Lab {
    let mut lab = WAY.lab(name);
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.release(&[]);
    lab.config("perth", config);
    lab.start_master();
    lab.wait_for_status("perth", "done with its first sync", |s| {
        s["last_sync"]["result"] == "ok" && s["state"] == "idle"
    });
    lab
}

fn wait_until_gone(lab: &Lab, tag: &Path) {
    lab.wait_for(&format!("the tag {} to be removed", tag.display()), || (!tag.exists()).then_some(()));
}

#[test]
fn a_notification_alone_brings_a_tag_on_its_way() {
    let lab = lab_with_idle_target("notify", "tag_poll: 100d");
    let tag = lab.drop_tag("perth", "core", "1");
    lab.wait_until_published("core", "1");
    wait_until_gone(&lab, &tag);
}

#[test]
fn polling_alone_brings_a_tag_on_its_way() {
    let mut lab = WAY.lab("polling");
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.release(&[]);
    lab.keep_keys_at_home();
    lab.config("perth", "tag_poll: 1s\nidentity: ssh/id_ed25519\nknown_hosts: ssh/known_hosts");
    lab.start_master_with_notifications(0, 0);
    lab.wait_for_status("perth", "done with its first sync", |s| s["last_sync"]["result"] == "ok");

    let tag = lab.drop_tag("perth", "core", "1");

    lab.wait_until_published("core", "1");
    wait_until_gone(&lab, &tag);
}

#[test]
fn one_tag_may_name_many_packages_and_goes_when_all_are_there() {
    let lab = lab_with_idle_target("many", "");
    lab.package("core", "2", |p| p.file("a", "2"));
    let tag = lab.home().join("tags/perth/batch 17");
    fs::write(tag.with_extension("tmp"), "core 1\r\ncore 2\n\nlater 3\n").expect("an own folder");
    fs::rename(tag.with_extension("tmp"), &tag).expect("an own folder");

    lab.wait_until_published("core", "1");
    lab.wait_until_published("core", "2");
    assert!(tag.exists(), "later@3 is not there yet");

    lab.package("later", "3", |p| p.file("a", "3"));
    lab.wait_until_published("later", "3");
    wait_until_gone(&lab, &tag);
}

#[test]
fn a_tag_is_read_as_windows_writes_it() {
    let lab = lab_with_idle_target("windows", "");
    let utf16: Vec<u8> = "\u{feff}core@1\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let tag = lab.home().join("tags/perth/list.txt");
    fs::write(&tag, utf16).expect("an own folder");
    lab.wait_until_published("core", "1");
    wait_until_gone(&lab, &tag);
    lab.package("core", "2", |p| p.file("a", "2"));
    let marked = lab.home().join("tags/perth/core@2");
    fs::write(&marked, "\u{feff}").expect("an own folder");
    lab.wait_until_published("core", "2");
    wait_until_gone(&lab, &marked);
}

#[test]
fn blat_tag_waits_until_the_package_is_there() {
    let lab = lab_with_idle_target("waits", "");
    lab.blat(&["tag", "core", "1", "--target", "perth", "--wait"]).expect_success();
    lab.assert_published("core", "1");
    assert!(!lab.home().join("tags/perth/core@1").exists(), "a tag that was served is removed");
    // What is there already needs no sending, and the agent reports that too.
    let again = lab.blat(&["tag", "core", "1", "--target", "perth", "--wait"]);
    again.expect_success().says("core@1 is on perth after");
}

#[test]
fn a_tag_dropped_while_nothing_runs_is_served_by_the_next_master() {
    let mut lab = lab_with_idle_target("later", "");
    lab.end_master(Signal::TERM).expect_success();
    let tag = lab.drop_tag("perth", "core", "1");
    lab.start_master();
    lab.wait_until_published("core", "1");
    wait_until_gone(&lab, &tag);
}

#[test]
fn a_tag_outlives_a_dead_link() {
    let lab = lab_with_idle_target("deadlink", "");
    lab.sshd("stop").expect_success();
    let tag = lab.drop_tag("perth", "core", "1");
    let status = lab.wait_for_status("perth", "waiting for its link", |s| {
        s["state"] == "waiting" && s["last_error"]["text"].as_str().is_some_and(|text| !text.is_empty())
    });
    assert!(status["last_error"]["retry_at"].is_string(), "it says when it tries again: {status:#}");
    assert_eq!(status["queue"]["tags"], 1, "{status:#}");
    assert!(tag.exists());

    lab.sshd("start").expect_success();
    lab.wait_until_published("core", "1");
    wait_until_gone(&lab, &tag);
    lab.wait_for_status("perth", "well again", |s| s["state"] == "idle" && s["last_error"].is_null());
}

#[test]
fn a_restart_keeps_the_queue() {
    let lab = lab_with_idle_target("keepsqueue", "");
    lab.sshd("stop").expect_success();
    let tag = lab.drop_tag("perth", "core", "1");
    lab.wait_for_status("perth", "holding the tag", |s| s["queue"]["tags"] == 1);
    let agent = lab.target_status("perth")["pid"].clone();

    process::signal(agent.as_u64().expect("an agent") as u32, Signal::TERM);
    lab.wait_for_status("perth", "another agent with the same queue", |s| {
        s["pid"].is_u64() && s["pid"] != agent && s["queue"]["tags"] == 1
    });
    assert!(tag.exists());

    lab.sshd("start").expect_success();
    lab.wait_until_published("core", "1");
    wait_until_gone(&lab, &tag);
}

/// Lets the agent believe that it saw its tags two days earlier than it did: nobody waits for a day here.
fn two_days_pass(lab: &mut Lab) {
    let seen = lab.home().join("state/perth/tags.json");
    lab.wait_for("the agent to write down when it saw its tags", || seen.exists().then_some(()));
    lab.end_master(Signal::TERM).expect_success();
    let mut tags: serde_json::Value = serde_json::from_str(&fs::read_to_string(&seen).expect("a file")).expect("JSON");
    // Behind the clock that these times were noted by.
    for tag in tags[1].as_array_mut().expect("a list") {
        let at = tag.as_array_mut().and_then(|tag| tag.last_mut()).expect("an epoch second");
        *at = (at.as_i64().expect("a number") - 2 * 86_400).into();
    }
    fs::write(&seen, tags.to_string()).expect("an own file");
    lab.start_master();
}

/// A day from when the agent first saw it, over restarts, whatever the file's own times say: those are two days old all along.
#[test]
fn a_tag_whose_package_is_missing_for_a_day_goes_to_failed_with_its_reason() {
    let mut lab = lab_with_idle_target("expires", "tag_poll: 1s");
    let tags = lab.home().join("tags/perth");
    let two_days_ago = SystemTime::now() - Duration::from_secs(2 * 86_400);
    let old = lab.drop_tag("perth", "nowhere", "2");
    fs::File::options().write(true).open(&old).and_then(|file| file.set_modified(two_days_ago)).expect("an own file");
    two_days_pass(&mut lab);

    wait_until_gone(&lab, &old);
    let failed = tags.join("failed/nowhere@2");
    lab.wait_for("the tag in failed/", || failed.is_file().then_some(()));
    let reason = fs::read_to_string(tags.join("failed/nowhere@2.reason")).expect("a reason");
    assert!(reason.contains("nowhere@2") && reason.contains("for more than a day"), "{reason}");

    // Moved back, it waits its day again, and its old reason goes.
    fs::rename(&failed, &old).expect("an own folder");
    lab.wait_for_status("perth", "holding the tag", |s| s["queue"]["tags"] == 1);
    // The same lane deals with both: once it has served a tag that came later, it has looked at this one too.
    let later = lab.drop_tag("perth", "core", "1");
    wait_until_gone(&lab, &later);
    lab.wait_for_status("perth", "holding one tag", |s| s["queue"]["tags"] == 1);
    assert!(old.exists(), "it has waited for less than a day");
    assert!(!failed.exists() && !tags.join("failed/nowhere@2.reason").exists());
    lab.package("nowhere", "2", |p| p.file("a", "1"));
    lab.wait_until_published("nowhere", "2");
    wait_until_gone(&lab, &old);
}

/// Scripts that take the bulk are frozen, so the tag could only be served late if it stood behind them. A receiver serves both, so
/// there the bulk is so much that it cannot be done before the tag.
#[test]
fn a_tag_does_not_wait_behind_a_running_sync() {
    let lab = lab_with_idle_target("overtakes", "");
    let bulk: Vec<String> = (0..6).map(|n| format!("bulk{n}")).collect();
    for name in &bulk {
        lab.package(name, "1", |p| p.noise("a", 6 << 20).noise("b", 6 << 20));
    }
    lab.release(&bulk.iter().map(|name| (name.as_str(), "1")).collect::<Vec<_>>());
    lab.blat(&["sync", "perth"]).expect_success();
    let receiving = lab.wait_for("the bulk transfer to run", || {
        let staged =
            fs::read_dir(lab.target_archive().join(".dpkg_archive/stage")).is_ok_and(|mut all| all.next().is_some());
        let running: Vec<_> = lab.remote_processes().into_iter().filter(process::Process::receives).collect();
        (staged && !running.is_empty()).then_some(running)
    });
    let frozen: Vec<_> = receiving.into_iter().filter(|p| p.command_line.contains("receive_package")).collect();
    for process in &frozen {
        process::signal(process.pid, Signal::STOP);
    }

    let tag = lab.drop_tag("perth", "core", "1");
    lab.wait_until_published("core", "1");
    assert_eq!(lab.target_status("perth")["state"], "syncing", "the bulk is still on its way");
    wait_until_gone(&lab, &tag);

    for process in &frozen {
        process::signal(process.pid, Signal::CONT);
    }
    lab.wait_for_status("perth", "done with the bulk", |s| s["last_sync"]["sent"] == 6);
    lab.assert_never_partial();
}

#[test]
fn what_is_no_tag_is_set_aside_with_its_reason_and_harms_nobody() {
    let lab = lab_with_idle_target("hostile", "");
    let tags = lab.home().join("tags/perth");
    let put = |name: &[u8], content: &[u8]| -> PathBuf {
        let path = tags.join(std::ffi::OsStr::from_bytes(name));
        fs::write(&path, content).expect("an own folder");
        path
    };
    let long = "n".repeat(255);
    let mut hostile = vec![
        put(b"climbs", b"../x 1\n"),
        put(b"-rf@1", b""),
        put(b"core@1\ncore@2", b""),
        put(b"core@\x1b[31m1", b""),
        put(b"\xff\xfe@1", b""),
        put(b"three words", b"core 1 now\n"),
        put(b"zeros", b"core 1\0\n"),
        put(b"blank", b"\n\n"),
        put(b"long line", format!("{} 1\n", "n".repeat(300)).as_bytes()),
        put(b"endless", &vec![b'x'; 2 << 20]),
        put(long.as_bytes(), b""),
    ];
    for (name, make) in [
        (
            "a fifo",
            (|path: &Path| drop(process::run(std::process::Command::new("mkfifo").arg(path), path))) as fn(&Path),
        ),
        ("a folder", |path| fs::create_dir(path).expect("an own folder")),
        ("a link", |path| symlink("/etc/passwd", path).expect("a free name")),
    ] {
        make(&tags.join(name));
        hostile.push(tags.join(name));
    }
    lab.hand_over();
    let good = lab.drop_tag("perth", "core", "1");

    lab.wait_until_published("core", "1");
    wait_until_gone(&lab, &good);

    for path in &hostile {
        lab.wait_for(&format!("{path:?} to be set aside"), || path.symlink_metadata().is_err().then_some(()));
    }
    let bad: Vec<PathBuf> = fs::read_dir(tags.join("bad"))
        .expect("the place for what is no tag")
        .map(|entry| entry.expect("an own folder").path())
        .collect();
    let reasons: Vec<&PathBuf> = bad.iter().filter(|path| path.as_os_str().as_bytes().ends_with(b".reason")).collect();
    assert_eq!((bad.len(), reasons.len()), (2 * hostile.len(), hostile.len()), "one reason beside each of {bad:#?}");
    for reason in reasons {
        let text = fs::read_to_string(reason).expect("a reason that is text");
        assert!(!text.trim().is_empty() && !text.contains('\u{1b}'), "{reason:?}: {text:?}");
    }
    let log = fs::read(lab.home().join("log/perth.log")).expect("the agent's log");
    assert!(!log.contains(&0x1b), "a name's control characters are never printed raw");
    assert_eq!(lab.visible(), ["core@1"]);
}
