//! Faults of the master's side, first of all of its archive: only what is faulty is not sent, nothing that was published
//! suffers, and the reason is told.

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use blat_tests::process::{self, Running};
use blat_tests::{Lab, Outcome, tree};

/// `core@1`, `tools@1` and a big one, all wanted, none of them sent. The limit is so low that the big one's last file is read
/// seconds after its first, on any machine.
fn lab(name: &str) -> Lab {
    let lab = Lab::new(name);
    for name in ["core", "tools"] {
        lab.package(name, "1", |p| p.file("bin/a", name).noise("data", 5000));
    }
    lab.package("big", "1", |p| p.noise("lib/a", 24 << 20).noise("lib/b", 24 << 20).noise("lib/c", 4 << 20));
    lab.release(&[("core", "1"), ("tools", "1"), ("big", "1")]);
    lab.config("perth", "bandwidth: 16m\n");
    lab
}

fn open_up(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("an own file");
}

/// Waits until `big@1` is on its way.
fn wait_for_the_stream(lab: &Lab) {
    lab.wait_for("the transfer to run", || lab.remote_processes().iter().any(process::Process::receives).then_some(()));
}

/// All but `big@1` arrived, and the reason was told.
fn only_big_failed(lab: &Lab, outcome: &Outcome) {
    outcome.expect(1).says("big@1");
    assert_eq!(lab.visible(), ["core@1", "tools@1"], "{outcome}");
    lab.assert_never_partial();
    assert!(!lab.target_archive().join(".dpkg_archive/PackageList.txt").exists(), "it would name what is not there");
}

#[test]
fn a_file_that_vanishes_while_its_package_is_sent_fails_that_package_alone() {
    let lab = lab("vanishes");
    let folder = lab.source().join("big/1/lib");
    open_up(&folder, 0o755);
    let sync = lab.start_agent_once("perth");
    wait_for_the_stream(&lab);
    fs::remove_file(folder.join("c")).expect("an own file");
    let outcome = sync.finish();

    only_big_failed(&lab, &outcome);
    outcome.says("lib/c");

    // It was an accident: the file comes back, and the next sync brings the package.
    tree::remove(&lab.source().join("big/1"));
    lab.package("big", "1", |p| p.noise("lib/a", 24 << 20).noise("lib/c", 4 << 20));
    lab.agent_once("perth").expect_success();
    lab.assert_published("big", "1");
}

#[test]
fn a_file_that_changes_while_its_package_is_sent_is_never_published_mixed() {
    let lab = lab("changes");
    let path = lab.source().join("big/1/lib/b");
    open_up(&path, 0o644);
    let sync = lab.start_agent_once("perth");
    wait_for_the_stream(&lab);
    let done = AtomicBool::new(false);
    let outcome = thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::File::options().write(true).open(&path).expect("an own file");
            // Written again and again, so that some write falls into the time in which it is read.
            while !done.load(Ordering::Relaxed) {
                for offset in (0..24 << 20).step_by(1 << 20) {
                    file.seek(SeekFrom::Start(offset)).and_then(|_| file.write_all(b"changed")).expect("an own file");
                }
            }
        });
        let outcome = sync.finish();
        done.store(true, Ordering::Relaxed);
        outcome
    });

    only_big_failed(&lab, &outcome);
    outcome.says("changed while it was read");
    open_up(&path, 0o444);
    lab.agent_once("perth").expect_success();
    lab.assert_published("big", "1");
}

/// An agent that may read what its modes allow and no more: root reads everything, so it leaves that right behind.
fn agent_without_privilege(lab: &Lab) -> Outcome {
    let plain = lab.command("blat-agent");
    if !rustix::process::getuid().is_root() {
        return lab.agent_once("perth");
    }
    let mut bare = Command::new("setpriv");
    bare.args(["--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all"]);
    bare.arg(plain.get_program()).args(plain.get_args()).args(["--target", "perth", "--once"]);
    bare.env("BLAT_LAB", lab.home().parent().expect("a lab")).env_remove("BLAT_HOME");
    Running::start(&mut bare, &lab.home()).finish()
}

