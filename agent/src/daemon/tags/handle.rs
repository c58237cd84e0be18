//! The tag directory as a handle. It may belong to somebody else, who may put anything at any name at any moment: so each name is
//! looked up below a handle, no link is followed, nothing is opened that could wait, and nothing is moved over what exists.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use blat_domain::package::tag::LONGEST;
use blat_domain::util::text::printable;
use blat_paths::{Missing, way};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::session::TagStamp;

/// What may be at a name that is no directory.
const NO_LINK: AtFlags = AtFlags::SYMLINK_NOFOLLOW;

/// An open directory.
#[derive(Debug)]
pub(super) struct Handle {
    fd: OwnedFd,
    /// For messages.
    path: PathBuf,
    stat: Stat,
}

/// What a name leads to, without following it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryStat {
    pub(super) stamp: TagStamp,
    pub(super) is_file: bool,
    pub(super) is_directory: bool,
    /// The account that it belongs to.
    pub(super) owner: u32,
    /// It has another name somewhere: whoever made this one need not be who may read it.
    pub(super) has_other_names: bool,
    device: u64,
}

impl EntryStat {
    fn new(stat: &Stat) -> Self {
        let nanoseconds = |part| i64::try_from(part).unwrap_or(0);
        let stamp = TagStamp {
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
            changed: (stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let (is_file, is_directory) = (kind == FileType::RegularFile, kind == FileType::Directory);
        let (owner, device) = (stat.st_uid, stat.st_dev);
        Self { stamp, is_file, is_directory, owner, has_other_names: is_file && stat.st_nlink > 1, device }
    }

    /// Whether this is the same file with the same content. A rename, which changes one of its times, makes no difference.
    pub(super) fn is_same_content(&self, other: &Self) -> bool {
        let kept = |seen: &Self| (seen.device, seen.stamp.inode, seen.stamp.size, seen.stamp.modified, seen.is_file);
        kept(self) == kept(other)
    }
}

impl Handle {
    /// Opens the directory that the configuration names, and makes it where it is missing. A link on the way counts only where root or
    /// this account made it: nobody else's leads the agent anywhere.
    ///
    /// # Errors
    /// What is wrong on the way, and with which part of it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let fd = way::open(path, Missing::Make, "tags")?;
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Self { fd, path: path.to_owned(), stat })
    }

    /// Whether the path still leads to this very directory.
    ///
    /// # Errors
    /// As [`Self::open`]; that nothing is there is none.
    pub(super) fn is_in_place(&self) -> io::Result<bool> {
        way::is_at(&self.path, &self.fd, "tags")
    }

