//! One walk over a package: how much it is, that all of it can be sent, and what tells it from any other state of itself.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use blat_domain::plan::Size;
use blat_domain::text::printable;
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use super::pack::below;

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
        let unreadable = |error: &dyn std::fmt::Display| format!("cannot read the package at the source: {error}");
        let (mut size, mut print) = (Size::default(), Sha256::new());
        for entry in WalkDir::new(root).sort_by_file_name() {
            let entry = entry.map_err(|error| unreadable(&error))?;
            let found = entry.metadata().map_err(|error| unreadable(&error))?;
            let (path, kind) = (below(entry.path(), root), found.file_type());
            add(&mut print, &path);
            print.update(found.mode().to_le_bytes());
            for number in [found.size(), found.dev(), found.ino()] {
                print.update(number.to_le_bytes());
            }
            for time in [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()] {
                print.update(time.to_le_bytes());
            }
            size.entries += u64::from(entry.depth() > 0);
            if kind.is_file() {
                size.bytes += found.len();
            } else if kind.is_symlink() {
                let to = std::fs::read_link(entry.path()).map_err(|error| unreadable(&error))?;
                add(&mut print, to.as_os_str().as_bytes());
            } else if !kind.is_dir() {
                let name = printable(&entry.path().to_string_lossy());
                return Err(format!("{name} is neither file, directory nor symbolic link; remove it from the package"));
            }
        }
        Ok(Self { size, print: print.finalize().into() })
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
