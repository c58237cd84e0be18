//! One archive, one owner: who may list, mark and delete in an archive, and whether it is the source itself.
//!
//! An archive says so in a file of two lines (`ARCHIVE/.dpkg_archive/archive`, in a bucket `PREFIX/.blat/archive`): a random id of the archive,
//! then the owner, `HOME-ID TARGET`. Everybody may send packages; only the owner replaces the PackageList, marks and deletes. What stands in that
//! file comes from strangers: whatever is not exactly that is malformed, and then nobody lists or deletes.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::manifest::hex;
use crate::name::TargetName;
use crate::text::printable;

/// The file's name, among what is Blat's own in an archive.
pub const FILE: &str = "archive";
/// The most of the file that anybody reads, in bytes.
pub const LONGEST: u64 = 4 << 10;
/// The word by which a line of an answer tells what stands in the file.
pub const RECORD: &str = "archive ";
/// The word by which a line of an answer tells which directory the archive is.
pub const PLACE: &str = "place ";
/// The most directories of a [`Place`]: no path leads deeper.
pub const MOST_ABOVE: usize = 2048;
/// The most directories that one line tells.
const A_LINE: usize = 128;
/// The most lines that tell a [`Place`].
pub const PLACE_LINES: usize = MOST_ABOVE / A_LINE;

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
    /// The archive's id.
    pub archive: RandomId,
    /// Its owner.
    pub owner: Owner,
}

impl Record {
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
    /// Where it is.
    pub place: Place,
}

impl Title {
    /// Takes a line `archive …` or `place …`; false where it is another.
    pub fn add_line(&mut self, line: &str) -> bool {
        if let Some(text) = line.strip_prefix(RECORD) {
            self.found = Found::read(text);
        } else if let Some(text) = line.strip_prefix(PLACE) {
            self.place.add(Place::parse(text));
        } else {
            return false;
        }
        true
    }

    /// Whether this archive is the source, by where both are or by the ids that are seen in and above the source.
    pub fn is_source(&self, place: &Place, ids: &[RandomId]) -> bool {
        let has_its_id = match &self.found {
            Found::Record(record) => ids.contains(&record.archive),
            Found::Nothing | Found::Malformed(_) => false,
        };
        has_its_id || self.place.overlaps(place)
    }
}

/// What is to become of an archive's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Claim {
    /// Nothing: it is only looked at. Changes nothing at the target.
    Look,
    /// It is written where there is none.
    First,
    /// Its owner becomes another; a malformed one is replaced.
    Adopt,
    /// It is taken away again, where it is this very one.
    Withdraw,
}

