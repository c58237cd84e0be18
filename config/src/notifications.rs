//! The system's notifications of what happens in tag directories: one inotify instance, for the agents of a master together, or of an agent
//! that was started by hand.
//!
//! The system counts instances by account, and allows few (128). So the master makes one, hands it to its agents, and reads it; each agent
//! adds its own tag directory, which it reached by handles. So the master never touches a directory that may be a stranger's or may hang.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use blat_domain::protocol::news::{Heard, Notice};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

/// How much is read at once, in bytes: some hundred notifications.
const READ_AT_ONCE: usize = 16 << 10;

/// The settings that bound how many instances an account may have.
const INSTANCES: [&str; 2] = ["fs.inotify.max_user_instances", "user.max_inotify_instances"];
/// The settings that bound how many directories an account may watch.
const WATCHES: [&str; 2] = ["fs.inotify.max_user_watches", "user.max_inotify_watches"];
/// The setting that bounds how many notifications wait.
const QUEUE: [&str; 1] = ["fs.inotify.max_queued_events"];

/// An inotify instance.
#[derive(Debug)]
pub struct Notifications(OwnedFd);

impl Notifications {
    /// Makes one.
    ///
    /// # Errors
    /// Why there is none, with the limit that was reached and its value.
    pub fn new() -> io::Result<Self> {
        match inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) {
            Ok(instance) => Ok(Self(instance)),
            Err(Errno::MFILE) => Err(reached("the account may have no more inotify instances", &INSTANCES)),
            Err(error) => Err(error.into()),
        }
    }

    /// Watches the directory that is at `path` now, and gives the number by which notifications name it. A directory has one number in an
    /// instance, however often it is watched. Waits for the directory's file system.
    ///
    /// # Errors
    /// Why that is refused, with the limit that was reached and its value.
    pub fn watch(&self, path: &Path) -> io::Result<i32> {
        let what = WatchFlags::CLOSE_WRITE
            | WatchFlags::MODIFY
            | WatchFlags::MOVE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        match inotify::add_watch(&self.0, path, what) {
            Ok(watch) => Ok(watch),
            Err(Errno::NOSPC) => Err(reached("the account may watch no more directories", &WATCHES)),
            Err(error) => Err(error.into()),
        }
    }

    /// Watches a directory no longer. One that is gone is not watched in any case.
    pub fn unwatch(&self, watch: i32) {
        // EINVAL says just that.
        let _ = inotify::remove_watch(&self.0, watch);
    }

    /// Gives `hear` what has come, with the number of the directory that it is about; without one where it is about all of them. Never waits.
    /// Whether there may be more.
    ///
    /// # Errors
    /// What reading says.
    pub fn read(&self, mut hear: impl FnMut(Option<i32>, Notice<'_>)) -> io::Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); READ_AT_ONCE];
        let mut reader = Reader::new(&self.0, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let watch = Some(event.wd()).filter(|watch| *watch >= 0);
                    hear(watch, notice(event.events(), event.file_name().map(|name| name.to_bytes())));
                }
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            if reader.is_buffer_empty() {
                return Ok(true);
            }
        }
    }
}

impl From<OwnedFd> for Notifications {
    /// An instance that another process has made.
    fn from(instance: OwnedFd) -> Self {
        Self(instance)
    }
}

impl AsFd for Notifications {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Notifications {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// For the operator, where [`Notice::Lost`] came: which limit that was.
pub fn lost() -> String {
    reached("notifications of tags came faster than they were read, and some were lost", &QUEUE).to_string()
}

fn notice(events: ReadFlags, name: Option<&[u8]>) -> Notice<'_> {
    if events.contains(ReadFlags::QUEUE_OVERFLOW) {
        return Notice::Lost;
    }
    // A directory whose file system goes away is not watched any longer either.
    if events.intersects(ReadFlags::IGNORED | ReadFlags::DELETE_SELF | ReadFlags::UNMOUNT) {
        return Notice::Gone;
    }
    match name {
        Some(name) if events.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO) => {
            Notice::File(name, Heard::Whole)
        }
        Some(name) if events.contains(ReadFlags::MODIFY) => Notice::File(name, Heard::Writing),
        name => Notice::Other(name),
    }
}

