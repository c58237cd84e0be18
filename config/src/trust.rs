//! Which files are obeyed: those that nobody can have written but root and the home's owner.
//!
//! What a config names runs programs with the rights of the master, and what lies in `ssh/` says whom it trusts. So before such a file counts,
//! everything on the way to it is looked at by handles, part by part: each folder and link below the home tree, or from the root where a path
//! or a link leads out of the tree, and at last the file, which is read from the very handle that was looked at. Links are followed, since
//! operators keep configs in a checkout elsewhere, but only those of root and the owner.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use blat_domain::util::text::{printable, typed};
use blat_paths::MOST_LINKS;
use blat_paths::namespace;
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat};
use rustix::process::geteuid;

/// Why a file is not obeyed.
#[derive(Debug, thiserror::Error)]
pub enum Distrust {
    /// Somebody else may have written it.
    #[error("{} {what}, so others may change what is read here; {remedy}", printable(&path.to_string_lossy()))]
    OpenToOthers {
        /// The file, or the folder or link on the way to it.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What the operator does about it.
        remedy: String,
    },
    /// It cannot be read or looked at.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Distrust {
    /// Whether there is no such file.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// The text of a regular file of at most `most` bytes, which `home`, the root of the home tree, leads to or not. Never waits for the other
/// end of a pipe.
///
/// # Errors
/// Where others may write it or anything on the way to it, or where it is no such file.
pub fn read(home: &Path, path: &Path, most: u64) -> Result<String, Distrust> {
    text(open(home, path)?, most)
}

/// The text of a file of at most `most` bytes that [`open`] gave.
///
/// # Errors
/// Where it cannot be read, is longer, or is no text.
pub fn text(file: File, most: u64) -> Result<String, Distrust> {
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("it is larger than {} KiB", most >> 10)).into());
    }
    String::from_utf8(bytes).map_err(|error| {
        let line =
            error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        io::Error::other(format!("it is not UTF-8 text: see line {line}")).into()
    })
}

/// The regular file at `path`, opened for reading.
///
/// # Errors
/// As [`read`].
pub fn open(home: &Path, path: &Path) -> Result<File, Distrust> {
    let Reached { folder, name, path, .. } = Walk::to(home, path)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(&folder, &name, flags, Mode::empty()).map_err(io::Error::from)?;
    // It may be another one by now.
    judge(&fstat(&file).map_err(io::Error::from)?, &path)?;
    Ok(file.into())
}

/// Looks whether the regular file at `path` is one to be obeyed, for whoever opens it by its name afterwards: ssh, or the system that runs it.
/// Once nobody else can write there, nobody else can exchange it.
///
/// # Errors
/// As [`read`].
pub fn check(home: &Path, path: &Path) -> Result<(), Distrust> {
    let Reached { handle, path, .. } = Walk::to(home, path)?;
    judge(&fstat(&handle).map_err(io::Error::from)?, &path)
}

/// Looks whether nobody but root and whoever runs this can put another directory in the place of the one at this absolute path.
///
/// # Errors
/// Where others own or may write it or anything on the way to it, or where it is no directory.
pub fn check_folder(path: &Path) -> Result<(), Distrust> {
    Walk::from(Path::new("/"), path)?.enter().map(drop)
}

/// Looks whether nothing on the way to the directory at this absolute path, nor itself, belongs to anybody but root and whoever runs this. Whoever
/// has write permission there by its mode was given that by one of the two.
///
/// # Errors
/// As [`check_folder`], whatever the modes are.
pub fn check_owners(path: &Path) -> Result<(), Distrust> {
    let mut walk = Walk { looks_at_modes: false, ..Walk::nowhere(path, None) };
    walk.begin_at(Path::new("/"))?;
    walk.enter().map(drop)
}

/// Looks whether nobody but root and whoever runs this can exchange what lies in the directory at this absolute path, which `home`, the root of the
/// home tree, leads to or not. One that is missing has no owner yet: whoever makes it looks again.
///
/// # Errors
/// As [`check_folder`].
pub fn check_place(home: &Path, path: &Path) -> Result<(), Distrust> {
    match Walk::begin(home, path).and_then(Walk::enter).and_then(|walk| walk.judge_end()) {
        Err(why) if why.is_absence() => Ok(()),
        done => done,
    }
}

/// The file, and why it is not obeyed; none where it is. One that is missing or cannot be looked at is for whoever uses it.
pub(crate) fn open_to_others(home: &Path, path: &Path) -> Option<(PathBuf, String)> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match check(home, &path) {
        Err(why @ Distrust::OpenToOthers { .. }) => Some((path, why.to_string())),
        Err(Distrust::Io(_)) | Ok(()) => None,
    }
}

