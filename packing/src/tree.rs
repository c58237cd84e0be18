//! One walk over a package: how much it is, that all of it can be sent, and what tells it from any other state of itself.

use blat_domain::archive::CONTROL;
use blat_domain::archive::record::FILE;
use blat_domain::policy::plan::Size;
use sha2::{Digest, Sha256};

use super::names::{Meeting, Names};
use super::walker::{FileType, Node, Root, SourceError, Stat, WalkOrder};
use crate::item::Fingerprint;

/// What tells a package's content from any other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digests {
    /// Of its manifest, or of what else stands for all its bytes there.
    pub bytes: String,
    /// Of its tree file; none where there is none.
    pub tree: Option<String>,
}

/// A package's tree, as it was a moment ago.
#[derive(Debug, Clone, Copy)]
pub struct Tree {
    /// What it is where each name of a file takes its bytes.
    pub size: Size,
    /// Bytes of those that come as hard links, where links are kept.
    pub linked: u64,
    /// What tells it from any other state of itself.
    pub print: Fingerprint,
}

impl Tree {
    /// Walks over a package. No file is read for that.
    ///
    /// # Errors
    /// What of it cannot be looked at, or cannot be sent at all.
    pub fn look(root: &Root) -> Result<Self, SourceError> {
        let (mut size, mut linked, mut print) = (Size::default(), 0u64, Sha256::new());
        let mut names = Names::default();
        for node in root.walk(WalkOrder::Name) {
            let node = node?;
            note(&mut print, &node);
            if is_record(&node.path) {
                return Err(SourceError::Record(root.shown(&node.path)));
            }
            size.entries += u64::from(!node.path.is_empty());
            match node.stat.kind() {
                FileType::RegularFile => {
                    let sum = size.bytes.checked_add(node.stat.size);
                    size.bytes = sum.ok_or_else(|| SourceError::TooLarge(root.shown(&node.path)))?;
                    if let Meeting::Again(_) = names.meet(&node, 0) {
                        linked += node.stat.size;
                    }
                }
                FileType::Directory => {}
                FileType::Symlink => add(&mut print, &root.link(&node)?),
                FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Unknown => return Err(SourceError::Odd(root.shown(&node.path))),
            }
        }
        Ok(Self { size, linked, print: print.finalize().into() })
    }
}

impl Tree {
    /// How much it is for a target that keeps hard links, or that does not.
    pub fn size_with(&self, links: Links) -> Size {
        match links {
            Links::Kept => Size { bytes: self.size.bytes.saturating_sub(self.linked), ..self.size },
            Links::Copied => self.size,
        }
    }
}

/// What becomes of hard links within a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// They are hard links at the target too: a file with several names goes there once.
    Kept,
    /// Each name gets the bytes, as in a ZIP.
    Copied,
}

/// Whether a target would take the directory that this path leads through for an archive in the package.
fn is_record(path: &[u8]) -> bool {
    let record = [CONTROL, "/", FILE].concat();
    path.strip_suffix(record.as_bytes()).is_some_and(|above| above.is_empty() || above.ends_with(b"/"))
}

/// Adds all that tells an entry from any other state of itself.
fn note(print: &mut Sha256, node: &Node) {
    let Node { path, stat: Stat { mode, size, modified, changed, device: (major, minor), inode, owner: _, names: _ } } =
        node;
    add(print, path);
    for number in [mode, major, minor] {
        print.update(number.to_le_bytes());
    }
    for number in [size, inode] {
        print.update(number.to_le_bytes());
    }
    for (seconds, nanoseconds) in [modified, changed] {
        print.update(seconds.to_le_bytes());
        print.update(nanoseconds.to_le_bytes());
    }
}

/// Adds bytes so that they cannot be mistaken for others, however they are cut.
pub fn add(digest: &mut Sha256, bytes: &[u8]) {
    digest.update((bytes.len() as u64).to_le_bytes());
    digest.update(bytes);
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use blat_domain::package::name::PackageId;

    use super::*;

    #[test]
    fn every_change_shows_in_the_print() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let package: PackageId = "core@1".parse().expect("a package");
        let root = scratch.path().join(package.path());
        fs::create_dir_all(&root).expect("a package directory");
        let file = root.join("file");
        fs::write(&file, "1").expect("a file");
        symlink("file", root.join("link")).expect("a link");
        let look = || Root::open(scratch.path(), &package).and_then(|root| Tree::look(&root)).expect("a tree");
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
