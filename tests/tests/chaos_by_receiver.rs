//! The tests of `chaos.rs` once more, served by `blat-receiver`: the lab reads that from this executable's name.

#[path = "chaos.rs"]
mod chaos;
