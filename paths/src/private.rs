//! What only the home's owner can open: the folders `run/` and `state/`, and every file that is locked.
//!
//! Whoever can open a file can lock it, if only for reading, and a lock in a stranger's hand stops whoever waits for it. So no lock of ours
//! is on a file or folder that others can open, and those of former versions, which were open to all, are closed when they are used.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags, fchmod, major, minor};
use rustix::process::geteuid;

/// What others may not do with a folder in which we keep files of our own: nothing.
const NOTHING: u32 = 0o077;
/// What they may not do with a folder that they may look into: write.
const WRITING: u32 = 0o022;
/// How often a file is opened anew that somebody removes or replaces at the same moment.
const TRIES: usize = 100;

/// Makes a folder for the owner alone, with all above it that is missing, or closes one that is there to everybody else.
///
/// # Errors
/// Where it cannot be made, is no folder, belongs to somebody else, or its mode cannot be changed.
pub fn directory(path: &Path) -> io::Result<()> {
    without(path, NOTHING, 0o700)
}

/// As [`directory`], where others of the owner's group may look into it. What others may read in one that is there stays as it is.
///
/// # Errors
/// As [`directory`].
pub fn readable_directory(path: &Path) -> io::Result<()> {
    without(path, WRITING, 0o750)
}

fn without(path: &Path, denied: u32, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)?;
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    // A link is fine here: nobody else can put one into a folder of ours.
    let folder = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let found = folder.metadata()?;
    own(&found, denied)?;
    close(&folder, &found, denied)
}

/// The file at `path`, locked for this process alone, made where it is missing; none where another process of ours holds the lock. It is the
/// file that is at `path` when the lock is taken, and others can open it from then on no more.
///
/// A stranger who opened a former version's file when that was still open to all can hold its lock: such a file is given up for a new one.
///
/// # Errors
/// Where the file cannot be made, opened or locked, is no regular file, or belongs to somebody else.
pub fn try_lock(path: &Path) -> io::Result<Option<File>> {
    for _ in 0..TRIES {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
        let file = options.open(path)?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::other("it is not a regular file; remove it"));
        }
        own(&found, NOTHING)?;
        let was_open = found.mode() & NOTHING != 0;
        close(&file, &found, NOTHING)?;
        match file.try_lock() {
            // A former holder may have removed the file between our opening and our locking it: then the lock is on nothing.
            Ok(()) if is_at(&found, path)? => return Ok(Some(file)),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if was_open && is_strangers(&found) => remove(path)?,
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::Error::new(ErrorKind::ResourceBusy, "it is removed again and again by somebody else"))
}

/// Whether any process of ours holds the lock of the file at `path`, and that file; none where there is none.
///
/// # Errors
/// Where the file is there and cannot be opened or locked for another reason.
pub fn locked(path: &Path) -> io::Result<Option<File>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let found = file.metadata()?;
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) if found.mode() & NOTHING != 0 && is_strangers(&found) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(file)),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether the file at `path` is the one that was found: false where there is none or another.
///
/// # Errors
/// Where that cannot be told.
pub fn is_at(found: &Metadata, path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (found.dev(), found.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// What belongs to somebody else can be opened to strangers again by him. Root's is well as long as it is closed, which only root can do.
fn own(found: &Metadata, denied: u32) -> io::Result<()> {
    let (owner, us) = (found.uid(), geteuid().as_raw());
    if owner == us || (owner == 0 && found.mode() & denied == 0) {
        return Ok(());
    }
    let text = format!("it belongs to user {owner}, and only user {us} may have it; give it back with chown -R {us}");
    Err(io::Error::new(ErrorKind::PermissionDenied, text))
}

fn close(file: &File, found: &Metadata, denied: u32) -> io::Result<()> {
    if found.mode() & denied == 0 {
        return Ok(());
    }
    Ok(fchmod(file, Mode::from_raw_mode(found.mode() & 0o7777 & !denied))?)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether a process of another account holds this file's lock. Where the system does not show who does, one of ours does.
fn is_strangers(found: &Metadata) -> bool {
    let place = format!("{:02x}:{:02x}:{}", major(found.dev()), minor(found.dev()), found.ino());
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let holders = locks.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // "4: FLOCK  ADVISORY  WRITE 4711 fd:00:1048602 0 EOF"; who only waits has an arrow behind the number.
        let is_held = words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&place.as_str());
        is_held.then(|| fs::metadata(format!("/proc/{}", words[4])).ok()).flatten()
    });
    let ours = [0, geteuid().as_raw()];
    holders.map(|process| process.uid()).any(|owner| !ours.contains(&owner))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").mode() & 0o7777
    }

    #[test]
    fn folders_are_made_for_the_owner_alone_and_old_ones_are_closed() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let (new, old) = (scratch.path().join("a/b"), scratch.path().join("old"));
        directory(&new).expect("made");
        fs::create_dir(&old)
            .and_then(|()| fs::set_permissions(&old, Permissions::from_mode(0o2775)))
            .expect("an old one");
        readable_directory(&old).expect("an own folder");
        assert_eq!(mode(&old), 0o2755);
        directory(&old).expect("an own folder");
        assert_eq!((mode(&new), mode(&scratch.path().join("a")), mode(&old)), (0o700, 0o700, 0o2700));
    }

    #[test]
    fn a_lock_file_is_closed_before_it_is_locked() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("lock");
        fs::write(&path, "")
            .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o666)))
            .expect("an old one");
        let held = try_lock(&path).expect("usable").expect("free");
        assert_eq!(mode(&path), 0o600);
        assert!(try_lock(&path).expect("usable").is_none() && locked(&path).expect("usable").is_some());
        drop(held);
        assert!(locked(&path).expect("usable").is_none() && try_lock(&path).expect("usable").is_some());
    }

    #[test]
    fn what_is_no_file_is_neither_locked_nor_waited_for() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let (pipe, link) = (scratch.path().join("pipe"), scratch.path().join("link"));
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).expect("a FIFO");
        std::os::unix::fs::symlink(scratch.path().join("elsewhere"), &link).expect("a link");
        assert!(try_lock(&pipe).is_err() && try_lock(&link).is_err());
        assert!(!scratch.path().join("elsewhere").exists(), "a link is not followed");
    }
}
