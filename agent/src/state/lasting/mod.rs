//! `config/.known/TARGET.json`: what an agent must not lose, so that nothing is deleted which should stay: which releases and which tags brought
//! packages, whom each archive belonged to that this target has been at, and what the last sync held back, which a confirmation is about.
//!
//! It lies beside the home tree's id and not in `state/`, which may be deleted at any time while Blat is stopped. A file that is missing is that of
//! a new target. One that cannot be read, or not be replaced, holds deletions back until somebody has looked at it. One that was put back may lack
//! what came since: its memory begins anew (see [`tags`]). A copy is known by the file itself, and all else by the archive (see [`visits`]).

mod crossing;
mod tags;
mod visits;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::mem;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use blat_config::replacement::{Outlives, replace};
use blat_config::{Home, trust};
use blat_domain::archive::record::{Found, Owner, Record};
use blat_domain::package::name::{PackageId, TargetName};
use blat_domain::policy::clock::{Anchor, SeenFiles};
use blat_domain::policy::confirmation::HeldBack;
use blat_domain::policy::release::KnownReleases;
use blat_domain::util::text::printable;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use self::crossing::Crossing;
pub(crate) use self::tags::{Noted, TagNotes};
use self::visits::Visits;
use super::memory;

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
    /// Held while the file is read or written, so that the older of two texts never replaces the newer one.
    file: Mutex<()>,
    /// Held for moments only: the disk may be slow.
    now: Mutex<Now>,
    /// What the two lanes have in hand. The file does not have it.
    pub(crate) crossing: Crossing,
}

/// What is remembered, and what is wrong with the file.
#[derive(Debug, Default)]
struct Now {
    kept: Kept,
    /// Whether the file is yet to say so.
    is_ahead: bool,
    trouble: Option<LastingError>,
    visits: Visits,
}

/// Why the file is of no use.
#[derive(Debug)]
enum LastingError {
    /// What it says is not known, so that nothing may be written in its place.
    Unreadable(String),
    /// It says something older.
    Unwritten(String),
}

impl LastingError {
    fn text(&self) -> String {
        match self {
            Self::Unreadable(why) | Self::Unwritten(why) => why.clone(),
        }
    }
}

/// What lies in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// Releases that brought packages.
    releases: Releases,
    /// The records of archives, the one that was seen last at the end.
    archives: Vec<SeenRecord>,
    /// Packages that tags brought, with the epoch second of the master's clock; none in a file of a former version, which kept them in `state/`.
    tags: Option<BTreeMap<PackageId, i64>>,
    /// The epoch second since when it is known what tags bring, where that was not always so.
    began: Option<i64>,
    /// Files of releases that were seen, so that what tags brought after that never counts as older than they are.
    #[serde(default, skip_serializing_if = "SeenFiles::is_empty")]
    files: SeenFiles,
    /// Numbers that were left in the archives, the last one at the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    visits: Vec<String>,
    /// What the times of `tags`, `began` and `files` were noted down by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clock: Option<Anchor>,
    /// The time of a file of releases that lay ahead of the clock, or was set ahead, when it was seen, in epoch seconds.
    ahead: Option<i64>,
    /// What status shows as held back.
    #[serde(default, skip_serializing_if = "HeldBack::is_empty")]
    held_back: HeldBack,
    /// Which file this is.
    born: Option<Born>,
}

/// Tells the file that was written here from a copy of it, as far as the file system tells when a file was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Born {
    inode: u64,
    /// Nanoseconds since the epoch.
    at: Option<u64>,
}

impl Born {
    fn of(file: &File) -> io::Result<Self> {
        let found = file.metadata()?;
        let at = found.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        Ok(Self { inode: found.ino(), at: at.and_then(|at| at.as_nanos().try_into().ok()) })
    }
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
    /// The inode of the archive's directory, where the target told it. Its device may have another number after each start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    directory: Option<u64>,
}

impl Kept {
    fn archive_at(&self, place: &str) -> Option<&SeenRecord> {
        self.archives.iter().rev().find(|seen| seen.place == place)
    }
}

/// What a former version kept of it in `state/TARGET/memory.json`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct FormerMemory {
    releases: Releases,
    archives: Vec<SeenRecord>,
    tagged: BTreeMap<PackageId, i64>,
}

impl LastingMemory {
    /// What this target remembers. `serves`: whether this process holds the target's lock. Who only looks changes no file.
    pub(crate) fn load(home: &Home, target: &TargetName, serves: bool) -> Self {
        let (home, target) = (home.clone(), target.clone());
        let memory =
            Self { home, target, serves, file: Mutex::default(), now: Mutex::default(), crossing: Crossing::default() };
        memory.load_again();
        memory
    }

