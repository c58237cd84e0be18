//! Package trees as values that can be compared: what is at each path, to the bit that operators rely on.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

/// What is at one path.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    kind: NodeKind,
    /// Permission bits; none of a symlink's, which has none of its own.
    mode: Option<u32>,
    /// Whole seconds; a package's times are kept to the second.
    mtime: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum NodeKind {
    File {
        bytes: u64,
        hash: u32,
    },
    Folder,
    Link {
        to: PathBuf,
    },
    /// FIFOs, sockets, devices: no package has them.
    Other,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            NodeKind::File { bytes, hash } => write!(f, "file of {bytes} bytes (checksum {hash:08x})")?,
            NodeKind::Folder => f.write_str("folder")?,
            NodeKind::Link { to } => write!(f, "link to {to:?}")?,
            NodeKind::Other => f.write_str("something that is no file, folder or link")?,
        }
        if let Some(mode) = self.mode {
            write!(f, ", mode {mode:04o}")?;
        }
        write!(f, ", time {}", self.mtime)
    }
}

/// A tree: every path below its root, and the root as the empty path.
pub type Tree = BTreeMap<PathBuf, Entry>;

/// Reads a tree. Symlinks are looked at, never followed; the root may be one.
pub fn read(root: &Path) -> io::Result<Tree> {
    let mut tree = Tree::new();
    add(&mut tree, root, Path::new(""))?;
    Ok(tree)
}

fn add(tree: &mut Tree, root: &Path, below: &Path) -> io::Result<()> {
    // Joining the empty path would add a slash, and that would follow a link.
    let path = if below.as_os_str().is_empty() { root.to_owned() } else { root.join(below) };
    let found = fs::symlink_metadata(&path)?;
    let kind = if found.is_dir() {
        for inner in fs::read_dir(&path)? {
            add(tree, root, &below.join(inner?.file_name()))?;
        }
        NodeKind::Folder
    } else if found.is_symlink() {
        NodeKind::Link { to: fs::read_link(&path)? }
    } else if found.is_file() {
        NodeKind::File { bytes: found.size(), hash: hash(&path)? }
    } else {
        NodeKind::Other
    };
    let mode = (!found.is_symlink()).then_some(found.mode() & 0o7777);
    tree.insert(below.to_owned(), Entry { kind, mode, mtime: found.mtime() });
    Ok(())
}

/// A CRC 32, since the libraries that chew bytes are optimised in tests as well, and tests read a lot.
fn hash(path: &Path) -> io::Result<u32> {
    let mut file = fs::File::open(path)?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// What differs, a line each; nothing when the trees are the same.
pub fn differences(source: &Tree, target: &Tree) -> String {
    let mut text = String::new();
    for (path, want) in source {
        match target.get(path) {
            None => writeln!(text, "{path:?}: missing on the target; the source has a {want:?}"),
            Some(is) if is != want => writeln!(text, "{path:?}: source {want:?}; target {is:?}"),
            Some(_) => Ok(()),
        }
        .expect("writing to a string");
    }
    for (path, is) in target.iter().filter(|(path, _)| !source.contains_key(*path)) {
        writeln!(text, "{path:?}: only on the target: {is:?}").expect("writing to a string");
    }
    text
}

/// Fails unless the target's package is the source's to the byte, mode, time and link.
pub fn assert_same_package(source: &Path, target: &Path) {
    let want = read(source).unwrap_or_else(|error| panic!("could not read {}: {error}", source.display()));
    let is = read(target).unwrap_or_else(|error| panic!("could not read {}: {error}", target.display()));
    let differences = differences(&want, &is);
    assert!(differences.is_empty(), "{} is not {}:\n{differences}", target.display(), source.display());
}

/// As [`assert_same_package`], for what came out of a ZIP: that has no entry for the package's own folder, and nothing restores a link's time.
pub fn assert_same_contents(source: &Path, unpacked: &Path) {
    let contents = |root: &Path| {
        let mut tree = read(root).unwrap_or_else(|error| panic!("could not read {}: {error}", root.display()));
        tree.remove(Path::new(""));
        let links = tree.values_mut().filter(|entry| matches!(entry.kind, NodeKind::Link { .. }));
        links.for_each(|link| link.mtime = 0);
        tree
    };
    let differences = differences(&contents(source), &contents(unpacked));
    assert!(differences.is_empty(), "{} is not {}:\n{differences}", unpacked.display(), source.display());
}

/// The packages of a PackageList, as `NAME VERSION`, after checking its form: sorted, counted.
pub fn listed(text: &str) -> Vec<String> {
    let packages: Vec<String> = text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    assert_eq!(text.lines().last(), Some(format!("# end {}", packages.len()).as_str()), "the last line of\n{text}");
    assert!(packages.is_sorted(), "not sorted:\n{text}");
    packages
}

/// Every `NAME/VERSION` that an archive shows, sorted. What begins with a dot is not shown.
pub fn visible_packages(archive: &Path) -> Vec<PathBuf> {
    let failed = |folder: &Path, error: io::Error| panic!("could not list {}: {error}", folder.display());
    let mut packages = Vec::new();
    for name in visible(archive).unwrap_or_else(|error| failed(archive, error)) {
        let folder = archive.join(&name);
        let versions = match visible(&folder) {
            // It went with its last version since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            versions => versions.unwrap_or_else(|error| failed(&folder, error)),
        };
        packages.extend(versions.iter().map(|version| Path::new(&name).join(version)));
    }
    packages
}

fn visible(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend((!name.starts_with('.')).then_some(name));
    }
    names.sort();
    Ok(names)
}

