//! `state/history/TARGET.jsonl`: what this agent did, for `blat history` and `blat why`. Beside it `state/TARGET/already.jsonl`: which tagged
//! packages were there already, for `blat tag --wait`; that is none of the history, since any list of tags would fill it. It costs memory of the past when it is lost,
//! never correctness, so a failure to write it is logged and nothing more.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blat_config::Home;
use blat_domain::package::name::TargetName;
use blat_domain::protocol::history::HistoryEntry;
use blat_paths::private;

/// The file is rolled to `.1` at this size; one old one is kept.
const LARGEST: u64 = 8 << 20;
/// The same of the file of packages that were there already: it is read at once or not at all.
const LARGEST_ALREADY: u64 = 1 << 20;
/// How long another writer may take: it adds a few lines.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is asked whether it is done.
const ASK_AGAIN: Duration = Duration::from_millis(5);

/// The file of one target.
#[derive(Debug, Clone)]
pub(crate) struct History {
    path: PathBuf,
    largest: u64,
}

impl History {
    /// The history of a target, made when there is something to tell.
    pub(crate) fn new(home: &Home, target: &TargetName) -> Self {
        Self { path: home.history(target), largest: LARGEST }
    }

    /// The file of tagged packages that were there already.
    pub(crate) fn already(home: &Home, target: &TargetName) -> Self {
        Self { path: home.already(target), largest: LARGEST_ALREADY }
    }

    /// Adds what was done.
    pub(crate) fn add(&self, entries: &[HistoryEntry]) {
        if entries.is_empty() {
            return;
        }
        if let Err(error) = self.write(entries) {
            tracing::warn!(path = %self.path.display(), %error, "cannot write the history; what was just done will be missing in it");
        }
    }

    fn write(&self, entries: &[HistoryEntry]) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        private::directory(directory)?;
        // An agent and somebody's repair may both have something to tell. The lock is not on the file itself, which is renamed.
        let _lock = lock(&self.path.with_extension("lock"))?;
        let mut file = File::options().read(true).append(true).create(true).open(&self.path)?;
        if file.metadata()?.len() >= self.largest {
            fs::rename(&self.path, self.path.with_extension("jsonl.1"))?;
            file = File::options().read(true).append(true).create(true).open(&self.path)?;
        }
        let mut lines = Vec::new();
        if is_torn(&mut file)? {
            lines.push(b'\n');
        }
        for entry in entries {
            serde_json::to_writer(&mut lines, entry)?;
            lines.push(b'\n');
        }
        file.write_all(&lines)
    }
}

/// Waits for the writers' lock. One that was stopped with it must not stop the agent.
fn lock(path: &Path) -> io::Result<File> {
    let begun = Instant::now();
    loop {
        match private::try_lock(path)? {
            Some(lock) => return Ok(lock),
            None if begun.elapsed() >= PATIENCE => {
                let text = format!("another process has held {} for {} s", path.display(), PATIENCE.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            None => std::thread::sleep(ASK_AGAIN),
        }
    }
}

/// Whether the last line lacks its end: whoever wrote it was killed, or the power went.
fn is_torn(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use blat_domain::protocol::history::{Operation, parse};
    use jiff::Timestamp;

    fn entry(package: &str) -> HistoryEntry {
        let (at, deed, package) = (Timestamp::UNIX_EPOCH, Operation::Sent, package.parse().ok());
        HistoryEntry { at, deed, package, bytes: 1, after_tag_ms: None, detail: None }
    }

    fn packages(path: &Path) -> Vec<String> {
        let text = fs::read(path).unwrap_or_default();
        text.split(|byte| *byte == b'\n')
            .filter_map(parse)
            .map(|entry| entry.package.expect("a package").to_string())
            .collect()
    }

    #[test]
    fn a_torn_last_line_costs_that_line_and_no_other() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let history = History { path: scratch.path().join("history/perth.jsonl"), largest: LARGEST };
        history.add(&[entry("a@1")]);
        let mut file = File::options().append(true).open(&history.path).expect("the history");
        file.write_all(b"{\"at\":\"20").expect("half a line");
        history.add(&[entry("b@1"), entry("c@1")]);
        assert_eq!(packages(&history.path), ["a@1", "b@1", "c@1"]);
    }

    #[test]
    fn it_is_rolled_by_size_and_one_old_one_is_kept() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let history = History { path: scratch.path().join("perth.jsonl"), largest: 1 };
        for package in ["a@1", "b@1", "c@1"] {
            history.add(&[entry(package)]);
        }
        assert_eq!(packages(&history.path), ["c@1"]);
        assert_eq!(packages(&scratch.path().join("perth.jsonl.1")), ["b@1"]);
    }
}
