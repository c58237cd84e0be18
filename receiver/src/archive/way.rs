//! The way to the archive. A folder on it may belong to another account, and whoever owns such a folder can put a link in the place of the archive:
//! to another archive, or to any folder of this account's. So the way is walked by handles, part by part, and a link on it counts only where root or
//! this account made it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use blat_domain::text::printable;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::failure::Failure;

/// The most links on one way: what the system itself follows.
const MOST_LINKS: usize = 40;
const WALKING: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Why a way leads to no archive.
#[derive(Debug)]
pub(crate) enum Astray {
    /// The system refuses a part of it.
    Io(io::Error),
    /// A link on it is a stranger's: the link, and its owner.
    Link(String, u32),
}

impl Astray {
    /// The answer, with what to do where the system refuses.
    pub(crate) fn failure(&self, what: String, advice: &str) -> Failure {
        match self {
            Self::Io(error) => Failure::io(what, error, advice),
            Self::Link(link, owner) => Failure::refused(
                what,
                format_args!("{link} is a link that the account {owner} made"),
                "name the real path in `archive`, or make it lead through folders and links of root's or this account's",
            ),
        }
    }
}

impl From<Errno> for Astray {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// The directory that a path leads to, to look up names in.
pub(super) fn walk(path: &Path) -> Result<OwnedFd, Astray> {
    let path = path.as_os_str().as_bytes();
    // Where it is, without any link, and what is still to come, last part first.
    let (mut here, mut at) = begin(path)?;
    let (mut rest, mut links) = (Vec::new(), 0);
    add(&mut rest, path);
    while let Some(part) = rest.pop() {
        match rustix::fs::openat(&here, part.as_slice(), WALKING | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(directory) => {
                here = directory;
                at.extend_from_slice(&part);
                at.push(b'/');
            }
            Err(Errno::LOOP | Errno::NOTDIR) => {
                let to = link(&here, &part, &at)?;
                links += 1;
                if links > MOST_LINKS {
                    return Err(Errno::LOOP.into());
                }
                add(&mut rest, &to);
                if to.starts_with(b"/") {
                    (here, at) = begin(&to)?;
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(here)
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

/// Where a link of root's or of this account's leads.
fn link(here: &OwnedFd, part: &[u8], at: &[u8]) -> Result<Vec<u8>, Astray> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let link = rustix::fs::openat(here, part, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&link)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        return Err(Errno::NOTDIR.into());
    }
    if stat.st_uid != 0 && stat.st_uid != geteuid().as_raw() {
        let path = [at, part].concat();
        return Err(Astray::Link(printable(&String::from_utf8_lossy(&path)), stat.st_uid));
    }
    Ok(rustix::fs::readlinkat(&link, "", Vec::new())?.into_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, lchown, symlink};
    use std::path::PathBuf;

    use super::*;

    /// An account that is neither root nor this one.
    const STRANGER: u32 = 54_321;

    fn inode(path: &Path) -> Result<u64, Astray> {
        Ok(rustix::fs::fstat(walk(path)?)?.st_ino)
    }

    /// `archive`, another directory `area/other`, and a link `area/way` to where it is said.
    fn scratch(to: &str) -> (tempfile::TempDir, PathBuf) {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        fs::create_dir(scratch.path().join("archive")).expect("a directory");
        fs::create_dir_all(scratch.path().join("area/other")).expect("a directory");
        let way = scratch.path().join("area/way");
        let to = to.replace("ROOT", &scratch.path().to_string_lossy());
        symlink(to, &way).expect("a link");
        (scratch, way)
    }

    #[test]
    fn links_of_our_own_lead_to_the_archive_as_the_system_follows_them() {
        for to in ["../archive", "ROOT/archive", "other/../../archive", ".././/archive/", "../area/again"] {
            let (scratch, way) = scratch(to);
            symlink("../archive", scratch.path().join("area/again")).expect("a link");
            let archive = fs::metadata(scratch.path().join("archive")).expect("a directory").ino();
            for path in [way.clone(), way.join("."), way.join("../area/way"), way.join("../archive/")] {
                assert_eq!(inode(&path).expect("a way"), archive, "{to}: {}", path.display());
            }
        }
        let (scratch, way) = scratch("way");
        assert!(
            matches!(walk(&way), Err(Astray::Io(error)) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()))
        );
        let file = scratch.path().join("file");
        fs::write(&file, "").expect("a file");
        assert!(matches!(walk(&file), Err(Astray::Io(error)) if error.kind() == io::ErrorKind::NotADirectory));
        assert!(
            matches!(walk(&file.with_file_name("none")), Err(Astray::Io(error)) if error.kind() == io::ErrorKind::NotFound)
        );
        assert_eq!(inode(Path::new(".")).expect("a way"), fs::metadata(".").expect("a directory").ino());
        assert_eq!(inode(Path::new("src/..")).expect("a way"), fs::metadata(".").expect("a directory").ino());
        assert_eq!(inode(Path::new("/")).expect("a way"), fs::metadata("/").expect("a directory").ino());
    }

    /// Nobody but root can give a link to somebody else.
    #[test]
    fn as_root_a_link_of_another_account_leads_nowhere_wherever_it_lies_on_the_way() {
        if !geteuid().is_root() {
            return;
        }
        let refused = |scratch: &Path, path: &Path, link: &str| match walk(path) {
            Err(Astray::Link(named, owner)) => {
                assert_eq!((named, owner), (scratch.join(link).to_string_lossy().into_owned(), STRANGER));
            }
            other => panic!("{}: {other:?}", path.display()),
        };
        for to in ["../archive", "ROOT/archive", "other", "../area/again", "other/..", "gone"] {
            let (scratch, way) = scratch(to);
            let (again, root) = (scratch.path().join("area/again"), scratch.path());
            symlink("../archive", &again).expect("a link");
            lchown(&way, Some(STRANGER), None).expect("root may");
            for path in [way.clone(), way.join("below"), way.join("../archive"), root.join("archive/../area/way/")] {
                refused(root, &path, if path.starts_with(&way) { "area/way" } else { "archive/../area/way" });
            }
            // A link of our own leads to theirs.
            let own = root.join("own");
            symlink("area/way", &own).expect("a link");
            refused(root, &own, "area/way");
        }
        // Theirs is the last of a chain.
        let (scratch, way) = scratch("again");
        let again = scratch.path().join("area/again");
        symlink("../archive", &again).expect("a link");
        lchown(&again, Some(STRANGER), None).expect("root may");
        refused(scratch.path(), &way, "area/again");
    }
}
