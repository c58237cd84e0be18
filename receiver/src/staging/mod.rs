//! Where a package is put together: `.dpkg_archive/stage/NAME@VERSION`, with a kernel lock beside it. The `@` keeps the scripts' sweep away, so
//! what a cut connection leaves waits for the next one.

pub(crate) mod leftovers;
pub(crate) mod reservation;
pub(crate) mod scratch;

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::time::Duration;

use blat_domain::package::name::PackageId;
use blat_domain::protocol::outcome::FailedFor;
use rustix::fs::FileType;

use crate::archive::dir::Dir;
use crate::archive::locks::{Lock, try_lock, wait_lock};
use crate::archive::tree::Stuck;
use crate::archive::{Archive, CHECK_MODES, Rooms};
use crate::failure::{Failure, Setback};
use leftovers::{Leftovers, clear, clear_hidden, hidden};

/// The package itself, in its stage.
pub(crate) const PACKAGE: &str = "package";
/// Its manifest.
pub(crate) const MANIFEST: &str = "manifest";
/// Its tree file.
pub(crate) const TREE: &str = "tree";
/// The version that it replaced.
pub(crate) const OLD: &str = "old";

/// Where stages are.
pub(crate) const STAGES: &str = ".dpkg_archive/stage";
/// What hidden names of packages on their way to their places end with.
const ID: &str = "receiver";
/// So long a stage's lock may be held by somebody who does not receive that package.
const A_MOMENT: Duration = Duration::from_secs(1);
/// The most bytes of names in a greeting, which has to fit into a frame: those beyond are swept.
const MOST_REMAINS: usize = 64 << 10;

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
        // Without its name, which the line has already: a long one would leave no room for why.
        let what = || format!("staging it in {}", archive.shown());
        let failed = |error: io::Error| Setback::io(what(), &error);
        let rooms = archive.rooms().map_err(|failure| Setback { class: FailedFor::Io, text: failure.text })?;
        let busy = || Setback {
            class: FailedFor::Io,
            text: format!("{} failed: another process receives it; try again later", what()),
        };
        // Whoever sweeps, or whose link has just been cut, holds it no longer than a moment.
        let lock = wait_lock(&rooms.stage, &lock_name(&name), A_MOMENT).map_err(failed)?.ok_or_else(busy)?;
        clear_hidden(archive, &rooms, package, ID).map_err(|stuck| failed(stuck.into()))?;
        let left = if keep { resumable(&rooms.stage, &name) } else { None };
        let resumed = left.is_some();
        let dir = match left {
            Some(dir) => Ok(dir),
            None => clear(&rooms.stage, &name)
                .map_err(io::Error::from)
                .and_then(|()| rooms.stage.make(&name, 0o700))
                .and_then(|()| rooms.stage.open(&name)),
        };
        Ok((Self { dir: dir.map_err(failed)?, stages: rooms.stage, name, lock }, resumed))
    }

    /// What makes durable what lies beside the package, and all their names.
    pub(crate) fn handles(&self) -> io::Result<Vec<File>> {
        let mut handles = vec![self.dir.handle()?];
        for found in self.dir.entries()? {
            let found = found?;
            if self.dir.kind_of(&found)? == FileType::RegularFile {
                handles.push(self.dir.read(&found.name)?);
            }
        }
        Ok(handles)
    }

    /// Removes it with all that is in it. What cannot be removed is named by the next sweep.
    pub(crate) fn discard(self) {
        let _ = discard(&self.stages, &self.name, &self.lock);
    }
}

/// What an interrupted attempt left, if anything can be made of it.
fn resumable(stages: &Dir, name: &str) -> Option<Dir> {
    let dir = stages.open(name).ok()?;
    dir.open(PACKAGE).and_then(|package| package.set_mode(0o700)).ok()?;
    Some(dir)
}

fn lock_name(name: &str) -> String {
    format!("{name}.lock")
}

/// Whoever calls it holds the lock, whose file goes last: while it is there, something may be left.
fn discard(stages: &Dir, name: &str, _lock: &Lock) -> Result<(), Stuck> {
    clear(stages, name)?;
    let lock = lock_name(name);
    stages.unlink(&lock).map_err(|why| Stuck::at(lock, why))
}

/// Where packages wait beside their places.
pub(crate) fn hidden_of(package: &PackageId) -> (String, String) {
    hidden(package, ID)
}

/// Calls `see` with each package of which an interrupted attempt left something, until that says no.
fn each_remnant(archive: &Archive, mut see: impl FnMut(PackageId) -> bool) -> Result<(), Failure> {
    let what = || format!("looking for interrupted packages in {}", archive.shown());
    let failed = |error: io::Error| Failure::io(what(), &error, CHECK_MODES);
    let Some(stages) = archive.root.open_if_there(STAGES).map_err(failed)? else { return Ok(()) };
    for found in stages.entries().map_err(failed)? {
        let found = found.map_err(failed)?;
        let Some(package) = str::from_utf8(&found.name).ok().and_then(|name| name.parse().ok()) else { continue };
        if stages.kind_of(&found).map_err(failed)? == FileType::Directory && !see(package) {
            break;
        }
    }
    Ok(())
}

/// Packages of which an interrupted attempt left something: as many as a greeting may name, and whether there are more.
pub(crate) fn remains(archive: &Archive) -> Result<(Vec<PackageId>, bool), Failure> {
    let (mut packages, mut bytes) = (Vec::new(), 0);
    each_remnant(archive, |package| {
        // Its length goes before it.
        bytes += package.name.as_str().len() + package.version.as_str().len() + 3;
        let fits = bytes <= MOST_REMAINS;
        if fits {
            packages.push(package);
        }
        fits
    })?;
    Ok((packages, bytes > MOST_REMAINS))
}

/// Drops what interrupted attempts left, but for packages that somebody still wants, and what dead ones left. What another process works on stays.
pub(crate) fn sweep(archive: &Archive, keep: &[PackageId]) -> Result<Leftovers, Failure> {
    let keep: HashSet<&PackageId> = keep.iter().collect();
    let rooms = archive.rooms()?;
    let mut leftovers = Leftovers::default();
    each_remnant(archive, |package| {
        if !keep.contains(&package) {
            let swept = sweep_one(archive, &rooms, &package);
            leftovers.note(swept.map_err(|stuck| stuck.below(STAGES)));
        }
        true
    })?;
    // Only now: what could not be removed has got another name.
    scratch::sweep(archive, &rooms, &mut leftovers)?;
    Ok(leftovers)
}

fn sweep_one(archive: &Archive, rooms: &Rooms, package: &PackageId) -> Result<(), Stuck> {
    let name = package.to_string();
    let lock = lock_name(&name);
    match try_lock(&rooms.stage, &lock).map_err(|why| Stuck::at(lock, why))? {
        Some(lock) => {
            clear_hidden(archive, rooms, package, ID)?;
            discard(&rooms.stage, &name, &lock)
        }
        None => Ok(()),
    }
}
