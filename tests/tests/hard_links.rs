//! A file with several names in a package goes to a target once, and has them there too.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use blat_tests::{Bucket, Lab, Store, process};

const NAMES: [&str; 3] = ["bin/tool", "bin/tool-1.0", "lib/deep/er/tool"];

/// A release of big@1, of 2 MiB under three names, and a file that also has a name outside of the package.
fn lab(name: &str) -> Lab {
    let lab = Lab::new(name);
    let root = lab.package("big", "1", |p| {
        let p = p.noise(NAMES[0], 2 << 20).file("share/out", "with a name elsewhere");
        NAMES[1..].iter().fold(p, |p, name| p.hard_link(name, NAMES[0]))
    });
    fs::hard_link(root.join("share/out"), lab.source().with_file_name("elsewhere")).expect("an own folder");
    lab.release_for_buckets(&[("big", "1")]);
    lab
}

/// Every file below, with those in its folders.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn assert_linked(lab: &Lab) {
    lab.assert_published("big", "1");
    let root = lab.on_target("big", "1");
    let look = |path: &Path| fs::metadata(path).expect("a file");
    let inodes: BTreeSet<u64> = NAMES.iter().map(|name| look(&root.join(name)).ino()).collect();
    assert_eq!((inodes.len(), look(&root.join(NAMES[0])).nlink()), (1, 3));
    assert_eq!(look(&root.join("share/out")).nlink(), 1);
    let taken: BTreeSet<(u64, u64)> = files(&root).iter().map(|path| (look(path).ino(), look(path).blocks())).collect();
    let bytes = taken.iter().map(|(_, blocks)| blocks * 512).sum::<u64>();
    assert!(bytes < 3 << 20, "{bytes} bytes are taken");
}

/// The same by the receiver and by scripts.
fn goes_once(receiver: &str) {
    let lab = lab("hardlinks");
    // Fits once, and not three times.
    lab.config("perth", &format!("receiver: {receiver}\nmax_size: 3m"));
    lab.blat(&["plan", "perth"]).expect_success().says("2.0 MiB");
    lab.agent_once("perth").expect_success();
    assert_linked(&lab);
    lab.blat(&["verify", "perth"]).expect_success();
    lab.agent_once("perth").expect_success();

    // The bytes are those of each name: one that is damaged by one of them is damaged by all, and a new file takes its place.
    let damaged = lab.on_target("big", "1").join(NAMES[2]);
    let inode = fs::metadata(&damaged).expect("a file").ino();
    lab.as_target_user(&["chmod", "u+w", &damaged.display().to_string()]).expect_success();
    lab.as_target_user(&["sh", "-c", &format!("echo other >> {}", damaged.display())]).expect_success();
    lab.blat(&["verify", "perth"]).expect(1).says("big@1");
    lab.blat(&["verify", "perth", "--repair"]).expect_success();
    assert_linked(&lab);
    assert_ne!(fs::metadata(&damaged).expect("a file").ino(), inode);
}

#[test]
fn a_file_with_several_names_goes_once_by_scripts() {
    goes_once("never");
}

#[test]
fn a_file_with_several_names_goes_once_by_the_receiver() {
    process::carried_receiver();
    goes_once("auto");
}

#[test]
fn the_next_version_takes_such_a_file_from_the_one_before() {
    process::carried_receiver();
    let lab = lab("hardnext");
    lab.config("perth", "receiver: auto");
    lab.agent_once("perth").expect_success();
    lab.package("big", "2", |p| {
        let bytes = fs::read(lab.source().join("big/1").join(NAMES[0])).expect("a file");
        p.file("moved/tool", bytes).hard_link("other/tool", "moved/tool").file("new", "2")
    });
    lab.release_for_buckets(&[("big", "1"), ("big", "2")]);
    lab.agent_once("perth").expect_success();
    lab.assert_published("big", "2");
    let look = |path: &str| fs::metadata(lab.on_target("big", "2").join(path)).expect("a file");
    assert_eq!((look("moved/tool").ino(), look("moved/tool").nlink()), (look("other/tool").ino(), 2));
}

#[test]
fn a_zip_holds_each_name_by_itself_and_is_counted_so() {
    let mut lab = lab("hardzip");
    let bucket = Bucket::new(&mut lab, Store::SeaweedFs);
    bucket.config(&lab, "cloud", &[], "");
    lab.blat(&["plan", "cloud"]).expect_success().says("6.0 MiB");
    lab.agent_once("cloud").expect_success();
    bucket.assert_published(&lab, "big", "1");
}
