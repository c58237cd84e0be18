//! The one way to read a package at the source: by handles, entry by entry.
//!
//! Whoever writes packages is a stranger who may exchange a directory for a link at any instant. So no path is ever looked up from the
//! outside: the package's root is opened beneath the archive's handle, everything else beneath the package's, and no part of a way may be a
//! symbolic link. What is opened is compared with what was seen before: another inode or another time of change fails the package. Pipes,
//! sockets and devices are never opened. At most two directories are open at a time, however deep
//! the tree is, and a walk takes little memory, however much a directory holds.

mod beneath;
mod hard_link;
mod stat;
#[cfg(test)]
mod tests;
mod walk;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use blat_domain::package::DESCPKG;
use blat_domain::package::name::PackageId;
use blat_domain::util::identity::Identity;
use blat_domain::util::text::printable;
use blat_paths::{Missing, way};
use rustix::fs::{AtFlags, Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;

pub(crate) use self::beneath::PathResolution;
pub use self::stat::Stat;
pub(crate) use self::walk::{Walk, WalkOrder};

pub use rustix::fs::FileType;

/// The longest path below a package's root, in bytes: no system takes a longer one in one piece.
const LONGEST_PATH: usize = 4095;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Neither follows a link nor waits for whoever has the other end of a pipe.
const FILE: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
/// Names something without opening it.
const NAMED: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Why something at the source cannot be sent. Each concerns one package.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The system refuses to read it.
    #[error("cannot read {what} at the source: {why}")]
    Unreadable {
        /// Which file or directory, printable.
        what: String,
        /// The system's reason.
        why: io::Error,
    },
    /// It is another one than a moment ago, or the same with other bytes.
    #[error("{0} changed while it was read; the package is sent once it is left alone")]
    Changed(String),
    /// A pipe, a socket or a device.
    #[error("{0} is neither file, directory nor symbolic link; remove it from the package")]
    Odd(String),
    /// What an archive says whose it is by.
    #[error(
        "{0} is the record of an archive, and no target would ever delete a package with that in it; remove the .dpkg_archive that it lies in"
    )]
    Record(String),
    /// A package's directory, or the one that holds its versions, is something else.
    #[error("{0} is not a directory, and only a version may be a link; replace it by a directory")]
    NoDirectory(String),
    /// Another name of a file that lies elsewhere too, which whoever wrote the package may not be able to read.
    #[error(
        "{0} is a hard link to a file that not everybody may read, and somebody else than its owner may have made the link; it is not \
         sent; replace it by a copy, let everybody read it, or let nobody but its owner own and write its directory"
    )]
    Linked(String),
    /// More bytes than a number holds, which takes sparse files.
    #[error(
        "with {0} the files of the package claim more bytes than any disk holds; remove what is larger than it should be"
    )]
    TooLarge(String),
    /// Nothing on a target could be called by that path.
    #[error("{0} … lies too deep: its path below the package has more than {LONGEST_PATH} bytes; shorten it")]
    TooDeep(String),
}

fn unreadable(what: &Path, why: Errno) -> SourceError {
    SourceError::Unreadable { what: shown(what), why: why.into() }
}

fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy()).to_string()
}

/// The source archive, by its handle. Its configured path may lead over links of the operator's, and over nobody else's.
#[derive(Debug)]
pub struct Archive {
    handle: OwnedFd,
    path: PathBuf,
}

/// What lies where a package should.
#[derive(Debug)]
pub enum FoundVersion {
    /// Nothing.
    Missing,
    /// A symbolic link, with the bytes of its target.
    Link(Vec<u8>),
    /// A directory.
    Package(Root),
}

