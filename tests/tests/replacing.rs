//! Replacing a version while somebody reads it.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use blat_tests::tree;

use super::WAY;

/// What one look at a version shows through one open directory.
#[derive(Debug, PartialEq)]
enum Look {
    /// Both files, of the same build.
    Whole(String),
    /// The directory was exchanged for another one while its files were read, and is being deleted.
    Gone,
    /// What no reader may ever see.
    Wrong(String),
}

fn look(version: &Path) -> Look {
    let folder = match File::open(version) {
        Ok(folder) => folder,
        Err(error) => return Look::Wrong(format!("it is missing: {error}")),
    };
    let read = |file: &str| fs::read_to_string(format!("/proc/self/fd/{}/{file}", folder.as_raw_fd()));
    match (read("a"), read("z"), read("descpkg")) {
        (Ok(a), Ok(z), Ok(_)) if a == z => Look::Whole(a),
        (Ok(a), Ok(z), Ok(_)) => Look::Wrong(format!("it is mixed: {a} and {z}")),
        (a, z, descpkg) => {
            let inode = |metadata: std::io::Result<fs::Metadata>| metadata.map(|metadata| metadata.ino()).ok();
            if inode(folder.metadata()) == inode(fs::metadata(version)) {
                return Look::Wrong(format!("it is in its place without its files: {a:?}, {z:?}, {descpkg:?}"));
            }
            Look::Gone
        }
    }
}

#[test]
fn a_reader_looping_over_a_version_never_sees_it_missing_or_mixed_while_it_is_replaced() {
    let lab = WAY.lab("looping");
    let build = |time: i64| {
        tree::remove(&lab.source().join("core/1"));
        let mark = time.to_string();
        lab.package("core", "1", |p| p.file("a", &mark).noise("m/data", 300_000).file("z", &mark).time(time));
    };
    // Either direction: the source wins.
    let times = [1_700_000_005, 1_700_000_006, 1_700_000_001, 1_700_000_009];
    build(times[0]);
    lab.release(&[("core", "1")]);
    lab.config("perth", "");
    lab.agent_once("perth").expect_success();
    let place = lab.on_target("core", "1");
    let done = AtomicBool::new(false);

    let seen = std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut seen: Vec<Look> = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let now = look(&place);
                if now != Look::Gone && seen.last() != Some(&now) {
                    seen.push(now);
                }
            }
            seen
        });
        for time in &times[1..] {
            build(*time);
            lab.agent_once("perth").expect_success().says("1 sent");
        }
        done.store(true, Ordering::Relaxed);
        reading.join().expect("a reader")
    });

    let expected: Vec<Look> = times.iter().map(|time| Look::Whole(time.to_string())).collect();
    assert_eq!(seen, expected, "each build in its turn, whole");
    lab.assert_published("core", "1");
}

#[test]
fn times_that_differ_by_less_than_a_second_are_the_same() {
    let lab = WAY.lab("fraction");
    let source = lab.package("core", "1", |p| p.file("a", "1"));
    lab.release(&[("core", "1")]);
    lab.config("perth", "");
    lab.agent_once("perth").expect_success();
    let before = fs::metadata(lab.on_target("core", "1")).expect("a package").ino();

    let descpkg = source.join("descpkg");
    let second = fs::metadata(&descpkg).expect("a descpkg").mtime();
    let stamp = rustix::fs::Timespec { tv_sec: second, tv_nsec: 999_999_999 };
    let stamps = rustix::fs::Timestamps { last_access: stamp, last_modification: stamp };
    rustix::fs::utimensat(rustix::fs::CWD, &descpkg, &stamps, rustix::fs::AtFlags::empty()).expect("an own file");
    lab.agent_once("perth").expect_success().says("0 sent");

    assert_eq!(fs::metadata(lab.on_target("core", "1")).expect("a package").ino(), before);
}
