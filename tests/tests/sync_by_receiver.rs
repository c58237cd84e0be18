//! The tests of `sync.rs` once more, served by `blat-receiver`: the lab reads that from this executable's name.

#[path = "sync.rs"]
mod sync;
