//! What an archive says of itself with each listing: whose it is, who worked on it last, and where it is.

use std::fmt::Write as _;

use crate::archive::record::Found;
use crate::util::random_id::RandomId;

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

    /// Whether a file system begins here.
    pub fn is_root_of_file_system(&self) -> bool {
        matches!(self.directories[..], [(here, _), (above, _), ..] if here != above)
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

#[cfg(test)]
mod tests;
