//! What is there already, for a package that comes.

use blat_domain::package::name::PackageId;

use crate::archive::Archive;
use crate::publish::Whole;
use crate::staging::reservation::Room;

/// What is there already: files of other versions, published or whole on this lane; and room for more.
pub(crate) struct Held<'a> {
    pub(crate) archive: &'a Archive,
    pub(crate) pending: &'a [Whole],
    pub(crate) room: &'a Room,
}

impl Held<'_> {
    /// A file of another version of a package, for reading.
    pub(crate) fn open(&self, package: &PackageId, path: &[u8]) -> std::io::Result<std::fs::File> {
        match self.pending.iter().find(|whole| whole.package == *package) {
            Some(whole) => whole.open(path),
            None => self.archive.root.read([package.path().as_bytes(), b"/", path].concat()),
        }
    }
}
