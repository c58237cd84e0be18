//! Opening a directory that may belong to another account, for everybody who opens one: a tag directory, the source.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

pub use blat_paths::Missing;
use blat_paths::{Astray, is_same, walk};
use rustix::fs::{Mode, OFlags};

/// Opens the directory at `path`, which `key` of the config names, for reading its names.
///
/// # Errors
/// What is wrong on the way, and with which part of it.
pub fn open(path: &Path, missing: Missing, key: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let walked = walk(path, missing).map_err(|astray| error(&astray, key))?;
    Ok(rustix::fs::openat(walked, ".", flags, Mode::empty())?)
}

/// Whether `path` leads to this open directory now.
///
/// # Errors
/// As [`open`], but a directory that is missing is no error.
pub fn is_at(path: &Path, directory: impl AsFd, key: &str) -> io::Result<bool> {
    match walk(path, Missing::Fail) {
        Ok(there) => is_same(there, directory),
        Err(Astray::Io { error, .. }) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(astray) => Err(error(&astray, key)),
    }
}

fn error(astray: &Astray, key: &str) -> io::Error {
    match astray {
        Astray::Io { error, .. } => io::Error::new(error.kind(), astray.to_string()),
        Astray::Link { .. } => io::Error::other(format!("{astray}; name the directory itself in `{key}`")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn an_exchange_is_noticed_and_what_is_wrong_names_the_key() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let (path, other) = (scratch.path().join("a/tags"), scratch.path().join("other"));
        assert_eq!(open(&path, Missing::Fail, "tags").expect_err("missing").kind(), ErrorKind::NotFound);
        let opened = open(&path, Missing::Make, "tags").expect("made");
        assert!(is_at(&path, &opened, "tags").expect("the way is good"));
        fs::rename(&path, &other).expect("an own directory");
        assert!(!is_at(&path, &opened, "tags").expect("nothing is there"));
        symlink(&other, &path).expect("a link");
        assert!(is_at(&path, &opened, "tags").expect("an own link counts"));
        fs::set_permissions(scratch.path().join("a"), fs::Permissions::from_mode(0o777)).expect("ours");
        let expected = format!(
            "{} is a link in a folder that everybody may write; name the directory itself in `tags`",
            path.display()
        );
        assert_eq!(is_at(&path, &opened, "tags").expect_err("anybody's link").to_string(), expected);
        assert_eq!(open(&path, Missing::Make, "tags").expect_err("anybody's link").to_string(), expected);
    }
}
