//! What is packed for one target is not packed again for the next: packages as the frames that receivers take, shared by the agents of one
//! master.
//!
//! An entry is named by the digest of everything it was made from, so it is never out of date; it is only not found any more. It is made by
//! whoever comes first, who holds a kernel lock on its unfinished file meanwhile, and the others wait. Nothing here is needed: what cannot
//! be read or written is packed as if there were no cache, and the whole directory may be deleted at any time.

mod entry;
mod key;
mod making;
#[cfg(test)]
mod tests;
mod tidying;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub(crate) use self::entry::CacheEntry;
pub(crate) use self::key::{CacheKey, Ingredients};
pub(crate) use self::making::{CacheLookup, Making};

/// The most that all entries together take on the disk, in bytes.
const MOST: u64 = 1 << 30;

/// The pack cache of one master, as one of its agents sees it.
#[derive(Debug)]
pub struct PackCache {
    directory: PathBuf,
    /// The most that all entries together may take, in bytes.
    most: u64,
    /// Whether anybody else could use what this agent packs.
    is_shared: AtomicBool,
    /// Bytes that this agent has added since it last looked at how much there is.
    added: AtomicU64,
}

impl PackCache {
    /// The pack cache in this directory, which need not exist. Nobody shares it before [`PackCache::share`] says so.
    pub fn new(directory: PathBuf) -> Self {
        // The first entry is a reason to look: others may have left much.
        Self { directory, most: MOST, is_shared: AtomicBool::new(false), added: AtomicU64::new(MOST) }
    }

    /// Whether another target could use what is packed for this one. Where none could, nothing is kept and nothing looked up.
    pub fn share(&self, is_shared: bool) {
        self.is_shared.store(is_shared, Ordering::Relaxed);
    }

    /// Whether a package of so many bytes, unpacked, belongs here: one that would displace much of the rest does not.
    pub fn takes(&self, bytes: u64) -> bool {
        self.is_shared.load(Ordering::Relaxed) && bytes <= self.most / 4
    }
}
