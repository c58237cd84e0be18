//! Text, units and order: what knows nothing of packages.

pub mod identity;
pub mod limits;
pub(crate) mod merge_cursor;
pub mod random_id;
pub mod text;
pub mod units;
