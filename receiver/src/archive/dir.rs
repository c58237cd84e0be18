//! A directory by its handle. Names given to it are single ones, but where it says path; nothing here follows a symbolic link.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use rustix::process::Gid;

use super::resolve::{open_beneath, open_unmounted};
use blat_domain::protocol::frames::Time;
use blat_paths::{Astray, Missing, is_same, walk};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A directory that stays the same, whatever becomes of its path.
#[derive(Debug)]
pub(crate) struct Dir(OwnedFd);

/// What a directory holds under one name.
pub(crate) struct Found {
    /// The name, byte for byte.
    pub(crate) name: Vec<u8>,
    /// What it is, as far as the directory knows.
    pub(crate) kind: FileType,
}

impl Dir {
    /// The directory that a path of the operator's leads to.
    pub(crate) fn of_operator(path: &Path) -> Result<Self, Astray> {
        let walked = walk(path, Missing::Fail)?;
        let opened = rustix::fs::openat(walked.directory, ".", DIRECTORY, Mode::empty());
        opened.map(Self).map_err(|errno| Astray::Io { part: ".".to_owned(), error: errno.into() })
    }

    /// Whether such a path leads to it now.
    pub(crate) fn is_at(&self, path: &Path) -> Result<bool, Astray> {
        let now = walk(path, Missing::Fail)?;
        is_same(now.directory, &self.0).map_err(|error| Astray::Io { part: ".".to_owned(), error })
    }

