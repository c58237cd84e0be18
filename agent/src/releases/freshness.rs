//! How recent Release Manager's word is: what a tag brought after that, it may not know yet.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use blat_config::ReleaseSource;
use blat_domain::policy::clock::FileTime;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until, timeout};

use super::database::random_part;
use super::file;

/// A database may come to know a package this many seconds after its tag was dropped.
const TRAILS: i64 = 86_400;
/// A file that stayed the same for so long after it was read is not being written any more, as with tags.
pub(super) const QUIET: Duration = Duration::from_secs(2);

/// A query that takes longer may have waited for somebody's lock.
const PROMPT: Duration = Duration::from_secs(1);
/// Where queries always take longer, so many readings say how long.
const SAYS_HOW_LONG: usize = 3;

/// To look at a file takes longer only where its server hangs, and tags do not wait for that.
const LOOK: Duration = Duration::from_secs(2);

/// When the content of a file changed that gives the releases, as its file system says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ContentTime {
    /// The file's word.
    pub(crate) at: FileTime,
    /// Whether that is later than the last change of any kind, so that somebody set it.
    pub(crate) is_set_ahead: bool,
}

impl ContentTime {
    /// Anybody may set the time of a file's content. That of its last change of any kind nobody sets, and every change makes it later: it says that
    /// the other one was set ahead, and not when the content changed.
    fn of(found: &Metadata) -> Self {
        Self { at: (found.mtime(), found.mtime_nsec()), is_set_ahead: found.mtime() > found.ctime() }
    }
}

/// When the file was written that gives the releases; nothing where they come from elsewhere. It knows what was known then, anything else may
/// trail behind its tags for a day. So may a database in a file: its files also change when no row does, when somebody opens it or tidies up.
pub(crate) async fn written_at(source: Option<&ReleaseSource>) -> Option<ContentTime> {
    match source? {
        ReleaseSource::File { path } | ReleaseSource::PackageList { path } => {
            timeout(LOOK, tokio::fs::metadata(path)).await.ok()?.ok().as_ref().map(ContentTime::of)
        }
        ReleaseSource::Sqlite { .. }
        | ReleaseSource::Postgres(_)
        | ReleaseSource::MySql(_)
        | ReleaseSource::Command { .. } => None,
    }
}

/// Up to which epoch second anybody knows all at `now`.
pub(crate) fn trailing(now: i64) -> i64 {
    now - TRAILS
}

/// What tells one state of a file from another: which file it is, its size, and when its content and its place last changed. These times are
/// compared with each other only, never with a clock of this machine: they may be those of a file server, or anything that a program sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileState {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileState {
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
pub(crate) struct FileReading {
    path: PathBuf,
    /// None where it changed while it was read.
    state: Option<FileState>,
    /// When it was read, by a clock that nobody sets and that stands still while the machine sleeps, as writers do.
    at: Instant,
}

impl FileReading {
    /// What was read just now at `path`; `state` is that of the open file, none where it was another before than after.
    pub(super) fn new(path: &Path, state: Option<FileState>) -> Self {
        Self { path: path.to_owned(), state, at: Instant::now() }
    }

    /// How the file was; none where it changed while it was read.
    pub(super) fn state(&self) -> Option<FileState> {
        self.state
    }

    /// When it was read.
    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// Whether the file is still the same when [`QUIET`] has passed since it was read, so that nobody was writing it then. Waits for the rest of
    /// that time. A file that cannot be opened within `limit` is not the same.
    pub(crate) async fn has_stayed(&self, limit: Duration) -> bool {
        sleep_until(self.at + QUIET).await;
        // It is opened, not only looked up: a network file system then asks its server instead of its cache.
        match (self.state, timeout(limit, file::open(&self.path)).await) {
            (Some(state), Ok(Ok((_, now)))) => state == FileState::of(&now),
            (None, _) | (_, Ok(Err(_)) | Err(_)) => false,
        }
    }
}

/// A reading of a server or of a command's output, which has no file that could be looked at again.
#[derive(Debug, Clone)]
pub(crate) struct ServedReading {
    /// From when on another one may begin, by the clock of [`FileReading`].
    next: Instant,
    /// The longest time that one of its queries took; none of a command's are known.
    slowest: Duration,
}

