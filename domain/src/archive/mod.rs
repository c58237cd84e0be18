//! What an archive says of itself: whose it is, where it is, and what it holds.

pub mod inventory;
pub mod listing_digest;
pub mod package_list;
pub mod record;
pub mod title;
