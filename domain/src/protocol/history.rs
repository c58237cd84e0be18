//! What was done to a target, one JSON object a line in `state/history/TARGET.jsonl`: written by its agent, read by `blat history`
//! and `blat why`.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::package::name::PackageId;

/// The longest line that a reader accepts, in bytes.
pub const LONGEST_LINE: usize = 64 << 10;

/// One thing that was done, or could not be done, to one package or to the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// When it was done.
    pub at: Timestamp,
    /// What.
    pub deed: Operation,
    /// To which package; none where it concerns the whole archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<PackageId>,
    /// How many bytes were sent, unpacked.
    #[serde(default)]
    pub bytes: u64,
    /// How long after the tag that asked for it was dropped, in milliseconds; none where no tag did.
    #[serde(default)]
    pub after_tag_ms: Option<u64>,
    /// Where a link leads, or why it failed.
    #[serde(default)]
    pub detail: Option<String>,
}

/// What can be done to a package, or to an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// It was published where none was.
    Sent,
    /// It was published in the place of one with another `descpkg` time.
    Replaced,
    /// It was sent again because somebody asked for a repair.
    Repaired,
    /// It was made a symbolic link, or one that leads elsewhere.
    Linked,
    /// It could not be sent or linked.
    Failed,
    /// It was marked for deletion.
    Marked,
    /// Its mark was taken away, since it is wanted again.
    Unmarked,
    /// It was deleted.
    Deleted,
    /// The archive belongs to this target from then on.
    Adopted,
    /// A tag asked for it, and it was there already.
    Kept,
}

impl Operation {
    /// Whether the package is on the target by it.
    pub fn is_publication(self) -> bool {
        match self {
            Self::Sent | Self::Replaced | Self::Repaired | Self::Linked | Self::Kept => true,
            Self::Failed | Self::Marked | Self::Unmarked | Self::Deleted | Self::Adopted => false,
        }
    }

    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Replaced => "replaced",
            Self::Repaired => "repaired",
            Self::Linked => "linked",
            Self::Failed => "failed",
            Self::Marked => "marked",
            Self::Unmarked => "unmarked",
            Self::Deleted => "deleted",
            Self::Adopted => "adopted",
            Self::Kept => "kept",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// One line of the file; none for one that is torn, as a machine that lost its power leaves it, or from a later version of Blat.
pub fn parse(line: &[u8]) -> Option<HistoryEntry> {
    (line.len() <= LONGEST_LINE).then(|| serde_json::from_slice(line).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_every_version_stay_readable_and_torn_ones_are_none() {
        let first = br#"{"at":"2026-11-21T08:00:12Z","deed":"sent","package":"core@1.2","bytes":7,"after_tag_ms":143,"detail":null}"#;
        let entry = parse(first).expect("an entry");
        assert_eq!((entry.deed, entry.after_tag_ms), (Operation::Sent, Some(143)));
        assert_eq!(serde_json::to_vec(&entry).expect("JSON"), first);
        let least = br#"{"at":"2026-11-21T08:00:12Z","deed":"deleted","package":"core@1.2","more":[1]}"#;
        assert_eq!(parse(least).map(|entry| entry.deed), Some(Operation::Deleted));
        for torn in [&first[..40], b"", b"\0\0\0", br#"{"at":"2026-11-21T08:00:12Z","deed":"sung","package":"a@1"}"#] {
            assert_eq!(parse(torn), None);
        }
    }
}
