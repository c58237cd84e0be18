//! One walk over a package: how much it is, that all of it can be sent, and what tells it from any other state of itself.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use blat_domain::plan::Size;
use blat_domain::text::printable;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Statx, StatxFlags, openat, readlinkat, statx};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

/// A digest of what `lstat` says of everything in a package, times of change and inode numbers included, which nobody can set back.
pub(crate) type Print = [u8; 32];

/// A package's tree, as it was a moment ago.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tree {
    pub(super) size: Size,
    pub(super) print: Print,
}

impl Tree {
    /// Walks over the package at `root`. No file is read for that.
    ///
    /// # Errors
    /// What of it cannot be looked at, or cannot be sent at all.
    pub(super) fn look(root: &Path) -> Result<Self, String> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // From its own handle on, no look has to find the way to the archive again.
        let handle =
            openat(CWD, root, flags | OFlags::NOFOLLOW, Mode::empty()).map_err(|error| unreadable(root, error))?;
        let (mut size, mut print) = (Size::default(), Sha256::new());
        note(&mut print, b"", &status(&handle, Path::new(".")).map_err(|error| unreadable(root, error))?);
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let here = |error| unreadable(&root.join(&folder), error);
            let at = if folder.as_os_str().is_empty() { Path::new(".") } else { &folder };
            let opened = openat(&handle, at, flags, Mode::empty()).map_err(here)?;
            for name in names(opened).map_err(here)? {
                let path = folder.join(OsStr::from_bytes(&name));
                let here = |error| unreadable(&root.join(&path), error);
                let found = status(&handle, &path).map_err(here)?;
                note(&mut print, path.as_os_str().as_bytes(), &found);
                size.entries += 1;
                match FileType::from_raw_mode(found.stx_mode.into()) {
                    FileType::RegularFile => size.bytes += found.stx_size,
                    FileType::Directory => folders.push(path),
                    FileType::Symlink => {
                        add(&mut print, readlinkat(&handle, &path, Vec::new()).map_err(here)?.as_bytes());
                    }
                    FileType::Fifo
                    | FileType::Socket
                    | FileType::CharacterDevice
                    | FileType::BlockDevice
                    | FileType::Unknown => {
                        let name = printable(&root.join(&path).to_string_lossy());
                        return Err(format!(
                            "{name} is neither file, directory nor symbolic link; remove it from the package"
                        ));
                    }
                }
            }
        }
        Ok(Self { size, print: print.finalize().into() })
    }
}

fn unreadable(what: &Path, error: Errno) -> String {
    format!("cannot read the package at the source: {}: {error}", printable(&what.to_string_lossy()))
}

/// The names in a folder, sorted.
fn names(folder: OwnedFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::new(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn status(at: &OwnedFd, path: &Path) -> rustix::io::Result<Statx> {
    statx(at, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
}

/// Adds all that tells an entry from any other state of itself.
fn note(print: &mut Sha256, path: &[u8], found: &Statx) {
    add(print, path);
    for number in [u32::from(found.stx_mode), found.stx_dev_major, found.stx_dev_minor] {
        print.update(number.to_le_bytes());
    }
    for number in [found.stx_size, found.stx_ino] {
        print.update(number.to_le_bytes());
    }
    for time in [found.stx_mtime, found.stx_ctime] {
        print.update(time.tv_sec.to_le_bytes());
        print.update(time.tv_nsec.to_le_bytes());
    }
}

/// Adds bytes so that they cannot be mistaken for others, however they are cut.
pub(super) fn add(digest: &mut Sha256, bytes: &[u8]) {
    digest.update((bytes.len() as u64).to_le_bytes());
    digest.update(bytes);
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn every_change_shows_in_the_print() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let root = scratch.path();
        let file = root.join("file");
        fs::write(&file, "1").expect("a file");
        symlink("file", root.join("link")).expect("a link");
        let look = || Tree::look(root).expect("a tree");
        assert_eq!(look().size, Size { bytes: 1, entries: 2 });
        assert_eq!(look().print, look().print);
        let time = || fs::metadata(&file).expect("a file").modified().expect("a time");
        let before = time();
        let changes: [(&str, &dyn Fn()); 5] = [
            ("a mode", &|| fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("chmod")),
            ("bytes, though size and time are the same", &|| {
                fs::write(&file, "2").expect("a file");
                File::options().write(true).open(&file).and_then(|file| file.set_modified(before)).expect("a time");
                assert_eq!(time(), before);
            }),
            ("another file in its place", &|| {
                fs::copy(&file, root.join("other")).expect("a copy");
                fs::rename(root.join("other"), &file).expect("a rename");
            }),
            ("a link", &|| {
                fs::remove_file(root.join("link")).expect("a link");
                symlink("elsewhere", root.join("link")).expect("a link");
            }),
            ("one more", &|| fs::write(root.join("more"), "").expect("a file")),
        ];
        let mut prints = vec![look().print];
        for (what, change) in changes {
            change();
            let print = look().print;
            assert!(!prints.contains(&print), "{what} is not noticed");
            prints.push(print);
        }
    }
}
