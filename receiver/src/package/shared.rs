//! Files of a package that have several names in it: the first one comes with its bytes, the others are links to it.
//!
//! A link names the entry that it is another name of, so no path of the agent's decides what is linked. What was made under that entry has to be
//! there still: the link is compared with it, and fails its package where it is anything else.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use blat_domain::protocol::frames::{Class, MOST_SHARED, shared_cost};
use blat_domain::protocol::outcome::FailedFor;
use rustix::io::Errno;

use super::{Incoming, Outcome, Waiting};
use crate::failure::{Failure, Setback, shown};
use crate::package::held::Held;
use crate::wire::inbox::Inbox;

/// A file that may get other names.
#[derive(Debug)]
struct Shared {
    number: u32,
    path: Vec<u8>,
    mode: u16,
    size: u64,
    made: Option<Made>,
}

/// What became of it.
#[derive(Debug, Clone, Copy)]
struct Made {
    digest: [u8; 32],
    /// Its device and its number there.
    identity: (u64, u64),
}

/// Shared files of a package, in the order of their entries.
#[derive(Debug, Default)]
pub(super) struct SharedFiles {
    files: Vec<Shared>,
    /// Bytes of memory that they take.
    cost: usize,
}

impl SharedFiles {
    fn find(&mut self, number: u32) -> Option<&mut Shared> {
        let place = self.files.binary_search_by_key(&number, |file| file.number).ok()?;
        self.files.get_mut(place)
    }

    /// Remembers a file that was announced.
    pub(super) fn announce(&mut self, file: &Waiting) -> Result<(), Setback> {
        self.cost += shared_cost(&file.path);
        if self.cost > MOST_SHARED {
            return Err(Setback::foreign(format!("its shared files take more than {MOST_SHARED} bytes of memory")));
        }
        let Waiting { number, path, mode, size, .. } = file;
        self.files.push(Shared { number: *number, path: path.clone(), mode: *mode, size: *size, made: None });
        Ok(())
    }

    /// The permission bits of the file of this entry, which is shared.
    pub(super) fn mode(&mut self, number: u32) -> Option<u16> {
        self.find(number).map(|file| file.mode)
    }

    /// Notes what a file came to, if it is shared.
    pub(super) fn finish(&mut self, number: u32, file: &File, digest: &[u8; 32]) -> io::Result<()> {
        if let Some(shared) = self.find(number) {
            let there = file.metadata()?;
            shared.made = Some(Made { digest: *digest, identity: (there.dev(), there.ino()) });
        }
        Ok(())
    }
}

impl Incoming {
    /// Notes another name of a file that was announced.
    pub(super) fn announce_name(&mut self, mut name: Waiting, to: u32) -> Result<(), Outcome> {
        let Shared { mode, size, .. } = self.shared.find(to).ok_or_else(|| no_file(&name.path, to))?;
        (name.mode, name.size) = (*mode, *size);
        self.wait_for(name)
    }

    /// Gives a file its other name. Where the file system refuses that, the name gets a copy, if there is room.
    pub(super) fn name_again(
        &mut self,
        name: &Waiting,
        to: u32,
        held: &Held<'_>,
        inbox: &Inbox,
    ) -> Result<(), Outcome> {
        let Some(Shared { path, made: Some(made), .. }) = self.shared.find(to) else {
            return Err(no_file(&name.path, to).into());
        };
        let Made { digest, identity } = *made;
        match self.places.make_hard_link((path, identity), &name.path, self.resumed) {
            Ok(()) => {
                held.room.came(0);
                let noted = self.manifest.add(&digest, &name.path);
                noted.map_err(|error| Setback::io("writing its manifest", &error).into())
            }
            Err(error) if is_refusal(&error) => {
                held.room.find_more(held.archive, name.size).map_err(|failure| no_room(&name.path, &error, failure))?;
                let from = self.places.open_file(path);
                let from = from.map_err(|error| Setback::io(format!("copying {}", shown(&name.path)), &error))?;
                self.copy_from(from, name, held, inbox)
            }
            Err(error) => Err(self.unmakable(&name.path, &error)),
        }
    }
}

/// Why an entry cannot be another name of that one.
pub(super) fn no_file(path: &[u8], to: u32) -> Setback {
    Setback::foreign(format!(
        "its entry {} is a hard link to entry {to}, which is no shared file before it",
        shown(path)
    ))
}

/// Why a name that gets no link cannot have a copy: its bytes were announced once, with those of the file's first name.
fn no_room(path: &[u8], refusal: &io::Error, Failure { class, text }: Failure) -> Setback {
    let class = if class == Class::Space { FailedFor::Space } else { FailedFor::Io };
    Setback { class, text: format!("{} gets no hard link ({refusal}), and for a copy {text}", shown(path)) }
}

/// Whether the file system makes no more links of a file, or none at all.
fn is_refusal(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP | Errno::NOSYS))
}
