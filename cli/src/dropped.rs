//! A tag that this process dropped. The tag directory may belong to somebody else, who may put anything at any name at any moment: so all is
//! done by one handle of the directory, and its way is judged by the same rule as the agent's.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Instant;

use blat_config::Home;
use blat_config::home_id::random;
use blat_domain::package::name::{PackageId, TargetName};
use blat_domain::package::tag::{BAD, FAILED, file_name, line};
use blat_domain::util::text::printable;
use blat_paths::{Missing, way};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::failure::Failure;
use crate::past::Mark;

/// The most of a reason that is read, in bytes.
const MOST_READ: u64 = 4 << 10;
/// How a file or directory is opened whose owner may be a stranger: nothing is followed or waited for.
const QUIET: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// A tag that was dropped.
#[derive(Debug)]
pub(crate) struct Dropped {
    /// Whom it is for.
    pub(crate) target: TargetName,
    /// When it appeared.
    pub(crate) at: Instant,
    package: PackageId,
    directory: OwnedFd,
    /// Where the directory was when it was opened.
    path: PathBuf,
    name: OsString,
    /// The file itself, by device and inode, which it keeps where the agent sets it aside.
    id: (u64, u64),
    /// What the agent had reported before.
    before: Mark,
}

impl Dropped {
    /// Drops a tag into the target's directory at `path`.
    ///
    /// # Errors
    /// Where it cannot be dropped there; then nothing is left behind.
    pub(crate) fn new(home: &Home, target: TargetName, path: PathBuf, package: &PackageId) -> io::Result<Self> {
        // Only our own directory is made. Another one that is missing may be a mount that is.
        let missing = if path == home.tags_dir(&target) { Missing::Make } else { Missing::Fail };
        let directory = way::open(&path, missing, "tags")?;
        let before = Mark::of(home, &target);
        let (name, at, id) = put(&directory, package)?;
        let dropped = Self { target, at, package: package.clone(), directory, path, name, id, before };
        match dropped.check_place() {
            Ok(()) => Ok(dropped),
            Err(error) => {
                // No agent looks there, so the tag would lie there unserved.
                dropped.remove()?;
                Err(error)
            }
        }
    }

    /// Looks whether the tag directory is still where it was: nobody looks for tags in another one.
    ///
    /// # Errors
    /// Where something else is there.
    pub(crate) fn check_place(&self) -> io::Result<()> {
        match way::is_at(&self.path, &self.directory, "tags")? {
            true => Ok(()),
            false => Err(io::Error::other(
                "another directory took its place, or none; find out who renames it, and drop the tag again",
            )),
        }
    }

    /// Where it was dropped, for messages.
    pub(crate) fn place(&self) -> String {
        printable(&self.path.to_string_lossy())
    }

    /// Whether a tag of its name lies there.
    pub(crate) fn is_there(&self) -> bool {
        // An unreadable directory does not mean that the tag is done.
        let looked = rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        !matches!(looked, Err(Errno::NOENT))
    }

    /// Whether the agent has reported since that the package is published, or was there already.
    ///
    /// # Errors
    /// Where its reports cannot be read.
    pub(crate) fn is_reported(&self, home: &Home) -> Result<bool, Failure> {
        let since = self.before.since(home, &self.target)?;
        Ok(since.iter().any(|entry| entry.package.as_ref() == Some(&self.package) && entry.deed.is_publication()))
    }

    /// Why the tag was set aside, if it was. The file itself is looked for, so that an earlier tag of the same name means nothing.
    ///
    /// # Errors
    /// Where the reason cannot be read.
    pub(crate) fn reason(&self) -> Result<Option<String>, Failure> {
        for place in [FAILED, BAD] {
            match self.reason_in(place) {
                Ok(Some(text)) => return Ok(Some(printable(text.trim()))),
                Ok(None) => {}
                Err(error) => {
                    let path = printable(&self.path.join(place).to_string_lossy());
                    return Err(Failure::failed(format!("cannot read why the tag was set aside, in {path}: {error}")));
                }
            }
        }
        Ok(None)
    }

    /// The reason beside this very file, where it lies in this place of the agent's.
    fn reason_in(&self, place: &str) -> io::Result<Option<String>> {
        let place = match rustix::fs::openat(&self.directory, place, QUIET | OFlags::DIRECTORY, Mode::empty()) {
            // The agent uses no such place.
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::ACCESS) => return Ok(None),
            opened => opened?,
        };
        if rustix::fs::fstat(&place)?.st_uid != geteuid().as_raw() {
            return Ok(None);
        }
        let Some(mut name) = name_of(&place, self.id)? else { return Ok(None) };
        name.extend_from_slice(b".reason");
        let file = File::from(rustix::fs::openat(&place, &name[..], QUIET, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("the reason is not a regular file"));
        }
        let mut text = Vec::new();
        file.take(MOST_READ).read_to_end(&mut text)?;
        Ok(Some(String::from_utf8_lossy(&text).into_owned()))
    }

    /// Removes the tag, where this very file is still there.
    fn remove(&self) -> io::Result<()> {
        match rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if (stat.st_dev, stat.st_ino) == self.id => unlink(&self.directory, &self.name),
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Puts a tag into the directory in one durable step: made under a name that is ignored, then renamed. Says its name, when, and which file
/// it is.
fn put(directory: &OwnedFd, package: &PackageId) -> io::Result<(OsString, Instant, (u64, u64))> {
    let random = random()?;
    let unfinished = format!(".blat-tag-{random}");
    let (name, content) = match file_name(package) {
        Some(name) => (name, String::new()),
        // No file can be called after this package, or it would be ignored.
        None => (format!("blat-tag-{random}"), line(package)),
    };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Readable by an agent that runs as another user.
    let mode = Mode::from_raw_mode(0o644);
    let file = File::from(rustix::fs::openat(directory, &unfinished, flags, mode)?);
    let put = fill(&file, mode, content.as_bytes()).and_then(|id| {
        let at = Instant::now();
        rustix::fs::renameat(directory, &unfinished, directory, &name)?;
        Ok((at, id))
    });
    match put {
        Ok((at, id)) => {
            rustix::fs::fsync(directory)?;
            Ok((name.into(), at, id))
        }
        Err(error) => {
            unlink(directory, OsStr::new(&unfinished))?;
            Err(error)
        }
    }
}

/// Makes the file what it is to be, durably; gives its device and inode.
fn fill(mut file: &File, mode: Mode, content: &[u8]) -> io::Result<(u64, u64)> {
    rustix::fs::fchmod(file, mode)?;
    file.write_all(content)?;
    file.sync_all()?;
    let stat = rustix::fs::fstat(file)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Removes a file; that it is gone already is no failure.
fn unlink(directory: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The name of the file with this device and inode.
fn name_of(place: &OwnedFd, id: (u64, u64)) -> io::Result<Option<Vec<u8>>> {
    for entry in Dir::read_from(place)? {
        let name = entry?.file_name().to_bytes().to_vec();
        match rustix::fs::statat(place, &name[..], AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if (stat.st_dev, stat.st_ino) == id => {
                let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
                return Ok(is_file.then_some(name));
            }
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}
