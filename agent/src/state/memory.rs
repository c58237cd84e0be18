//! What an agent remembers of the target's clock from one cycle to the next, so that aging does no harm. What must not be lost is in
//! [`crate::state::lasting`].

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use blat_config::replacement::{Outlives, replace_json};
use blat_domain::policy::clock::{Anchor, Doubt, Reading, doubt, earliest};
use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// The file's name in the target's part of `state/`.
pub(crate) const FILE: &str = "memory.json";

/// One target's memory, shared by both lanes.
#[derive(Debug)]
pub(crate) struct Memory {
    path: PathBuf,
    kept: Mutex<MemoryFile>,
}

/// What lies in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct MemoryFile {
    /// The last look at the target's clock.
    clock: Option<Reading>,
}

impl Memory {
    /// What is kept at `path`; nothing where that is missing or not ours.
    pub(crate) fn load(path: PathBuf) -> Self {
        let kept = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { path, kept: Mutex::new(kept) }
    }

    /// What speaks against the target's clock, which says `target`.
    pub(crate) fn doubt(&self, target: Option<i64>) -> Option<Doubt> {
        match target {
            None => Some(Doubt::Untold),
            Some(target) => doubt(self.lock().clock.as_ref(), &reading(target)),
        }
    }

    /// The earliest epoch second that it can be, where the target's clock says `target`.
    pub(crate) fn earliest(&self, target: Option<i64>) -> i64 {
        earliest(self.lock().clock.as_ref(), &reading(target.unwrap_or(i64::MAX)))
    }

    /// The target's clock says this, and all that followed from it is done.
    pub(crate) fn note_clock(&self, target: i64) {
        self.change(|kept| kept.clock = Some(reading(target)));
    }

    fn change(&self, change: impl FnOnce(&mut MemoryFile)) {
        let mut kept = self.lock();
        let before = kept.clone();
        change(&mut kept);
        if *kept != before {
            self.store(&kept);
        }
    }

    fn store(&self, kept: &MemoryFile) {
        if let Err(error) = replace_json(&self.path, Outlives::Process, kept) {
            let file = self.path.display();
            tracing::warn!(
                %file,
                %error,
                "cannot note down what the target's clock said; going on without"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, MemoryFile> {
        // Each change is whole in itself: a panic elsewhere does not make it unusable.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The target's clock beside what this machine knows of the time. Uptime counts on while the machine sleeps.
fn reading(target: i64) -> Reading {
    Reading { target, master: Timestamp::now().as_second(), boot: boot(), uptime: uptime().unsigned_abs() }
}

/// This machine's clock at this moment.
pub(crate) fn anchor() -> Anchor {
    loop {
        let (uptime_before, now) = (uptime(), Timestamp::now().as_second());
        // Where this process stood still in between, they are of different moments, and the clock would seem to have been set.
        if uptime() - uptime_before <= 1 {
            return Anchor { boot: boot(), start: now - uptime_before };
        }
    }
}

fn uptime() -> i64 {
    clock_gettime(ClockId::Boottime).tv_sec
}

/// A system that does not name its starts is always on its first: its clocks are compared all the same.
fn boot() -> String {
    static BOOT: OnceLock<String> = OnceLock::new();
    let read = || fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    BOOT.get_or_init(read).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a scratch directory");
        let path = directory.path().join("perth").join(FILE);
        (directory, path)
    }

    #[test]
    fn a_target_clock_that_was_set_between_two_looks_is_doubted_even_by_another_process() {
        let (_scratch, path) = scratch();
        let now = Timestamp::now().as_second();
        let memory = Memory::load(path.clone());
        assert_eq!((memory.doubt(Some(now)), memory.doubt(None)), (None, Some(Doubt::Untold)));
        memory.note_clock(now);
        let later = Memory::load(path);
        assert_eq!(later.doubt(Some(now)), None);
        assert!(matches!(later.doubt(Some(now + 7_200)), Some(Doubt::Set { .. })));
        assert!(matches!(later.doubt(Some(now + 400 * 86_400)), Some(Doubt::Apart { .. })));
    }

    #[test]
    fn a_file_that_is_not_ours_is_no_memory() {
        let (_scratch, path) = scratch();
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(&path, "{\"clock\": 5}").expect("a file");
        assert_eq!(Memory::load(path).doubt(Some(Timestamp::now().as_second())), None);
    }
}