#[test]
fn a_file_or_folder_that_cannot_be_read_fails_its_package_alone() {
    for closed in ["lib/b", "lib"] {
        let lab = lab("unreadable");
        let path = lab.source().join("big/1").join(closed);
        let mode = fs::metadata(&path).expect("a package's path").permissions().mode();
        open_up(&path, 0);
        let outcome = agent_without_privilege(&lab);
        open_up(&path, mode);

        only_big_failed(&lab, &outcome);
        outcome.says(closed).says("Permission denied");
        lab.agent_once("perth").expect_success();
        lab.assert_published("big", "1");
    }
}

#[test]
fn an_archive_that_is_suddenly_empty_costs_the_target_nothing() {
    let lab = lab("emptied");
    lab.agent_once("perth").expect_success();
    let before = tree::read(&lab.target_archive()).expect("the target's archive");

    let kept = lab.source().with_file_name("kept");
    fs::rename(lab.source(), &kept).expect("an own folder");
    fs::create_dir(lab.source()).expect("a free name");
    lab.agent_once("perth").expect(1).says("empty");

    let after = tree::read(&lab.target_archive()).expect("the target's archive");
    for part in ["core/1", "tools/1", "big/1", ".dpkg_archive/PackageList.txt"] {
        assert_eq!(before[Path::new(part)], after[Path::new(part)], "{part}");
    }
    fs::remove_dir(lab.source()).and_then(|()| fs::rename(&kept, lab.source())).expect("own folders");
    lab.agent_once("perth").expect_success();
}

#[test]
fn a_package_whose_descpkg_comes_late_is_not_ready_before() {
    let mut lab = Lab::new("late");
    lab.release(&[]);
    lab.package("other", "1", |p| p.file("a", "1"));
    let path = lab.package("core", "1", |p| p.file("a", "1"));
    let descpkg = path.join("descpkg");
    open_up(&path, 0o755);
    let content = fs::read(&descpkg).expect("an own file");
    fs::remove_file(&descpkg).expect("an own file");
    open_up(&path, 0o555);
    lab.config("perth", "tag_poll: 1s");
    lab.start_master();

    let tag = lab.drop_tag("perth", "core", "1");
    lab.wait_for_status("perth", "waiting for the descpkg", |s| s["last_error"]["package"] == "core@1");
    lab.drop_tag("perth", "other", "1");
    lab.wait_until_published("other", "1");
    assert_eq!(lab.visible(), ["other@1"]);
    assert!(tag.exists(), "the tag waits");

    open_up(&path, 0o755);
    fs::write(&descpkg, content).expect("an own folder");
    open_up(&descpkg, 0o444);
    open_up(&path, 0o555);
    lab.wait_until_published("core", "1");
    lab.wait_for("the tag to be consumed", || (!tag.exists()).then_some(()));
}

#[test]
fn a_file_larger_than_any_disk_is_refused_by_its_size_before_anything_is_sent() {
    let lab = lab("sparse");
    let path = lab.package("sparse", "1", |p| p.file("hole", ""));
    let hole = path.join("hole");
    open_up(&hole, 0o644);
    let file = fs::File::options().write(true).open(&hole).expect("an own file");
    file.set_len(10 << 40).expect("a file system with sparse files");
    open_up(&hole, 0o444);
    lab.release(&[("core", "1"), ("tools", "1"), ("sparse", "1")]);

    lab.agent_once("perth").expect(1).says("sparse@1").says("10.0 TiB");

    assert_eq!(lab.visible(), ["core@1", "tools@1"]);
}

/// As on a machine that was suspended in the middle of a transfer.
#[test]
fn an_agent_that_was_stopped_goes_on_where_it_was_and_serves_what_came_meanwhile() {
    let mut lab = lab("stopped");
    lab.start_master();
    let agent = lab.wait_for("the agent", || lab.target_status("perth")["pid"].as_u64());
    let agent = u32::try_from(agent).expect("a pid");
    wait_for_the_stream(&lab);
    process::signal(agent, rustix::process::Signal::STOP);
    lab.package("late", "1", |p| p.file("a", "1"));
    let tag = lab.drop_tag("perth", "late", "1");
    lab.assert_never_partial();
    process::signal(agent, rustix::process::Signal::CONT);

    lab.wait_until_published("late", "1");
    lab.wait_until_published("big", "1");
    lab.wait_for("the tag to be consumed", || (!tag.exists()).then_some(()));
    lab.wait_for_status("perth", "complete", |s| s["last_sync"]["result"] == "ok" && s["state"] == "idle");
    assert_eq!(lab.target_status("perth")["pid"], agent, "nobody replaced it");
}