/// That a limit of the system was reached, with the setting that is the lowest and what to do.
fn reached(what: &str, settings: &[&str]) -> io::Error {
    let value = |name: &str| {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        fs::read_to_string(path).ok()?.trim().parse::<u64>().ok()
    };
    let lowest = settings.iter().filter_map(|name| Some((value(name)?, name))).min_by_key(|(value, _)| *value);
    io::Error::other(match lowest {
        Some((value, name)) => format!("{what}: {name} is {value}; raise it (sysctl -w {name}=…)"),
        // Where nothing more can be opened, that is what was reached.
        None => format!("{what}, or this process may open no more files; raise {} or LimitNOFILE=", settings[0]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(instance: &Notifications) -> Vec<(Option<i32>, String)> {
        let mut heard = Vec::new();
        while instance.read(|watch, notice| heard.push((watch, format!("{notice:?}")))).expect("it can be read") {}
        heard
    }

    fn file(name: &str, heard: Heard) -> String {
        format!("{:?}", Notice::File(name.as_bytes(), heard))
    }

    #[test]
    fn what_happens_in_each_directory_is_told_apart_and_reading_is_nothing() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let (a, b) = (scratch.path().join("a"), scratch.path().join("b"));
        fs::create_dir(&a).expect("a directory");
        fs::create_dir(&b).expect("a directory");
        let instance = Notifications::new().expect("an instance");
        let (in_a, in_b) = (instance.watch(&a).expect("watched"), instance.watch(&b).expect("watched"));
        assert_eq!(instance.watch(&a).expect("watched"), in_a, "a directory has one number");
        fs::write(a.join("x"), "text").expect("a file");
        fs::read(a.join("x")).expect("a file");
        fs::read_dir(&a).expect("a directory").for_each(drop);
        fs::rename(a.join("x"), b.join("y")).expect("one file system");
        let heard = all(&instance);
        assert!(heard.contains(&(Some(in_a), file("x", Heard::Writing))), "{heard:?}");
        assert!(heard.contains(&(Some(in_a), file("x", Heard::Whole))), "{heard:?}");
        assert_eq!(heard.last(), Some(&(Some(in_b), file("y", Heard::Whole))), "{heard:?}");
        fs::read_dir(&a).expect("a directory").for_each(drop);
        assert_eq!(all(&instance), [], "looking is no reason to look");
        fs::remove_dir(&a).expect("an empty directory");
        assert!(all(&instance).contains(&(Some(in_a), "Gone".to_owned())));
        assert_ne!(instance.watch(&b).expect("watched"), in_a);
    }

    #[test]
    fn more_than_waits_is_lost_and_named() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let instance = Notifications::new().expect("an instance");
        instance.watch(scratch.path()).expect("watched");
        let most: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")
            .expect("a setting")
            .trim()
            .parse()
            .expect("a number");
        let (x, y) = (scratch.path().join("x"), scratch.path().join("y"));
        fs::write(&x, "").expect("a file");
        for _ in 0..=most / 4 {
            fs::rename(&x, &y).expect("a file");
            fs::rename(&y, &x).expect("a file");
        }
        assert_eq!(all(&instance).last(), Some(&(None, "Lost".to_owned())));
        assert!(lost().contains(&format!("fs.inotify.max_queued_events is {most}")), "{}", lost());
    }

    #[test]
    fn a_file_is_no_directory_and_that_is_no_limit() {
        let scratch = tempfile::NamedTempFile::new().expect("a file");
        let error = Notifications::new().expect("an instance").watch(scratch.path()).expect_err("a file");
        assert_eq!(error.raw_os_error(), Some(Errno::NOTDIR.raw_os_error()));
    }
}