    /// Why nothing may be deleted by what is remembered, and what to do. Looks again where something was wrong, and writes what is not yet written.
    pub(crate) fn trouble(&self) -> Option<String> {
        let _file = self.lock_file();
        self.settle();
        self.lock().trouble.as_ref().map(LastingError::text)
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

    /// What the last sync that came to decide about it held back: what an operator confirms.
    pub(crate) fn held_back(&self) -> HeldBack {
        self.lock().kept.held_back.clone()
    }

    /// A sync has held this back, and status shows it.
    pub(crate) fn note_held_back(&self, held_back: &HeldBack) {
        if let Err(why) = self.change(|kept| kept.held_back.clone_from(held_back)) {
            tracing::warn!(target_name = %self.target, "cannot note down what is held back: {why}");
        }
    }

    /// The record that was last seen in the archive at this place.
    ///
    /// # Errors
    /// Why nobody knows it.
    pub(crate) fn archive(&self, place: &str) -> Result<Option<Record>, String> {
        let now = self.lock();
        match (now.kept.archive_at(place), &now.trouble) {
            (None, Some(LastingError::Unreadable(why))) => Err(why.clone()),
            (seen, _) => Ok(seen.and_then(|seen| Record::parse(&seen.record))),
        }
    }

    /// The inode of the directory that the archive at this place was when its record was seen last, as far as that is known.
    pub(crate) fn directory(&self, place: &str) -> Option<u64> {
        self.lock().kept.archive_at(place)?.directory
    }

    /// Whether an archive with this record was seen at any place.
    pub(crate) fn knows(&self, record: &Record) -> bool {
        let record = record.render();
        self.lock().kept.archives.iter().any(|seen| seen.record == record)
    }

    /// The archive of somebody else that was seen last, and its place.
    pub(crate) fn archive_of_another(&self, mine: &Owner) -> Option<(String, Record)> {
        let now = self.lock();
        let seen = now.kept.archives.iter().rev().filter_map(|seen| Some((&seen.place, Record::parse(&seen.record)?)));
        let mut others = seen.filter(|(_, record)| record.owner != *mine);
        others.next().map(|(place, record)| (place.clone(), record))
    }

    /// The archive at this place, which is the directory of this inode, has this record. `begins`: and what tags brought to it until now, up to
    /// this visit, is not known; what was held back until now is nothing that anybody may confirm.
    pub(crate) fn note_archive(&self, place: &str, directory: Option<u64>, record: &Record, begins: Option<&Found>) {
        let noted = self.change(|kept| {
            if let Some(visit) = begins {
                kept.began = Some(Timestamp::now().as_second());
                kept.held_back = HeldBack::default();
                if let Found::Record(visit) = visit {
                    kept.note_visit(&visit.archive);
                }
            }
            kept.archives.retain(|seen| seen.place != place);
            kept.archives.push(SeenRecord { place: place.to_owned(), record: record.render(), directory });
            let surplus = kept.archives.len().saturating_sub(MOST_ARCHIVES);
            kept.archives.drain(..surplus);
        });
        if let Err(why) = noted {
            tracing::warn!(target_name = %self.target, "cannot note down whom the archive belongs to: {why}");
        }
    }

    fn change(&self, change: impl FnOnce(&mut Kept)) -> Result<(), String> {
        let _file = self.lock_file();
        {
            let mut now = self.lock_by_clock();
            let before = now.kept.clone();
            change(&mut now.kept);
            now.is_ahead |= now.kept != before;
        }
        self.store();
        self.lock().trouble.as_ref().map_or(Ok(()), |trouble| Err(trouble.text()))
    }

    /// Reads the file again where it could not be read, and writes what it does not say. The file is locked.
    fn settle(&self) {
        let is_unreadable = matches!(self.lock().trouble, Some(LastingError::Unreadable(_)));
        if is_unreadable {
            self.load_again();
        }
        self.store();
    }

    fn load_again(&self) {
        let read = self.read();
        // What was read has followed the clock, too.
        let mut now = self.lock_by_clock();
        match read {
            Ok((mut kept, is_as_written)) => {
                // What tags brought, and which releases were there, while it could not be read.
                let Kept { tags, ahead, files, .. } = mem::take(&mut now.kept);
                let brought = tags.unwrap_or_default();
                let is_ahead = !is_as_written || !brought.is_empty() || ahead.is_some();
                kept.tags.get_or_insert_default().extend(brought);
                kept.ahead = ahead.or(kept.ahead);
                kept.files.add_all(files);
                (now.kept, now.is_ahead, now.trouble) = (kept, is_ahead, None);
            }
            Err(why) => {
                let file = self.shown();
                let text = format!(
                    "cannot use {file}: {why}; correct that, or restore the file from a backup. It says what releases had, what tags brought and whom \
                     archives belonged to; once it is removed, target {} counts as new, and releases that are missing or empty by then are not missed",
                    self.target
                );
                now.trouble = Some(LastingError::Unreadable(text));
            }
        }
        drop(now);
        self.store();
    }

    /// What the file says, and whether it is as this version wrote it; nothing where there is none.
    fn read(&self) -> Result<(Kept, bool), String> {
        let file = match trust::open(self.home.root(), &self.home.known_file(&self.target)) {
            Ok(file) => file,
            Err(distrust) if distrust.is_absence() => {
                let FormerMemory { releases, archives, tagged } = self.former();
                let is_new = tagged.is_empty() && archives.is_empty() && releases == Releases::default();
                return Ok((Kept { releases, archives, tags: Some(tagged), ..Kept::default() }, is_new));
            }
            Err(distrust) => return Err(distrust.to_string()),
        };
        let born = Born::of(&file).map_err(|error| error.to_string())?;
        let text = trust::text(file, LARGEST).map_err(|distrust| distrust.to_string())?;
        let damaged = |why: &str| format!("it is damaged: {}", printable(why));
        let mut kept: Kept = serde_json::from_str(&text).map_err(|error| damaged(&error.to_string()))?;
        if let Some(seen) = kept.archives.iter().find(|seen| Record::parse(&seen.record).is_none()) {
            return Err(damaged(&format!("the record of {} is none", seen.place)));
        }
        let is_as_written = kept.born == Some(born);
        kept.follow(memory::anchor());
        match kept.born {
            Some(_) if is_as_written => {}
            // A copy, which may be older than the last tags.
            Some(_) => kept.began = Some(Timestamp::now().as_second()),
            None => kept.tags = kept.tags.or_else(|| Some(self.former().tagged)),
        }
        Ok((kept, is_as_written))
    }

    /// What a former version noted down elsewhere; nothing where that is missing or another program's.
    fn former(&self) -> FormerMemory {
        let bytes = fs::read(self.home.target_state_dir(&self.target).join(memory::FILE)).unwrap_or_default();
        let mut former: FormerMemory = serde_json::from_slice(&bytes).unwrap_or_default();
        former.archives.retain(|seen| Record::parse(&seen.record).is_some());
        former
    }

    /// Replaces the file where it is to say something else, where this process may, and where what it says is known. The file is locked.
    fn store(&self) {
        let mut kept = {
            let mut now = self.lock();
            if !self.serves || !now.is_ahead || matches!(now.trouble, Some(LastingError::Unreadable(_))) {
                return;
            }
            now.is_ahead = false;
            now.kept.clone()
        };
        let trouble = store(&self.home.known_file(&self.target), &mut kept).err().map(|error| {
            let (file, target) = (self.shown(), &self.target);
            LastingError::Unwritten(format!(
                "cannot write {file}, which says what releases had, what tags brought and whom archives belonged to: {error}; give config/.known to \
                 the account that runs Blat, with room on its disk; target {target} deletes nothing until then, and its tags stay"
            ))
        });
        let mut now = self.lock();
        now.is_ahead |= trouble.is_some();
        now.trouble = trouble;
    }

    fn shown(&self) -> String {
        let file = self.home.known_file(&self.target);
        self.home.shown(&file).display().to_string()
    }

    fn lock_file(&self) -> MutexGuard<'_, ()> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        // Each change is whole in itself: a panic elsewhere does not make it unusable.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the memory down; the file itself stands in it, so that a copy is known as one.
fn store(path: &Path, kept: &mut Kept) -> io::Result<()> {
    replace(path, Outlives::PowerCut, |file| {
        kept.born = Some(Born::of(file)?);
        let bytes = serde_json::to_vec(kept)?;
        if bytes.len() as u64 > LARGEST {
            return Err(io::Error::other(format!(
                "it would be larger than {} MiB; select fewer releases",
                LARGEST >> 20
            )));
        }
        file.write_all(&bytes)
    })
}

#[cfg(test)]
mod tests;
