//! Publishing what is whole: durable, then renamed under the lock, then durable again, then told. Nothing is told before.

pub(crate) mod install;
pub(crate) mod link;
pub(crate) mod pending;
pub(crate) mod written;

use std::fs::File;
use std::io;

use blat_domain::archive::CONTROL;
use blat_domain::archive::record::FILE;
use blat_domain::package::name::PackageId;
use blat_domain::protocol::frames::{LANES, Rule};

use crate::archive::dir::Dir;
use crate::archive::locks;
use crate::archive::{Archive, CHECK_MODES};
use crate::failure::{Failure, Setback};
use crate::staging::{PACKAGE, Stage};
use crate::wire::inbox::Inbox;
use crate::wire::replies::line;
use install::Installer;
use written::Written;

/// The most packages that wait at once on a lane.
const MOST: usize = 256;
/// Open files of a package that waits: its stage, the room that is in, and its lock.
const HANDLES: u64 = 3;
/// So few packages, of so few entries in all, are made durable file by file: a busy disk need not write everything else first.
const FEW: usize = 4;
pub(crate) const FEW_ENTRIES: usize = 64;
/// What an entry is for a disk beside its bytes, in bytes that take as long.
const ENTRY: u64 = 16 << 10;

/// What a package of so many bytes and entries is for a disk, in bytes.
pub(crate) fn weight(bytes: u64, entries: u32) -> u64 {
    bytes + u64::from(entries) * ENTRY
}

/// A package that came whole and was verified.
#[derive(Debug)]
pub(crate) struct Whole {
    /// Where it is staged.
    pub(crate) stage: Stage,
    /// Which it is.
    pub(crate) package: PackageId,
    /// The time of its descpkg.
    pub(crate) time: i64,
    /// Its root's mode.
    pub(crate) mode: u16,
    /// What it may do to what is in its place.
    pub(crate) rule: Rule,
    /// The digest of its manifest.
    pub(crate) digest: [u8; 32],
    /// What it was written by.
    pub(crate) written: Written,
    /// Bytes of its files.
    pub(crate) bytes: u64,
    /// How many entries it has.
    pub(crate) entries: u32,
}

impl Whole {
    /// What it is for a disk, in bytes.
    pub(crate) fn weight(&self) -> u64 {
        weight(self.bytes, self.entries)
    }

    /// Opens one of its files.
    pub(crate) fn open(&self, path: &[u8]) -> io::Result<File> {
        self.stage.dir.read([PACKAGE.as_bytes(), b"/", path].concat())
    }

    /// Makes it durable, by itself.
    fn sync(&mut self) -> io::Result<()> {
        // All at once: one after the other, each waits for a commit of the journal of its own.
        self.written.sync_with(self.stage.handles()?)
    }

    /// Removes its stage, with the version that it replaced.
    pub(crate) fn clear_away(self) {
        self.stage.discard();
    }
}

/// How many packages may wait on a lane, so that all lanes have open files enough.
pub(crate) fn most_at_once() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let share = files / (2 * u64::from(LANES) * HANDLES);
    usize::try_from(share).unwrap_or(MOST).clamp(1, MOST)
}

/// Whether packages are so few that each is made durable by itself.
pub(crate) fn are_few(packages: &[Whole]) -> bool {
    packages.len() <= FEW
        && packages.iter().map(|whole| whole.entries as usize).sum::<usize>() <= FEW_ENTRIES
        && packages.iter().all(|whole| whole.written.is_all())
}

/// Publishes packages; where `owner` is named, only that one replaces what is there. Gives a line for each, and the packages, whose stages are to be cleared away once the lines are sent.
pub(crate) fn publish(
    archive: &Archive,
    packages: Vec<Whole>,
    owner: Option<&str>,
    inbox: &Inbox,
) -> Result<(Vec<String>, Vec<Whole>), Failure> {
    let one_by_one = are_few(&packages) || !archive.syncfs_reports;
    let (mut lines, packages) =
        if one_by_one { sync_each(packages) } else { (Vec::new(), sync_together(archive, packages)?) };
    inbox.get_on();
    let rooms = archive.rooms()?;
    let installed = locks::publishing(archive, &rooms, || {
        let mut installer = Installer::new(archive, &rooms, owner, inbox)?;
        let installed: Vec<_> = packages.iter().map(|whole| installer.install(whole)).collect();
        Ok((installed, installer.changed()))
    })?;
    let what = || format!("reading {CONTROL}/{FILE} in {}", archive.shown());
    let (installed, changed) = installed.map_err(|error: io::Error| Failure::io(what(), &error, CHECK_MODES))?;
    lines.extend(installed);
    inbox.get_on();
    let durable = match one_by_one {
        true => changed.and_then(|changed| changed.iter().try_for_each(Dir::sync)),
        false => rooms.control.sync_file_system(),
    };
    if let Err(error) = durable {
        let what = format!("making the renames in {} durable", archive.shown());
        return Err(Failure::io(what, &error, "check the disk, then sync again"));
    }
    Ok((lines, packages))
}

/// Makes each package durable by itself. One that the disk refuses fails alone and is discarded: the kernel may have dropped what it could not write,
/// and would not say so again. Gives the lines of those, and the others.
fn sync_each(packages: Vec<Whole>) -> (Vec<String>, Vec<Whole>) {
    let (mut lines, mut durable) = (Vec::new(), Vec::new());
    for mut whole in packages {
        match whole.sync() {
            Ok(()) => durable.push(whole),
            Err(error) => {
                lines.push(line(&whole.package, Setback::io("making it durable", &error).into_outcome()));
                whole.clear_away();
            }
        }
    }
    (lines, durable)
}

/// Makes packages durable with all else on their file system. Where that fails nobody knows whose bytes are lost: all are discarded.
fn sync_together(archive: &Archive, packages: Vec<Whole>) -> Result<Vec<Whole>, Failure> {
    // The first one's handle is older than anything that was written for any of them.
    match packages.first().map_or(Ok(()), |whole| whole.stage.dir.sync_file_system()) {
        Ok(()) => Ok(packages),
        Err(error) => {
            packages.into_iter().for_each(Whole::clear_away);
            let what = format!("making the stage in {} durable (all of it is discarded)", archive.shown());
            Err(Failure::io(what, &error, "check the disk"))
        }
    }
}
