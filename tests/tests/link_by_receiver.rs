//! The tests of `link.rs` once more, served by `blat-receiver`: the lab reads that from this executable's name.

#[path = "link.rs"]
mod link;
