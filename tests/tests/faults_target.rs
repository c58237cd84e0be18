//! Faults of the target: disks that are full, closed or foreign, a second master, a user who meddles. Never a partial package,
//! nothing outside the archive, and once it is healed the next sync completes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use blat_tests::process::{self, Running};
use blat_tests::{Disk, Lab, Outcome, accounts, tree};

/// Wants `core@1` and `files@1`, which has two hundred of them.
fn lab(name: &str) -> Lab {
    let lab = Lab::new(name);
    lab.package("core", "1", |p| p.file("bin/a", "1").noise("data", 100_000));
    lab.package("files", "1", |p| (0..200).fold(p, |p, n| p.noise(&format!("d{}/{n}", n % 7), 3000)));
    lab.release(&[("core", "1"), ("files", "1")]);
    lab.config("perth", "disk_reserve: 0");
    lab
}

/// All is there, and nothing else.
fn completes(lab: &Lab) {
    lab.agent_once("perth").expect_success();
    lab.assert_never_partial();
    assert_eq!(lab.visible(), ["core@1", "files@1"]);
    assert_eq!(lab.package_list(), ["core 1", "files 1"]);
}

/// It failed for this reason and left nothing half-done.
fn failed(lab: &Lab, outcome: &Outcome, why: &str) {
    outcome.expect(1).says(why);
    lab.assert_never_partial();
}

/// Space ends at one place after another, from the first byte to the last but few.
#[test]
fn as_root_a_disk_that_is_full_at_whatever_write_leaves_nothing_partial() {
    let lab = lab("everywrite");
    let disk = Disk::mount(lab.target_archive(), "size=16k");
    let mut failures = 0;
    for size in [16, 64, 128, 200, 600, 800, 900, 940, 980, 1000, 1020, 1040, 1060, 1080, 1100, 1140, 1200] {
        disk.change(&format!("size={size}k"));
        let outcome = lab.agent_once("perth");
        lab.assert_never_partial();
        println!("{size} KiB: {:?}, {:?}", outcome.code, lab.visible());
        if outcome.code != Some(0) {
            outcome.expect(1).says("space");
            failures += 1;
        }
    }
    assert!(failures > 3, "the disk was never full");
    disk.change("size=64m");
    completes(&lab);
}

#[test]
fn as_root_a_disk_without_inodes_fails_clearly_and_is_come_through() {
    let lab = lab("inodes");
    let disk = Disk::mount(lab.target_archive(), "size=64m,nr_inodes=60");
    let outcome = lab.agent_once("perth");
    failed(&lab, &outcome, "space");
    outcome.says("files@1");
    assert_eq!(lab.visible(), ["core@1"], "what has room goes on");
    disk.change("nr_inodes=10000");
    completes(&lab);
}

#[test]
fn as_root_a_disk_that_turned_read_only_fails_clearly_and_is_come_through() {
    let lab = lab("readonly");
    let disk = Disk::mount(lab.target_archive(), "size=64m");
    lab.release(&[("core", "1")]);
    lab.agent_once("perth").expect_success();
    disk.change("ro");
    lab.release(&[("core", "1"), ("files", "1")]);
    let outcome = lab.agent_once("perth");
    failed(&lab, &outcome, "Read-only file system");
    assert_eq!((lab.visible(), lab.package_list()), (vec!["core@1".to_owned()], vec!["core 1".to_owned()]));
    disk.change("rw");
    completes(&lab);
}

/// Between file systems nothing can be renamed, and a copy would be visible before it is whole.
#[test]
fn as_root_a_stage_on_another_file_system_is_refused() {
    let lab = lab("otherdisk");
    completes(&lab);
    lab.package("core", "2", |p| p.file("a", "2"));
    lab.release(&[("core", "1"), ("files", "1"), ("core", "2")]);
    let stage = lab.target_archive().join(".dpkg_archive/stage");
    {
        let _disk = Disk::mount(stage, "size=64m");
        let outcome = lab.agent_once("perth");
        failed(&lab, &outcome, "core@2");
        assert_eq!(lab.visible(), ["core@1", "files@1"]);
        assert!(outcome.stderr.contains("file system") || outcome.stdout.contains("file system"), "{outcome}");
    }
    lab.agent_once("perth").expect_success();
    lab.assert_published("core", "2");
}

