//! Whoever writes packages says how many names they have, and how long those are. No package has the agent hold much memory.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use blat_tests::Lab;
use blat_tests::memory::{MOST_MORE, watched};
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
