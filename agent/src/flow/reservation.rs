//! How much of a target's disk is spoken for by what is on its way there.

use std::sync::atomic::{AtomicU64, Ordering};

use blat_domain::policy::plan::Size;

/// One stream's share of what is under way, as long as this lives.
pub(crate) struct UnderWay<'a> {
    all: &'a AtomicU64,
    share: u64,
    before: u64,
}

impl<'a> UnderWay<'a> {
    /// So much begins.
    pub(crate) fn begin(all: &'a AtomicU64, size: Size) -> Self {
        let share = size.on_disk();
        Self { before: all.fetch_add(share, Ordering::AcqRel), share, all }
    }

    /// Bytes that others had under way when this began.
    pub(crate) fn before(&self) -> u64 {
        self.before
    }

    /// Bytes of all that is under way.
    pub(crate) fn total(all: &AtomicU64) -> u64 {
        all.load(Ordering::Acquire)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(self.share, Ordering::AcqRel);
    }
}
