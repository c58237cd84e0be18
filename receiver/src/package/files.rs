//! The files of a package that comes: filled from pieces in their order, copied from other versions, or taken over from an interrupted attempt.

use std::fs::{File, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use blat_domain::package::DESCPKG;
use blat_domain::package::name::PackageId;
use blat_domain::protocol::frames::{Copy, MOST_BASE, MOST_PIECE, Piece};
use blat_domain::protocol::outcome::FailedFor;
use sha2::{Digest as _, Sha256};

use super::sparse::Sparse;
use super::{Content, Incoming, Outcome, Waiting, memory_of};
use crate::archive::dir::timestamps;
use crate::archive::hash::digest;
use crate::failure::{Setback, shown};
use crate::package::held::Held;
use crate::wire::inbox::Inbox;

/// Bytes that are copied at once.
const COPIED: usize = 128 << 10;

/// A file that is being filled.
#[derive(Debug)]
pub(super) struct Writing {
    file: Sparse,
    digest: Sha256,
    left: u64,
    of: Waiting,
}

impl Writing {
    pub(super) fn path(&self) -> &[u8] {
        &self.of.path
    }

    /// Bytes of it that came.
    pub(super) fn written(&self) -> u64 {
        self.of.size - self.left
    }
}

impl Incoming {
    /// Takes the parts of a piece whose bytes come next.
    pub(crate) fn begin_piece(&mut self, piece: &Piece, held: &Held<'_>, inbox: &Inbox) -> Result<(), Outcome> {
        let unpacked: u64 = piece.parts.iter().map(|part| u64::from(part.bytes)).sum();
        let base: u64 = piece.base.iter().map(|base| u64::from(base.bytes)).sum();
        if unpacked > MOST_PIECE || base > MOST_BASE {
            return Err(Setback::digest("a piece came that is larger than any may be").into());
        }
        if !piece.zstd && (u64::from(piece.packed) != unpacked || !piece.base.is_empty()) {
            return Err(Setback::digest("a plain piece came with other bytes than its parts have").into());
        }
        self.made_use_of_held |= !piece.base.is_empty();
        self.parts.extend(&piece.parts);
        self.next_part(held, inbox)
    }

    /// Fills files with the next bytes of a piece.
    pub(super) fn fill(&mut self, mut bytes: &[u8], held: &Held<'_>, inbox: &Inbox) -> Result<(), Outcome> {
        while !bytes.is_empty() {
            let Some(writing) = self.writing.as_mut().filter(|_| !self.parts.is_empty()) else {
                return Err(self.spoiled("a piece has more bytes than its parts"));
            };
            let (now, later) = bytes.split_at(bytes.len().min(self.part_left as usize));
            let written = writing.file.write(now);
            written.map_err(|error| Setback::io(format!("writing {}", shown(&writing.of.path)), &error))?;
            writing.digest.update(now);
            writing.left -= now.len() as u64;
            // No longer than what is left of the part.
            self.part_left -= u32::try_from(now.len()).unwrap_or(self.part_left);
            bytes = later;
            if self.part_left == 0 {
                self.end_part(held)?;
                self.next_part(held, inbox)?;
            }
        }
        Ok(())
    }

    /// A piece has come to its end.
    pub(super) fn end_piece(&mut self) -> Result<(), Outcome> {
        if self.parts.is_empty() { Ok(()) } else { Err(self.spoiled("a piece has fewer bytes than its parts")) }
    }

    /// Makes the next part ready to be filled, and ends those that have no bytes.
    fn next_part(&mut self, held: &Held<'_>, inbox: &Inbox) -> Result<(), Outcome> {
        while let Some(part) = self.parts.front().copied() {
            while self.waiting.front().is_some_and(|file| file.number < part.entry) {
                self.finish_first(held, inbox)?;
            }
            if self.writing.as_ref().is_none_or(|writing| writing.of.number != part.entry) {
                self.open_first(part.entry)?;
            }
            match &self.writing {
                Some(writing) if u64::from(part.bytes) <= writing.left => {}
                Some(_) | None => {
                    return Err(self.spoiled(format!("more bytes came for entry {} than it has", part.entry)));
                }
            }
            self.part_left = part.bytes;
            if part.bytes > 0 {
                return Ok(());
            }
            self.end_part(held)?;
        }
        Ok(())
    }

    /// Makes the first waiting file, which has to be this entry.
    fn open_first(&mut self, entry: u32) -> Result<(), Outcome> {
        if let Some(unfinished) = &self.writing {
            return Err(self.spoiled(format!("{} ends early", shown(unfinished.path()))));
        }
        let Some(of) =
            self.waiting.front().is_some_and(|file| file.number == entry).then(|| self.waiting.pop_front()).flatten()
        else {
            return Err(self.spoiled(format!("bytes came for entry {entry}, which is no file that waits for any")));
        };
        self.waiting_bytes -= memory_of(&of);
        let file = self.places.make_file(&of.path, self.resumed).map_err(|error| self.unmakable(&of.path, &error))?;
        self.writing = Some(Writing { file: Sparse::new(file), digest: Sha256::new(), left: of.size, of });
        Ok(())
    }

    fn end_part(&mut self, held: &Held<'_>) -> Result<(), Outcome> {
        self.parts.pop_front();
        match self.writing.take_if(|writing| writing.left == 0) {
            Some(Writing { file, digest, of, .. }) => {
                let written = file.finish();
                let file = written.map_err(|error| Setback::io(format!("writing {}", shown(&of.path)), &error))?;
                self.finish_file(file, &of, &digest.finalize().into(), held)
            }
            None if self.parts.is_empty() => Ok(()),
            None => Err(self.spoiled("a piece ends a file in its middle")),
        }
    }

    /// Finishes copies and other names that are next, so that they do not wait for the end of the package.
    pub(crate) fn finish_copies(&mut self, held: &Held<'_>, inbox: &Inbox) -> Result<(), Outcome> {
        while self.writing.is_none()
            && self.waiting.front().is_some_and(|file| matches!(file.content, Content::Copy(_) | Content::Name(_)))
        {
            self.finish_first(held, inbox)?;
        }
        Ok(())
    }

    /// Finishes all files that wait: no more bytes come.
    pub(super) fn finish_waiting(&mut self, held: &Held<'_>, inbox: &Inbox) -> Result<(), Outcome> {
        while self.writing.is_none() && !self.waiting.is_empty() {
            self.finish_first(held, inbox)?;
        }
        Ok(())
    }

    /// Finishes the first waiting file without bytes of its own.
    fn finish_first(&mut self, held: &Held<'_>, inbox: &Inbox) -> Result<(), Outcome> {
        if let Some(unfinished) = &self.writing {
            return Err(self.spoiled(format!("{} ends early", shown(unfinished.path()))));
        }
        let Some(file) = self.waiting.pop_front() else { return Ok(()) };
        self.waiting_bytes -= memory_of(&file);
        match &file.content {
            Content::Fresh => Err(self.spoiled(format!("no bytes came for {}", shown(&file.path)))),
            Content::Copy(copy) => {
                self.made_use_of_held = true;
                self.copy(&file, copy, held, inbox)
            }
            // Whoever wrote it is gone, and what the disk refused of it was reported to him alone: so it is written again.
            Content::Staged => {
                self.made_use_of_held = true;
                let staged = self.places.open_file(&file.path).map_err(|error| self.unmakable(&file.path, &error))?;
                self.copy_from(staged, &file, held, inbox)
            }
            Content::Name(to) => self.name_again(&file, *to, held, inbox),
        }
    }

    /// Copies a file of another version. What is not there any more, or has another size, is to be sent.
    fn copy(&mut self, file: &Waiting, copy: &Copy, held: &Held<'_>, inbox: &Inbox) -> Result<(), Outcome> {
        let version = PackageId { name: self.announced.package.name.clone(), version: copy.version.clone() };
        let from = held.open(&version, copy.path.as_ref().unwrap_or(&file.path)).map_err(|_| Outcome::Lacks)?;
        self.copy_from(from, file, held, inbox)
    }

    pub(super) fn copy_from(
        &mut self,
        mut from: File,
        file: &Waiting,
        held: &Held<'_>,
        inbox: &Inbox,
    ) -> Result<(), Outcome> {
        let to = self.places.make_file(&file.path, self.resumed).map_err(|error| self.unmakable(&file.path, &error))?;
        let copied = copy_bytes(&mut from, to, file.size, inbox);
        let copied = copied.map_err(|error| Setback::io(format!("copying {}", shown(&file.path)), &error))?;
        let (to, digest) = copied.ok_or(Outcome::Lacks)?;
        self.finish_file(to, file, &digest, held)
    }

    /// Gives a file that is written to its end its mode and time, and keeps its handle.
    fn finish_file(&mut self, file: File, of: &Waiting, digest: &[u8; 32], held: &Held<'_>) -> Result<(), Outcome> {
        let failed = |error: io::Error| Setback::io(format!("finishing {}", shown(&of.path)), &error);
        file.set_permissions(Permissions::from_mode((of.mode & 0o777).into())).map_err(failed)?;
        rustix::fs::futimens(&file, &timestamps(of.time)).map_err(|error| failed(error.into()))?;
        if of.path == DESCPKG.as_bytes() {
            let (wanted, got) = (of.time.seconds, file.metadata().map_err(failed)?.mtime());
            if got != wanted {
                return Err(unholdable(wanted, got).into());
            }
            self.descpkg = Some(wanted);
        }
        self.shared.finish(of.number, &file, digest).map_err(failed)?;
        self.manifest.add(digest, &of.path).and_then(|()| self.written.keep(file, held.archive)).map_err(failed)?;
        self.bytes += of.size;
        held.room.came(of.size);
        Ok(())
    }
}

/// A package that shows another time than the source's would be replaced at each sync.
fn unholdable(wanted: i64, got: i64) -> Setback {
    Setback {
        class: FailedFor::Foreign,
        text: format!(
            "its {DESCPKG} cannot have the time {wanted} on this file system, which makes {got} of it; give it another time at the source"
        ),
    }
}

/// Copies a file of this size, or lets the file system share its blocks; gives the new one with the digest of what is in it, none where the
/// size differs.
fn copy_bytes(from: &mut File, to: File, size: u64, inbox: &Inbox) -> io::Result<Option<(File, [u8; 32])>> {
    if from.metadata()?.len() != size {
        return Ok(None);
    }
    if size > 0 && rustix::fs::ioctl_ficlone(&to, &*from).is_ok() {
        // It may have grown since.
        if to.metadata()?.len() != size {
            return Ok(None);
        }
        let digest = digest(&to, size, inbox)?;
        return Ok(Some((to, digest)));
    }
    let mut to = Sparse::new(to);
    let mut digest = Sha256::new();
    let mut buffer = vec![0; COPIED];
    let mut left = size;
    while left > 0 {
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match from.read(&mut buffer[..most]) {
            Ok(0) => return Ok(None),
            Ok(read) => {
                digest.update(&buffer[..read]);
                to.write(&buffer[..read])?;
                left -= read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        inbox.get_on();
    }
    Ok(Some((to.finish()?, digest.finalize().into())))
}
