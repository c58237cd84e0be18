//! A log of which nothing is asked is in its place all the same.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use blat_logging::Log;

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "waiting until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn says(path: &Path, words: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.contains(words))
}

/// One test: a process has one log.
#[test]
fn a_log_that_is_moved_or_removed_while_nothing_is_logged_is_there_again_and_old_files_stay() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let (path, first) = (scratch.path().join("log/t.log"), scratch.path().join("log/t.log.1"));
    let (handle, _guard) = Log::open(&path, 0, 3, 1).expect("a log");
    fs::remove_file(&path).expect("removed");
    handle.keep_in_place();
    wait_until("it is there again", || says(&path, "another process removed the log"));

    fs::rename(&path, &first).expect("moved");
    handle.keep_in_place();
    wait_until("it is there again", || says(&path, "another process moved the log"));
    // As logrotate does, somewhat later.
    handle.roll();
    tracing::info!(target: "blat", "an ordinary line");
    wait_until("the line is there", || says(&path, "an ordinary line"));
    assert!(says(&path, "moved the log") && says(&first, "removed the log"), "nothing was rolled once more");
    assert!(!scratch.path().join("log/t.log.2").exists());
}
