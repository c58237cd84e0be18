//! The tests of `tags.rs` once more, served by `blat-receiver`: the lab reads that from this executable's name.

#[path = "tags.rs"]
mod tags;
