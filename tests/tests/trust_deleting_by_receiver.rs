//! The tests of `trust_deleting.rs` once more, served by `blat-receiver`: the lab reads that from this executable's name.

#[path = "trust_deleting.rs"]
mod trust_deleting;
