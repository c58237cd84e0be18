//! The tests of `aging.rs` once more, served by `blat-receiver`: the lab reads that from this executable's name.

#[path = "aging.rs"]
mod aging;
