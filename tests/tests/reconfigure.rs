//! A config that changes while its agent runs: the change is in force in the same process, or nothing changes and it is said why.

use std::fs;

use blat_tests::{Bucket, Lab, Outcome, Store};
use serde_json::Value;

/// A lab whose target `perth` has done its first sync.
fn lab(name: &str) -> Lab {
    let mut lab = Lab::new(name);
    for package in ["core", "tools"] {
        lab.package(package, "1", |p| p.file("a", package));
    }
    lab.release(&[("core", "1")]);
    lab.config("perth", "");
    lab.start_master();
    lab.wait_for_status("perth", "idle after a sync", |s| s["state"] == "idle" && s["last_sync"]["result"] == "ok");
    lab
}

fn pid(lab: &Lab) -> Value {
    let pid = lab.target_status("perth")["pid"].clone();
    assert!(pid.is_u64(), "an agent runs: {pid}");
    pid
}

fn log(lab: &Lab) -> String {
    fs::read_to_string(lab.home().join("log/perth.log")).expect("the agent's log")
}

/// The keys by which this lab's target is reached, as another lab's config names them.
fn way_to(other: &Lab) -> String {
    let text = other.config_text("");
    let is_way = |line: &&str| {
        ["port", "identity", "known_hosts", "archive", "bin"].contains(&line.split(':').next().unwrap_or_default())
    };
    text.lines().filter(is_way).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_period_changes_in_the_running_agent() {
    let lab = lab("period");
    let agent = pid(&lab);
    lab.config("perth", "sync: 1s");
    for round in 0..3 {
        let before = lab.target_status("perth")["last_sync"]["started"].clone();
        lab.wait_for(&format!("sync {round} by the new period"), || {
            (lab.target_status("perth")["last_sync"]["started"] != before).then_some(())
        });
    }
    assert_eq!(pid(&lab), agent);
}

#[test]
fn the_verbosity_changes_in_the_running_agent() {
    let lab = lab("verbosity");
    let agent = pid(&lab);
    let quiet = log(&lab);
    assert!(!quiet.contains("DEBUG"), "{quiet}");
    lab.config("perth", "verbose: 3");
    lab.wait_for("everything to be told", || {
        lab.blat(&["sync", "perth", "--wait"]).expect_success();
        log(&lab).contains("DEBUG").then_some(())
    });
    assert_eq!(pid(&lab), agent);
}

#[test]
fn releases_and_pins_change_in_the_running_agent() {
    let lab = lab("releases");
    let agent = pid(&lab);
    lab.config("perth", "projects: []\nreleases: [Lab 1]\npkg: {tools: 1}");
    lab.wait_until_published("tools", "1");
    lab.wait_for("both to be listed", || (lab.package_list() == ["core 1", "tools 1"]).then_some(()));
    lab.config("perth", "projects: []\npkg: {tools: 1}");
    lab.wait_for("one to be listed", || (lab.package_list() == ["tools 1"]).then_some(()));
    assert_eq!(pid(&lab), agent);
}

#[test]
fn aging_changes_in_the_running_agent() {
    let lab = lab("agingonthefly");
    lab.config("perth", "pkg: {tools: 1}");
    lab.wait_until_published("tools", "1");
    let agent = pid(&lab);
    lab.config("perth", "aging: immediate\nmax_delete: 100%");
    lab.wait_for("what is not wanted any more to go by the new policy", || {
        lab.blat(&["sync", "perth", "--wait"]).expect_success();
        (lab.visible() == ["core@1"]).then_some(())
    });
    assert_eq!(pid(&lab), agent);
}

#[test]
fn the_tag_directory_changes_in_the_running_agent() {
    let lab = lab("tagsdir");
    let agent = pid(&lab);
    // Polling cannot help here: the notifications must follow, too.
    lab.config("perth", "tags: drops\ntag_poll: 100d");
    lab.wait_for("the new directory", || lab.home().join("drops").is_dir().then_some(()));
    let left = lab.drop_tag("perth", "core", "1");
    let tag = lab.home().join("drops/tools@1");
    fs::write(&tag, "").expect("an own folder");
    lab.wait_until_published("tools", "1");
    lab.wait_for("the tag to be removed", || (!tag.exists()).then_some(()));
    assert!(left.exists(), "the old directory is nobody's any more");
    assert_eq!(pid(&lab), agent);
}

#[test]
fn host_key_identity_and_port_change_in_the_running_agent() {
    let (lab, other) = (lab("hosts"), Lab::new("otherhost"));
    let agent = pid(&lab);
    lab.config("perth", &way_to(&other));
    lab.wait_for("the package at the other host", || other.on_target("core", "1").exists().then_some(()));
    lab.wait_for_status("perth", "well there", |s| s["state"] == "idle" && s["last_error"].is_null());

    // The way back, to a host that has to be waited for.
    lab.sshd("stop").expect_success();
    lab.release(&[("core", "1"), ("tools", "1")]);
    lab.config("perth", "");
    lab.wait_for_status("perth", "waiting for its host", |s| s["state"] == "waiting");
    lab.sshd("start").expect_success();
    lab.wait_until_published("tools", "1");
    assert!(!other.on_target("tools", "1").exists(), "nothing more goes to the host that was left");
    assert_eq!(pid(&lab), agent);
}

#[test]
fn the_transport_changes_in_the_running_agent() {
    let lab = lab("transports");
    let agent = pid(&lab);
    let clients = |lab: &Lab| lab.local_processes().iter().filter(|process| process.name == "ssh").count();
    assert_eq!(clients(&lab), 1);
    lab.config("perth", "transport: libssh2\npkg: {tools: 1}");
    lab.wait_until_published("tools", "1");
    lab.wait_for("the ssh client to leave", || (clients(&lab) == 0).then_some(()));
    assert_eq!(pid(&lab), agent);
}

#[test]
fn an_invalid_edit_keeps_the_old_and_shows_file_line_column_and_caret() {
    let lab = lab("invalid");
    let agent = pid(&lab);
    let text = lab.config_text("sync: 4x");
    let line = text.lines().position(|line| line.starts_with("sync:")).expect("the line") + 1;
    lab.raw_config("perth", &text);

    let status = lab.wait_for_status("perth", "complaining", |s| s["config"]["error"].is_string());
    let complaint = status["config"]["error"].as_str().expect("a text");
    let shown = |text: &str| {
        assert!(text.contains(&format!("config/perth.conf:{line}:7")), "file, line, column: {text}");
        assert!(text.contains("sync: 4x") && text.contains("       ^^"), "the line and a caret below: {text}");
    };
    shown(complaint);
    let table: Outcome = lab.blat(&["status"]);
    shown(&table.expect_success().stdout);

    lab.drop_tag("perth", "tools", "1");
    lab.wait_until_published("tools", "1");
    let loaded = &lab.target_status("perth")["config"]["loaded"];
    assert_eq!(loaded, &status["config"]["loaded"], "the former settings are in force");
    lab.config("perth", "");
    lab.wait_for_status("perth", "well again", |s| s["config"]["error"].is_null());
    assert_eq!(pid(&lab), agent);
}

/// The system's refusal is no error of the config: as with a failing disk, or no handles left.
#[test]
fn a_config_that_cannot_be_read_keeps_the_old_and_is_not_called_invalid() {
    let lab = lab("unread");
    let agent = pid(&lab);
    let path = lab.home().join("config/perth.conf");
    let aside = lab.home().join("perth.conf");
    fs::rename(&path, &aside).expect("an own file");
    // No file system has so long a name.
    std::os::unix::fs::symlink("x".repeat(300), &path).expect("an own folder");
    let status = lab.wait_for_status("perth", "complaining", |s| s["config"]["error"].is_string());
    let complaint = status["config"]["error"].as_str().expect("a text");
    assert!(complaint.starts_with("error: cannot read the file: File name too long"), "{complaint}");
    assert_eq!((&status["pid"], &status["restarts"]), (&agent, &0.into()), "{status:#}");
    lab.blat(&["status"]).expect_success().says("perth.conf cannot be used; the settings read last stay in force");
    let log = || fs::read_to_string(lab.home().join("log/blatd.log")).expect("a log");
    lab.wait_for("the words", || log().contains("the config cannot be read, so it changes nothing").then_some(()));
    lab.drop_tag("perth", "tools", "1");
    lab.wait_until_published("tools", "1");
    // It may be read in a moment though nothing changes, so an agent that starts now tries again.
    lab.agent_once("perth").expect(1).says("File name too long");
    fs::rename(&aside, &path).expect("an own file");
    lab.wait_for_status("perth", "well again", |s| s["config"]["error"].is_null());
    assert_eq!(pid(&lab), agent);
}

#[test]
fn an_emptied_config_keeps_the_old_and_is_no_target_on_this_machine() {
    let lab = lab("emptied");
    let agent = pid(&lab);
    let whole = lab.config_text("");
    let source = whole.lines().find(|line| line.starts_with("source:")).expect("a source");
    fs::write(lab.home().join("config/blat.yaml"), format!("defaults:\n  {source}\n")).expect("an own file");
    for (version, text) in [("2", ""), ("3", "# host: perth.example.com\n"), ("4", "archive: elsewhere\n")] {
        lab.raw_config("perth", text);
        let status = lab.wait_for_status("perth", "complaining", |s| s["config"]["error"].is_string());
        let complaint = status["config"]["error"].as_str().expect("a text");
        assert!(complaint.contains("host is missing") && !complaint.contains("blat.yaml"), "{complaint}");
        assert_eq!((&status["pid"], &status["restarts"]), (&agent, &0.into()), "{status:#}");
        lab.blat(&["check", "perth"]).expect(78).says("host is missing");
        lab.package("tools", version, |p| p.file("a", version));
        lab.drop_tag("perth", "tools", version);
        lab.wait_until_published("tools", version);
        lab.raw_config("perth", &whole);
        lab.wait_for_status("perth", "well again", |s| s["config"]["error"].is_null());
    }
}

#[test]
fn another_type_takes_a_new_agent_and_the_others_do_not_notice() {
    let mut lab = Lab::new("type");
    lab.package("core", "1", |p| p);
    lab.release(&[("core", "1")]);
    // First, for its keys have to be in the master's environment.
    let bucket = Bucket::new(&mut lab, Store::Moto);
    let (source, beside) = (lab.source(), lab.home().join("beside"));
    fs::create_dir_all(beside.join("archive")).expect("an own folder");
    lab.hand_over();
    let (source, beside) = (source.display(), beside.display());
    let local =
        format!("transport: local\nsource: {source}\narchive: {beside}/archive\nbin: {beside}/bin\npkg: {{core: 1}}\n");
    lab.raw_config("oslo", &local);
    lab.config("perth", "");
    lab.start_master();
    let is_idle = |s: &Value| s["state"] == "idle" && s["last_sync"]["result"] == "ok";
    let other = lab.wait_for_status("oslo", "idle", is_idle)["pid"].clone();
    let agent = lab.wait_for_status("perth", "idle", is_idle)["pid"].clone();

    lab.package("tools", "2", |p| p);
    lab.release_for_buckets(&[("tools", "2")]);
    bucket.config(&lab, "perth", &[], "");
    let list = "archive/PackageList.txt".to_owned();
    lab.wait_for("the bucket to be filled", || bucket.keys().contains(&list).then_some(()));
    let status = lab.target_status("perth");
    assert_ne!(status["pid"], agent, "another type is another process");
    assert_eq!(
        (&status["type"], &status["restarts"]),
        (&"s3Sync".into(), &0.into()),
        "which is no restart: {status:#}"
    );
    bucket.assert_published(&lab, "tools", "2");

    lab.config("perth", "");
    lab.wait_until_published("tools", "2");
    let again = lab.target_status("perth");
    assert_eq!((&again["type"], &again["restarts"]), (&"dpkg_archive".into(), &0.into()), "{again:#}");
    assert_ne!(again["pid"], status["pid"]);
    assert_eq!(lab.target_status("oslo")["pid"], other);
}

#[test]
fn a_type_that_does_not_exist_keeps_the_running_agent_as_it_is() {
    let lab = lab("notype");
    let agent = pid(&lab);
    lab.config("perth", "type: ftp");
    let status = lab.wait_for_status("perth", "complaining", |s| s["config"]["error"].is_string());
    assert!(status["config"]["error"].as_str().is_some_and(|text| text.contains("s3Sync")), "{status:#}");
    assert_eq!((&status["pid"], &status["restarts"], &status["type"]), (&agent, &0.into(), &"dpkg_archive".into()));
}
