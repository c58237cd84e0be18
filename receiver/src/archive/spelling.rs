//! File systems that do not tell upper from lower case: `core` is sent, `Core` is what is listed, and the next sync deletes what nobody wants.

use std::io;

use blat_domain::archive::CONTROL;
use blat_domain::util::text::printable;

use super::Archive;
use super::dir::Dir;

/// How an archive's file system takes names.
pub(crate) struct Spelling {
    /// It takes names for one that differ in the case of letters alone.
    folds_case: bool,
}

impl Spelling {
    /// Where it cannot be told, each name is looked at.
    pub(crate) fn of(archive: &Archive) -> Self {
        Self { folds_case: folds_case(archive).unwrap_or(true) }
    }

    /// Why a name in a directory is not to be used, where it leads to something that has another one.
    pub(crate) fn misleads(&self, dir: &Dir, name: &str) -> io::Result<Option<String>> {
        if self.folds_case { taken_by_another(dir, name) } else { Ok(None) }
    }
}

fn folds_case(archive: &Archive) -> io::Result<bool> {
    let control = archive.root.stat(CONTROL)?;
    let upper = archive.root.stat(CONTROL.to_ascii_uppercase())?;
    Ok(control.zip(upper).is_some_and(|(a, b)| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)))
}

fn taken_by_another(dir: &Dir, name: &str) -> io::Result<Option<String>> {
    if dir.stat(name)?.is_none() {
        return Ok(None);
    }
    let mut other = None;
    for found in dir.entries()? {
        let found = found?.name;
        if found == name.as_bytes() {
            return Ok(None);
        }
        if found.eq_ignore_ascii_case(name.as_bytes()) {
            other = Some(printable(&String::from_utf8_lossy(&found)));
        }
    }
    let other = other.unwrap_or_else(|| "another name".to_owned());
    Ok(Some(format!(
        "the file system there takes {name} for {other}, which is there; use names that differ in more than upper and lower case"
    )))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_a_name_leads_to_has_to_have_that_name() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        fs::create_dir(scratch.path().join(CONTROL)).expect("a directory");
        fs::create_dir(scratch.path().join("Core")).expect("a directory");
        let archive = Archive::open(scratch.path()).expect("an archive");
        assert!(!folds_case(&archive).expect("a look"), "tests run where case counts");
        for fine in ["Core", "core", CONTROL, "none"] {
            assert_eq!(taken_by_another(&archive.root, fine).expect("a look"), None, "{fine}");
        }
        // It leads to something, and is not listed: as Core does not where the file system takes it for core.
        let why = taken_by_another(&archive.root, "..").expect("a look").expect("no entry has that name");
        assert!(why.starts_with("the file system there takes .. for another name"), "{why}");
        // Two directories are no sign of such a file system.
        fs::create_dir(scratch.path().join(CONTROL.to_ascii_uppercase())).expect("a directory");
        assert!(!folds_case(&archive).expect("a look"));
    }
}
