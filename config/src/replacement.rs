//! Files of ours that are replaced as a whole: written aside, then renamed, so that a reader finds the old one or the new one, never a part.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::time::Duration;

use blat_paths::private;

/// What a new file outlives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlives {
    /// The process. After a power cut it may be gone, or empty: for what can be found out anew.
    Process,
    /// A power cut as well, at the price of waiting for the disk.
    PowerCut,
}

/// A file that was written aside and is as old as this was left by a process that was killed.
const LEFT: Duration = Duration::from_secs(3600);

/// Puts what `write` writes at `path`, readable by its owner alone. The folder is made where it is missing, and closed to everybody else. Several
/// processes may do this at the same time; the last one wins.
///
/// # Errors
/// Those of `write`, and where the folder or the file cannot be made: then what was at `path` is still there.
pub fn replace(path: &Path, outlives: Outlives, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it has no folder"));
    };
    let is_new = !folder.exists();
    private::directory(folder)?;
    let prefix = format!(".{}.", name.to_string_lossy());
    remove_leftovers(folder, &prefix);
    let mut aside = tempfile::Builder::new().prefix(&prefix).suffix(ASIDE).tempfile_in(folder)?;
    write(aside.as_file_mut())?;
    if outlives == Outlives::PowerCut {
        aside.as_file().sync_all()?;
    }
    aside.persist(path)?;
    if outlives == Outlives::PowerCut {
        File::open(folder)?.sync_all()?;
        if let (true, Some(above)) = (is_new, folder.parent()) {
            File::open(above)?.sync_all()?;
        }
    }
    Ok(())
}

/// Puts a value at `path` as JSON, as [`replace`] does.
///
/// # Errors
/// As [`replace`].
pub fn replace_json(path: &Path, outlives: Outlives, value: &impl serde::Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(value)?;
    replace(path, outlives, |file| file.write_all(&text))
}

/// How the name of a file that is written aside ends.
const ASIDE: &str = ".tmp";

/// What cannot be removed stays: it is in nobody's way.
fn remove_leftovers(folder: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let age = || entry.metadata().and_then(|found| found.modified()).ok()?.elapsed().ok();
        if name.starts_with(prefix) && name.ends_with(ASIDE) && age().is_some_and(|age| age > LEFT) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_file_is_the_old_one_or_the_new_one_whatever_goes_wrong() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("state/perth/known.json");
        for outlives in [Outlives::Process, Outlives::PowerCut] {
            replace(&path, outlives, |file| file.write_all(b"old")).expect("the folder is made");
            let failed = replace(&path, outlives, |file| {
                file.write_all(b"ne")?;
                Err(io::Error::other("the disk is full"))
            });
            assert_eq!(failed.expect_err("its own error").to_string(), "the disk is full");
            assert_eq!(fs::read(&path).expect("the old one"), b"old");
            replace_json(&path, outlives, &[1, 2]).expect("an own folder");
            assert_eq!(fs::read(&path).expect("the new one"), b"[1,2]");
        }
        let mode = |path: &Path| fs::metadata(path).expect("an own file").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().expect("a folder"))), (0o600, 0o700));
        assert_eq!(
            fs::read_dir(path.parent().expect("a folder")).expect("an own folder").count(),
            1,
            "nothing is left"
        );
    }

    #[test]
    fn what_killed_processes_left_goes_and_what_others_are_writing_stays() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("known");
        let aside = |name: &str, age: Duration| {
            let file = File::create(scratch.path().join(name)).expect("an own file");
            file.set_modified(SystemTime::now() - age).expect("an own file");
        };
        aside(".known.Ab12.tmp", LEFT * 2);
        aside(".known.Cd34.tmp", Duration::ZERO);
        aside(".other.Ef56.tmp", LEFT * 2);
        replace(&path, Outlives::Process, |_| Ok(())).expect("an own folder");
        let left = fs::read_dir(scratch.path()).expect("an own folder");
        let mut left: Vec<_> = left.map(|entry| entry.expect("an entry").file_name()).collect();
        left.sort();
        assert_eq!(left, [".known.Cd34.tmp", ".other.Ef56.tmp", "known"]);
    }
}
