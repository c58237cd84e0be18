//! The tests of `logins.rs` once more, over `transport: libssh2`: the lab reads the transport from this executable's name.

#[path = "logins.rs"]
mod logins;
