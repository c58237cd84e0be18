//! The master as an operator meets it: the real executable, real processes, a shell script in the agents' place.

mod agents;
mod house;
mod master;
