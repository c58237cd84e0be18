//! How many packages are sent at once.

use blat_domain::policy::plan::Size;

/// How much a target takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchLimits {
    /// The most that items of one call come to; a bigger one comes alone.
    pub(crate) size: Size,
    /// Calls under way at once.
    pub(crate) streams: usize,
}
