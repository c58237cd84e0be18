//! `state/status.json`: what `blat status` shows when no master runs, and what the next master remembers.
//!
//! It costs history when it is lost, never correctness, so it is neither synced nor ever a reason to stop.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use blat_config::replacement::{Outlives, replace};
use blat_domain::package::name::TargetName;
use blat_domain::protocol::status::{Status, SyncReport};

/// A status file that is larger than this is not ours.
const LARGEST: u64 = 64 << 20;

/// Puts `status` at `path` in one step: a reader finds the old one or the new one.
///
/// # Errors
/// When the directory cannot be made or the file not written.
pub(crate) fn save(path: &Path, status: &Status) -> io::Result<()> {
    replace(path, Outlives::Process, |file| {
        serde_json::to_writer(&mut *file, status)?;
        file.write_all(b"\n")
    })
}

/// The last sync of every target, from an earlier master; nothing where there is nothing readable.
pub(crate) fn remembered(path: &Path) -> BTreeMap<TargetName, SyncReport> {
    match load(path) {
        Ok(status) => status.targets.into_iter().filter_map(|target| Some((target.name, target.last_sync?))).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => BTreeMap::new(),
        Err(error) => {
            tracing::info!(path = %path.display(), %error, "the last known state cannot be read, so it is forgotten");
            BTreeMap::new()
        }
    }
}

fn load(path: &Path) -> io::Result<Status> {
    if fs::metadata(path)?.len() > LARGEST {
        return Err(io::Error::other("it is too large"));
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_lies_there_is_never_an_error() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("state/status.json");
        assert_eq!(remembered(&path), BTreeMap::new());
        let status = Status { home: scratch.path().to_owned(), supervisor: None, targets: Vec::new() };
        save(&path, &status).expect("the directory is made");
        assert_eq!(load(&path).expect("readable"), status);
        for rubbish in ["", "{", "{\"home\": 3}", "null"] {
            fs::write(&path, rubbish).expect("writable");
            assert_eq!(remembered(&path), BTreeMap::new());
        }
    }
}
