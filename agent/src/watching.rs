//! Notifications that something may have happened in a directory. They only wake the loop: polling alone suffices.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Watches one directory, also after it was removed and made again.
pub(crate) struct DirectoryWatch {
    path: PathBuf,
    hint: Arc<Notify>,
    watcher: Option<(RecommendedWatcher, Inode)>,
    /// The watched directory was removed: what is at the path now may be another one, even under the same inode number.
    lost: Arc<AtomicBool>,
    complained: bool,
}

type Inode = (u64, u64);

impl DirectoryWatch {
    /// A watch on `path`, as far as the system allows one.
    pub(crate) fn new(path: &Path) -> Self {
        let (hint, lost) = (Arc::default(), Arc::default());
        let mut watch = Self { path: path.to_owned(), hint, watcher: None, lost, complained: false };
        watch.renew();
        watch
    }

    /// Waits for a hint. Any number of events while nobody waits is one hint.
    pub(crate) async fn hinted(&self) {
        self.hint.notified().await;
    }

    /// Watches the directory that is at the path now, where that is another one. To be called at every poll.
    pub(crate) fn renew(&mut self) {
        let inode = fs::metadata(&self.path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
        let is_lost = self.lost.swap(false, Ordering::AcqRel);
        if !is_lost && inode == self.watcher.as_ref().map(|(_, watched)| *watched) {
            return;
        }
        self.watcher = None;
        let Some(inode) = inode else { return };
        match self.start() {
            Ok(watcher) => {
                self.watcher = Some((watcher, inode));
                self.complained = false;
                // What came between the last look and this watch was not told.
                self.hint.notify_one();
            }
            Err(error) if !self.complained => {
                self.complained = true;
                tracing::warn!(directory = %self.path.display(), %error, "no notifications; tags are found by polling alone");
            }
            Err(_) => {}
        }
    }

    fn start(&self) -> notify::Result<RecommendedWatcher> {
        let (hint, lost, path) = (self.hint.clone(), self.lost.clone(), self.path.clone());
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if let Ok(event) = event {
                if is_only_a_look(event.kind) {
                    return;
                }
                if event.kind.is_remove() && event.paths.contains(&path) {
                    lost.store(true, Ordering::Release);
                }
            }
            // Whatever else it is, an overflow or an error too, is a reason to look.
            hint.notify_one();
        })?;
        watcher.watch(&self.path, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    }
}

/// Whether somebody only read there. We do at every look: taken for a change, each look would bring about the next.
fn is_only_a_look(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_file_moved_in_is_told_and_so_is_one_in_a_directory_made_again() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("tags");
        fs::create_dir(&path).expect("a directory");
        let mut watch = DirectoryWatch::new(&path);
        tokio::time::timeout(LONG, watch.hinted()).await.expect("the first look");
        fs::write(scratch.path().join("x"), "").expect("a file");
        fs::rename(scratch.path().join("x"), path.join("x")).expect("moved in");
        tokio::time::timeout(LONG, watch.hinted()).await.expect("told");

        fs::remove_dir_all(&path).expect("removed");
        fs::create_dir(&path).expect("made again");
        // As the loop does: every hint is a look, and every look renews the watch.
        tokio::time::timeout(LONG, watch.hinted()).await.expect("told of the removal");
        watch.renew();
        tokio::time::timeout(LONG, watch.hinted()).await.expect("a look after the change");
        fs::write(path.join("y"), "").expect("a file");
        tokio::time::timeout(LONG, watch.hinted()).await.expect("told again");
    }
}
