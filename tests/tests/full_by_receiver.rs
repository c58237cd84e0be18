//! The tests of `full.rs` once more, served by `blat-receiver`: the lab reads that from this executable's name.

#[path = "full.rs"]
mod full;
