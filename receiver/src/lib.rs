//! The far end of Blat: serves one archive to one agent over two streams. `docs/protocol.md` says how.
//!
//! The executable is all that is for use. What it does is a library so that tests can hold conversations without a process for each.

mod archive;
mod failure;
mod lane;
mod listing;
mod owner;
mod package;
mod package_list;
mod publish;
mod retire;
mod session;
mod staging;
mod verify;
mod wire;

pub use crate::session::serve;
