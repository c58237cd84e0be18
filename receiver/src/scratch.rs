//! A stage as the scripts make them, for what is no package: with a name that their sweep knows, and a batch that says what it may have to
//! clear away after us.

use std::io::{self, Write as _};

use blat_domain::name::PackageId;
use rustix::fs::FileType;

use crate::archive::dir::{Dir, kind};
use crate::archive::{Archive, CHECK_MODES, HOUSE, Rooms, tree};
use crate::failure::Failure;
use crate::locks::{self, Lock, try_lock};

/// Names that are tried: others of the same process id may be at work, on another host or in another lane.
const TRIES: u32 = 64;

/// A stage of ours.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// What is in it.
    pub(crate) dir: Dir,
    /// Our rooms in the archive.
    pub(crate) rooms: Rooms,
    /// Its name, which also hidden names beside packages end with.
    pub(crate) id: String,
    _lock: Lock,
}

impl Scratch {
    /// Sweeps what dead ones left, then takes a stage with a name of its own.
    pub(crate) fn take(archive: &Archive, prefix: &str) -> Result<Self, Failure> {
        let rooms = archive.rooms()?;
        let failed =
            |error: io::Error| Failure::io(format!("making a stage in {}", archive.shown()), &error, CHECK_MODES);
        sweep(archive, &rooms).map_err(failed)?;
        for number in 1..=TRIES {
            let id = format!("{prefix}-{}-{number}", std::process::id());
            let Some(lock) = try_lock(&rooms.stage, &format!("{id}.lock")).map_err(failed)? else { continue };
            rooms.stage.make(id.as_str(), 0o700).map_err(failed)?;
            let dir = rooms.stage.open(&id).map_err(failed)?;
            return Ok(Self { dir, rooms, id, _lock: lock });
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

    /// Removes it, with its trash and what is hidden. What cannot be removed is left to the next sweep.
    pub(crate) fn clear_away(self) {
        let _ = tree::remove(&self.rooms.trash, &self.id)
            .and_then(|()| tree::remove(&self.rooms.stage, &self.id))
            .and_then(|()| self.rooms.stage.unlink(format!("{}.lock", self.id)));
    }
}

/// Clears away all stages and trash of such names whose owners are dead.
fn sweep(archive: &Archive, rooms: &Rooms) -> io::Result<()> {
    for room in [&rooms.stage, &rooms.trash] {
        for found in room.entries()? {
            let found = found?;
            let name = str::from_utf8(&found.name).unwrap_or_default();
            let id = name.strip_suffix(".lock").unwrap_or(name);
            if !is_id(id) {
                continue;
            }
            if let Some(_lock) = try_lock(&rooms.stage, &format!("{id}.lock"))? {
                clear_dead(archive, rooms, id)?;
            }
        }
    }
    Ok(())
}

/// `[A-Za-z0-9-]{1,64}`.
fn is_id(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Removes a stage whose lock is ours, its trash and its hidden directories. Its batch may be a hostile or half-written one: names are checked, and
/// the rest of the path is ours.
fn clear_dead(archive: &Archive, rooms: &Rooms, id: &str) -> io::Result<()> {
    let batch = rooms.stage.read(format!("{id}/batch"));
    for line in batch.map(io::read_to_string).unwrap_or(Ok(String::new())).unwrap_or_default().lines() {
        let mut words = line.split(' ');
        let (name, version) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let Ok(package) = PackageId::new(name, version) else { continue };
        let Some(of_name) = archive.root.open_if_there(name)? else { continue };
        let hidden = format!(".{version}.{id}");
        let aside = format!("{hidden}.old");
        if of_name.stat(aside.as_str())?.is_some() {
            let put_back = || match of_name.stat(package.version.as_str())? {
                Some(_) => tree::remove(&of_name, &aside),
                None => of_name.rename(aside.as_str(), &of_name, version),
            };
            locks::publishing(archive, rooms, put_back).map_err(io::Error::other)??;
        }
        if of_name.stat(hidden.as_str())?.is_some() {
            tree::remove(&of_name, &hidden)?;
            archive.root.remove_empty(name);
        }
    }
    tree::remove(&rooms.trash, id)?;
    tree::remove(&rooms.stage, id)?;
    rooms.stage.unlink(format!("{id}.lock"))
}

/// Whether a directory below [`HOUSE`] holds a regular file of this name.
pub(crate) fn has_file(house: &Dir, name: &str) -> io::Result<bool> {
    Ok(house.stat(name)?.is_some_and(|stat| kind(&stat) == FileType::RegularFile))
}

/// Makes what changed in the archive durable.
pub(crate) fn flush(archive: &Archive, rooms: &Rooms, what: &str, advice: &str) -> Result<(), Failure> {
    let flushed = rooms.house.sync_file_system();
    flushed
        .map_err(|error| Failure::io(format!("making {what} in {} durable ({HOUSE})", archive.shown()), &error, advice))
}
