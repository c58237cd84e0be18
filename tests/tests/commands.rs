//! The `blat` command: what it prints, its exit codes, and that it is safe to repeat.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use blat_tests::Lab;
use blat_tests::process::{self, Running};
use rustix::process::Signal;
use serde_json::Value;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("an own file");
}

/// A lab with two wanted packages and a target, nothing running yet.
fn lab(name: &str) -> Lab {
    let lab = Lab::new(name);
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.package("tools", "2", |p| p.noise("a", 10_000));
    lab.release(&[("core", "1"), ("tools", "2")]);
    lab.config("perth", "");
    lab
}

#[test]
fn init_makes_a_home_that_checks_and_overwrites_nothing() {
    let lab = Lab::new("init");
    let home = lab.home().join("fresh");
    let init = || lab.blat(&["init", home.to_str().expect("text")]);
    init().expect_success();
    for folder in ["config", "tags", "ssh", "run", "log", "state"] {
        assert!(home.join(folder).is_dir(), "{folder} is missing");
    }

    let settings = home.join("config/blat.yaml");
    fs::write(&settings, "# mine\n").expect("an own file");
    init().expect_success();
    assert_eq!(fs::read_to_string(&settings).expect("an own file"), "# mine\n");
}

#[test]
fn check_prints_every_complaint_with_its_place() {
    let lab = lab("check");
    lab.blat(&["check"]).expect_success();

    lab.raw_config("bad", "host: perth\nport: 70000\nsource: /s\nsink: 5\nsync: 4x\n");
    let outcome = lab.blat(&["check"]);
    outcome.expect(78);
    for place in ["bad.conf:2:", "bad.conf:4:", "bad.conf:5:"] {
        outcome.says(place);
    }
    outcome.says("sync"); // the nearest known key to `sink`
    lab.blat(&["check", "perth"]).expect_success();
    lab.blat(&["check", "nobody"]).expect(2);
}

#[test]
fn start_stop_and_restart_may_be_repeated_and_stop_leaves_no_process() {
    let lab = lab("startstop");
    let master = |lab: &Lab| lab.status()["supervisor"]["pid"].as_u64().expect("a running master");

    lab.blat(&["start"]).expect_success();
    let first = master(&lab);
    lab.blat(&["start"]).expect_success();
    assert_eq!(master(&lab), first);

    lab.blat(&["restart"]).expect_success();
    assert_ne!(master(&lab), first);

    lab.blat(&["stop"]).expect_success();
    assert_eq!(lab.local_processes().len(), 0, "{:#?}", lab.local_processes());
    lab.blat(&["stop"]).expect_success();
}

#[test]
fn status_without_a_master_shows_what_was_last_known() {
    let lab = lab("lastknown");
    lab.blat(&["status"]).expect(69);
    lab.blat(&["start"]).expect_success();
    lab.blat(&["sync", "perth", "--wait"]).expect_success();
    lab.blat(&["stop"]).expect_success();

    let outcome = lab.blat(&["status", "--json"]);

    let status: Value = serde_json::from_str(&outcome.expect(69).stdout).expect("JSON");
    assert_eq!(status["supervisor"], Value::Null, "{status:#}");
    let perth = &status["targets"][0];
    assert_eq!((&perth["name"], &perth["pid"]), (&"perth".into(), &Value::Null), "{status:#}");
    assert_eq!(perth["last_sync"]["present"], 2, "{status:#}");
    lab.blat(&["sync"]).expect(69);
}

#[test]
fn status_json_has_the_documented_fields() {
    let mut lab = lab("json");
    lab.start_master();
    let perth = lab.wait_for_status("perth", "idle", |s| s["state"] == "idle" && s["last_sync"]["result"] == "ok");

    let keys = |value: &Value| -> Vec<String> { value.as_object().expect("an object").keys().cloned().collect() };
    let must = |value: &Value, names: &[&str]| {
        let keys = keys(value);
        assert!(names.iter().all(|name| keys.iter().any(|key| key == name)), "{names:?} are not all in {value:#}");
    };
    must(&lab.status(), &["home", "supervisor", "targets"]);
    must(&lab.status()["supervisor"], &["pid", "version", "started"]);
    must(
        &perth,
        &["name", "type", "pid", "restarts", "since", "state", "last_sync", "queue", "current", "last_error", "config"],
    );
    must(&perth["queue"], &["tags", "packages", "bytes"]);
    must(&perth["config"], &["path", "loaded", "error"]);
    let sync = &perth["last_sync"];
    must(sync, &["started", "finished", "wanted", "present", "sent", "failed", "marked", "deleted", "bytes"]);
    assert_eq!((&sync["wanted"], &sync["present"], &sync["sent"]), (&2.into(), &2.into(), &2.into()), "{sync:#}");

    let table = lab.blat(&["status"]);
    table.expect_success().says("perth").says("idle");
    assert!(!table.stdout.contains('\u{1b}'), "no colours where nobody sees them: {:?}", table.stdout);
}

#[test]
fn sync_wait_tells_by_its_exit_code_how_it_went() {
    let mut lab = lab("syncwait");
    lab.start_master();
    lab.blat(&["sync", "--wait"]).expect_success();
    lab.assert_published("tools", "2");

    lab.release(&[("core", "1"), ("lost", "3")]);
    lab.blat(&["sync", "perth", "--wait"]).expect(1).says("lost@3");
    assert_ne!(lab.blat(&["sync", "nobody", "--wait"]).code, Some(0), "there is no such target");
}

