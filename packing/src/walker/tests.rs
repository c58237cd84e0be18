//! A stranger writes the package: whatever he exchanges, nothing from outside of it is read.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::*;

mod attack;
mod batches;

const WAYS: [PathResolution; 2] = [PathResolution::AtOnce, PathResolution::ByParts];

/// An archive with the package core@1, and beside it a directory of secrets.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        let scratch = Self(tempfile::tempdir().expect("a scratch directory"));
        scratch.file("archive/core/1/descpkg", "x");
        scratch.file("archive/core/1/a/b/file", "open");
        scratch.file("secret/b/file", SECRET);
        scratch.file("secret/file", SECRET);
        scratch.file("secret/descpkg", SECRET);
        symlink("a", scratch.path("archive/core/1/link")).expect("a link");
        scratch
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.path().join(below)
    }

    fn file(&self, below: &str, text: &str) {
        let path = self.path(below);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, text).expect("a file");
    }

    fn open_by(&self, way: PathResolution) -> Result<Root, SourceError> {
        Root::open_by(way, &self.path("archive"), &core())
    }

    /// Puts a link to `to` where `what` was.
    fn swap(&self, what: &str, to: &str) {
        let path = self.path(what);
        fs::rename(&path, self.path("away")).expect("a rename");
        symlink(self.path(to), path).expect("a link");
    }
}

const SECRET: &str = "s3cr3t:Zk9wQ4xL7vB2nM8rT1yPd5Gh0Jc6Fa";

fn core() -> PackageId {
    "core@1".parse().expect("a package")
}

fn names(root: &Root, order: WalkOrder) -> Vec<String> {
    root.walk(order).map(|node| String::from_utf8_lossy(&node.expect("an entry").path).into_owned()).collect()
}

fn node(root: &Root, path: &str) -> Node {
    let found = root.walk(WalkOrder::Name).map(|node| node.expect("an entry"));
    found.into_iter().find(|node| node.path == path.as_bytes()).expect("such an entry")
}

#[test]
fn a_walk_gives_each_directory_before_what_is_in_it_in_either_order() {
    let scratch = Scratch::new();
    scratch.file("archive/core/1/a.txt", "");
    for way in WAYS {
        let root = scratch.open_by(way).expect("a package");
        assert_eq!(names(&root, WalkOrder::Name), ["", "a", "a/b", "a/b/file", "a.txt", "descpkg", "link"], "{way:?}");
        assert_eq!(names(&root, WalkOrder::Path), ["", "a.txt", "a", "a/b", "a/b/file", "descpkg", "link"], "{way:?}");
        assert_eq!(root.link(&node(&root, "link")).expect("a link"), b"a", "it is read and not followed");
        let mut text = String::new();
        root.file(&node(&root, "a/b/file")).expect("a file").read_to_string(&mut text).expect("text");
        assert_eq!(text, "open");
    }
}

#[test]
fn what_became_a_link_before_it_was_opened_is_not_followed() {
    for way in WAYS {
        for (what, to) in [("a", "secret"), ("a/b", "secret/b"), ("a/b/file", "secret/file")] {
            let scratch = Scratch::new();
            let root = scratch.open_by(way).expect("a package");
            let file = node(&root, "a/b/file");
            scratch.swap(&format!("archive/core/1/{what}"), to);
            let opened = root.file(&file);
            assert!(
                matches!(&opened, Err(SourceError::Changed(why)) if why.ends_with("a/b/file")),
                "{what}: {opened:?}"
            );
        }
        for (what, to) in [("a", "secret"), ("a/b", "secret/b")] {
            let scratch = Scratch::new();
            let root = scratch.open_by(way).expect("a package");
            let mut walk = root.walk(WalkOrder::Name);
            let met = |node: &Result<Node, SourceError>| node.as_ref().is_ok_and(|node| node.path == what.as_bytes());
            assert!(walk.by_ref().any(|node| met(&node)));
            scratch.swap(&format!("archive/core/1/{what}"), to);
            let rest: Vec<_> = walk.collect();
            assert!(matches!(&rest[..], [Err(SourceError::Changed(_))]), "{way:?} {what}: {rest:?}");
        }
    }
}

#[test]
fn neither_a_name_nor_a_version_that_is_a_link_is_opened_as_a_directory() {
    for way in WAYS {
        for what in ["archive/core", "archive/core/1"] {
            let scratch = Scratch::new();
            scratch.file("secret/1/descpkg", SECRET);
            scratch.swap(what, "secret");
            assert!(matches!(scratch.open_by(way), Err(SourceError::NoDirectory(_))), "{way:?} {what}");
        }
        let scratch = Scratch::new();
        symlink("archive", scratch.path("alias")).expect("a link");
        Root::open_by(way, &scratch.path("alias"), &core()).expect("the archive's own path is the operator's");
    }
}

#[test]
fn a_version_that_is_a_link_is_told_by_its_text_and_a_name_is_never_one() {
    let scratch = Scratch::new();
    symlink("1", scratch.path("archive/core/now")).expect("a link");
    symlink("core", scratch.path("archive/alias")).expect("a link");
    scratch.file("archive/file", "");
    scratch.file("archive/core/file", "");
    let archive = Archive::open(&scratch.path("archive")).expect("an archive");
    let find = |id: &str| archive.find(&id.parse().expect("a package"));
    assert!(matches!(find("core@now"), Ok(FoundVersion::Link(to)) if to == b"1"));
    assert!(matches!(find("core@1"), Ok(FoundVersion::Package(root)) if root.stat().is_directory()));
    assert!(matches!(find("core@2"), Ok(FoundVersion::Missing)) && matches!(find("none@1"), Ok(FoundVersion::Missing)));
    for id in ["alias@1", "file@1", "core@file"] {
        assert!(matches!(find(id), Err(SourceError::NoDirectory(_))), "{id}");
    }
}

