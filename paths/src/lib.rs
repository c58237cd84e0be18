//! Paths that may lead through folders of strangers: to a source, to a tag directory, to an archive.
//!
//! Whoever owns a folder on such a path can put anything in the place of what lies in it: a link of their own, or one of this account's that they
//! may move, such as one that a package brought. Both lead to wherever this account may write. So a path is walked by handles, part by part, and a
//! link on it counts only where root or this account made it, in a folder of root's or this account's that not everybody may write. Nor may any
//! folder before that be a stranger's: they can move a whole folder of this account's into it, with the link inside.

pub mod namespace;
pub mod private;
pub mod way;

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use blat_domain::util::text::printable;
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::process::geteuid;

/// The most links on one path: what the system itself follows.
pub const MOST_LINKS: usize = 40;
/// The owner that user namespaces and file servers show in the place of those whom they do not know.
pub const UNKNOWN: u32 = 65_534;
/// Of a mode: everybody may write.
const WRITABLE_BY_ALL: u32 = 0o002;
/// Of a mode: everybody takes away only what is their own.
const STICKY: u32 = 0o1000;
const WALKING: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// What becomes of a directory that is missing on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It is made.
    Make,
    /// It is a failure: it may be a mount that is missing.
    Fail,
}

/// Why a path leads to no directory.
#[derive(Debug, thiserror::Error)]
pub enum Astray {
    /// The system refuses a part of it.
    #[error("{part}: {error}")]
    Io {
        /// The part, fit for printing.
        part: String,
        /// What the system says.
        error: io::Error,
    },
    /// A link on it may be a stranger's.
    #[error("{link} is a link {doubt}")]
    Link {
        /// Where it lies, fit for printing.
        link: String,
        /// Why it does not count.
        doubt: Doubt,
    },
}

/// Why a link does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// This account made it.
    Maker(u32),
    /// It lies in a folder of this account's, or below one.
    Folder(u32),
    /// It lies in a folder that everybody may write, or below one.
    Open,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Maker(owner) => write!(f, "that the account {owner} made"),
            Self::Folder(owner) => write!(f, "in or below a folder of the account {owner}"),
            Self::Open => f.write_str("in or below a folder that everybody may write"),
        }
    }
}

/// Where a path leads.
#[derive(Debug)]
pub struct Walked {
    /// The directory, to look up names in.
    pub directory: OwnedFd,
    /// Why a folder of this account's on the way may be another one than before, if it may.
    pub doubt: Option<Doubt>,
}

/// The directory that a path leads to. Nothing is made in a stranger's folder.
///
/// # Errors
/// What is wrong on the way, and with which part of it.
pub fn walk(path: &Path, missing: Missing) -> Result<Walked, Astray> {
    let path = path.as_os_str().as_bytes();
    // Where it is, without any link, and what is still to come, last part first.
    let (mut here, mut at) = begin(path).map_err(|errno| refused(path, errno))?;
    let (mut rest, mut links, mut doubt) = (Vec::new(), 0, None);
    add(&mut rest, path);
    while let Some(part) = rest.pop() {
        let io = |errno| refused(&part, errno);
        doubt = doubt.or(of_folder(&here).map_err(io)?);
        let missing = if doubt.is_some() { Missing::Fail } else { missing };
        match step(&here, &part, missing).map_err(io)? {
            Some(directory) => {
                doubt = doubt.or(of_open_child(&here, &directory).map_err(io)?);
                here = directory;
                at.extend_from_slice(&part);
                at.push(b'/');
            }
            None => {
                let to = link(&here, &part, &at, doubt)?;
                links += 1;
                if links > MOST_LINKS {
                    return Err(io(Errno::LOOP));
                }
                add(&mut rest, &to);
                if to.starts_with(b"/") {
                    (here, at) = begin(&to).map_err(io)?;
                }
            }
        }
    }
    Ok(Walked { directory: here, doubt })
}

