//! The tests of `chaos.rs` once more, over `transport: libssh2`: the lab reads the transport from this executable's name.

#[path = "chaos.rs"]
mod chaos;
