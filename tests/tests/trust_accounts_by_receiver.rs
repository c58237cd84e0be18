//! The tests of `trust_accounts.rs` once more, served by `blat-receiver`: the lab reads that from this executable's name.

#[path = "trust_accounts.rs"]
mod trust_accounts;
