//! What is remembered from one start to the next.

pub(crate) mod history;
pub(crate) mod lasting;
pub(crate) mod listed;
pub(crate) mod memory;
pub(crate) mod unanswered;
