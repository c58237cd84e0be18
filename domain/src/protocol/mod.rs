//! What our processes say to each other, and what operators read.

pub mod exit_code;
pub mod frames;
pub mod history;
pub mod messages;
pub mod news;
pub mod outcome;
pub mod reply;
pub mod status;
