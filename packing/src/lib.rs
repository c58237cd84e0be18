//! A package as what goes on the way: a tar for scripts, frames for a receiver, a ZIP for a bucket. One walker reads for all of them.
//!
//! All of it is plain blocking code that reads files, which its callers run on threads of their own. It knows no settings and no transport: what is
//! packed goes to a [`frames::FrameSink`], a [`tar::PieceSink`] or a writer.

pub mod attributes;
pub mod cache;
pub mod delta_base;
mod file_reader;
pub mod frames;
pub mod item;
mod names;
pub mod progress;
mod spool;
pub mod tar;
pub mod tree;
pub mod walker;
#[cfg(feature = "zip")]
pub mod zip;
