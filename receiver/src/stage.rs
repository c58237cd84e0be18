//! Where a package is put together: `.dpkg_archive/stage/NAME@VERSION`, with a kernel lock beside it. The `@` keeps the scripts' sweep away, so
//! what a cut connection leaves waits for the next one.

use std::io;

use blat_domain::name::PackageId;
use rustix::fs::FileType;

use crate::archive::dir::Dir;
use crate::archive::{Archive, CHECK_MODES, HOUSE, tree};
use crate::failure::{Failure, Setback};
use crate::locks::{self, Lock, try_lock};

/// The package itself, in its stage.
pub(crate) const PACKAGE: &str = "package";
/// Its manifest.
pub(crate) const MANIFEST: &str = "manifest";
/// The version that it replaced.
pub(crate) const OLD: &str = "old";

/// A package's stage, ours until it is dropped.
#[derive(Debug)]
pub(crate) struct Stage {
    /// What is in it.
    pub(crate) dir: Dir,
    stages: Dir,
    name: String,
    lock: Lock,
}

impl Stage {
    /// Takes a package's stage, with what is left in it if that is wanted; tells whether anything is.
    pub(crate) fn take(archive: &Archive, package: &PackageId, keep: bool) -> Result<(Self, bool), Setback> {
        let name = package.to_string();
        let what = || format!("staging {package} in {}", archive.shown());
        let failed = |error: io::Error| Setback::io(what(), &error);
        let rooms = archive.rooms().map_err(|failure| Setback { class: "io", text: failure.text })?;
        let busy = || Setback {
            class: "io",
            text: format!("{} failed: another process receives it; try again later", what()),
        };
        let lock = try_lock(&rooms.stage, &lock_name(&name)).map_err(failed)?.ok_or_else(busy)?;
        clear_hidden(archive, package).map_err(failed)?;
        let left = rooms.stage.open_if_there(&name).map_err(failed)?;
        let dir = match left {
            Some(dir) if keep => Some(dir),
            Some(_) | None => None,
        };
        let resumed = match &dir {
            Some(dir) => dir.open_if_there(PACKAGE).map_err(failed)?.is_some(),
            None => {
                tree::remove(&rooms.stage, &name).map_err(failed)?;
                rooms.stage.make(&name, 0o700).map_err(failed)?;
                false
            }
        };
        let dir = match dir {
            Some(dir) => dir,
            None => rooms.stage.open(&name).map_err(failed)?,
        };
        Ok((Self { dir, stages: rooms.stage, name, lock }, resumed))
    }

    /// Removes it with all that is in it. What cannot be removed stays for the next sweep, which says why.
    pub(crate) fn discard(self) {
        let _ = discard(&self.stages, &self.name, &self.lock);
    }
}

fn lock_name(name: &str) -> String {
    format!("{name}.lock")
}

/// Whoever calls it holds the lock, whose file goes last: while it is there, something may be left.
fn discard(stages: &Dir, name: &str, _lock: &Lock) -> io::Result<()> {
    tree::remove(stages, name)?;
    stages.unlink(lock_name(name))
}

/// Where a package waits beside its place, and the one that it replaces where they cannot be exchanged.
pub(crate) fn hidden(package: &PackageId) -> (String, String) {
    let hidden = format!(".{}.receiver", package.version);
    let old = format!("{hidden}.old");
    (hidden, old)
}

/// Removes what a process that died while it published left beside the place, and puts back what it had taken out of it.
fn clear_hidden(archive: &Archive, package: &PackageId) -> io::Result<()> {
    let Some(of_name) = archive.root.open_if_there(package.name.as_str())? else { return Ok(()) };
    let (hidden, old) = hidden(package);
    let place = package.version.as_str();
    if of_name.stat(old.as_str())?.is_some() {
        let put_back = || match of_name.stat(place)? {
            Some(_) => tree::remove(&of_name, &old),
            None => of_name.rename(old.as_str(), &of_name, place),
        };
        let rooms = archive.rooms().map_err(io::Error::other)?;
        locks::publishing(archive, &rooms, put_back).map_err(io::Error::other)??;
    }
    if of_name.stat(hidden.as_str())?.is_some() {
        tree::remove(&of_name, &hidden)?;
        // Where it was to be the first of its name, nothing of the name stays. Only then: others may be about to publish into it.
        archive.root.remove_empty(package.name.as_str());
    }
    Ok(())
}

/// Packages of which an interrupted attempt left something.
pub(crate) fn remains(archive: &Archive) -> Result<Vec<PackageId>, Failure> {
    let what = || format!("looking for interrupted packages in {}", archive.shown());
    let failed = |error: io::Error| Failure::io(what(), &error, CHECK_MODES);
    let Some(stages) = archive.root.open_if_there(format!("{HOUSE}/stage")).map_err(failed)? else {
        return Ok(Vec::new());
    };
    let mut packages = Vec::new();
    for found in stages.entries().map_err(failed)? {
        let found = found.map_err(failed)?;
        let name = str::from_utf8(&found.name).ok().filter(|_| found.kind != FileType::RegularFile);
        packages.extend(name.and_then(|name| name.parse::<PackageId>().ok()));
    }
    Ok(packages)
}

/// Drops what interrupted attempts left, but for packages that somebody still wants. What another process works on stays.
pub(crate) fn sweep(archive: &Archive, keep: &[PackageId]) -> Result<(), Failure> {
    let remains = remains(archive)?;
    let rooms = archive.rooms()?;
    for package in remains.iter().filter(|package| !keep.contains(package)) {
        let name = package.to_string();
        let swept = try_lock(&rooms.stage, &lock_name(&name)).and_then(|lock| match lock {
            Some(lock) => clear_hidden(archive, package).and_then(|()| discard(&rooms.stage, &name, &lock)),
            None => Ok(()),
        });
        let what = || format!("sweeping {HOUSE}/stage/{name} in {}", archive.shown());
        swept.map_err(|error| Failure::io(what(), &error, CHECK_MODES))?;
    }
    Ok(())
}