/// Neither side needs `/tmp`: here it is read-only and empty but for the lab.
#[test]
fn as_root_a_tmp_that_takes_nothing_is_not_needed() {
    let lab = lab("notmp");
    let dir = lab.home().parent().expect("a lab").to_owned();
    let agent = lab.command("blat-agent");
    let built = process::executable("blat-agent");
    let built = accounts::executables(built.parent().expect("a folder of executables"));
    // A checkout may lie there as well.
    let hide = "mount --bind \"$BUILT\" /mnt && cd \"$BLAT_LAB\" && mount -t tmpfs -o size=64k tmpfs \"$TEMPORARY\" \
        && mkdir -p \"$BLAT_LAB\" \"$BUILT\" && mount --no-canonicalize --bind . \"$BLAT_LAB\" && mount --bind /mnt \"$BUILT\" \
        && mount -o remount,ro,noexec \"$TEMPORARY\" \
        && cd \"$BLAT_LAB\" && ! touch \"$TEMPORARY/taken\" 2>/dev/null && exec \"$0\" \"$@\"";
    for (target, transport) in [("perth", "openssh"), ("here", "local")] {
        match transport {
            "local" => lab.local_config(target, "disk_reserve: 0"),
            _ => lab.config(target, "disk_reserve: 0"),
        }
        let mut hidden = Command::new("unshare");
        hidden.args(["--mount", "sh", "-c", hide]).arg(agent.get_program()).args(agent.get_args());
        hidden.args(["--target", target, "--once"]).env("BLAT_LAB", &dir).env("TEMPORARY", std::env::temp_dir());
        hidden.env("BUILT", &built);
        Running::start(&mut hidden, &dir).finish().expect_success();
        assert_eq!(lab.package_list(), ["core 1", "files 1"]);
        lab.assert_never_partial();
        // The next one is another target, with an archive of its own.
        tree::remove(&lab.on_target("files", "1"));
        tree::remove(&lab.target_archive().join(".dpkg_archive"));
    }
}

#[test]
fn what_was_deleted_by_hand_is_sent_again() {
    let lab = lab("byhand");
    completes(&lab);
    tree::remove(&lab.on_target("core", "1"));
    tree::remove(&lab.target_archive().join("files"));
    completes(&lab);
    tree::remove(&lab.target_archive().join(".dpkg_archive"));
    tree::remove(&lab.target_bin());
    completes(&lab);
}

/// A second home tree that serves the same archive, at the same time, with other packages and some of the same.
#[test]
fn two_masters_on_one_target_never_mix_and_both_end_complete() {
    let lab = Lab::new("twomasters");
    for n in 0..30 {
        lab.package("shared", &n.to_string(), |p| p.noise("a", 20_000).noise("b", 20_000));
    }
    let all: Vec<String> = (0..30).map(|n| n.to_string()).collect();
    lab.release(&all.iter().map(|version| ("shared", version.as_str())).collect::<Vec<_>>());
    lab.config("perth", "");
    let other = lab.home().with_file_name("other");
    let copied = process::run(Command::new("cp").arg("-a").arg(lab.home()).arg(&other), &lab.home());
    copied.expect_success();

    let mut second = lab.command("blat-agent");
    let arguments: Vec<_> = second.get_args().map(ToOwned::to_owned).collect();
    let program = second.get_program().to_owned();
    second = Command::new(program);
    for argument in arguments {
        second.arg(if argument == lab.home().as_os_str() { other.as_os_str().to_owned() } else { argument });
    }
    second.args(["--target", "perth", "--once"]).env("BLAT_LAB", lab.home().parent().expect("a lab"));
    let first = lab.start_agent_once("perth");
    let second_run = Running::start(&mut second, &lab.home());
    for outcome in [first.finish(), second_run.finish()] {
        // One may have found the other at work, and says so; it never claims more than is there.
        if outcome.code == Some(0) {
            assert_eq!(lab.visible().len(), all.len(), "{outcome}");
        } else {
            outcome.expect(1);
        }
        lab.assert_never_partial();
    }
    // Whichever came first owns the archive; the other sends, and says whose it is.
    let ends = [lab.agent_once("perth"), process::run(&mut second, &lab.home())];
    let is_other = |outcome: &&Outcome| outcome.code != Some(0);
    assert_eq!(ends.iter().filter(is_other).count(), 1, "{}{}", ends[0], ends[1]);
    ends.iter().find(is_other).expect("one").expect(1).says("blat adopt perth");
    lab.assert_never_partial();
    assert_eq!((lab.visible().len(), lab.package_list().len()), (all.len(), all.len()));
}

