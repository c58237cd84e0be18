//! One archive, by directory handles.

pub(crate) mod dir;
pub(crate) mod hash;
pub(crate) mod locks;
mod resolve;
pub(crate) mod spelling;
pub(crate) mod tree;

use std::ffi::CStr;
use std::io;
use std::path::{Path, PathBuf};

use blat_domain::archive::CONTROL;
use blat_domain::package::name::PackageId;
use blat_domain::util::text::printable;
use blat_paths::{Astray, UNKNOWN, is_open_to_all, is_own};
use rustix::process::geteuid;

use crate::failure::Failure;
use dir::Dir;
pub(crate) use resolve::is_plain;

/// What to look at when the archive refuses something.
pub(crate) const CHECK_MODES: &str = "check the owner and the modes in the archive";

/// The archive that this receiver serves, and nothing else.
#[derive(Debug)]
pub(crate) struct Archive {
    /// Its directory.
    pub(crate) root: Dir,
    /// Whether this kernel says what it could not write when a whole file system is made durable.
    pub(crate) syncfs_reports: bool,
    path: PathBuf,
}

/// Our own directories in it.
#[derive(Debug)]
pub(crate) struct Rooms {
    /// All of it.
    pub(crate) control: Dir,
    /// Packages in the making.
    pub(crate) stage: Dir,
    /// What was taken out and is yet to be deleted.
    pub(crate) trash: Dir,
    /// A manifest for each package.
    pub(crate) manifests: Dir,
}

impl Archive {
    /// Opens it. It has to be there: a missing one may be an unmounted one. And it has to be root's or this account's: any other directory was put
    /// there by whoever owns it. Root serves everybody's. One that everybody may write is nobody's: whoever may write a folder of this account's
    /// may have moved it there.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let what = format!("entering the archive {}", printable(&path.to_string_lossy()));
        let advice = "create it or mount it, for nobody here makes it, and check its owner and mode";
        let root = Dir::of_operator(path).map_err(|astray| led_astray(&what, &astray, advice))?;
        let stat = root.own_stat().map_err(|error| Failure::io(&what, &error, advice))?;
        let owner = stat.st_uid;
        if !is_own(owner) && owner != UNKNOWN && !geteuid().is_root() {
            let why = format_args!("it belongs to the account {owner}, neither root nor this account");
            return Err(Failure::refused(what, why, "make it belong to one of the two"));
        }
        // Nobody moves what is mounted, and some file systems show that mode for everything.
        let is_mounted =
            || root.above().and_then(|above| above.own_stat()).is_ok_and(|above| above.st_dev != stat.st_dev);
        if is_open_to_all(&stat) && !is_mounted() {
            return Err(Failure::refused(what, "everybody may write it", "take that away by `chmod o-w`"));
        }
        Ok(Self { root, syncfs_reports: syncfs_reports(rustix::system::uname().release()), path: path.to_owned() })
    }

    /// Makes names in a directory durable, where making the whole file system durable later will not do.
    pub(crate) fn sync_names(&self, dir: &Dir) -> io::Result<()> {
        if self.syncfs_reports { Ok(()) } else { dir.sync() }
    }

    /// Its path, fit for an answer.
    pub(crate) fn shown(&self) -> String {
        printable(&self.path.to_string_lossy())
    }

    /// Whether its path still leads to the directory that was opened: something may have been mounted or renamed since. Where it does not, the
    /// conversation has to end, and the next one opens what is there by then.
    pub(crate) fn still_there(&self) -> Result<(), Failure> {
        let what = || format!("entering the archive {}", self.shown());
        match self.root.is_at(&self.path) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::refused(
                what(),
                "another directory is there since this connection began",
                "the next connection serves that one",
            )),
            Err(astray) => Err(led_astray(&what(), &astray, "create it or mount it")),
        }
    }

    /// Our own directories, made where they are missing, durably. Nobody else has any business in stage and trash.
    pub(crate) fn rooms(&self) -> Result<Rooms, Failure> {
        let open = |dir: &Dir, name: &str, is_private: bool| {
            let ensured = if is_private { dir.ensure_private(name) } else { dir.ensure(name) };
            let room = ensured.and_then(|(room, made)| if made { dir.sync().map(|()| room) } else { Ok(room) });
            let what = || format!("making {name} for Blat in {}", self.shown());
            let room = room.map_err(|error| Failure::io(what(), &error, CHECK_MODES))?;
            match self.is_safe(&room) {
                Ok(true) => Ok(room),
                Ok(false) => Err(Failure::refused(
                    what(),
                    "it is another account's, or everybody may write it",
                    "remove it, or make it belong to the archive's owner, by `chmod o-w` to nobody else",
                )),
                Err(error) => Err(Failure::io(what(), &error, CHECK_MODES)),
            }
        };
        let control = open(&self.root, CONTROL, false)?;
        let (stage, trash) = (open(&control, "stage", true)?, open(&control, "trash", true)?);
        let manifests = open(&control, "manifests", false)?;
        Ok(Rooms { control, stage, trash, manifests })
    }

    /// Whether nobody but root, this account and the archive's owner can exchange what lies in a directory of ours.
    fn is_safe(&self, room: &Dir) -> io::Result<bool> {
        let (room, owner) = (room.own_stat()?, self.root.own_stat()?.st_uid);
        let is_ours = is_own(room.st_uid) || room.st_uid == UNKNOWN || room.st_uid == owner;
        Ok(is_ours && !is_open_to_all(&room))
    }
}

/// The answer where a path leads to no archive, with what to do where the system refuses. It may be cut on its way, so it has one path.
fn led_astray(what: &str, astray: &Astray, advice: &str) -> Failure {
    match astray {
        Astray::Io { error, .. } => Failure::io(what, error, advice),
        Astray::Link { .. } => Failure::refused(
            "entering the archive",
            astray,
            "name the real path in `archive`, or make it lead through folders and links of root's or this account's",
        ),
    }
}

/// The mark of a package that is to be deleted, below [`CONTROL`].
pub(crate) fn mark_name(package: &PackageId) -> String {
    package.to_string()
}

/// From Linux 5.8 on `syncfs` reports what could not be written; before, it reports success. A release that cannot be read counts as an old one.
fn syncfs_reports(release: &CStr) -> bool {
    let mut numbers = release
        .to_bytes()
        .split(|byte| !byte.is_ascii_digit())
        .map(|number| str::from_utf8(number).ok().and_then(|number| number.parse::<u32>().ok()).unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(5), Some(8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_before_5_8_are_not_trusted_with_a_whole_file_system() {
        for release in [c"5.8.0", c"5.10.1-arm", c"5.15", c"6.1.0-rc1+", c"6.18.44-fc", c"10.0"] {
            assert!(syncfs_reports(release), "{release:?}");
        }
        for release in [c"5.7.19", c"4.18.0-553.el8_10.x86_64", c"3.10.0-1160", c"2.6.78-fc", c"5", c"", c"five.8"] {
            assert!(!syncfs_reports(release), "{release:?}");
        }
    }
}
