//! What tells one file from another, and from itself at another time.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, StatxFlags, statx};

/// What the system says of a file, a directory or a link: all that tells it from any other, and from any other state of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Kind and permissions, as `st_mode`.
    pub mode: u32,
    /// Length in bytes.
    pub size: u64,
    /// When its bytes changed last: epoch seconds, and nanoseconds within the second.
    pub modified: (i64, u32),
    /// When anything about it changed last, which nobody can set back.
    pub changed: (i64, u32),
    /// Major and minor number of its device.
    pub device: (u32, u32),
    /// Its inode's number.
    pub inode: u64,
    /// The number of the user that owns it.
    pub owner: u32,
    /// How many names it has.
    pub names: u32,
}

impl Stat {
    /// Of `name` in the directory `at`; never of what a link addresses.
    pub(super) fn of(at: impl AsFd, name: &[u8]) -> rustix::io::Result<Self> {
        Self::ask(at, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Of what is open.
    pub(super) fn of_handle(handle: impl AsFd) -> rustix::io::Result<Self> {
        Self::ask(handle, b"", AtFlags::EMPTY_PATH)
    }

    pub(super) fn ask(at: impl AsFd, name: &[u8], flags: AtFlags) -> rustix::io::Result<Self> {
        let wanted = StatxFlags::TYPE
            | StatxFlags::MODE
            | StatxFlags::SIZE
            | StatxFlags::MTIME
            | StatxFlags::CTIME
            | StatxFlags::INO
            | StatxFlags::UID
            | StatxFlags::NLINK;
        let found = statx(at, name, flags, wanted)?;
        Ok(Self {
            mode: found.stx_mode.into(),
            size: found.stx_size,
            modified: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec),
            changed: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec),
            device: (found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            owner: found.stx_uid,
            names: found.stx_nlink,
        })
    }

    /// What it is.
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind() == FileType::RegularFile
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// The nine bits of its mode that a package keeps.
    pub fn permissions(&self) -> u32 {
        self.mode & 0o777
    }
}
