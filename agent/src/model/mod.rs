//! What is sent, by whose orders, and how far it is: what every part speaks of.

pub(crate) mod error;
pub(crate) mod item;
pub(crate) mod orders;
pub(crate) mod outcome;
pub(crate) mod problem;
pub(crate) mod progress;