/// Looks whether nobody can put a socket of theirs in the place of the one of a server in this folder, at any time. The folder's owner is taken for
/// the server's account: root, that account, its group and whoever runs this may do so. True where everybody can as long as the socket or its folder
/// is missing, as in `/tmp`. Of a folder that is missing, the one in which it would be made counts.
///
/// # Errors
/// As [`check_folder`].
pub(crate) fn check_socket_folder(folder: &Path) -> Result<bool, Distrust> {
    let folder = folder.ancestors().find(|folder| folder.exists()).unwrap_or(folder);
    let server = std::fs::metadata(folder)?.uid();
    Ok(Walk::through(Path::new("/"), folder, Some(server))?.enter()?.is_open)
}

/// A file at the end of its way.
struct Reached {
    folder: OwnedFd,
    name: OsString,
    handle: OwnedFd,
    path: PathBuf,
}

/// The way to a file: the folders entered, each one in the one before it, and what is still to go.
struct Walk {
    entered: Vec<OwnedFd>,
    path: PathBuf,
    ahead: VecDeque<OsString>,
    links: usize,
    /// Somebody whose folders and links count beside root's and ours.
    server: Option<u32>,
    /// Whether somebody else may have made what belongs to that account, or may make a file at the end.
    is_open: bool,
    /// Whether it counts who may write a folder, and not only whose it is.
    looks_at_modes: bool,
}

impl Walk {
    fn begin(home: &Path, path: &Path) -> Result<Self, Distrust> {
        match path.strip_prefix(home) {
            // By its real path, since `..` may lead out of it.
            Ok(below) => Self::from(&std::fs::canonicalize(home)?, below),
            Err(_) => Self::from(Path::new("/"), path),
        }
    }

    fn from(start: &Path, ahead: &Path) -> Result<Self, Distrust> {
        Self::through(start, ahead, None)
    }

    fn through(start: &Path, ahead: &Path, server: Option<u32>) -> Result<Self, Distrust> {
        let mut walk = Self::nowhere(ahead, server);
        walk.begin_at(start)?;
        Ok(walk)
    }

    fn nowhere(ahead: &Path, server: Option<u32>) -> Self {
        let (entered, path, ahead) = (Vec::new(), PathBuf::new(), parts(ahead));
        Self { entered, path, ahead, links: 0, server, is_open: false, looks_at_modes: true }
    }

    /// To a folder at its end.
    fn enter(mut self) -> Result<Self, Distrust> {
        while let Some(name) = self.ahead.pop_front() {
            if self.step(name)?.is_some() {
                return Err(io::Error::from(io::ErrorKind::NotADirectory).into());
            }
        }
        Ok(self)
    }

    /// The folder that was entered last: where others can make files, one of theirs may be taken for ours.
    fn judge_end(&self) -> Result<(), Distrust> {
        let Some(folder) = self.entered.last() else { return Ok(()) };
        judge_mode(&fstat(folder).map_err(io::Error::from)?, &self.path)
    }

    /// To a file at its end.
    fn to(home: &Path, path: &Path) -> Result<Reached, Distrust> {
        let mut walk = Self::begin(home, path)?;
        while let Some(name) = walk.ahead.pop_front() {
            if let Some(found) = walk.step(name)? {
                return Ok(found);
            }
        }
        Err(io::Error::other("it is a directory, where a regular file is expected").into())
    }

