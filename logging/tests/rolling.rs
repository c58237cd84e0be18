//! Rolling loses no line and tears none, while several threads write.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use blat_logging::Log;

const THREADS: usize = 4;
const LINES: usize = 25_000;

#[test]
fn rolling_loses_no_line_and_tears_none() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let path = scratch.path().join("log/t.log");
    let (handle, guard) = Log::open(&path, 1 << 20, 1000, 0).expect("a log");
    tracing::info!(target: "blat_t", "not at this level");
    handle.set_verbose(1);
    tracing::info!("other people's crates are heard only when they warn");
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let handle = handle.clone();
            scope.spawn(move || {
                for line in 0..LINES {
                    if line % 5_000 == 0 {
                        handle.roll();
                    }
                    tracing::info!(target: "blat_t", thread, line, forged = "a\nb\u{1b}[31m", "all\nof it");
                }
            });
        }
    });
    // The guard waits for a second, and a busy machine takes longer for so many lines.
    tracing::info!(target: "blat_t", "the end");
    let is_last = || fs::read_to_string(&path).is_ok_and(|text| text.ends_with(" INFO  the end\n"));
    while !is_last() {
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(guard);

    let mut seen = HashSet::new();
    let mut files = 0;
    for entry in fs::read_dir(path.parent().expect("it has one")).expect("the log's directory") {
        let entry = entry.expect("an entry");
        assert!(entry.metadata().expect("its size").len() <= 1 << 20, "{entry:?} is larger than a log may be");
        files += 1;
        for line in fs::read_to_string(entry.path()).expect("the log is text").lines() {
            if line.ends_with(" INFO  the end") {
                continue;
            }
            let (head, tail) = line.split_once(" INFO  all\\nof it thread=").expect(line);
            assert!(head.parse::<jiff::Timestamp>().is_ok(), "{line}");
            let numbers = tail.strip_suffix(r#" forged="a\nb\u{1b}[31m""#).expect(line);
            let (thread, number) = numbers.split_once(" line=").expect(line);
            let number = (thread.parse::<usize>().expect(line), number.parse::<usize>().expect(line));
            assert!(seen.insert(number), "{line} stands there twice");
        }
    }
    assert_eq!(seen.len(), THREADS * LINES, "lines are missing");
    assert!(files > 5, "it never rolled: {files} files");
}
