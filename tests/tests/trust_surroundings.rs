//! Whoever starts Blat hands down a umask and limits: neither opens what is made to others, nor closes it to its owner, nor ends a master in silence.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use blat_tests::accounts::{self, Account};
use blat_tests::{Lab, process};
use rustix::process::Signal;
use serde_json::Value;

/// A lab with one release, a target over ssh, and one on this machine.
fn lab(name: &str) -> Lab {
    let lab = Lab::new(name);
    lab.package("core", "1", |p| p.file("a", "1").with_mode("tool", "x", 0o775));
    lab.release(&[("core", "1")]);
    lab
}

/// What starts a program after this line of a shell's.
fn after(line: &str) -> [String; 3] {
    ["sh".into(), "-c".into(), format!("{line}; exec \"$0\" \"$@\"")]
}

/// Every file and folder below this one, with its mode; links have none.
fn modes(folder: &Path) -> Vec<(PathBuf, u32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())).flatten() {
        // Something temporary may be gone again.
        let Ok(stat) = fs::symlink_metadata(entry.path()) else { continue };
        if !stat.is_symlink() {
            found.push((entry.path(), stat.mode() & 0o7777));
        }
        if stat.is_dir() {
            found.extend(modes(&entry.path()));
        }
    }
    found
}

/// A master is started with this umask, sends by scripts, and leaves a home tree and an archive whose modes are those that are meant.
fn modes_are_meant(lab: &mut Lab, umask: &str) {
    lab.local_config("perth", "");
    let after = after(&format!("umask {umask}"));
    let wrapper: Vec<&str> = after.iter().map(String::as_str).collect();
    let new = lab.home().join("new");
    let init = process::run(lab.command_below(&wrapper, "blat").arg("init").arg(&new), &lab.home());
    init.expect_success();
    lab.start_master_below(&wrapper);
    lab.wait_until_published("core", "1");
    lab.wait_for_status("perth", "idle", |s| s["state"] == "idle" && s["last_sync"]["result"] == "ok");
    lab.blat(&["tag", "core", "1", "--wait"]).expect_success();
    lab.end_master(Signal::TERM).expect_success();

    let home = lab.home();
    let made = ["log", "run", "state", "tags", "new"].map(|folder| home.join(folder));
    let mut wrong: Vec<_> = made.iter().flat_map(|folder| modes(folder)).collect();
    wrong.retain(|(path, mode)| mode & 0o022 != 0 || mode & 0o600 != 0o600 || (path.is_dir() && mode & 0o100 == 0));
    assert!(wrong.is_empty(), "made under umask {umask}: {wrong:?}");
    let mode =
        |path: PathBuf| fs::metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).mode() & 0o7777;
    // The package's own modes are the source's, which `wait_until_published` has compared; what is Blat's there is for everybody to read.
    let house = lab.target_archive().join(".dpkg_archive");
    let there =
        ["PackageList.txt", "archive", "manifests", "manifests/core/1", "stage"].map(|name| mode(house.join(name)));
    assert_eq!(there, [0o644, 0o644, 0o755, 0o644, 0o700]);
    assert_eq!(mode(lab.target_archive().join("core")), 0o755);
}

#[test]
fn an_open_umask_opens_nothing_to_others() {
    modes_are_meant(&mut lab("openumask"), "000");
}

#[test]
fn a_shut_umask_closes_nothing_to_its_owner() {
    modes_are_meant(&mut lab("shutumask"), "777");
}

#[test]
fn a_stricter_umask_of_the_owner_s_stays_in_force() {
    let mut lab = lab("strictumask");
    lab.config("perth", "");
    let after = after("umask 077");
    lab.start_master_below(&after.each_ref().map(String::as_str));
    lab.wait_until_published("core", "1");
    for name in ["blatd.log", "perth.log"] {
        let found = fs::metadata(lab.home().join("log").join(name)).expect("a log");
        assert_eq!(found.mode() & 0o7777, 0o600, "{name}");
    }
}

#[test]
fn files_that_may_not_grow_are_an_error_and_kill_nobody() {
    let mut lab = lab("nogrowth");
    lab.config("perth", "");
    let after = after("ulimit -f 0");
    let wrapper = after.each_ref().map(String::as_str);
    let master = process::run(&mut lab.command_below(&wrapper, "blatd"), &lab.home());
    master.expect(1).says("blatd.pid").says("File too large");
    let agent =
        process::run(lab.command_below(&wrapper, "blat-agent").args(["--target", "perth", "--once"]), &lab.home());
    agent.expect(78).says("home-id").says("File too large");

    // Each log is as large as a file may be, in blocks of 512 bytes.
    for name in ["blatd.log", "perth.log"] {
        fs::write(lab.home().join("log").join(name), "an old line\n".repeat(6_000)).expect("an own folder");
    }
    lab.hand_over();
    let after = self::after("ulimit -f 128");
    let pid = lab.start_master_below(&after.each_ref().map(String::as_str));
    lab.wait_until_published("core", "1");
    lab.wait_for_status("perth", "idle", |s| s["state"] == "idle" && s["last_sync"]["result"] == "ok");
    assert_eq!(lab.status()["supervisor"]["pid"], pid);
    assert_eq!(lab.target_status("perth")["restarts"], 0);
    lab.end_master(Signal::TERM).expect_success();
}

