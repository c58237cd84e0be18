//! Opening what lies beneath a directory, whoever may be exchanging directories for links meanwhile.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::{Errno, Result};

/// How often a way that met a rename elsewhere is tried again.
const TRIES: usize = 8;

/// How the system finds its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PathResolution {
    /// By one call, in which the kernel itself refuses every link and every way out.
    AtOnce,
    /// Part by part, where the kernel, or what guards us, does not know that call.
    ByParts,
}

impl PathResolution {
    /// What this system knows, found out once.
    pub(crate) fn of_this_system() -> Self {
        static WAY: OnceLock<PathResolution> = OnceLock::new();
        *WAY.get_or_init(|| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            // Everybody may open that.
            match openat2(CWD, c"/", flags, Mode::empty(), resolve) {
                Ok(_) => Self::AtOnce,
                Err(_) => Self::ByParts,
            }
        })
    }

    /// Opens `path` beneath `directory`. No part of it may be a symbolic link but the last one, and that only where the flags name it without
    /// opening it.
    ///
    /// # Errors
    /// The system's; `ELOOP` or `ENOTDIR` where a link is on the way, `EINVAL` where a part is empty, `.` or `..`.
    pub(super) fn open(self, directory: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
        if path.split(|byte| *byte == b'/').any(|part| matches!(part, b"" | b"." | b"..")) {
            return Err(Errno::INVAL);
        }
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match self {
            Self::AtOnce => {
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
                let mut tries = 0;
                loop {
                    match openat2(directory.as_fd(), path, flags, Mode::empty(), resolve) {
                        Err(Errno::AGAIN | Errno::INTR) if tries < TRIES => tries += 1,
                        opened => return opened,
                    }
                }
            }
            Self::ByParts => by_parts(directory, path, flags),
        }
    }
}

/// Two handles are open at most, however many parts there are.
fn by_parts(directory: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let on_the_way = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut parent: Option<OwnedFd> = None;
    let mut rest = path;
    while let Some(slash) = rest.iter().position(|byte| *byte == b'/') {
        let at = parent.as_ref().map_or_else(|| directory.as_fd(), AsFd::as_fd);
        parent = Some(openat(at, &rest[..slash], on_the_way, Mode::empty())?);
        rest = &rest[slash + 1..];
    }
    let at = parent.as_ref().map_or_else(|| directory.as_fd(), AsFd::as_fd);
    openat(at, rest, flags, Mode::empty())
}
