//! Whose archive it is, and what only its owner may do.

pub(crate) mod mandate;
pub(crate) mod record;
