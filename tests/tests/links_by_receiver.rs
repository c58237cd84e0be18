//! The tests of `links.rs` once more, served by `blat-receiver`: the lab reads that from this executable's name.

#[path = "links.rs"]
mod links;
