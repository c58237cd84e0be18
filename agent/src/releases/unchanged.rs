//! What a file of releases says, for as long as nobody changes it: most syncs find the file as the one before left it.
//!
//! A file's times are counted in ticks, of up to two seconds. What is written in the same tick as a reading may leave no trace in them. So what was
//! read stands for the file only where the file had already been as it was for longer than any tick. Nor does every file system tell that a file
//! was written through a mapping of it into memory: nothing is marked or deleted by what was not read for that.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blat_domain::policy::release::{Catalog, Selection};
use tokio::time::Instant;

use super::file;
use super::freshness::{FileReading, FileState, QUIET};

/// What was read last, and of which file.
#[derive(Debug, Clone, Default)]
pub(super) struct Unchanged(Arc<Mutex<Option<CachedCatalog>>>);

/// What is known of the file.
#[derive(Debug)]
struct CachedCatalog {
    key: SelectionKey,
    state: FileState,
    /// When it was first found to be like that.
    since: Instant,
    /// What it says, where it was read long enough after that.
    said: Option<(Arc<Catalog>, FileReading)>,
}

/// What decides, beside the file, what is read of it: packages of other releases are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SelectionKey(String);

impl SelectionKey {
    fn of(path: &Path, selection: &Selection) -> Self {
        let Selection { releases, projects, only_s3sync, .. } = selection;
        Self(format!("{path:?} {releases:?} {projects:?} {only_s3sync}"))
    }
}

impl Unchanged {
    /// What the file says, and when it was read, where nobody has changed it since.
    pub(super) async fn look(&self, path: &Path, selection: &Selection) -> Option<(Arc<Catalog>, FileReading)> {
        // A file that cannot be opened is an error for whoever reads it.
        let (_, found) = file::open(path).await.ok()?;
        let key = SelectionKey::of(path, selection);
        let mut kept = self.lock();
        let is_same = |kept: &&CachedCatalog| kept.key == key && kept.state == FileState::of(&found);
        let Some(same) = kept.as_ref().filter(is_same) else {
            // It is read now, and there need not be room for both.
            *kept = None;
            return None;
        };
        same.said.clone()
    }

    /// Remembers what was read just now.
    pub(super) fn keep(&self, path: &Path, selection: &Selection, catalog: &Arc<Catalog>, reading: &FileReading) {
        let mut kept = self.lock();
        *kept = reading.state().map(|state| {
            let key = SelectionKey::of(path, selection);
            let before = kept.take().filter(|kept| kept.key == key && kept.state == state);
            let since = before.map_or(reading.at(), |before| before.since);
            let said = (reading.at() >= since + QUIET).then(|| (catalog.clone(), reading.clone()));
            CachedCatalog { key, state, since, said }
        });
    }

    /// What the file says next is read.
    pub(super) fn forget(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<CachedCatalog>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::UNIX_EPOCH;

    use super::*;

    async fn read(path: &Path) -> FileReading {
        let (_, found) = file::open(path).await.expect("a file");
        FileReading::new(path, Some(FileState::of(&found)))
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_was_read_after_two_quiet_seconds_stands_for_the_file_and_only_until_it_changes() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("releases.yaml");
        fs::write(&path, "one").expect("an own file");
        let (unchanged, selection, catalog) = (Unchanged::default(), Selection::default(), Arc::default());
        let look = || unchanged.look(&path, &selection);
        unchanged.keep(&path, &selection, &catalog, &read(&path).await);
        assert!(look().await.is_none(), "it may have been written in the same tick");
        tokio::time::advance(QUIET).await;
        assert!(look().await.is_none(), "so may what is kept");
        unchanged.keep(&path, &selection, &catalog, &read(&path).await);
        assert!(look().await.is_some());

        let other = Selection { only_s3sync: true, ..Selection::default() };
        assert!(unchanged.look(&path, &other).await.is_none(), "another question");

        // The same size and the same time of its content, put there as another file.
        let aside = scratch.path().join("aside");
        fs::write(&aside, "two").expect("an own file");
        let before = fs::metadata(&path).and_then(|found| found.modified()).expect("a time");
        fs::File::options().write(true).open(&aside).and_then(|file| file.set_modified(before)).expect("an own file");
        fs::rename(&aside, &path).expect("an own file");
        assert!(look().await.is_none(), "it is another file");

        for _ in 0..2 {
            tokio::time::advance(QUIET).await;
            unchanged.keep(&path, &selection, &catalog, &read(&path).await);
        }
        assert!(look().await.is_some());
        fs::File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_modified(UNIX_EPOCH))
            .expect("an own file");
        assert!(look().await.is_none(), "its times changed");
        unchanged.keep(&path, &selection, &catalog, &FileReading::new(&path, None));
        assert!(look().await.is_none(), "it changed while it was read");
    }
}
