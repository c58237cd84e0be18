//! The tests of `killing.rs` once more, over `transport: libssh2`: the lab reads the transport from this executable's name.

#[path = "killing.rs"]
mod killing;