    fn begin_at(&mut self, start: &Path) -> Result<(), Distrust> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(CWD, start, flags, Mode::empty()).map_err(io::Error::from)?;
        start.clone_into(&mut self.path);
        let was_open = self.is_open;
        self.judge_folder(&fstat(&folder).map_err(io::Error::from)?, start)?;
        self.is_open |= was_open;
        self.entered = vec![folder];
        Ok(())
    }

    /// One part of the way; the file, where it is one.
    fn step(&mut self, name: OsString) -> Result<Option<Reached>, Distrust> {
        if name == ".." {
            // Above the folder that the way began at its own path leads on.
            if self.entered.len() > 1 {
                self.entered.pop();
                self.path.pop();
                return Ok(None);
            }
            let above = self.path.parent().unwrap_or(Path::new("/")).to_owned();
            return self.restart(&above).map(|()| None);
        }
        let Some(folder) = self.entered.last() else { return Err(io::Error::from(io::ErrorKind::NotFound).into()) };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = openat(folder, &name, flags, Mode::empty()).map_err(io::Error::from)?;
        let found = fstat(&handle).map_err(io::Error::from)?;
        let path = self.path.join(&name);
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => {
                self.judge_folder(&found, &path)?;
                self.entered.push(handle);
                self.path = path;
                Ok(None)
            }
            FileType::Symlink => {
                self.judge_place(folder)?;
                self.follow(&handle, &found, &path).map(|()| None)
            }
            _ if self.ahead.is_empty() => {
                self.judge_place(folder)?;
                let folder = folder.try_clone()?;
                Ok(Some(Reached { folder, name, handle, path }))
            }
            _ => Err(io::Error::from(io::ErrorKind::NotADirectory).into()),
        }
    }

    fn follow(&mut self, link: &OwnedFd, found: &Stat, path: &Path) -> Result<(), Distrust> {
        self.judge_owner(found, path)?;
        self.links += 1;
        if self.links > MOST_LINKS {
            return Err(io::Error::other("it leads through too many links").into());
        }
        let target = readlinkat(link.as_fd(), "", Vec::new()).map_err(io::Error::from)?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        for part in parts(&target).into_iter().rev() {
            self.ahead.push_front(part);
        }
        if target.is_absolute() { self.begin_at(Path::new("/")) } else { Ok(()) }
    }

    /// The folder that a link or a file lies in. In one such as `/tmp` a free name is anybody's to give: to a file of ours too, which they may move.
    fn judge_place(&self, folder: &OwnedFd) -> Result<(), Distrust> {
        let found = fstat(folder).map_err(io::Error::from)?;
        let is_sticky = Mode::from_raw_mode(found.st_mode).contains(Mode::SVTX);
        if is_sticky && self.looks_at_modes { judge_mode(&found, &self.path) } else { Ok(()) }
    }

    /// A folder on the way. In one such as `/tmp` others can make files, but exchange none of ours.
    fn judge_folder(&mut self, found: &Stat, path: &Path) -> Result<(), Distrust> {
        self.judge_owner(found, path)?;
        let mode = Mode::from_raw_mode(found.st_mode);
        let is_sticky = mode.contains(Mode::SVTX);
        // The server's account knows whom it has in its group.
        let most = if self.server == Some(found.st_uid) { Mode::WOTH } else { Mode::WGRP | Mode::WOTH };
        // What root or we made there is nobody else's.
        self.is_open = is_sticky && mode.intersects(most) || self.is_open && judge_owner(found, path).is_err();
        if is_sticky || !mode.intersects(most) || !self.looks_at_modes { Ok(()) } else { judge_mode(found, path) }
    }

    fn judge_owner(&self, found: &Stat, path: &Path) -> Result<(), Distrust> {
        if self.server == Some(found.st_uid) { Ok(()) } else { judge_owner(found, path) }
    }

    /// Goes on from another folder, whose way is looked at from the root.
    fn restart(&mut self, at: &Path) -> Result<(), Distrust> {
        for part in parts(at).into_iter().rev() {
            self.ahead.push_front(part);
        }
        self.begin_at(Path::new("/"))
    }
}

/// What a path goes through, without its root.
fn parts(path: &Path) -> VecDeque<OsString> {
    let part = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsStr::new("..").to_owned()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(part).collect()
}

/// The file itself.
fn judge(found: &Stat, path: &Path) -> Result<(), Distrust> {
    let what = match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => None,
        FileType::Directory => Some("a directory"),
        FileType::Fifo => Some("a named pipe"),
        _ => Some("not a regular file"),
    };
    if let Some(what) = what {
        return Err(io::Error::other(format!("it is {what}, where a regular file is expected")).into());
    }
    judge_owner(found, path)?;
    judge_mode(found, path)
}

/// Whoever runs this is the home's owner: nobody else works in one.
fn judge_owner(found: &Stat, path: &Path) -> Result<(), Distrust> {
    let (owner, us) = (found.st_uid, geteuid().as_raw());
    if !namespace::is_known(owner) {
        return Err(Distrust::OpenToOthers {
            path: path.to_owned(),
            what: format!(
                "belongs to a user that this user namespace does not know (shown as {owner}), who may be root of the machine or anybody else"
            ),
            remedy: "move the file into the home tree, whose own folders alone are looked at then, or have the namespace map that user".into(),
        });
    }
    if owner == us || owner == 0 {
        return Ok(());
    }
    Err(Distrust::OpenToOthers {
        path: path.to_owned(),
        what: format!("belongs to user {owner}, neither root nor the home's owner"),
        remedy: format!("chown -h {us} {}", typed(&path.to_string_lossy())),
    })
}

fn judge_mode(found: &Stat, path: &Path) -> Result<(), Distrust> {
    let mode = Mode::from_raw_mode(found.st_mode);
    if !mode.intersects(Mode::WGRP | Mode::WOTH) {
        return Ok(());
    }
    let who = if mode.contains(Mode::WOTH) { "everybody" } else { "its group" };
    Err(Distrust::OpenToOthers {
        path: path.to_owned(),
        what: format!("has mode {:04o}: {who} may write it", mode.bits()),
        remedy: format!("chmod go-w {}", typed(&path.to_string_lossy())),
    })
}

#[cfg(test)]
mod tests;
