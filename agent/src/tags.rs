//! The tag directory: what lies in it, and what becomes of each file.
//!
//! Only regular files are ever opened, and never in a way that waits; nothing in a tag is believed before `domain` has parsed it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use blat_domain::tag::{BAD, FAILED, LONGEST, is_ignored, parse};
use blat_domain::text::printable;

use crate::session::{Tag, TagStamp};

/// A target's tag directory.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TagDirectory {
    path: PathBuf,
}

/// What one look found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Tags that ask for packages.
    pub(crate) tags: Vec<Tag>,
    /// Files that are no tags, with the reason.
    pub(crate) bad: Vec<(OsString, String)>,
}

impl TagDirectory {
    /// The directory at `path`, which need not exist yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it where it is missing: dropping a tag must not need anybody to have done that.
    pub(crate) fn ensure(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o775).create(&self.path)
    }

    /// Everything that lies there now. `known` tells tags that were read before and have not changed, and are not read again.
    pub(crate) fn look(&self, known: impl Fn(&OsStr, TagStamp) -> bool) -> io::Result<Found> {
        let mut found = Found::default();
        let now = SystemTime::now();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            if is_ignored(name.as_bytes()) || name == BAD || name == FAILED {
                continue;
            }
            // Whoever dropped it may take it back at any moment: what is gone was never there.
            match self.read(&name, now, &known) {
                Ok(Some(Ok(tag))) => found.tags.push(tag),
                Ok(Some(Err(why))) => found.bad.push((name, why)),
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => found.bad.push((name, format!("it cannot be read: {error}"))),
            }
        }
        Ok(found)
    }

    fn read(
        &self,
        name: &OsStr,
        now: SystemTime,
        known: &impl Fn(&OsStr, TagStamp) -> bool,
    ) -> io::Result<Option<Result<Tag, String>>> {
        let path = self.path.join(name);
        let metadata = fs::symlink_metadata(&path)?;
        if !metadata.is_file() {
            return Ok(Some(Err("it is not a regular file".into())));
        }
        let age =
            metadata.modified().ok().and_then(|dropped| now.duration_since(dropped).ok()).unwrap_or(Duration::ZERO);
        let stamp = stamp(&metadata);
        if known(name, stamp) {
            return Ok(Some(Ok(Tag { name: name.to_owned(), stamp, age, packages: None })));
        }
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let file = File::options().read(true).custom_flags(flags.bits() as i32).open(&path)?;
        let mut content = Vec::new();
        file.take(LONGEST + 1).read_to_end(&mut content)?;
        if content.len() as u64 > LONGEST {
            return Ok(Some(Err(format!("it is larger than {LONGEST} bytes"))));
        }
        Ok(Some(match parse(name.to_str(), &content) {
            Ok(packages) => Ok(Tag { name: name.to_owned(), stamp, age, packages: Some(packages) }),
            Err(why) => Err(why.to_string()),
        }))
    }

    /// Removes a tag whose packages are all published, unless it was dropped again since it was read.
    pub(crate) fn consume(&self, name: &OsStr, read: TagStamp) -> io::Result<()> {
        let path = self.path.join(name);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if stamp(&metadata) == read => fs::remove_file(&path),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Moves a file into `bad/` or `failed/` and says why beside it. The reason comes first: a moved tag without one would be a riddle.
    pub(crate) fn set_aside(&self, name: &OsStr, into: &str, why: &str) -> io::Result<()> {
        let directory = self.path.join(into);
        DirBuilder::new().recursive(true).mode(0o775).create(&directory)?;
        let (kept, reason) = self.free_place(&directory, name);
        fs::write(&reason, format!("{why}\n"))?;
        match fs::rename(self.path.join(name), &kept) {
            Err(error) if error.kind() == ErrorKind::NotFound => fs::remove_file(&reason),
            moved => moved,
        }
    }

    /// Names for the file and its reason; a name so long that no reason fits beside it is cut.
    fn free_place(&self, directory: &Path, name: &OsStr) -> (PathBuf, PathBuf) {
        const LONGEST_NAME: usize = 255 - ".reason".len();
        let bytes = name.as_bytes();
        let kept = OsStr::from_bytes(&bytes[..bytes.len().min(LONGEST_NAME)]);
        let mut reason = kept.to_owned();
        reason.push(".reason");
        (directory.join(kept), directory.join(reason))
    }
}

fn stamp(metadata: &Metadata) -> TagStamp {
    TagStamp {
        inode: metadata.ino(),
        seconds: metadata.mtime(),
        nanoseconds: metadata.mtime_nsec(),
        size: metadata.len(),
    }
}

/// A tag's file name, fit for printing.
pub(crate) fn shown(name: &OsStr) -> String {
    printable(&name.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch {
        _directory: tempfile::TempDir,
        tags: TagDirectory,
    }

    fn scratch() -> Scratch {
        let directory = tempfile::tempdir().expect("a scratch directory");
        let tags = TagDirectory::new(directory.path().join("tags"));
        tags.ensure().expect("a tag directory");
        Scratch { _directory: directory, tags }
    }

    fn look(tags: &TagDirectory) -> Found {
        tags.look(|_, _| false).expect("a look")
    }

    #[test]
    fn tags_are_read_and_unfinished_files_are_not() {
        let scratch = scratch();
        let path = scratch.tags.path();
        fs::write(path.join("core@1"), "").expect("a tag");
        fs::write(path.join("list"), "a 1\nb 2\n").expect("a tag");
        fs::write(path.join("core@2.tmp"), "").expect("an unfinished tag");
        fs::write(path.join(".core@3"), "").expect("a hidden file");
        let found = look(&scratch.tags);
        assert_eq!((found.tags.len(), found.bad.len()), (2, 0));
    }

    #[test]
    fn what_is_no_tag_is_told_without_ever_waiting() {
        let scratch = scratch();
        let path = scratch.tags.path();
        rustix::fs::mkfifoat(rustix::fs::CWD, path.join("pipe"), 0o644.into()).expect("a FIFO");
        std::os::unix::fs::symlink("/dev/zero", path.join("link@1")).expect("a link");
        fs::create_dir(path.join("directory@1")).expect("a directory");
        fs::write(path.join("line\nbreak@1"), "").expect("a strange name");
        fs::write(path.join("x".repeat(255)), "").expect("a long name");
        let large = File::create(path.join("large")).expect("a file");
        large.set_len(10 << 40).expect("a sparse file");
        let found = look(&scratch.tags);
        assert_eq!((found.tags.len(), found.bad.len()), (0, 6), "{found:?}");
        for (name, why) in found.bad {
            scratch.tags.set_aside(&name, BAD, &why).expect("set aside");
        }
        assert!(look(&scratch.tags).bad.is_empty());
        assert_eq!(fs::read_dir(path.join(BAD)).expect("bad").count(), 12);
    }

    #[test]
    fn a_tag_dropped_again_is_not_consumed() {
        let scratch = scratch();
        let path = scratch.tags.path().join("core@1");
        fs::write(&path, "").expect("a tag");
        let tag = look(&scratch.tags).tags.remove(0);
        fs::write(scratch.tags.path().join("new.tmp"), "").expect("another");
        fs::rename(scratch.tags.path().join("new.tmp"), &path).expect("dropped again");
        scratch.tags.consume(&tag.name, tag.stamp).expect("consume");
        assert!(path.exists());
        let tag = look(&scratch.tags).tags.remove(0);
        scratch.tags.consume(&tag.name, tag.stamp).expect("consume");
        assert!(!path.exists());
    }
}
