//! The tries of a write that may replace something. Such a write is sent once: between two tries somebody else may come to own the bucket, so
//! whoever makes the next one looks again first whether it is still right.

use std::time::Duration;

use super::TargetError;

/// How often a request is made.
pub(super) const MOST: u32 = 4;
/// The wait before the second try; it doubles.
pub(super) const FIRST_WAIT: Duration = Duration::from_millis(300);

/// The tries that one write has left.
pub(super) struct RetryBudget {
    left: u32,
    wait: Duration,
}

impl RetryBudget {
    /// Those of a write that is made for the first time.
    pub(super) fn new() -> Self {
        Self { left: MOST - 1, wait: FIRST_WAIT }
    }

    /// Waits, and says whether a write that ended with this error is made again, once somebody has looked.
    pub(super) async fn again(&mut self, error: &TargetError) -> bool {
        if self.left == 0 || !matches!(error, TargetError::Link(_)) {
            return false;
        }
        tracing::debug!(%error, "a write is made again once it is known that it still may replace what is there");
        tokio::time::sleep(self.wait).await;
        (self.left, self.wait) = (self.left - 1, self.wait * 2);
        true
    }
}
