//! Where a package's entries are: below its root, by handles.

use std::fs::File;
use std::io;

use blat_domain::protocol::frames::Time;
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::archive::dir::{Dir, is_absence, kind};
use crate::archive::hash::digest;
use crate::archive::tree;
use crate::wire::inbox::Inbox;

/// A package's root, and the directory that the last entry was in: the next one mostly is in it too.
#[derive(Debug)]
pub(crate) struct Places {
    root: Dir,
    last: Option<(Vec<u8>, Dir)>,
}

impl Places {
    pub(crate) fn new(root: Dir) -> Self {
        Self { root, last: None }
    }

    pub(crate) fn root(&self) -> &Dir {
        &self.root
    }

    /// The directory that an entry is in, and the entry's own name.
    pub(crate) fn parent<'a, 'b>(&'a mut self, path: &'b [u8]) -> io::Result<(&'a Dir, &'b [u8])> {
        let Some(slash) = path.iter().rposition(|byte| *byte == b'/') else { return Ok((&self.root, path)) };
        let (parent, name) = (&path[..slash], &path[slash + 1..]);
        if self.last.as_ref().is_none_or(|(last, _)| last != parent) {
            self.last = Some((parent.to_vec(), self.root.open(parent)?));
        }
        match &self.last {
            Some((_, dir)) => Ok((dir, name)),
            None => Ok((&self.root, path)),
        }
    }

    /// Makes a directory, open to its owner alone. With `again` one may be there.
    pub(super) fn make_directory(&mut self, path: &[u8], again: bool) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        if again {
            match parent.stat(name)? {
                Some(stat) if kind(&stat) == FileType::Directory => return parent.open_for_owner(name),
                Some(_) => tree::remove(parent, name)?,
                None => {}
            }
        }
        parent.make(name, 0o700)
    }

    /// Makes a symbolic link. With `again` something may be there.
    pub(super) fn make_link(&mut self, path: &[u8], to: &[u8], time: Time, again: bool) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        if again {
            tree::remove(parent, name)?;
        }
        parent.link(to, name)?;
        parent.set_time_of(name, time)
    }

    /// Makes a file. With `again` something may be there, which goes first.
    pub(super) fn make_file(&mut self, path: &[u8], again: bool) -> io::Result<File> {
        let (parent, name) = self.parent(path)?;
        if again {
            tree::remove(parent, name)?;
        }
        parent.create(name)
    }

    /// Makes another name of the file at `of`, which has to be the one of this identity: its device and its number there. With `again` something
    /// may be there.
    pub(super) fn make_hard_link(
        &mut self,
        (of, identity): (&[u8], (u64, u64)),
        path: &[u8],
        again: bool,
    ) -> io::Result<()> {
        let (folder, of) = self.parent(of)?;
        let folder = folder.open_again()?;
        let (parent, name) = self.parent(path)?;
        if again {
            tree::remove(parent, name)?;
        }
        folder.hard_link(of, parent, name)?;
        match parent.stat(name)? {
            Some(there) if (there.st_dev, there.st_ino) == identity => Ok(()),
            Some(_) | None => Err(Errno::NOENT.into()),
        }
    }

    /// Opens a file that is staged.
    pub(super) fn open_file(&mut self, path: &[u8]) -> io::Result<File> {
        let (parent, name) = self.parent(path)?;
        parent.read(name)
    }

    /// The digest of a file that is staged with the right size; what has another size is not worth reading.
    pub(super) fn staged(&mut self, path: &[u8], size: u64, inbox: &Inbox) -> io::Result<Option<[u8; 32]>> {
        let file = match self.open_file(path) {
            Ok(file) => file,
            Err(error) if is_absence(&error) || error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
            Err(error) => return Err(error),
        };
        if file.metadata()?.len() != size {
            return Ok(None);
        }
        Ok(Some(digest(&file, size, inbox)?))
    }

    /// Gives a directory its last time and mode; gives its handle.
    pub(super) fn close_directory(&self, path: &[u8], mode: u16, time: Time) -> io::Result<File> {
        let dir = if path.is_empty() { self.root.open_again()? } else { self.root.open(path)? };
        dir.set_time(time)?;
        dir.set_mode(mode)?;
        Ok(dir.into_file())
    }
}