    /// The same once more, with its owner and mode as they are now.
    pub(super) fn again(&self) -> io::Result<Self> {
        let fd = self.fd.try_clone()?;
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Self { fd, path: self.path.clone(), stat })
    }

    /// Opens a directory within this one, no link, and makes it where it is missing, so that all may read it and nobody else may write it.
    pub(super) fn subdirectory(&self, name: &OsStr) -> io::Result<Self> {
        match self.existing_subdirectory(name) {
            Err(error) if error.kind() == ErrorKind::NotFound => match self.make(name, 0o755) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => self.existing_subdirectory(name),
                made => made,
            },
            entered => entered,
        }
    }

    /// As [`Self::subdirectory`], which must be there.
    pub(super) fn existing_subdirectory(&self, name: &OsStr) -> io::Result<Self> {
        Ok(Self::enter(self.fd.as_fd(), name, self.path.join(name))?)
    }

    /// Makes a directory within this one at a name that must be free. Its rights are what `mode` says, whatever this directory hands down:
    /// an access control list may let others write what is made in it.
    pub(super) fn make(&self, name: &OsStr, mode: u32) -> io::Result<Self> {
        rustix::fs::mkdirat(&self.fd, name, Mode::RWXU)?;
        let made = self.existing_subdirectory(name)?;
        if made.owner() != geteuid().as_raw() {
            return Err(io::Error::other("another account exchanged it while it was made"));
        }
        for list in ["system.posix_acl_default", "system.posix_acl_access"] {
            match rustix::fs::fremovexattr(&made.fd, list) {
                // There is none, or the file system has no lists.
                Ok(()) | Err(Errno::NODATA | Errno::NOTSUP | Errno::INVAL | Errno::NOSYS) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let group_is_inherited = Mode::from_raw_mode(made.stat.st_mode) & Mode::SGID;
        rustix::fs::fchmod(&made.fd, Mode::from_raw_mode(mode) | group_is_inherited)?;
        made.again()
    }

    /// Removes a directory within this one, which must be empty; that it is gone already is no failure.
    pub(super) fn remove_directory(&self, name: &OsStr) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn enter(at: std::os::fd::BorrowedFd<'_>, name: &OsStr, path: PathBuf) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(at, name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Self { fd, path, stat })
    }

    /// Device and inode.
    pub(super) fn id(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }

    pub(super) fn device(&self) -> u64 {
        self.stat.st_dev
    }

    pub(super) fn owner(&self) -> u32 {
        self.stat.st_uid
    }

    pub(super) fn is_sticky(&self) -> bool {
        Mode::from_raw_mode(self.stat.st_mode).contains(Mode::SVTX)
    }

    /// A path by which this process reaches the very directory, whatever happens to its name.
    pub(super) fn own_path(&self) -> PathBuf {
        use std::os::fd::AsRawFd as _;
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }

    /// The names in it.
    pub(super) fn names(&self) -> io::Result<impl Iterator<Item = io::Result<OsString>>> {
        // Not opened anew, which everybody who watches it would be told. What shares its place in the list is not used meanwhile.
        let mut entries = Dir::new(self.fd.try_clone()?)?;
        entries.rewind();
        let names = entries.map(|entry| Ok(OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned()));
        Ok(names.filter(|name| !matches!(name, Ok(name) if name == "." || name == "..")))
    }

    /// What is at a name; none where nothing is.
    pub(super) fn see(&self, name: &OsStr) -> io::Result<Option<EntryStat>> {
        match rustix::fs::statat(&self.fd, name, NO_LINK) {
            Ok(stat) => Ok(Some(EntryStat::new(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The content of a file that was seen so, up to one byte more than a tag may have; none where it is not that any more.
    pub(super) fn read(&self, name: &OsStr, seen: &EntryStat) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.open_seen(name, seen)? else { return Ok(None) };
        let mut content = Vec::with_capacity(usize::try_from(seen.stamp.size.min(LONGEST) + 1).unwrap_or(0));
        (&file).take(LONGEST + 1).read_to_end(&mut content)?;
        Ok(is_as_seen(&file, seen)?.then_some(content))
    }

    fn open_seen(&self, name: &OsStr, seen: &EntryStat) -> io::Result<Option<File>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
            opened => opened?,
        });
        Ok((seen.is_file && is_as_seen(&file, seen)?).then_some(file))
    }

    /// Makes a file of this content under a name that must be free, for everybody to read.
    pub(super) fn create(&self, name: &OsStr, content: &[u8]) -> io::Result<()> {
        use std::io::Write as _;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o644);
        let mut file = File::from(rustix::fs::openat(&self.fd, name, flags, mode)?);
        rustix::fs::fchmod(&file, mode)?;
        file.write_all(content)
    }

    /// Moves a file to a name in `to`, which must be free.
    pub(super) fn move_to_free(&self, name: &OsStr, to: &Self, new: &OsStr) -> io::Result<()> {
        match rustix::fs::renameat_with(&self.fd, name, &to.fd, new, RenameFlags::NOREPLACE) {
            // File systems that cannot do it in one step, NFS among them.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => self.move_in_steps(name, to, new),
            moved => Ok(moved?),
        }
    }

    fn move_in_steps(&self, name: &OsStr, to: &Self, new: &OsStr) -> io::Result<()> {
        match rustix::fs::linkat(&self.fd, name, &to.fd, new, AtFlags::empty()) {
            Ok(()) => Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?),
            // Directories have one name, and somebody else's file may not be given another.
            Err(Errno::PERM | Errno::ACCESS | Errno::MLINK | Errno::NOTSUP) => {
                if to.see(new)?.is_some() {
                    return Err(Errno::EXIST.into());
                }
                Ok(rustix::fs::renameat(&self.fd, name, &to.fd, new)?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Moves a file to a name in `to`, over whatever has that name.
    pub(super) fn move_over(&self, name: &OsStr, to: &Self, new: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, name, &to.fd, new)?)
    }

    /// Removes a file; that it is gone already is no failure.
    pub(super) fn remove(&self, name: &OsStr) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn is_as_seen(file: &File, seen: &EntryStat) -> io::Result<bool> {
    Ok(EntryStat::new(&rustix::fs::fstat(file)?) == *seen)
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.path.to_string_lossy()))
    }
}
