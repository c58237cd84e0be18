//! What is decided: what is wanted, sent, marked and deleted, by whom, and when something is tried again.

pub mod capacity;
pub mod clock;
pub mod confirmation;
pub mod follow;
pub mod guard;
pub mod listing;
pub mod ownership;
pub mod plan;
pub mod release;
pub mod restart;
pub mod retention;
pub mod retry;
pub mod why;
