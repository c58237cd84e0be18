//! The far end of Blat: serves one archive to one agent over two streams. `docs/protocol.md` says how.
//!
//! The executable is all that is for use. What it does is a library so that tests can hold conversations without a process for each.

mod archive;
mod beside;
mod conversation;
mod failure;
mod inbox;
mod lane;
mod leftovers;
mod link;
mod listing;
mod locks;
mod mandate;
mod ownership;
mod package;
mod pending;
mod publish;
mod replies;
mod retire;
mod room;
mod scratch;
mod settle;
mod stage;
mod store;
mod urgent;
mod verify;
mod written;

pub use conversation::serve;
