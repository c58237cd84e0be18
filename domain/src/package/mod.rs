//! What a package is: its name, what belongs to it, where its links lead, and the tag that asks for it.

/// The file that makes a directory a package, and whose time tells one version from another of its name. It is written last.
pub const DESCPKG: &str = "descpkg";

pub mod ancestry;
pub mod links;
pub mod manifest;
pub mod name;
pub mod tag;
pub mod tree;
