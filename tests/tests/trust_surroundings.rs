//! Whoever starts Blat hands down a umask and limits: neither opens what is made to others, nor closes it to its owner, nor ends a master in silence.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use blat_tests::{Lab, process};
use rustix::process::Signal;

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