    /// The directory above, to look up names in.
    pub(crate) fn above(&self) -> io::Result<Self> {
        let way = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(&self.0, "..", way, Mode::empty())?))
    }

    /// A directory below this one.
    pub(crate) fn open(&self, path: impl AsRef<[u8]>) -> io::Result<Self> {
        beneath(&self.0, path.as_ref(), DIRECTORY).map(Self)
    }

    /// A directory in it, unless something is mounted there.
    pub(crate) fn open_unmounted(&self, name: &[u8]) -> io::Result<Self> {
        open_unmounted(&self.0, name, DIRECTORY).map(Self)
    }

    /// The same, where there is one: a directory and no link to one.
    pub(crate) fn open_if_there(&self, path: impl AsRef<[u8]>) -> io::Result<Option<Self>> {
        match self.open(path) {
            Ok(dir) => Ok(Some(dir)),
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Another handle of the same directory.
    pub(crate) fn open_again(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// The handle alone.
    pub(crate) fn into_file(self) -> File {
        self.0.into()
    }

    /// Opens a directory after making it where it is missing; says whether it was.
    pub(crate) fn ensure(&self, name: &str) -> io::Result<(Self, bool)> {
        self.ensure_with(name, 0o755)
    }

    /// The same for a directory that its owner alone may enter: one of an older version is closed to others.
    pub(crate) fn ensure_private(&self, name: &str) -> io::Result<(Self, bool)> {
        let (dir, made) = self.ensure_with(name, 0o700)?;
        close_to_others(&dir.0)?;
        Ok((dir, made))
    }

    fn ensure_with(&self, name: &str, mode: u16) -> io::Result<(Self, bool)> {
        match self.open(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = match self.make(name, mode) {
                    Ok(()) => true,
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
                    Err(error) => return Err(error),
                };
                Ok((self.open(name)?, made))
            }
            result => Ok((result?, false)),
        }
    }

    /// Makes a directory.
    pub(crate) fn make(&self, name: impl AsRef<[u8]>, mode: u16) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.0, name.as_ref(), Mode::from_raw_mode(mode.into()))?)
    }

    /// A regular file below this one, for reading. Never waits for whoever has the other end of a pipe.
    pub(crate) fn read(&self, path: impl AsRef<[u8]>) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        regular(beneath(&self.0, path.as_ref(), flags)?)
    }

    /// A new file, for its owner alone, for writing.
    pub(crate) fn create(&self, name: impl AsRef<[u8]>) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(open_at(&self.0, name.as_ref(), flags)?.into())
    }

    /// A file to lock, made where it is missing. Whoever can open it can hold its lock for ever, so its owner alone may; one of an older
    /// version is closed to others.
    pub(crate) fn lock_file(&self, name: impl AsRef<[u8]>) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = open_at(&self.0, name.as_ref(), flags)?;
        close_to_others(&file)?;
        Ok(file.into())
    }

    /// What is under a name, where anything is.
    pub(crate) fn stat(&self, name: impl AsRef<[u8]>) -> io::Result<Option<Stat>> {
        stat_at(&self.0, name.as_ref(), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// What a path of two names leads to at last, links followed: only to look whether somebody finds it, never to touch it.
    pub(crate) fn stat_as_readers_do(&self, path: impl AsRef<[u8]>) -> io::Result<Option<Stat>> {
        match stat_at(&self.0, path.as_ref(), AtFlags::empty()) {
            Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => Ok(None),
            stat => stat,
        }
    }

    /// What something that was found in it is, also where the directory itself does not know.
    pub(crate) fn kind_of(&self, found: &Found) -> io::Result<FileType> {
        match found.kind {
            FileType::Unknown => Ok(self.stat(found.name.as_slice())?.map_or(FileType::Unknown, |stat| kind(&stat))),
            known => Ok(known),
        }
    }

    /// The directory itself.
    pub(crate) fn own_stat(&self) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(&self.0)?)
    }

    /// Where a link leads; none where there is no link.
    pub(crate) fn link_target(&self, name: impl AsRef<[u8]>) -> io::Result<Option<Vec<u8>>> {
        match rustix::fs::readlinkat(&self.0, name.as_ref(), Vec::new()) {
            Ok(to) => Ok(Some(to.into_bytes())),
            Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a symbolic link.
    pub(crate) fn link(&self, to: impl AsRef<[u8]>, name: impl AsRef<[u8]>) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(to.as_ref(), &self.0, name.as_ref())?)
    }

    /// Gives what has a name in it another one. Of a symbolic link it is the link itself that gets it.
    pub(crate) fn hard_link(&self, name: &[u8], to: &Self, new: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::linkat(&self.0, name, &to.0, new, AtFlags::empty())?)
    }

    /// Removes a file or a link; what is not there is no error.
    pub(crate) fn unlink(&self, name: impl AsRef<[u8]>) -> io::Result<()> {
        unlink_at(&self.0, name.as_ref(), AtFlags::empty())
    }

    /// Removes an empty directory; what is not there is no error.
    pub(crate) fn remove_directory(&self, name: impl AsRef<[u8]>) -> io::Result<()> {
        unlink_at(&self.0, name.as_ref(), AtFlags::REMOVEDIR)
    }

    /// Removes a directory if it is empty.
    pub(crate) fn remove_empty(&self, name: impl AsRef<[u8]>) {
        // It is for tidiness alone: one that stays is in nobody's way.
        let _ = self.remove_directory(name);
    }

    /// Renames over whatever may be at the new place.
    pub(crate) fn rename(&self, old: impl AsRef<[u8]>, to: &Self, new: impl AsRef<[u8]>) -> io::Result<()> {
        Ok(rename_at(&self.0, old.as_ref(), &to.0, new.as_ref(), RenameFlags::empty())?)
    }

    /// Renames to a place where nothing is. Where the file system cannot promise that, the look before has to do, under our lock.
    pub(crate) fn rename_new(&self, old: &str, to: &Self, new: &str) -> io::Result<()> {
        match rename_at(&self.0, old.as_bytes(), &to.0, new.as_bytes(), RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) if to.stat(new)?.is_none() => self.rename(old, to, new),
            result => Ok(result?),
        }
    }

    /// Swaps two things; false where the file system cannot.
    pub(crate) fn exchange(&self, a: &str, to: &Self, b: &str) -> io::Result<bool> {
        match rename_at(&self.0, a.as_bytes(), &to.0, b.as_bytes(), RenameFlags::EXCHANGE) {
            Ok(()) => Ok(true),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets its owner alone into a directory in it, and do everything there.
    pub(crate) fn open_for_owner(&self, name: &[u8]) -> io::Result<()> {
        match self.open(name) {
            Ok(inner) => inner.set_mode(0o700),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => self.open_up(name, 0).map(|_| ()),
            Err(error) => Err(error),
        }
    }

    /// What the directory holds, in its own order.
    pub(crate) fn entries(&self) -> io::Result<impl Iterator<Item = io::Result<Found>>> {
        let entries = rustix::fs::Dir::read_from(&self.0)?;
        Ok(entries.filter_map(|entry| match entry {
            Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => None,
            Ok(entry) => Some(Ok(Found { name: entry.file_name().to_bytes().to_vec(), kind: entry.file_type() })),
            Err(error) => Some(Err(error.into())),
        }))
    }

    /// Gives the directory itself these permission bits.
    pub(crate) fn set_mode(&self, mode: u16) -> io::Result<()> {
        Ok(rustix::fs::fchmod(&self.0, Mode::from_raw_mode(mode.into()))?)
    }

    /// Gives the directory itself a group.
    pub(crate) fn set_group(&self, group: Gid) -> io::Result<()> {
        Ok(rustix::fs::fchown(&self.0, None, Some(group))?)
    }

    /// Gives a file, a directory or a link in it a group.
    pub(crate) fn set_group_of(&self, name: impl AsRef<[u8]>, group: Gid) -> io::Result<()> {
        Ok(rustix::fs::chownat(&self.0, name.as_ref(), None, Some(group), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Gives the directory itself this time.
    pub(crate) fn set_time(&self, time: Time) -> io::Result<()> {
        Ok(rustix::fs::futimens(&self.0, &timestamps(time))?)
    }

    /// Gives a file or a link in it this time.
    pub(crate) fn set_time_of(&self, name: impl AsRef<[u8]>, time: Time) -> io::Result<()> {
        Ok(rustix::fs::utimensat(&self.0, name.as_ref(), &timestamps(time), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Makes the directory itself durable: its names, mode and time.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.0)?)
    }

    /// Another handle of it, to make it durable beside others.
    pub(crate) fn handle(&self) -> io::Result<File> {
        Ok(File::from(self.0.try_clone()?))
    }

    /// Makes the whole file system durable.
    pub(crate) fn sync_file_system(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0)?)
    }

    /// Bytes that its owner could still write on this file system.
    pub(crate) fn free(&self) -> io::Result<u64> {
        let disk = rustix::fs::fstatvfs(&self.0)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// A handle of a directory in it that its owner may not even read, opened up for its owner first; of its mode these bits stay. By way of
    /// `/proc`, since the plain call would follow a link that somebody put there meanwhile.
    pub(super) fn open_up(&self, name: &[u8], kept: u32) -> io::Result<Self> {
        let handle = open_unmounted(&self.0, name, OFlags::PATH | OFlags::DIRECTORY)?;
        let mode = rustix::fs::fstat(&handle)?.st_mode & kept;
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&handle));
        rustix::fs::chmodat(CWD, path, Mode::RWXU | Mode::from_raw_mode(mode), AtFlags::empty())?;
        self.open(name)
    }

    /// A directory in it, unless something is mounted there, to list it and to enter what is in it. One that is closed to its owner is opened up:
    /// with it comes the mode to give back to it.
    pub(super) fn open_for_a_look(&self, name: &[u8]) -> io::Result<(Self, Option<u16>)> {
        const ALL: u32 = 0o7777;
        let handle = open_unmounted(&self.0, name, OFlags::PATH | OFlags::DIRECTORY)?;
        let mode = rustix::fs::fstat(&handle)?.st_mode & ALL;
        if mode & 0o500 == 0o500 {
            return Ok((self.open_unmounted(name)?, None));
        }
        Ok((self.open_up(name, ALL)?, u16::try_from(mode).ok()))
    }
}

// One copy of each for every kind of text that a name comes as: a receiver travels to its targets, so it is kept small.

#[inline(never)]
fn beneath(dir: &OwnedFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    open_beneath(dir, path, flags, Mode::empty())
}

#[inline(never)]
fn regular(file: OwnedFd) -> io::Result<File> {
    let file: File = file.into();
    if file.metadata()?.is_file() { Ok(file) } else { Err(Errno::ISDIR.into()) }
}

#[inline(never)]
fn open_at(dir: &OwnedFd, name: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)
}