impl Claim {
    /// The word that `receive_file` knows it by.
    pub fn word(self) -> &'static str {
        match self {
            Self::Look => "look",
            Self::First => "first",
            Self::Adopt => "adopt",
            Self::Withdraw => "withdraw",
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
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the PackageList is not replaced, and nothing is marked or deleted: ")?;
        match self {
            Self::Other { home, owner, target, is_ours } => {
                write!(f, "the archive belongs to target {owner} of ")?;
                if *is_ours {
                    f.write_str("this home tree")?
                } else {
                    write!(f, "another home tree, {home}")?
                }
                write!(f, "; if it should belong to {target}, run `blat adopt {target}`")
            }
            Self::Unknown { why, target } => write!(
                f,
                "nobody knows whom the archive belongs to: its file .dpkg_archive/{FILE} cannot be used: {why}; look at it, then run `blat adopt {target}`"
            ),
        }
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
mod tests {
    use super::*;

    fn owner(home: u8, target: &str) -> Owner {
        Owner { home: RandomId::from_random([home; 16]), target: target.parse().expect("a name") }
    }

    fn record(archive: u8, home: u8, target: &str) -> Record {
        Record { archive: RandomId::from_random([archive; 16]), owner: owner(home, target) }
    }

    #[test]
    fn what_is_written_is_read_back_and_whatever_else_is_malformed() {
        let perth = record(0x0a, 2, "perth");
        let text = perth.render();
        assert_eq!(text, format!("{}\n{} perth\n", "0a".repeat(16), "02".repeat(16)));
        assert_eq!(Found::read(&text), Found::Record(perth.clone()));
        assert_eq!(Found::read(&text.replace('\n', " ")), Found::Record(perth), "as a line of an answer has it");
        let id = "ab".repeat(16);
        for bad in [
            "",
            "\n",
            &id,
            &format!("{id}\n{id}"),
            &format!("{id}\n{id} perth x"),
            &format!("{id}\n{id} ../perth"),
            &format!("{}\n{id} perth", id.to_uppercase()),
            &format!("+{}\n{id} perth", &id[1..]),
            &format!("{id}0\n{id} perth"),
        ] {
            assert!(matches!(Found::read(bad), Found::Malformed(_)), "{bad:?}");
        }
        let Found::Malformed(why) = Found::read("\u{1b}[2J") else { panic!("malformed") };
        assert!(!why.contains('\u{1b}'), "{why}");
    }

    #[test]
    fn only_the_very_owner_may_list_and_delete() {
        let mine = owner(1, "perth");
        assert_eq!(judge(&mine, &Found::Record(record(9, 1, "perth"))), None);
        for (found, says) in [
            (Found::Record(record(9, 1, "oslo")), "target oslo of this home tree"),
            (Found::Record(record(9, 2, "perth")), "target perth of another home tree, 0202"),
            (Found::Malformed("it is empty".into()), "it is empty"),
            (Found::Nothing, "not there"),
        ] {
            let bar = judge(&mine, &found).expect("a bar").to_string();
            assert!(bar.contains(says) && bar.contains("blat adopt perth"), "{bar}");
        }
    }

    #[test]
    fn an_archive_is_the_source_by_its_place_or_by_its_id_and_never_by_what_nobody_knows() {
        let place = |boot: &str, inodes: &[u64]| Place {
            boot: boot.to_owned(),
            directories: inodes.iter().map(|inode| (7, *inode)).collect(),
        };
        let title = |place| Title { found: Found::Record(record(9, 1, "perth")), place };
        let source = place("b", &[30, 20, 2]);
        for (there, overlaps) in [
            (place("b", &[30, 20, 2]), true),
            (place("b", &[40, 30, 20, 2]), true),
            (place("b", &[20, 2]), true),
            (place("b", &[31, 20, 2]), false),
            (place("c", &[30, 20, 2]), false),
            (place("", &[30, 20, 2]), false),
            (place("b", &[]), false),
        ] {
            assert_eq!(title(there.clone()).is_source(&source, &[]), overlaps, "{there:?}");
            let mut told = Title::default();
            assert!(there.render().lines().all(|line| told.add_line(line)));
            assert_eq!(told.place, there);
        }
        let unmounted = Place::default();
        assert!(title(unmounted.clone()).is_source(&unmounted, &[RandomId::from_random([9; 16])]));
        assert!(!title(unmounted.clone()).is_source(&unmounted, &[RandomId::from_random([8; 16])]));
    }

    #[test]
    fn a_place_of_any_depth_is_told_whole_and_one_without_a_top_may_lie_in_the_source() {
        let place = |boot: &str, inodes: std::ops::Range<u64>| Place {
            boot: boot.to_owned(),
            directories: inodes.map(|inode| (7, inode)).collect(),
        };
        let told = |there: &Place| {
            let mut title = Title::default();
            let text = there.render();
            assert!(text.lines().count() <= PLACE_LINES);
            assert!(text.lines().all(|line| title.add_line(line) && line.len() < 8192));
            title
        };
        let deep = place("b", 0..MOST_ABOVE as u64 - 1);
        assert_eq!(told(&deep).place, deep);
        assert!(told(&deep).is_source(&place("b", 2000..2001), &[]), "it lies in it, however far down");
        assert!(!told(&deep).is_source(&place("b", 5000..5001), &[]));
        let bottomless = told(&place("b", 0..MOST_ABOVE as u64));
        assert!(bottomless.is_source(&place("b", 5000..5001), &[]));
        assert!(!bottomless.is_source(&place("c", 5000..5001), &[]), "that is another machine");
        let mut mixed = told(&place("b", 0..2));
        assert!(mixed.add_line("place c 9:9"));
        assert_eq!(mixed.place, place("b", 0..2));
    }

    #[test]
    fn lines_that_make_no_sense_say_nothing() {
        let mut title = Title::default();
        assert!(title.add_line("place b 1:2 x 3:4") && title.add_line("archive ? it is no regular file"));
        assert_eq!(title.place, Place { boot: "b".into(), directories: vec![(1, 2)] });
        assert!(matches!(&title.found, Found::Malformed(why) if why.contains("no regular file")));
        assert!(!title.add_line("archives x"));
    }
}
