//! The tests of `link.rs` once more, over `transport: libssh2`: the lab reads the transport from this executable's name.

#[path = "link.rs"]
mod link;
