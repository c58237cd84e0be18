//! How far the work in hand is: written by those who do it, read by those who tell it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use blat_domain::package::name::PackageId;
use blat_domain::policy::plan::Size;
use blat_domain::protocol::status::Current;

/// Shared by an agent's loop and its workers.
#[derive(Debug, Default)]
pub struct Progress {
    state: Mutex<ProgressSnapshot>,
}

/// A moment of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProgressSnapshot {
    /// Packages still to be sent.
    pub packages: u64,
    /// Their bytes, unpacked, less what of the current ones is read already.
    pub bytes: u64,
    /// Packages dealt with since the start of the process, whether delivered or not.
    pub packages_done: u64,
    /// Bytes read and handed on since the start of the process, unpacked.
    pub bytes_done: u64,
    /// The package read last.
    pub current: Option<Current>,
}

impl Progress {
    /// More work became known.
    pub fn expect(&self, packages: u64, size: Size) {
        let mut state = self.lock();
        state.packages += packages;
        state.bytes = state.bytes.saturating_add(size.bytes);
    }

    /// A package is being read.
    pub fn begin(&self, package: &PackageId, size: Size) {
        self.lock().current = Some(Current { package: package.clone(), done: 0, total: size.bytes });
    }

    /// Bytes of the current package were read and handed on.
    pub fn advance(&self, bytes: u64) {
        let mut state = self.lock();
        state.bytes_done += bytes;
        state.bytes = state.bytes.saturating_sub(bytes);
        if let Some(current) = &mut state.current {
            current.done += bytes;
        }
    }

    /// Packages are dealt with; those of a batch end together.
    pub fn finish(&self, packages: u64) {
        let mut state = self.lock();
        state.packages = state.packages.saturating_sub(packages);
        state.packages_done += packages;
        state.current = None;
        if state.packages == 0 {
            // What failed was not read to its end: nothing is waiting any more all the same.
            state.bytes = 0;
        }
    }

    /// Nothing of what is expected will be done any more.
    pub fn clear(&self) {
        let mut state = self.lock();
        (state.packages, state.bytes, state.current) = (0, 0, None);
    }

    /// How far it is now.
    pub fn snapshot(&self) -> ProgressSnapshot {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, ProgressSnapshot> {
        // Numbers for people: a panic elsewhere does not make them unusable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
