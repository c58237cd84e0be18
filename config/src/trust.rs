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

use blat_domain::text::{printable, typed};
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat};
use rustix::process::geteuid;

use crate::namespace;

/// The most links on one way: what the system itself follows.
pub(crate) const MOST_LINKS: usize = 40;

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
    let Found { folder, name, path, .. } = Walk::to(home, path)?;
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
    let Found { handle, path, .. } = Walk::to(home, path)?;
    judge(&fstat(&handle).map_err(io::Error::from)?, &path)
}

/// Looks whether nobody but root and whoever runs this can put another directory in the place of the one at this absolute path.
///
/// # Errors
/// Where others own or may write it or anything on the way to it, or where it is no directory.
pub fn check_folder(path: &Path) -> Result<(), Distrust> {
    Walk::from(Path::new("/"), path)?.enter().map(drop)
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
struct Found {
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
        let (entered, path, ahead) = (Vec::new(), PathBuf::new(), parts(ahead));
        let mut walk = Self { entered, path, ahead, links: 0, server, is_open: false };
        walk.begin_at(start)?;
        Ok(walk)
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
    fn to(home: &Path, path: &Path) -> Result<Found, Distrust> {
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
    fn step(&mut self, name: OsString) -> Result<Option<Found>, Distrust> {
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
            FileType::Symlink => self.follow(&handle, &found, &path).map(|()| None),
            _ if self.ahead.is_empty() => {
                let folder = folder.try_clone()?;
                Ok(Some(Found { folder, name, handle, path }))
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

    /// A folder on the way. In one such as `/tmp` others can make files, but exchange none of ours.
    fn judge_folder(&mut self, found: &Stat, path: &Path) -> Result<(), Distrust> {
        self.judge_owner(found, path)?;
        let mode = Mode::from_raw_mode(found.st_mode);
        let is_sticky = mode.contains(Mode::SVTX);
        // The server's account knows whom it has in its group.
        let most = if self.server == Some(found.st_uid) { Mode::WOTH } else { Mode::WGRP | Mode::WOTH };
        // What root or we made there is nobody else's.
        self.is_open = is_sticky && mode.intersects(most) || self.is_open && judge_owner(found, path).is_err();
        if is_sticky || !mode.intersects(most) { Ok(()) } else { judge_mode(found, path) }
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
pub(crate) fn parts(path: &Path) -> VecDeque<OsString> {
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
mod tests {
    use std::fs::{self, Permissions, set_permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            let tree = Self(tempfile::tempdir().expect("a scratch directory"));
            fs::create_dir_all(tree.at("home/config")).expect("a home tree");
            fs::create_dir_all(tree.at("elsewhere")).expect("a checkout");
            fs::write(tree.at("elsewhere/x.conf"), "elsewhere").expect("a file");
            fs::write(tree.at("home/config/x.conf"), "here").expect("a file");
            for open in ["home", "home/config", "home/config/x.conf", "elsewhere", "elsewhere/x.conf"] {
                tree.set(open, 0o755);
            }
            tree
        }

        fn at(&self, below: &str) -> PathBuf {
            self.0.path().join(below)
        }

        fn set(&self, below: &str, mode: u32) {
            set_permissions(self.at(below), Permissions::from_mode(mode)).expect("an own file");
        }

        fn read(&self, below: &str) -> Result<String, String> {
            let (home, path) = (self.at("home"), self.at(below));
            let opened = read(&home, &path, 100).map_err(|why| why.to_string());
            let checked = check(&home, &path).map_err(|why| why.to_string());
            assert_eq!(opened.is_ok(), checked.is_ok(), "{opened:?}, {checked:?}");
            opened
        }
    }

    #[test]
    fn what_others_may_write_is_not_read() {
        let tree = Tree::new();
        assert_eq!(tree.read("home/config/x.conf").as_deref(), Ok("here"));
        for open in ["home/config/x.conf", "home/config", "home"] {
            for (mode, who) in [(0o775, "its group"), (0o757, "everybody")] {
                tree.set(open, mode);
                let why = tree.read("home/config/x.conf").expect_err(open);
                let named = tree.at(open).display().to_string();
                assert!(why.contains(who) && why.ends_with(&format!("; chmod go-w {named}")), "{why}");
                tree.set(open, 0o755);
            }
        }
        tree.set("home/config", 0o1777);
        assert_eq!(tree.read("home/config/x.conf").as_deref(), Ok("here"), "nobody can exchange it there");
    }

    #[test]
    fn a_link_is_followed_where_all_of_its_way_is_trusted() {
        let tree = Tree::new();
        for (name, target) in [("relative", "../../elsewhere/x.conf".into()), ("absolute", tree.at("elsewhere/x.conf"))]
        {
            let link = format!("home/config/{name}.conf");
            symlink(target, tree.at(&link)).expect("a link");
            assert_eq!(tree.read(&link).as_deref(), Ok("elsewhere"));
            tree.set("elsewhere", 0o777);
            assert!(tree.read(&link).expect_err("open").contains("elsewhere has mode 0777"));
            tree.set("elsewhere", 0o755);
        }
        symlink("loop.conf", tree.at("home/config/loop.conf")).expect("a loop");
        assert!(tree.read("home/config/loop.conf").expect_err("a loop").contains("too many links"));
    }

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let tree = Tree::new();
        rustix::fs::mkfifoat(CWD, tree.at("home/config/pipe"), Mode::from_raw_mode(0o600)).expect("a FIFO");
        fs::write(tree.at("home/config/large"), vec![b'x'; 101]).expect("a file");
        fs::write(tree.at("home/config/binary"), b"a\n\xff").expect("a file");
        assert!(read(&tree.at("home"), &tree.at("home/config/pipe"), 100).is_err());
        assert!(
            read(&tree.at("home"), &tree.at("home/config/large"), 100)
                .expect_err("large")
                .to_string()
                .contains("larger")
        );
        let why = read(&tree.at("home"), &tree.at("home/config/binary"), 100).expect_err("no text").to_string();
        assert!(why.contains("see line 2"), "{why}");
        assert!(read(&tree.at("home"), &tree.at("home/config"), 100).is_err());
        assert!(check(&tree.at("home"), &tree.at("home/config/none")).expect_err("none").is_absence());
    }

    #[test]
    fn a_place_for_programs_is_not_open_to_everybody_with_the_sticky_bit_either() {
        let tree = Tree::new();
        let is_safe = |way, place| {
            tree.set("elsewhere", way);
            tree.set("elsewhere/bin", place);
            check_place(&tree.at("home"), &tree.at("elsewhere/bin")).is_ok()
        };
        fs::create_dir(tree.at("elsewhere/bin")).expect("a folder");
        assert!(is_safe(0o755, 0o755));
        assert!(is_safe(0o1777, 0o755), "on the way others exchange none of ours");
        assert!(!is_safe(0o755, 0o1777), "there they may have put theirs before");
        assert!(!is_safe(0o777, 0o755));
    }

    #[test]
    fn a_socket_is_in_no_folder_where_others_can_exchange_it() {
        let tree = Tree::new();
        fs::create_dir(tree.at("elsewhere/pg")).expect("a folder");
        let look = |way, folder| {
            tree.set("elsewhere", way);
            tree.set("elsewhere/pg", folder);
            check_socket_folder(&tree.at("elsewhere/pg")).map_err(|why| why.to_string())
        };
        assert_eq!(look(0o755, 0o755), Ok(false));
        assert_eq!(look(0o755, 0o2775), Ok(false), "as the servers' packages make it");
        assert_eq!(look(0o755, 0o1777), Ok(true), "as /tmp");
        assert_eq!(look(0o1777, 0o755), Ok(false), "nobody can exchange ours");
        for (way, folder) in [(0o755, 0o777), (0o777, 0o755)] {
            assert!(look(way, folder).is_err_and(|why| why.contains("everybody may write it")), "{way:o} {folder:o}");
        }
        symlink("pg", tree.at("elsewhere/link")).expect("a link");
        tree.set("elsewhere", 0o755);
        tree.set("elsewhere/pg", 0o777);
        assert!(check_socket_folder(&tree.at("elsewhere/link")).is_err());
        tree.set("elsewhere", 0o1777);
        assert_eq!(check_socket_folder(&tree.at("elsewhere/none/pg")).ok(), Some(true), "anybody can make it");
    }

    #[test]
    fn as_root_a_socket_is_in_the_servers_own_folder_and_in_no_strangers() {
        let tree = Tree::new();
        fs::create_dir(tree.at("elsewhere/pg")).expect("a folder");
        let look = |of_way, way, folder| {
            for (path, uid) in [("elsewhere", of_way), ("elsewhere/pg", 7001)] {
                std::os::unix::fs::chown(tree.at(path), Some(uid), None).expect("root may");
            }
            tree.set("elsewhere", way);
            tree.set("elsewhere/pg", folder);
            check_socket_folder(&tree.at("elsewhere/pg")).map_err(|why| why.to_string())
        };
        assert_eq!(look(0, 0o755, 0o2775), Ok(false), "as /run/postgresql");
        assert_eq!(look(7001, 0o775, 0o755), Ok(false), "all of it is the server's");
        assert_eq!(look(0, 0o1777, 0o755), Ok(true), "a stranger may make it while it is missing");
        assert!(look(7002, 0o755, 0o755).is_err_and(|why| why.contains("belongs to user 7002")));
        assert!(look(0, 0o755, 0o777).is_err());
    }
}
