//! Kernel locks, the scripts' own: whoever dies gives them back, and a left-over file blocks nobody.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use std::{io, thread};

use crate::archive::dir::Dir;
use crate::archive::{Archive, CHECK_MODES, HOUSE, Rooms};
use crate::failure::Failure;

/// How long to wait for whoever publishes at the moment.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest nap between two looks at a lock.
const LONGEST_NAP: Duration = Duration::from_millis(50);

/// Held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held, not read")] File);

/// Takes the lock of a name in a directory; none where somebody else holds it.
pub(crate) fn try_lock(dir: &Dir, name: &str) -> io::Result<Option<Lock>> {
    loop {
        let file = dir.touch(name)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Whoever held it may have removed the file after we opened it.
        let ours = file.metadata()?;
        match dir.stat(name)? {
            Some(there) if (there.st_dev, there.st_ino) == (ours.dev(), ours.ino()) => return Ok(Some(Lock(file))),
            Some(_) | None => {}
        }
    }
}

/// Lanes wait for each other here, not in naps.
static PUBLISHING: Mutex<()> = Mutex::new(());

/// Runs `change` while nobody else changes what is published.
pub(crate) fn publishing<T>(archive: &Archive, rooms: &Rooms, change: impl FnOnce() -> T) -> Result<T, Failure> {
    // A lane that died in there has ended the process, so a poisoned lock is never seen.
    let _ours = PUBLISHING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let what = || format!("locking {HOUSE}/publish.lock in {}", archive.shown());
    let since = Instant::now();
    let mut nap = Duration::from_millis(1);
    loop {
        match try_lock(&rooms.house, "publish.lock") {
            Ok(Some(_lock)) => return Ok(change()),
            Ok(None) if since.elapsed() < PATIENCE => {
                thread::sleep(nap);
                nap = (nap * 2).min(LONGEST_NAP);
            }
            Ok(None) => {
                let why = format!("another process holds it since {} s", PATIENCE.as_secs());
                return Err(Failure::busy(what(), why));
            }
            Err(error) => return Err(Failure::io(what(), &error, CHECK_MODES)),
        }
    }
}
