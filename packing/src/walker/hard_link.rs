//! Hard links in a package. They save space between versions, so most of them are right; but where the system lets anybody link any file, whoever
//! writes packages can give a second name to a file of the master that he cannot read himself, such as a key.
//!
//! A file with several names is read where everybody may read it, since nothing is given away then. Otherwise its owner must be the only one who
//! can have put the name there: the directory is the owner's too, and nobody else may write in it.

use std::os::fd::OwnedFd;

use blat_paths::namespace;

use super::{FILE, NAMED, Node, OFlags, Root, SourceError, Stat};

/// What everybody but the owner needs to read a file.
const READ_BY_ALL: u32 = 0o044;
const WRITTEN_BY_OTHERS: u32 = 0o022;

/// Whether it matters who made the link.
pub(super) fn is_in_question(file: &Stat) -> bool {
    file.names > 1 && file.mode & READ_BY_ALL != READ_BY_ALL
}

impl Root {
    /// Opens a regular file with several names, if nobody but its owner can have given it this one.
    pub(super) fn open_hard_link(&self, node: &Node) -> Result<OwnedFd, SourceError> {
        let name = node.name();
        let folder = node.path.strip_suffix(name).unwrap_or_default();
        let folder = folder.strip_suffix(b"/").unwrap_or(folder);
        let (found, handle) = self.open_any(&self.handle, folder, folder, NAMED | OFlags::DIRECTORY)?;
        // In a user namespace two strangers may look like one.
        let is_owners = found.owner == node.stat.owner && namespace::is_known(found.owner);
        if !is_owners || found.mode & WRITTEN_BY_OTHERS != 0 {
            return Err(SourceError::Linked(self.shown(&node.path)));
        }
        // In the very directory that was judged.
        self.open_from(&handle, name, node, FILE)
    }
}
