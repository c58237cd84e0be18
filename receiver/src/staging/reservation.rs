//! Room on the archive's disk for what comes.

use std::cell::Cell;
use std::io;

use blat_domain::archive::CONTROL;
use blat_domain::protocol::frames::Class;

use crate::archive::Archive;
use crate::failure::Failure;

/// Room that was found for announced packages, as far as they have not come. Folders and symbolic links that came are counted on: they are small.
#[derive(Debug, Default)]
pub(crate) struct Room {
    bytes: Cell<u64>,
    entries: Cell<u64>,
    reserve: u64,
}

impl Room {
    /// Finds room for so many bytes and entries beside a reserve, all on one file system.
    pub(crate) fn find(archive: &Archive, bytes: u64, entries: u64, reserve: u64) -> Result<Self, Failure> {
        let room = Self { bytes: bytes.into(), entries: entries.into(), reserve };
        room.find_for(archive, bytes, entries)?;
        Ok(room)
    }

    /// Finds room for a file of so many bytes that nobody announced, beside all that is still to come.
    pub(crate) fn find_more(&self, archive: &Archive, bytes: u64) -> Result<(), Failure> {
        let (bytes, entries) = (self.bytes.get().saturating_add(bytes), self.entries.get().saturating_add(1));
        self.find_for(archive, bytes, entries)?;
        self.bytes.set(bytes);
        self.entries.set(entries);
        Ok(())
    }

    /// Notes that an entry came and takes so many bytes.
    pub(crate) fn came(&self, bytes: u64) {
        self.bytes.set(self.bytes.get().saturating_sub(bytes));
        self.entries.set(self.entries.get().saturating_sub(1));
    }

    fn find_for(&self, archive: &Archive, bytes: u64, entries: u64) -> Result<(), Failure> {
        let rooms = archive.rooms()?;
        let shown = archive.shown();
        let look = |error: io::Error| Failure::io(format!("finding space in {shown}"), &error, "check df -Pk there");
        if rooms.stage.own_stat().map_err(look)?.st_dev != archive.root.own_stat().map_err(look)?.st_dev {
            let why = format!("{CONTROL}/stage is on another file system");
            return Err(Failure::refused(format!("staging in {shown}"), why, "make it a plain directory"));
        }
        let free = archive.root.free().map_err(look)? / 1024;
        let need = bytes.div_ceil(1024).saturating_add(entries.saturating_mul(4));
        let keep = self.reserve.div_ceil(1024);
        if need.saturating_add(keep) <= free {
            return Ok(());
        }
        let why = format!("the packages need {need} KiB beside a reserve of {keep} KiB, and {free} KiB are free");
        Err(Failure { class: Class::Space, text: format!("finding space in {shown} failed: {why}; make space") })
    }
}