/// What is only waited for is no failure, and not all that is wanted either.
#[test]
fn sync_wait_is_done_only_when_all_is_there_and_names_what_is_held() {
    let mut lab = lab("held");
    let writable = lab.package("core", "2", |p| p.file("a", "2").writable());
    let incomplete = lab.package("core", "3", |p| p.file("a", "3"));
    set_mode(&incomplete, 0o755);
    fs::rename(incomplete.join("descpkg"), incomplete.join("not yet")).expect("an own file");
    symlink("2", lab.source().join("core/current")).expect("a link to what is held");
    lab.release(&[("core", "1"), ("core", "2"), ("core", "3"), ("core", "current")]);
    lab.start_master();

    lab.blat(&["sync", "perth", "--wait"])
        .expect(75)
        .says("perth: incomplete · 1/4")
        .says("held: core@2: waits: still writable at the source")
        .says("held: core@3: waits: the source has no descpkg for it yet")
        .says("held: core@current: waits: it is a link to core@2")
        .says("3 packages that are wanted on perth are held");
    lab.assert_published("core", "1");
    lab.blat(&["status"]).expect_success().says("held 3").says("held: core@3: waits: the source has no descpkg");
    let perth = lab.target_status("perth");
    assert_eq!((&perth["state"], &perth["last_sync"]["held"]), (&"idle".into(), &3.into()), "{perth:#}");
    assert_eq!(perth["last_sync"]["held_packages"][0]["package"], "core@2", "{perth:#}");

    // What fails is a failure, and what is held beside it is named as well.
    lab.release(&[("core", "1"), ("core", "2"), ("lost", "1")]);
    lab.blat(&["sync", "perth", "--wait"]).expect(1).says("lost@1").says("held: core@2: waits");

    lab.release(&[("core", "1"), ("core", "2"), ("core", "3"), ("core", "current")]);
    fs::rename(incomplete.join("not yet"), incomplete.join("descpkg")).expect("an own file");
    for package in [&incomplete, &writable] {
        set_mode(&package.join("descpkg"), 0o444);
        set_mode(package, 0o555);
    }
    let done = lab.blat(&["sync", "perth", "--wait"]);
    done.expect_success().says("perth: ok · 4/4");
    assert!(!done.stdout.contains("held") && done.stderr.is_empty(), "{done}");
}

#[test]
fn plan_shows_what_a_sync_would_do_and_does_nothing() {
    let lab = lab("plan");
    let outcome = lab.blat(&["plan", "perth"]);
    outcome.expect_success().says("core@1").says("tools@2");
    let plan: Value =
        serde_json::from_str(&lab.blat(&["plan", "perth", "--json"]).expect_success().stdout).expect("JSON");
    assert!(plan.to_string().contains("tools@2"), "{plan:#}");
    assert_eq!(lab.visible(), Vec::<String>::new());

    lab.agent_once("perth").expect_success();
    let after = lab.blat(&["plan", "perth"]);
    assert!(!after.expect_success().stdout.contains("core@1"), "nothing is left to do\n{after}");
}

#[test]
fn the_log_tells_of_every_package() {
    let mut lab = lab("logs");
    lab.start_master();
    lab.blat(&["sync", "perth", "--wait"]).expect_success();
    lab.blat(&["logs", "perth"]).expect_success().says("core@1").says("tools@2");
}

#[test]
fn nonsense_is_wrong_usage() {
    let lab = lab("usage");
    lab.blat(&["sing"]).expect(2);
    lab.blat(&["tag", "../x", "1"]).expect(2);
    lab.blat(&["--version"]).expect_success().says("blat ");
}

/// Whoever looks has a connection of his own.
#[test]
fn plans_beside_a_running_agent_do_not_disturb_it() {
    let mut lab = lab("beside");
    lab.start_master();
    lab.blat(&["sync", "perth", "--wait"]).expect_success();
    lab.blat(&["plan", "perth"]).expect_success();
    lab.blat(&["sync", "perth", "--wait"]).expect_success();
    let log = fs::read_to_string(lab.home().join("log/perth.log")).expect("a log");
    assert!(!log.contains(" WARN "), "{log}");
}

/// Who kills `blat` by its number means what it began as well, above all what deletes and sends.
#[test]
fn a_command_that_is_killed_leaves_no_agent_behind() {
    let lab = lab("killedcommand");
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    lab.config("perth", &format!("port: {}", silent.local_addr().expect("bound").port()));
    lab.hand_over();
    for arguments in [
        &["verify", "perth", "--repair"][..],
        &["why", "core@1"],
        &["plan", "perth"],
        &["adopt", "perth"],
        &["check", "--connect"],
    ] {
        let running = Running::start(lab.command("blat").args(arguments), &lab.home());
        lab.wait_for("the agent to call the target", || {
            lab.local_processes().iter().any(|p| p.name == "ssh").then_some(())
        });
        process::signal(running.pid(), Signal::KILL);
        lab.wait_until_nothing_runs();
        assert_eq!(running.finish().code, None, "{arguments:?}");
    }
}
