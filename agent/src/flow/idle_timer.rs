//! The moments at which an idle agent does all that it does regularly, so that it wakes once for all of it.
//!
//! The runtime's timer sorts what it waits for by steps of 1 ms, 64 ms and 4,096 ms, and wakes at each step on the way to a deadline. A deadline on the
//! largest step takes one wake; any other takes two or three.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;

/// The largest step of the runtime's timer that is less than the moments are apart.
const STEP: Duration = Duration::from_millis(4_096);

/// When the runtime's timer began to count.
static START: OnceLock<Instant> = OnceLock::new();

/// The runtime is made next.
pub(crate) fn begin() {
    START.get_or_init(Instant::now);
}

/// The first moment after this one, of those that are so many steps apart.
pub(crate) fn after(moment: Instant, steps: u32) -> Instant {
    let start = *START.get_or_init(Instant::now);
    let apart = STEP * steps;
    let passed = moment.saturating_duration_since(start).as_millis() / apart.as_millis();
    start + apart * u32::try_from(passed + 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_on_the_steps_of_the_timer() {
        begin();
        let start = *START.get().expect("it was set above");
        assert_eq!(after(start, 1), start + STEP);
        assert_eq!(after(start + STEP / 2, 1), start + STEP);
        assert_eq!(after(start + STEP, 1), start + STEP * 2);
        assert_eq!(after(start + STEP, 2), start + STEP * 2);
        assert_eq!(after(start + STEP * 5, 3), start + STEP * 6);
    }
}
