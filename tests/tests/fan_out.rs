//! Several targets of one master: what is packed for one is not packed again for the next, and none of them costs the others anything.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use blat_tests::disk::Disk;
use blat_tests::{Dice, Lab, process, tree};
use rustix::process::Signal;

const MIB: usize = 1 << 20;
const TARGETS: [&str; 3] = ["oslo", "perth", "rome"];

/// A lab whose packages are wanted on every target; each has an archive of its own.
fn lab(name: &str, packages: &[(&str, &str)]) -> Lab {
    process::carried_receiver();
    let lab = Lab::new(name);
    lab.release(packages);
    for target in TARGETS {
        configure(&lab, target, "");
        lab.as_target_user(&["mkdir", "-p", &archive(&lab, target).display().to_string()]).expect_success();
    }
    lab
}

fn configure(lab: &Lab, target: &str, extra: &str) {
    let (archive, bin) = (archive(lab, target), lab.target_bin().with_file_name(format!("bin-{target}")));
    let (archive, bin) = (archive.display(), bin.display());
    lab.config(target, &format!("archive: {archive}\nbin: {bin}\nreceiver: auto\nverbose: 2\n{extra}"));
}

fn archive(lab: &Lab, target: &str) -> PathBuf {
    lab.target_archive().with_file_name(format!("archive-{target}"))
}

fn assert_published(lab: &Lab, target: &str, name: &str, version: &str) {
    let below = Path::new(name).join(version);
    tree::assert_same_package(&lab.source().join(&below), &archive(lab, target).join(&below));
}

