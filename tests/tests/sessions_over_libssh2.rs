//! The tests of `sessions.rs` once more, over `transport: libssh2`: the lab reads the transport from this executable's name.

#[path = "sessions.rs"]
mod sessions;
