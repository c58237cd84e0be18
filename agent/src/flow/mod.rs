//! How much goes at once: the rate limit, space on the target that is spoken for, and when an idle agent wakes.

pub(crate) mod idle_timer;
pub(crate) mod rate_limit;
pub(crate) mod reservation;

use std::time::Duration;

/// Without a sign of progress for so long, what is under way counts as stalled and is given up: a transfer, a command, a connection,
/// a request to a bucket.
pub(crate) const STALL_TIMEOUT: Duration = Duration::from_secs(120);
