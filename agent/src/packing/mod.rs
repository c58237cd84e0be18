//! A package as what goes on the way: a tar for scripts, frames for a receiver, a ZIP for a bucket. One walker reads for all of them.

pub(crate) mod attributes;
pub(crate) mod cache;
pub(crate) mod delta_base;
pub(crate) mod file_reader;
pub(crate) mod frames;
pub(crate) mod names;
pub(crate) mod spool;
pub(crate) mod tar;
pub(crate) mod tree;
pub(crate) mod walker;
pub(crate) mod zip;
