//! Whoever writes packages is a stranger: a package brings what lies in it, and nothing else that the master may read.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};

use blat_tests::disk::Disk;
use blat_tests::process::{self, Running};
use blat_tests::{Account, Bucket, Lab, Outcome, Store};
use rustix::process::Signal;

/// What only the master may read.
const SECRET: &str = "s3cr3t:Zk9wQ4xL7vB2nM8rT1yPd5Gh0Jc6Fa";

/// Release Manager's package big@1: a long file, then a directory `lib`; beside it core@1, and in the master's home a key.
fn lab(name: &str) -> Lab {
    let lab = Lab::new(name);
    lab.package("core", "1", |p| p.file("a", "1"));
    let root = lab.package("big", "1", |p| p.noise("data", 48 << 20).file("lib/key", "open"));
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).expect("an own folder");
    fs::set_permissions(root.join("lib"), fs::Permissions::from_mode(0o755)).expect("an own folder");
    Account::ReleaseManager.own(&root);
    let key = lab.home().join("ssh/key");
    fs::write(&key, SECRET).expect("an own folder");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("an own file");
    Account::Master.own(&key);
    lab.release_for_buckets(&[("core", "1"), ("big", "1")]);
    lab
}

fn run_as(account: Account, program: &str, arguments: &[&Path]) -> Outcome {
    process::run(account.command(program).args(arguments), Path::new("/"))
}

/// Lets the agent get as far as the package's first file, puts a link to the master's keys where its directory was, and lets it go on.
fn swapped(lab: &Lab, agent: Running) -> Outcome {
    let (root, keys) = (lab.source().join("big/1"), lab.home().join("ssh"));
    let (library, data) = (root.join("lib"), root.join("data"));
    let reader = agent.pid();
    lab.wait_for("the package to be read", || {
        if !has_open(reader, &data) {
            return None;
        }
        process::signal(reader, Signal::STOP);
        if !has_open(reader, &data) {
            process::signal(reader, Signal::CONT);
            return None;
        }
        // By the one who wrote the package, who may not read what the link addresses.
        run_as(Account::ReleaseManager, "cat", &[&keys.join("key")]).expect(1);
        run_as(Account::ReleaseManager, "mv", &[&library, &root.join("away")]).expect_success();
        run_as(Account::ReleaseManager, "ln", &[Path::new("-s"), &keys, &library]).expect_success();
        process::signal(reader, Signal::CONT);
        Some(())
    });
    let outcome = agent.finish();
    fs::remove_file(&library).and_then(|()| fs::rename(root.join("away"), &library)).expect("root may");
    outcome
}

fn has_open(pid: u32, file: &Path) -> bool {
    let handles = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    handles.flat_map(|handle| fs::read_link(handle.path())).any(|open| open == file)
}

/// Every file below that holds the secret.
fn leaks(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let kind = entry.file_type().expect("an entry");
        if kind.is_dir() {
            found.extend(leaks(&entry.path()));
        } else if kind.is_file() && holds(&fs::read(entry.path()).expect("root may")) {
            found.push(entry.path());
        }
    }
    found
}

fn holds(bytes: &[u8]) -> bool {
    bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes())
}

/// The same by the receiver and by scripts.
fn a_directory_becomes_a_link(receiver: &str) {
    let lab = lab("swap");
    // Slow enough for the file to be open for seconds.
    lab.config("perth", &format!("receiver: {receiver}\nwritable: 0s\nbandwidth: 8m"));
    let agent = lab.start_agent_once("perth");
    let outcome = swapped(&lab, agent);

    assert_eq!(leaks(&lab.target_archive()), [] as [PathBuf; 0], "{outcome}");
    outcome.expect(1).says("big@1").says("changed while it was read");
    assert_eq!(lab.visible(), ["core@1"], "{outcome}");
    lab.config("perth", &format!("receiver: {receiver}\nwritable: 0s"));
    lab.agent_once("perth").expect_success();
    lab.assert_published("big", "1");
}

#[test]
fn as_root_a_directory_that_becomes_a_link_brings_nothing_of_the_masters_by_scripts() {
    a_directory_becomes_a_link("never");
}

#[test]
fn as_root_a_directory_that_becomes_a_link_brings_nothing_of_the_masters_by_the_receiver() {
    process::carried_receiver();
    a_directory_becomes_a_link("auto");
}

#[test]
fn as_root_a_directory_that_becomes_a_link_brings_nothing_of_the_masters_to_a_bucket() {
    let mut lab = lab("swaps3");
    let bucket = Bucket::new(&mut lab, Store::SeaweedFs);
    bucket.config(&lab, "cloud", &[], "writable: 0s");
    let agent = lab.start_agent_once("cloud");
    let outcome = swapped(&lab, agent);

    outcome.expect(1).says("big@1").says("changed while it was read");
    assert_eq!(bucket.keys(), ["archive/core/1.zip"], "{outcome}");
    lab.agent_once("cloud").expect_success();
    bucket.assert_published(&lab, "big", "1");
}

/// `blat verify` reads the source as a sync does: it must not say anything of files outside.
#[test]
fn as_root_what_verify_reads_of_the_source_is_the_package_alone() {
    let lab = lab("swapverify");
    // A hole takes its time to be hashed, and none to be sent.
    let data = fs::OpenOptions::new().write(true).open(lab.source().join("big/1/data")).expect("an own file");
    data.set_len(1 << 30).expect("an own file");
    lab.config("perth", "");
    lab.agent_once("perth").expect_success();
    let verify = Running::start(lab.command("blat-agent").args(["--target", "perth", "--verify"]), &lab.home());
    let outcome = swapped(&lab, verify);

    outcome.expect(1).says("big@1").says("changed while it was read");
}

