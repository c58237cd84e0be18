//! Whoever writes packages says how many names they have, and how long those are. No package has the agent hold much memory.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use blat_tests::Lab;
use blat_tests::memory::{MOST_MORE, watched};
use blat_tests::s3_liar::start;
use rustix::fs::{CWD, Mode, OFlags, openat};

/// Fills a folder of a finished package, so many levels below its root, with so many empty files. Each name has 240 bytes.
fn crowd(package: &Path, levels: usize, files: usize) {
    let set = |mode| fs::set_permissions(package, Permissions::from_mode(mode)).expect("an own folder");
    set(0o755);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut folder = openat(CWD, package, flags, Mode::empty()).expect("an own folder");
    for _ in 0..levels {
        let name = "d".repeat(240);
        rustix::fs::mkdirat(&folder, &name, Mode::from_raw_mode(0o755)).expect("an own folder");
        folder = openat(&folder, &name, flags, Mode::empty()).expect("an own folder");
    }
    for number in 0..files {
        // In no order.
        let name = format!("{:07}{}", number * 7919 % 1_000_000, "x".repeat(233));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        drop(File::from(openat(&folder, name, flags, Mode::from_raw_mode(0o444)).expect("an own folder")));
    }
    set(0o555);
}

/// What is said of each entry of such a package has some 3,600 bytes, twice: of all of it, 80 MB.
#[test]
fn a_package_of_long_paths_takes_little_memory_by_scripts() {
    let lab = Lab::new("longpaths");
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.local_config("perth", "receiver: never");
    lab.release(&[("core", "1")]);
    let (outcome, rest) = watched(lab.start_agent_once("perth"));
    outcome.expect_success();
    crowd(&lab.package("crowd", "1", |p| p), 14, 11_000);
    lab.release(&[("core", "1"), ("crowd", "1")]);
    let (outcome, peak) = watched(lab.start_agent_once("perth"));
    println!("{} KiB more than {}", (peak - rest) >> 10, rest >> 10);
    outcome.expect_success();
    lab.assert_published("crowd", "1");
    assert!(peak < rest + MOST_MORE, "{peak} bytes, and {rest} at rest\n{outcome}");
}

/// The names alone are 24 MB. The ZIP says each twice, the second time at its end.
#[test]
fn a_folder_of_many_names_takes_little_memory_on_its_way_to_a_bucket() {
    let port = start(|_, _| Ok(false));
    let mut lab = Lab::new("crowds");
    lab.package("core", "1", |p| p.file("a", "1"));
    let text = format!(
        "type: s3Sync\nsource: {}\nrelease_manager: {{file: {}}}\nprojects: [Lab]\n\
         s3: {{bucket: lab-bucket, prefix: archive, region: x, endpoint: 'http://127.0.0.1:{port}', path_style: true}}\n",
        lab.source().display(),
        lab.home().join("releases.yaml").display(),
    );
    lab.raw_config("cloud", &text);
    lab.set_environment([
        ("AWS_ACCESS_KEY_ID", "k".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "s".to_owned()),
        ("AWS_CONFIG_FILE", "/dev/null".to_owned()),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null".to_owned()),
    ]);
    lab.release_for_buckets(&[("core", "1")]);
    let (_, rest) = watched(lab.start_agent_once("cloud"));
    crowd(&lab.package("crowd", "1", |p| p), 0, 100_000);
    lab.release_for_buckets(&[("core", "1"), ("crowd", "1")]);
    // This server keeps nothing, so that it takes what is packed and denies it afterwards.
    let (outcome, peak) = watched(lab.start_agent_once("cloud"));
    println!("{} KiB more than {}", (peak - rest) >> 10, rest >> 10);
    assert!(outcome.code == Some(1), "{outcome}");
    assert!(peak < rest + MOST_MORE, "{peak} bytes, and {rest} at rest\n{outcome}");
}
