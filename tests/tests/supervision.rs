//! The master and its agents: who starts, who leaves with whom, what a config change does.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use blat_tests::{Lab, process};
use rustix::process::Signal;
use serde_json::Value;

/// A lab whose targets have done their first sync.
fn lab_with(name: &str, targets: &[&str]) -> Lab {
    let mut lab = Lab::new(name);
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.release(&[("core", "1")]);
    for (index, target) in targets.iter().enumerate() {
        let archive = if index == 0 { String::new() } else { lab.own_archive(target) };
        lab.config(target, &archive);
    }
    lab.start_master();
    for target in targets {
        wait_until_idle(&lab, target);
    }
    lab
}

fn wait_until_idle(lab: &Lab, target: &str) -> Value {
    lab.wait_for_status(target, "idle after a sync", |s| s["state"] == "idle" && s["last_sync"]["result"] == "ok")
}

fn agent_pid(lab: &Lab, target: &str) -> u32 {
    let pid = lab.target_status(target)["pid"].as_u64().expect("a running agent");
    pid.try_into().expect("a pid")
}

fn pid_in(lab: &Lab, file: &str) -> u32 {
    let path = lab.home().join("run").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("could not read {}: {error}", path.display()));
    text.trim().parse().unwrap_or_else(|error| panic!("{}: {error}: {text:?}", path.display()))
}

#[test]
fn agents_leave_with_a_killed_master_and_the_next_one_starts_cleanly() {
    let mut lab = lab_with("orphans", &["perth", "sydney"]);
    let agents = ["perth", "sydney"].map(|target| agent_pid(&lab, target));
    assert_eq!(agents, ["perth.pid", "sydney.pid"].map(|file| pid_in(&lab, file)));

    assert_eq!(lab.end_master(Signal::KILL).code, None);
    lab.wait_until_nothing_runs();

    let pid = lab.start_master();
    assert_eq!(pid_in(&lab, "blatd.pid"), pid);
    for target in ["perth", "sydney"] {
        let status = wait_until_idle(&lab, target);
        assert_eq!(status["restarts"], 0, "{status:#}");
    }
}

#[test]
fn a_second_master_is_refused_and_names_the_first() {
    let mut lab = lab_with("second", &["perth"]);
    let first = pid_in(&lab, "blatd.pid");

    let second = process::run(&mut lab.command("blatd"), &lab.home());

    second.expect(1).says(&first.to_string());
    assert_eq!(pid_in(&lab, "blatd.pid"), first, "the first one's pid file is untouched");
    wait_until_idle(&lab, "perth");
    lab.end_master(Signal::TERM).expect_success();
}

#[test]
fn a_master_that_is_told_to_stop_takes_everything_along() {
    let mut lab = lab_with("stops", &["perth", "sydney"]);
    lab.end_master(Signal::TERM).expect_success();
    lab.wait_until_nothing_runs();
    lab.wait_for("the last remote process to end", || lab.remote_processes().is_empty().then_some(()));
    for left in ["blatd.pid", "perth.pid", "sydney.pid"] {
        assert!(!lab.home().join("run").join(left).exists(), "{left} is left over");
    }
}

#[test]
fn a_killed_agent_comes_back_and_the_others_do_not_notice() {
    let lab = lab_with("killed", &["perth", "sydney"]);
    let (perth, sydney) = (agent_pid(&lab, "perth"), agent_pid(&lab, "sydney"));

    process::signal(perth, Signal::KILL);

    let status = lab.wait_for_status("perth", "back", |s| s["restarts"] == 1 && s["state"] == "idle");
    assert_ne!(status["pid"], perth);
    assert_eq!(agent_pid(&lab, "sydney"), sydney);
    assert_eq!(lab.target_status("sydney")["restarts"], 0);
}

