//! When the agent first saw the tags that lie in the directory: from then on each waits for a day, also over restarts. A tag's own times
//! say nothing of it, since a copy or a move keeps them.
//!
//! Only tags that stay for a while are written down, so that one which is served at once costs no file.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use blat_config::replacement::{Outlives, replace_json};
use blat_domain::policy::clock::Anchor;
use jiff::Timestamp;
use serde::Deserialize;

use crate::session::TagStamp;
use crate::state::memory;

/// The file's name in the target's part of `state/`.
pub(crate) const FILE: &str = "tags.json";
/// What is new is written down after this time.
const WRITTEN_AFTER: Duration = Duration::from_secs(10);
/// The largest file that is read, in bytes.
const LARGEST: u64 = 16 << 20;

/// The most tags of which it is kept; of others it is when they were dropped.
const MOST: usize = 50_000;

/// One target's tags.
#[derive(Debug)]
pub(super) struct FirstSeen {
    path: PathBuf,
    /// The epoch second, and whether the look under way has found it.
    seen: HashMap<TagStamp, (i64, bool)>,
    /// What these times were noted down by.
    clock: Anchor,
    changed: Option<Instant>,
    complained: bool,
}

/// A line of the file: the stamp's parts and the epoch second.
type FirstSeenLine = (u64, u64, (i64, i64), (i64, i64), i64);

/// What lies in the file; one of a former version has the lines alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum FirstSeenFile {
    By(Anchor, Vec<FirstSeenLine>),
    Former(Vec<FirstSeenLine>),
}

