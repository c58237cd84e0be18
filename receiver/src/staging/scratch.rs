//! A stage as the scripts make them, for what is no package: with a name that their sweep knows, and a batch that says what it may have to
//! clear away after us.

use std::collections::BTreeSet;
use std::io::{self, Write as _};

use blat_domain::archive::CONTROL;
use blat_domain::package::name::PackageId;
use rustix::fs::FileType;

use super::STAGES;
use crate::archive::dir::{Dir, kind};
use crate::archive::locks::{Lock, try_lock};
use crate::archive::tree::Stuck;
use crate::archive::{Archive, CHECK_MODES, Rooms, tree};
use crate::failure::Failure;
use crate::staging::leftovers::{Leftovers, clear_hidden};

/// Names that are tried: others of the same process id may be at work, on another host or in another lane.
const TRIES: u32 = 64;

/// Where trash is.
const TRASH: &str = ".dpkg_archive/trash";
/// The most of a batch that is read, in bytes.
const LONGEST_BATCH: u64 = 4 << 20;

/// A stage of ours.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// What is in it.
    pub(crate) dir: Dir,
    /// Our rooms in the archive.
    pub(crate) rooms: Rooms,
    /// Its name, which also hidden names beside packages end with.
    pub(crate) id: String,
    /// What could not be swept before.
    pub(crate) leftovers: Leftovers,
    _lock: Lock,
}

impl Scratch {
    /// Sweeps what dead ones left, then takes a stage with a name of its own.
    pub(crate) fn take(archive: &Archive, prefix: &str) -> Result<Self, Failure> {
        let rooms = archive.rooms()?;
        let failed =
            |error: io::Error| Failure::io(format!("making a stage in {}", archive.shown()), &error, CHECK_MODES);
        let mut leftovers = Leftovers::default();
        sweep(archive, &rooms, &mut leftovers)?;
        for number in 1..=TRIES {
            let id = format!("{prefix}-{}-{number}", std::process::id());
            let Some(lock) = try_lock(&rooms.stage, &format!("{id}.lock")).map_err(failed)? else { continue };
            rooms.stage.make(id.as_str(), 0o700).map_err(failed)?;
            let dir = rooms.stage.open(&id).map_err(failed)?;
            return Ok(Self { dir, rooms, id, leftovers, _lock: lock });
        }
        Err(Failure::busy(format!("making a stage in {}", archive.shown()), "all its names are taken"))
    }

    /// Notes what may be hidden beside these packages, durably, before the first rename.
    pub(crate) fn note_batch<'a>(
        &self,
        archive: &Archive,
        packages: impl Iterator<Item = &'a PackageId>,
    ) -> Result<(), Failure> {
        let batch: String = packages.map(|package| format!("{} {}\n", package.name, package.version)).collect();
        let noted = self.dir.create("batch").and_then(|mut file| {
            file.write_all(batch.as_bytes())?;
            file.sync_all()?;
            self.dir.sync()?;
            self.rooms.stage.sync()
        });
        noted.map_err(|error| {
            Failure::io(format!("noting down what to change in {}", archive.shown()), &error, "check the disk")
        })
    }

    /// Moves what has vanished from its place, and is still hidden beside it, to our trash. Where it cannot get there it stays hidden, and is
    /// cleared away from where it is.
    pub(crate) fn throw_away(&self, of_name: &Dir, hidden: &str, as_name: &str) -> io::Result<()> {
        let (trash, _) = self.rooms.trash.ensure(&self.id)?;
        of_name.open(hidden)?.set_mode(0o700)?;
        of_name.rename(hidden, &trash, as_name)
    }

    /// Removes it, with its trash and what is hidden. What cannot be removed is left to the next sweep, which names it.
    pub(crate) fn clear_away(self) {
        let _ = tree::remove(&self.rooms.trash, &self.id)
            .and_then(|()| tree::remove(&self.rooms.stage, &self.id))
            .map(|()| self.rooms.stage.unlink(lock_name(&self.id)));
    }
}

/// Clears away all stages and trash of such names whose owners are dead. What cannot be removed is noted and left.
pub(crate) fn sweep(archive: &Archive, rooms: &Rooms, leftovers: &mut Leftovers) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::io(format!("sweeping {}", archive.shown()), &error, CHECK_MODES);
    let mut ids = BTreeSet::new();
    for room in [&rooms.stage, &rooms.trash] {
        for found in room.entries().map_err(failed)? {
            let name = String::from_utf8(found.map_err(failed)?.name).unwrap_or_default();
            let id = name.strip_suffix(".lock").unwrap_or(&name);
            if is_id(id) {
                ids.insert(id.to_owned());
            }
        }
    }
    for id in ids {
        let lock = lock_name(&id);
        match try_lock(&rooms.stage, &lock) {
            Ok(Some(_lock)) => clear_dead(archive, rooms, &id, leftovers),
            Ok(None) => {}
            Err(error) => drop(leftovers.note(Err(Stuck::at(lock, error).below(STAGES)))),
        }
    }
    Ok(())
}

fn lock_name(id: &str) -> String {
    format!("{id}.lock")
}

/// `[A-Za-z0-9-]{1,64}`.
fn is_id(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Removes a stage whose lock is ours, its trash and its hidden directories. Its batch may be a hostile or half-written one: names are checked, and
/// the rest of the path is ours.
fn clear_dead(archive: &Archive, rooms: &Rooms, id: &str, leftovers: &mut Leftovers) {
    let batch = rooms.stage.read(format!("{id}/batch")).map(|batch| io::Read::take(batch, LONGEST_BATCH));
    let batch = batch.map(io::read_to_string).unwrap_or(Ok(String::new())).unwrap_or_default();
    let mut is_clear = true;
    for line in batch.lines() {
        let mut words = line.split(' ');
        let (name, version) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let Ok(package) = PackageId::new(name, version) else { continue };
        is_clear &= leftovers.note(clear_hidden(archive, rooms, &package, id));
    }
    is_clear &= leftovers.note(tree::remove(&rooms.trash, id).map_err(|stuck| stuck.below(TRASH)));
    // While something is left that only the batch knows of, the batch stays.
    if is_clear && leftovers.note(tree::remove(&rooms.stage, id).map_err(|stuck| stuck.below(STAGES))) {
        let lock = lock_name(id);
        leftovers.note(rooms.stage.unlink(&lock).map_err(|why| Stuck::at(lock, why).below(STAGES)));
    }
}

/// Whether a directory below [`CONTROL`] holds a regular file of this name.
pub(crate) fn has_file(control: &Dir, name: &str) -> io::Result<bool> {
    Ok(control.stat(name)?.is_some_and(|stat| kind(&stat) == FileType::RegularFile))
}

/// Makes what changed in the archive durable.
pub(crate) fn flush(archive: &Archive, rooms: &Rooms, what: &str, advice: &str) -> Result<(), Failure> {
    let flushed = rooms.control.sync_file_system();
    flushed.map_err(|error| {
        Failure::io(format!("making {what} in {} durable ({CONTROL})", archive.shown()), &error, advice)
    })
}