#[test]
fn signals_mean_what_the_documents_say() {
    let lab = lab_with("signals", &["perth"]);
    let agent = agent_pid(&lab, "perth");
    let synced = |lab: &Lab| lab.target_status("perth")["last_sync"]["started"].clone();

    let before = synced(&lab);
    process::signal(agent, Signal::USR1);
    lab.wait_for("a sync after USR1 to the agent", || (synced(&lab) != before).then_some(()));

    let before = synced(&lab);
    process::signal(pid_in(&lab, "blatd.pid"), Signal::USR1);
    lab.wait_for("a sync after USR1 to the master", || (synced(&lab) != before).then_some(()));

    let log = lab.home().join("log");
    process::signal(agent, Signal::HUP);
    lab.wait_for("the agent's log to be rolled", || log.join("perth.log.1").exists().then_some(()));
    assert!(!log.join("blatd.log.1").exists(), "the master's log is not the agent's to roll");
    process::signal(pid_in(&lab, "blatd.pid"), Signal::HUP);
    lab.wait_for("all logs to be rolled", || {
        (log.join("perth.log.2").exists() && log.join("blatd.log.1").exists()).then_some(())
    });

    assert_eq!(agent_pid(&lab, "perth"), agent, "the same agent all the time");
    fs::remove_file(lab.home().join("run/perth.pid")).expect("the agent's pid file");
    lab.wait_for_status("perth", "another agent", |s| s["pid"].as_u64().is_some_and(|pid| pid != u64::from(agent)));
}

/// As logrotate does it, and as somebody does it who makes room on the disk.
#[test]
fn a_log_that_is_rotated_by_somebody_else_goes_on_and_blat_logs_shows_it() {
    let lab = lab_with("rotated", &["perth"]);
    let (agent, log) = (agent_pid(&lab, "perth"), lab.home().join("log"));
    for name in ["perth.log", "blatd.log"] {
        fs::rename(log.join(name), log.join(format!("{name}.1"))).expect("the log is moved");
    }
    process::signal(pid_in(&lab, "blatd.pid"), Signal::HUP);
    let says = |name: &str, words: &str| {
        lab.wait_for(words, || fs::read_to_string(log.join(name)).is_ok_and(|text| text.contains(words)).then_some(()));
    };
    says("perth.log", "another process moved the log");
    says("blatd.log", "another process moved the log");
    for name in ["perth.log.1", "blatd.log.1"] {
        let text = fs::read_to_string(log.join(name)).expect("the moved log");
        assert!(text.contains("started") && !text.contains("another process"), "{name}: {text}");
    }
    assert!(!log.join("perth.log.2").exists() && !log.join("blatd.log.2").exists());

    fs::remove_file(log.join("perth.log")).expect("the log is removed");
    lab.blat(&["logs", "perth"]).expect_success().says("another process removed the log; its earlier lines are lost");
    assert_eq!(agent_pid(&lab, "perth"), agent);
}

/// What an agent does wakes it up again in no way: looking at its own tag directory is no event there.
#[test]
fn an_idle_agent_rests() {
    let lab = lab_with("rests", &["perth"]);
    let agent = agent_pid(&lab, "perth");
    let window = Duration::from_secs(2);
    lab.wait_for("two seconds in which the agent uses hardly any processor time", || {
        let (start, before) = (Instant::now(), process::processor_time(agent));
        process::poll(window * 2, || (start.elapsed() >= window).then_some(()));
        (process::processor_time(agent) - before < window / 20).then_some(())
    });
    assert_eq!(agent_pid(&lab, "perth"), agent);
}

#[test]
fn configs_that_come_change_and_go_touch_nobody_else() {
    let lab = lab_with("configs", &["perth"]);
    let perth = agent_pid(&lab, "perth");

    let archive = lab.own_archive("sydney");
    lab.config("sydney", &archive);
    wait_until_idle(&lab, "sydney");
    let sydney = agent_pid(&lab, "sydney");

    lab.package("tools", "1", |p| p.file("a", "1"));
    lab.config("sydney", &format!("{archive}\npkg: {{tools: 1}}"));
    let there = lab.target_archive().with_file_name("archive-of-sydney/tools/1");
    lab.wait_for("tools@1 at sydney", || there.exists().then_some(()));
    assert_eq!(agent_pid(&lab, "sydney"), sydney, "a change is read by the running agent");

    fs::remove_file(lab.home().join("config/sydney.conf")).expect("the config");
    lab.wait_for("sydney to be forgotten", || lab.target_status("sydney").is_null().then_some(()));
    lab.wait_for("its agent to leave", || (!process::lives(sydney)).then_some(()));
    assert_eq!(agent_pid(&lab, "perth"), perth);
    assert_eq!(lab.target_status("perth")["restarts"], 0);
}

