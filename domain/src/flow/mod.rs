//! How fast bytes may go, and how many may be under way.

pub mod bandwidth;
pub mod congestion;
pub mod throttle;
pub mod throughput;
