//! The tests of `killing.rs` once more, served by `blat-receiver`: the lab reads that from this executable's name.

#[path = "killing.rs"]
mod killing;
