//! What is sent: one package.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use blat_domain::package::name::PackageId;
use blat_domain::policy::plan::Size;
use blat_domain::protocol::frames::Rule;
use jiff::Timestamp;

/// By whose orders a package is sent.
pub trait Orders: fmt::Debug + Send + Sync {
    /// Why it is not sent any more; none while it still is. It is asked before each package.
    fn superseded(&self) -> Option<String>;
}

/// A package to be delivered, as the source has it.
#[derive(Debug, Clone)]
pub struct TransferItem {
    /// Which.
    pub package: PackageId,
    /// The source archive that it lies in.
    pub archive: Arc<Path>,
    /// Modification time of its `descpkg`, in whole epoch seconds.
    pub time: i64,
    /// How much it is.
    pub size: Size,
    /// What to do with a version that is there already.
    pub rule: Rule,
    /// When the tag that asks for it was dropped, where one does.
    pub tagged: Option<Timestamp>,
    /// What told it from any other state of itself when it was measured.
    pub print: Option<Fingerprint>,
    /// The orders that want it, where others may come meanwhile.
    pub orders: Option<Arc<dyn Orders>>,
}

impl TransferItem {
    /// Why it is left to a sync by other orders, where it is.
    pub fn superseded(&self) -> Option<String> {
        self.orders.as_ref()?.superseded()
    }
}

/// A digest of what `lstat` says of everything in a package, times of change and inode numbers included, which nobody can set back.
pub type Fingerprint = [u8; 32];
