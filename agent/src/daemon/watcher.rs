//! Notifications from the tag directory. They wake the loop, and say which files were closed or moved in: those count at once. Polling
//! alone suffices, only later.
//!
//! An agent of a master adds its directory to the master's inotify instance, and hears from the master what happens there. One that was
//! started by hand has an instance of its own, of the same kind. Either way the same [`News`] come of it. The crate notify, which watches
//! `config/` for the master, hides its descriptor, so that it cannot be shared; by hand alone it would be a second way of watching tags.

use std::mem;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use blat_config::notifications::Notifications;
use blat_domain::protocol::messages::Watch;
use blat_domain::protocol::news::{News, Notice};
use tokio::sync::Notify;

/// That there are no notifications is said no more often than this, where it comes and goes.
const COMPLAINED_EVERY: Duration = Duration::from_secs(60);

/// Where notifications come from.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// An instance of this agent's own.
    Own,
    /// The master, which may not have given its instance yet.
    Master(Option<Arc<Notifications>>),
}

/// Watches one directory, also after it was removed and made again. The thread that looks at the directory shares it with the loop.
#[derive(Debug)]
pub(crate) struct DirectoryWatch {
    is_own: bool,
    hint: Notify,
    state: Mutex<WatchState>,
}

#[derive(Debug, Default)]
struct WatchState {
    instance: Option<Arc<Notifications>>,
    watched: Option<WatchedDirectory>,
    /// Why the directory is not watched.
    refused: Option<String>,
    /// The directory is being watched, and its number is not known yet: what comes meanwhile is left where it is.
    is_renewing: bool,
    news: News,
    /// What was said of there being no notifications, and when.
    complained: Option<(String, Instant)>,
}

/// What is watched.
#[derive(Debug, Clone, Copy)]
struct WatchedDirectory {
    number: i32,
    inode: Inode,
}

type Inode = (u64, u64);

impl DirectoryWatch {
    /// A watch that watches nothing yet.
    pub(crate) fn new(origin: Origin) -> Self {
        let (is_own, instance) = match origin {
            Origin::Own => (true, None),
            Origin::Master(instance) => (false, instance),
        };
        let watch =
            Self { is_own, hint: Notify::new(), state: Mutex::new(WatchState { instance, ..WatchState::default() }) };
        watch.make_instance();
        watch
    }

    /// Makes an instance of this agent's own, where it has none and should have. Gives the one there is.
    pub(crate) fn make_instance(&self) -> Option<Arc<Notifications>> {
        if !self.is_own {
            return None;
        }
        let mut state = self.state();
        if state.instance.is_none() {
            match Notifications::new() {
                Ok(instance) => state.instance = Some(Arc::new(instance)),
                Err(error) => state.refused = Some(error.to_string()),
            }
        }
        state.instance.clone()
    }

    /// The directory is to be watched by this instance from now on.
    pub(crate) fn set_instance(&self, instance: Arc<Notifications>) {
        let mut state = self.state();
        (state.instance, state.watched) = (Some(instance), None);
        drop(state);
        self.hint();
    }

    /// Waits until there is a reason to look.
    pub(crate) async fn hinted(&self) {
        self.hint.notified().await;
    }

    /// Something else is a reason to look.
    pub(crate) fn hint(&self) {
        self.hint.notify_one();
    }

    /// What the master is to know.
    pub(crate) fn for_master(&self) -> Watch {
        if self.is_own { Watch::No } else { self.state().shown() }
    }

    /// Takes in what the master heard of the directory with this number.
    pub(crate) fn absorb(&self, number: i32, news: News) {
        let mut state = self.state();
        // The master has not heard yet that another one is watched now.
        if state.watched.is_none_or(|watched| watched.number != number) {
            return;
        }
        let is_due = news.is_due;
        state.news.absorb(news);
        drop(state);
        if is_due {
            self.hint();
        }
    }

