//! The tests of `tags.rs` once more, over `transport: libssh2`: the lab reads the transport from this executable's name.

#[path = "tags.rs"]
mod tags;
