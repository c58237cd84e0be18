//! By what a file is known again, whatever way leads to it: so that nobody deletes from an archive what the source has by another name.
//!
//! A mount that is bound elsewhere, an overlay or a network file system shows one file at two places whose directories have nothing in common.
//! What they do have in common is the file's inode and the time at which anything about it changed last, which nobody can set.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a target says of a package that is the source's own.
pub const SAME: &str = "the archive and the source are the same";

/// The inode of a file, and when anything about it changed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The inode's number.
    inode: u64,
    /// Epoch seconds of the change.
    second: i64,
    /// What is beyond them, in 100 ns: the finest that every file server tells.
    ticks: u32,
}

impl Identity {
    /// By what the system says of a file: its inode, and the time of its last change in epoch seconds and nanoseconds.
    pub fn new(inode: u64, second: i64, nanoseconds: u32) -> Self {
        Self { inode, second, ticks: nanoseconds / 100 }
    }

    /// Whether both are of one file. Some file servers and unions show numbers of their own for inodes; then a time that is the same to the last
    /// digit has to do. Others show whole seconds only; then the inode has to be the same.
    pub fn is_same(&self, other: &Self) -> bool {
        let is_coarse = self.ticks == 0 || other.ticks == 0;
        self.second == other.second && if is_coarse { self.inode == other.inode } else { self.ticks == other.ticks }
    }
}

/// `INODE SECOND.TICKS`, as `delete_package` reads it.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}.{:07}", self.inode, self.second, self.ticks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_again_though_its_server_rounds_its_time_or_renumbers_its_inode() {
        let file = Identity::new(7, 100, 123_456_789);
        for same in [(7, 100, 123_456_789), (7, 100, 123_456_700), (7, 100, 0), (900, 100, 123_456_789)] {
            assert!(Identity::new(same.0, same.1, same.2).is_same(&file), "{same:?}");
        }
        for other in [(7, 100, 123_456_889), (7, 101, 123_456_789), (8, 100, 0), (8, 99, 123_456_789)] {
            assert!(!Identity::new(other.0, other.1, other.2).is_same(&file), "{other:?}");
        }
        assert_eq!(file.to_string(), "7 100.1234567");
        assert_eq!(Identity::new(7, -100, 1_000).to_string(), "7 -100.0000010");
    }
}