    /// This agent's own instance cannot be used, for this reason: another one is made.
    pub(crate) fn refuse_instance(&self, why: String) {
        let mut state = self.state();
        (state.instance, state.watched, state.refused) = (None, None, Some(why));
    }

    /// Takes in what has come by this agent's own instance. Whether it is a reason to look.
    pub(crate) fn drain(&self) -> bool {
        self.is_own && self.state().drain()
    }

    /// Watches this directory, where it is another one than before. To be called at every look, before it. `path` leads to it now and
    /// `inode` is its own; `shown` is its name for people.
    pub(crate) fn renew(&self, path: &Path, inode: Inode, shown: &str) {
        self.make_instance();
        self.drain();
        let mut state = self.state();
        if !mem::take(&mut state.news.is_gone) && state.watches(inode) {
            return;
        }
        state.news = News::broken();
        let (former, before) = (state.watched.take(), state.shown());
        let (instance, is_news) = (state.instance.clone(), former.is_some());
        state.is_renewing = true;
        drop(state);
        // The loop does not wait for a file system that hangs.
        let watched =
            instance.as_ref().map(|instance| instance.watch(path).map(|number| WatchedDirectory { number, inode }));
        let mut state = self.state();
        state.is_renewing = false;
        match watched {
            Some(Ok(watched)) => {
                (state.watched, state.refused) = (Some(watched), None);
                state.complained.iter_mut().for_each(|(said, _)| said.clear());
            }
            // A limit says all there is to say, and the same of every directory.
            Some(Err(error)) if error.raw_os_error().is_none() => state.refused = Some(error.to_string()),
            Some(Err(error)) => state.refused = Some(format!("{shown}: {error}")),
            None => {}
        }
        if self.is_own {
            // The master does it for its agents: two of them may watch one directory.
            let is_other = |former: &WatchedDirectory| state.watched.is_none_or(|now| now.number != former.number);
            if let (Some(instance), Some(former)) = (instance, former.filter(is_other)) {
                instance.unwatch(former.number);
            }
            state.complain(shown);
        }
        if is_news || state.shown() != before {
            // So that the loop listens to it, or reports it.
            self.hint();
        }
    }

    /// What was heard since the last time.
    pub(crate) fn news(&self) -> News {
        self.drain();
        let mut state = self.state();
        let is_gone = state.news.is_gone;
        mem::replace(&mut state.news, News { is_gone, ..News::default() })
    }

    fn state(&self) -> MutexGuard<'_, WatchState> {
        // Each notification is whole in itself: a panic elsewhere does not make them unusable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WatchState {
    fn watches(&self, inode: Inode) -> bool {
        self.watched.is_some_and(|watched| watched.inode == inode)
    }

    fn shown(&self) -> Watch {
        match (&self.watched, &self.refused) {
            (Some(watched), _) => Watch::Under(watched.number),
            (None, Some(why)) => Watch::Refused(why.clone()),
            (None, None) => Watch::No,
        }
    }

    fn drain(&mut self) -> bool {
        let Some(instance) = self.instance.clone().filter(|_| !self.is_renewing) else { return false };
        let number = self.watched.map(|watched| watched.number);
        let mut is_reason = false;
        loop {
            let heard = instance.read(|about, notice| {
                if about.is_none() || about == number {
                    is_reason |= self.news.hear(notice);
                }
            });
            match heard {
                Ok(true) => {}
                Ok(false) => return is_reason,
                Err(error) => {
                    tracing::warn!(%error, "cannot read notifications of tags; making another inotify instance");
                    (self.instance, self.watched) = (None, None);
                    return self.news.hear(Notice::Lost);
                }
            }
        }
    }

