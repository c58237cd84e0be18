//! How recent Release Manager's word is: what a tag brought after that, it may not know yet.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blat_config::ReleaseSource;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until, timeout};

use super::file;

/// A database may come to know a package this many seconds after its tag was dropped.
const TRAILS: i64 = 86_400;
/// A file that stayed the same for so long after it was read is not being written any more, as with tags.
const QUIET: Duration = Duration::from_secs(2);

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

/// What tells one state of a file from another: which file it is, its size, and when its content and its place last changed. These times are
/// compared with each other only, never with a clock of this machine: they may be those of a file server, or anything that a program sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl State {
    pub(super) fn of(found: &Metadata) -> Self {
        Self {
            file: (found.dev(), found.ino()),
            size: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

/// A file of releases as it was when it was read.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    path: PathBuf,
    /// None where it changed while it was read.
    state: Option<State>,
    /// When it was read, by a clock that nobody sets and that stands still while the machine sleeps, as writers do.
    at: Instant,
}

impl Reading {
    /// What was read just now at `path`; `state` is that of the open file, none where it was another before than after.
    pub(super) fn new(path: &Path, state: Option<State>) -> Self {
        Self { path: path.to_owned(), state, at: Instant::now() }
    }

    /// Whether the file is still the same when [`QUIET`] has passed since it was read, so that nobody was writing it then. Waits for the rest of
    /// that time. A file that cannot be opened within `limit` is not the same.
    pub(crate) async fn has_stayed(&self, limit: Duration) -> bool {
        sleep_until(self.at + QUIET).await;
        // It is opened, not only looked up: a network file system then asks its server instead of its cache.
        match timeout(limit, file::open(&self.path)).await {
            Ok(Ok((_, found))) => self.state == Some(State::of(&found)),
            Ok(Err(_)) | Err(_) => false,
        }
    }
}

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

    #[tokio::test]
    async fn a_reading_stays_only_where_the_file_is_the_same_whatever_its_times_say() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("releases");
        let limit = Duration::from_secs(60);
        let content = "projects: []\n# as long";
        type Change = fn(&Path, &str);
        let changes: [(&str, Change); 4] = [
            ("nothing", |_, _| ()),
            ("written in place, its time set back", |path, content| {
                fs::write(path, content.to_uppercase()).expect("written");
                touch_only(path, 5_000);
            }),
            ("renamed over it", |path, content| {
                let aside = path.with_extension("new");
                fs::write(&aside, content).expect("written");
                touch_only(&aside, 5_000);
                fs::rename(&aside, path).expect("renamed");
            }),
            ("gone", |path, _| fs::remove_file(path).expect("removed")),
        ];
        for (what, change) in changes {
            fs::write(&path, content).expect("written");
            touch_only(&path, 5_000);
            let (_, state) = file::load(&path).await.expect("releases");
            let reading = Reading::new(&path, state);
            change(&path, content);
            assert_eq!(reading.has_stayed(limit).await, what == "nothing", "{what}");
            assert!(reading.at.elapsed() >= QUIET, "{what}");
        }
    }

    fn touch_only(path: &Path, second: u64) {
        let file = fs::File::options().append(true).open(path).expect("a file");
        file.set_modified(UNIX_EPOCH + Duration::from_secs(second)).expect("an own file");
    }

    #[test]
    fn without_a_file_it_may_trail_for_a_day() {
        assert_eq!(known_up_to(None, 100_000), 13_600);
    }
}