#[inline(never)]
fn stat_at(dir: &OwnedFd, name: &[u8], flags: AtFlags) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(dir, name, flags) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[inline(never)]
fn unlink_at(dir: &OwnedFd, name: &[u8], flags: AtFlags) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[inline(never)]
fn rename_at(dir: &OwnedFd, old: &[u8], to: &OwnedFd, new: &[u8], flags: RenameFlags) -> rustix::io::Result<()> {
    // Without flags by the older call, which every system has.
    if flags.is_empty() {
        return rustix::fs::renameat(dir, old, to, new);
    }
    rustix::fs::renameat_with(dir, old, to, new, flags)
}

impl AsFd for Dir {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Takes all permissions of group and others away. Where it belongs to somebody else, that one does it.
fn close_to_others(handle: &OwnedFd) -> io::Result<()> {
    let mode = rustix::fs::fstat(handle)?.st_mode;
    match Mode::from_raw_mode(mode & 0o7700) {
        _ if mode & 0o077 == 0 => Ok(()),
        closed => match rustix::fs::fchmod(handle, closed) {
            Err(Errno::PERM) => Ok(()),
            result => Ok(result?),
        },
    }
}

/// What a file or directory is by its `stat`.
pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Its permission bits.
pub(crate) fn permissions(stat: &Stat) -> u16 {
    u16::try_from(stat.st_mode & 0o777).unwrap_or(0)
}

/// A time of modification for the kernel; that of access becomes the same.
pub(crate) fn timestamps(time: Time) -> Timestamps {
    let time = Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// Whether an error says that no such directory or file is there: nothing, a link, or something else.
pub(crate) fn is_absence(error: &io::Error) -> bool {
    let absent = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::ISDIR, Errno::NXIO];
    absent.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
