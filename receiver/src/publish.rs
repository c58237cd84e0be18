//! Publishing what is whole: durable, then renamed under the lock, then durable again, then told. Nothing is told before.

use std::fs::File;
use std::io;

use blat_domain::frames::{LANES, Rule};
use blat_domain::name::PackageId;

use crate::archive::dir::Dir;
use crate::archive::{Archive, tree};
use crate::failure::Failure;
use crate::inbox::Inbox;
use crate::locks;
use crate::settle::Settling;
use crate::stage::{PACKAGE, Stage};

/// The most packages that wait at once on a lane.
const MOST: usize = 256;
/// Open files of a package that waits: its stage, the room that is in, and its lock.
const HANDLES: u64 = 3;
/// So few packages, of so few entries in all, are made durable file by file: a busy disk need not write everything else first.
const FEW: usize = 4;
const FEW_ENTRIES: u64 = 64;
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
    bytes: u64,
    entries: u32,
}

impl Whole {
    #[expect(clippy::too_many_arguments, reason = "a record's fields, given once")]
    pub(crate) fn new(
        stage: Stage,
        package: PackageId,
        time: i64,
        mode: u16,
        rule: Rule,
        digest: [u8; 32],
        bytes: u64,
        entries: u32,
    ) -> Self {
        Self { stage, package, time, mode, rule, digest, bytes, entries }
    }

    /// Bytes of its files.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What it is for a disk, in bytes.
    pub(crate) fn weight(&self) -> u64 {
        weight(self.bytes, self.entries)
    }

    /// Which it is.
    pub(crate) fn package(&self) -> &PackageId {
        &self.package
    }

    /// Opens one of its files.
    pub(crate) fn open(&self, path: &[u8]) -> io::Result<File> {
        self.stage.dir.read([PACKAGE.as_bytes(), b"/", path].concat())
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

/// Publishes packages; gives a line for each, and the packages, whose stages are to be cleared away once the lines are sent.
pub(crate) fn publish(
    archive: &Archive,
    packages: Vec<Whole>,
    inbox: &Inbox,
) -> Result<(Vec<String>, Vec<Whole>), Failure> {
    let few =
        packages.len() <= FEW && packages.iter().map(|whole| u64::from(whole.entries)).sum::<u64>() <= FEW_ENTRIES;
    let durable = match few {
        true => packages.iter().try_for_each(|whole| tree::sync(&whole.stage.dir)),
        false => packages.first().map_or(Ok(()), |whole| whole.stage.dir.sync_file_system()),
    };
    inbox.get_on();
    if let Err(error) = durable {
        // The kernel may have dropped what it could not write, and would not say so again.
        packages.into_iter().for_each(Whole::clear_away);
        let what = format!("making the stage in {} durable", archive.shown());
        return Err(Failure::io(what, &error, "all of it is discarded; check the disk"));
    }
    let rooms = archive.rooms()?;
    let settled = locks::publishing(archive, &rooms, || {
        let mut settling = Settling::new(archive, &rooms, inbox);
        let lines: Vec<_> = packages.iter().map(|whole| settling.settle(whole)).collect();
        (lines, settling.changed())
    });
    let (lines, changed) = settled?;
    inbox.get_on();
    let durable = match few {
        true => changed.iter().try_for_each(Dir::sync),
        false => rooms.house.sync_file_system(),
    };
    if let Err(error) = durable {
        let what = format!("making the renames in {} durable", archive.shown());
        return Err(Failure::io(what, &error, "check the disk, then sync again"));
    }
    Ok((lines, packages))
}
