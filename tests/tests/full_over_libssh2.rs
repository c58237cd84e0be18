//! The tests of `full.rs` once more, over `transport: libssh2`: the lab reads the transport from this executable's name.

#[path = "full.rs"]
mod full;
