//! Opening what lies beneath a directory, whoever may be exchanging directories for links meanwhile.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Whether this kernel, or what guards us, knows no `openat2`.
static WITHOUT_OPENAT2: AtomicBool = AtomicBool::new(false);

/// How often a resolution that met a rename elsewhere is tried again.
const TRIES: usize = 8;

/// Opens `path` below `dir`. No part of it may be a symbolic link, and none `.` or `..`.
pub(super) fn open_beneath(dir: impl AsFd, path: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    open_within(dir, path, flags, mode, ResolveFlags::empty())
}

/// Opens what has a name in `dir`, if nothing is mounted there: `EXDEV` otherwise. Where the kernel knows no `openat2`, a mount shows if it is of
/// another file system.
pub(super) fn open_unmounted(dir: impl AsFd, name: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let opened = open_within(&dir, name, flags, Mode::empty(), ResolveFlags::NO_XDEV)?;
    if rustix::fs::fstat(&opened)?.st_dev != rustix::fs::fstat(dir)?.st_dev {
        return Err(Errno::XDEV.into());
    }
    Ok(opened)
}

fn open_within(dir: impl AsFd, path: &[u8], flags: OFlags, mode: Mode, more: ResolveFlags) -> io::Result<OwnedFd> {
    if !is_plain(path) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path has an empty part, `.` or `..`"));
    }
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if !WITHOUT_OPENAT2.load(Ordering::Relaxed) {
        let resolve = more | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..TRIES {
            match rustix::fs::openat2(dir.as_fd(), path, flags, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::NOSYS | Errno::PERM) => break,
                result => return Ok(result?),
            }
        }
    }
    let opened = by_parts(dir, path, flags, mode);
    if opened.is_ok() {
        // Here it works where openat2 did not: it need not be asked again.
        WITHOUT_OPENAT2.store(true, Ordering::Relaxed);
    }
    opened
}

/// Relative, and every part a name.
pub(crate) fn is_plain(path: &[u8]) -> bool {
    !path.contains(&0) && path.split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
}

/// The same with one `openat` for each part.
fn by_parts(dir: impl AsFd, path: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let way = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut parent: Option<OwnedFd> = None;
    let mut rest = path;
    while let Some(slash) = rest.iter().position(|byte| *byte == b'/') {
        let at = parent.as_ref().map_or_else(|| dir.as_fd(), AsFd::as_fd);
        let next = rustix::fs::openat(at, &rest[..slash], way, Mode::empty())?;
        parent = Some(next);
        rest = &rest[slash + 1..];
    }
    let at = parent.as_ref().map_or_else(|| dir.as_fd(), AsFd::as_fd);
    Ok(rustix::fs::openat(at, rest, flags, mode)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn neither_way_follows_a_link_or_leaves_the_directory() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        fs::create_dir_all(scratch.path().join("in/a/b")).expect("a directory");
        fs::write(scratch.path().join("in/a/b/f"), "").expect("a file");
        fs::write(scratch.path().join("out"), "").expect("a file");
        symlink("a", scratch.path().join("in/link")).expect("a link");
        symlink("f", scratch.path().join("in/a/b/l")).expect("a link");
        let dir = fs::File::open(scratch.path().join("in")).expect("a directory");
        let read = OFlags::RDONLY;
        for path in ["a/b/f", "link/b/f", "a/b/l", "link", "../out", "a/../a/b/f", "/etc/passwd", "", "a//b", "."] {
            assert_eq!(open_beneath(&dir, path.as_bytes(), read, Mode::empty()).is_ok(), path == "a/b/f", "{path:?}");
        }
        for path in ["a/b/f", "link/b/f", "a/b/l", "link"] {
            let opened = by_parts(&dir, path.as_bytes(), read | OFlags::NOFOLLOW, Mode::empty());
            assert_eq!(opened.is_ok(), path == "a/b/f", "{path:?}");
        }
    }
}