/// The first promise: fails unless every version that the target shows is the source's, whole.
pub fn assert_never_partial(source: &Path, archive: &Path) {
    for package in visible_packages(archive) {
        assert_same_package(&source.join(&package), &archive.join(&package));
    }
}

/// Deletes a tree with its read-only folders, as far as possible: a lab that is left over harms nobody.
pub fn remove(root: &Path) {
    fn open_up(folder: &Path) {
        use std::os::unix::fs::PermissionsExt as _;
        // What is not ours stays as it is, and makes the deletion below fail.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).ok();
        for inner in fs::read_dir(folder).into_iter().flatten().flatten() {
            if inner.file_type().is_ok_and(|kind| kind.is_dir()) {
                open_up(&inner.path());
            }
        }
    }
    if fs::remove_dir_all(root).is_err() && root.exists() {
        open_up(root);
        if let Err(error) = fs::remove_dir_all(root) {
            eprintln!("could not delete {}: {error}", root.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::Package;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    /// Two equal packages below a scratch folder, the second of which `change` damages; gives what is said of it.
    fn said_of(name: &str, change: impl FnOnce(&Path)) -> String {
        let scratch = std::env::temp_dir().join(format!("blat-tree-{name}-{}", std::process::id()));
        let make = |side: &str| {
            Package::new("p", "1")
                .file("a b", "text")
                .symlink("link", "a b")
                .empty_dir("empty")
                .write(&scratch.join(side))
        };
        let (source, target) = (make("source"), make("target"));
        change(&target);
        let said = differences(&read(&source).expect("a source"), &read(&target).expect("a target"));
        remove(&scratch);
        said
    }

    fn open(folder: &Path) {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("an own folder");
    }

    #[test]
    fn equal_packages_are_equal() {
        assert_eq!(said_of("equal", |_| {}), "");
    }

    #[test]
    fn a_changed_byte_is_noticed_though_size_and_time_are_the_same() {
        let said = said_of("byte", |package| {
            let path = package.join("a b");
            let time = fs::metadata(&path).and_then(|m| m.modified()).expect("a time");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("an own file");
            fs::write(&path, "tExt").expect("a writable file");
            fs::File::options().write(true).open(&path).and_then(|f| f.set_modified(time)).expect("an own file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).expect("an own file");
        });
        assert!(said.starts_with("\"a b\": source file of 4 bytes"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }

    #[test]
    fn a_changed_mode_is_noticed() {
        let said = said_of("mode", |package| {
            fs::set_permissions(package.join("a b"), fs::Permissions::from_mode(0o555)).expect("an own file");
        });
        assert!(said.contains("mode 0444, time") && said.contains("mode 0555"), "{said}");
    }

    #[test]
    fn a_changed_time_is_noticed() {
        let said = said_of("time", |package| {
            let file = fs::File::open(package.join("a b")).expect("a file");
            file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("an own file");
        });
        assert!(said.contains("time 0"), "{said}");
    }

    #[test]
    fn missing_added_and_redirected_paths_are_noticed() {
        let said = said_of("paths", |package| {
            open(package);
            fs::remove_dir(package.join("empty")).expect("an empty folder");
            fs::remove_file(package.join("link")).expect("a link");
            symlink("elsewhere", package.join("link")).expect("a free name");
            fs::write(package.join("stray"), "").expect("an open folder");
        });
        for part in ["\"empty\": missing", "link to \"elsewhere\"", "\"stray\": only on the target"] {
            assert!(said.contains(part), "{part} is not in:\n{said}");
        }
    }
}
