//! Looks at the configuration: woken by notifications, and every two seconds in any case. Either alone suffices.
//!
//! It has a thread of its own, so a file system that hangs holds up nothing else. What cannot be looked at changes
//! nothing: a directory that is gone or unreadable is not an empty one.

pub(crate) mod debounce;
pub(crate) mod in_force;
pub(crate) mod notices;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind, Read};
use std::mem;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc as threads;
use std::time::Duration;

use blat_config::{Claim, Home, TargetFile};
use blat_domain::package::name::TargetName;
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use crate::fleet::target_status::Seen;
use debounce::Debounce;
use in_force::{InForce, Loaded};

/// How often the files are looked at when nothing says that they changed.
const POLL: Duration = Duration::from_secs(2);
/// The time between two looks that must agree.
const SETTLE: Duration = Duration::from_millis(150);
/// The most of a file that is compared; a config is refused long before it is this large.
const COMPARED: u64 = 4 << 20;

/// What was found in the configuration.
#[derive(Debug)]
pub(crate) enum Found {
    /// A target's file is not as it was.
    Target(TargetName, PathBuf, Seen),
    /// The master's own settings are not as they were, and are valid.
    Master {
        /// How much is logged.
        verbose: u8,
        /// The size in bytes at which the log is rolled.
        max: u64,
        /// How many old logs are kept.
        keep: u32,
    },
    /// Every file was looked at once.
    All,
}

/// A file that is watched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Master,
    Target(TargetName),
}

/// How a file was found. Whatever differs may be another content.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mark {
    Content { inode: u64, modified: (i64, i64), changed: (i64, i64), hash: u64 },
    Unreadable(ErrorKind),
    Absent,
}

/// Looks for ever, from a thread of its own, until nobody listens to `found` any more.
///
/// # Errors
/// When the thread cannot be made.
pub(crate) fn start(home: Home, found: mpsc::Sender<Found>) -> io::Result<()> {
    std::thread::Builder::new().name("config".to_owned()).spawn(move || Watch::new(home).run(&found))?;
    Ok(())
}

struct Watch {
    home: Home,
    debounce: Debounce<Name, (Mark, Mark)>,
    in_force: InForce,
    wakes: threads::Receiver<()>,
    watcher: Option<RecommendedWatcher>,
    /// The directory that is watched; a new one of the same name must be watched anew.
    watched: Option<u64>,
    /// It was said that the directory cannot be watched.
    is_refused: bool,
    complaint: String,
}

impl Watch {
    fn new(home: Home) -> Self {
        // One waiting wake-up says as much as a thousand.
        let (wake, wakes) = threads::sync_channel(1);
        let watcher = watcher(wake, &wakes).inspect_err(|why| say_unwatched(why)).ok();
        Self {
            home,
            debounce: Debounce::new(),
            in_force: InForce::default(),
            wakes,
            watcher,
            watched: None,
            is_refused: false,
            complaint: String::new(),
        }
    }

    fn run(mut self, found: &mpsc::Sender<Found>) {
        let mut is_first = true;
        loop {
            self.watch_directory();
            let changed = self.look(is_first);
            let all = is_first.then_some(Found::All);
            for event in self.read(changed).into_iter().chain(all) {
                if found.blocking_send(event).is_err() {
                    return;
                }
            }
            is_first = false;
            if self.debounce.is_doubtful() {
                std::thread::sleep(SETTLE);
            } else if let Err(threads::RecvTimeoutError::Disconnected) = self.wakes.recv_timeout(POLL) {
                // Without a watcher there is nobody to wake us.
                std::thread::sleep(POLL);
            }
            if found.is_closed() {
                return;
            }
        }
    }

    /// Watches the directory that is there now. Where that fails, looking now and then still finds every change.
    fn watch_directory(&mut self) {
        let directory = self.home.config_dir();
        let inode = fs::metadata(&directory).ok().map(|metadata| metadata.ino());
        let Some(watcher) = self.watcher.as_mut().filter(|_| inode != self.watched) else { return };
        // One that was removed is not watched any longer in any case; that is the error.
        let _ = watcher.unwatch(&directory);
        self.watched = None;
        if inode.is_none() {
            return;
        }
        match watcher.watch(&directory, RecursiveMode::NonRecursive) {
            Ok(()) => (self.watched, self.is_refused) = (inode, false),
            Err(error) => {
                if !mem::replace(&mut self.is_refused, true) {
                    say_unwatched(&error.to_string());
                }
            }
        }
    }

    /// The files whose change is certain.
    fn look(&mut self, is_first: bool) -> Vec<(Name, Option<(Mark, Mark)>)> {
        let files = match self.home.target_files() {
            Ok(files) => files,
            Err(error) => {
                self.complain(format!("cannot look at config/, so nothing changes: {error}"));
                return Vec::new();
            }
        };
        let mut misnamed = Vec::new();
        let defaults = mark(&self.home.master_config());
        let mut found = BTreeMap::from([(Name::Master, (defaults.clone(), Mark::Absent))]);
        for file in files {
            let target = match file {
                TargetFile::Named(target) => target,
                TargetFile::Misnamed(why) => {
                    misnamed.push(why);
                    continue;
                }
            };
            let own = mark(&self.home.target_config(&target));
            if own != Mark::Absent {
                // Its settings come from both files, so a change of either is a change of them.
                found.insert(Name::Target(target), (own, defaults.clone()));
            }
        }
        self.complain(misnamed.join("; "));
        if is_first { self.debounce.first_look(&found) } else { self.debounce.look(&found) }
    }

