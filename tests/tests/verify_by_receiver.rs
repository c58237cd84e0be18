//! The tests of `verify.rs` once more, served by `blat-receiver`: the lab reads that from this executable's name.

#[path = "verify.rs"]
mod verify;
