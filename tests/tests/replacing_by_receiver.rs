//! The tests of `replacing.rs` once more, served by `blat-receiver`: the lab reads that from this executable's name.

#[path = "replacing.rs"]
mod replacing;