    /// Reads what changed, and what is not in force although nothing of it changed: a key that was open to others, or another target's claim.
    fn read(&mut self, changed: Vec<(Name, Option<(Mark, Mark)>)>) -> Vec<Found> {
        let mut found = Vec::new();
        let mut loaded = BTreeMap::new();
        for (name, mark) in changed {
            match (name, mark) {
                (Name::Master, _) => found.extend(self.read_master()),
                (Name::Target(target), None) => drop(loaded.insert(target, Loaded::Removed)),
                (Name::Target(target), Some(_)) => drop(loaded.insert(target.clone(), self.load(&target))),
            }
        }
        let changed: BTreeSet<TargetName> = loaded.keys().cloned().collect();
        if !self.debounce.is_doubtful() {
            for target in self.in_force.refused().filter(|target| !changed.contains(*target)) {
                loaded.insert(target.clone(), self.load(target));
            }
        }
        for (target, seen) in self.in_force.judge(loaded, &changed) {
            let path = self.home.target_config(&target);
            found.push(Found::Target(target, path, seen));
        }
        found
    }

    fn load(&self, target: &TargetName) -> Loaded {
        match blat_config::load_target(&self.home, target) {
            Ok(settings) => Loaded::Valid(Box::new(Claim::new(settings))),
            Err(complaints) => Loaded::Invalid { verdict: complaints.verdict(), error: complaints.to_string() },
        }
    }

    fn read_master(&self) -> Option<Found> {
        match blat_config::load_master(&self.home) {
            Ok(settings) => {
                let log = settings.log;
                Some(Found::Master { verbose: settings.verbose, max: log.max, keep: log.keep })
            }
            Err(complaints) => {
                tracing::warn!("blat.yaml is not valid, so it changes nothing: {complaints}");
                None
            }
        }
    }

    /// Logs a complaint about the directory once, as long as it stays the same; nothing is no complaint.
    fn complain(&mut self, complaint: String) {
        if self.complaint != complaint {
            if !complaint.is_empty() {
                tracing::warn!("{complaint}");
            }
            self.complaint = complaint;
        }
    }
}

/// Makes what wakes us by `wake` when something happens in the directory that it watches. It has an inotify instance of its own: the one of
/// the tag directories is handed to the agents, and `notify` keeps its descriptor to itself.
///
/// # Errors
/// Why there is none.
fn watcher(wake: threads::SyncSender<()>, wakes: &threads::Receiver<()>) -> Result<RecommendedWatcher, String> {
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| is_of_interest(event.kind)) {
            // Full: one is waiting already. Gone: nobody looks any more.
            let _ = wake.try_send(());
        }
    })
    .map_err(|error| error.to_string())?;
    if wakes.try_recv() == Err(threads::TryRecvError::Disconnected) {
        // The system gave it no thread, which it does not report. All that can be done with it from here on, and its end as well, is a panic.
        mem::forget(watcher);
        return Err("the system gives no thread for them".to_owned());
    }
    Ok(watcher)
}

fn say_unwatched(why: &str) {
    tracing::warn!(why, "no notifications of config/; changes are found by looking every {POLL:?}");
}

/// Reading a file is an event too, and our own reading must not wake us.
fn is_of_interest(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

/// How the file at `path` is now. Never waits for the other end of a pipe.
fn mark(path: &Path) -> Mark {
    match content(path) {
        Ok(mark) => mark,
        Err(error) if error.kind() == ErrorKind::NotFound => Mark::Absent,
        Err(error) => Mark::Unreadable(error.kind()),
    }
}

fn content(path: &Path) -> io::Result<Mark> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(nonblocking).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(Mark::Unreadable(ErrorKind::InvalidInput));
    }
    let mut bytes = Vec::new();
    file.take(COMPARED).read_to_end(&mut bytes)?;
    let mut hasher = DefaultHasher::new();
    (bytes, metadata.len()).hash(&mut hasher);
    Ok(Mark::Content {
        inode: metadata.ino(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
        hash: hasher.finish(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn woken(watch: &Watch, by: &str) {
        assert_eq!(watch.wakes.recv_timeout(Duration::from_secs(20)), Ok(()), "{by}");
    }

    #[test]
    fn a_change_wakes_also_in_a_directory_that_took_the_place_of_another() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let (config, new) = (scratch.path().join("config"), scratch.path().join("new"));
        fs::create_dir(&config).expect("a directory");
        fs::create_dir(&new).expect("a directory");
        let mut watch = Watch::new(Home::at(scratch.path()).expect("a home tree"));
        watch.watch_directory();
        fs::write(config.join("perth.conf"), "host: perth\n").expect("a file");
        woken(&watch, "by the first directory");
        fs::rename(&config, scratch.path().join("old")).expect("an own directory");
        watch.watch_directory();
        assert_eq!(watch.watched, None, "it is gone");
        fs::rename(&new, &config).expect("an own directory");
        watch.watch_directory();
        while watch.wakes.try_recv().is_ok() {}
        fs::write(config.join("perth.conf"), "host: perth\n").expect("a file");
        woken(&watch, "by the second directory");
    }

    #[test]
    fn reading_is_no_change() {
        use notify::event::ModifyKind;
        let read = [AccessKind::Open(AccessMode::Any), AccessKind::Close(AccessMode::Read), AccessKind::Read];
        assert!(!read.into_iter().any(|kind| is_of_interest(EventKind::Access(kind))));
        assert!(is_of_interest(EventKind::Access(AccessKind::Close(AccessMode::Write))));
        assert!(is_of_interest(EventKind::Modify(ModifyKind::Any)));
    }
}
