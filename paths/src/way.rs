//! Opening a directory that may belong to another account, for everybody who opens one: a tag directory, the source.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use blat_domain::util::text::printable;
use rustix::fs::{Mode, OFlags, fstat};
use rustix::process::geteuid;

use crate::{Astray, Doubt, Missing, Walked, is_same, walk};

/// Opens the directory at `path`, which `key` of the config names, for reading its names.
///
/// # Errors
/// What is wrong on the way, and with which part of it; or it is this account's own in a stranger's folder, who may put any other directory of this
/// account's in its place.
pub fn open(path: &Path, missing: Missing, key: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Walked { directory, doubt } = walk(path, missing).map_err(|astray| error(&astray, key))?;
    if let Some(doubt) = doubt
        && fstat(&directory)?.st_uid == geteuid().as_raw()
    {
        return Err(io::Error::other(exchangeable(path, doubt, key)));
    }
    Ok(rustix::fs::openat(directory, ".", flags, Mode::empty())?)
}

fn exchangeable(path: &Path, doubt: Doubt, key: &str) -> String {
    let (whose, remedy) = match doubt {
        Doubt::Maker(owner) | Doubt::Folder(owner) => {
            (format!("of the account {owner}, which"), format!("let it belong to the account {owner}, or "))
        }
        Doubt::Open => ("that everybody may write, who".to_owned(), String::new()),
    };
    format!(
        "{} belongs to this account and lies below a folder {whose} may put another directory of this account in its place; {remedy}name one in \
         `{key}` that nobody else can exchange",
        printable(&path.to_string_lossy())
    )
}

/// Whether `path` leads to this open directory now.
///
/// # Errors
/// As [`open`], but a directory that is missing is no error.
pub fn is_at(path: &Path, directory: impl AsFd, key: &str) -> io::Result<bool> {
    match walk(path, Missing::Fail) {
        Ok(there) => is_same(there.directory, directory),
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
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

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
            "{} is a link in or below a folder that everybody may write; name the directory itself in `tags`",
            path.display()
        );
        assert_eq!(is_at(&path, &opened, "tags").expect_err("anybody's link").to_string(), expected);
        assert_eq!(open(&path, Missing::Make, "tags").expect_err("anybody's link").to_string(), expected);
    }

    /// Whoever owns the folder may put another directory of ours there: one that only we may read, or one whose files would be taken for tags.
    #[test]
    fn as_root_a_directory_of_our_own_in_a_strangers_folder_is_not_opened_and_a_strangers_is() {
        if !geteuid().is_root() {
            return;
        }
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let (area, source) = (scratch.path().join("area"), scratch.path().join("area/pool/source"));
        fs::create_dir_all(&source).expect("directories");
        open(&source, Missing::Fail, "source").expect("all of it is ours");
        chown(&area, Some(1234), None).expect("root may");
        let why = open(&source, Missing::Fail, "source").expect_err("ours in theirs").to_string();
        let folder =
            "lies below a folder of the account 1234, which may put another directory of this account in its place";
        assert!(
            why.contains(folder) && why.contains("let it belong to the account 1234, or name one in `source`"),
            "{why}"
        );
        chown(&source, Some(1234), None).expect("root may");
        open(&source, Missing::Fail, "source").expect("theirs in theirs");
        assert!(open(&area.join("none"), Missing::Make, "tags").is_err(), "none is made that would be ours there");
        chown(&area, Some(0), None).and_then(|()| chown(&source, Some(0), None)).expect("root may");
        fs::set_permissions(&area, fs::Permissions::from_mode(0o777)).expect("ours");
        let why = open(&source, Missing::Fail, "source").expect_err("ours in everybody's").to_string();
        assert!(why.contains("lies below a folder that everybody may write, who may put"), "{why}");
    }
}