#[test]
fn a_limit_of_open_files_that_nothing_can_work_with_is_named() {
    let lab = lab("fewfiles");
    lab.config("perth", "");
    let after = after("ulimit -n 16");
    let wrapper = after.each_ref().map(String::as_str);
    for (name, arguments) in
        [("blatd", &[][..]), ("blat-agent", &["--target", "perth", "--once"]), ("blat", &["status"])]
    {
        let outcome = process::run(lab.command_below(&wrapper, name).args(arguments), &lab.home());
        outcome.expect(1).says("the limit of open files is 16, and 64 are needed");
    }
}

/// One that is merely low at first is raised.
#[test]
fn a_low_limit_of_open_files_is_raised_to_what_the_system_allows() {
    let mut lab = lab("somefiles");
    lab.config("perth", "");
    let after = after("ulimit -Sn 16");
    lab.start_master_below(&after.each_ref().map(String::as_str));
    lab.wait_until_published("core", "1");
}

/// What is said to be wrong in this part of a status.
fn wrong(status: &Value) -> &str {
    status["last_error"]["text"].as_str().unwrap_or_default()
}

/// A lab whose target was at rest once, and its agent.
fn at_rest(name: &str) -> (Lab, u32) {
    let mut lab = lab(name);
    lab.config("perth", "");
    lab.start_master();
    let perth = lab.wait_for_status("perth", "idle", |s| s["state"] == "idle" && s["last_sync"]["result"] == "ok");
    let agent = perth["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("an agent");
    (lab, agent)
}

fn publish(lab: &Lab, version: &str) {
    lab.package("core", version, |p| p.file("a", version));
    lab.drop_tag("perth", "core", version);
    lab.wait_until_published("core", version);
}

/// As root's logrotate does it with `create 0640 root root`, and with `compress` later on.
#[test]
fn as_root_logs_that_root_replaces_are_named_and_no_line_is_lost() {
    let (lab, agent) = at_rest("rootslogs");
    let log = lab.home().join("log");
    let names = ["perth.log", "blatd.log"];
    for name in names {
        fs::rename(log.join(name), log.join(format!("{name}.1"))).expect("the log is moved");
        fs::write(log.join(name), "").expect("a file of root's");
        fs::set_permissions(log.join(name), fs::Permissions::from_mode(0o640)).expect("own file");
    }
    lab.wait_for("both to be named", || {
        let status = lab.status();
        let both = [&status["supervisor"], &status["targets"][0]];
        both.iter().zip(["blatd.log", "perth.log"]).all(|(part, name)| wrong(part).contains(name)).then_some(())
    });
    lab.blat(&["check"]).expect(1).says("perth.log: Permission denied").says("blatd.log: Permission denied");
    lab.blat(&["status"]).expect_success().says("blatd: cannot open the log").says("give");
    publish(&lab, "2");
    lab.wait_for("the line in the file before", || {
        fs::read_to_string(log.join("perth.log.1")).is_ok_and(|text| text.contains("core@2")).then_some(())
    });

    names.iter().for_each(|name| fs::remove_file(log.join(format!("{name}.1"))).expect("compressed"));
    publish(&lab, "3");
    lab.wait_for("the agent's lines to go elsewhere", || {
        wrong(&lab.target_status("perth")).contains("standard error").then_some(())
    });

    names.iter().for_each(|name| fs::remove_file(log.join(name)).expect("given back"));
    lab.wait_for("all to be well", || {
        let status = lab.status();
        (status["supervisor"]["last_error"].is_null() && status["targets"][0]["last_error"].is_null()).then_some(())
    });
    lab.blat(&["check"]).expect_success();
    publish(&lab, "4");
    lab.wait_for("the log to go on", || {
        fs::read_to_string(log.join("perth.log")).is_ok_and(|text| text.contains("core@4")).then_some(())
    });
    assert_eq!(lab.target_status("perth")["pid"], agent);
}

#[test]
fn a_closed_log_directory_and_a_pipe_in_a_log_s_place_are_named_and_hold_nobody_up() {
    let (lab, agent) = at_rest("oddlogs");
    let (folder, log) = (lab.home().join("log"), lab.home().join("log/perth.log"));
    let named = |why: &str| {
        lab.wait_for_status("perth", why, |s| wrong(s).contains(why));
    };
    let well = || {
        lab.wait_for_status("perth", "well", |s| s["last_error"].is_null());
    };
    let open = fs::metadata(&folder).expect("a folder").permissions();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o000)).expect("own folder");
    named("cannot look at the log");
    lab.blat(&["check", "perth"]).expect(1).says("perth.log");
    publish(&lab, "2");
    fs::set_permissions(&folder, open).expect("own folder");
    well();

    fs::rename(&log, folder.join("before")).expect("moved");
    process::run(Command::new("mkfifo").arg(&log), &folder).expect_success();
    lab.hand_over();
    named("No such device or address");
    lab.blat(&["check", "perth"]).expect(1).says("No such device or address");
    publish(&lab, "3");
    fs::remove_file(&log).expect("own folder");
    well();
    assert_eq!(lab.target_status("perth")["pid"], agent);
}

