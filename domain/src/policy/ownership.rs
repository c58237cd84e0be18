//! One archive, one owner: who may list, mark and delete in it. Everybody may send packages; only the owner replaces the PackageList, marks and
//! deletes, and only while the record ([`crate::archive::record`]) is the one that it planned by.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::archive::record::{FILE, Found, Owner, Record};
use crate::package::name::TargetName;

/// Why a target must not be listed, and nothing on it marked or deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bar {
    /// The archive belongs to another target or another home tree.
    Other {
        /// Its owner's home tree.
        home: String,
        /// Its owner's target.
        owner: String,
        /// Ours.
        target: TargetName,
        /// Whether the owner is a target of this same home tree.
        is_ours: bool,
    },
    /// Nobody knows whom the archive belongs to.
    Unknown {
        /// Why not.
        why: String,
        /// Our target.
        target: TargetName,
    },
    /// Nobody knows whether the archive is the source itself.
    Unsure {
        /// Why not, and what to do.
        why: String,
    },
}

impl Bar {
    /// Whether the archive may belong to somebody else, who alone replaces what is there.
    pub fn is_about_owner(&self) -> bool {
        match self {
            Self::Other { .. } | Self::Unknown { .. } => true,
            Self::Unsure { .. } => false,
        }
    }

    /// What is wrong, without what follows from it.
    pub fn cause(&self) -> String {
        match self {
            Self::Other { home, owner, target, is_ours } => {
                let home = if *is_ours { "this home tree".to_owned() } else { format!("another home tree, {home}") };
                format!(
                    "the archive belongs to target {owner} of {home}; if it should belong to {target}, run `blat adopt {target}`"
                )
            }
            Self::Unknown { why, target } => format!(
                "nobody knows whom the archive belongs to: its file .dpkg_archive/{FILE} cannot be used: {why}; look at it, then run `blat adopt {target}`"
            ),
            Self::Unsure { why } => format!("nobody knows whether the archive is the source itself: {why}"),
        }
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the PackageList is not replaced, and nothing is marked or deleted: {}", self.cause())
    }
}

/// What keeps `mine` from listing, marking and deleting; nothing where the archive is its own. One that nobody has claimed is nobody's yet.
pub fn judge(mine: &Owner, found: &Found) -> Option<Bar> {
    let target = mine.target.clone();
    match found {
        Found::Record(record) if record.owner == *mine => None,
        Found::Record(Record { owner, .. }) => Some(Bar::Other {
            home: owner.home.to_string(),
            owner: owner.target.to_string(),
            target,
            is_ours: owner.home == mine.home,
        }),
        Found::Malformed(why) => Some(Bar::Unknown { why: why.clone(), target }),
        Found::Nothing => Some(Bar::Unknown { why: "it is not there".to_owned(), target }),
    }
}

#[cfg(test)]
mod tests;
