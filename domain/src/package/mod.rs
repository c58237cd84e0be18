//! What a package is: its name, what belongs to it, where its links lead, and the tag that asks for it.

pub mod ancestry;
pub mod links;
pub mod manifest;
pub mod name;
pub mod tag;
pub mod tree;