    /// Says that there are no notifications, once for each reason.
    fn complain(&mut self, shown: &str) {
        let Some(why) = self.refused.clone().filter(|_| self.watched.is_none()) else { return };
        let said = self.complained.as_ref().is_some_and(|(said, at)| *said == why || at.elapsed() < COMPLAINED_EVERY);
        if !said {
            tracing::warn!(directory = shown, why, "no notifications; tags are found by polling alone");
            self.complained = Some((why, Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blat_domain::protocol::news::Heard;
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;
    use std::path::PathBuf;

    struct Scratch {
        scratch: tempfile::TempDir,
        tags: PathBuf,
    }

    impl Scratch {
        fn new() -> Self {
            let scratch = tempfile::tempdir().expect("a scratch directory");
            let tags = scratch.path().join("tags");
            fs::create_dir(&tags).expect("a directory");
            Self { scratch, tags }
        }

        fn renew(&self, watch: &DirectoryWatch) {
            let metadata = fs::metadata(&self.tags).expect("a directory");
            watch.renew(&self.tags, (metadata.dev(), metadata.ino()), "tags");
        }

        /// A file as a dropper makes it: written aside, then renamed.
        fn move_in(&self, name: &str) {
            fs::write(self.scratch.path().join(name), "").expect("a file");
            fs::rename(self.scratch.path().join(name), self.tags.join(name)).expect("moved in");
        }

        fn make_again(&self) {
            fs::remove_dir_all(&self.tags).expect("removed");
            fs::create_dir(&self.tags).expect("made again");
        }
    }

    /// What the master does: reads its instance for the one who watches by this number.
    fn hear_as_master(instance: &Notifications, number: i32) -> News {
        let mut news = News::default();
        let mut hear = |about: Option<i32>, notice: Notice<'_>| {
            if about.is_none_or(|about| about == number) {
                news.hear(notice);
            }
        };
        while instance.read(&mut hear).expect("it can be read") {}
        news
    }

    fn number(watch: &DirectoryWatch) -> i32 {
        match watch.for_master() {
            Watch::Under(number) => number,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn by_an_own_instance_a_file_moved_in_is_whole_and_so_is_one_that_was_closed_in_a_directory_made_again() {
        let (scratch, watch) = (Scratch::new(), DirectoryWatch::new(Origin::Own));
        scratch.renew(&watch);
        assert!(watch.news().is_broken);
        scratch.move_in("x");
        assert!(watch.drain(), "a reason to look");
        assert_eq!(watch.news().files[&b"x"[..]], Heard::Whole);
        scratch.make_again();
        watch.news();
        scratch.renew(&watch);
        assert!(watch.news().is_broken, "what was heard before counts no more");
        fs::write(scratch.tags.join("y"), "text").expect("a file");
        assert_eq!(watch.news().files[&b"y"[..]], Heard::Whole);
        assert_eq!(watch.for_master(), Watch::No);
    }

    #[tokio::test]
    async fn by_the_masters_instance_the_same_is_heard() {
        let scratch = Scratch::new();
        let watch = DirectoryWatch::new(Origin::Master(None));
        scratch.renew(&watch);
        assert_eq!(watch.for_master(), Watch::No, "the instance has not come yet");
        let instance = Arc::new(Notifications::new().expect("an instance"));
        watch.set_instance(instance.clone());
        watch.hinted().await;
        scratch.renew(&watch);
        watch.hinted().await;
        assert!(watch.news().is_broken);
        let first = number(&watch);
        scratch.move_in("x");
        watch.absorb(first, hear_as_master(&instance, first));
        watch.hinted().await;
        assert_eq!(watch.news().files[&b"x"[..]], Heard::Whole);

        scratch.make_again();
        watch.absorb(first, hear_as_master(&instance, first));
        scratch.renew(&watch);
        let second = number(&watch);
        assert_ne!(first, second);
        fs::write(scratch.tags.join("y"), "text").expect("a file");
        watch.absorb(second, hear_as_master(&instance, second));
        let mut late = News::default();
        late.hear(Notice::File(b"z", Heard::Whole));
        watch.absorb(first, late);
        let news = watch.news();
        assert_eq!(news.files.keys().collect::<Vec<_>>(), [b"y"], "what comes of the former directory counts no more");
        assert!(news.is_broken);
    }
}
