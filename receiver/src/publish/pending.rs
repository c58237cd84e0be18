//! Whole packages of one lane that wait for others: making a few durable costs as much as many.

use std::time::{Duration, Instant};

use crate::publish::{self, Whole};

/// So many bytes of whole packages are published even when more are coming.
const MOST_PENDING: u64 = 64 << 20;
/// So long a whole package waits for others in any case.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Whole packages that wait to be published.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub(crate) packages: Vec<Whole>,
    bytes: u64,
    pub(crate) weight: u64,
    since: Option<Instant>,
}

impl Pending {
    /// One more.
    pub(crate) fn add(&mut self, whole: Whole, syncfs_reports: bool) {
        self.bytes += whole.bytes;
        self.weight += whole.weight();
        self.since.get_or_insert_with(Instant::now);
        self.packages.push(whole);
        if syncfs_reports && !publish::are_few(&self.packages) {
            self.packages.iter_mut().for_each(|whole| whole.written.give_up());
        }
    }

    /// Whether it is time to publish them. A package that is made durable by its own handles does not wait: it keeps many of them open.
    pub(crate) fn are_due(&self, syncfs_reports: bool) -> bool {
        (!syncfs_reports && !self.packages.is_empty())
            || self.bytes >= MOST_PENDING
            || self.packages.len() >= publish::most_at_once()
            || self.since.is_some_and(|since| since.elapsed() >= LONGEST_WAIT)
    }
}
