//! What Blat knows and decides, without touching anything.
//!
//! Nothing in this crate does I/O, reads a clock, draws a random number or awaits: time and chance come in as
//! arguments, so every policy can be tested in simulated time. The executables are shells around these decisions.

mod along;
pub mod ancestry;
pub mod bandwidth;
pub mod buckets;
pub mod clock;
pub mod confirmation;
pub mod frames;
pub mod guard;
pub mod history;
pub mod identity;
pub mod inventory;
pub mod limits;
pub mod links;
pub mod manifest;
pub mod messages;
pub mod name;
pub mod news;
pub mod ownership;
pub mod package_list;
pub mod plan;
pub mod release;
pub mod reply;
pub mod restart;
pub mod retention;
pub mod retry;
pub mod room;
pub mod status;
pub mod tag;
pub mod text;
pub mod throttle;
pub mod throughput;
pub mod tree;
pub mod units;
pub mod why;
pub mod window;