#[test]
fn another_file_and_other_bytes_under_the_same_name_are_noticed() {
    let scratch = Scratch::new();
    let path = scratch.path("archive/core/1/a/b/file");
    let modified = fs::metadata(&path).and_then(|found| found.modified()).expect("a time");
    let changes: [(&str, &dyn Fn()); 3] = [
        ("bytes, though size and time are the same", &|| {
            fs::write(&path, "OPEN").expect("a file");
            File::options().write(true).open(&path).and_then(|file| file.set_modified(modified)).expect("a time");
        }),
        ("another file in its place", &|| {
            fs::copy(&path, scratch.path("other")).expect("a copy");
            fs::rename(scratch.path("other"), &path).expect("a rename");
        }),
        ("a pipe, which nobody waits for", &|| {
            fs::remove_file(&path).expect("a file");
            rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).expect("a pipe");
        }),
    ];
    for way in WAYS {
        for (what, change) in &changes[..2] {
            let root = scratch.open_by(way).expect("a package");
            let met = node(&root, "a/b/file");
            let file = root.file(&met).expect("a file");
            change();
            let checked = root.check_unchanged(&met, &file);
            assert!(matches!(checked, Err(SourceError::Changed(_))), "{what}: {checked:?}");
            assert!(matches!(root.file(&met), Err(SourceError::Changed(_))), "{what}");
        }
    }
    let root = scratch.open_by(PathResolution::AtOnce).expect("a package");
    let met = node(&root, "a/b/file");
    changes[2].1();
    assert!(matches!(root.file(&met), Err(SourceError::Changed(_))));
    assert!(matches!(root.file(&node(&root, "a/b/file")), Err(SourceError::Odd(why)) if why.ends_with("a/b/file")));
}

#[test]
fn a_tree_of_2000_levels_takes_no_more_handles_than_a_flat_one_and_a_deeper_one_is_refused() {
    let scratch = Scratch::new();
    let mut at = fs::File::open(scratch.path("archive/core/1/a/b")).map(OwnedFd::from).expect("a directory");
    let deeper = |at: &OwnedFd| {
        rustix::fs::mkdirat(at, "d", Mode::RWXU).expect("a directory");
        openat(at, "d", DIRECTORY, Mode::empty()).expect("a directory")
    };
    (0..2000).for_each(|_| at = deeper(&at));
    let file = openat(&at, "f", OFlags::WRONLY | OFlags::CREATE, Mode::RWXU).expect("a file");
    rustix::io::write(&file, b"deep").expect("bytes");
    let count = || fs::read_dir("/proc/self/fd").expect("handles").count();
    for way in WAYS {
        let root = scratch.open_by(way).expect("a package");
        let before = count();
        let mut most = before;
        let mut deepest = 0;
        for (number, node) in root.walk(WalkOrder::Path).enumerate() {
            let node = node.expect("an entry");
            if number % 100 == 0 {
                most = most.max(count());
            }
            deepest = deepest.max(node.path.len());
            if node.name() == b"f" {
                let mut text = String::new();
                root.file(&node).expect("a file").read_to_string(&mut text).expect("text");
                assert_eq!(text, "deep");
            }
        }
        assert_eq!(deepest, "a/b".len() + 2 * 2001, "{way:?}");
        // Other tests open files as well.
        assert!(most < before + 100, "{way:?}: {most} handles after {before}");
    }
    (0..100).for_each(|_| at = deeper(&at));
    let root = scratch.open_by(PathResolution::AtOnce).expect("a package");
    let walked: Result<Vec<Node>, SourceError> = root.walk(WalkOrder::Name).collect();
    assert!(matches!(&walked, Err(SourceError::TooDeep(_))), "{:?}", walked.map(|nodes| nodes.len()));
}

#[test]
fn a_hard_link_is_read_where_it_gives_nothing_away_or_only_its_owner_can_have_made_it() {
    for way in WAYS {
        let scratch = Scratch::new();
        let (secret, link) = (scratch.path("secret/file"), scratch.path("archive/core/1/a/b/linked"));
        fs::hard_link(&secret, &link).expect("a hard link");
        fs::hard_link(&link, scratch.path("archive/core/1/linked")).expect("a hard link");
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("an own file");
        let open = |path: &str| {
            let root = scratch.open_by(way).expect("a package");
            root.file(&node(&root, path)).map(drop)
        };
        let folder = scratch.path("archive/core/1/a/b");
        for (file, of_folder, is_read) in [
            (0o644, 0o777, true),
            (0o444, 0o775, true),
            (0o600, 0o755, true),
            (0o640, 0o555, true),
            (0o600, 0o775, false),
            (0o640, 0o757, false),
            (0o604, 0o1777, false),
        ] {
            set(&secret, file);
            set(&folder, of_folder);
            let opened = open("a/b/linked");
            let is_refused = matches!(&opened, Err(SourceError::Linked(why)) if why.ends_with("a/b/linked"));
            assert_eq!((opened.is_ok(), is_refused), (is_read, !is_read), "{file:o} in {of_folder:o}: {opened:?}");
            set(&scratch.path("archive/core/1"), of_folder);
            assert_eq!(open("linked").is_ok(), is_read, "{file:o} in the root, {of_folder:o}");
        }
        set(&folder, 0o755);
        fs::remove_file(&secret)
            .and_then(|()| fs::remove_file(scratch.path("archive/core/1/linked")))
            .expect("own names");
        set(&folder, 0o777);
        open("a/b/linked").expect("it has one name");
    }
}