impl ServedReading {
    /// What was read up to now.
    pub(super) fn new(slowest: Duration) -> Self {
        Self { next: Instant::now() + QUIET + random_part(QUIET), slowest }
    }

    /// Waits until [`QUIET`] has passed, and a part of it that differs each time: a lock that this reading waited for is gone then, and a job that
    /// goes round and round does not meet the next one as it met this one.
    pub(crate) async fn wait(&self) {
        sleep_until(self.next).await;
    }

    /// How long its slowest query took.
    pub(crate) fn slowest(&self) -> Duration {
        self.slowest
    }
}

/// Whether the last one of these times is none in which a query may have waited for a lock: it is short, or not much longer than the shortest of
/// several. A slow database is slow each time.
pub(crate) fn is_prompt(slowest: &[Duration]) -> bool {
    let (Some(last), Some(least)) = (slowest.last(), slowest.iter().min()) else { return true };
    *last <= PROMPT || (slowest.len() >= SAYS_HOW_LONG && *last <= *least * 2)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::UNIX_EPOCH;

    use super::*;
    use blat_config::Queries;
    use jiff::Timestamp;

    #[test]
    fn a_reading_that_took_much_longer_than_others_may_have_waited_for_a_lock() {
        for (times, prompt) in [
            (&[][..], true),
            (&[0], true),
            (&[9_000, 1_000], true),
            (&[1_100], false),
            (&[1_100, 1_100], false),
            (&[1_100, 1_100, 1_100], true),
            (&[5_000, 4_000, 8_000], true),
            (&[5_000, 4_000, 8_100], false),
            (&[100, 200, 1_100], false),
            (&[100, 9_000, 9_000, 9_000], false),
        ] {
            let times: Vec<Duration> = times.iter().map(|time| Duration::from_millis(*time)).collect();
            assert_eq!(is_prompt(&times), prompt, "{times:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_reads_a_server_again_comes_after_two_seconds_and_never_in_step() {
        let mut waits = std::collections::BTreeSet::new();
        for _ in 0..40 {
            let begun = Instant::now();
            ServedReading::new(Duration::ZERO).wait().await;
            assert!(begun.elapsed() >= QUIET && begun.elapsed() <= QUIET * 2 + Duration::from_millis(10));
            waits.insert(begun.elapsed().as_millis());
        }
        assert!(waits.len() > 5, "{waits:?}");
    }

    fn touch(path: &Path, second: u64) {
        let file = fs::File::create(path).expect("a file");
        file.set_modified(UNIX_EPOCH + Duration::from_secs(second)).expect("an own file");
    }

    #[tokio::test]
    async fn a_file_knows_what_was_known_when_it_was_written_and_a_database_in_a_file_does_not() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("releases");
        touch(&path, 5_000);
        touch(&scratch.path().join("releases-wal"), 6_000);
        let written = Some(ContentTime { at: (5_000, 0), is_set_ahead: false });
        assert_eq!(written_at(Some(&ReleaseSource::File { path: path.clone() })).await, written);
        assert_eq!(written_at(Some(&ReleaseSource::PackageList { path: path.clone() })).await, written);
        assert_eq!(written_at(Some(&ReleaseSource::Sqlite { path, queries: Queries::default() })).await, None);
        assert_eq!(written_at(None).await, None);
    }

    #[tokio::test]
    async fn a_time_that_somebody_set_ahead_shows_whatever_else_changes() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("releases");
        let at = Timestamp::now().as_second() + 3_600;
        touch(&path, u64::try_from(at).expect("after 1970"));
        fs::hard_link(&path, scratch.path().join("other")).expect("a link");
        assert_eq!(
            written_at(Some(&ReleaseSource::PackageList { path })).await,
            Some(ContentTime { at: (at, 0), is_set_ahead: true })
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
            let (_, state) = file::load(file::open(&path).await.expect("a file")).await.expect("releases");
            let reading = FileReading::new(&path, state);
            change(&path, content);
            assert_eq!(reading.has_stayed(limit).await, what == "nothing", "{what}");
            assert!(reading.at.elapsed() >= QUIET, "{what}");
        }
    }

    fn touch_only(path: &Path, second: u64) {
        let file = fs::File::options().append(true).open(path).expect("a file");
        file.set_modified(UNIX_EPOCH + Duration::from_secs(second)).expect("an own file");
    }
}
