//! One archive, one owner: who may list, mark and delete in an archive, and whether it is the source itself.
//!
//! An archive says so in a file of two lines (`ARCHIVE/.dpkg_archive/archive`, in a bucket `PREFIX/.blat/archive`): a random id of the archive,
//! then the owner, `HOME-ID TARGET`. Each adoption gives it a new id, so that two adoptions by the same owner differ. Everybody may send packages;
//! only the owner replaces the PackageList, marks and deletes, and only while the record is the one that it planned by. What stands in that
//! file comes from strangers: whatever is not exactly that is malformed, and then nobody lists or deletes.
//!
//! Beside it lies another file of that form, [`VISIT`]: whoever works on the archive for its owner leaves a new random number there from time to
//! time and remembers it. A memory that lacks the number that is there has missed what was done since: somebody put an older one back.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::manifest::hex;
use crate::name::TargetName;
use crate::text::printable;

/// The file's name, among what is Blat's own in an archive.
pub const FILE: &str = "archive";
/// The name of the file beside it that has the number of the last visit, then the owner who made it. Right after an adoption, the very record.
pub const VISIT: &str = "visit";
/// The most of either file that anybody reads, in bytes.
pub const LONGEST: u64 = 4 << 10;
/// The word by which a line of an answer tells what stands in the file.
pub const RECORD: &str = "archive ";
/// The word by which a line of an answer tells what stands in the file of visits.
pub const LAST_VISIT: &str = "visit ";
/// The word by which a line of an answer tells which directory the archive is.
pub const PLACE: &str = "place ";
/// The most directories of a [`Place`]: no path leads deeper.
pub const MOST_ABOVE: usize = 2048;
/// The most directories that one line tells.
const A_LINE: usize = 128;
/// The most lines of a [`Title`].
pub const TITLE_LINES: usize = 2 + MOST_ABOVE / A_LINE;

/// A random id of 128 bits: of an archive, or of a home tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RandomId([u8; 16]);

impl RandomId {
    /// An id from 16 random bytes.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for RandomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for RandomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not 32 hexadecimal digits in lower case")]
pub struct NotAnId;

impl FromStr for RandomId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(NotAnId),
        };
        let mut id = [0; 16];
        if text.len() != 2 * id.len() {
            return Err(NotAnId);
        }
        for (place, pair) in id.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *place = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(id))
    }
}

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

/// Which directory of which running system an archive is: by this, an archive on the master's own machine is told from the source before
/// anything is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The id of the system's present run; empty where it has none.
    pub boot: String,
    /// Device and inode of the directory, then of those above it.
    pub directories: Vec<(u64, u64)>,
}

impl Place {
    /// The lines of an answer: `place BOOT-ID DEVICE:INODE …`, as many as it takes.
    pub fn render(&self) -> String {
        let boot = if self.boot.is_empty() { "-" } else { &self.boot };
        let mut text = String::new();
        let mut rest = &self.directories[..];
        loop {
            let (line, more) = rest.split_at(rest.len().min(A_LINE));
            text.extend([PLACE, boot]);
            for (device, inode) in line {
                // Writing to a String cannot fail.
                let _ = write!(text, " {device}:{inode}");
            }
            text.push('\n');
            if more.is_empty() {
                return text;
            }
            rest = more;
        }
    }

    /// The inode of the directory itself.
    pub fn inode(&self) -> Option<u64> {
        self.directories.first().map(|(_, inode)| *inode)
    }

    /// Takes what another line goes on with.
    fn add(&mut self, more: Self) {
        if self.directories.is_empty() {
            *self = more;
        } else if self.boot == more.boot {
            self.directories.extend(more.directories);
            self.directories.truncate(MOST_ABOVE);
        }
    }

    /// Reads the same. What makes no sense says nothing.
    fn parse(text: &str) -> Self {
        let mut words = text.split(' ');
        let boot = words.next().filter(|boot| *boot != "-").unwrap_or_default().to_owned();
        let pair = |word: &str| {
            let (device, inode) = word.split_once(':')?;
            Some((device.parse().ok()?, inode.parse().ok()?))
        };
        Self { boot, directories: words.take(MOST_ABOVE).map_while(pair).collect() }
    }

    /// Whether one of the two directories is the other, or lies in it. One that lies so deep that nobody saw its top may lie in any.
    pub fn overlaps(&self, other: &Self) -> bool {
        let is_in = |inner: &Self, outer: &Self| {
            inner.directories.len() >= MOST_ABOVE
                || outer.directories.first().is_some_and(|directory| inner.directories.contains(directory))
        };
        !self.boot.is_empty() && self.boot == other.boot && (is_in(self, other) || is_in(other, self))
    }
}

/// What a target says of itself with each listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Title {
    /// What stands in its file.
    pub found: Found,
    /// What stands in the file beside it, as a record whose id is the number of the last visit.
    pub visit: Found,
    /// Where it is.
    pub place: Place,
}

impl Title {
    /// Takes a line `archive …`, `visit …` or `place …`; false where it is another.
    pub fn add_line(&mut self, line: &str) -> bool {
        if let Some(text) = line.strip_prefix(RECORD) {
            self.found = Found::read(text);
        } else if let Some(text) = line.strip_prefix(LAST_VISIT) {
            self.visit = Found::read(text);
        } else if let Some(text) = line.strip_prefix(PLACE) {
            self.place.add(Place::parse(text));
        } else {
            return false;
        }
        true
    }

    /// Whether its owner has adopted it, and nobody has worked on it since.
    pub fn is_adopted(&self) -> bool {
        self.visit == self.found && self.found != Found::Nothing
    }

    /// Whether this archive is the source, and by what: by where both are, or by the ids that are seen in and above the source.
    pub fn likeness(&self, place: &Place, ids: &[RandomId]) -> Option<Likeness> {
        if self.place.overlaps(place) {
            return Some(Likeness::Place);
        }
        match &self.found {
            Found::Record(record) if ids.contains(&record.archive) => Some(Likeness::Id(record.archive)),
            Found::Record(_) | Found::Nothing | Found::Malformed(_) => None,
        }
    }
}

/// By what an archive is taken for the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Likeness {
    /// They are the same directory, or one lies in the other.
    Place,
    /// Their records have the same id, which a copy has as well.
    Id(RandomId),
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