/// Lets this process of the master's account make no more threads and processes than these, counted over its account; says how many it could have
/// before.
fn let_have(lab: &Lab, pid: u32, most: Option<u64>) -> Option<u64> {
    limited(lab, pid, "nproc", most)
}

/// Sets a limit of this process of the master's account, and says what it was.
fn limited(lab: &Lab, pid: u32, what: &str, most: Option<u64>) -> Option<u64> {
    let prlimit = |arguments: &[&str]| {
        let mut command = match accounts::is_root() {
            true => Account::Master.command("prlimit"),
            false => Command::new("prlimit"),
        };
        process::run(command.args(["--pid", &pid.to_string()]).args(arguments), &lab.home())
    };
    let before = prlimit(&[&format!("--{what}"), "--noheadings", "--raw", "--output", "SOFT"]);
    let most = most.map_or("unlimited".to_owned(), |most| most.to_string());
    prlimit(&[&format!("--{what}={most}:")]).expect_success();
    before.expect_success().stdout.trim().parse().ok()
}

/// Whether the process has a worker thread of its runtime.
fn has_worker(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("a running process").flatten();
    threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok()).any(|name| name.contains("tokio"))
}

#[test]
fn nobody_ends_where_the_account_may_make_no_more_threads() {
    let (lab, agent) = at_rest("nothreads");
    let master = lab.status()["supervisor"]["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a master");
    // A worker that had nothing to do for ten seconds used to end.
    let ended = process::poll(Duration::from_secs(13), || (!has_worker(master)).then_some(()));
    assert!(ended.is_none() && has_worker(agent), "there would be none again");
    let before = [master, agent].map(|pid| let_have(&lab, pid, Some(1)));

    lab.config("sydney", &lab.own_archive("sydney"));
    lab.wait_for_status("sydney", "named", |s| wrong(s).contains("Resource temporarily unavailable"));
    // Scripts over the connection that is there need no program of ours; reading the releases does.
    publish(&lab, "2");
    lab.blat(&["sync", "perth", "--wait"]).expect(1).says("Resource temporarily unavailable");
    assert_eq!(lab.status()["supervisor"]["pid"], master);

    for (pid, before) in [master, agent].iter().zip(before) {
        let_have(&lab, *pid, before);
    }
    publish(&lab, "3");
    lab.wait_for_status("sydney", "idle", |s| s["state"] == "idle" && s["last_sync"]["result"] == "ok");
    let perth = lab.wait_for_status("perth", "idle", |s| s["state"] == "idle" && s["last_error"].is_null());
    assert_eq!((&perth["pid"], &perth["restarts"]), (&agent.into(), &0.into()));
}

/// Whoever cannot open anything waits and does not spin, though somebody is at the door all the while; then goes on.
#[test]
fn nobody_ends_or_spins_where_no_more_files_can_be_opened() {
    let (lab, agent) = at_rest("nofiles");
    let master = lab.status()["supervisor"]["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a master");
    let before = [master, agent].map(|pid| limited(&lab, pid, "nofile", Some(3)));
    let _at_the_door = UnixStream::connect(lab.home().join("run/blatd.sock")).expect("the master's socket");
    lab.package("core", "2", |p| p.file("a", "2"));
    let tag = lab.drop_tag("perth", "core", "2");

    let window = Duration::from_secs(2);
    for pid in [master, agent] {
        lab.wait_for("two seconds of hardly any processor time", || {
            let (start, before) = (Instant::now(), process::processor_time(pid));
            process::poll(window * 2, || (start.elapsed() >= window).then_some(()));
            (process::processor_time(pid) - before < window / 10).then_some(())
        });
    }
    assert!(tag.exists(), "it cannot have been served");
    for (pid, before) in [master, agent].iter().zip(before) {
        limited(&lab, *pid, "nofile", before);
    }
    lab.wait_until_published("core", "2");
    let perth = lab.wait_for_status("perth", "idle", |s| s["state"] == "idle" && s["last_error"].is_null());
    assert_eq!((&perth["pid"], &perth["restarts"]), (&agent.into(), &0.into()));
    assert_eq!(lab.status()["supervisor"]["pid"], master);
    for log in ["blatd.log", "perth.log"] {
        let lines = fs::read_to_string(lab.home().join("log").join(log)).expect("a log").lines().count();
        assert!(lines < 200, "{log} has {lines} lines");
    }
}
