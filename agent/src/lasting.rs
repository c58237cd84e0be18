//! `config/.known/TARGET.json`: what an agent must not lose, so that nothing is deleted which should stay: which releases brought packages, and whom
//! each archive belonged to that this target has been at.
//!
//! It lies beside the home tree's id and not in `state/`, which may be deleted at any time while Blat is stopped. A file that is missing is that of
//! a new target. One that cannot be read, or not be replaced, holds deletions back until somebody has looked at it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use blat_config::{Home, private, trust};
use blat_domain::name::TargetName;
use blat_domain::ownership::Record;
use blat_domain::release::KnownReleases;
use blat_domain::text::printable;
use serde::{Deserialize, Serialize};

use crate::memory;

/// Archives that are remembered: those that the config named last.
const MOST_ARCHIVES: usize = 32;
/// The most bytes that the file has: that is the names of a million releases.
const LARGEST: u64 = 64 << 20;

/// One target's lasting memory, shared by both lanes.
#[derive(Debug)]
pub(crate) struct LastingMemory {
    home: Home,
    target: TargetName,
    /// Whether this process serves the target: nobody else writes the file then.
    serves: bool,
    now: Mutex<Now>,
}

/// What is remembered, and what is wrong with the file.
#[derive(Debug, Default)]
struct Now {
    kept: Kept,
    trouble: Option<Trouble>,
}

/// Why the file is of no use.
#[derive(Debug)]
enum Trouble {
    /// What it says is not known, so that nothing may be written in its place.
    Unreadable(String),
    /// It says something older.
    Unwritten(String),
}

/// What lies in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// Releases that brought packages.
    releases: Releases,
    /// The records of archives, the one that was seen last at the end.
    archives: Vec<SeenRecord>,
}

/// Releases as one source has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Releases {
    /// Which source.
    origin: String,
    known: KnownReleases,
}

/// The record of one archive as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SeenRecord {
    /// Where.
    place: String,
    /// Its text.
    record: String,
}

/// What a former version kept of it in `state/TARGET/memory.json`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Former {
    releases: Releases,
    archives: Vec<SeenRecord>,
}

impl LastingMemory {
    /// What this target remembers. `serves`: whether this process holds the target's lock. Who only looks changes no file.
    pub(crate) fn load(home: &Home, target: &TargetName, serves: bool) -> Self {
        let memory = Self { home: home.clone(), target: target.clone(), serves, now: Mutex::default() };
        memory.load_again(&mut memory.lock());
        memory
    }

    /// Why nothing may be deleted by what is remembered, and what to do. Looks again where something was wrong.
    pub(crate) fn trouble(&self) -> Option<String> {
        let mut now = self.lock();
        match &now.trouble {
            None => {}
            Some(Trouble::Unreadable(_)) => self.load_again(&mut now),
            Some(Trouble::Unwritten(_)) => self.store(&mut now),
        }
        match &now.trouble {
            None => None,
            Some(Trouble::Unreadable(why) | Trouble::Unwritten(why)) => Some(why.clone()),
        }
    }

    /// The releases of this source that brought packages when its answer was good.
    pub(crate) fn releases(&self, origin: &str) -> KnownReleases {
        let kept = &self.lock().kept.releases;
        if kept.origin == origin { kept.known.clone() } else { KnownReleases::default() }
    }

    /// These releases of this source brought packages.
    ///
    /// # Errors
    /// Why that will be forgotten with this process, and what to do.
    pub(crate) fn note_releases(&self, origin: &str, known: &KnownReleases) -> Result<(), String> {
        self.change(|kept| kept.releases = Releases { origin: origin.to_owned(), known: known.clone() })
    }

    /// The record that was last seen in the archive at this place.
    ///
    /// # Errors
    /// Why nobody knows it.
    pub(crate) fn archive(&self, place: &str) -> Result<Option<Record>, String> {
        let now = self.lock();
        let seen = now.kept.archives.iter().rev().find(|seen| seen.place == place);
        match (seen, &now.trouble) {
            (None, Some(Trouble::Unreadable(why))) => Err(why.clone()),
            (seen, _) => Ok(seen.and_then(|seen| Record::parse(&seen.record))),
        }
    }

