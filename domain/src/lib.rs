//! What Blat knows and decides, without touching anything.
//!
//! Nothing in this crate does I/O, reads a clock, draws a random number or awaits: time and chance come in as
//! arguments, so every policy can be tested in simulated time. The executables are shells around these decisions.

pub mod archive;
pub mod flow;
pub mod package;
pub mod policy;
pub mod protocol;
pub mod util;
