//! What a package has that does not go with it: capabilities, access control lists and other extended attributes.
//!
//! Only whoever asks for it looks, and at no more than so many entries: each takes as long as opening a file.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use blat_domain::package::name::PackageId;
use blat_domain::util::text::printable;
use rustix::buffer::spare_capacity;
use rustix::fs::flistxattr;
use rustix::io::Errno;

use super::walker::{Root, WalkOrder};

/// Entries that are looked at, of all packages together.
const MOST_ENTRIES: usize = 100_000;
/// Packages that are named.
const MOST_NAMED: usize = 10;
/// The most bytes of names that a file's attributes have, as the system says.
const LONGEST_LIST: usize = 64 << 10;

/// The first entry of a package that has such attributes.
#[derive(Debug, PartialEq, Eq)]
struct Lost {
    package: PackageId,
    path: Vec<u8>,
    attributes: Vec<String>,
}

/// What was found in some packages.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LostAttributes {
    lost: Vec<Lost>,
    /// Packages with such attributes beside those.
    unnamed: usize,
    /// Packages that were not looked at to their end.
    unseen: usize,
}

/// What a look at a package came to.
enum AttributeScan {
    /// It has nothing of that kind.
    Nothing,
    /// The path of its first entry that has, and what that is.
    Lost(Vec<u8>, Vec<String>),
    /// It was not looked at to its end.
    Cut,
}

/// Looks through packages of this archive. What cannot be read is not looked at: what is wrong with it shows when it is sent.
pub fn look<'a>(archive: &Path, packages: impl Iterator<Item = &'a PackageId>) -> LostAttributes {
    look_at(archive, packages, MOST_ENTRIES)
}

fn look_at<'a>(archive: &Path, packages: impl Iterator<Item = &'a PackageId>, most: usize) -> LostAttributes {
    let (mut findings, mut left) = (LostAttributes::default(), most);
    for package in packages {
        let Ok(root) = Root::open(archive, package) else { continue };
        match first(&root, &mut left) {
            AttributeScan::Nothing => {}
            AttributeScan::Lost(path, attributes) if findings.lost.len() < MOST_NAMED => {
                findings.lost.push(Lost { package: package.clone(), path, attributes });
            }
            AttributeScan::Lost(..) => findings.unnamed += 1,
            AttributeScan::Cut => findings.unseen += 1,
        }
    }
    findings
}

/// Looks for the first entry of a package that has such attributes.
fn first(root: &Root, left: &mut usize) -> AttributeScan {
    for node in root.walk(WalkOrder::Name) {
        if *left == 0 {
            return AttributeScan::Cut;
        }
        *left -= 1;
        let Ok(node) = node else { return AttributeScan::Nothing };
        let Ok(Some(handle)) = root.open_for_a_look(&node) else { continue };
        let mut names = Vec::with_capacity(LONGEST_LIST);
        match flistxattr(&handle, spare_capacity(&mut names)) {
            Ok(_) => {}
            // There are none on this file system.
            Err(Errno::NOTSUP) => return AttributeScan::Nothing,
            Err(_) => continue,
        }
        let lost: Vec<String> = names.split(|byte| *byte == 0).filter(|name| is_lost(name)).map(shown).collect();
        if !lost.is_empty() {
            return AttributeScan::Lost(node.path, lost);
        }
    }
    AttributeScan::Nothing
}

/// Whether an attribute is the package's, and no label that a host or a file server gives to every file.
fn is_lost(name: &[u8]) -> bool {
    name == b"security.capability" || name.starts_with(b"system.posix_acl_") || name.starts_with(b"user.")
}

fn shown(bytes: &[u8]) -> String {
    printable(&OsStr::from_bytes(bytes).to_string_lossy()).to_string()
}

impl LostAttributes {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for LostAttributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lost = self.lost.iter().map(|Lost { package, path, attributes }| {
            let place = if path.is_empty() { "its own directory".to_owned() } else { shown(path) };
            format!("{package} ({place}: {})", attributes.join(", "))
        });
        let mut parts: Vec<String> = lost.collect();
        if self.unnamed > 0 {
            parts.push(format!("{} more packages", self.unnamed));
        }
        if !parts.is_empty() {
            write!(f, "extended attributes do not go to the target: {}", parts.join("; "))?;
        }
        if self.unseen > 0 {
            let semicolon = if parts.is_empty() { "" } else { "; " };
            write!(f, "{semicolon}{} packages were not looked through for extended attributes", self.unseen)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::{XattrFlags, setxattr};

    use super::*;

    #[test]
    fn packages_with_attributes_that_do_not_go_with_them_are_named_and_how_many_were_not_looked_through() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let packages: Vec<PackageId> =
            ["a@1", "b@1", "c@1", "gone@1"].iter().map(|id| id.parse().expect("a package")).collect();
        for package in &packages[..3] {
            let root = scratch.path().join(package.path());
            fs::create_dir_all(root.join("bin")).expect("a directory");
            fs::write(root.join("bin/ping"), "").expect("a file");
            fs::write(root.join("descpkg"), "").expect("a file");
        }
        let look = |most| look_at(scratch.path(), packages.iter(), most).to_string();
        assert_eq!(look(100), "");
        let set = |path: &str, name: &str| {
            setxattr(scratch.path().join(path), name, b"x", XattrFlags::empty()).map_err(|why| format!("{name}: {why}"))
        };
        if let Err(why) = set("b/1/bin/ping", "user.origin").and_then(|()| set("c/1", "user.origin")) {
            println!("skipped, since the file system has no such attributes: {why}");
            return;
        }
        assert_eq!(
            look(100),
            "extended attributes do not go to the target: b@1 (bin/ping: user.origin); c@1 (its own directory: user.origin)"
        );
        assert_eq!(look(4), "2 packages were not looked through for extended attributes");
    }

    #[test]
    fn labels_that_every_file_of_a_host_has_are_not_the_packages() {
        for name in
            ["security.selinux", "security.SMACK64", "system.nfs4_acl", "trusted.overlay.opaque", "btrfs.compression"]
        {
            assert!(!is_lost(name.as_bytes()), "{name}");
        }
        for name in ["security.capability", "system.posix_acl_access", "system.posix_acl_default", "user.x"] {
            assert!(is_lost(name.as_bytes()), "{name}");
        }
    }
}
