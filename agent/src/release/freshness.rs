//! How recent Release Manager's word is: what a tag brought after that, it may not know yet.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blat_config::ReleaseSource;

/// A database may come to know a package this many seconds after its tag was dropped.
const TRAILS: i64 = 86_400;
/// A file that was left alone for so long is not being written any more, as with tags.
pub(crate) const QUIET: Duration = Duration::from_secs(2);

/// Up to which epoch second Release Manager knows all; `now` is that of the question, before it is put. A file knows what was
/// known when it was written, anything else may trail behind its tags for a day.
pub(crate) fn known_up_to(source: Option<&ReleaseSource>, now: i64) -> i64 {
    let written = match source {
        Some(ReleaseSource::File { path } | ReleaseSource::PackageList { path }) => written(path),
        // A database in a file may keep its latest changes beside it.
        Some(ReleaseSource::Sqlite { path, .. }) => written(path).max(written(&beside(path))),
        Some(ReleaseSource::Postgres(_) | ReleaseSource::MySql(_) | ReleaseSource::Command { .. }) | None => None,
    };
    // A time ahead of the clock says nothing: every tag would count as older.
    written.filter(|written| *written <= now).unwrap_or(now - TRAILS)
}

/// What tells one state of a file from another: size, and when its content and its place last changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    size: u64,
    modified: SystemTime,
    changed: (i64, i64),
}

/// The state of the releases' file, where it has been left alone for [`QUIET`]; none where somebody may still be writing it. Whatever else
/// gives releases says by itself when it is whole.
pub(crate) fn quiet_state(source: Option<&ReleaseSource>) -> Result<Option<State>, Unsettled> {
    let Some(ReleaseSource::File { path }) = source else { return Ok(None) };
    // What is missing or cannot be looked at is for whoever reads it.
    let Ok(found) = fs::metadata(path) else { return Ok(None) };
    let state = State {
        size: found.len(),
        modified: found.modified().map_err(|_| Unsettled)?,
        changed: (found.ctime(), found.ctime_nsec()),
    };
    // A time ahead of the clock is no recent one.
    let is_recent = SystemTime::now().duration_since(state.modified).is_ok_and(|age| age < QUIET);
    if is_recent { Err(Unsettled) } else { Ok(Some(state)) }
}

/// The releases' file may still be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unsettled;

fn written(path: &Path) -> Option<i64> {
    let modified: SystemTime = fs::metadata(path).ok()?.modified().ok()?;
    modified.duration_since(UNIX_EPOCH).ok().and_then(|since| since.as_secs().try_into().ok())
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use blat_config::Queries;

    fn touch(path: &Path, second: u64) {
        let file = fs::File::create(path).expect("a file");
        file.set_modified(UNIX_EPOCH + Duration::from_secs(second)).expect("an own file");
    }

    #[test]
    fn a_file_knows_what_was_known_when_it_was_written() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("releases");
        touch(&path, 5_000);
        assert_eq!(known_up_to(Some(&ReleaseSource::File { path: path.clone() }), 9_000), 5_000);
        touch(&scratch.path().join("releases-wal"), 6_000);
        assert_eq!(
            known_up_to(Some(&ReleaseSource::Sqlite { path: path.clone(), queries: Queries::default() }), 9_000),
            6_000
        );
        assert_eq!(
            known_up_to(Some(&ReleaseSource::File { path }), 4_000),
            4_000 - TRAILS,
            "no file is from the future"
        );
    }

    #[test]
    fn without_a_file_it_may_trail_for_a_day() {
        assert_eq!(known_up_to(None, 100_000), 13_600);
    }
}
