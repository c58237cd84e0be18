//! How much memory an agent comes to hold, where somebody would have it hold without end.

use std::fs;

use rustix::process::Signal;

use crate::process::{self, Outcome, Running};

/// More than an agent at rest may nobody ever make it hold, in bytes.
pub const MOST_MORE: u64 = 64 << 20;

/// An agent's outcome, once it ends by itself, and the most memory that it held. One that does not end, or that would take the whole machine,
/// is killed.
pub fn watched(mut agent: Running) -> (Outcome, u64) {
    let (pid, mut peak) = (agent.pid(), 0);
    let most = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of KiB") << 10)
    };
    let ended = process::poll(process::DEADLINE, || {
        peak = most().unwrap_or(0).max(peak);
        (agent.ended() || peak > 16 * MOST_MORE).then_some(())
    });
    if ended.is_none() || peak > 16 * MOST_MORE {
        process::signal(pid, Signal::KILL);
    }
    (agent.finish(), peak)
}
