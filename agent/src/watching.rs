//! Notifications from the tag directory. They wake the loop, and say which files were closed or moved in: those count at once. Polling
//! alone suffices, only later.

use std::collections::HashMap;
use std::ffi::OsString;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use blat_domain::tag::is_ignored;
use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::os::unix::ffi::OsStrExt;
use tokio::sync::Notify;

/// Files of which something is remembered between two looks. Where there are more, it is as if the notifications of the earlier ones were
/// lost.
const MOST_FILES: usize = 2_048;

/// That there are no notifications is said no more often than this, where it comes and goes.
const COMPLAINED_EVERY: Duration = Duration::from_secs(60);

/// The last that was heard of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Somebody wrote into it, and has not closed it since.
    Writing,
    /// It was closed after writing, or moved in.
    Whole,
}

/// What was heard since it was asked for last.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) files: HashMap<OsString, Heard>,
    /// Notifications were lost: what was heard before may not be true any more.
    pub(crate) is_broken: bool,
    /// The directory was removed: what is at its path now may be another one, even under the same inode number.
    is_gone: bool,
}

/// Watches one directory, also after it was removed and made again.
pub(crate) struct DirectoryWatch {
    hint: Arc<Notify>,
    news: Arc<Mutex<News>>,
    watcher: Option<(RecommendedWatcher, Inode)>,
    /// Whether it was said that there are no notifications, and when it was said last.
    complained: bool,
    complained_at: Option<Instant>,
}

type Inode = (u64, u64);

impl DirectoryWatch {
    /// A watch that gives `hint` whenever something happens. It watches nothing yet.
    pub(crate) fn new(hint: Arc<Notify>) -> Self {
        Self { hint, news: Arc::default(), watcher: None, complained: false, complained_at: None }
    }

    /// Watches this directory, where it is another one than before. To be called at every look, before it. `path` leads to it now and
    /// `inode` is its own; `shown` is its name for people.
    pub(crate) fn renew(&mut self, path: &Path, inode: Inode, shown: &str) {
        let is_gone = mem::take(&mut lock(&self.news).is_gone);
        if !is_gone && Some(inode) == self.watcher.as_ref().map(|(_, watched)| *watched) {
            return;
        }
        self.watcher = None;
        *lock(&self.news) = News { is_broken: true, ..News::default() };
        match self.start(path) {
            Ok(watcher) => {
                self.watcher = Some((watcher, inode));
                self.complained = false;
            }
            Err(error) if !self.complained && self.complained_at.is_none_or(|at| at.elapsed() >= COMPLAINED_EVERY) => {
                (self.complained, self.complained_at) = (true, Some(Instant::now()));
                tracing::warn!(directory = shown, %error, "no notifications; tags are found by polling alone");
            }
            Err(_) => {}
        }
    }

    /// What was heard since the last time.
    pub(crate) fn news(&self) -> News {
        let mut news = lock(&self.news);
        let is_gone = news.is_gone;
        mem::replace(&mut *news, News { is_gone, ..News::default() })
    }

    fn start(&self, path: &Path) -> notify::Result<RecommendedWatcher> {
        let (hint, news, root) = (self.hint.clone(), self.news.clone(), path.to_owned());
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if hear(&event, &root, &mut lock(&news)) {
                hint.notify_one();
            }
        })?;
        watcher.watch(path, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    }
}

/// Takes in one notification. Whether it is a reason to look.
fn hear(event: &notify::Result<notify::Event>, root: &PathBuf, news: &mut News) -> bool {
    let event = match event {
        Ok(event) if !event.need_rescan() => event,
        Ok(_) | Err(_) => {
            lose_track(news);
            return true;
        }
    };
    if event.kind.is_remove() && event.paths.contains(root) {
        news.is_gone = true;
        return true;
    }
    let heard = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Heard::Whole,
        EventKind::Modify(ModifyKind::Data(_)) => Heard::Writing,
        // We read at every look: taken for a change, each look would bring about the next.
        EventKind::Access(_) => return false,
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => {
            // Nothing comes of files that are ignored, whoever makes however many.
            let is_ignored = |path: &PathBuf| {
                path.parent() == Some(root) && path.file_name().is_some_and(|name| is_ignored(name.as_bytes()))
            };
            return event.paths.is_empty() || !event.paths.iter().all(is_ignored);
        }
    };
    let inside = event.paths.iter().filter(|path| path.parent() == Some(root)).filter_map(|path| path.file_name());
    let mut is_of_use = false;
    for name in inside.filter(|name| !is_ignored(name.as_bytes())) {
        if news.files.len() >= MOST_FILES {
            lose_track(news);
            is_of_use = true;
        }
        news.files.insert(name.to_owned(), heard);
        // It is of no use yet while somebody writes.
        is_of_use |= heard == Heard::Whole;
    }
    is_of_use
}

