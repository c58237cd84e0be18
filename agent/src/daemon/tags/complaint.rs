//! The log lines about the tag directory. Whoever may write there can cause any of them as often as he likes, also one that heals between two
//! times: so each kind has a bound of its own, and what was left out is counted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// In which time [`ComplaintKind::most`] lines of a kind are written.
pub(super) const INTERVAL: Duration = Duration::from_secs(60);

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum ComplaintKind {
    /// The directory cannot be used, or is another one each time.
    Directory,
    /// `bad/` or `failed/` cannot be used.
    Place,
    /// A file can be neither read nor moved.
    File,
    /// A tag cannot be removed.
    Removal,
    /// A file was moved to `bad/` or `failed/`.
    Moved,
    /// A tag is served again, or counts though it may be torn.
    Doubtful,
}

impl ComplaintKind {
    /// The most lines of this kind within [`INTERVAL`].
    fn most(self) -> u32 {
        match self {
            // Each is about another file, and the file's owner may look for it.
            Self::Moved => 100,
            Self::Directory | Self::Place | Self::File | Self::Removal | Self::Doubtful => 10,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Directory => "about the tag directory",
            Self::Place => "about bad/ or failed/",
            Self::File => "about files that can be neither read nor moved",
            Self::Removal => "about tags that cannot be removed",
            Self::Moved => "about files moved to bad/ or failed/",
            Self::Doubtful => "about tags in doubt",
        }
    }
}

/// What was written of one kind since then.
#[derive(Debug)]
struct ComplaintCount {
    since: Instant,
    lines: u32,
    left_out: u64,
}

/// What was written of each kind.
#[derive(Debug, Default)]
pub(super) struct TagComplaints {
    written: HashMap<ComplaintKind, ComplaintCount>,
}

impl TagComplaints {
    /// Writes a line, unless there were enough of its kind.
    pub(super) fn say(&mut self, kind: ComplaintKind, now: Instant, text: &str) {
        if self.admits(kind, now) {
            tracing::warn!("{text}");
        }
    }

    /// Whether one more line of this kind may be written; else it is counted.
    fn admits(&mut self, kind: ComplaintKind, now: Instant) -> bool {
        self.flush(now);
        let written = self.written.entry(kind).or_insert(ComplaintCount { since: now, lines: 0, left_out: 0 });
        let admits = written.lines < kind.most();
        if admits {
            written.lines += 1;
        } else {
            written.left_out += 1;
        }
        admits
    }

    /// When it is to be said that lines were left out.
    pub(super) fn due(&self) -> Option<Instant> {
        self.written.values().filter(|written| written.left_out > 0).map(|written| written.since + INTERVAL).min()
    }

    /// Says how many lines were left out of the intervals that are over.
    pub(super) fn flush(&mut self, now: Instant) {
        self.written.retain(|kind, written| {
            let is_over = now.saturating_duration_since(written.since) >= INTERVAL;
            if is_over && written.left_out > 0 {
                let (count, about) = (written.left_out, kind.name());
                tracing::warn!("{count} more lines {about} were left out within {} s", INTERVAL.as_secs());
            }
            !is_over
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_and_goes_costs_some_lines_an_interval_and_is_counted() {
        let (mut complaints, start) = (TagComplaints::default(), Instant::now());
        let admitted = |complaints: &mut TagComplaints, kind, now, times| {
            (0..times).filter(|_| complaints.admits(kind, now)).count()
        };
        assert_eq!(admitted(&mut complaints, ComplaintKind::Directory, start, 28_200), 10);
        assert_eq!(admitted(&mut complaints, ComplaintKind::Moved, start, 28_200), 100, "each kind has its own");
        assert_eq!(complaints.due(), Some(start + INTERVAL));
        assert_eq!(complaints.written[&ComplaintKind::Directory].left_out, 28_190);
        let later = start + INTERVAL;
        assert_eq!(admitted(&mut complaints, ComplaintKind::Directory, later, 5), 5);
        assert_eq!(complaints.due(), None, "what was left out was said");
        complaints.flush(later + INTERVAL);
        assert!(complaints.written.is_empty());
    }
}
