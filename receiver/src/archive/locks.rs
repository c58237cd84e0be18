//! Kernel locks, the scripts' own: whoever dies gives them back, and a left-over file blocks nobody.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use std::{io, thread};

use blat_domain::archive::CONTROL;

use crate::archive::dir::Dir;
use crate::archive::{Archive, CHECK_MODES, Rooms};
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
        let file = dir.lock_file(name)?;
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

/// The same, after waiting for whoever holds it, for so long at most.
pub(crate) fn wait_lock(dir: &Dir, name: &str, patience: Duration) -> io::Result<Option<Lock>> {
    let since = Instant::now();
    let mut nap = Duration::from_millis(1);
    loop {
        match try_lock(dir, name)? {
            None if since.elapsed() < patience => {
                thread::sleep(nap);
                nap = (nap * 2).min(LONGEST_NAP);
            }
            lock => return Ok(lock),
        }
    }
}

/// Lanes wait for each other here, not in naps.
static PUBLISHING: Mutex<()> = Mutex::new(());

/// Runs `change` while nobody else changes what is published, in the archive that is at its path.
pub(crate) fn publishing<T>(archive: &Archive, rooms: &Rooms, change: impl FnOnce() -> T) -> Result<T, Failure> {
    // A lane that died in there has ended the process, so a poisoned lock is never seen.
    let _ours = PUBLISHING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let _lock = publish_lock(archive, rooms)?;
    archive.still_there()?;
    Ok(change())
}

fn publish_lock(archive: &Archive, rooms: &Rooms) -> Result<Lock, Failure> {
    let what = || format!("locking {CONTROL}/publish.lock in {}", archive.shown());
    match wait_lock(&rooms.control, "publish.lock", PATIENCE) {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err(Failure::busy(what(), format_args!("another process holds it since {} s", PATIENCE.as_secs()))),
        Err(error) => Err(Failure::io(what(), &error, CHECK_MODES)),
    }
}
