//! What an archive says of itself: whose it is, where it is, and what it holds.

/// The directory in an archive that has what is Blat's own there: stages, manifests, marks, locks, the record of the owner.
pub const CONTROL: &str = ".dpkg_archive";
/// In it, a file for each package that is marked for deletion.
pub const MARKS: &str = "aged";

pub mod inventory;
pub mod listing_digest;
pub mod package_list;
pub mod record;
pub mod title;