impl FirstSeen {
    /// What is kept at `path`; nothing where that is missing or no such file.
    pub(super) fn load(path: PathBuf) -> Self {
        let is_small = fs::metadata(&path).is_ok_and(|metadata| metadata.len() <= LARGEST);
        let bytes = is_small.then(|| fs::read(&path).ok()).flatten();
        let now = memory::anchor();
        let (clock, lines) = match bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            Some(FirstSeenFile::By(clock, lines)) => (clock, lines),
            Some(FirstSeenFile::Former(lines)) => (now.clone(), lines),
            None => (now.clone(), Vec::new()),
        };
        let entry = |(inode, size, modified, changed, at): FirstSeenLine| {
            (TagStamp { inode, size, modified, changed }, (at, false))
        };
        let seen = lines.into_iter().take(MOST).map(entry).collect();
        let mut first_seen = Self { path, seen, clock, changed: None, complained: false };
        first_seen.follow(now);
        first_seen
    }

    /// Has all times follow this machine's clock where it was set, so that no tag waits for less or for more.
    pub(super) fn follow(&mut self, clock: Anchor) {
        let Some(followed) = self.clock.followed(&clock, Timestamp::now().as_second()) else { return };
        self.seen.values_mut().for_each(|(at, _)| *at = followed(*at));
        self.clock = clock;
        self.changed.get_or_insert_with(Instant::now);
    }

    /// How long ago this tag was seen first; it is now where it never was. `now` is the epoch second.
    pub(super) fn ago(&mut self, stamp: TagStamp, now: i64) -> Duration {
        if self.seen.len() >= MOST && !self.seen.contains_key(&stamp) {
            // The time of the last change, which nobody sets at will.
            return Duration::from_secs(u64::try_from(now - stamp.changed.0).unwrap_or(0));
        }
        let (at, found) = self.seen.entry(stamp).or_insert_with(|| {
            self.changed.get_or_insert_with(Instant::now);
            (now, true)
        });
        *found = true;
        // A clock that was set back makes it no less patient.
        Duration::from_secs(u64::try_from(now - *at).unwrap_or(0))
    }

    /// This file is there, whether it counts as a tag yet or not.
    pub(super) fn keep(&mut self, stamp: TagStamp) {
        if let Some((_, found)) = self.seen.get_mut(&stamp) {
            *found = true;
        }
    }

    /// The directory was looked at wholly: what was not found there is forgotten.
    pub(super) fn forget_others(&mut self) {
        let before = self.seen.len();
        self.seen.retain(|_, (_, found)| std::mem::take(found));
        if self.seen.len() < before {
            self.changed.get_or_insert_with(Instant::now);
        }
    }

    /// This tag leaves: if it comes back, it waits anew.
    pub(super) fn forget(&mut self, stamp: TagStamp) {
        if self.seen.remove(&stamp).is_some() {
            self.changed.get_or_insert_with(Instant::now);
        }
    }

    /// When it should be written down, if there is something new.
    pub(super) fn due(&self) -> Option<Instant> {
        self.changed.map(|changed| changed + WRITTEN_AFTER)
    }

    /// Writes it down where something changed.
    pub(super) fn write(&mut self) {
        if self.changed.take().is_none() {
            return;
        }
        let line =
            |(stamp, (at, _)): (&TagStamp, &(i64, bool))| (stamp.inode, stamp.size, stamp.modified, stamp.changed, *at);
        let lines: Vec<FirstSeenLine> = self.seen.iter().map(line).collect();
        if lines.is_empty() && !self.path.exists() {
            return;
        }
        match replace_json(&self.path, Outlives::Process, &(&self.clock, &lines)) {
            Ok(()) => self.complained = false,
            Err(error) if !self.complained => {
                self.complained = true;
                let file = self.path.display();
                tracing::warn!(%file, %error, "cannot write down when tags were first seen; after a restart they wait a day anew");
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_runs_from_the_first_sight_and_goes_on_after_a_restart() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("perth").join(FILE);
        let stamp = |inode| TagStamp { inode, ..TagStamp::default() };
        let mut seen = FirstSeen::load(path.clone());
        assert_eq!(seen.ago(stamp(1), 1_000), Duration::ZERO);
        assert_eq!(seen.ago(stamp(2), 1_000), Duration::ZERO);
        assert_eq!(seen.ago(stamp(1), 1_050), Duration::from_secs(50));
        assert_eq!(seen.ago(stamp(1), 900), Duration::ZERO, "the clock was set back");
        seen.write();

        let mut later = FirstSeen::load(path.clone());
        assert_eq!(later.ago(stamp(1), 87_500), Duration::from_secs(86_500));
        later.forget_others();
        assert_eq!(later.ago(stamp(2), 87_500), Duration::ZERO, "it was gone in between");
        later.forget(stamp(1));
        later.write();
        assert_eq!(FirstSeen::load(path).ago(stamp(1), 90_000), Duration::ZERO);
    }

    #[test]
    fn no_tag_waits_for_less_where_the_clock_was_set_meanwhile() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join(FILE);
        let now = 1_000_000;
        for (by, is_another_start) in [(100_000, false), (-100_000, false), (0, true)] {
            let mut seen = FirstSeen::load(path.clone());
            // It is noted by a clock that was so much behind.
            seen.clock.start -= by;
            seen.ago(TagStamp::default(), now - by);
            if is_another_start {
                seen.clock.boot = "another".into();
            }
            seen.write();
            let ago = FirstSeen::load(path.clone()).ago(TagStamp::default(), now + 10);
            assert_eq!(ago, Duration::from_secs(10), "{by}");
            fs::remove_file(&path).expect("an own file");
        }
        fs::write(&path, "[[0, 0, [0, 0], [0, 0], 400]]").expect("an own file");
        let ago = FirstSeen::load(path).ago(TagStamp::default(), 500);
        assert_eq!(ago, Duration::from_secs(100), "of a former version");
    }

    #[test]
    fn what_is_kept_is_bounded_and_others_wait_since_their_last_change() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join(FILE);
        let mut seen = FirstSeen::load(path.clone());
        let stamp = |inode| TagStamp { inode, changed: (400, 0), ..TagStamp::default() };
        assert!((0..MOST as u64).all(|inode| seen.ago(stamp(inode), 1_000).is_zero()));
        assert_eq!(seen.ago(stamp(MOST as u64), 1_000), Duration::from_secs(600));
        assert_eq!(seen.seen.len(), MOST);
        seen.write();
        let mut later = FirstSeen::load(path);
        assert_eq!(later.ago(stamp(7), 1_100), Duration::from_secs(100), "and is read again wholly");
    }

    #[test]
    fn tags_that_come_and_go_at_once_write_no_file() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join(FILE);
        let mut seen = FirstSeen::load(path.clone());
        seen.ago(TagStamp::default(), 5);
        seen.forget(TagStamp::default());
        seen.write();
        assert!(!path.exists());
    }
}
