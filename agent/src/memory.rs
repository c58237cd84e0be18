//! What an agent remembers from one cycle to the next so that aging does no harm: which packages tags brought, and what the target's clock said.
//! Without it a package may be deleted and sent again, which costs time and nothing else. What costs more is in [`crate::lasting`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use blat_domain::clock::{Doubt, Reading, doubt};
use blat_domain::name::PackageId;
use blat_domain::retention::is_newer;
use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// The file's name in the target's part of `state/`.
pub(crate) const FILE: &str = "memory.json";

/// Packages that tags asked for and the source lacks are noted while fewer than this are.
const MOST_MISSING: usize = 10_000;

/// One target's memory, shared by both lanes.
#[derive(Debug)]
pub(crate) struct Memory {
    path: PathBuf,
    kept: Mutex<Kept>,
}

/// What lies in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    /// Packages that tags brought, with the epoch second of the master's clock.
    tagged: BTreeMap<PackageId, i64>,
    /// The last look at the target's clock.
    clock: Option<Reading>,
}

impl Memory {
    /// What is kept at `path`; nothing where that is missing or not ours.
    pub(crate) fn load(path: PathBuf) -> Self {
        let kept = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { path, kept: Mutex::new(kept) }
    }

    /// Packages that tags brought, with the epoch second.
    pub(crate) fn tagged(&self) -> BTreeMap<PackageId, i64> {
        self.lock().tagged.clone()
    }

    /// Tags are about to bring these packages. Of those that are `missing` on the source, only as many are noted as do not make the
    /// memory endless: tags may name any.
    pub(crate) fn note_tags(&self, packages: &BTreeSet<PackageId>, missing: &BTreeSet<&PackageId>) {
        let now = Timestamp::now().as_second();
        let mut kept = self.lock();
        let mut is_new = false;
        for package in packages {
            if missing.contains(package) && kept.tagged.len() >= MOST_MISSING && !kept.tagged.contains_key(package) {
                continue;
            }
            is_new |= kept.tagged.insert(package.clone(), now) != Some(now);
        }
        if is_new {
            self.store(&kept);
        }
    }

    /// Release Manager is asked for what it knows up to this epoch second, and answered with these packages: tags
    /// that it has caught up with need no remembering.
    pub(crate) fn forget_tags(&self, known_up_to: i64, is_known: impl Fn(&PackageId) -> bool) {
        self.change(|kept| kept.tagged.retain(|package, at| is_newer(*at, known_up_to) && !is_known(package)));
    }

    /// What speaks against the target's clock, which says `target`.
    pub(crate) fn doubt(&self, target: Option<i64>) -> Option<Doubt> {
        match target {
            None => Some(Doubt::Untold),
            Some(target) => doubt(self.lock().clock.as_ref(), &reading(target)),
        }
    }

    /// The target's clock says this, and all that followed from it is done.
    pub(crate) fn note_clock(&self, target: i64) {
        self.change(|kept| kept.clock = Some(reading(target)));
    }

    fn change(&self, change: impl FnOnce(&mut Kept)) {
        let mut kept = self.lock();
        let before = kept.clone();
        change(&mut kept);
        if *kept != before {
            self.store(&kept);
        }
    }

    fn store(&self, kept: &Kept) {
        if let Err(error) = store(&self.path, kept) {
            let file = self.path.display();
            tracing::warn!(
                %file,
                %error,
                "cannot note down what tags brought and what the clock said; going on without"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Each change is whole in itself: a panic elsewhere does not make it unusable.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts a value at `path` as JSON, in one step.
pub(crate) fn store(path: &Path, kept: &impl Serialize) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let aside = path.with_extension("tmp");
    fs::write(&aside, serde_json::to_vec(kept)?)?;
    fs::rename(&aside, path)
}

/// The target's clock beside what this machine knows of the time. Uptime counts on while the machine sleeps.
fn reading(target: i64) -> Reading {
    let uptime = u64::try_from(clock_gettime(ClockId::Boottime).tv_sec).unwrap_or(0);
    // A system that does not name its starts is always on its first: its clocks are compared all the same.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    Reading { target, master: Timestamp::now().as_second(), boot, uptime }
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
    fn what_is_noted_outlives_the_process_until_release_manager_has_caught_up() {
        let (_scratch, path) = scratch();
        let packages: BTreeSet<PackageId> = ["a@1", "b@1", "c@1"].map(|p| p.parse().expect("a package")).into();
        Memory::load(path.clone()).note_tags(&packages, &BTreeSet::new());
        let memory = Memory::load(path.clone());
        assert_eq!(memory.tagged().into_keys().collect::<BTreeSet<_>>(), packages);
        memory.forget_tags(0, |package| package.name.as_str() == "a");
        assert_eq!(Memory::load(path.clone()).tagged().len(), 2);
        memory.forget_tags(Timestamp::now().as_second() + 1, |_| false);
        assert!(Memory::load(path).tagged().is_empty());
    }

    #[test]
    fn tags_that_name_what_nobody_has_make_no_endless_memory() {
        let (_scratch, path) = scratch();
        let memory = Memory::load(path);
        let all: BTreeSet<PackageId> =
            (0..MOST_MISSING + 5).map(|n| format!("p{n}@1").parse().expect("a package")).collect();
        memory.note_tags(&all, &all.iter().collect());
        assert_eq!(memory.tagged().len(), MOST_MISSING);
        let there: BTreeSet<PackageId> = ["there@1".parse().expect("a package")].into();
        memory.note_tags(&there, &BTreeSet::new());
        assert_eq!(memory.tagged().len(), MOST_MISSING + 1, "what the source has is noted in any case");
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
        fs::write(&path, "{\"tagged\": {\"../x\": 5}}").expect("a file");
        assert!(Memory::load(path).tagged().is_empty());
    }
}
