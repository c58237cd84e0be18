//! The way to a directory that may belong to another account, for everybody who opens one: a tag directory, the source.
//!
//! A folder above it may be somebody else's, too. Whoever owns such a folder can put a link in the place of the directory, to another target's
//! tags or to any folder of the master's. So the way is walked by handles, part by part, and a link on it counts only where root or this
//! account made it.

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use blat_domain::text::printable;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::trust::{MOST_LINKS, parts};

/// What becomes of a directory that is missing on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It is made.
    Make,
    /// It is a failure: it may be a mount that is missing.
    Fail,
}

/// Opens the directory at `path`, which `key` of the config names, for reading its names.
///
/// # Errors
/// What is wrong on the way, and with which part of it.
pub fn open(path: &Path, missing: Missing, key: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(walk(path, missing, key)?, ".", flags, Mode::empty())?)
}

/// Whether `path` leads to this open directory now.
///
/// # Errors
/// As [`open`], but a directory that is missing is no error.
pub fn is_at(path: &Path, directory: impl AsFd, key: &str) -> io::Result<bool> {
    let there = match walk(path, Missing::Fail, key) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        walked => rustix::fs::fstat(walked?)?,
    };
    let here = rustix::fs::fstat(directory)?;
    Ok((there.st_dev, there.st_ino) == (here.st_dev, here.st_ino))
}

fn walk(path: &Path, missing: Missing, key: &str) -> io::Result<OwnedFd> {
    let mut here = rustix::fs::openat(CWD, if path.is_absolute() { "/" } else { "." }, walking(), Mode::empty())?;
    let (mut rest, mut links) = (parts(path), 0);
    while let Some(part) = rest.pop_front() {
        here = match step(&here, &part, missing, key).map_err(|error| about(&part, error))? {
            Step::Into(directory) => directory,
            Step::Link(link) if links < MOST_LINKS => {
                links += 1;
                for part in parts(&link).into_iter().rev() {
                    rest.push_front(part);
                }
                if link.is_absolute() { rustix::fs::openat(CWD, "/", walking(), Mode::empty())? } else { here }
            }
            Step::Link(_) => return Err(about(&part, Errno::LOOP.into())),
        };
    }
    Ok(here)
}

/// Where one part of a path leads.
enum Step {
    Into(OwnedFd),
    Link(PathBuf),
}

fn step(here: &OwnedFd, part: &OsStr, missing: Missing, key: &str) -> io::Result<Step> {
    match rustix::fs::openat(here, part, walking() | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(directory) => return Ok(Step::Into(directory)),
        Err(Errno::NOENT) if missing == Missing::Make => {
            made(rustix::fs::mkdirat(here, part, Mode::from_raw_mode(0o755)))?;
            return Ok(Step::Into(rustix::fs::openat(here, part, walking() | OFlags::NOFOLLOW, Mode::empty())?));
        }
        Err(Errno::LOOP | Errno::NOTDIR) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let link = rustix::fs::openat(here, part, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&link)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        return Err(Errno::NOTDIR.into());
    }
    if stat.st_uid != 0 && stat.st_uid != geteuid().as_raw() {
        let owner = stat.st_uid;
        let why = format!("it is a link that the account {owner} made; name the directory itself in `{key}`");
        return Err(io::Error::other(why));
    }
    let to = rustix::fs::readlinkat(&link, "", Vec::new())?;
    Ok(Step::Link(PathBuf::from(OsStr::from_bytes(to.as_bytes()))))
}

fn walking() -> OFlags {
    OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC
}

/// That somebody else made it first is as good.
fn made(result: Result<(), Errno>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn about(part: &OsStr, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", printable(&part.to_string_lossy())))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{lchown, symlink};

    use super::*;

    #[test]
    fn what_is_missing_is_made_only_where_that_is_asked_for_and_an_exchange_is_noticed() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let (path, other) = (scratch.path().join("a/tags"), scratch.path().join("other"));
        assert_eq!(open(&path, Missing::Fail, "tags").expect_err("missing").kind(), ErrorKind::NotFound);
        let opened = open(&path, Missing::Make, "tags").expect("made");
        assert!(is_at(&path, &opened, "tags").expect("the way is good"));
        fs::rename(&path, &other).expect("an own directory");
        assert!(!is_at(&path, &opened, "tags").expect("nothing is there"));
        symlink(&other, &path).expect("a link");
        assert!(is_at(&path, &opened, "tags").expect("an own link counts"));
    }

    /// Nobody but root can give a link to somebody else.
    #[test]
    fn as_root_a_link_of_another_account_leads_nowhere() {
        if !geteuid().is_root() {
            return;
        }
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let (path, other) = (scratch.path().join("tags"), scratch.path().join("other"));
        fs::create_dir(&other).expect("a directory");
        symlink(&other, &path).expect("a link");
        lchown(&path, Some(54_321), None).expect("root may");
        let why = open(&path, Missing::Make, "tags").expect_err("a stranger's link").to_string();
        assert!(why.starts_with("tags: it is a link that the account 54321 made"), "{why}");
    }
}