impl Archive {
    /// Opens the archive at `path`.
    ///
    /// # Errors
    /// It cannot be opened, or is no directory.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let unreadable = |why| SourceError::Unreadable { what: shown(path), why };
        let handle = way::open(path, Missing::Fail, "source").map_err(unreadable)?;
        Ok(Self { handle, path: path.to_owned() })
    }

    /// The directory that holds the versions of a package's name; none where there is no such name.
    pub fn versions(&self, name: &str) -> Result<Option<OwnedFd>, SourceError> {
        let here = || self.path.join(name);
        match openat(&self.handle, name, DIRECTORY, Mode::empty()) {
            Ok(handle) => Ok(Some(handle)),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => Err(SourceError::NoDirectory(shown(&here()))),
            Err(error) => Err(unreadable(&here(), error)),
        }
    }

    /// By what the files are known that make a version one: its `descpkg`, and itself where it is a link. They are only looked at, so links
    /// that lead there are followed: whatever way a reader of the source would find it, it must not be taken away.
    ///
    /// # Errors
    /// Nobody can say what is there.
    pub fn identities(&self, package: &PackageId) -> Result<Vec<Identity>, SourceError> {
        let version = package.path();
        let descpkg = format!("{version}/{}", DESCPKG);
        let mut found = Vec::new();
        // A file server is asked, whatever it said a minute ago.
        for (path, follows) in [(descpkg, AtFlags::empty()), (version, AtFlags::SYMLINK_NOFOLLOW)] {
            match Stat::ask(&self.handle, path.as_bytes(), follows | AtFlags::STATX_FORCE_SYNC) {
                Ok(stat) if stat.is_directory() => {}
                Ok(stat) => found.push(Identity::new(stat.inode, stat.changed.0, stat.changed.1)),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(unreadable(&self.path.join(path), error)),
            }
        }
        Ok(found)
    }

    /// What lies where `package` should.
    pub fn find(&self, package: &PackageId) -> Result<FoundVersion, SourceError> {
        let Some(versions) = self.versions(package.name.as_str())? else { return Ok(FoundVersion::Missing) };
        let (path, version) = (self.path.join(package.path()), package.version.as_str().as_bytes());
        let stat = match Stat::of(&versions, version) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(FoundVersion::Missing),
            Err(error) => return Err(unreadable(&path, error)),
        };
        match stat.kind() {
            FileType::Symlink => match readlinkat(&versions, version, Vec::new()) {
                Ok(to) => Ok(FoundVersion::Link(to.into_bytes())),
                Err(error) => Err(unreadable(&path, error)),
            },
            FileType::Directory => {
                let handle = openat(&versions, version, DIRECTORY, Mode::empty());
                let root = Root::new(handle, path, PathResolution::of_this_system())?;
                if root.stat == stat {
                    Ok(FoundVersion::Package(root))
                } else {
                    Err(SourceError::Changed(shown(&root.path)))
                }
            }
            FileType::RegularFile
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => Err(SourceError::NoDirectory(shown(&path))),
        }
    }
}

/// A package's directory, by its handle.
#[derive(Debug)]
pub struct Root {
    handle: OwnedFd,
    stat: Stat,
    /// Where it was opened, for messages alone.
    path: PathBuf,
    way: PathResolution,
}

impl Root {
    /// Opens the directory of `package` beneath the archive at `archive`.
    ///
    /// # Errors
    /// It is not there, cannot be opened, or a part of the way below the archive is no directory of its own.
    pub fn open(archive: &Path, package: &PackageId) -> Result<Self, SourceError> {
        Self::open_by(PathResolution::of_this_system(), archive, package)
    }

    /// The same this way.
    fn open_by(way: PathResolution, archive: &Path, package: &PackageId) -> Result<Self, SourceError> {
        let archive = Archive::open(archive)?;
        let below = format!("{}/{}", package.name, package.version);
        Self::new(way.open(&archive.handle, below.as_bytes(), DIRECTORY), archive.path.join(below), way)
    }

    fn new(handle: rustix::io::Result<OwnedFd>, path: PathBuf, way: PathResolution) -> Result<Self, SourceError> {
        match handle.and_then(|handle| Ok((Stat::of_handle(&handle)?, handle))) {
            Ok((stat, handle)) => Ok(Self { handle, stat, path, way }),
            Err(Errno::LOOP | Errno::NOTDIR) => Err(SourceError::NoDirectory(shown(&path))),
            Err(error) => Err(unreadable(&path, error)),
        }
    }