    /// The archive at this place has this record.
    pub(crate) fn note_archive(&self, place: &str, record: &Record) {
        let noted = self.change(|kept| {
            kept.archives.retain(|seen| seen.place != place);
            kept.archives.push(SeenRecord { place: place.to_owned(), record: record.render() });
            let surplus = kept.archives.len().saturating_sub(MOST_ARCHIVES);
            kept.archives.drain(..surplus);
        });
        if let Err(why) = noted {
            tracing::warn!(target_name = %self.target, "cannot note down whom the archive belongs to: {why}");
        }
    }

    fn change(&self, change: impl FnOnce(&mut Kept)) -> Result<(), String> {
        let mut now = self.lock();
        let before = now.kept.clone();
        change(&mut now.kept);
        if now.kept != before {
            self.store(&mut now);
        }
        match &now.trouble {
            None => Ok(()),
            Some(Trouble::Unreadable(why) | Trouble::Unwritten(why)) => Err(why.clone()),
        }
    }

    fn load_again(&self, now: &mut Now) {
        match self.read() {
            Ok(Some(kept)) => *now = Now { kept, trouble: None },
            Ok(None) => {
                *now = Now { kept: self.former(), trouble: None };
                if now.kept != Kept::default() {
                    self.store(now);
                }
            }
            Err(why) => {
                let file = self.shown();
                let text = format!(
                    "cannot use {file}: {why}; correct that, or restore the file from a backup. It says what releases had and whom archives belonged \
                     to; once it is removed, target {} counts as new, and releases that are missing or empty by then are not missed",
                    self.target
                );
                now.trouble = Some(Trouble::Unreadable(text));
            }
        }
    }

    /// What the file says; nothing where there is none.
    fn read(&self) -> Result<Option<Kept>, String> {
        let text = match trust::read(self.home.root(), &self.home.known_file(&self.target), LARGEST) {
            Ok(text) => text,
            Err(distrust) if distrust.is_absence() => return Ok(None),
            Err(distrust) => return Err(distrust.to_string()),
        };
        let damaged = |why: &str| format!("it is damaged: {}", printable(why));
        let kept: Kept = serde_json::from_str(&text).map_err(|error| damaged(&error.to_string()))?;
        match kept.archives.iter().find(|seen| Record::parse(&seen.record).is_none()) {
            Some(seen) => Err(damaged(&format!("the record of {} is none", seen.place))),
            None => Ok(Some(kept)),
        }
    }

    /// What a former version noted down elsewhere; nothing where that is missing or another program's.
    fn former(&self) -> Kept {
        let bytes = fs::read(self.home.target_state_dir(&self.target).join(memory::FILE)).unwrap_or_default();
        let Former { releases, archives } = serde_json::from_slice(&bytes).unwrap_or_default();
        let archives = archives.into_iter().filter(|seen| Record::parse(&seen.record).is_some()).collect();
        Kept { releases, archives }
    }

    /// Replaces the file where this process may, and where what it says is known.
    fn store(&self, now: &mut Now) {
        if !self.serves || matches!(now.trouble, Some(Trouble::Unreadable(_))) {
            return;
        }
        now.trouble = replace(&self.home.known_file(&self.target), &now.kept).err().map(|error| {
            let (file, target) = (self.shown(), &self.target);
            Trouble::Unwritten(format!(
                "cannot write {file}, which says what releases had and whom archives belonged to: {error}; give config/.known to the account that \
                 runs Blat, with room on its disk; target {target} deletes nothing until then"
            ))
        });
    }

    fn shown(&self) -> String {
        let file = self.home.known_file(&self.target);
        self.home.shown(&file).display().to_string()
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        // Each change is whole in itself: a panic elsewhere does not make it unusable.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Written aside, made durable, renamed. Only one process writes it, so that what lies aside is a leftover.
fn replace(path: &Path, kept: &Kept) -> io::Result<()> {
    let bytes = serde_json::to_vec(kept)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::other(format!("it would be larger than {} MiB; select fewer releases", LARGEST >> 20)));
    }
    let folder = path.parent().ok_or(ErrorKind::InvalidInput)?;
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => File::open(folder.parent().ok_or(ErrorKind::InvalidInput)?)?.sync_all()?,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => private::directory(folder)?,
        Err(error) => return Err(error),
    }
    let aside = path.with_extension("json.tmp");
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests;