/// A folder that became a link leads nowhere: not for new packages, not for manifests.
#[test]
fn a_folder_that_is_a_link_leads_no_write_out_of_the_archive() {
    let lab = lab("islink");
    completes(&lab);
    let outside = outside(&lab);
    for folder in ["core", ".dpkg_archive/manifests/core"] {
        let (name, aside) = (lab.target_archive().join(folder), lab.target_archive().join(".aside"));
        lab.package("core", "2", |p| p.file("a", "2"));
        lab.release(&[("core", "1"), ("files", "1"), ("core", "2")]);
        fs::rename(&name, &aside).and_then(|()| symlink(&outside, &name)).expect("the lab's own");

        lab.agent_once("perth").expect(1).says("core@2");

        assert_eq!(fs::read_dir(&outside).expect("an own folder").count(), 0, "something was written there: {folder}");
        fs::remove_file(&name).and_then(|()| fs::rename(&aside, &name)).expect("the lab's own");
        lab.agent_once("perth").expect_success();
        lab.assert_published("core", "2");
        tree::remove(&lab.on_target("core", "2"));
        tree::remove(&lab.source().join("core/2"));
    }
}

/// A user of the target exchanges a name's folder for a link that leads out, again and again while packages come. A receiver holds the
/// folders that it works in; a script can only look first, and then it may be too late.
#[test]
fn a_folder_swapped_for_a_link_leads_no_write_out_of_the_archive() {
    let lab = Lab::new("swapped");
    process::carried_receiver();
    let versions: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    for version in &versions {
        lab.package("core", version, |p| p.file("a/b", version));
    }
    lab.config("perth", "receiver: auto");
    let outside = outside(&lab);
    let (name, aside) = (lab.target_archive().join("core"), lab.target_archive().join(".aside"));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // Every step may fail while the name is not there yet, or is made anew.
                let _ = fs::rename(&name, &aside);
                let _ = symlink(&outside, &name);
                thread::yield_now();
                let _ = fs::remove_file(&name);
                let _ = fs::rename(&aside, &name);
            }
        });
        for count in (8..=versions.len()).step_by(8) {
            lab.release(&versions[..count].iter().map(|version| ("core", version.as_str())).collect::<Vec<_>>());
            let outcome = lab.agent_once("perth");
            assert!(matches!(outcome.code, Some(0 | 1)), "{outcome}");
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(fs::read_dir(&outside).expect("an own folder").count(), 0, "something was written there");
    // What lies where the swapping left it is healed by hand, and the next sync completes.
    if aside.exists() {
        tree::remove(&aside);
    }
    lab.agent_once("perth").expect_success();
    lab.assert_never_partial();
    assert_eq!(lab.visible().len(), versions.len());
}

/// A folder beside the archive into which the target's user may write.
fn outside(lab: &Lab) -> PathBuf {
    let path = lab.target_archive().with_file_name("outside");
    lab.as_target_user(&["mkdir", &path.display().to_string()]).expect_success();
    path
}

/// What small systems have instead of GNU tar: names of any length, links and times with a fraction reach it.
#[test]
fn the_tar_of_busybox_unpacks_every_package() {
    let mut lab = Lab::new("busyboxtar");
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    let source = lab.package("core", "1", |p| p.file("a", "1").file(&long, "2").symlink("lib/link", "../a"));
    fs::hard_link(source.join("a"), source.join("other")).expect("an own file");
    let time = UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
    for path in ["a", &long, "descpkg"] {
        let file = fs::File::open(source.join(path)).expect("an own file");
        file.set_modified(time).expect("an own file");
    }
    lab.release(&[("core", "1")]);
    let applets = lab.home().join("../applets");
    fs::create_dir(&applets).expect("a scratch folder");
    symlink("/bin/busybox", applets.join("tar")).expect("a link");
    let path = std::env::var("PATH").expect("a search path");
    lab.set_environment([("PATH", format!("{}:{path}", applets.display()))]);
    lab.local_config("perth", "receiver: never");

    lab.agent_once("perth").expect_success().says("1 sent");
    lab.blat(&["verify", "perth"]).expect_success().says("1 good, 0 repaired, 0 wrong");
    lab.agent_once("perth").expect_success().says("0 sent");
}