/// Why what lies in a folder may have been moved there by a stranger, if it may. In a sticky folder nobody takes away what is another's. Whose a
/// folder is that a user namespace or a file server shows as nobody's, it does not say: root's, as a rule.
fn of_folder(folder: &OwnedFd) -> Result<Option<Doubt>, Errno> {
    let stat = rustix::fs::fstat(folder)?;
    Ok(match stat.st_mode & (WRITABLE_BY_ALL | STICKY) {
        _ if !is_own(stat.st_uid) && stat.st_uid != UNKNOWN => Some(Doubt::Folder(stat.st_uid)),
        WRITABLE_BY_ALL => Some(Doubt::Open),
        _ => None,
    })
}

/// As [`of_folder`], of a folder in a sticky one: where its name was free, a stranger may have moved it there. The system lets them move only
/// what they may write.
fn of_open_child(parent: &OwnedFd, child: &OwnedFd) -> Result<Option<Doubt>, Errno> {
    let is_open = |folder| Ok::<_, Errno>(is_open_to_all(&rustix::fs::fstat(folder)?));
    Ok((is_open(parent)? && is_open(child)?).then_some(Doubt::Open))
}

/// Whether two handles are of one directory.
///
/// # Errors
/// They cannot be looked at.
pub fn is_same(one: impl AsFd, other: impl AsFd) -> io::Result<bool> {
    let (one, other) = (rustix::fs::fstat(one)?, rustix::fs::fstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

/// Whether an account is root, or the one that runs this.
pub fn is_own(owner: u32) -> bool {
    owner == 0 || owner == geteuid().as_raw()
}

/// Whether everybody may write it, by its mode, sticky or not.
pub fn is_open_to_all(stat: &Stat) -> bool {
    stat.st_mode & WRITABLE_BY_ALL != 0
}

/// Where a path begins, and how that is written.
fn begin(path: &[u8]) -> Result<(OwnedFd, Vec<u8>), Errno> {
    let (from, written) = if path.starts_with(b"/") { ("/", b"/".to_vec()) } else { (".", Vec::new()) };
    Ok((rustix::fs::openat(CWD, from, WALKING, Mode::empty())?, written))
}

/// Puts the parts of a path before the others.
fn add(rest: &mut Vec<Vec<u8>>, path: &[u8]) {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    rest.extend(parts.rev().map(<[u8]>::to_vec));
}

/// The directory by this name; none where it may be a link.
fn step(here: &OwnedFd, part: &[u8], missing: Missing) -> Result<Option<OwnedFd>, Errno> {
    let open = || rustix::fs::openat(here, part, WALKING | OFlags::NOFOLLOW, Mode::empty());
    match open() {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::LOOP | Errno::NOTDIR) => Ok(None),
        Err(Errno::NOENT) if missing == Missing::Make => {
            // That somebody else made it first is as good.
            match rustix::fs::mkdirat(here, part, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => open().map(Some),
                Err(errno) => Err(errno),
            }
        }
        Err(errno) => Err(errno),
    }
}

/// Where a link leads that counts. `before`: what speaks against all that lies here.
fn link(here: &OwnedFd, part: &[u8], at: &[u8], before: Option<Doubt>) -> Result<Vec<u8>, Astray> {
    let look = || {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let link = rustix::fs::openat(here, part, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&link)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return Err(Errno::NOTDIR);
        }
        Ok((
            doubt(&stat, &rustix::fs::fstat(here)?).or(before),
            rustix::fs::readlinkat(&link, "", Vec::new())?.into_bytes(),
        ))
    };
    match look().map_err(|errno| refused(part, errno))? {
        (None, to) => Ok(to),
        (Some(doubt), _) => Err(Astray::Link { link: shown(&[at, part].concat()), doubt }),
    }
}

/// Why a link in a folder does not count, if it does not. A sticky folder is no better: a name that is free in it, or a stranger's, is theirs to
/// give to a link of this account's.
fn doubt(link: &Stat, folder: &Stat) -> Option<Doubt> {
    if !is_own(link.st_uid) {
        Some(Doubt::Maker(link.st_uid))
    } else if !is_own(folder.st_uid) {
        Some(Doubt::Folder(folder.st_uid))
    } else {
        is_open_to_all(folder).then_some(Doubt::Open)
    }
}

fn refused(part: &[u8], errno: Errno) -> Astray {
    Astray::Io { part: shown(part), error: errno.into() }
}

fn shown(path: &[u8]) -> String {
    printable(&OsStr::from_bytes(path).to_string_lossy())
}

#[cfg(test)]
mod tests;