    /// What the system says of the directory itself.
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// All of the package, the root first, each directory before what is in it.
    pub(crate) fn walk(&self, order: WalkOrder) -> Walk<'_> {
        Walk::new(self, order)
    }

    /// What the system says of `name` in the package's directory; none where there is no such name.
    ///
    /// # Errors
    /// Nobody can say.
    pub fn stat_of(&self, name: &str) -> Result<Option<Stat>, SourceError> {
        match Stat::of(&self.handle, name.as_bytes()) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.unreadable(name.as_bytes(), error)),
        }
    }

    /// What lies at `path` below the package; none where there is nothing, or it cannot be looked at.
    pub(crate) fn look(&self, path: Vec<u8>) -> Option<Node> {
        let handle = self.way.open(&self.handle, &path, NAMED).ok()?;
        Some(Node { stat: Stat::of_handle(handle).ok()?, path })
    }

    /// Opens a regular file.
    ///
    /// # Errors
    /// It is no regular file, cannot be opened, is another one than it was, or a link to somebody's file that lies elsewhere.
    pub(crate) fn file(&self, node: &Node) -> Result<File, SourceError> {
        if !node.stat.is_file() {
            return Err(SourceError::Odd(self.shown(&node.path)));
        }
        let is_in_question = hard_link::is_in_question(&node.stat);
        Ok(if is_in_question { self.open_hard_link(node)? } else { self.open_node(node, FILE)? }.into())
    }

    /// Opens a file or a directory, to look at it alone; nothing else.
    ///
    /// # Errors
    /// As [`Root::file`].
    pub(crate) fn open_for_a_look(&self, node: &Node) -> Result<Option<OwnedFd>, SourceError> {
        match node.stat.kind() {
            FileType::RegularFile => Ok(Some(self.file(node)?.into())),
            FileType::Directory => Ok(Some(self.open_node(node, DIRECTORY)?)),
            FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => Ok(None),
        }
    }

    /// What a symbolic link addresses, byte for byte.
    ///
    /// # Errors
    /// As [`Root::file`].
    pub(crate) fn link(&self, node: &Node) -> Result<Vec<u8>, SourceError> {
        let handle = self.open_node(node, NAMED)?;
        let to = readlinkat(&handle, c"", Vec::new());
        Ok(to.map_err(|error| self.unreadable(&node.path, error))?.into_bytes())
    }

    /// Makes sure that a file is still as it was when the walk met it.
    ///
    /// # Errors
    /// It is not, or nobody can say.
    pub(crate) fn check_unchanged(&self, node: &Node, file: &File) -> Result<(), SourceError> {
        match Stat::of_handle(file) {
            Ok(stat) if stat == node.stat => Ok(()),
            Ok(_) => Err(self.changed(&node.path)),
            Err(error) => Err(self.unreadable(&node.path, error)),
        }
    }

    fn open_node(&self, node: &Node, flags: OFlags) -> Result<OwnedFd, SourceError> {
        self.open_from(&self.handle, &node.path, node, flags)
    }

    /// Opens an entry that lies at `path` beneath `at`.
    fn open_from(&self, at: &OwnedFd, path: &[u8], node: &Node, flags: OFlags) -> Result<OwnedFd, SourceError> {
        match self.open_any(at, path, &node.path, flags)? {
            (stat, handle) if stat == node.stat => Ok(handle),
            _ => Err(self.changed(&node.path)),
        }
    }

    /// Opens what was at `path` beneath `at` a moment ago; it lies at `whole` below the package.
    fn open_any(&self, at: &OwnedFd, path: &[u8], whole: &[u8], flags: OFlags) -> Result<(Stat, OwnedFd), SourceError> {
        let opened = match path {
            b"" => openat(at, c".", flags, Mode::empty()),
            path => self.way.open(at, path, flags),
        };
        match opened.and_then(|handle| Ok((Stat::of_handle(&handle)?, handle))) {
            Ok(found) => Ok(found),
            // It was there a moment ago, and no link led to it.
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO) => Err(self.changed(whole)),
            Err(error) => Err(self.unreadable(whole, error)),
        }
    }

    /// The error for what the system cannot read.
    pub fn unreadable(&self, path: &[u8], why: impl Into<io::Error>) -> SourceError {
        SourceError::Unreadable { what: self.shown(path), why: why.into() }
    }

    /// The error for what is not the same any more.
    pub fn changed(&self, path: &[u8]) -> SourceError {
        SourceError::Changed(self.shown(path))
    }

    /// Where something below the package lies, printable.
    pub fn shown(&self, path: &[u8]) -> String {
        match path {
            b"" => shown(&self.path),
            path => shown(&self.path.join(std::ffi::OsStr::from_bytes(path))),
        }
    }
}

/// One entry of a package, as it was when the walk met it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// Below the package's root, byte for byte; empty for the root itself.
    pub path: Vec<u8>,
    /// What the system says of it.
    pub stat: Stat,
}

impl Node {
    /// Its name in its directory.
    pub(crate) fn name(&self) -> &[u8] {
        self.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }

    /// Whether it is the file that makes the directory a package.
    pub(crate) fn is_descpkg(&self) -> bool {
        self.path == DESCPKG.as_bytes()
    }
}