fn lose_track(news: &mut News) {
    news.files.clear();
    news.is_broken = true;
}

fn lock(news: &Mutex<News>) -> MutexGuard<'_, News> {
    // Each notification is whole in itself: a panic elsewhere does not make them unusable.
    news.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    const LONG: Duration = Duration::from_secs(20);

    async fn hinted(watch: &DirectoryWatch) {
        tokio::time::timeout(LONG, watch.hint.notified()).await.expect("a hint");
    }

    fn renew(watch: &mut DirectoryWatch, path: &Path) {
        let metadata = fs::metadata(path).expect("a directory");
        watch.renew(path, (metadata.dev(), metadata.ino()), "tags");
    }

    /// Waits until this is the last that was heard of the file.
    async fn heard(watch: &DirectoryWatch, name: &str, what: Heard) {
        while watch.news().files.get(&OsString::from(name)) != Some(&what) {
            hinted(watch).await;
        }
    }

    #[tokio::test]
    async fn a_file_moved_in_is_whole_and_so_is_one_that_was_closed_in_a_directory_made_again() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("tags");
        fs::create_dir(&path).expect("a directory");
        let mut watch = DirectoryWatch::new(Arc::default());
        renew(&mut watch, &path);
        fs::write(scratch.path().join("x"), "").expect("a file");
        fs::rename(scratch.path().join("x"), path.join("x")).expect("moved in");
        heard(&watch, "x", Heard::Whole).await;

        fs::remove_dir_all(&path).expect("removed");
        fs::create_dir(&path).expect("made again");
        // As at each look: that the directory is gone is heard before anything else of the new one.
        hinted(&watch).await;
        while !lock(&watch.news).is_gone {
            hinted(&watch).await;
        }
        renew(&mut watch, &path);
        assert!(watch.news().is_broken, "what was heard before counts no more");
        fs::write(path.join("y"), "text").expect("a file");
        heard(&watch, "y", Heard::Whole).await;
    }

    #[test]
    fn a_file_is_not_whole_while_somebody_writes_into_it() {
        let root = PathBuf::from("/tags");
        let event = |kind| Ok(notify::Event::new(kind).add_path(root.join("x")));
        let writes = EventKind::Modify(ModifyKind::Data(notify::event::DataChange::Any));
        let closes = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let mut news = News::default();
        assert!(hear(&event(closes), &root, &mut news));
        assert!(!hear(&event(writes), &root, &mut news), "no reason to look yet");
        assert_eq!(news.files.get(&OsString::from("x")), Some(&Heard::Writing));
        assert!(hear(&event(closes), &root, &mut news));
        assert_eq!(news.files.get(&OsString::from("x")), Some(&Heard::Whole));
    }

    #[test]
    fn what_was_heard_is_bounded() {
        let root = PathBuf::from("/tags");
        let mut news = News::default();
        for number in 0..=MOST_FILES {
            let event = notify::Event::new(EventKind::Access(AccessKind::Close(AccessMode::Write)));
            hear(&Ok(event.add_path(root.join(number.to_string()))), &root, &mut news);
        }
        assert!(news.is_broken && news.files.len() < MOST_FILES);
        assert!(news.files.contains_key(&OsString::from(MOST_FILES.to_string())), "the last one is always heard");
        let lost = notify::Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
        let mut news = News { files: [("x".into(), Heard::Writing)].into(), ..News::default() };
        assert!(hear(&Ok(lost), &root, &mut news) && news.is_broken && news.files.is_empty());
    }
}
