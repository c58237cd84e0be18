//! Whose an archive is, as it says itself.
//!
//! It does so in a file of two lines (`ARCHIVE/.dpkg_archive/archive`, in a bucket `PREFIX/.blat/archive`): a random id of the archive, then the
//! owner, `HOME-ID TARGET`. Each adoption gives it a new id, so that two adoptions by the same owner differ. What stands in that file comes from
//! strangers: whatever is not exactly that is malformed, and then nobody lists or deletes.
//!
//! Beside it lies another file of that form, [`VISIT`]: whoever works on the archive for its owner leaves a new random number there from time to
//! time and remembers it. A memory that lacks the number that is there has missed what was done since: somebody put an older one back.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::package::name::TargetName;
use crate::util::random_id::RandomId;
use crate::util::text::printable;

/// The file's name, among what is Blat's own in an archive.
pub const FILE: &str = "archive";
/// The name of the file beside it that has the number of the last visit, then the owner who made it. Right after an adoption, the very record.
pub const VISIT: &str = "visit";
/// The most of either file that anybody reads, in bytes.
pub const LONGEST: u64 = 4 << 10;

/// Who may list, mark and delete: one target of one home tree. Written `HOME-ID TARGET`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The home tree's id.
    pub home: RandomId,
    /// The target's name there.
    pub target: TargetName,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.home, self.target)
    }
}

/// What stands in an archive's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The archive's id, which each adoption makes anew.
    pub archive: RandomId,
    /// Its owner.
    pub owner: Owner,
}

impl Record {
    /// How an agent names it to the target: `ID HOME-ID TARGET`.
    pub fn line(&self) -> String {
        format!("{} {}", self.archive, self.owner)
    }

    /// The file's text.
    pub fn render(&self) -> String {
        format!("{}\n{}\n", self.archive, self.owner)
    }

    /// Reads the file's text; none where it is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let archive = words.next()?.parse().ok()?;
        let owner = Owner { home: words.next()?.parse().ok()?, target: words.next()?.parse().ok()? };
        words.next().is_none().then_some(Self { archive, owner })
    }
}

/// What was found in the place of an archive's file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Found {
    /// Nothing: nobody has claimed the archive yet.
    #[default]
    Nothing,
    /// A good record.
    Record(Record),
    /// Something else, or something that cannot be read; the text is fit for printing.
    Malformed(String),
}

impl Found {
    /// What a text from an archive's file comes to.
    pub fn read(text: &str) -> Self {
        match Record::parse(text) {
            Some(record) => Self::Record(record),
            None if text.trim().is_empty() => Self::Malformed("it is empty".to_owned()),
            None => Self::Malformed(format!("it says {:?}", printable(text.trim()))),
        }
    }

    /// The same to a target that has `seen` this record here before. One that is gone leaves the archive with whoever owned it last: whoever may
    /// only send must not become the owner because somebody removed a file, nor because somebody put an older one back. `is_adopted`: an operator
    /// has just said whose it is.
    pub fn after(self, seen: Option<&Record>, mine: &Owner, is_adopted: bool) -> Self {
        let Some(Record { owner, .. }) = seen.filter(|seen| seen.owner != *mine) else { return self };
        match self {
            Self::Nothing => Self::Malformed(format!("it is gone; it belonged to {}", whose(owner, mine))),
            Self::Record(record) if record.owner == *mine && !is_adopted => Self::Malformed(format!(
                "it names this target, and the archive belonged to {} when this target looked last; it is an older one, perhaps from a backup of the \
                 archive",
                whose(owner, mine)
            )),
            found @ (Self::Record(_) | Self::Malformed(_)) => found,
        }
    }

    /// The same to a target that knows nothing of this place, but has seen somebody else's `record` at another one: that may be this archive by
    /// another name.
    pub fn beside(self, place: &str, record: &Record, mine: &Owner) -> Self {
        match self {
            Self::Nothing => Self::Malformed(format!(
                "it is not there, and at \"{}\" this target saw an archive of {}, which may be this one by another name",
                printable(place),
                whose(&record.owner, mine)
            )),
            found @ (Self::Record(_) | Self::Malformed(_)) => found,
        }
    }
}

/// An owner for people, as `mine` sees it.
fn whose(owner: &Owner, mine: &Owner) -> String {
    if owner.home == mine.home {
        format!("target {} of this home tree", owner.target)
    } else {
        format!("target {} of another home tree, {}", owner.target, owner.home)
    }
}

/// What is to become of an archive's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Claim {
    /// Nothing: it is only looked at. Changes nothing at the target.
    Look,
    /// It is written where there is none.
    First,
    /// This takes its place, whatever is there: another owner, and a new id. The file of visits becomes the same.
    Adopt,
    /// It is taken away again, where it is this very one.
    Withdraw,
    /// It stays, and where its owner is this one, this takes the place of the file of visits.
    Visit,
}

impl Claim {
    /// The word that `receive_file` knows it by.
    pub fn word(self) -> &'static str {
        match self {
            Self::Look => "look",
            Self::First => "first",
            Self::Adopt => "adopt",
            Self::Withdraw => "withdraw",
            Self::Visit => "visit",
        }
    }
}

#[cfg(test)]
mod tests;
