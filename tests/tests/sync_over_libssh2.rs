//! The tests of `sync.rs` once more, over `transport: libssh2`: the lab reads the transport from this executable's name.

#[path = "sync.rs"]
mod sync;