#[test]
fn a_name_that_is_a_link_is_refused_and_a_version_that_is_one_stays_one() {
    let lab = Lab::new("namelink");
    lab.package("core", "1", |p| p.file("a", "1"));
    let elsewhere = lab.home().join("elsewhere");
    fs::create_dir_all(elsewhere.join("1")).expect("an own folder");
    fs::write(elsewhere.join("1/descpkg"), SECRET).expect("an own file");
    symlink(&elsewhere, lab.source().join("alias")).expect("a free name");
    symlink("1", lab.source().join("core/now")).expect("a free name");
    lab.release(&[("alias", "1"), ("core", "now")]);
    lab.config("perth", "writable: 0s");
    let outcome = lab.agent_once("perth");

    outcome.expect(1).says("alias").says("only a version may be a link");
    assert_eq!(leaks(&lab.target_archive()), [] as [PathBuf; 0], "{outcome}");
    assert_eq!(lab.visible(), ["core@1", "core@now"], "{outcome}");
}

/// Whoever owns the folder that the source lies in can put a link to any folder of the master's in its place.
#[test]
fn as_root_a_strangers_link_in_the_place_of_the_source_sends_nothing() {
    let lab = Lab::new("sourcelink");
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.release(&[("core", "1"), ("secret", "1")]);
    lab.config("perth", "writable: 0s");
    let (private, real) = (lab.home().join("private"), lab.source().with_file_name("source.real"));
    fs::create_dir_all(private.join("secret/1")).expect("an own folder");
    fs::write(private.join("secret/1/descpkg"), SECRET).expect("an own file");
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).expect("an own folder");
    Account::Master.own(&private);
    fs::rename(lab.source(), &real).expect("an own folder");
    symlink(&private, lab.source()).expect("a free name");
    let (author, _) = Account::ReleaseManager.ids();
    lchown(lab.source(), Some(author), None).expect("root may");
    lab.drop_tag("perth", "secret", "1");

    lab.agent_once("perth").expect(1).says("is a link that the account").says("name the directory itself in `source`");
    lab.blat(&["plan", "perth"]).expect(1).says("is a link that the account");
    assert_eq!(leaks(&lab.target_archive()), [] as [PathBuf; 0]);
    assert_eq!(lab.visible(), Vec::<String>::new());

    fs::remove_file(lab.source()).expect("an own link");
    symlink(&real, lab.source()).expect("a free name");
    lab.agent_once("perth").expect(1).says("1 sent");
    assert_eq!(lab.visible(), ["core@1"], "root's link counts");
}

/// Where the system lets everybody link every file (`fs.protected_hardlinks=0`), whoever writes packages can. Root makes the link here, so that
/// the test needs no system of that kind.
#[test]
fn as_root_a_hard_link_to_a_key_of_the_masters_is_not_sent_and_links_that_save_space_are() {
    let lab = lab("hardlink");
    let (big, core) = (lab.source().join("big/1"), lab.source().join("core/1"));
    fs::hard_link(lab.home().join("ssh/key"), big.join("lib/more")).expect("root may");
    // As `cp -al` makes a version from the one before.
    lab.package("core", "2", |p| p.file("b", "2"));
    let (first, second) = (core.join("a"), lab.source().join("core/2/a"));
    for folder in [&core, &lab.source().join("core/2")] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("root may");
    }
    fs::hard_link(&first, &second).expect("a hard link");
    fs::set_permissions(&first, fs::Permissions::from_mode(0o440)).expect("root may");
    lab.release(&[("core", "1"), ("core", "2"), ("big", "1")]);
    for receiver in ["never", "auto"] {
        lab.config("perth", &format!("receiver: {receiver}\nwritable: 0s"));
        let outcome = lab.agent_once("perth");
        outcome.expect(1).says("big/1/lib/more is a hard link").says("replace it by a copy");
        assert_eq!(leaks(&lab.target_archive()), [] as [PathBuf; 0], "{outcome}");
        assert_eq!(lab.visible(), ["core@1", "core@2"], "{outcome}");
    }
    fs::remove_file(big.join("lib/more")).expect("root may");
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.visible(), ["big@1", "core@1", "core@2"]);
    assert_eq!(leaks(&lab.target_archive()), [] as [PathBuf; 0]);
}

#[test]
fn as_root_a_package_that_claims_more_bytes_than_a_number_holds_fails_alone() {
    let lab = Lab::new("claims");
    lab.package("core", "1", |p| p.file("a", "1"));
    let huge = lab.package("huge", "1", |p| p.file("a", "1"));
    // A file system that takes such files.
    let _disk = Disk::mount(huge.clone(), "size=1m");
    for name in ["descpkg", "a", "b", "c"] {
        let file = fs::File::create(huge.join(name)).expect("root may");
        file.set_len(if name == "descpkg" { 1 } else { i64::MAX as u64 - 4096 }).expect("a sparse file");
        fs::set_permissions(huge.join(name), fs::Permissions::from_mode(0o444)).expect("root may");
    }
    fs::set_permissions(&huge, fs::Permissions::from_mode(0o555)).expect("root may");
    lab.release(&[("core", "1"), ("huge", "1")]);
    for receiver in ["never", "auto"] {
        lab.config("perth", &format!("receiver: {receiver}"));
        lab.agent_once("perth").expect(1).says("huge@1").says("claim more bytes than any disk holds");
        assert_eq!(lab.visible(), ["core@1"], "receiver: {receiver}");
    }
    lab.blat(&["plan", "perth"]).says("claim more bytes than any disk holds");
}
