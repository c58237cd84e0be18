//! What agents wrote down of what they did: `state/history/TARGET.jsonl`.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use blat_config::Home;
use blat_domain::package::name::TargetName;
use blat_domain::protocol::history::{HistoryEntry, parse};
use blat_domain::util::text::printable;

use crate::failure::Failure;

/// The most of one file that is read, in bytes: an agent rolls it long before.
const MOST: u64 = 64 << 20;

/// All that is kept of one target, the oldest first; nothing where nothing was done yet. Torn lines are left out.
pub(crate) fn of(home: &Home, target: &TargetName) -> Result<Vec<HistoryEntry>, Failure> {
    read_all(&with_former(home.history(target)), &Mark(Vec::new()))
}

/// How far an agent had written its reports at some moment: each file's inode and length.
#[derive(Debug)]
pub(crate) struct Mark(Vec<(u64, u64)>);

impl Mark {
    /// As far as they go now.
    pub(crate) fn of(home: &Home, target: &TargetName) -> Self {
        // What cannot be looked at is read whole later, or is a failure then.
        let looked = reports(home, target).into_iter().filter_map(|path| std::fs::metadata(path).ok());
        Self(looked.map(|found| (found.ino(), found.len())).collect())
    }

    /// What the agent has reported from then on: what it did, and which tagged packages were there already.
    ///
    /// # Errors
    /// Where its reports cannot be read.
    pub(crate) fn since(&self, home: &Home, target: &TargetName) -> Result<Vec<HistoryEntry>, Failure> {
        read_all(&reports(home, target), self)
    }

    /// How much of a file was there. One that is shorter is another one.
    fn skipped(&self, inode: u64, length: u64) -> u64 {
        let known = self.0.iter().find(|known| known.0 == inode && known.1 <= length);
        known.map_or(0, |known| known.1)
    }
}

fn reports(home: &Home, target: &TargetName) -> Vec<PathBuf> {
    [home.history(target), home.already(target)].into_iter().flat_map(with_former).collect()
}

/// The file before it was rolled comes first.
fn with_former(path: PathBuf) -> [PathBuf; 2] {
    [path.with_extension("jsonl.1"), path]
}

fn read_all(paths: &[PathBuf], mark: &Mark) -> Result<Vec<HistoryEntry>, Failure> {
    let mut entries = Vec::new();
    for path in paths {
        let text = match read(path, mark) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            read => read.map_err(|error| {
                let path = printable(&path.to_string_lossy());
                Failure::failed(format!("cannot read the history {path}: {error}"))
            })?,
        };
        entries.extend(text.split(|byte| *byte == b'\n').filter_map(parse));
    }
    Ok(entries)
}

fn read(path: &Path, mark: &Mark) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let found = file.metadata()?;
    file.seek(SeekFrom::Start(mark.skipped(found.ino(), found.len())))?;
    let mut text = Vec::new();
    file.take(MOST).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_reported_before_is_left_out_also_where_the_file_was_rolled_since() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let (home, target) = (Home::at(scratch.path()).expect("a path"), "perth".parse().expect("a name"));
        let add = |path: &Path, package: &str| {
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("an own folder");
            let mut text = std::fs::read_to_string(path).unwrap_or_default();
            text += &format!("{{\"at\":\"2026-11-21T08:00:12Z\",\"deed\":\"sent\",\"package\":\"{package}\"}}\n");
            std::fs::write(path, text).expect("an own file");
        };
        let (history, already) = (home.history(&target), home.already(&target));
        add(&history, "a@1");
        let mark = Mark::of(&home, &target);
        let since = || -> Vec<String> {
            let entries = mark.since(&home, &target).expect("readable");
            entries.into_iter().filter_map(|entry| entry.package).map(|package| package.to_string()).collect()
        };
        assert!(since().is_empty());
        add(&history, "b@1");
        std::fs::rename(&history, history.with_extension("jsonl.1")).expect("an own file");
        add(&history, "c@1");
        add(&already, "d@1");
        assert_eq!(since(), ["b@1", "c@1", "d@1"]);
    }
}
