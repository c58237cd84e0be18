//! The tests of `trust_orders.rs` once more, served by `blat-receiver`: the lab reads that from this executable's name.

#[path = "trust_orders.rs"]
mod trust_orders;
