//! By whose orders something is sent, how much at once, and what became of it: what every part speaks of.

pub(crate) mod batch_limits;
pub(crate) mod error;
pub(crate) mod orders;
pub(crate) mod outcome;
pub(crate) mod problem;