#[test]
fn a_bad_config_changes_nothing_and_is_shown() {
    let lab = lab_with("badconfig", &["perth"]);
    let perth = agent_pid(&lab, "perth");

    lab.raw_config("perth", &lab.config_text("relases: [1]"));
    let status = lab.wait_for_status("perth", "complaining", |s| s["config"]["error"].is_string());
    let complaint = status["config"]["error"].as_str().expect("a text");
    assert!(complaint.contains("perth.conf") && complaint.contains("releases"), "{complaint}");
    assert_eq!(status["pid"], perth, "the agent goes on");
    lab.package("tools", "1", |p| p.file("a", "1"));
    lab.drop_tag("perth", "tools", "1");
    lab.wait_until_published("tools", "1");

    lab.raw_config("broken", "host: [");
    lab.wait_for_status("broken", "misconfigured", |s| s["state"] == "misconfigured" && s["pid"].is_null());

    lab.config("perth", "");
    lab.config("broken", &lab.own_archive("broken"));
    lab.wait_for_status("perth", "well again", |s| s["config"]["error"].is_null());
    wait_until_idle(&lab, "broken");
    assert_eq!(agent_pid(&lab, "perth"), perth);
}

#[test]
fn a_left_over_pid_file_blocks_nothing_and_nobody_is_killed_by_it() {
    let mut bystander = Bystander::new();
    let mut lab = Lab::new("stale");
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.release(&[("core", "1")]);
    lab.config("perth", "");
    fs::create_dir_all(lab.home().join("run")).expect("an own folder");
    for file in ["blatd.pid", "perth.pid"] {
        fs::write(lab.home().join("run").join(file), format!("{}\n", bystander.0.id())).expect("an own folder");
    }
    lab.hand_over();

    lab.blat(&["stop"]).expect_success();
    let pid = lab.start_master();
    wait_until_idle(&lab, "perth");
    assert_eq!(pid_in(&lab, "blatd.pid"), pid);
    lab.end_master(Signal::TERM).expect_success();

    assert!(bystander.0.try_wait().expect("an own child").is_none(), "the bystander was killed");
}

/// A process that is none of Blat's, and ends with the test.
struct Bystander(Child);

impl Bystander {
    fn new() -> Self {
        Self(Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().expect("a command of every Linux"))
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("could not end the bystander: {error}");
        }
    }
}

#[test]
fn a_dead_target_costs_the_others_nothing() {
    let lab = lab_with("dead", &["perth"]);
    // A port that answers nothing: bound, never accepted.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = silent.local_addr().expect("a bound port").port();
    lab.config("dead", &format!("port: {port}"));

    lab.package("tools", "1", |p| p.file("a", "1"));
    lab.drop_tag("perth", "tools", "1");
    lab.wait_until_published("tools", "1");

    let status = lab.wait_for_status("dead", "waiting", |s| s["state"] == "waiting");
    assert!(status["last_error"]["retry_at"].is_string(), "{status:#}");
    assert_eq!(status["restarts"], 0, "a dead link is no reason for an agent to exit: {status:#}");
}

/// A lock that a script holds while it starts the master is the script's.
#[test]
fn the_master_keeps_nothing_open_of_whoever_starts_it() {
    let lab = Lab::new("inherited");
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.release(&[("core", "1")]);
    lab.config("perth", "");
    let (file, open) = (lab.home().join("../lock"), r#"exec 9>>"$0"; exec "$@""#);
    fs::write(&file, "").expect("a scratch file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).expect("an own file");
    let file = fs::canonicalize(file).expect("what was just written");
    let mut start = lab.command_below(&["sh", "-c", open, &file.display().to_string()], "blat");
    process::run(start.arg("start"), &lab.home()).expect_success();
    let processes = lab.local_processes();
    assert!(!processes.is_empty(), "a master runs");
    for process in processes {
        for handle in fs::read_dir(format!("/proc/{}/fd", process.pid)).expect("a process of ours").flatten() {
            assert_ne!(fs::read_link(handle.path()).ok().as_ref(), Some(&file), "{process:?}");
        }
    }
    lab.blat(&["stop"]).expect_success();
}