/// What lies in the store, sorted.
fn store(lab: &Lab) -> Vec<PathBuf> {
    let found = fs::read_dir(lab.home().join("state/store")).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = found.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn unfinished(lab: &Lab) -> Option<PathBuf> {
    store(lab).into_iter().find(|path| path.extension().is_some_and(|extension| extension == "part"))
}

fn assert_nothing_is_locked(lab: &Lab) {
    for path in store(lab) {
        let file = File::open(&path).expect("an own file");
        assert!(file.try_lock().is_ok(), "{} is locked", path.display());
    }
}

/// Lines of all agents' logs with these words about this package.
fn told(lab: &Lab, words: &str, package: &str) -> usize {
    let read = |target: &&str| fs::read_to_string(lab.home().join(format!("log/{target}.log"))).unwrap_or_default();
    let logs: String = TARGETS.iter().map(read).collect();
    let package = format!("package={package}");
    logs.lines().filter(|line| line.contains(words) && line.split_whitespace().any(|word| word == package)).count()
}

fn wait_until_synced(lab: &Lab) {
    for target in TARGETS {
        lab.wait_for_status(target, "synced", |status| status["last_sync"]["result"] == "ok");
    }
}

#[test]
fn what_is_packed_for_one_target_is_not_packed_again_for_the_others() {
    let packages: Vec<String> = (0..6).map(|n| format!("p{n}")).collect();
    let wanted: Vec<(&str, &str)> = packages.iter().map(|name| (name.as_str(), "1")).collect();
    let mut lab = lab("once", &wanted);
    for (name, version) in &wanted {
        lab.package(name, version, |p| {
            p.noise("lib/large", 2 * MIB).file("bin/tool", name).symlink("link", "bin/tool")
        });
    }
    lab.start_master();
    wait_until_synced(&lab);

    for name in &packages {
        TARGETS.iter().for_each(|target| assert_published(&lab, target, name, "1"));
        let package = format!("{name}@1");
        let times = (told(&lab, "packed for the store", &package), told(&lab, "taken from the store", &package));
        assert_eq!(times, (1, 2), "{package} is packed once and taken twice");
    }
    assert_eq!(store(&lab).len(), packages.len());
    assert_nothing_is_locked(&lab);

    // A tag for all of them, after somebody has deleted the store.
    fs::remove_dir_all(lab.home().join("state/store")).expect("an own directory");
    lab.package("p0", "2", |p| p.noise("lib/large", 2 * MIB).file("bin/tool", "another"));
    lab.blat(&["tag", "p0", "2", "--wait"]).expect_success();
    TARGETS.iter().for_each(|target| assert_published(&lab, target, "p0", "2"));
    let times = (told(&lab, "packed for the store", "p0@2"), told(&lab, "taken from the store", "p0@2"));
    assert_eq!(times.0 + times.1, 3, "{times:?}");
    assert!(unfinished(&lab).is_none());
}

#[test]
fn a_slow_target_holds_up_no_other() {
    let lab = lab("slowone", &[("core", "1")]);
    lab.package("core", "1", |p| p.noise("large", 24 * MIB));
    configure(&lab, "perth", "bandwidth: 200");
    let slow = lab.start_agent_once("perth");
    lab.wait_for("it to begin", || (!store(&lab).is_empty()).then_some(()));

    lab.agent_once("oslo").expect_success();
    lab.agent_once("rome").expect_success();
    ["oslo", "rome"].iter().for_each(|target| assert_published(&lab, target, "core", "1"));
    assert_eq!(store(&lab).len(), 1, "they made use of what the slow one had packed");
    assert_eq!(fs::read_dir(archive(&lab, "perth").join("core")).into_iter().flatten().count(), 0, "it is slow");

    process::signal(slow.pid(), Signal::KILL);
    slow.finish();
    lab.wait_for("the receiver's end", || lab.remote_processes().is_empty().then_some(()));
    configure(&lab, "perth", "");
    lab.agent_once("perth").expect_success();
    assert_published(&lab, "perth", "core", "1");
}

#[test]
fn an_agent_that_is_stopped_in_the_midst_holds_up_no_other_and_when_it_is_killed_the_next_takes_over() {
    let lab = lab("stopped", &[("core", "1")]);
    lab.package("core", "1", |p| (0..6).fold(p, |p, n| p.noise(&n.to_string(), 4 * MIB)));
    let mut stopped = lab.start_agent_once("perth");
    // Looked for without a pause: it packs for a fraction of a second only.
    while unfinished(&lab).is_none() {
        assert!(!stopped.ended(), "it was over too soon: {}", stopped.finish());
    }
    process::signal(stopped.pid(), Signal::STOP);
    let part = unfinished(&lab).expect("it is stopped while it packs");

    lab.agent_once("oslo").expect_success();
    assert_published(&lab, "oslo", "core", "1");
    assert_eq!(store(&lab), std::slice::from_ref(&part), "only the stopped one could finish it");

    process::signal(stopped.pid(), Signal::KILL);
    stopped.finish();
    lab.agent_once("rome").expect_success();
    assert_published(&lab, "rome", "core", "1");
    assert_eq!(store(&lab), [part.with_extension("")], "it was taken over");
    lab.agent_once("perth").expect_success();
    assert_published(&lab, "perth", "core", "1");
    assert_nothing_is_locked(&lab);
}

#[test]
fn agents_that_are_killed_at_any_moment_leave_the_others_all_they_need() {
    let mut dice = Dice::cast();
    let packages: Vec<String> = (0..12).map(|n| format!("p{n}")).collect();
    let wanted: Vec<(&str, &str)> = packages.iter().map(|name| (name.as_str(), "1")).collect();
    let mut lab = lab("killed", &wanted);
    for (name, version) in &wanted {
        lab.package(name, version, |p| p.noise("large", 4 * MIB));
    }
    lab.start_master();
    for killed in TARGETS {
        let seen = dice.below(4) as usize;
        lab.wait_for("packages to be packed", || (store(&lab).len() > seen).then_some(()));
        let pid = lab.wait_for("an agent", || lab.target_status(killed)["pid"].as_u64());
        process::signal(u32::try_from(pid).expect("a pid"), Signal::KILL);
    }
    wait_until_synced(&lab);
    for target in TARGETS {
        packages.iter().for_each(|name| assert_published(&lab, target, name, "1"));
    }
    assert_nothing_is_locked(&lab);
}

#[test]
fn as_root_where_the_store_s_disk_is_full_packages_are_sent_all_the_same() {
    let lab = lab("fullstore", &[("large", "1"), ("small", "1")]);
    lab.package("large", "1", |p| p.noise("large", 12 * MIB));
    lab.package("small", "1", |p| p.noise("small", MIB));
    fs::create_dir_all(lab.home().join("state/store")).expect("an own directory");
    lab.hand_over();
    let _disk = Disk::mount(lab.home().join("state/store"), "size=3m");
    for target in TARGETS {
        lab.agent_once(target).expect_success().says("cannot write to the store");
        assert_published(&lab, target, "large", "1");
        assert_published(&lab, target, "small", "1");
    }
    assert!(unfinished(&lab).is_none(), "what has no room leaves nothing");
}
