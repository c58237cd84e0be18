//! The tests of `bandwidth.rs` once more, served by `blat-receiver`: the lab reads that from this executable's name.

#[path = "bandwidth.rs"]
mod bandwidth;
