//! What is sent: one package, and how many of them at once.

use std::path::Path;
use std::sync::Arc;

use blat_domain::package::name::PackageId;
use blat_domain::policy::plan::Size;
use blat_domain::protocol::frames::Rule;
use jiff::Timestamp;

use super::orders::Orders;

/// A package to be delivered, as the source has it.
#[derive(Debug, Clone)]
pub(crate) struct TransferItem {
    /// Which.
    pub(crate) package: PackageId,
    /// The source archive that it lies in.
    pub(crate) archive: Arc<Path>,
    /// Modification time of its `descpkg`, in whole epoch seconds.
    pub(crate) time: i64,
    /// How much it is.
    pub(crate) size: Size,
    /// What to do with a version that is there already.
    pub(crate) rule: Rule,
    /// When the tag that asks for it was dropped, where one does.
    pub(crate) tagged: Option<Timestamp>,
    /// What told it from any other state of itself when it was measured.
    pub(crate) print: Option<Fingerprint>,
    /// The settings that want it, where it is not wanted any more once others are in force.
    pub(crate) orders: Option<Orders>,
}

impl TransferItem {
    /// Whether it is left to a sync by other settings.
    pub(crate) fn is_superseded(&self) -> bool {
        self.orders.as_ref().is_some_and(Orders::are_superseded)
    }
}

/// How much a target takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchLimits {
    /// The most that items of one call come to; a bigger one comes alone.
    pub(crate) size: Size,
    /// Calls under way at once.
    pub(crate) streams: usize,
}

/// A digest of what `lstat` says of everything in a package, times of change and inode numbers included, which nobody can set back.
pub(crate) type Fingerprint = [u8; 32];
